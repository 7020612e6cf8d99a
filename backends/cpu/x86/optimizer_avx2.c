/* Gradient norm and optimizers for AVX2.  Those have no fused operation: the same bits as the portable kernels. */
#include "backends/cpu/x86/x86_kernels.h"

#include <float.h>
#include <string.h>

#include "backends/cpu/x86/vecmath_avx2.h"
#include "quant/dynamic_map.h"

enum { BLOCK = 4096 };

static double block_square_sum(const float *x, int64_t n)
{
    __m256d s[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j));
            s[j] = _mm256_fmadd_pd(v, v, s[j]);
        }
    }
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_add_pd(s[0], s[1]), _mm256_add_pd(s[2], s[3])));
    double sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static double sum_squares_avx2(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += BLOCK)
        sum += block_square_sum(x + i, n - i < BLOCK ? n - i : BLOCK);
    return sum;
}

static void adamw_avx2(float *p, float *m, float *v, const float *g, int64_t n,
                       const struct lt_optimizer_args *a)
{
    const __m256 keep = _mm256_set1_ps((float)(1.0 - a->lr * a->weight_decay));
    const __m256 step = _mm256_set1_ps((float)(a->lr / a->bias_correction1));
    const __m256 beta1 = _mm256_set1_ps((float)a->beta1), rest1 = _mm256_set1_ps((float)(1.0 - a->beta1));
    const __m256 beta2 = _mm256_set1_ps((float)a->beta2), rest2 = _mm256_set1_ps((float)(1.0 - a->beta2));
    const __m256 correction = _mm256_set1_ps((float)a->sqrt_bias_correction2),
                 eps = _mm256_set1_ps((float)a->eps);
    for (int64_t i = 0; i < n; i += 8) {
        __m256i mask = lt_lanes_avx2(n - i < 8 ? n - i : 8);
        __m256 grad = _mm256_mul_ps(_mm256_maskload_ps(g + i, mask), _mm256_set1_ps(a->clip));
        __m256 m1 =
            _mm256_add_ps(_mm256_mul_ps(beta1, _mm256_maskload_ps(m + i, mask)), _mm256_mul_ps(rest1, grad));
        __m256 v1 = _mm256_add_ps(_mm256_mul_ps(beta2, _mm256_maskload_ps(v + i, mask)),
                                  _mm256_mul_ps(rest2, _mm256_mul_ps(grad, grad)));
        __m256 denominator = _mm256_add_ps(_mm256_div_ps(_mm256_sqrt_ps(v1), correction), eps);
        __m256 change = _mm256_mul_ps(step, _mm256_div_ps(m1, denominator));
        __m256 value = _mm256_sub_ps(_mm256_mul_ps(_mm256_maskload_ps(p + i, mask), keep), change);
        if (n - i >= 8) {
            _mm256_storeu_ps(m + i, m1);
            _mm256_storeu_ps(v + i, v1);
            _mm256_storeu_ps(p + i, value);
        } else {
            _mm256_maskstore_ps(m + i, mask, m1);
            _mm256_maskstore_ps(v + i, mask, v1);
            _mm256_maskstore_ps(p + i, mask, value);
        }
    }
}

/* ---- 8-bit AdamW ---- */

/* Where a map's positive codes lie: decade i = 0 ... 6 has 2^i (signed) or 2^(i+1) (unsigned) codes, evenly spread over
 * [0.1, 1] * 10^(i-6), so that code number slope[i] * s + start[i], rounded down, is at most one off the nearest. */
struct code_guess {
    float slope[8], start[8];
};

static const struct code_guess signed_guess = {
    {1e6f / 0.9f, 2e5f / 0.9f, 4e4f / 0.9f, 8e3f / 0.9f, 1.6e3f / 0.9f, 3.2e2f / 0.9f, 6.4e1f / 0.9f, 0.0f},
    {8.0f / 9.0f, 16.0f / 9.0f, 32.0f / 9.0f, 64.0f / 9.0f, 128.0f / 9.0f, 256.0f / 9.0f, 512.0f / 9.0f,
     0.0f}};
