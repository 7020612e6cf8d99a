/* Cross entropy of one row of logits for AVX-512. */
#include "backends/cpu/x86/x86_kernels.h"

#include <math.h>

#include "backends/cpu/x86/vecmath_avx512.h"

/* Logits summed in f32 lanes before the sum moves to double: with 128k of them the error stays below 1e-6. */
enum { BLOCK = 1024 };

/* t = tanh(x / cap), so that the logits are cap * t. */
static void soft_cap(float *t, const float *x, int64_t n, float cap)
{
    const __m512 inverse = _mm512_set1_ps(1.0f / cap);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), inverse);
        _mm512_mask_storeu_ps(t + i, m, lt_tanh_avx512(v));
    }
}

/* Lanes behind the row hold -infinity. */
static inline __m512 load_logits(const float *t, int64_t n, __m512 cap)
{
    __mmask16 m = lt_lanes_avx512(n);
    return _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), m, _mm512_maskz_loadu_ps(m, t), cap);
}

static float block_max(const float *t, int64_t n, float cap)
{
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (int64_t i = 0; i < n; i += 16)
        top = _mm512_max_ps(load_logits(t + i, n - i, _mm512_set1_ps(cap)), top);
    return lt_max_avx512(top);
}

static double block_sum(const float *t, int64_t n, float cap, float reference)
{
    const __m512 c = _mm512_set1_ps(cap), m = _mm512_set1_ps(reference);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 32) {
        even = _mm512_add_ps(even, lt_exp_avx512(_mm512_sub_ps(load_logits(t + i, n - i, c), m)));
        odd = _mm512_add_ps(odd, lt_exp_avx512(_mm512_sub_ps(load_logits(t + i + 16, n - i - 16, c), m)));
    }
    return (double)lt_sum_avx512(_mm512_add_ps(even, odd));
}

static void gradient(float *row, int64_t n, float softcap, float max, float factor)
{
    const __m512 cap = _mm512_set1_ps(softcap != 0.0f ? softcap : 1.0f);
    const __m512 reference = _mm512_set1_ps(max), f = _mm512_set1_ps(factor), one = _mm512_set1_ps(1.0f);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        __m512 t = _mm512_maskz_loadu_ps(m, row + i);
        __m512 d = _mm512_mul_ps(lt_exp_avx512(_mm512_sub_ps(_mm512_mul_ps(t, cap), reference)), f);
        if (softcap != 0.0f)
            d = _mm512_mul_ps(d, _mm512_fnmadd_ps(t, t, one));
        _mm512_mask_storeu_ps(row + i, m, d);
    }
}

static void cross_entropy_row_avx512(float *logits, int64_t vocab, int64_t label, float softcap, bool grad,
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

void lt_cross_entropy_kernels_avx512(struct lt_cpu_kernels *k)
{
    k->cross_entropy_row = cross_entropy_row_avx512;
}
