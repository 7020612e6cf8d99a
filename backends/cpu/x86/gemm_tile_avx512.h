/* The 512-bit micro-kernel: 8 x 48, 24 accumulators.  A is broadcast straight from its rows, B comes from
 * packed panels in the second-level cache: 8 bytes of B a cycle at one 512-bit multiply-add a cycle, which
 * that cache delivers when the lines are asked for early enough.
 * Floats and pairs of bf16 differ in the step only.  All is inlined into the file that includes this, which has
 * instruction set flags of its own. */
#ifndef LT_BACKENDS_CPU_X86_GEMM_TILE_AVX512_H
#define LT_BACKENDS_CPU_X86_GEMM_TILE_AVX512_H

#include "backends/cpu/x86/gemm_cursor.h"
#include "backends/cpu/x86/gemm_pack_avx512.h"

enum {
    ROWS = 8,
    VECTORS = 3,
    UNROLL = 4,
    AHEAD = 12 /* rows of B prefetched ahead */
};

/* acc and the product of the elements x and w. */
typedef __m512 (*gemm_step_fn)(__m512 acc, __m512 x, __m512 w);

/* acc += A[rows, count] · B[count, vectors]. */
LT_INLINE void multiply(__m512 acc[ROWS][VECTORS], struct gemm_cursor *at, const int rows, const int vectors,
                        const int count, const gemm_step_fn step)
{
    LT_UNROLL
    for (int q = 0; q < count; q++) {
        __m512 w[VECTORS];
        gemm_cursor_pin(at);
        LT_UNROLL
        for (int v = 0; v < vectors; v++) {
            gemm_cursor_prefetch_b(at, q, v * LANES);
            w[v] = _mm512_loadu_ps(gemm_cursor_b(at, q) + v * LANES);
        }
        LT_UNROLL
        for (int i = 0; i < rows; i++) {
            __m512 x = _mm512_set1_ps(*gemm_cursor_a(at, i, q));
            LT_UNROLL
            for (int v = 0; v < vectors; v++)
                acc[i][v] = step(acc[i][v], x, w[v]);
        }
    }
    gemm_cursor_advance(at, count);
}

LT_INLINE void tile_body(const struct lt_gemm_tile *t, const int rows, const int vectors,
                         const gemm_step_fn step)
{
    const __mmask16 tail = (__mmask16)(0xffffu >> (vectors * LANES - t->cols));
    __m512 acc[ROWS][VECTORS];
    LT_UNROLL
    for (int i = 0; i < rows; i++) {
        LT_UNROLL
        for (int v = 0; v < vectors; v++) {
            const __mmask16 mask = v == vectors - 1 ? tail : 0xffff;
            acc[i][v] = _mm512_setzero_ps();
            if (t->load)
                acc[i][v] = _mm512_maskz_loadu_ps(mask, t->c + i * t->ldc + v * LANES);
            if (t->bias != NULL)
                acc[i][v] = _mm512_add_ps(acc[i][v], _mm512_maskz_loadu_ps(mask, t->bias + v * LANES));
            gemm_prefetch(t->next_c, i * t->ldc + v * LANES);
        }
    }

    struct gemm_cursor at = gemm_cursor_start(t, rows, AHEAD);
    int64_t k = t->k;
    for (; k >= UNROLL; k -= UNROLL)
        multiply(acc, &at, rows, vectors, UNROLL, step);
    for (; k > 0; k--)
        multiply(acc, &at, rows, vectors, 1, step);

    LT_UNROLL
    for (int i = 0; i < rows; i++) {
        LT_UNROLL
        for (int v = 0; v < vectors; v++)
            _mm512_mask_storeu_ps(t->c + i * t->ldc + v * LANES, v == vectors - 1 ? tail : (__mmask16)0xffff,
                                  acc[i][v]);
    }
}

LT_INLINE void gemm_tile_rows(const struct lt_gemm_tile *t, const int vectors, const gemm_step_fn step)
{
    switch (t->rows) {
    case 1:
        tile_body(t, 1, vectors, step);
        break;
    case 2:
        tile_body(t, 2, vectors, step);
        break;
    case 3:
        tile_body(t, 3, vectors, step);
        break;
    case 4:
        tile_body(t, 4, vectors, step);
        break;
    case 5:
        tile_body(t, 5, vectors, step);
        break;
    case 6:
        tile_body(t, 6, vectors, step);
        break;
    case 7:
        tile_body(t, 7, vectors, step);
        break;
    default:
        tile_body(t, 8, vectors, step);
        break;
    }
}

static inline void gemm_panels_copy_48(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds,
                                       int64_t rows, int64_t cols)
{
    gemm_panels_copy_512(dst, kc, k0, src, lds, rows, cols, VECTORS);
}

#endif