static const struct code_guess unsigned_guess = {
    {2e6f / 0.9f, 4e5f / 0.9f, 8e4f / 0.9f, 1.6e4f / 0.9f, 3.2e3f / 0.9f, 6.4e2f / 0.9f, 1.28e2f / 0.9f,
     0.0f},
    {16.0f / 9.0f - 1.0f, 32.0f / 9.0f - 1.0f, 64.0f / 9.0f - 1.0f, 128.0f / 9.0f - 1.0f,
     256.0f / 9.0f - 1.0f, 512.0f / 9.0f - 1.0f, 1024.0f / 9.0f - 1.0f, 0.0f}};

/* The number of the code near s in [0, 1], counted from the code of 0. */
static __m256i guess_code(const struct code_guess *guess, __m256 s)
{
    static const float ends[6] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f};
    __m256i decade = _mm256_setzero_si256();
    for (int i = 0; i < 6; i++)
        decade = _mm256_sub_epi32(decade,
                                  _mm256_castps_si256(_mm256_cmp_ps(s, _mm256_set1_ps(ends[i]), _CMP_GT_OQ)));
    __m256 slope = _mm256_permutevar8x32_ps(_mm256_loadu_ps(guess->slope), decade);
    __m256 start = _mm256_permutevar8x32_ps(_mm256_loadu_ps(guess->start), decade);
    return _mm256_cvttps_epi32(_mm256_add_ps(_mm256_mul_ps(slope, s), start));
}

/* lt_dynamic_nearest() from a code that is at most one off: a tie between two codes goes to the even one. */
static __m256i settle_code(const float *map, __m256i code, __m256 s)
{
    const __m256i one = _mm256_set1_epi32(1), last = _mm256_set1_epi32(255);
    code = _mm256_min_epi32(_mm256_max_epi32(code, _mm256_setzero_si256()), last);
    __m256i below = _mm256_max_epi32(_mm256_sub_epi32(code, one), _mm256_setzero_si256());
    __m256i above = _mm256_min_epi32(_mm256_add_epi32(code, one), last);
    __m256 here = _mm256_i32gather_ps(map, code, 4), half = _mm256_set1_ps(0.5f);
    __m256 low = _mm256_mul_ps(_mm256_add_ps(here, _mm256_i32gather_ps(map, below, 4)), half);
    __m256 high = _mm256_mul_ps(_mm256_add_ps(here, _mm256_i32gather_ps(map, above, 4)), half);
    __m256 odd = _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(code, one), one));
    __m256 down = _mm256_blendv_ps(_mm256_cmp_ps(s, low, _CMP_LT_OQ), _mm256_cmp_ps(s, low, _CMP_LE_OQ), odd);
    __m256 up = _mm256_blendv_ps(_mm256_cmp_ps(s, high, _CMP_GT_OQ), _mm256_cmp_ps(s, high, _CMP_GE_OQ), odd);
    code = _mm256_blendv_epi8(code, below, _mm256_castps_si256(down));
    return _mm256_blendv_epi8(code, above, _mm256_castps_si256(up));
}

static __m256i signed_codes(__m256 m, __m256 scale)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256i zero = _mm256_set1_epi32(127); /* the code of 0 */
    __m256 s = _mm256_mul_ps(m, scale);
    __m256i number = guess_code(&signed_guess, _mm256_andnot_ps(sign, s));
    __m256i negative = _mm256_srai_epi32(_mm256_castps_si256(s), 31);
    number = _mm256_sub_epi32(_mm256_xor_si256(number, negative), negative);
    __m256i code = settle_code(lt_dynamic_map_signed, _mm256_add_epi32(zero, number), s);
    /* The sign of m is kept: codes below that of 0 are negative.  A true comparison is -1. */
    __m256i below = _mm256_cmpgt_epi32(zero, code);
    __m256i more = _mm256_castps_si256(_mm256_cmp_ps(m, _mm256_setzero_ps(), _CMP_GT_OQ));
    __m256i less = _mm256_castps_si256(_mm256_cmp_ps(m, _mm256_setzero_ps(), _CMP_LT_OQ));
    code = _mm256_sub_epi32(code, _mm256_and_si256(more, below));
    return _mm256_add_epi32(code, _mm256_andnot_si256(below, less));
}

