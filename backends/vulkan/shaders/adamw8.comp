#version 450
// 8-bit AdamW by the CUDA rules of bitsandbytes: a workgroup for each block of 256 elements, an invocation for each
// element.  Codes lie four to a word; blocks begin on words, a short last one leaves the bytes behind it alone.
#extension GL_GOOGLE_include_directive : require
#define PUSH uint n, decay;
#include "op.glsl"
#include "optimizer.glsl"
#include "dynamic_map.glsl"

layout(std430, set = 0, binding = 1) readonly buffer G { float g[]; };
layout(std430, set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(std430, set = 0, binding = 3) buffer P { float p[]; };
layout(std430, set = 0, binding = 4) buffer MCodes { uint m_codes[]; };
layout(std430, set = 0, binding = 5) buffer MAbsmax { float m_absmax[]; };
layout(std430, set = 0, binding = 6) buffer VCodes { uint v_codes[]; };
layout(std430, set = 0, binding = 7) buffer VAbsmax { float v_absmax[]; };

const uint BLOCK = 256, SIGNED = 0, UNSIGNED = 256; // the two maps in `maps`

shared float maps[512];
shared float m_largest[BLOCK];
shared float v_largest[BLOCK];
shared uint codes[BLOCK]; // of m, and shifted by 8 of v

// lt_dynamic_nearest()
uint nearest(uint map, float s)
{
    uint at = map + 127;
    for (uint jump = 64; jump > 0; jump /= 2)
        at = s > maps[at] ? at + jump : at - jump;
    precise float above = (maps[at] + maps[at + 1]) * 0.5;
    if (s > maps[at])
        return (s > above ? at + 1 : at) - map;
    if (at == map)
        return 0;
    precise float below = (maps[at - 1] + maps[at]) * 0.5;
    return (s < below ? at - 1 : at) - map;
}

// A moment keeps its sign; zeros of both signs get the code of 0.
uint signed_code(float m, float scale)
{
    uint code = nearest(SIGNED, m * scale);
    bool negative = code < 127;
    if (m > 0.0 && negative)
        return code + 1;
    return m < 0.0 && !negative ? code - 1 : code;
}

// 1 / absmax, finite for a block of zeros as well.
float code_scale(float absmax)
{
    return absmax > 0.0 ? min(1.0 / absmax, 3.40282347e38) : 3.40282347e38;
}

void load_maps()
{
    uint i = gl_LocalInvocationID.x;
    maps[SIGNED + i] = i < 127 ? -signed_half[127 - i] : signed_half[i - 127];
    maps[UNSIGNED + i] = unsigned_map[i];
}

// The new moments of element `at`; its parameter moves.
vec2 update(uint block, uint i, uint at)
{
    precise float grad = g[AT(1) + at] * clip_factor(norm[AT(2)]), square = grad * grad;
    if (isinf(square) || is_nan(square))
        return vec2(0);
    uint word = block * (BLOCK / 4) + i / 4, shift = 8 * (i & 3);
    float m_code = maps[SIGNED + ((m_codes[AT(4) + word] >> shift) & 255)];
    float v_code = maps[UNSIGNED + ((v_codes[AT(6) + word] >> shift) & 255)];
    precise float m = step_.beta1 * (m_code * m_absmax[AT(5) + block]) + step_.rest1 * grad;
    precise float v = step_.beta2 * (v_code * v_absmax[AT(7) + block]) + step_.rest2 * grad * grad;
    precise float moved = p[AT(3) + at] - step_.adamw8_step * m / (sqrt(v) + step_.adamw8_eps);
    precise float value = moved * (pc.decay != 0 ? step_.keep : 1.0);
    p[AT(3) + at] = value;
    return vec2(m, v);
}

void store_codes(uint block, uint count)
{
    uint word = gl_LocalInvocationID.x, kept = 4 * word + 4 <= count ? 0 : ~0u << (8 * (count & 3));
    if (4 * word >= count)
        return;
    uint m = 0, v = 0;
    for (uint lane = 0; lane < 4; lane++) {
        m |= (codes[4 * word + lane] & 255) << (8 * lane);
        v |= (codes[4 * word + lane] >> 8) << (8 * lane);
    }
    uint at = block * (BLOCK / 4) + word;
    m_codes[AT(4) + at] = (m & ~kept) | (kept != 0 ? m_codes[AT(4) + at] & kept : 0);
    v_codes[AT(6) + at] = (v & ~kept) | (kept != 0 ? v_codes[AT(6) + at] & kept : 0);
}

void main()
{
    uint i = gl_LocalInvocationID.x;
    if (!is_taken(norm[AT(2)]))
        return;
    load_maps();
    for (uint block = gl_WorkGroupID.x; block < live_rows(); block += gl_NumWorkGroups.x) {
        uint begin = block * BLOCK, count = min(BLOCK, pc.n - (pc.row0 * BLOCK + begin));
        barrier();
        vec2 moments = i < count ? update(block, i, begin + i) : vec2(0);
        m_largest[i] = abs(moments.x);
        v_largest[i] = moments.y;
        for (uint half_ = BLOCK / 2; half_ > 0; half_ /= 2) {
            barrier();
            if (i < half_) {
                m_largest[i] = max(m_largest[i], m_largest[i + half_]);
                v_largest[i] = max(v_largest[i], v_largest[i + half_]);
            }
        }
        barrier();
        codes[i] = signed_code(moments.x, code_scale(m_largest[0])) |
                   nearest(UNSIGNED, moments.y * code_scale(v_largest[0])) << 8;
        barrier();
        store_codes(block, count);
        if (i == 0) {
            m_absmax[AT(5) + block] = m_largest[0];
            v_absmax[AT(7) + block] = v_largest[0];
        }
    }
}
