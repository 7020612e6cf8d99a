/* Cross entropy of one row of logits for AVX2. */
#include "backends/cpu/x86/x86_kernels.h"

#include <math.h>

#include "backends/cpu/x86/vecmath_avx2.h"

/* Logits summed in f32 lanes before the sum moves to double: with 128k of them the error stays below 1e-6. */
enum { BLOCK = 1024 };

/* t = tanh(x / cap), so that the logits are cap * t. */
static void soft_cap(float *t, const float *x, int64_t n, float cap)
{
    const __m256 inverse = _mm256_set1_ps(1.0f / cap);
    for (int64_t i = 0; i < n; i += 8)
        lt_store_avx2(t + i, n - i, lt_tanh_avx2(_mm256_mul_ps(lt_load_avx2(x + i, n - i), inverse)));
}

/* Lanes behind the row hold -infinity. */
static inline __m256 load_logits(const float *t, int64_t n, __m256 cap)
{
    __m256 z = _mm256_mul_ps(lt_load_avx2(t, n), cap);
    return n >= 8 ? z : _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), z, _mm256_castsi256_ps(lt_lanes_avx2(n)));
}

static float block_max(const float *t, int64_t n, float cap)
{
    __m256 top = _mm256_set1_ps(-INFINITY);
    for (int64_t i = 0; i < n; i += 8)
        top = _mm256_max_ps(load_logits(t + i, n - i, _mm256_set1_ps(cap)), top);
    return lt_max_avx2(top);
}

static double block_sum(const float *t, int64_t n, float cap, float reference)
{
    const __m256 c = _mm256_set1_ps(cap), m = _mm256_set1_ps(reference);
    __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        even = _mm256_add_ps(even, lt_exp_weight_avx2(_mm256_sub_ps(load_logits(t + i, n - i, c), m)));
        if (i + 8 < n)
            odd = _mm256_add_ps(odd,
                                lt_exp_weight_avx2(_mm256_sub_ps(load_logits(t + i + 8, n - i - 8, c), m)));
    }
    return (double)lt_sum_avx2(_mm256_add_ps(even, odd));
}

static void gradient(float *row, int64_t n, float softcap, float max, float factor)
{
    const __m256 cap = _mm256_set1_ps(softcap != 0.0f ? softcap : 1.0f);
    const __m256 m = _mm256_set1_ps(max), f = _mm256_set1_ps(factor), one = _mm256_set1_ps(1.0f);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 t = lt_load_avx2(row + i, n - i);
        __m256 e = lt_exp_weight_avx2(_mm256_sub_ps(_mm256_mul_ps(t, cap), m));
        __m256 d = _mm256_mul_ps(e, f);
        if (softcap != 0.0f)
            d = _mm256_mul_ps(d, _mm256_fnmadd_ps(t, t, one));
        lt_store_avx2(row + i, n - i, d);
    }
}

static void cross_entropy_row_avx2(float *logits, int64_t vocab, int64_t label, float softcap, bool grad,
                                   float grad_scale, float *loss, int32_t *argmax)
{
    float max = -INFINITY, capped[BLOCK];
    const float cap = softcap != 0.0f ? softcap : 1.0f;
    double sum = 0.0;
    float label_t = 0.0f;
    *argmax = 0;
    for (int64_t begin = 0; begin < vocab; begin += BLOCK) {
        int64_t n = vocab - begin < BLOCK ? vocab - begin : BLOCK;
        const float *t = logits + begin;
        if (softcap != 0.0f) {
            float *to = grad ? logits + begin : capped;
            soft_cap(to, t, n, softcap);
            t = to;
        }
        float top = block_max(t, n, cap);
        if (top > max) {
            int64_t i = 0;
            while (t[i] * cap != top)
                i++;
            *argmax = (int32_t)(begin + i);
            /* exp(-infinity - top) = 0: nothing but zeros so far. */
            sum *= exp((double)max - (double)top);
            max = top;
        }
        sum += block_sum(t, n, cap, max == -INFINITY ? 0.0f : max);
        if (label >= begin && label < begin + n)
            label_t = t[label - begin];
    }
    double lse = (double)max + log(sum), z = (double)(label_t * cap);
    *loss = (float)(lse - z);
    if (!grad)
        return;
    gradient(logits, vocab, softcap, max, (float)((double)grad_scale / sum));
    double slope = softcap != 0.0f ? 1.0 - (double)label_t * (double)label_t : 1.0;
    logits[label] = (float)(expm1(z - lse) * (double)grad_scale * slope);
}

void lt_cross_entropy_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->cross_entropy_row = cross_entropy_row_avx2;
}
