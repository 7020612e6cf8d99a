#version 450
// SGD without momentum
#extension GL_GOOGLE_include_directive : require
#define PUSH uint decay;
#include "op.glsl"
#include "optimizer.glsl"

layout(std430, set = 0, binding = 1) readonly buffer G { float g[]; };
layout(std430, set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(std430, set = 0, binding = 3) buffer P { float p[]; };

void main()
{
    uint n = live_rows(), stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    float clip = clip_factor(norm[AT(2)]), decay = pc.decay != 0 ? step_.weight_decay : 0.0;
    if (!is_taken(norm[AT(2)]))
        return;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        precise float grad = g[AT(1) + i] * clip + decay * p[AT(3) + i];
        precise float value = p[AT(3) + i] - step_.lr * grad;
        p[AT(3) + i] = value;
    }
}
