/* Activations and gated units for AVX-512. */
#include "backends/cpu/x86/x86_kernels.h"

#include "backends/cpu/x86/vecmath_avx512.h"

static void act_fwd_avx512(float *y, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        _mm512_mask_storeu_ps(y + i, m, lt_act_avx512(_mm512_maskz_loadu_ps(m, x + i), act));
    }
}

static void act_bwd_avx512(float *dx, const float *dy, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        __m512 slope = lt_act_slope_avx512(_mm512_maskz_loadu_ps(m, x + i), act);
        _mm512_mask_storeu_ps(dx + i, m, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, dy + i), slope));
    }
}

static void glu_fwd_avx512(float *y, const float *gate, const float *up, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        __m512 a = lt_act_avx512(_mm512_maskz_loadu_ps(m, gate + i), act);
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(a, _mm512_maskz_loadu_ps(m, up + i)));
    }
}

static void glu_bwd_avx512(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                           int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lt_lanes_avx512(n - i);
        __m512 g = _mm512_maskz_loadu_ps(m, gate + i), u = _mm512_maskz_loadu_ps(m, up + i);
        __m512 d = _mm512_maskz_loadu_ps(m, dy + i);
        __m512 d_up = _mm512_mul_ps(d, lt_act_avx512(g, act));
        __m512 d_gate = _mm512_mul_ps(_mm512_mul_ps(d, u), lt_act_slope_avx512(g, act));
        _mm512_mask_storeu_ps(dup + i, m, d_up);
        _mm512_mask_storeu_ps(dgate + i, m, d_gate);
    }
}

void lt_act_kernels_avx512(struct lt_cpu_kernels *k)
{
    k->act_fwd = act_fwd_avx512;
    k->act_bwd = act_bwd_avx512;
    k->glu_fwd = glu_fwd_avx512;
    k->glu_bwd = glu_bwd_avx512;
}
