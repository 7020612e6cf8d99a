#version 450
// Half-split rotation of the first `rotary` columns of every head; table[p] holds rotary/2 cosines, then sines.
#extension GL_GOOGLE_include_directive : require
#define PUSH                                                                                                           \
    uint heads, head_dim, rotary;                                                                                      \
    float sign_;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) readonly buffer Positions { int positions[]; };
layout(std430, set = 0, binding = 3) readonly buffer Table { float table[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Y { float y[]; };

void main()
{
    // An invocation moves a pair, or one of the columns that stay.
    uint half_ = pc.rotary / 2, items = half_ + pc.head_dim - pc.rotary, row_items = pc.heads * items;
    uint n = live_rows() * row_items, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint at = gl_GlobalInvocationID.x; at < n; at += stride) {
        uint row = at / row_items, head = at % row_items / items, i = at % items;
        uint first = (row * pc.heads + head) * pc.head_dim;
        if (i >= half_) {
            uint j = first + i + half_;
            y[AT(4) + j] = x[AT(1) + j];
            continue;
        }
        uint angles = uint(positions[AT(2) + row]) * pc.rotary + i;
        float cosine = table[AT(3) + angles], sine = pc.sign_ * table[AT(3) + angles + half_];
        float a = x[AT(1) + first + i], b = x[AT(1) + first + i + half_];
        y[AT(4) + first + i] = a * cosine - b * sine;
        y[AT(4) + first + i + half_] = b * cosine + a * sine;
    }
}
