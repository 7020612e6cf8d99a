#version 450
// Sums of squares of blocks of the gradient
#extension GL_GOOGLE_include_directive : require
#define PUSH uint n, block;
#include "op.glsl"
#include "norm.glsl"

layout(std430, set = 0, binding = 1) readonly buffer G { float g[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Partial { Sums partial[]; };

void main()
{
    for (uint block = gl_WorkGroupID.x; block < live_rows(); block += gl_NumWorkGroups.x) {
        uint begin = block * pc.block, count = min(pc.block, pc.n - (pc.row0 + block) * pc.block);
        Sums sums = no_sums();
        for (uint i = gl_LocalInvocationID.x; i < count; i += THREADS)
            add_square(sums, g[AT(1) + begin + i]);
        sums = add_all(sums);
        if (gl_LocalInvocationID.x == 0)
            partial[pc.row0 + block] = sums;
    }
}
