#version 450
// dgate = dy * up * act'(gate), dup = dy * act(gate)
#extension GL_GOOGLE_include_directive : require
#define PUSH uint cols, act;
#include "op.glsl"
#include "activation.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Dy { float dy[]; };
layout(std430, set = 0, binding = 2) readonly buffer Gate { float gate[]; };
layout(std430, set = 0, binding = 3) readonly buffer Up { float up[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Dgate { float dgate[]; };
layout(std430, set = 0, binding = 5) writeonly buffer Dup { float dup[]; };

void main()
{
    uint n = live_rows() * pc.cols, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        float d = dy[AT(1) + i], g = gate[AT(2) + i], u = up[AT(3) + i];
        dgate[AT(4) + i] = d * u * act_slope(g, pc.act);
        dup[AT(5) + i] = d * act_value(g, pc.act);
    }
}
