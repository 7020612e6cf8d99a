/* Activations and gated units for NEON. */
#include "backends/cpu/arm/arm_kernels.h"

#include "backends/cpu/arm/vecmath_neon.h"

static void act_fwd_neon(float *y, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 4)
        lt_store_neon(y + i, n - i, lt_act_neon(lt_load_neon(x + i, n - i), act));
}

static void act_bwd_neon(float *dx, const float *dy, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t slope = lt_act_slope_neon(lt_load_neon(x + i, n - i), act);
        lt_store_neon(dx + i, n - i, vmulq_f32(lt_load_neon(dy + i, n - i), slope));
    }
}

static void glu_fwd_neon(float *y, const float *gate, const float *up, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t a = lt_act_neon(lt_load_neon(gate + i, n - i), act);
        lt_store_neon(y + i, n - i, vmulq_f32(a, lt_load_neon(up + i, n - i)));
    }
}

static void glu_bwd_neon(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                         int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t g = lt_load_neon(gate + i, n - i), u = lt_load_neon(up + i, n - i),
                    d = lt_load_neon(dy + i, n - i);
        float32x4_t d_up = vmulq_f32(d, lt_act_neon(g, act));
        float32x4_t d_gate = vmulq_f32(vmulq_f32(d, u), lt_act_slope_neon(g, act));
        lt_store_neon(dup + i, n - i, d_up);
        lt_store_neon(dgate + i, n - i, d_gate);
    }
}

void lt_act_kernels_neon(struct lt_cpu_kernels *k)
{
    k->act_fwd = act_fwd_neon;
    k->act_bwd = act_bwd_neon;
    k->glu_fwd = glu_fwd_neon;
    k->glu_bwd = glu_bwd_neon;
}
