#version 450
// g = dy * w'; dx = rstd * (g - x * rstd^2 * mean(g * x))
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols, plus_one;
#include "op.glsl"
#include "reduce.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Dy { float dy[]; };
layout(std430, set = 0, binding = 2) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 3) readonly buffer W { float w[]; };
layout(std430, set = 0, binding = 4) readonly buffer Rstd { float rstd[]; };
layout(std430, set = 0, binding = 5) writeonly buffer Dx { float dx[]; };

float grad(uint row, uint i)
{
    return dy[AT(1) + row * pc.cols + i] * (w[AT(3) + i] + float(pc.plus_one));
}

void main()
{
    uint rows = live_rows();
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint at = row * pc.cols;
        float sum = 0.0, scale = rstd[AT(4) + row];
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            sum += grad(row, i) * x[AT(2) + at + i];
        float pull = scale * scale * (group_sum(sum) / float(pc.cols));
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            dx[AT(5) + at + i] = scale * (grad(row, i) - x[AT(2) + at + i] * pull);
    }
}
