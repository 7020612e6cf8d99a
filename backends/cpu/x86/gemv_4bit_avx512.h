/* The walk of one row of x over a stored 4-bit weight, two rows of it at a time as in gemv_avx2.c: with AVX-512, and
 * with AVX512-VNNI, which adds the products it makes.  Sums of integers: the same bits either way. */
#ifndef LT_BACKENDS_CPU_X86_GEMV_4BIT_AVX512_H
#define LT_BACKENDS_CPU_X86_GEMV_4BIT_AVX512_H

#include <immintrin.h>

#include "backends/cpu/x86/vecmath_avx512.h"
#include "backends/cpu/x86/x86_kernels.h"
#include "quant/nf4.h"

#define LT_INLINE static inline __attribute__((always_inline))

enum {
    PAIR = 2 * LT_GEMV_BLOCK, /* elements of a register of codes: two blocks, in the lanes 0…7 and 8…15 */
    CHUNK = 64,               /* blocks whose scales are prepared at a time */
    PLANES = 4,               /* codes of a word */
    WORDS = PAIR / PLANES
};

/* sum + the products of neighbouring 16-bit integers, added in pairs. */
typedef __m512i gemv_dot(__m512i sum, __m512i codes, __m512i x);

LT_INLINE __m512i gemv_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* Scales of n blocks of the flat weight from `first` on, each times that of its activations; one more is 0. */
LT_INLINE void gemv_factors(float *dst, const struct lt_weight *w, const float *scales, int64_t first,
                            int64_t n)
{
    const __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 m = lt_lanes_avx512(n - i);
        __m512 v;
        if (w->absmax) {
            v = _mm512_maskz_loadu_ps(m, w->absmax + first + i);
        } else {
            __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(m, w->absmax_codes + first + i));
            __m512i at =
                _mm512_add_epi32(_mm512_set1_epi32((int32_t)((first + i) % LT_NESTED_BLOCKSIZE)), step);
            __m512 nested = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), m, _mm512_srli_epi32(at, 8),
                                                     w->nested_absmax + (first + i) / LT_NESTED_BLOCKSIZE, 4);
            v = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), m, code, w->nested_code, 4);
            v = _mm512_add_ps(_mm512_mul_ps(v, nested), _mm512_set1_ps(w->nested_offset));
        }
        _mm512_storeu_ps(dst + i, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, scales + i)));
    }
    dst[n] = 0.0f;
}

/* The codes in the low four bits of v's words, times x. */
LT_INLINE __m512i gemv_plane(__m512i sum, __m512i table, __m512i v, const int16_t *x, gemv_dot dot)
{
    return dot(sum, _mm512_permutexvar_epi16(v, table), gemv_load(x));
}

/* The two blocks of words v: x holds the planes of their activations. */
LT_INLINE __m512 gemv_pair(__m512 acc, __m512i table, __m512i v, const int16_t *x, const float factor[2],
                           gemv_dot dot)
{
    __m512i sum = gemv_plane(_mm512_setzero_si512(), table, v, x, dot);
    sum = gemv_plane(sum, table, _mm512_srli_epi16(v, 4), x + WORDS, dot);
    sum = gemv_plane(sum, table, _mm512_srli_epi16(v, 8), x + 2 * WORDS, dot);
    sum = gemv_plane(sum, table, _mm512_srli_epi16(v, 12), x + 3 * WORDS, dot);
    __m512 f = _mm512_mask_broadcastss_ps(_mm512_set1_ps(factor[0]), 0xff00, _mm_load_ss(factor + 1));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), f, acc);
}

LT_INLINE void gemv_put(const struct lt_gemv *g, int64_t row, float v)
{
    g->y[row] = g->bias ? v + g->bias[row] : v;
}

LT_INLINE void gemv_two_rows(const struct lt_gemv *g, __m512i table, int64_t first, int64_t second,
                             gemv_dot dot)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK;
    const uint8_t *p = (const uint8_t *)g->w->data + first * (g->w->cols / 2);
    const uint8_t *q = (const uint8_t *)g->w->data + second * (g->w->cols / 2);
    const int16_t *x = g->codes;
    __m512 a = _mm512_setzero_ps(), b = a;
    for (int64_t from = 0; from < blocks; from += CHUNK) {
        float fa[CHUNK + 16], fb[CHUNK + 16];
        const int64_t n = blocks - from < CHUNK ? blocks - from : CHUNK;
        int64_t i = 0;
        gemv_factors(fa, g->w, g->scales + from, first * blocks + from, n);
        gemv_factors(fb, g->w, g->scales + from, second * blocks + from, n);
        for (; i + 2 <= n; i += 2, p += LT_GEMV_BLOCK, q += LT_GEMV_BLOCK, x += PAIR) {
            a = gemv_pair(a, table, gemv_load(p), x, fa + i, dot);
            b = gemv_pair(b, table, gemv_load(q), x, fb + i, dot);
        }
        if (i < n) {
            a = gemv_pair(a, table, _mm512_maskz_loadu_epi32(0xff, p), x, fa + i, dot);
            b = gemv_pair(b, table, _mm512_maskz_loadu_epi32(0xff, q), x, fb + i, dot);
        }
    }
    gemv_put(g, first, lt_sum_avx512(a));
    gemv_put(g, second, lt_sum_avx512(b));
}

LT_INLINE void gemv_4bit_512(const struct lt_gemv *g, gemv_dot dot)
{
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)g->table));
    for (int64_t row = g->begin; row < g->end; row++)
        gemv_two_rows(g, table, row, row + g->apart, dot);
}

#endif
