/* Dropout for AVX2: Philox4x32-10 (core/base/rng.h), eight counters at a time. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>

#include "backends/cpu/x86/vecmath_avx2.h"

enum { ROUNDS = 10, SPAN = 32 };

/* High and low halves of the products of all eight lanes with m. */
static inline __m256i multiply_high_low(__m256i x, __m256i m, __m256i *low)
{
    __m256i even = _mm256_mul_epu32(x, m);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

/* Bits of SPAN columns: in out[i], columns 8i to 8i + 7 of the span whose first block is `block`. */
static inline void philox_span(__m256i out[4], const struct lt_rng_site *site, uint32_t row_key,
                               uint32_t block)
{
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i x0 =
        _mm256_add_epi32(_mm256_set1_epi32((int32_t)block), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i x1 = _mm256_set1_epi32((int32_t)row_key);
    __m256i x2 = _mm256_setzero_si256();
    __m256i x3 = _mm256_set1_epi32((int32_t)site->step);
    uint32_t k0 = (uint32_t)site->seed ^ site->site, k1 = (uint32_t)(site->seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        __m256i low0, low1;
        __m256i high0 = multiply_high_low(x0, m0, &low0);
        __m256i high1 = multiply_high_low(x2, m1, &low1);
        x0 = _mm256_xor_si256(_mm256_xor_si256(high1, x1), _mm256_set1_epi32((int32_t)k0));
        x2 = _mm256_xor_si256(_mm256_xor_si256(high0, x3), _mm256_set1_epi32((int32_t)k1));
        x1 = low1;
        x3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    /* Column 4b + i is word i of block b: a 4 x 8 transposition. */
    __m256i a = _mm256_unpacklo_epi32(x0, x1), b = _mm256_unpackhi_epi32(x0, x1);
    __m256i c = _mm256_unpacklo_epi32(x2, x3), d = _mm256_unpackhi_epi32(x2, x3);
    __m256i b04 = _mm256_unpacklo_epi64(a, c), b15 = _mm256_unpackhi_epi64(a, c);
    __m256i b26 = _mm256_unpacklo_epi64(b, d), b37 = _mm256_unpackhi_epi64(b, d);
    out[0] = _mm256_permute2x128_si256(b04, b15, 0x20);
    out[1] = _mm256_permute2x128_si256(b26, b37, 0x20);
    out[2] = _mm256_permute2x128_si256(b04, b15, 0x31);
    out[3] = _mm256_permute2x128_si256(b26, b37, 0x31);
}

/* All ones where bits >= threshold, unsigned. */
static inline __m256 kept(__m256i bits, __m256i threshold)
{
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(bits, threshold), bits));
}

void lt_dropout_span_avx2(float *y, const float *x, int64_t n, const struct lt_rng_site *site,
                          uint32_t row_key, uint32_t column, uint32_t threshold, float scale)
{
    const __m256 factor = _mm256_set1_ps(scale);
    const __m256i limit = _mm256_set1_epi32((int32_t)threshold);
    for (int64_t i = 0; i < n; i += SPAN) {
        __m256i bits[4];
        philox_span(bits, site, row_key, (column + (uint32_t)i) / 4);
        for (int64_t j = 0; j < 4 && i + 8 * j < n; j++) {
            int64_t at = i + 8 * j;
            __m256 keep = kept(bits[j], limit);
            if (at + 8 <= n) {
                _mm256_storeu_ps(y + at, _mm256_and_ps(keep, _mm256_mul_ps(_mm256_loadu_ps(x + at), factor)));
            } else {
                __m256i mask = lt_lanes_avx2(n - at);
                __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + at, mask), factor);
                _mm256_maskstore_ps(y + at, mask, _mm256_and_ps(keep, v));
            }
        }
    }
}

void lt_keep_row_avx2(float *keep, int64_t n, const struct lt_rng_site *site, uint32_t row_key,
                      uint32_t column, uint32_t threshold, float scale)
{
    for (int64_t i = 0; i < n; i++)
        keep[i] = 1.0f;
    lt_dropout_span_avx2(keep, keep, n, site, row_key, column, threshold, scale);
}

static void dropout_avx2(float *y, const float *x, const uint32_t *row_key, int64_t rows, int64_t cols,
                         uint32_t threshold, float keep_scale, const struct lt_rng_site *site)
{
    for (int64_t r = 0; r < rows; r++)
        lt_dropout_span_avx2(y + r * cols, x + r * cols, cols, site, row_key[r], 0, threshold, keep_scale);
}

void lt_dropout_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->dropout = dropout_avx2;
}
