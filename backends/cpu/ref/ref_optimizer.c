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
    const float keep = (float)(1.0 - (double)a->lr * (double)a->weight_decay);
    const float step = (float)((double)a->lr / (double)a->bias_correction1);
    const float rest1 = (float)(1.0 - (double)a->beta1), rest2 = (float)(1.0 - (double)a->beta2);
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * a->clip;
        m[i] = a->beta1 * m[i] + rest1 * grad;
        v[i] = a->beta2 * v[i] + rest2 * (grad * grad);
        float denominator = sqrtf(v[i]) / a->sqrt_bias_correction2 + a->eps;
        p[i] = p[i] * keep - step * (m[i] / denominator);
    }
}

void lt_optimizer_kernels_ref(struct lt_cpu_kernels *k)
{
    k->sum_squares = sum_squares_ref;
    k->adamw = adamw_ref;
}
