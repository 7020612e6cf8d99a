/* Gradient norm and AdamW (Loshchilov and Hutter 2019, in torch's form). */
#include "backends/cpu/ref/ref_kernels.h"

#include <math.h>

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

static void adamw_ref(float *p, float *m, float *v, const float *g, int64_t n, const struct lt_adamw_args *a)
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

void lt_optimizer_kernels_ref(struct lt_cpu_kernels *k)
{
    k->sum_squares = sum_squares_ref;
    k->adamw = adamw_ref;
}
