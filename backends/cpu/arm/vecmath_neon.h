/* exp, tanh, erf, the activations and small vector helpers, 4 floats at a time.
 *
 * The polynomials and coefficients are those of vecmath_avx2.h: minimax fits (Remez, weighted for relative error),
 * every function within 2 ulp.  NaN in, NaN out.  A lane's result depends on that lane alone. */
#ifndef LT_CPU_VECMATH_NEON_H
#define LT_CPU_VECMATH_NEON_H

#include <arm_neon.h>
#include <stdint.h>

#include "core/backend/op_attr.h"

/* The first n of 4 elements, all of them when n is more; the other lanes read 0 and are not written. */
static inline float32x4_t lt_load_neon(const float *p, int64_t n)
{
    if (n >= 4)
        return vld1q_f32(p);
    float32x4_t v = vdupq_n_f32(0.0f);
    if (n > 2)
        v = vld1q_lane_f32(p + 2, v, 2);
    if (n > 1)
        v = vld1q_lane_f32(p + 1, v, 1);
    return vld1q_lane_f32(p, v, 0);
}

static inline void lt_store_neon(float *p, int64_t n, float32x4_t v)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    if (n > 2)
        vst1q_lane_f32(p + 2, v, 2);
    if (n > 1)
        vst1q_lane_f32(p + 1, v, 1);
    vst1q_lane_f32(p, v, 0);
}

/* All ones in the lanes of elements [0, n). */
static inline uint32x4_t lt_lanes_neon(int64_t n)
{
    static const uint32_t at[4] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(at), vdupq_n_u32((uint32_t)n));
}

/* v in the lanes of the mask, 0 elsewhere. */
static inline float32x4_t lt_and_neon(uint32x4_t mask, float32x4_t v)
{
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(v)));
}

/* c + x * constant in front of the next power: one step of Horner's rule. */
static inline float32x4_t lt_horner_neon(float32x4_t q, float32x4_t x, float c)
{
    return vfmaq_f32(vdupq_n_f32(c), q, x);
}

/* exp(r) for |r| <= ln2/2: 1 + r + r^2 q(r), error of q 3.3e-9. */
static inline float32x4_t lt_exp_poly_neon(float32x4_t r)
{
    float32x4_t q = vdupq_n_f32(0x1.6a1a72p-10f);
    q = lt_horner_neon(q, r, 0x1.123fc6p-7f);
    q = lt_horner_neon(q, r, 0x1.555916p-5f);
    q = lt_horner_neon(q, r, 0x1.55548ap-3f);
    q = lt_horner_neon(q, r, 0x1.fffffcp-2f);
    q = vfmaq_f32(r, vmulq_f32(r, r), q);
    return vaddq_f32(q, vdupq_n_f32(1.0f));
}

/* x = n ln2 + r with ln2 in two pieces; n comes back in *n. */
static inline float32x4_t lt_exp_reduce_neon(float32x4_t x, float32x4_t *n)
{
    *n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(0x1.715476p+0f)));
    float32x4_t r = vfmsq_f32(x, *n, vdupq_n_f32(0x1.62e400p-1f));
    return vfmsq_f32(r, *n, vdupq_n_f32(0x1.7f7d1cp-20f));
}

/* 2^n for n = -127 (then 0) to 127. */
static inline float32x4_t lt_power_of_2_neon(int32x4_t n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

/* Full range: subnormal results, 0 and infinity included. */
static inline float32x4_t lt_exp_neon(float32x4_t x)
{
    x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-104.0f)), vdupq_n_f32(89.0f));
    float32x4_t n, p = lt_exp_poly_neon(lt_exp_reduce_neon(x, &n));
    /* 2^n in two factors, since n reaches 128 and -150. */
    int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    p = vmulq_f32(p, lt_power_of_2_neon(half));
    return vmulq_f32(p, lt_power_of_2_neon(vsubq_s32(whole, half)));
}

/* For weights of a softmax: x <= 88; results below the smallest normal number are 0. */
static inline float32x4_t lt_exp_weight_neon(float32x4_t x)
{
    x = vmaxq_f32(x, vdupq_n_f32(-88.0f));
    float32x4_t n, p = lt_exp_poly_neon(lt_exp_reduce_neon(x, &n));
    return vmulq_f32(p, lt_power_of_2_neon(vcvtq_s32_f32(n)));
}

/* The sign of x on y >= 0. */
static inline float32x4_t lt_copysign_neon(float32x4_t y, float32x4_t x)
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, y);
}

/* |x| < 0.625: x + x^3 P(x^2); above: 1 - 2 / (exp(2|x|) + 1), the 1.6 ulp of the quotient being worth a
 * fraction of an ulp of the result. */
static inline float32x4_t lt_tanh_neon(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t a = vabsq_f32(x);
    float32x4_t e = lt_exp_weight_neon(vminq_f32(vaddq_f32(a, a), vdupq_n_f32(20.0f)));
    float32x4_t large = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(e, one)));
    float32x4_t t = vmulq_f32(a, a);
    float32x4_t q = vdupq_n_f32(-0x1.75e1ccp-8f);
    q = lt_horner_neon(q, t, 0x1.52269cp-6f);
    q = lt_horner_neon(q, t, -0x1.b83c5ap-5f);
    q = lt_horner_neon(q, t, 0x1.110726p-3f);
    q = lt_horner_neon(q, t, -0x1.555532p-2f);
    float32x4_t small = vfmaq_f32(a, vmulq_f32(a, t), q);
    return lt_copysign_neon(vbslq_f32(vcltq_f32(a, vdupq_n_f32(0.625f)), small, large), x);
}

