/* Cross entropy of one row of logits, sums in double. */
#include "backends/cpu/ref/ref_kernels.h"

#include <math.h>

static inline float logit(float raw, float softcap)
{
    return softcap != 0.0f ? softcap * tanhf(raw / softcap) : raw;
}

static void gradient(float *row, int64_t vocab, int64_t label, float softcap, float grad_scale, double lse)
{
    for (int64_t i = 0; i < vocab; i++) {
        float z = logit(row[i], softcap);
        double p = exp((double)z - lse);
        double d = i == label ? expm1((double)z - lse) : p;
        double t = softcap != 0.0f ? (double)z / (double)softcap : 0.0;
        row[i] = (float)(d * (double)grad_scale * (1.0 - t * t));
    }
}

static void cross_entropy_row_ref(float *logits, int64_t vocab, int64_t label, float softcap, bool grad,
                                  float grad_scale, float *loss, int32_t *argmax)
{
    float max = -INFINITY;
    *argmax = 0;
    for (int64_t i = 0; i < vocab; i++) {
        float z = logit(logits[i], softcap);
        if (z > max) {
            max = z;
            *argmax = (int32_t)i;
        }
    }
    double sum = 0.0;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logit(logits[i], softcap) - (max == -INFINITY ? 0.0 : (double)max));
    double lse = (double)max + log(sum);
    *loss = (float)(lse - (double)logit(logits[label], softcap));
    if (grad)
        gradient(logits, vocab, label, softcap, grad_scale, lse);
}

void lt_cross_entropy_kernels_ref(struct lt_cpu_kernels *k)
{
    k->cross_entropy_row = cross_entropy_row_ref;
}
