#version 450
// y = (start +) drop(x): x * keep_scale where the random word of (row key, column) reaches the threshold, else 0
#extension GL_GOOGLE_include_directive : require
layout(constant_id = 1) const bool START = false;
#define PUSH                                                                                                           \
    uint cols, threshold;                                                                                              \
    float keep_scale;                                                                                                  \
    uint site;
#include "op.glsl"
#include "rng.glsl"

layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) readonly buffer Key { uint row_key[]; };
layout(std430, set = 0, binding = 3) readonly buffer Start { float start[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Y { float y[]; };

void main()
{
    uint blocks = (pc.cols + 3) / 4, n = live_rows() * blocks, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        uint row = i / blocks, block = i % blocks;
        uvec4 bits = random_block(row_key[AT(2) + row], block, pc.site);
        for (uint lane = 0; lane < 4 && 4 * block + lane < pc.cols; lane++) {
            uint at = row * pc.cols + 4 * block + lane;
            float kept = bits[lane] >= pc.threshold ? x[AT(1) + at] * pc.keep_scale : 0.0;
            y[AT(4) + at] = START ? start[AT(3) + at] + kept : kept;
        }
    }
}
