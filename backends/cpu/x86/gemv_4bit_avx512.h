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
    CHUNK = 32,               /* blocks whose scales are prepared at a time */
    PLANES = 4,               /* codes of a word */
    AHEAD = 1024,             /* bytes that are fetched before they are needed */
    WORDS = PAIR / PLANES
};

/* sum + the products of neighbouring 16-bit integers, added in pairs. */
typedef __m512i gemv_dot(__m512i sum, __m512i codes, __m512i x);

LT_INLINE __m512i gemv_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* Loaded once: compilers make a load of every use. */
LT_INLINE __m512i gemv_load_once(const void *p)
{
    __m512i v = gemv_load(p);
    __asm__("" : "+v"(v));
    return v;
}

/* ---- scales ---- */

/* The table of 8-bit scales in halves of each f32, for the instruction that looks up 64 words. */
struct gemv_scales {
    uint16_t half[2][256];
};

LT_INLINE void gemv_scales_init(struct gemv_scales *t, const float *code)
{
    for (int i = 0; i < 256; i += 16) {
        const __m512i v = gemv_load(code + i);
        _mm256_storeu_si256((__m256i *)(void *)(t->half[0] + i), _mm512_cvtepi32_epi16(v));
        _mm256_storeu_si256((__m256i *)(void *)(t->half[1] + i),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
    }
}

LT_INLINE __m512i gemv_quarter(const uint16_t half[64], __m512i code)
{
    return _mm512_permutex2var_epi16(gemv_load(half), code, gemv_load(half + 32));
}

/* half[code] of 32 codes; bit 6 and bit 7 of each as masks. */
LT_INLINE __m512i gemv_lookup(const uint16_t half[256], __m512i code, __mmask32 bit6, __mmask32 bit7)
{
    const __m512i low = _mm512_mask_mov_epi16(gemv_quarter(half, code), bit6, gemv_quarter(half + 64, code));
    const __m512i high =
        _mm512_mask_mov_epi16(gemv_quarter(half + 128, code), bit6, gemv_quarter(half + 192, code));
    return _mm512_mask_mov_epi16(low, bit7, high);
}

/* *low: the scales of the first 16 of 32 codes. */
LT_INLINE void gemv_decode_scales(__m512 *low, __m512 *high, const struct gemv_scales *t, __m256i codes)
{
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const __m512i code = _mm512_cvtepu8_epi16(codes);
    const __mmask32 bit6 = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64));
    const __mmask32 bit7 = _mm512_test_epi16_mask(code, _mm512_set1_epi16(128));
    const __m512i l = gemv_lookup(t->half[0], code, bit6, bit7);
    const __m512i h = gemv_lookup(t->half[1], code, bit6, bit7);
    const __m512i a = _mm512_unpacklo_epi16(l, h), b = _mm512_unpackhi_epi16(l, h);
    *low = _mm512_castsi512_ps(_mm512_permutex2var_epi64(a, first, b));
    *high = _mm512_castsi512_ps(_mm512_permutex2var_epi64(a, second, b));
}

/* The first `left` of the live scales have the outer scale nested[0], the others nested[1]. */
LT_INLINE __m512 gemv_outer(__m512 v, const float *nested, int64_t left, __mmask16 live, float offset)
{
    __m512 outer = _mm512_set1_ps(nested[0]);
    if (left < 16) {
        const __mmask16 next = live & (__mmask16)~lt_lanes_avx512(left);
        outer = _mm512_mask_broadcastss_ps(outer, next, _mm_load_ss(nested + (next != 0)));
    }
    return _mm512_add_ps(_mm512_mul_ps(v, outer), _mm512_set1_ps(offset));
}

/* Scales of n <= 32 blocks of the flat weight from `first` on, 0 behind them. */
LT_INLINE void gemv_block_scales(__m512 *low, __m512 *high, const struct gemv_scales *t,
                                 const struct lt_weight *w, int64_t first, int64_t n)
{
    const __mmask16 m0 = lt_lanes_avx512(n), m1 = lt_lanes_avx512(n - 16);
    if (w->absmax) {
        *low = _mm512_maskz_loadu_ps(m0, w->absmax + first);
        *high = _mm512_maskz_loadu_ps(m1, w->absmax + first + 16);
        return;
    }
    const uint64_t block = (uint64_t)first / LT_NESTED_BLOCKSIZE;
    const int64_t left = LT_NESTED_BLOCKSIZE - (int64_t)((uint64_t)first % LT_NESTED_BLOCKSIZE);
    const __mmask32 m = m0 | (__mmask32)m1 << 16;
    gemv_decode_scales(low, high, t, _mm256_maskz_loadu_epi8(m, w->absmax_codes + first));
    *low = gemv_outer(*low, w->nested_absmax + block, left, m0, w->nested_offset);
    *high = gemv_outer(*high, w->nested_absmax + block, left - 16, m1, w->nested_offset);
}

/* ---- products ---- */

/* The codes in the low four bits of the words of v, times x. */
LT_INLINE __m512i gemv_plane(__m512i sum, __m512i table, __m512i v, __m512i x, gemv_dot dot)
{
    return dot(sum, _mm512_permutexvar_epi16(v, table), x);
}

