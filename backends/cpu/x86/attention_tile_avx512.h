/* Products of attention's tiles with 512-bit vectors: floats and pairs of bf16 differ in the step only.  All is inlined into
 * the file that includes this, which has instruction set flags of its own. */
#ifndef LT_BACKENDS_CPU_X86_ATTENTION_TILE_AVX512_H
#define LT_BACKENDS_CPU_X86_ATTENTION_TILE_AVX512_H

#include "backends/cpu/attention_flash.h"
#include "backends/cpu/x86/vecmath_avx512.h"

#define ATTENTION_INLINE static inline __attribute__((always_inline))

/* acc and the product of the elements x and w. */
typedef __m512 attention_step(__m512 acc, __m512 x, __m512 w);

/* R rows and V vectors of columns of a product.  R and V are constants at every call; with a mask V is 1.
 * Only loops with literal bounds does every compiler unroll soon enough to keep the sums in registers. */
ATTENTION_INLINE void attention_panel_512(const struct lt_tile_product *p, int64_t row, int64_t col,
                                          const int R, const int V, const bool masked, __mmask16 mask,
                                          attention_step *step)
{
    __m512 sum[8][4];
    float *c = p->c + row * p->ldc + col;
    const float *a = p->a + row * p->a_row, *b = p->b + col;
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            sum[i][j] = !p->accumulate ? _mm512_setzero_ps()
                        : masked       ? _mm512_maskz_loadu_ps(mask, c + i * p->ldc)
                                       : _mm512_loadu_ps(c + i * p->ldc + 16 * j);
    for (int64_t k = 0; k < p->k; k++) {
        __m512 v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            v[j] = masked ? _mm512_maskz_loadu_ps(mask, b) : _mm512_loadu_ps(b + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < 8 && i < R; i++) {
            __m512 x = _mm512_set1_ps(a[i * p->a_row]);
#pragma GCC unroll 4
            for (int j = 0; j < 4 && j < V; j++)
                sum[i][j] = step(sum[i][j], x, v[j]);
        }
        a += p->a_col;
        b += p->ldb;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++) {
            if (masked)
                _mm512_mask_storeu_ps(c + i * p->ldc, mask, sum[i][j]);
            else
                _mm512_storeu_ps(c + i * p->ldc + 16 * j, sum[i][j]);
        }
    }
}

ATTENTION_INLINE void attention_product_512(const struct lt_tile_product *p, attention_step *step)
{
    int64_t col = 0;
    for (; col + 64 <= p->n; col += 64) {
        int64_t row = 0;
        for (; row + 4 <= p->rows; row += 4)
            attention_panel_512(p, row, col, 4, 4, false, 0, step);
        for (; row < p->rows; row++)
            attention_panel_512(p, row, col, 1, 4, false, 0, step);
    }
    for (; col < p->n; col += 16) {
        __mmask16 mask = lt_lanes_avx512(p->n - col);
        int64_t row = 0;
        for (; row + 8 <= p->rows; row += 8)
            attention_panel_512(p, row, col, 8, 1, true, mask, step);
        for (; row < p->rows; row++)
            attention_panel_512(p, row, col, 1, 1, true, mask, step);
    }
}

/* 16 rows r become 16 columns. */
ATTENTION_INLINE void attention_transpose_16x16(__m512 r[16])
{
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    /* u[4g + j]: in lane L, column 4L + j of rows 4g to 4g + 3. */
    __m512 u[16];
#pragma GCC unroll 4
    for (int g = 0; g < 16; g += 4) {
        for (int h = 0; h < 2; h++) {
            __m512d x = _mm512_castps_pd(t[g + h]), y = _mm512_castps_pd(t[g + 2 + h]);
            u[g + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            u[g + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512 even_top = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88);
        __m512 odd_top = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
        __m512 even_bottom = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
        __m512 odd_bottom = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
        r[j] = _mm512_shuffle_f32x4(even_top, even_bottom, 0x88);
        r[4 + j] = _mm512_shuffle_f32x4(odd_top, odd_bottom, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(even_top, even_bottom, 0xdd);
        r[12 + j] = _mm512_shuffle_f32x4(odd_top, odd_bottom, 0xdd);
    }
}

#endif
