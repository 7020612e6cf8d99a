#version 450
// y = W[ids] * scale, for the ids in [first, first + count): those whose rows this binding of W shows
#extension GL_GOOGLE_include_directive : require
layout(constant_id = 1) const uint FORMAT = 0;
layout(constant_id = 2) const bool NESTED = false;
#define PUSH                                                                                                           \
    uint cols, first, count;                                                                                           \
    float scale;                                                                                                       \
    uint flat0, block_shift, nested_at, absmax_at, stored_cols;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Ids { uint ids[]; };
layout(std430, set = 0, binding = 2) readonly buffer Data { uint data[]; };
layout(std430, set = 0, binding = 3) readonly buffer Meta { uint meta[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Y { float y[]; };

#define DATA0 AT(2)
#define META0 AT(3)
#include "weight.glsl"

void main()
{
    uint n = live_rows() * pc.cols, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        uint id = ids[AT(1) + i / pc.cols] - pc.first;
        if (id < pc.count)
            y[AT(4) + i] = element(id * pc.cols + i % pc.cols) * pc.scale;
    }
}
