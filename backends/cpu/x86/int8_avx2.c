/* LLM.int8() for AVX2: activations to codes, and products of codes. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>
#include <string.h>

#include "quant/int8.h"

enum { STEP = 32, MAX_ROWS = 4 };

static inline __m256 load_f16_rounded(const float *x)
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT));
}

static inline __m256i magnitude(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

static int32_t lanes_max(__m256i v)
{
    int32_t lane[8], max = 0;
    _mm256_storeu_si256((__m256i *)(void *)lane, v);
    for (int i = 0; i < 8; i++)
        max = lane[i] > max ? lane[i] : max;
    return max;
}

/* Eight codes; adding 1.5 * 2^23 rounds to the nearest integer, which the low byte then holds. */
static inline void put_codes(int8_t *codes, __m256 v, __m256i zero)
{
    __m256i bits = _mm256_castps_si256(_mm256_add_ps(v, _mm256_set1_ps(0x1.8p+23f)));
    bits = _mm256_andnot_si256(zero, bits);
    const __m256i low_bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                               4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    bits = _mm256_shuffle_epi8(bits, low_bytes);
    int32_t half[2] = {_mm256_extract_epi32(bits, 0), _mm256_extract_epi32(bits, 4)};
    memcpy(codes, half, sizeof half);
}

static int64_t int8_quantize_avx2(int8_t *codes, float *scale, const float *x, int64_t n, float threshold,
                                  const uint8_t *skip)
{
    if (skip || n % 8 != 0)
        return lt_int8_quantize_row(codes, scale, x, n, threshold, skip);
    int32_t limit = INT32_MAX;
    if (threshold > 0.0f)
        memcpy(&limit, &threshold, sizeof limit);
    const __m256i below = _mm256_set1_epi32(limit - 1);
    __m256i max = _mm256_setzero_si256(), outliers = max;
    for (int64_t i = 0; i < n; i += 8) {
        __m256i m = magnitude(load_f16_rounded(x + i)), out = _mm256_cmpgt_epi32(m, below);
        outliers = _mm256_sub_epi32(outliers, out);
        max = _mm256_max_epi32(max, _mm256_andnot_si256(out, m));
    }
    int32_t top = lanes_max(max), lane[8];
    memcpy(scale, &top, sizeof top);
    const __m256 factor = _mm256_set1_ps(top == 0 ? 0.0f : 1.0f / *scale * 127.0f);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = load_f16_rounded(x + i);
        put_codes(codes + i, _mm256_mul_ps(v, factor), _mm256_cmpgt_epi32(magnitude(v), below));
    }
    int64_t count = 0;
    _mm256_storeu_si256((__m256i *)(void *)lane, outliers);
    for (int i = 0; i < 8; i++)
        count += lane[i];
    return count;
}

static inline int32_t lanes_sum(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static inline __m256i load(const int8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* `rows` rows of x (1 … MAX_ROWS) with one of w.  The products take |w|, up to 128, as unsigned bytes and x, within
 * 127, with w's sign: a pair of them stays within 16 bits. */
static inline void dot_rows(int32_t *acc, int64_t ldacc, const int8_t *x, int rows, const int8_t *w,
                            int64_t k)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[MAX_ROWS];
    int64_t p = 0;
    for (int i = 0; i < rows; i++)
        sum[i] = _mm256_setzero_si256();
    for (; p + STEP <= k; p += STEP) {
        __m256i b = load(w + p), size = _mm256_abs_epi8(b);
        for (int i = 0; i < rows; i++) {
            __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(load(x + i * k + p), b));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
        }
    }
    for (int i = 0; i < rows; i++) {
        int32_t s = lanes_sum(sum[i]);
        for (int64_t q = p; q < k; q++)
            s += (int32_t)x[i * k + q] * w[q];
        acc[i * ldacc] = s;
    }
}

static void int8_dot_avx2(int32_t *acc, int64_t ldacc, const int8_t *x, int64_t m, const int8_t *w, int64_t n,
                          int64_t k)
{
    int64_t i = 0;
    for (; i + MAX_ROWS <= m; i += MAX_ROWS)
        for (int64_t j = 0; j < n; j++)
            dot_rows(acc + i * ldacc + j, ldacc, x + i * k, MAX_ROWS, w + j * k, k);
    for (; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            dot_rows(acc + i * ldacc + j, ldacc, x + i * k, 1, w + j * k, k);
}

void lt_int8_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->int8_quantize = int8_quantize_avx2;
    k->int8_dot = int8_dot_avx2;
}