static __m256i unsigned_codes(__m256 v, __m256 scale)
{
    __m256 s = _mm256_mul_ps(v, scale);
    return settle_code(lt_dynamic_map_unsigned, guess_code(&unsigned_guess, s), s);
}

/* n = 1 ... 8 codes from and to memory. */
static __m256i load_codes(const uint8_t *codes, int64_t n)
{
    uint8_t bytes[8] = {0};
    memcpy(bytes, codes, n < 8 ? (size_t)n : 8);
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
}

static void store_codes(uint8_t *codes, int64_t n, __m256i values)
{
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    uint8_t bytes[8];
    _mm_storel_epi64((__m128i *)(void *)bytes, _mm_packus_epi16(words, words));
    memcpy(codes, bytes, n < 8 ? (size_t)n : 8);
}

struct adamw8 {
    float keep, step, beta1, rest1, beta2, rest2, eps, clip;
};

/* Updates p; m and v, which have room for whole vectors, take the new moments.  Returns their largest numbers. */
static void adamw8_move(float *p, float *m, float *v, float *m_largest, float *v_largest,
                        const uint8_t *m_codes, const uint8_t *v_codes, const float *g, int64_t n,
                        const struct adamw8 *a)
{
    const __m256 m_absmax = _mm256_set1_ps(*m_largest), v_absmax = _mm256_set1_ps(*v_largest);
    const __m256 sign = _mm256_set1_ps(-0.0f), infinity = _mm256_set1_ps(__builtin_inff());
    __m256 m_max = _mm256_setzero_ps(), v_max = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) {
        __m256 grad = _mm256_mul_ps(lt_load_avx2(g + i, n - i), _mm256_set1_ps(a->clip));
        __m256 finite = _mm256_cmp_ps(_mm256_mul_ps(grad, grad), infinity, _CMP_LT_OQ);
        __m256 m0 = _mm256_i32gather_ps(lt_dynamic_map_signed, load_codes(m_codes + i, n - i), 4);
        __m256 v0 = _mm256_i32gather_ps(lt_dynamic_map_unsigned, load_codes(v_codes + i, n - i), 4);
        __m256 m1 = _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(a->beta1), _mm256_mul_ps(m0, m_absmax)),
                                  _mm256_mul_ps(_mm256_set1_ps(a->rest1), grad));
        __m256 v1 = _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(a->beta2), _mm256_mul_ps(v0, v_absmax)),
                                  _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(a->rest2), grad), grad));
        __m256 value = lt_load_avx2(p + i, n - i);
        __m256 change = _mm256_div_ps(_mm256_mul_ps(_mm256_set1_ps(a->step), m1),
                                      _mm256_add_ps(_mm256_sqrt_ps(v1), _mm256_set1_ps(a->eps)));
        __m256 moved = _mm256_mul_ps(_mm256_sub_ps(value, change), _mm256_set1_ps(a->keep));
        lt_store_avx2(p + i, n - i, _mm256_blendv_ps(value, moved, finite));
        /* Beyond n: whatever the codes 0 stand for, which must not count. */
        __m256 lives = _mm256_and_ps(finite, _mm256_castsi256_ps(lt_lanes_avx2(n - i < 8 ? n - i : 8)));
        m1 = _mm256_and_ps(m1, lives);
        v1 = _mm256_and_ps(v1, lives);
        m_max = _mm256_max_ps(_mm256_andnot_ps(sign, m1), m_max);
        v_max = _mm256_max_ps(v1, v_max);
        _mm256_storeu_ps(m + i, m1);
        _mm256_storeu_ps(v + i, v1);
    }
    *m_largest = lt_max_avx2(m_max);
    *v_largest = lt_max_avx2(v_max);
}

