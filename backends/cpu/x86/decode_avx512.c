/* Stored weights to f32 for AVX-512: the bits of quant/. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>

#include "backends/cpu/x86/vecmath_avx512.h"
#include "quant/nf4.h"

static void decode_bf16_avx512(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const uint16_t *src = (const uint16_t *)w->data + begin;
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        __m512i h = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, src + i));
        _mm512_mask_storeu_ps(dst + i, m, _mm512_castsi512_ps(_mm512_slli_epi32(h, 16)));
    }
}

static void decode_f16_avx512(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const uint16_t *src = (const uint16_t *)w->data + begin;
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        _mm512_mask_storeu_ps(dst + i, m, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, src + i)));
    }
}

/* n elements, a multiple of 16, from whole bytes.  The table is scaled, not what is looked up: the same products, fewer
 * of them. */
static inline void decode_nibbles(float *dst, const uint8_t *packed, int64_t n, __m512 table, float scale)
{
    table = _mm512_mul_ps(table, _mm512_set1_ps(scale));
    for (int64_t i = 0; i < n; i += 16) {
        /* One byte in 64 bits: its high nibble goes to the even lane, its low one to the odd lane.  The
         * permutation looks at the low four bits of a lane only. */
        __m512i b = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(packed + i / 2)));
        __m512i code = _mm512_or_si512(_mm512_srli_epi64(b, 4), _mm512_slli_epi64(b, 32));
        _mm512_storeu_ps(dst + i, _mm512_permutexvar_ps(code, table));
    }
}

static void decode_4bit_avx512(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    enum { SCALES = 32 };
    const __m512 table = _mm512_loadu_ps(w->code);
    const uint8_t *packed = w->data;
    float scales[SCALES];
    for (int64_t at = begin, end = begin + n; at < end;) {
        int64_t first = at / w->blocksize, last = (end - 1) / w->blocksize;
        int64_t count = last - first + 1 < SCALES ? last - first + 1 : SCALES;
        lt_nf4_scales(scales, w, first, count);
        for (int64_t b = 0; b < count; b++) {
            int64_t stop = (first + b + 1) * w->blocksize < end ? (first + b + 1) * w->blocksize : end;
            int64_t whole = (at & 1) != 0 ? 0 : (stop - at) / 16 * 16;
            decode_nibbles(dst + (at - begin), packed + at / 2, whole, table, scales[b]);
            at += whole;
            if (at < stop)
                lt_nf4_dequantize(dst + (at - begin), w, at, stop - at);
            at = stop;
        }
    }
}

void lt_decode_kernels_avx512(struct lt_cpu_kernels *k)
{
    k->decode[LT_WEIGHT_BF16] = decode_bf16_avx512;
    k->decode[LT_WEIGHT_F16] = decode_f16_avx512;
    k->decode[LT_WEIGHT_NF4] = decode_4bit_avx512;
    k->decode[LT_WEIGHT_FP4] = decode_4bit_avx512;
}
