#version 450
// Products of LLM.int8(): C[M,N] = records of int8_rows.comp times a weight's codes [N,K] in integers, scaled, + bias, and
// the outlier entries of a row in f32 by ascending column.  The roundings are those of backends/cpu/cpu_ops_int8.c.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(constant_id = 1) const uint BM = 64;
layout(constant_id = 2) const uint BN = 64;
layout(constant_id = 3) const uint TM = 4;
layout(constant_id = 4) const uint TN = 4;
layout(constant_id = 5) const bool ALIGNED = false; // rows of the weight begin at whole words
layout(constant_id = 6) const bool BIAS = false;

#define PUSH uint n, k, ldc, c_col0;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Records { uint records[]; };
layout(std430, set = 0, binding = 2) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 3) readonly buffer Data { uint data[]; };
layout(std430, set = 0, binding = 4) readonly buffer Scales { float scales[]; }; // of the weight's rows
layout(std430, set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(std430, set = 0, binding = 6) writeonly buffer C { float c[]; };

const uint BK = 8; // words: a block of 32 columns
shared uint a_tile[BK * (BM + 1)], b_tile[BK * (BN + 1)];

uint record_of(uint m)
{
    return AT(1) + m * (2 + 9 * ((pc.k + 31) / 32));
}

ivec4 codes_of(uint word)
{
    int w = int(word);
    return ivec4(bitfieldExtract(w, 0, 8), bitfieldExtract(w, 8, 8), bitfieldExtract(w, 16, 8), w >> 24);
}

// Four codes of the weight from byte `at` on.  What follows the last row does not matter: those columns of A are 0.
uint weight_word(uint at)
{
    uint i = at >> 2, shift = 8 * (at & 3), word = data[AT(3) + i];
    if (ALIGNED || shift == 0)
        return word;
    uint last = (pc.n * pc.k - 1) >> 2;
    return (word >> shift) | (data[AT(3) + min(i + 1, last)] << (32 - shift));
}

void load_tiles(uint m0, uint m_end, uint n0, uint w0)
{
    uint codes = 2 + (pc.k + 31) / 32 + w0;
    for (uint i = gl_LocalInvocationID.x; i < BM * BK; i += gl_WorkGroupSize.x) {
        uint m = i / BK, w = i % BK;
        a_tile[w * (BM + 1) + m] = m0 + m < m_end ? records[record_of(m0 + m) + codes + w] : 0;
    }
    for (uint i = gl_LocalInvocationID.x; i < BN * BK; i += gl_WorkGroupSize.x) {
        uint n = i / BK, w = i % BK, col = 4 * (w0 + w);
        b_tile[w * (BN + 1) + n] = n0 + n < pc.n && col < pc.k ? weight_word((n0 + n) * pc.k + col) : 0;
    }
}

// y and the outlier entries of row m.
float with_outliers(uint m, uint n, float y, float scale)
{
    uint record = record_of(m), left = records[record + 1];
    for (uint block = 0; left > 0; block++)
        for (uint mask = records[record + 2 + block]; mask != 0; mask &= mask - 1) {
            uint col = 32 * block + findLSB(mask), at = n * pc.k + col;
            int code = bitfieldExtract(int(data[AT(3) + (at >> 2)]), int(8 * (at & 3)), 8);
            precise float scaled = float(code) * scale;
            precise float weight = scaled * (1.0 / 127.0);
            precise float product = x[AT(2) + m * pc.k + col] * weight;
            precise float sum = y + product;
            y = sum;
            left--;
        }
    return y;
}

void finish(uint m, uint n, int sum)
{
    float scale = scales[AT(4) + pc.c_col0 + n];
    precise float scales_product = uintBitsToFloat(records[record_of(m)]) * scale;
    precise float scaled = float(sum) * scales_product;
    precise float y = scaled * (1.0 / 16129.0);
    if (BIAS) {
        precise float shifted = y + bias[AT(5) + pc.c_col0 + n];
        y = shifted;
    }
    c[AT(6) + m * pc.ldc + pc.c_col0 + n] = with_outliers(m, n, y, scale);
}

void main()
{
    uint m_end = live_rows(), m0 = gl_WorkGroupID.x * BM, n0 = gl_WorkGroupID.y * BN;
    if (m0 >= m_end)
        return;
    uint columns = BN / TN, tx = gl_LocalInvocationID.x % columns, ty = gl_LocalInvocationID.x / columns;
    bool live = m0 + ty * TM < m_end;
    int sum[TM * TN];
    [[unroll]] for (uint i = 0; i < TM * TN; i++)
        sum[i] = 0;
    for (uint w0 = 0; w0 < (pc.k + 31) / 32 * BK; w0 += BK) {
        load_tiles(m0, m_end, n0, w0);
        barrier();
        for (uint w = 0; w < BK && live; w++) {
            ivec4 a[TM];
            [[unroll]] for (uint i = 0; i < TM; i++)
                a[i] = codes_of(a_tile[w * (BM + 1) + ty * TM + i]);
            [[unroll]] for (uint j = 0; j < TN; j++) {
                ivec4 b = codes_of(b_tile[w * (BN + 1) + tx + j * columns]);
                [[unroll]] for (uint i = 0; i < TM; i++)
                    sum[i * TN + j] += a[i].x * b.x + a[i].y * b.y + a[i].z * b.z + a[i].w * b.w;
            }
        }
        barrier();
    }
    [[unroll]] for (uint i = 0; i < TM; i++)
        [[unroll]] for (uint j = 0; j < TN; j++) {
            uint m = m0 + ty * TM + i, n = n0 + tx + j * columns;
            if (m < m_end && n < pc.n)
                finish(m, n, sum[i * TN + j]);
        }
}