/* |x| < 1: x + x P(x^2); above: 1 - exp(-Q(|x|)), Q a fit of -log(erfc). */
static inline float32x4_t lt_erf_neon(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t a = vabsq_f32(x), b = vminq_f32(a, vdupq_n_f32(3.95f));
    float32x4_t q = vdupq_n_f32(-0x1.87b226p-13f);
    q = lt_horner_neon(q, b, 0x1.82e7f6p-9f);
    q = lt_horner_neon(q, b, -0x1.6617bap-6f);
    q = lt_horner_neon(q, b, 0x1.a67e56p-4f);
    q = lt_horner_neon(q, b, 0x1.46b438p-1f);
    q = lt_horner_neon(q, b, 0x1.208b18p+0f);
    q = lt_horner_neon(q, b, 0x1.5cdfe8p-12f);
    float32x4_t large = vsubq_f32(one, lt_exp_weight_neon(vnegq_f32(q)));
    float32x4_t t = vmulq_f32(a, a);
    float32x4_t p = vdupq_n_f32(0x1.496a32p-14f);
    p = lt_horner_neon(p, t, -0x1.a3f700p-11f);
    p = lt_horner_neon(p, t, 0x1.5405b2p-8f);
    p = lt_horner_neon(p, t, -0x1.b7f90ep-6f);
    p = lt_horner_neon(p, t, 0x1.ce2cf8p-4f);
    p = lt_horner_neon(p, t, -0x1.81273ep-2f);
    p = lt_horner_neon(p, t, 0x1.06eba8p-3f);
    float32x4_t small = vfmaq_f32(a, a, p);
    return lt_copysign_neon(vbslq_f32(vcltq_f32(a, one), small, large), x);
}

/* sqrt(2/pi) (x + 0.044715 x^3) */
static inline float32x4_t lt_gelu_inner_neon(float32x4_t x)
{
    float32x4_t p = vfmaq_f32(vdupq_n_f32(1.0f), vmulq_f32(x, x), vdupq_n_f32(0.044715f));
    return vmulq_f32(vmulq_n_f32(x, 0x1.988454p-1f), p);
}

static inline float32x4_t lt_act_neon(float32x4_t x, enum lt_activation act)
{
    const float32x4_t one = vdupq_n_f32(1.0f), half_x = vmulq_n_f32(x, 0.5f);
    switch (act) {
    case LT_ACT_SILU:
        return vdivq_f32(x, vaddq_f32(one, lt_exp_neon(vnegq_f32(x))));
    case LT_ACT_GELU_TANH:
        return vmulq_f32(half_x, vaddq_f32(one, lt_tanh_neon(lt_gelu_inner_neon(x))));
    case LT_ACT_GELU:
        return vmulq_f32(half_x, vaddq_f32(one, lt_erf_neon(vmulq_n_f32(x, 0x1.6a09e6p-1f))));
    case LT_ACT_RELU:
        break;
    }
    return lt_and_neon(vmvnq_u32(vcleq_f32(x, vdupq_n_f32(0.0f))), x);
}

/* d act / dx.  Both GELUs are saturated at |x| = 16; the clamp keeps 0 * infinity out. */
static inline float32x4_t lt_act_slope_neon(float32x4_t x, enum lt_activation act)
{
    const float32x4_t one = vdupq_n_f32(1.0f), half = vdupq_n_f32(0.5f);
    if (act == LT_ACT_SILU) {
        float32x4_t s = vdivq_f32(one, vaddq_f32(one, lt_exp_neon(vnegq_f32(x))));
        return vmulq_f32(s, vfmaq_f32(one, x, vsubq_f32(one, s)));
    }
    if (act == LT_ACT_RELU)
        return lt_and_neon(vmvnq_u32(vcleq_f32(x, vdupq_n_f32(0.0f))), one);
    x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-16.0f)), vdupq_n_f32(16.0f));
    if (act == LT_ACT_GELU_TANH) {
        float32x4_t t = lt_tanh_neon(lt_gelu_inner_neon(x));
        float32x4_t inner_slope = vfmaq_f32(one, vmulq_f32(x, x), vdupq_n_f32(3.0f * 0.044715f));
        inner_slope = vmulq_n_f32(inner_slope, 0x1.988454p-1f);
        float32x4_t right = vmulq_f32(vmulq_f32(vmulq_f32(half, x), vfmsq_f32(one, t, t)), inner_slope);
        return vfmaq_f32(right, half, vaddq_f32(one, t));
    }
    float32x4_t cdf = vmulq_f32(half, vaddq_f32(one, lt_erf_neon(vmulq_n_f32(x, 0x1.6a09e6p-1f))));
    float32x4_t bell = lt_exp_neon(vmulq_n_f32(vmulq_f32(x, x), -0.5f));
    return vfmaq_f32(cdf, vmulq_n_f32(x, 0x1.988454p-2f), bell);
}

#endif
