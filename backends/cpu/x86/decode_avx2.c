/* Stored weights to f32 for AVX2: the bits of quant/. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>

#include "backends/cpu/x86/vecmath_avx2.h"
#include "core/tensor/dtype.h"
#include "quant/nf4.h"

static void decode_bf16_avx2(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const uint16_t *src = (const uint16_t *)w->data + begin;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(src + i)));
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(h, 16)));
    }
    lt_convert_to_f32(dst + i, src + i, LT_BF16, (size_t)(n - i));
}

static void decode_f16_avx2(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const uint16_t *src = (const uint16_t *)w->data + begin;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(src + i))));
    lt_convert_to_f32(dst + i, src + i, LT_F16, (size_t)(n - i));
}

static void decode_int8_avx2(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const int8_t *codes = w->data;
    const __m256 unit = _mm256_set1_ps(1.0f / 127.0f);
    for (int64_t at = begin, end = begin + n; at < end;) {
        int64_t row = at / w->cols;
        int64_t row_end = (row + 1) * w->cols < end ? (row + 1) * w->cols : end;
        float scale = w->absmax[row];
        for (; at + 8 <= row_end; at += 8) {
            __m256i c = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(codes + at)));
            __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(c), _mm256_set1_ps(scale));
            _mm256_storeu_ps(dst + (at - begin), _mm256_mul_ps(v, unit));
        }
        for (; at < row_end; at++)
            dst[at - begin] = (float)codes[at] * scale * (1.0f / 127.0f);
    }
}

/* n elements, a multiple of 8, from whole bytes: 8 codes are the nibbles of one 32-bit word.  The table is scaled, not
 * what is looked up: the same products, fewer of them. */
static inline void decode_nibbles(float *dst, const uint8_t *packed, int64_t n, __m256 low, __m256 high,
                                  float scale)
{
    const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    low = _mm256_mul_ps(low, _mm256_set1_ps(scale));
    high = _mm256_mul_ps(high, _mm256_set1_ps(scale));
    for (int64_t i = 0; i < n; i += 8) {
        int32_t word;
        memcpy(&word, packed + i / 2, sizeof word);
        __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
        /* The permutations look at the low three bits of a lane, the blend at bit 3, moved to the sign. */
        __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
        __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                        _mm256_permutevar8x32_ps(high, code), upper);
        _mm256_storeu_ps(dst + i, value);
    }
}

static void decode_4bit_avx2(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    enum { SCALES = 32 };
    const __m256 low = _mm256_loadu_ps(w->code), high = _mm256_loadu_ps(w->code + 8);
    const uint8_t *packed = w->data;
    float scales[SCALES];
    for (int64_t at = begin, end = begin + n; at < end;) {
        int64_t first = at / w->blocksize, last = (end - 1) / w->blocksize;
        int64_t count = last - first + 1 < SCALES ? last - first + 1 : SCALES;
        lt_nf4_scales(scales, w, first, count);
        for (int64_t b = 0; b < count; b++) {
            int64_t stop = (first + b + 1) * w->blocksize < end ? (first + b + 1) * w->blocksize : end;
            int64_t whole = (at & 1) != 0 ? 0 : (stop - at) / 8 * 8;
            decode_nibbles(dst + (at - begin), packed + at / 2, whole, low, high, scales[b]);
            at += whole;
            if (at < stop)
                lt_nf4_dequantize(dst + (at - begin), w, at, stop - at);
            at = stop;
        }
    }
}

void lt_decode_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->decode[LT_WEIGHT_BF16] = decode_bf16_avx2;
    k->decode[LT_WEIGHT_F16] = decode_f16_avx2;
    k->decode[LT_WEIGHT_NF4] = decode_4bit_avx2;
    k->decode[LT_WEIGHT_FP4] = decode_4bit_avx2;
    k->decode[LT_WEIGHT_INT8] = decode_int8_avx2;
}
