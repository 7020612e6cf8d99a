// Tiles of A and B in shared memory for the products C[M,N] = scale * A B (+ C0) (+ bias), B decoded on the way there.
//   A: [M,K], or stored [K,M] (A_T; then K is what is live, not M), or rows of f16 by halves.comp (HALVES)
//   B: stored [N,K], or [K,N] (B_KN); any weight format
// Before it: F16_TILES where the tiles are f16, A_AT(m, k), A_SIZE, B_AT(k, n) and B_SIZE, where an element lies.  With SPLIT
// group z sums its own range of k into slab z of C, and gemm_reduce.comp adds the slabs in order.

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
           ROUND_RESULT = (FLAGS & 128) != 0, HALVES = (FLAGS & 256) != 0;

#define PUSH                                                                                                           \
    uint m, n, k, lda, a_col0, ldb, ldc, c_col0, k_chunk, slab;                                                        \
    float scale;                                                                                                       \
    uint flat0, block_shift, nested_at, absmax_at, stored_cols;
#include "op.glsl"

layout(std430, set = 0, binding = 1) readonly buffer A { uint a[]; };
layout(std430, set = 0, binding = 2) readonly buffer Data { uint data[]; };
layout(std430, set = 0, binding = 3) readonly buffer Meta { uint meta[]; };
layout(std430, set = 0, binding = 4) readonly buffer Bias { float bias[]; };
layout(std430, set = 0, binding = 5) readonly buffer Start { float start[]; };
layout(std430, set = 0, binding = 6) writeonly buffer C { float c[]; };
layout(std430, set = 0, binding = 7) readonly buffer Units { float units[]; }; // of A's rows, with HALVES

#define DATA0 AT(2)
#define META0 AT(3)
#include "weight.glsl"
#include "half.glsl"

// To the nearest bf16, ties to even: with ROUND both factors and the bias, with ROUND_RESULT the result.
float rounded(float x, bool round_)
{
    uint bits = floatBitsToUint(x);
    if (!round_ || (bits & 0x7f800000) == 0x7f800000)
        return x;
    return uintBitsToFloat((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
}

#ifdef F16_TILES
#define FACTOR float16_t
FACTOR factor_of_half(uint bits)
{
    return unpackFloat2x16(bits).x;
}

FACTOR factor_of(float x) // the device's rounding
{
    bool large = abs(x) > 65504.0 && (floatBitsToUint(x) & 0x7fffffff) < 0x7f800000;
    return FACTOR(large ? sign(x) * 65504.0 : x);
}
#else
#define FACTOR float
FACTOR factor_of_half(uint bits)
{
    return half_value(bits);
}

FACTOR factor_of(float x)
{
    return HALVES ? half_value(half_bits(x)) : rounded(x, ROUND);
}
#endif

shared FACTOR a_tile[A_SIZE];
shared FACTOR b_tile[B_SIZE];

FACTOR a_element(uint at)
{
    if (HALVES)
        return factor_of_half((a[AT(1) + (at >> 1)] >> (16 * (at & 1))) & 0xffff);
    return factor_of(uintBitsToFloat(a[AT(1) + at]));
}

void load_a(uint m0, uint m_end, uint k0, uint k_end)
{
    for (uint i = gl_LocalInvocationID.x; i < BM * BK; i += gl_WorkGroupSize.x) {
        uint m = A_T ? i % BM : i / BK, k = A_T ? i / BM : i % BK;
        bool inside = m0 + m < m_end && k0 + k < k_end;
        uint at = A_T ? (k0 + k) * pc.lda + pc.a_col0 + m0 + m : (m0 + m) * pc.lda + pc.a_col0 + k0 + k;
        a_tile[A_AT(m, k)] = inside ? a_element(at) : FACTOR(0.0);
    }
}

void put_b(uint row, uint col, float x)
{
    b_tile[B_KN ? B_AT(row, col) : B_AT(col, row)] = factor_of(x);
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

// Element (m, n) of C from its sum.
void finish(uint m, uint n, float sum)
{
    if (SPLIT) {
        c[AT(6) + gl_WorkGroupID.z * pc.slab + m * pc.n + n] = sum;
        return;
    }
    uint at = m * pc.ldc + pc.c_col0 + n;
    float x = pc.scale * (HALVES ? units[AT(7) + m] * sum : sum);
    if (BIAS)
        x += rounded(bias[AT(4) + pc.c_col0 + n], ROUND);
    if (START)
        x += start[AT(5) + at];
    c[AT(6) + at] = rounded(x, ROUND_RESULT);
}
