#version 450
// Rows of X as LLM.int8() multiplies them, the bits of lt_int8_quantize_row() (quant/int8.h).  Each becomes a record of
// words: the scale; how many entries are outliers; a bit a column, set for those; codes, four to a word.  Both fill whole
// blocks of 32 columns, with zeros behind the last one.
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols, limit; // limit: bits of the magnitude from which an entry is an outlier
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Records { uint records[]; };

shared uint largest[gl_WorkGroupSize.x], outliers[gl_WorkGroupSize.x]; // of each invocation, then of the row

// To the nearest f16, ties to even: bits of that number in f32.
uint f16_bits(float x)
{
    uint bits = floatBitsToUint(x), sign = bits & 0x80000000, size = bits & 0x7fffffff;
    if (size >= 0x7f800000)
        return bits;
    if (size >= 0x477ff000)
        return sign | 0x7f800000;
    if (size >= 0x38800000)
        return sign | ((size + 0xfff + ((size >> 13) & 1)) & ~0x1fff);
    return sign | floatBitsToUint(roundEven(uintBitsToFloat(size) * 16777216.0) * 5.9604644775390625e-08);
}

// 1 / x to the nearest, which a division on a device need not be.  x: bits of a finite f16 above 0, m * 2^(e - 137).
float reciprocal(uint bits)
{
    uint m = ((bits & 0x7fffff) >> 13) | 1024, e = bits >> 23;
    uint high = 0x80000000u / m, rest = (0x80000000u % m) * 8; // 2^34 / m, 3 bits of it at last
    uint q = high * 8 + rest / m + (2 * (rest % m) > m ? 1 : 0);
    return uintBitsToFloat(((253 - e) << 23) + q - 0x800000);
}

void measure(uint at)
{
    uint self = gl_LocalInvocationID.x, most = 0, count = 0;
    for (uint i = self; i < pc.cols; i += gl_WorkGroupSize.x) {
        uint size = f16_bits(x[at + i]) & 0x7fffffff;
        if (size >= pc.limit)
            count++;
        else
            most = max(most, size);
    }
    largest[self] = most;
    outliers[self] = count;
    for (uint width = gl_WorkGroupSize.x / 2; width > 0; width /= 2) {
        barrier();
        if (self < width) {
            largest[self] = max(largest[self], largest[self + width]);
            outliers[self] += outliers[self + width];
        }
    }
    barrier();
}

void main()
{
    uint rows = live_rows(), blocks = (pc.cols + 31) / 32;
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint at = AT(1) + row * pc.cols, to = AT(2) + row * (2 + 9 * blocks);
        measure(at);
        uint most = largest[0];
        bool plain = most > 0 && most < 0x7f800000;
        precise float factor = plain ? reciprocal(most) * 127.0 : 0.0;
        for (uint block = gl_LocalInvocationID.x; block < blocks; block += gl_WorkGroupSize.x) {
            uint mask = 0, word = 0;
            for (uint e = 0; e < 32; e++) {
                uint col = 32 * block + e, bits = col < pc.cols ? f16_bits(x[at + col]) : 0;
                bool outlier = (bits & 0x7fffffff) >= pc.limit;
                precise float scaled = uintBitsToFloat(bits) * factor;
                int code = outlier || !plain ? 0 : int(roundEven(scaled));
                mask |= outlier ? 1u << e : 0;
                word |= (uint(code) & 255) << (8 * (e & 3));
                if ((e & 3) == 3) {
                    records[to + 2 + blocks + 8 * block + (e >> 2)] = word;
                    word = 0;
                }
            }
            records[to + 2 + block] = mask;
        }
        if (gl_LocalInvocationID.x == 0) {
            records[to] = most;
            records[to + 1] = outliers[0];
        }
        barrier(); // the sums have been read
    }
}
