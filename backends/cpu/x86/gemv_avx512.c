/* One row of x times a stored 4-bit weight, for AVX-512: a table of 16-bit codes fits into a register twice, so that a
 * permutation looks up 32 of them by the low four bits of each word, whatever is above.  Two rows at a time, as in
 * gemv_avx2.c. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>

#include "backends/cpu/x86/vecmath_avx512.h"
#include "quant/nf4.h"

enum {
    PAIR = 2 * LT_GEMV_BLOCK, /* elements of a register of codes: two blocks, in the lanes 0…7 and 8…15 */
    CHUNK = 64,               /* blocks whose scales are prepared at a time */
    PLANES = 4,               /* codes of a word */
    WORDS = PAIR / PLANES
};

/* ---- activations ---- */

static inline __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* Codes of one block in the order of the elements. */
static void quantize_block(int16_t *codes, float *scale, const float *x)
{
    const __m512i size = _mm512_set1_epi32(0x7fffffff);
    __m512i bits = _mm512_setzero_si512();
    for (int i = 0; i < LT_GEMV_BLOCK; i += 16) /* magnitudes order like their bits, NaN above all */
        bits = _mm512_max_epi32(bits, _mm512_and_si512(load(x + i), size));
    const float max = _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(bits))));
    const __m512 factor = _mm512_set1_ps(max < LT_GEMV_TINY ? 0.0f : LT_GEMV_UNIT / max);
    *scale = max < LT_GEMV_TINY ? 0.0f : max * (1.0f / (LT_GEMV_UNIT * LT_GEMV_UNIT));
    for (int i = 0; i < LT_GEMV_BLOCK; i += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
        _mm256_storeu_si256((__m256i *)(void *)(codes + i), _mm512_cvtsepi32_epi16(v));
    }
}

/* Word w of the weight holds the elements 4w + 1, 4w, 4w + 3, 4w + 2 from its low end. */
static void put_planes(int16_t *planes, const int16_t codes[PAIR])
{
    static const unsigned shift[PLANES] = {16, 0, 48, 32};
    for (int w = 0; w < WORDS; w += 8) {
        __m512i four = load(codes + (ptrdiff_t)PLANES * w);
        for (int i = 0; i < PLANES; i++)
            _mm_storeu_si128((__m128i *)(void *)(planes + i * WORDS + w),
                             _mm512_cvtepi64_epi16(_mm512_srli_epi64(four, shift[i])));
    }
}

static void gemv_quantize_avx512(int16_t *codes, float *scale, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += PAIR) {
        int16_t pair[PAIR] = {0};
        for (int64_t b = 0; b < PAIR && i + b < n; b += LT_GEMV_BLOCK)
            quantize_block(pair + b, scale + (i + b) / LT_GEMV_BLOCK, x + i + b);
        put_planes(codes + i, pair);
    }
}

/* ---- the weight ---- */

/* Scales of n blocks of the flat weight from `first` on, each times that of its activations; one more is 0. */
static inline void block_factors(float *dst, const struct lt_weight *w, const float *scales, int64_t first,
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

static inline __m512i products(__m512i table, __m512i word, const int16_t *x)
{
    return _mm512_madd_epi16(_mm512_permutexvar_epi16(word, table), load(x));
}

/* The two blocks of words v: x holds the planes of their activations. */
static inline __m512 add_pair(__m512 acc, __m512i table, __m512i v, const int16_t *x, const float factor[2])
{
    __m512i even =
        _mm512_add_epi32(products(table, v, x), products(table, _mm512_srli_epi16(v, 4), x + WORDS));
    __m512i odd = _mm512_add_epi32(products(table, _mm512_srli_epi16(v, 8), x + 2 * WORDS),
                                   products(table, _mm512_srli_epi16(v, 12), x + 3 * WORDS));
    __m512 f = _mm512_mask_broadcastss_ps(_mm512_set1_ps(factor[0]), 0xff00, _mm_load_ss(factor + 1));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(even, odd)), f, acc);
}

static inline void put(const struct lt_gemv *g, int64_t row, float v)
{
    g->y[row] = g->bias ? v + g->bias[row] : v;
}

static inline void two_rows(const struct lt_gemv *g, __m512i table, int64_t first, int64_t second)
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
        block_factors(fa, g->w, g->scales + from, first * blocks + from, n);
        block_factors(fb, g->w, g->scales + from, second * blocks + from, n);
        for (; i + 2 <= n; i += 2, p += LT_GEMV_BLOCK, q += LT_GEMV_BLOCK, x += PAIR) {
            a = add_pair(a, table, load(p), x, fa + i);
            b = add_pair(b, table, load(q), x, fb + i);
        }
        if (i < n) {
            a = add_pair(a, table, _mm512_maskz_loadu_epi32(0xff, p), x, fa + i);
            b = add_pair(b, table, _mm512_maskz_loadu_epi32(0xff, q), x, fb + i);
        }
    }
    put(g, first, lt_sum_avx512(a));
    put(g, second, lt_sum_avx512(b));
}

static void gemv_4bit_avx512(const struct lt_gemv *g)
{
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)g->table));
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows(g, table, row, row + g->apart);
}

void lt_gemv_kernels_avx512(struct lt_cpu_kernels *k)
{
    k->gemv_quantize = gemv_quantize_avx512;
    k->gemv[LT_WEIGHT_NF4] = gemv_4bit_avx512;
    k->gemv[LT_WEIGHT_FP4] = gemv_4bit_avx512;
}
