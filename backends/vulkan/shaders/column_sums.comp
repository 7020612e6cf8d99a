#version 450
// sums[c] += over the rows in order: dy (MODE 0), dy * x * rstd (1: RMSNorm's dw), dy * (x - mean) * rstd (2:
// LayerNorm's).  An invocation sums one column.
#extension GL_GOOGLE_include_directive : require
layout(constant_id = 1) const uint MODE = 0;
#define PUSH uint cols;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Dy { float dy[]; };
layout(std430, set = 0, binding = 2) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 3) readonly buffer Mean { float mean[]; };
layout(std430, set = 0, binding = 4) readonly buffer Rstd { float rstd[]; };
layout(std430, set = 0, binding = 5) buffer Sums { float sums[]; };

void main()
{
    uint c = gl_GlobalInvocationID.x, rows = live_rows();
    if (c >= pc.cols)
        return;
    float sum = 0.0;
    for (uint row = 0; row < rows; row++) {
        float g = dy[AT(1) + row * pc.cols + c];
        if (MODE == 1)
            g *= x[AT(2) + row * pc.cols + c] * rstd[AT(4) + row];
        if (MODE == 2)
            g *= (x[AT(2) + row * pc.cols + c] - mean[AT(3) + row]) * rstd[AT(4) + row];
        sum += g;
    }
    sums[AT(5) + c] += sum;
}
