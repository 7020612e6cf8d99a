/* Gradient norm and AdamW for AVX2. */
#include "backends/cpu/x86/x86_kernels.h"

#include "backends/cpu/x86/vecmath_avx2.h"

enum { BLOCK = 4096 };

static double block_square_sum(const float *x, int64_t n)
{
    __m256d s[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j));
            s[j] = _mm256_fmadd_pd(v, v, s[j]);
        }
    }
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_add_pd(s[0], s[1]), _mm256_add_pd(s[2], s[3])));
    double sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static double sum_squares_avx2(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += BLOCK)
        sum += block_square_sum(x + i, n - i < BLOCK ? n - i : BLOCK);
    return sum;
}

/* No fused operation: the same bits as the portable kernel. */
static void adamw_avx2(float *p, float *m, float *v, const float *g, int64_t n, const struct lt_adamw_args *a)
{
    const __m256 keep = _mm256_set1_ps((float)(1.0 - a->lr * a->weight_decay));
    const __m256 step = _mm256_set1_ps((float)(a->lr / a->bias_correction1));
    const __m256 beta1 = _mm256_set1_ps((float)a->beta1), rest1 = _mm256_set1_ps((float)(1.0 - a->beta1));
    const __m256 beta2 = _mm256_set1_ps((float)a->beta2), rest2 = _mm256_set1_ps((float)(1.0 - a->beta2));
    const __m256 correction = _mm256_set1_ps((float)a->sqrt_bias_correction2), eps = _mm256_set1_ps((float)a->eps);
    for (int64_t i = 0; i < n; i += 8) {
        __m256i mask = lt_lanes_avx2(n - i < 8 ? n - i : 8);
        __m256 grad = _mm256_mul_ps(_mm256_maskload_ps(g + i, mask), _mm256_set1_ps(a->clip));
        __m256 m1 =
            _mm256_add_ps(_mm256_mul_ps(beta1, _mm256_maskload_ps(m + i, mask)), _mm256_mul_ps(rest1, grad));
        __m256 v1 = _mm256_add_ps(_mm256_mul_ps(beta2, _mm256_maskload_ps(v + i, mask)),
                                  _mm256_mul_ps(rest2, _mm256_mul_ps(grad, grad)));
        __m256 denominator = _mm256_add_ps(_mm256_div_ps(_mm256_sqrt_ps(v1), correction), eps);
        __m256 change = _mm256_mul_ps(step, _mm256_div_ps(m1, denominator));
        __m256 value = _mm256_sub_ps(_mm256_mul_ps(_mm256_maskload_ps(p + i, mask), keep), change);
        if (n - i >= 8) {
            _mm256_storeu_ps(m + i, m1);
            _mm256_storeu_ps(v + i, v1);
            _mm256_storeu_ps(p + i, value);
        } else {
            _mm256_maskstore_ps(m + i, mask, m1);
            _mm256_maskstore_ps(v + i, mask, v1);
            _mm256_maskstore_ps(p + i, mask, value);
        }
    }
}

void lt_optimizer_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->sum_squares = sum_squares_avx2;
    k->adamw = adamw_avx2;
}