static void adamw8_avx2(float *p, uint8_t *m_codes, float *m_absmax, uint8_t *v_codes, float *v_absmax,
                        const float *g, int64_t elements, const struct lt_optimizer_args *args)
{
    const struct adamw8 a = {.keep = (float)(1.0 - args->lr * args->weight_decay),
                             .step = (float)(args->lr * args->sqrt_bias_correction2 / args->bias_correction1),
                             .beta1 = (float)args->beta1,
                             .rest1 = (float)(1.0 - args->beta1),
                             .beta2 = (float)args->beta2,
                             .rest2 = (float)(1.0 - args->beta2),
                             .eps = (float)(args->sqrt_bias_correction2 * args->eps),
                             .clip = args->clip};
    float m[LT_OPTIM_BLOCK], v[LT_OPTIM_BLOCK];
    for (int64_t at = 0; at < elements; at += LT_OPTIM_BLOCK) {
        int64_t n = elements - at < LT_OPTIM_BLOCK ? elements - at : LT_OPTIM_BLOCK;
        float *m_largest = m_absmax + at / LT_OPTIM_BLOCK, *v_largest = v_absmax + at / LT_OPTIM_BLOCK;
        adamw8_move(p + at, m, v, m_largest, v_largest, m_codes + at, v_codes + at, g + at, n, &a);
        /* The reciprocal of an absmax of 0 or of the smallest numbers is infinite. */
        __m256 most = _mm256_set1_ps(FLT_MAX), one = _mm256_set1_ps(1.0f);
        __m256 m_scale = _mm256_min_ps(_mm256_div_ps(one, _mm256_set1_ps(*m_largest)), most);
        __m256 v_scale = _mm256_min_ps(_mm256_div_ps(one, _mm256_set1_ps(*v_largest)), most);
        for (int64_t i = 0; i < n; i += 8) {
            store_codes(m_codes + at + i, n - i, signed_codes(_mm256_loadu_ps(m + i), m_scale));
            store_codes(v_codes + at + i, n - i, unsigned_codes(_mm256_loadu_ps(v + i), v_scale));
        }
    }
}

/* ---- SGD, Lion ---- */

static void sgd_avx2(float *p, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const __m256 lr = _mm256_set1_ps((float)a->lr), decay = _mm256_set1_ps((float)a->weight_decay);
    const __m256 clip = _mm256_set1_ps(a->clip);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 value = lt_load_avx2(p + i, n - i), grad = _mm256_mul_ps(lt_load_avx2(g + i, n - i), clip);
        __m256 change = _mm256_mul_ps(lr, _mm256_add_ps(grad, _mm256_mul_ps(decay, value)));
        lt_store_avx2(p + i, n - i, _mm256_sub_ps(value, change));
    }
}

static void lion_avx2(float *p, float *m, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const __m256 keep = _mm256_set1_ps((float)(1.0 - a->lr * a->weight_decay));
    const __m256 lr = _mm256_set1_ps((float)a->lr), zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    const __m256 beta1 = _mm256_set1_ps((float)a->beta1), rest1 = _mm256_set1_ps((float)(1.0 - a->beta1));
    const __m256 beta2 = _mm256_set1_ps((float)a->beta2), rest2 = _mm256_set1_ps((float)(1.0 - a->beta2));
    for (int64_t i = 0; i < n; i += 8) {
        __m256 grad = _mm256_mul_ps(lt_load_avx2(g + i, n - i), _mm256_set1_ps(a->clip));
        __m256 m0 = lt_load_avx2(m + i, n - i);
        __m256 direction = _mm256_add_ps(_mm256_mul_ps(beta1, m0), _mm256_mul_ps(rest1, grad));
        __m256 moves = _mm256_or_ps(_mm256_cmp_ps(direction, zero, _CMP_GT_OQ),
                                    _mm256_cmp_ps(direction, zero, _CMP_LT_OQ));
        __m256 change = _mm256_and_ps(_mm256_or_ps(lr, _mm256_and_ps(direction, sign)), moves);
        __m256 value = _mm256_mul_ps(lt_load_avx2(p + i, n - i), keep);
        lt_store_avx2(p + i, n - i, _mm256_sub_ps(value, change));
        lt_store_avx2(m + i, n - i, _mm256_add_ps(_mm256_mul_ps(beta2, m0), _mm256_mul_ps(rest2, grad)));
    }
}

void lt_optimizer_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->sum_squares = sum_squares_avx2;
    k->adamw = adamw_avx2;
    k->adamw8 = adamw8_avx2;
    k->sgd = sgd_avx2;
    k->lion = lion_avx2;
}
