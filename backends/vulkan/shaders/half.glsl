// f16 by integers: to the nearest, ties to even.  Finite numbers above 65504 become 65504; infinity and NaN stay.
uint half_bits(float x)
{
    uint bits = floatBitsToUint(x), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
    if (size >= 0x7f800000)
        return sign | (size > 0x7f800000 ? 0x7e00 : 0x7c00);
    if (size >= 0x477fe000)
        return sign | 0x7bff;
    if (size >= 0x38800000)
        return sign | ((size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13);
    return sign | uint(roundEven(uintBitsToFloat(size) * 16777216.0)); // subnormal: in units of 2^-24
}
