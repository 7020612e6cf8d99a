#version 450
// Lion
#extension GL_GOOGLE_include_directive : require
#define PUSH uint decay;
#include "op.glsl"
#include "optimizer.glsl"

layout(std430, set = 0, binding = 1) readonly buffer G { float g[]; };
layout(std430, set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(std430, set = 0, binding = 3) buffer P { float p[]; };
layout(std430, set = 0, binding = 4) buffer M { float m[]; };

void main()
{
    uint n = live_rows(), stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    float clip = clip_factor(norm[AT(2)]), keep = pc.decay != 0 ? step_.keep : 1.0;
    if (!is_taken(norm[AT(2)]))
        return;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        precise float grad = g[AT(1) + i] * clip, old = m[AT(4) + i];
        precise float direction = step_.beta1 * old + step_.rest1 * grad;
        precise float change = direction > 0.0 ? step_.lr : direction < 0.0 ? -step_.lr : 0.0;
        precise float value = p[AT(3) + i] * keep - change;
        precise float next = step_.beta2 * old + step_.rest2 * grad;
        p[AT(3) + i] = value;
        m[AT(4) + i] = next;
    }
}
