#version 450
// C[M,N] = scale * A B (+ C0) (+ bias): tiles of A and B in shared memory, B decoded on the way there.
//   A: [M,K], or stored [K,M] (A_T; then K is what is live, not M)
//   B: stored [N,K], or [K,N] (B_KN); any weight format
// Every element is one chain of additions over ascending k.  With SPLIT group z sums its own range of k into slab z of
// C, and gemm_reduce.comp adds the slabs in order.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(constant_id = 1) const uint BM = 64;
layout(constant_id = 2) const uint BN = 64;
layout(constant_id = 3) const uint BK = 16;
layout(constant_id = 4) const uint TM = 4;
layout(constant_id = 5) const uint TN = 4;
layout(constant_id = 6) const uint FORMAT = 0;
layout(constant_id = 7) const bool NESTED = false;
layout(constant_id = 8) const uint FLAGS = 0;

const bool A_T = (FLAGS & 1) != 0, B_KN = (FLAGS & 2) != 0, ALIGNED = (FLAGS & 4) != 0, SPLIT = (FLAGS & 8) != 0,
           START = (FLAGS & 16) != 0, BIAS = (FLAGS & 32) != 0, ROUND = (FLAGS & 64) != 0,
           ROUND_RESULT = (FLAGS & 128) != 0;

#define PUSH                                                                                                           \
    uint m, n, k, lda, a_col0, ldb, ldc, c_col0, k_chunk, slab;                                                        \
    float scale;                                                                                                       \
    uint flat0, block_shift, nested_at, absmax_at, stored_cols;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer A { float a[]; };
layout(std430, set = 0, binding = 2) readonly buffer Data { uint data[]; };
layout(std430, set = 0, binding = 3) readonly buffer Meta { uint meta[]; };
layout(std430, set = 0, binding = 4) readonly buffer Bias { float bias[]; };
layout(std430, set = 0, binding = 5) readonly buffer Start { float start[]; };
layout(std430, set = 0, binding = 6) writeonly buffer C { float c[]; };

#define DATA0 AT(2)
#define META0 AT(3)
#include "weight.glsl"

