#version 450
// Products of f16 factors by cooperative matrices with f32 sums: gemm_tiles.glsl.  A subgroup of 32 has TM x TN fragments
// of 16 x 16.  Debian 12's glslc cannot compile it: scripts/shaders-coopmat does.  With EMULATED the four operations on
// fragments are written out, so that the walk through A, B and C runs where no cooperative matrices are.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#ifndef EMULATED
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#endif

// Rows begin at multiples of 16 bytes, in other banks than their neighbours.
#define A_AT(m, k) ((m) * (BK + 8) + (k))
#define A_SIZE (BM * (BK + 8))
#define B_AT(k, n) (B_KN ? (k) * (BN + 8) + (n) : (n) * (BK + 8) + (k))
#define B_SIZE ((BN + 8) * (BK + 8))
#define F16_TILES
#include "gemm_tiles.glsl"

const uint EDGE = 16, SUBGROUP = 32;
shared float c_tile[gl_WorkGroupSize.x / SUBGROUP * EDGE * EDGE];

#ifndef EMULATED
#define FRAGMENT_A coopmat<float16_t, gl_ScopeSubgroup, EDGE, EDGE, gl_MatrixUseA>
#define FRAGMENT_B coopmat<float16_t, gl_ScopeSubgroup, EDGE, EDGE, gl_MatrixUseB>
#define FRAGMENT_C coopmat<float, gl_ScopeSubgroup, EDGE, EDGE, gl_MatrixUseAccumulator>
#define LOAD_A(f, at) coopMatLoad(f, a_tile, at, BK + 8, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_B_KN(f, at) coopMatLoad(f, b_tile, at, BN + 8, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_B_NK(f, at) coopMatLoad(f, b_tile, at, BK + 8, gl_CooperativeMatrixLayoutColumnMajor)
#define MULTIPLY(a, b, c) c = coopMatMulAdd(a, b, c)
#define STORE_C(c, at) coopMatStore(c, c_tile, at, EDGE, gl_CooperativeMatrixLayoutRowMajor)
#define ZERO FRAGMENT_C(0.0)
#else
// A and B are where they lie; an invocation has half a row of C.
struct Sums {
    float x[8];
};
#define FRAGMENT_A uint
#define FRAGMENT_B uint
#define FRAGMENT_C Sums
#define LOAD_A(f, at) f = at
#define LOAD_B_KN(f, at) f = at
#define LOAD_B_NK(f, at) f = at
#define MULTIPLY(a, b, c) c = multiply(a, b, c)
#define STORE_C(c, at) store(c, at)
#define ZERO Sums(float[](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
#define LANE (gl_LocalInvocationID.x % SUBGROUP)

Sums multiply(uint a, uint b, Sums c)
{
    for (uint k = 0; k < EDGE; k++)
        for (uint j = 0; j < 8; j++) {
            uint n = LANE % 2 * 8 + j;
            uint b_at = B_KN ? b + k * (BN + 8) + n : b + n * (BK + 8) + k;
            c.x[j] += float(a_tile[a + LANE / 2 * (BK + 8) + k]) * float(b_tile[b_at]);
        }
    return c;
}

void store(Sums c, uint at)
{
    for (uint j = 0; j < 8; j++)
        c_tile[at + LANE / 2 * EDGE + LANE % 2 * 8 + j] = c.x[j];
}
#endif

void main()
{
    uint m_end = live_rows(), m0 = gl_WorkGroupID.x * BM, n0 = gl_WorkGroupID.y * BN;
    if (m0 >= m_end)
        return;
    uint subgroup = gl_LocalInvocationID.x / SUBGROUP, across = BN / (EDGE * TN);
    uint ms = subgroup / across * EDGE * TM, ns = subgroup % across * EDGE * TN; // its first row and column
    FRAGMENT_C sum[TM * TN];
    [[unroll]] for (uint i = 0; i < TM * TN; i++)
        sum[i] = ZERO;
    for (uint k0 = 0; k0 < pc.k; k0 += BK) {
        load_a(m0, m_end, k0, pc.k);
        load_b(B_KN ? k0 : n0, B_KN ? pc.k : pc.n, B_KN ? n0 : k0, B_KN ? pc.n : pc.k);
        barrier();
        [[unroll]] for (uint k = 0; k < BK; k += EDGE) {
            FRAGMENT_A x[TM];
            [[unroll]] for (uint i = 0; i < TM; i++)
                LOAD_A(x[i], A_AT(ms + i * EDGE, k));
            [[unroll]] for (uint j = 0; j < TN; j++) {
                FRAGMENT_B y;
                if (B_KN)
                    LOAD_B_KN(y, B_AT(k, ns + j * EDGE));
                else
                    LOAD_B_NK(y, B_AT(k, ns + j * EDGE));
                [[unroll]] for (uint i = 0; i < TM; i++)
                    MULTIPLY(x[i], y, sum[i * TN + j]);
            }
        }
        barrier();
    }
    uint mine = subgroup * EDGE * EDGE;
    [[unroll]] for (uint i = 0; i < TM; i++)
        [[unroll]] for (uint j = 0; j < TN; j++) {
            STORE_C(sum[i * TN + j], mine);
            barrier();
            for (uint e = gl_LocalInvocationID.x % SUBGROUP; e < EDGE * EDGE; e += SUBGROUP) {
                uint m = m0 + ms + i * EDGE + e / EDGE, n = n0 + ns + j * EDGE + e % EDGE;
                if (m < m_end && n < pc.n)
                    finish(m, n, c_tile[mine + e]);
            }
            barrier();
        }
}
