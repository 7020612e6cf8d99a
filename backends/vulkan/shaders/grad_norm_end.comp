#version 450
// The norm of the gradient from the sums of its blocks
#extension GL_GOOGLE_include_directive : require
#define PUSH uint blocks;
#include "op.glsl"
#include "norm.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Partial { Sums partial[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Norm { float norm[]; };

void main()
{
    Sums sums = no_sums();
    for (uint block = gl_LocalInvocationID.x; block < pc.blocks; block += THREADS)
        add(sums, partial[block]);
    sums = add_all(sums);
    if (gl_LocalInvocationID.x == 0)
        norm[AT(2)] = norm_of(sums);
}
