/* One row of x times a stored 4-bit weight, for AVX-512: a table of 16-bit codes fits into a register twice, so that a
 * permutation looks up 32 of them by the low four bits of each word, whatever is above. */
#include "backends/cpu/x86/gemv_4bit_avx512.h"

/* ---- activations ---- */

/* Codes of one block in the order of the elements. */
static void quantize_block(int16_t *codes, float *scale, const float *x)
{
    const __m512i size = _mm512_set1_epi32(0x7fffffff);
    __m512i bits = _mm512_setzero_si512();
    for (int i = 0; i < LT_GEMV_BLOCK; i += 16) /* magnitudes order like their bits, NaN above all */
        bits = _mm512_max_epi32(bits, _mm512_and_si512(gemv_load(x + i), size));
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
        __m512i four = gemv_load(codes + (ptrdiff_t)PLANES * w);
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

static inline __m512i dot_avx512(__m512i sum, __m512i codes, __m512i x)
{
    return _mm512_add_epi32(sum, _mm512_madd_epi16(codes, x));
}

static void gemv_4bit_avx512(const struct lt_gemv *g)
{
    gemv_4bit_512(g, dot_avx512);
}

void lt_gemv_kernels_avx512(struct lt_cpu_kernels *k)
{
    k->gemv_quantize = gemv_quantize_avx512;
    k->gemv[LT_WEIGHT_NF4] = gemv_4bit_avx512;
    k->gemv[LT_WEIGHT_FP4] = gemv_4bit_avx512;
}
