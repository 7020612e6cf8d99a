#version 450
// g = dy * w, n = (x - mean) * rstd; dx = rstd * (g - mean(g) - n * mean(g * n))
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols;
#include "op.glsl"
#include "reduce.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Dy { float dy[]; };
layout(std430, set = 0, binding = 2) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 3) readonly buffer W { float w[]; };
layout(std430, set = 0, binding = 4) readonly buffer Mean { float mean[]; };
layout(std430, set = 0, binding = 5) readonly buffer Rstd { float rstd[]; };
layout(std430, set = 0, binding = 6) writeonly buffer Dx { float dx[]; };

void main()
{
    uint rows = live_rows();
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint at = row * pc.cols;
        float middle = mean[AT(4) + row], scale = rstd[AT(5) + row], sum = 0.0, dot_ = 0.0;
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x) {
            float g = dy[AT(1) + at + i] * w[AT(3) + i];
            sum += g;
            dot_ += g * ((x[AT(2) + at + i] - middle) * scale);
        }
        sum = group_sum(sum) / float(pc.cols);
        dot_ = group_sum(dot_) / float(pc.cols);
        for (uint i = gl_LocalInvocationID.x; i < pc.cols; i += gl_WorkGroupSize.x) {
            float g = dy[AT(1) + at + i] * w[AT(3) + i], n = (x[AT(2) + at + i] - middle) * scale;
            dx[AT(6) + at + i] = scale * (g - sum - n * dot_);
        }
    }
}
