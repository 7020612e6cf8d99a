#version 450
// Rows of X as f16, two to a word, each row multiplied by a power of two so that its largest number is in [2^14, 2^15):
// nothing overflows, and what becomes 0 is below 2^-38 of the row's largest.  units: what undoes it.
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols, words; // elements of a row, words of a row of f16; what is behind the elements becomes 0
#include "op.glsl"
#include "half.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Y { uint y[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Units { float units[]; };

shared uint largest[gl_WorkGroupSize.x]; // of each invocation, then of the row

float power_of_two(int n)
{
    return uintBitsToFloat(uint(n + 127) << 23);
}

void main()
{
    uint rows = live_rows();
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint at = AT(1) + row * pc.cols, most = 0;
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            most = max(most, floatBitsToUint(x[at + i]) & 0x7fffffff);
        largest[gl_LocalInvocationID.x] = most;
        for (uint width = gl_WorkGroupSize.x / 2; width > 0; width /= 2) {
            barrier();
            if (gl_LocalInvocationID.x < width)
                largest[gl_LocalInvocationID.x] =
                    max(largest[gl_LocalInvocationID.x], largest[gl_LocalInvocationID.x + width]);
        }
        barrier();
        most = largest[0];
        bool plain = most == 0 || most >= 0x7f800000; // NaN and infinity stay what they are
        int n = plain ? 0 : min(141 - int(most >> 23), 126);
        float factor = power_of_two(n);
        for (uint i = gl_LocalInvocationID.x; i < pc.words; i += gl_WorkGroupSize.x) {
            uint low = half_bits(x[at + 2 * i] * factor);
            uint high = 2 * i + 1 < pc.cols ? half_bits(x[at + 2 * i + 1] * factor) : 0;
            y[AT(2) + row * pc.words + i] = low | (high << 16);
        }
        if (gl_LocalInvocationID.x == 0)
            units[AT(3) + row] = power_of_two(-n);
        barrier(); // largest has been read
    }
}
