#version 450
// Rows of `cols` words from one matrix to another.  MODE 1: row r comes from row index[r]; 2: it goes to row index[r].
#extension GL_GOOGLE_include_directive : require
layout(constant_id = 1) const uint MODE = 0;
#define PUSH uint cols, from_ld, from_col0, to_ld, to_col0;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer From { uint from[]; };
layout(std430, set = 0, binding = 2) readonly buffer Index { uint index[]; };
layout(std430, set = 0, binding = 3) writeonly buffer To { uint to[]; };

void main()
{
    uint n = live_rows() * pc.cols, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        uint row = i / pc.cols, col = i % pc.cols, other = MODE == 0 ? row : index[AT(2) + row];
        to[AT(3) + (MODE == 2 ? other : row) * pc.to_ld + pc.to_col0 + col] =
            from[AT(1) + (MODE == 1 ? other : row) * pc.from_ld + pc.from_col0 + col];
    }
}
