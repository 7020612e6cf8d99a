#version 450
// AdamW in torch's form
#extension GL_GOOGLE_include_directive : require
#define PUSH uint decay;
#include "op.glsl"
#include "optimizer.glsl"

layout(std430, set = 0, binding = 1) readonly buffer G { float g[]; };
layout(std430, set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(std430, set = 0, binding = 3) buffer P { float p[]; };
layout(std430, set = 0, binding = 4) buffer M { float m[]; };
layout(std430, set = 0, binding = 5) buffer V { float v[]; };

void main()
{
    uint n = live_rows(), stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    float clip = clip_factor(norm[AT(2)]), keep = pc.decay != 0 ? step_.keep : 1.0;
    if (!is_taken(norm[AT(2)]))
        return;
    for (uint i = gl_GlobalInvocationID.x; i < n; i += stride) {
        precise float grad = g[AT(1) + i] * clip;
        precise float first = step_.beta1 * m[AT(4) + i] + step_.rest1 * grad;
        precise float second = step_.beta2 * v[AT(5) + i] + step_.rest2 * (grad * grad);
        precise float denominator = sqrt(second) / step_.correction + step_.eps;
        precise float value = p[AT(3) + i] * keep - step_.adamw_step * (first / denominator);
        m[AT(4) + i] = first;
        v[AT(5) + i] = second;
        p[AT(3) + i] = value;
    }
}
