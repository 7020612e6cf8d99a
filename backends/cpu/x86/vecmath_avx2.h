/* exp, tanh, erf, the activations and small vector helpers, 8 floats at a time.
 *
 * Only for translation units built for AVX2 + FMA.  Polynomials are minimax fits (Remez, weighted for
 * relative error) with the coefficients rounded to f32; every function stays within 2 ulp.  NaN in, NaN
 * out.  A lane's result depends on that lane alone. */
#ifndef LT_CPU_VECMATH_AVX2_H
#define LT_CPU_VECMATH_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "core/backend/op_attr.h"

/* The first n (0..8) lanes, for maskload and maskstore. */
static inline __m256i lt_lanes_avx2(int64_t n)
{
    static const int32_t table[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(const void *)(table + 8 - n));
}

/* The first n of 8 elements, all of them when n is more; the other lanes read 0 and are not written. */
static inline __m256 lt_load_avx2(const float *p, int64_t n)
{
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lt_lanes_avx2(n));
}

static inline void lt_store_avx2(float *p, int64_t n, __m256 v)
{
    if (n >= 8)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, lt_lanes_avx2(n), v);
}

/* Sum and maximum of the lanes, in a fixed order. */
static inline float lt_sum_avx2(__m256 x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float lt_max_avx2(__m256 x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* exp(r) for |r| <= ln2/2: 1 + r + r^2 q(r), error of q 3.3e-9. */
static inline __m256 lt_exp_poly_avx2(__m256 r)
{
    __m256 q = _mm256_set1_ps(0x1.6a1a72p-10f);
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.123fc6p-7f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.555916p-5f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.55548ap-3f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.fffffcp-2f));
    q = _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r);
    return _mm256_add_ps(q, _mm256_set1_ps(1.0f));
}

/* x = n ln2 + r with ln2 in two pieces; n comes back in *n. */
static inline __m256 lt_exp_reduce_avx2(__m256 x, __m256 *n)
{
    *n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(*n, _mm256_set1_ps(0x1.62e400p-1f), x);
    return _mm256_fnmadd_ps(*n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
}

/* Full range: subnormal results, 0 and infinity included. */
static inline __m256 lt_exp_avx2(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-104.0f), x));
    __m256 n, p = lt_exp_poly_avx2(lt_exp_reduce_avx2(x, &n));
    /* 2^n in two factors, since n reaches 128 and -150. */
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

/* For weights of a softmax: x <= 88; results below the smallest normal number are 0. */
static inline __m256 lt_exp_weight_avx2(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-88.0f), x);
    __m256 n, p = lt_exp_poly_avx2(lt_exp_reduce_avx2(x, &n));
    __m256i scale = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(scale));
}

/* |x| < 0.625: x + x^3 P(x^2); above: 1 - 2 / (exp(2|x|) + 1), the 1.6 ulp of the quotient being worth a
 * fraction of an ulp of the result. */
static inline __m256 lt_tanh_avx2(__m256 x)
{
    const __m256 sign_bit = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f), two = _mm256_set1_ps(2.0f);
    __m256 a = _mm256_andnot_ps(sign_bit, x);
    __m256 e = lt_exp_weight_avx2(_mm256_min_ps(_mm256_set1_ps(20.0f), _mm256_add_ps(a, a)));
    __m256 large = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(e, one)));
    __m256 t = _mm256_mul_ps(a, a);
    __m256 q = _mm256_set1_ps(-0x1.75e1ccp-8f);
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(0x1.52269cp-6f));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(-0x1.b83c5ap-5f));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(0x1.110726p-3f));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(-0x1.555532p-2f));
    __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(a, t), q, a);
    __m256 y = _mm256_blendv_ps(large, small, _mm256_cmp_ps(a, _mm256_set1_ps(0.625f), _CMP_LT_OQ));
    return _mm256_or_ps(y, _mm256_and_ps(sign_bit, x));
}