/* Two blocks of one row, v, and of another, u: x holds the planes of their activations. */
LT_INLINE void gemv_products(__m512i *s, __m512i *t, __m512i table, __m512i v, __m512i u, const int16_t *x,
                             gemv_dot dot)
{
    const __m512i x0 = gemv_load_once(x), x1 = gemv_load_once(x + WORDS);
    const __m512i x2 = gemv_load_once(x + 2 * WORDS), x3 = gemv_load_once(x + 3 * WORDS);
    *s = gemv_plane(_mm512_setzero_si512(), table, v, x0, dot);
    *t = gemv_plane(_mm512_setzero_si512(), table, u, x0, dot);
    *s = gemv_plane(*s, table, _mm512_srli_epi16(v, 4), x1, dot);
    *t = gemv_plane(*t, table, _mm512_srli_epi16(u, 4), x1, dot);
    *s = gemv_plane(*s, table, _mm512_srli_epi16(v, 8), x2, dot);
    *t = gemv_plane(*t, table, _mm512_srli_epi16(u, 8), x2, dot);
    *s = gemv_plane(*s, table, _mm512_srli_epi16(v, 12), x3, dot);
    *t = gemv_plane(*t, table, _mm512_srli_epi16(u, 12), x3, dot);
}

/* Adds the sums of two blocks, whose scales are number pick of the lanes. */
LT_INLINE __m512 gemv_add(__m512 acc, __m512i sum, __m512 scales, __m512i pick)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(pick, scales), acc);
}

/* What is walked along two rows. */
struct gemv_walk {
    const uint8_t *p, *q;
    const int16_t *x;
    __m512 a, b;
};

/* n <= 16 blocks of both rows. */
LT_INLINE void gemv_blocks(struct gemv_walk *w, __m512i table, int64_t n, __m512 fa, __m512 fb, gemv_dot dot)
{
    const __m512i two = _mm512_set1_epi32(2);
    __m512i pick = _mm512_mask_set1_epi32(_mm512_setzero_si512(), 0xff00, 1), s, t;
    for (; n >= 2; n -= 2, pick = _mm512_add_epi32(pick, two)) {
        _mm_prefetch((const char *)w->p + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)w->q + AHEAD, _MM_HINT_T0);
        gemv_products(&s, &t, table, gemv_load_once(w->p), gemv_load_once(w->q), w->x, dot);
        w->a = gemv_add(w->a, s, fa, pick);
        w->b = gemv_add(w->b, t, fb, pick);
        w->p += LT_GEMV_BLOCK;
        w->q += LT_GEMV_BLOCK;
        w->x += PAIR;
    }
    if (n > 0) { /* the other block of x is zeros */
        gemv_products(&s, &t, table, _mm512_maskz_loadu_epi32(0xff, w->p),
                      _mm512_maskz_loadu_epi32(0xff, w->q), w->x, dot);
        w->a = gemv_add(w->a, s, fa, pick);
        w->b = gemv_add(w->b, t, fb, pick);
    }
}

LT_INLINE void gemv_put(const struct lt_gemv *g, int64_t row, float v)
{
    g->y[row] = g->bias ? v + g->bias[row] : v;
}

LT_INLINE void gemv_two_rows(const struct lt_gemv *g, __m512i table, const struct gemv_scales *scales,
                             int64_t first, int64_t second, gemv_dot dot)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK;
    struct gemv_walk w = {.p = (const uint8_t *)g->w->data + first * (g->w->cols / 2),
                          .q = (const uint8_t *)g->w->data + second * (g->w->cols / 2),
                          .x = g->codes,
                          .a = _mm512_setzero_ps(),
                          .b = _mm512_setzero_ps()};
    for (int64_t i = 0; i < blocks; i += CHUNK) {
        const int64_t n = blocks - i < CHUNK ? blocks - i : CHUNK, low = n < 16 ? n : 16;
        const __m512 x0 = _mm512_maskz_loadu_ps(lt_lanes_avx512(n), g->scales + i);
        const __m512 x1 = _mm512_maskz_loadu_ps(lt_lanes_avx512(n - 16), g->scales + i + 16);
        __m512 a0, a1, b0, b1;
        gemv_block_scales(&a0, &a1, scales, g->w, first * blocks + i, n);
        gemv_block_scales(&b0, &b1, scales, g->w, second * blocks + i, n);
        gemv_blocks(&w, table, low, _mm512_mul_ps(a0, x0), _mm512_mul_ps(b0, x0), dot);
        gemv_blocks(&w, table, n - low, _mm512_mul_ps(a1, x1), _mm512_mul_ps(b1, x1), dot);
    }
    gemv_put(g, first, lt_sum_avx512(w.a));
    gemv_put(g, second, lt_sum_avx512(w.b));
}

LT_INLINE void gemv_4bit_512(const struct lt_gemv *g, gemv_dot dot)
{
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)g->table));
    struct gemv_scales scales;
    if (!g->w->absmax)
        gemv_scales_init(&scales, g->w->nested_code);
    for (int64_t row = g->begin; row < g->end; row++)
        gemv_two_rows(g, table, &scales, row, row + g->apart, dot);
}

#endif
