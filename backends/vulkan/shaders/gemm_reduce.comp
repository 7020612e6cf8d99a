#version 450
// C = scale * (slab 0 + slab 1 + … in order) (+ C0): the end of a split product.
#extension GL_GOOGLE_include_directive : require
layout(constant_id = 1) const bool START = false;
#define PUSH                                                                                                           \
    uint m, n, ldc, c_col0, slabs, slab, fixed_m;                                                                      \
    float scale;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Slabs { float slabs[]; };
layout(std430, set = 0, binding = 2) readonly buffer Start { float start[]; };
layout(std430, set = 0, binding = 3) writeonly buffer C { float c[]; };

void main()
{
    uint m_end = pc.fixed_m != 0 ? pc.m : live_rows();
    uint total = m_end * pc.n, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < total; i += stride) {
        float sum = 0.0;
        for (uint s = 0; s < pc.slabs; s++)
            sum += slabs[AT(1) + s * pc.slab + i];
        uint at = i / pc.n * pc.ldc + pc.c_col0 + i % pc.n;
        c[AT(3) + at] = pc.scale * sum + (START ? start[AT(2) + at] : 0.0);
    }
}
