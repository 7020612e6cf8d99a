#version 450
// dW[ids[row]] += dy[row] * scale, rows in order; an invocation owns a column.  Ids in [first, first + count) only.
#extension GL_GOOGLE_include_directive : require
#define PUSH                                                                                                           \
    uint cols, first, count;                                                                                           \
    float scale;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Dy { float dy[]; };
layout(std430, set = 0, binding = 2) readonly buffer Ids { uint ids[]; };
layout(std430, set = 0, binding = 3) buffer Dw { float dw[]; };

void main()
{
    uint c = gl_GlobalInvocationID.x, rows = live_rows();
    for (uint row = 0; c < pc.cols && row < rows; row++) {
        uint id = ids[AT(2) + row] - pc.first;
        if (id < pc.count)
            dw[AT(3) + id * pc.cols + c] += dy[AT(1) + row * pc.cols + c] * pc.scale;
    }
}
