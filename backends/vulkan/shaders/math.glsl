// Functions that the standard leaves less exact than f32 allows.

// e^x within 2 roundings everywhere; the standard's exp loses |x| roundings.  ln 2 in two parts (Cody and Waite), then
// the Taylor series, whose next term is below 6e-9.
float exp_(float x)
{
    float n = round(clamp(x, -104.0, 89.0) * 1.44269504);
    float r = (clamp(x, -104.0, 89.0) - n * 0.693359375) + n * 2.12194440e-4;
    int whole = int(n), half_ = whole / 2;
    float p = 1.0 + r * (1.0 + r * (1.0 / 2.0 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 +
                                                                                            r / 5040.0))))));
    float y = p * uintBitsToFloat(uint(half_ + 127) << 23) * uintBitsToFloat(uint(whole - half_ + 127) << 23);
    return is_nan(x) ? x : x > 88.722839 ? uintBitsToFloat(0x7f800000) : x < -103.97 ? 0.0 : y;
}

// Stable near 0 and for large arguments.
float tanh_(float x)
{
    float a = abs(x), t = a * a;
    float small = a * (1.0 + t * (-1.0 / 3.0 + t * (2.0 / 15.0 + t * (-17.0 / 315.0 + t * (62.0 / 2835.0)))));
    float y = a < 0.25 ? small : 1.0 - 2.0 / (exp_(2.0 * a) + 1.0);
    return is_nan(x) ? x : x < 0.0 ? -y : y;
}

// log x as a sum of two: the first a multiple of 2^-9, the second at most 0.4, within 2 roundings of that.  x = 2^n m with
// m in [0.7, 1.42), log m = 2 artanh((m - 1) / (m + 1)).
vec2 log_parts(float x)
{
    uint bits = floatBitsToUint(x);
    if (!(x > 0.0) || bits >= 0x7f800000)
        return vec2(0.0, x == 0.0 ? -uintBitsToFloat(0x7f800000) : x < 0.0 ? uintBitsToFloat(0x7fc00000) : x);
    bool small = bits < 0x00800000;
    bits = small ? floatBitsToUint(x * 8388608.0) : bits;
    int n = int((bits + 0x004afb0d) >> 23) - 127; // m from sqrt(1/2)
    precise float m = uintBitsToFloat(bits - uint(n << 23)), f = m - 1.0;
    float whole = float(small ? n - 23 : n), s = f / (2.0 + f), t = s * s;
    float tail = t * (2.0 / 3.0 + t * (2.0 / 5.0 + t * (2.0 / 7.0 + t * (2.0 / 9.0 + t * (2.0 / 11.0)))));
    // 2 artanh(s) = f - s (f - tail), by which f is rounded once only
    precise float rest = f - (s * (f - tail) + whole * 2.12194440e-4);
    return vec2(whole * 0.693359375, rest);
}
