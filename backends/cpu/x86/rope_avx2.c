/* Rotary position embedding for AVX2. */
#include "backends/cpu/x86/x86_kernels.h"

#include <string.h>

#include "backends/cpu/x86/vecmath_avx2.h"

/* Rotates the pairs (a[i], b[i]) of one head by the angles with cosines c and sines s. */
static void rotate_pairs(float *ya, float *yb, const float *a, const float *b, const float *c, const float *s,
                         int64_t n, __m256 sign)
{
    for (int64_t i = 0; i < n; i += 8) {
        __m256i mask = lt_lanes_avx2(n - i < 8 ? n - i : 8);
        __m256 u = _mm256_maskload_ps(a + i, mask), v = _mm256_maskload_ps(b + i, mask);
        __m256 cosine = _mm256_maskload_ps(c + i, mask);
        __m256 sine = _mm256_xor_ps(_mm256_maskload_ps(s + i, mask), sign);
        __m256 first = _mm256_fmsub_ps(u, cosine, _mm256_mul_ps(v, sine));
        __m256 second = _mm256_fmadd_ps(v, cosine, _mm256_mul_ps(u, sine));
        if (n - i >= 8) {
            _mm256_storeu_ps(ya + i, first);
            _mm256_storeu_ps(yb + i, second);
        } else {
            _mm256_maskstore_ps(ya + i, mask, first);
            _mm256_maskstore_ps(yb + i, mask, second);
        }
    }
}

static void rope_avx2(float *y, const float *x, const int32_t *positions, const float *table, int64_t rows,
                      int64_t heads, int64_t head_dim, int64_t rotary, bool inverse)
{
    const __m256 sign = _mm256_set1_ps(inverse ? -0.0f : 0.0f);
    int64_t half = rotary / 2;
    for (int64_t r = 0; r < rows; r++) {
        const float *cosines = table + (int64_t)positions[r] * rotary, *sines = cosines + half;
        for (int64_t h = 0; h < heads; h++, x += head_dim, y += head_dim) {
            rotate_pairs(y, y + half, x, x + half, cosines, sines, half, sign);
            if (y != x && rotary < head_dim)
                memcpy(y + rotary, x + rotary, (size_t)(head_dim - rotary) * sizeof *y);
        }
    }
}

void lt_rope_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->rope = rope_avx2;
}