// To the nearest bf16, ties to even: with ROUND both factors and the bias, with ROUND_RESULT the result.
float rounded(float x, bool round_)
{
    uint bits = floatBitsToUint(x);
    if (!round_ || (bits & 0x7f800000) == 0x7f800000)
        return x;
    return uintBitsToFloat((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
}

shared float a_tile[BK * (BM + 1)];
shared float b_tile[BK * (BN + 1)];

void load_a(uint m0, uint m_end, uint k0, uint k_end)
{
    for (uint i = gl_LocalInvocationID.x; i < BM * BK; i += gl_WorkGroupSize.x) {
        uint m = A_T ? i % BM : i / BK, k = A_T ? i / BM : i % BK;
        bool inside = m0 + m < m_end && k0 + k < k_end;
        uint at = A_T ? (k0 + k) * pc.lda + pc.a_col0 + m0 + m : (m0 + m) * pc.lda + pc.a_col0 + k0 + k;
        a_tile[k * (BM + 1) + m] = inside ? rounded(a[AT(1) + at], ROUND) : 0.0;
    }
}

void put_b(uint row, uint col, float x)
{
    x = rounded(x, ROUND);
    if (B_KN)
        b_tile[row * (BN + 1) + col] = x;
    else
        b_tile[col * (BN + 1) + row] = x;
}

// Eight elements that lie side by side share words and a block's factor.
void load_b8(uint row, uint col, uint at, bool inside)
{
    if (!inside) {
        for (uint e = 0; e < 8; e++)
            put_b(row, col + e, 0.0);
    } else if (FORMAT == NF4 || FORMAT == FP4) {
        uint word = data[DATA0 + (at >> 3)];
        float scale = scale_of(at);
        for (uint e = 0; e < 8; e++)
            put_b(row, col + e, code_value((word >> (8 * (e >> 1) + 4 * (1 - (e & 1)))) & 15) * scale);
    } else if (FORMAT == INT8) {
        float scale = scale_of(at);
        for (uint e = 0; e < 8; e++) {
            int code = bitfieldExtract(int(data[DATA0 + (at >> 2) + (e >> 2)]), int(8 * (e & 3)), 8);
            put_b(row, col + e, int8_value(code, scale));
        }
    } else {
        for (uint e = 0; e < 8; e++)
            put_b(row, col + e, element(at + e));
    }
}

// The tile of B by its stored rows: `rows` x `cols` from (row0, col0), of which those below the ends exist.
void load_b(uint row0, uint row_end, uint col0, uint col_end)
{
    uint rows = B_KN ? BK : BN, cols = B_KN ? BN : BK;
    if (ALIGNED) {
        for (uint i = gl_LocalInvocationID.x; i < rows * cols / 8; i += gl_WorkGroupSize.x) {
            uint row = i / (cols / 8), col = i % (cols / 8) * 8;
            load_b8(row, col, (row0 + row) * pc.ldb + col0 + col, row0 + row < row_end && col0 + col < col_end);
        }
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < rows * cols; i += gl_WorkGroupSize.x) {
        uint row = i / cols, col = i % cols;
        float x = 0.0;
        if (row0 + row < row_end && col0 + col < col_end)
            x = element((row0 + row) * pc.ldb + col0 + col);
        put_b(row, col, x);
    }
}

void main()
{
    uint m_end = A_T ? pc.m : live_rows(), k_live = A_T ? live_rows() : pc.k;
    uint m0 = gl_WorkGroupID.x * BM, n0 = gl_WorkGroupID.y * BN;
    if (m0 >= m_end)
        return;
    uint k_begin = SPLIT ? min(gl_WorkGroupID.z * pc.k_chunk, k_live) : 0;
    uint k_end = SPLIT ? min(k_begin + pc.k_chunk, k_live) : k_live;
    uint columns = BN / TN, tx = gl_LocalInvocationID.x % columns, ty = gl_LocalInvocationID.x / columns;
    float sum[TM * TN];
    [[unroll]] for (uint i = 0; i < TM * TN; i++)
        sum[i] = 0.0;
    for (uint k0 = k_begin; k0 < k_end; k0 += BK) {
        load_a(m0, m_end, k0, k_end);
        load_b(B_KN ? k0 : n0, B_KN ? k_end : pc.n, B_KN ? n0 : k0, B_KN ? pc.n : k_end);
        barrier();
        for (uint k = 0; k < BK; k++) {
            float x[TM], y[TN];
            [[unroll]] for (uint i = 0; i < TM; i++)
                x[i] = a_tile[k * (BM + 1) + ty * TM + i];
            [[unroll]] for (uint j = 0; j < TN; j++)
                y[j] = b_tile[k * (BN + 1) + tx + j * columns];
            [[unroll]] for (uint i = 0; i < TM; i++)
                [[unroll]] for (uint j = 0; j < TN; j++)
                    sum[i * TN + j] = fma(x[i], y[j], sum[i * TN + j]);
        }
        barrier();
    }
    [[unroll]] for (uint i = 0; i < TM; i++)
        [[unroll]] for (uint j = 0; j < TN; j++) {
            uint m = m0 + ty * TM + i, n = n0 + tx + j * columns;
            if (m >= m_end || n >= pc.n)
                continue;
            if (SPLIT) {
                c[AT(6) + gl_WorkGroupID.z * pc.slab + m * pc.n + n] = sum[i * TN + j];
                continue;
            }
            uint at = m * pc.ldc + pc.c_col0 + n;
            float x = pc.scale * sum[i * TN + j];
            if (BIAS)
                x += rounded(bias[AT(4) + pc.c_col0 + n], ROUND);
            if (START)
                x += start[AT(5) + at];
            c[AT(6) + at] = rounded(x, ROUND_RESULT);
        }
}
