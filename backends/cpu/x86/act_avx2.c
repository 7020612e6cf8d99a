/* Activations and gated units for AVX2. */
#include "backends/cpu/x86/x86_kernels.h"

#include "backends/cpu/x86/vecmath_avx2.h"

static void act_fwd_avx2(float *y, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 8)
        lt_store_avx2(y + i, n - i, lt_act_avx2(lt_load_avx2(x + i, n - i), act));
}

static void act_bwd_avx2(float *dx, const float *dy, const float *x, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 8) {
        __m256 slope = lt_act_slope_avx2(lt_load_avx2(x + i, n - i), act);
        lt_store_avx2(dx + i, n - i, _mm256_mul_ps(lt_load_avx2(dy + i, n - i), slope));
    }
}

static void glu_fwd_avx2(float *y, const float *gate, const float *up, int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 8) {
        __m256 a = lt_act_avx2(lt_load_avx2(gate + i, n - i), act);
        lt_store_avx2(y + i, n - i, _mm256_mul_ps(a, lt_load_avx2(up + i, n - i)));
    }
}

static void glu_bwd_avx2(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                         int64_t n, enum lt_activation act)
{
    for (int64_t i = 0; i < n; i += 8) {
        __m256 g = lt_load_avx2(gate + i, n - i), u = lt_load_avx2(up + i, n - i),
               d = lt_load_avx2(dy + i, n - i);
        __m256 d_up = _mm256_mul_ps(d, lt_act_avx2(g, act));
        __m256 d_gate = _mm256_mul_ps(_mm256_mul_ps(d, u), lt_act_slope_avx2(g, act));
        lt_store_avx2(dup + i, n - i, d_up);
        lt_store_avx2(dgate + i, n - i, d_gate);
    }
}

void lt_act_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->act_fwd = act_fwd_avx2;
    k->act_bwd = act_bwd_avx2;
    k->glu_fwd = glu_fwd_avx2;
    k->glu_bwd = glu_bwd_avx2;
}
