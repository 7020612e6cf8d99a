#version 450
// y = (x - mean) * rstd * w + b, biased variance about the mean
#extension GL_GOOGLE_include_directive : require
#define PUSH                                                                                                           \
    uint cols;                                                                                                         \
    float eps;
#include "op.glsl"
#include "reduce.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) readonly buffer W { float w[]; };
layout(std430, set = 0, binding = 3) readonly buffer B { float b[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Y { float y[]; };
layout(std430, set = 0, binding = 5) writeonly buffer Mean { float mean[]; };
layout(std430, set = 0, binding = 6) writeonly buffer Rstd { float rstd[]; };

void main()
{
    uint rows = live_rows();
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint at = row * pc.cols;
        float sum = 0.0, square = 0.0;
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            sum += x[AT(1) + at + i];
        float middle = group_sum(sum) / float(pc.cols);
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x) {
            float d = x[AT(1) + at + i] - middle;
            square += d * d;
        }
        float scale = 1.0 / sqrt(group_sum(square) / float(pc.cols) + pc.eps);
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x)
            y[AT(4) + at + i] = (x[AT(1) + at + i] - middle) * scale * w[AT(2) + i] + b[AT(3) + i];
        if (gl_LocalInvocationID.x == 0) {
            mean[AT(5) + row] = middle;
            rstd[AT(6) + row] = scale;
        }
    }
}