/* |x| < 1: x + x P(x^2); above: 1 - exp(-Q(|x|)), Q a fit of -log(erfc). */
static inline __m256 lt_erf_avx2(__m256 x)
{
    const __m256 sign_bit = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    __m256 a = _mm256_andnot_ps(sign_bit, x);
    __m256 b = _mm256_min_ps(_mm256_set1_ps(3.95f), a);
    __m256 q = _mm256_set1_ps(-0x1.87b226p-13f);
    q = _mm256_fmadd_ps(q, b, _mm256_set1_ps(0x1.82e7f6p-9f));
    q = _mm256_fmadd_ps(q, b, _mm256_set1_ps(-0x1.6617bap-6f));
    q = _mm256_fmadd_ps(q, b, _mm256_set1_ps(0x1.a67e56p-4f));
    q = _mm256_fmadd_ps(q, b, _mm256_set1_ps(0x1.46b438p-1f));
    q = _mm256_fmadd_ps(q, b, _mm256_set1_ps(0x1.208b18p+0f));
    q = _mm256_fmadd_ps(q, b, _mm256_set1_ps(0x1.5cdfe8p-12f));
    __m256 large = _mm256_sub_ps(one, lt_exp_weight_avx2(_mm256_xor_ps(q, sign_bit)));
    __m256 t = _mm256_mul_ps(a, a);
    __m256 p = _mm256_set1_ps(0x1.496a32p-14f);
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0x1.a3f700p-11f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0x1.5405b2p-8f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0x1.b7f90ep-6f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0x1.ce2cf8p-4f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0x1.81273ep-2f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0x1.06eba8p-3f));
    __m256 small = _mm256_fmadd_ps(a, p, a);
    __m256 y = _mm256_blendv_ps(large, small, _mm256_cmp_ps(a, one, _CMP_LT_OQ));
    return _mm256_or_ps(y, _mm256_and_ps(sign_bit, x));
}

/* sqrt(2/pi) (x + 0.044715 x^3) */
static inline __m256 lt_gelu_inner_avx2(__m256 x)
{
    __m256 x2 = _mm256_mul_ps(x, x);
    __m256 p = _mm256_fmadd_ps(x2, _mm256_set1_ps(0.044715f), _mm256_set1_ps(1.0f));
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.988454p-1f)), p);
}

static inline __m256 lt_act_avx2(__m256 x, enum lt_activation act)
{
    const __m256 one = _mm256_set1_ps(1.0f), half_x = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
    switch (act) {
    case LT_ACT_SILU:
        return _mm256_div_ps(x, _mm256_add_ps(one, lt_exp_avx2(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)))));
    case LT_ACT_GELU_TANH:
        return _mm256_mul_ps(half_x, _mm256_add_ps(one, lt_tanh_avx2(lt_gelu_inner_avx2(x))));
    case LT_ACT_GELU:
        return _mm256_mul_ps(
            half_x, _mm256_add_ps(one, lt_erf_avx2(_mm256_mul_ps(x, _mm256_set1_ps(0x1.6a09e6p-1f)))));
    case LT_ACT_RELU:
        break;
    }
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LE_OQ), x);
}

/* d act / dx.  Both GELUs are saturated at |x| = 16; the clamp keeps 0 * infinity out. */
static inline __m256 lt_act_slope_avx2(__m256 x, enum lt_activation act)
{
    const __m256 one = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f);
    if (act == LT_ACT_SILU) {
        __m256 e = lt_exp_avx2(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)));
        __m256 s = _mm256_div_ps(one, _mm256_add_ps(one, e));
        return _mm256_mul_ps(s, _mm256_fmadd_ps(x, _mm256_sub_ps(one, s), one));
    }
    if (act == LT_ACT_RELU)
        return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LE_OQ), one);
    x = _mm256_min_ps(_mm256_set1_ps(16.0f), _mm256_max_ps(_mm256_set1_ps(-16.0f), x));
    if (act == LT_ACT_GELU_TANH) {
        __m256 t = lt_tanh_avx2(lt_gelu_inner_avx2(x));
        __m256 inner_slope =
            _mm256_mul_ps(_mm256_set1_ps(0x1.988454p-1f),
                          _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(3.0f * 0.044715f), one));
        __m256 sech2 = _mm256_fnmadd_ps(t, t, one);
        __m256 right = _mm256_mul_ps(_mm256_mul_ps(_mm256_mul_ps(half, x), sech2), inner_slope);
        return _mm256_fmadd_ps(half, _mm256_add_ps(one, t), right);
    }
    __m256 cdf = _mm256_mul_ps(
        half, _mm256_add_ps(one, lt_erf_avx2(_mm256_mul_ps(x, _mm256_set1_ps(0x1.6a09e6p-1f)))));
    __m256 bell = lt_exp_avx2(_mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(-0.5f)));
    return _mm256_fmadd_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.988454p-2f)), bell, cdf);
}

#endif
