#version 450
// dx = dy act'(x)
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols, act;
#include "op.glsl"
#include "activation.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Dy { float dy[]; };
layout(std430, set = 0, binding = 2) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Dx { float dx[]; };

void main()
{
    uint n = live_rows() * pc.cols, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride)
        dx[AT(3) + i] = dy[AT(1) + i] * act_slope(x[AT(2) + i], pc.act);
}
