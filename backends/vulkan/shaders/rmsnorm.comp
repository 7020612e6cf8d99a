#version 450
// y = x * rstd * w', rstd = 1 / sqrt(mean(x^2) + eps); w' = w, or 1 + w
#extension GL_GOOGLE_include_directive : require
#define PUSH                                                                                                           \
    uint cols, plus_one;                                                                                               \
    float eps;
#include "op.glsl"
#include "reduce.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) readonly buffer W { float w[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Y { float y[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Rstd { float rstd[]; };

void main()
{
    uint rows = live_rows();
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint at = row * pc.cols;
        float sum = 0.0;
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            sum += x[AT(1) + at + i] * x[AT(1) + at + i];
        float scale = 1.0 / sqrt(group_sum(sum) / float(pc.cols) + pc.eps);
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            y[AT(3) + at + i] = x[AT(1) + at + i] * scale * (w[AT(2) + i] + float(pc.plus_one));
        if (gl_LocalInvocationID.x == 0)
            rstd[AT(4) + row] = scale;
    }
}
