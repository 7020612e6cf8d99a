#version 450
// y = act(x)
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols, act;
#include "op.glsl"
#include "activation.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Y { float y[]; };

void main()
{
    uint n = live_rows() * pc.cols, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride)
        y[AT(2) + i] = act_value(x[AT(1) + i], pc.act);
}
