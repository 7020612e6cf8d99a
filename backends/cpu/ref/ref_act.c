/* Activations (op_attr.h) and gated units (Shazeer 2020). */
#include "backends/cpu/ref/ref_kernels.h"

#include <math.h>

static inline float gelu_inner(float x)
{
    return 0x1.988454p-1f * x * (1.0f + 0.044715f * x * x);
}

static float act_value(float x, enum lt_activation act)
{
    switch (act) {
    case LT_ACT_SILU:
        return x / (1.0f + expf(-x));
    case LT_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(gelu_inner(x)));
    case LT_ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0x1.6a09e6p-1f));
    case LT_ACT_RELU:
        break;
    }
    return x <= 0.0f ? 0.0f : x; /* NaN stays */
}

/* Both GELUs are saturated at |x| = 16; the clamp keeps 0 * infinity out. */
static float act_slope(float x, enum lt_activation act)
{
    if (act == LT_ACT_SILU) {
        float s = 1.0f / (1.0f + expf(-x));
        return s * (1.0f + x * (1.0f - s));
    }
    if (act == LT_ACT_RELU)
        return x <= 0.0f ? 0.0f : 1.0f;
    x = x > 16.0f ? 16.0f : x < -16.0f ? -16.0f : x;
    if (act == LT_ACT_GELU_TANH) {
        float t = tanhf(gelu_inner(x));
        float inner_slope = 0x1.988454p-1f * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner_slope;
    }
    /* x / sqrt(2 pi) times the bell */
    return 0.5f * (1.0f + erff(x * 0x1.6a09e6p-1f)) + x * 0x1.988454p-2f * expf(-0.5f * x * x);
}

static void act_fwd_ref(float *y, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = act_value(x[i], act);
}

static void act_bwd_ref(float *dx, const float *dy, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] * act_slope(x[i], act);
}

static void glu_fwd_ref(float *y, const float *gate, const float *up, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = act_value(gate[i], act) * up[i];
}

static void glu_bwd_ref(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                        int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i++) {
        float d = dy[i], g = gate[i], u = up[i];
        dup[i] = d * act_value(g, act);
        dgate[i] = d * u * act_slope(g, act);
    }
}

void lt_act_kernels_ref(struct lt_cpu_kernels *k)
{
    k->act_fwd = act_fwd_ref;
    k->act_bwd = act_bwd_ref;
    k->glu_fwd = glu_fwd_ref;
    k->glu_bwd = glu_bwd_ref;
}
