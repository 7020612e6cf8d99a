/* Cross entropy of one row of logits for NEON. */
#include "backends/cpu/arm/arm_kernels.h"

#include <math.h>

#include "backends/cpu/arm/vecmath_neon.h"

/* Logits summed in f32 lanes before the sum moves to double: with 128k of them the error stays below 1e-6. */
enum { BLOCK = 1024, SUMS = 4 };

/* t = tanh(x / cap), so that the logits are cap * t. */
static void soft_cap(float *t, const float *x, int64_t n, float cap)
{
    const float inverse = 1.0f / cap;
    for (int64_t i = 0; i < n; i += 4)
        lt_store_neon(t + i, n - i, lt_tanh_neon(vmulq_n_f32(lt_load_neon(x + i, n - i), inverse)));
}

/* Lanes behind the row hold -infinity. */
static inline float32x4_t load_logits(const float *t, int64_t n, float cap)
{
    float32x4_t z = vmulq_n_f32(lt_load_neon(t, n), cap);
    return n >= 4 ? z : vbslq_f32(lt_lanes_neon(n), z, vdupq_n_f32(-INFINITY));
}

/* The largest number; NaN does not count. */
static float block_max(const float *t, int64_t n, float cap)
{
    float32x4_t top = vdupq_n_f32(-INFINITY);
    for (int64_t i = 0; i < n; i += 4)
        top = vmaxnmq_f32(load_logits(t + i, n - i, cap), top);
    return vmaxnmvq_f32(top);
}

static double block_sum(const float *t, int64_t n, float cap, float reference)
{
    const float32x4_t m = vdupq_n_f32(reference);
    float32x4_t s[SUMS];
    for (int j = 0; j < SUMS; j++)
        s[j] = vdupq_n_f32(0.0f);
    int64_t i = 0;
    for (; i + 4 * SUMS <= n; i += 4 * SUMS)
#pragma GCC unroll 4
        for (int j = 0; j < SUMS; j++)
            s[j] =
                vaddq_f32(s[j], lt_exp_weight_neon(vsubq_f32(vmulq_n_f32(vld1q_f32(t + i + 4 * j), cap), m)));
    for (int j = 0; i < n; i += 4, j++)
        s[j] = vaddq_f32(s[j], lt_exp_weight_neon(vsubq_f32(load_logits(t + i, n - i, cap), m)));
    return (double)vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
}

static void gradient(float *row, int64_t n, float softcap, float max, float factor)
{
    const float32x4_t m = vdupq_n_f32(max), one = vdupq_n_f32(1.0f);
    const float cap = softcap != 0.0f ? softcap : 1.0f;
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t t = lt_load_neon(row + i, n - i);
        float32x4_t d = vmulq_n_f32(lt_exp_weight_neon(vsubq_f32(vmulq_n_f32(t, cap), m)), factor);
        if (softcap != 0.0f)
            d = vmulq_f32(d, vfmsq_f32(one, t, t));
        lt_store_neon(row + i, n - i, d);
    }
}

static void cross_entropy_row_neon(float *logits, int64_t vocab, int64_t label, float softcap, bool grad,
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

void lt_cross_entropy_kernels_neon(struct lt_cpu_kernels *k)
{
    k->cross_entropy_row = cross_entropy_row_neon;
}
