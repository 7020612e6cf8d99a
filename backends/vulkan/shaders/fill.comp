#version 450
// Live rows = 0
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols;
#include "op.glsl"

layout(std430, set = 0, binding = 1) writeonly buffer Y { uint y[]; };

void main()
{
    uint n = live_rows() * pc.cols, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride)
        y[AT(1) + i] = 0;
}
