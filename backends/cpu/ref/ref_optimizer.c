/* Gradient norm and optimizers: AdamW (Loshchilov and Hutter 2019, in torch's form), 8-bit AdamW (Dettmers et al.
 * 2022, as bitsandbytes computes it on CUDA), SGD, Lion. */
#include "backends/cpu/ref/ref_kernels.h"

#include <float.h>
#include <math.h>

#include "quant/dynamic_map.h"

static double sum_squares_ref(const float *x, int64_t n)
{
    enum { BLOCK = 4096 };
    double sum = 0.0;
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        double block = 0.0;
        for (int64_t i = begin; i < n && i < begin + BLOCK; i++)
            block += (double)x[i] * (double)x[i];
        sum += block;
    }
    return sum;
}

static void adamw_ref(float *p, float *m, float *v, const float *g, int64_t n,
                      const struct lt_optimizer_args *a)
{
    const float keep = (float)(1.0 - a->lr * a->weight_decay);
    const float step = (float)(a->lr / a->bias_correction1);
    const float beta1 = (float)a->beta1, rest1 = (float)(1.0 - a->beta1);
    const float beta2 = (float)a->beta2, rest2 = (float)(1.0 - a->beta2);
    const float correction = (float)a->sqrt_bias_correction2, eps = (float)a->eps;
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * a->clip;
        m[i] = beta1 * m[i] + rest1 * grad;
        v[i] = beta2 * v[i] + rest2 * (grad * grad);
        float denominator = sqrtf(v[i]) / correction + eps;
        p[i] = p[i] * keep - step * (m[i] / denominator);
    }
}

/* ---- 8-bit AdamW ---- */

/* The reciprocal of an absmax of 0 or of the smallest numbers is infinite; a finite one makes the codes of such a
 * block those of numbers near 0. */
static float code_scale(float absmax)
{
    return fminf(1.0f / absmax, FLT_MAX);
}

/* Quantization must not give a moment the other sign.  Zeros of both signs get the code of 0: without a gradient a
 * parameter stays where it is. */
static uint8_t signed_code(float m, float scale)
{
    uint8_t code = lt_dynamic_nearest(lt_dynamic_map_signed, m * scale);
    bool negative = lt_dynamic_map_signed[code] < 0.0f;
    if (m > 0.0f && negative)
        return (uint8_t)(code + 1);
    return (uint8_t)(m < 0.0f && !negative ? code - 1 : code);
}

static void adamw8_block(float *p, uint8_t *m_codes, float *m_absmax, uint8_t *v_codes, float *v_absmax,
                         const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const float keep = (float)(1.0 - a->lr * a->weight_decay);
    const float step = (float)(a->lr * a->sqrt_bias_correction2 / a->bias_correction1);
    const float beta1 = (float)a->beta1, rest1 = (float)(1.0 - a->beta1);
    const float beta2 = (float)a->beta2, rest2 = (float)(1.0 - a->beta2);
    const float eps = (float)(a->sqrt_bias_correction2 * a->eps);
    float m[LT_OPTIM_BLOCK], v[LT_OPTIM_BLOCK], m_largest = 0.0f, v_largest = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * a->clip;
        m[i] = v[i] = 0.0f;
        if (isfinite(grad * grad)) {
            m[i] = beta1 * (lt_dynamic_map_signed[m_codes[i]] * *m_absmax) + rest1 * grad;
            v[i] = beta2 * (lt_dynamic_map_unsigned[v_codes[i]] * *v_absmax) + rest2 * grad * grad;
            p[i] = (p[i] - step * m[i] / (sqrtf(v[i]) + eps)) * keep;
        }
        m_largest = fabsf(m[i]) > m_largest ? fabsf(m[i]) : m_largest;
        v_largest = v[i] > v_largest ? v[i] : v_largest;
    }
    *m_absmax = m_largest;
    *v_absmax = v_largest;
    for (int64_t i = 0; i < n; i++) {
        m_codes[i] = signed_code(m[i], code_scale(m_largest));
        v_codes[i] = lt_dynamic_nearest(lt_dynamic_map_unsigned, v[i] * code_scale(v_largest));
    }
}

static void adamw8_ref(float *p, uint8_t *m_codes, float *m_absmax, uint8_t *v_codes, float *v_absmax,
                       const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    for (int64_t i = 0; i < n; i += LT_OPTIM_BLOCK)
        adamw8_block(p + i, m_codes + i, m_absmax + i / LT_OPTIM_BLOCK, v_codes + i,
                     v_absmax + i / LT_OPTIM_BLOCK, g + i, n - i < LT_OPTIM_BLOCK ? n - i : LT_OPTIM_BLOCK,
                     a);
}

/* ---- SGD, Lion ---- */

static void sgd_ref(float *p, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const float lr = (float)a->lr, decay = (float)a->weight_decay;
    for (int64_t i = 0; i < n; i++)
        p[i] = p[i] - lr * (g[i] * a->clip + decay * p[i]);
}

static void lion_ref(float *p, float *m, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const float keep = (float)(1.0 - a->lr * a->weight_decay), lr = (float)a->lr;
    const float beta1 = (float)a->beta1, rest1 = (float)(1.0 - a->beta1);
    const float beta2 = (float)a->beta2, rest2 = (float)(1.0 - a->beta2);
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * a->clip, direction = beta1 * m[i] + rest1 * grad;
        float change = direction > 0.0f ? lr : direction < 0.0f ? -lr : 0.0f;
        p[i] = p[i] * keep - change;
        m[i] = beta2 * m[i] + rest2 * grad;
    }
}

void lt_optimizer_kernels_ref(struct lt_cpu_kernels *k)
{
    k->sum_squares = sum_squares_ref;
    k->adamw = adamw_ref;
    k->adamw8 = adamw8_ref;
    k->sgd = sgd_ref;
    k->lion = lion_ref;
}
