/* exp, tanh, erf, the activations and small vector helpers, 16 floats at a time.
 *
 * Only for translation units built for AVX-512 F/BW/VL/DQ.  The polynomials of vecmath_avx2.h, within
 * 2 ulp.  NaN in, NaN out.  A lane's result depends on that lane alone. */
#ifndef LT_CPU_VECMATH_AVX512_H
#define LT_CPU_VECMATH_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "core/backend/op_attr.h"

/* The first n lanes: none below 1, all from 16. */
static inline __mmask16 lt_lanes_avx512(int64_t n)
{
    uint32_t bits = n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u;
    return (__mmask16)bits;
}

/* Sum and maximum of the lanes, in a fixed order. */
static inline float lt_sum_avx512(__m512 x)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float lt_max_avx512(__m512 x)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* exp(x) of the live lanes, where |x| <= 104, 0 in the others. */
static inline __m512 lt_exp_live_avx512(__mmask16 live, __m512 x)
{
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e400p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 q = _mm512_set1_ps(0x1.6a1a72p-10f);
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.123fc6p-7f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.555916p-5f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.55548ap-3f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.fffffcp-2f));
    q = _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r);
    return _mm512_maskz_scalef_ps(live, _mm512_add_ps(q, _mm512_set1_ps(1.0f)), n);
}

/* Full range: scalef gives subnormals, 0 and infinity. */
static inline __m512 lt_exp_avx512(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
    return lt_exp_live_avx512(0xffff, x);
}

static inline __m512 lt_abs_avx512(__m512 x)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x);
}

/* |magnitude| with the sign of x. */
static inline __m512 lt_with_sign_avx512(__m512 magnitude, __m512 x)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(_mm512_set1_ps(-0.0f), x));
}

static inline __m512 lt_negate_avx512(__m512 x)
{
    return _mm512_xor_ps(_mm512_set1_ps(-0.0f), x);
}

static inline __m512 lt_tanh_avx512(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    __m512 a = lt_abs_avx512(x);
    __m512 e = lt_exp_avx512(_mm512_min_ps(_mm512_set1_ps(20.0f), _mm512_add_ps(a, a)));
    __m512 large = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(e, one)));
    __m512 t = _mm512_mul_ps(a, a);
    __m512 q = _mm512_set1_ps(-0x1.75e1ccp-8f);
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(0x1.52269cp-6f));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(-0x1.b83c5ap-5f));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(0x1.110726p-3f));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(-0x1.555532p-2f));
    __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(a, t), q, a);
    __mmask16 is_small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.625f), _CMP_LT_OQ);
    return lt_with_sign_avx512(_mm512_mask_mov_ps(large, is_small, small), x);
}

static inline __m512 lt_erf_avx512(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 a = lt_abs_avx512(x);
    __m512 b = _mm512_min_ps(_mm512_set1_ps(3.95f), a);
    __m512 q = _mm512_set1_ps(-0x1.87b226p-13f);
    q = _mm512_fmadd_ps(q, b, _mm512_set1_ps(0x1.82e7f6p-9f));
    q = _mm512_fmadd_ps(q, b, _mm512_set1_ps(-0x1.6617bap-6f));
    q = _mm512_fmadd_ps(q, b, _mm512_set1_ps(0x1.a67e56p-4f));
    q = _mm512_fmadd_ps(q, b, _mm512_set1_ps(0x1.46b438p-1f));
    q = _mm512_fmadd_ps(q, b, _mm512_set1_ps(0x1.208b18p+0f));
    q = _mm512_fmadd_ps(q, b, _mm512_set1_ps(0x1.5cdfe8p-12f));
    __m512 large = _mm512_sub_ps(one, lt_exp_avx512(lt_negate_avx512(q)));
    __m512 t = _mm512_mul_ps(a, a);
    __m512 p = _mm512_set1_ps(0x1.496a32p-14f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0x1.a3f700p-11f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0x1.5405b2p-8f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0x1.b7f90ep-6f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0x1.ce2cf8p-4f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0x1.81273ep-2f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0x1.06eba8p-3f));
    __mmask16 is_small = _mm512_cmp_ps_mask(a, one, _CMP_LT_OQ);
    return lt_with_sign_avx512(_mm512_mask_mov_ps(large, is_small, _mm512_fmadd_ps(a, p, a)), x);
}

/* sqrt(2/pi) (x + 0.044715 x^3) */
static inline __m512 lt_gelu_inner_avx512(__m512 x)
{
    __m512 p = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.988454p-1f)), p);
}

static inline __m512 lt_act_avx512(__m512 x, enum lt_activation act)
{
    const __m512 one = _mm512_set1_ps(1.0f), half_x = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    switch (act) {
    case LT_ACT_SILU:
        return _mm512_div_ps(x, _mm512_add_ps(one, lt_exp_avx512(lt_negate_avx512(x))));
    case LT_ACT_GELU_TANH:
        return _mm512_mul_ps(half_x, _mm512_add_ps(one, lt_tanh_avx512(lt_gelu_inner_avx512(x))));
    case LT_ACT_GELU:
        return _mm512_mul_ps(
            half_x, _mm512_add_ps(one, lt_erf_avx512(_mm512_mul_ps(x, _mm512_set1_ps(0x1.6a09e6p-1f)))));
    case LT_ACT_RELU:
        break;
    }
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), x);
}

/* d act / dx.  Both GELUs are saturated at |x| = 16; the clamp keeps 0 * infinity out. */
static inline __m512 lt_act_slope_avx512(__m512 x, enum lt_activation act)
{
    const __m512 one = _mm512_set1_ps(1.0f), half = _mm512_set1_ps(0.5f);
    if (act == LT_ACT_SILU) {
        __m512 s = _mm512_div_ps(one, _mm512_add_ps(one, lt_exp_avx512(lt_negate_avx512(x))));
        return _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one));
    }
    if (act == LT_ACT_RELU)
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), one);
    x = _mm512_min_ps(_mm512_set1_ps(16.0f), _mm512_max_ps(_mm512_set1_ps(-16.0f), x));
    if (act == LT_ACT_GELU_TANH) {
        __m512 t = lt_tanh_avx512(lt_gelu_inner_avx512(x));
        __m512 inner_slope =
            _mm512_mul_ps(_mm512_set1_ps(0x1.988454p-1f),
                          _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(3.0f * 0.044715f), one));
        __m512 sech2 = _mm512_fnmadd_ps(t, t, one);
        __m512 right = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(half, x), sech2), inner_slope);
        return _mm512_fmadd_ps(half, _mm512_add_ps(one, t), right);
    }
    __m512 cdf = _mm512_mul_ps(
        half, _mm512_add_ps(one, lt_erf_avx512(_mm512_mul_ps(x, _mm512_set1_ps(0x1.6a09e6p-1f)))));
    __m512 bell = lt_exp_avx512(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
    return _mm512_fmadd_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.988454p-2f)), bell, cdf);
}

#endif
