/* Gradient norm and optimizers for NEON.  Those have no fused operation: the same bits as the portable kernels. */
#include "backends/cpu/arm/arm_kernels.h"

#include <float.h>
#include <string.h>

#include "backends/cpu/arm/vecmath_neon.h"
#include "quant/dynamic_map.h"

enum { BLOCK = 4096 };

static double block_square_sum(const float *x, int64_t n)
{
    enum { SUMS = 8 };
    float64x2_t s[SUMS];
    for (int j = 0; j < SUMS; j++)
        s[j] = vdupq_n_f64(0.0);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < SUMS; j += 2) {
            float32x4_t v = vld1q_f32(x + i + 2 * j);
            float64x2_t low = vcvt_f64_f32(vget_low_f32(v)), high = vcvt_high_f64_f32(v);
            s[j] = vfmaq_f64(s[j], low, low);
            s[j + 1] = vfmaq_f64(s[j + 1], high, high);
        }
    }
    float64x2_t a = vaddq_f64(vaddq_f64(s[0], s[1]), vaddq_f64(s[2], s[3]));
    float64x2_t b = vaddq_f64(vaddq_f64(s[4], s[5]), vaddq_f64(s[6], s[7]));
    double sum = vaddvq_f64(vaddq_f64(a, b));
    for (; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static double sum_squares_neon(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += BLOCK)
        sum += block_square_sum(x + i, n - i < BLOCK ? n - i : BLOCK);
    return sum;
}

/* beta x + rest y */
static inline float32x4_t blend(float beta, float32x4_t x, float rest, float32x4_t y)
{
    return vaddq_f32(vmulq_n_f32(x, beta), vmulq_n_f32(y, rest));
}

static void adamw_neon(float *p, float *m, float *v, const float *g, int64_t n,
                       const struct lt_optimizer_args *a)
{
    const float keep = (float)(1.0 - a->lr * a->weight_decay), step = (float)(a->lr / a->bias_correction1);
    const float beta1 = (float)a->beta1, rest1 = (float)(1.0 - a->beta1);
    const float beta2 = (float)a->beta2, rest2 = (float)(1.0 - a->beta2);
    const float32x4_t correction = vdupq_n_f32((float)a->sqrt_bias_correction2);
    const float32x4_t eps = vdupq_n_f32((float)a->eps);
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t grad = vmulq_n_f32(lt_load_neon(g + i, n - i), a->clip);
        float32x4_t m1 = blend(beta1, lt_load_neon(m + i, n - i), rest1, grad);
        float32x4_t v1 = blend(beta2, lt_load_neon(v + i, n - i), rest2, vmulq_f32(grad, grad));
        float32x4_t denominator = vaddq_f32(vdivq_f32(vsqrtq_f32(v1), correction), eps);
        float32x4_t change = vmulq_n_f32(vdivq_f32(m1, denominator), step);
        float32x4_t value = vsubq_f32(vmulq_n_f32(lt_load_neon(p + i, n - i), keep), change);
        lt_store_neon(m + i, n - i, m1);
        lt_store_neon(v + i, n - i, v1);
        lt_store_neon(p + i, n - i, value);
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

/* map[at] lane by lane: NEON has no gather. */
static inline float32x4_t look_up(const float *map, uint32x4_t at)
{
    float32x4_t v = vdupq_n_f32(map[vgetq_lane_u32(at, 0)]);
    v = vld1q_lane_f32(map + vgetq_lane_u32(at, 1), v, 1);
    v = vld1q_lane_f32(map + vgetq_lane_u32(at, 2), v, 2);
    return vld1q_lane_f32(map + vgetq_lane_u32(at, 3), v, 3);
}

/* The number of the code near s in [0, 1], counted from the code of 0. */
static int32x4_t guess_code(const struct code_guess *guess, float32x4_t s)
{
    static const float ends[6] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f};
    uint32x4_t decade = vdupq_n_u32(0);
    for (int i = 0; i < 6; i++)
        decade = vsubq_u32(decade, vcgtq_f32(s, vdupq_n_f32(ends[i]))); /* true is -1 */
    return vcvtq_s32_f32(
        vaddq_f32(vmulq_f32(look_up(guess->slope, decade), s), look_up(guess->start, decade)));
}

/* lt_dynamic_nearest() from a code that is at most one off: a tie between two codes goes to the even one. */
static uint32x4_t settle_code(const float *map, int32x4_t guess, float32x4_t s)
{
    const int32x4_t one = vdupq_n_s32(1), zero = vdupq_n_s32(0), last = vdupq_n_s32(255);
    int32x4_t code = vminq_s32(vmaxq_s32(guess, zero), last);
    int32x4_t below = vmaxq_s32(vsubq_s32(code, one), zero), above = vminq_s32(vaddq_s32(code, one), last);
    float32x4_t here = look_up(map, vreinterpretq_u32_s32(code));
    float32x4_t low = vmulq_n_f32(vaddq_f32(here, look_up(map, vreinterpretq_u32_s32(below))), 0.5f);
    float32x4_t high = vmulq_n_f32(vaddq_f32(here, look_up(map, vreinterpretq_u32_s32(above))), 0.5f);
    uint32x4_t odd = vtstq_s32(code, one);
    uint32x4_t down = vbslq_u32(odd, vcleq_f32(s, low), vcltq_f32(s, low));
    uint32x4_t up = vbslq_u32(odd, vcgeq_f32(s, high), vcgtq_f32(s, high));
    code = vbslq_s32(down, below, code);
    return vreinterpretq_u32_s32(vbslq_s32(up, above, code));
}

static uint32x4_t signed_codes(float32x4_t m, float scale)
{
    const uint32x4_t zero = vdupq_n_u32(127); /* the code of 0 */
    float32x4_t s = vmulq_n_f32(m, scale);
    int32x4_t number = guess_code(&signed_guess, vabsq_f32(s));
    uint32x4_t negative = vcltzq_s32(vreinterpretq_s32_f32(s));
    number = vbslq_s32(negative, vnegq_s32(number), number);
    uint32x4_t code = settle_code(lt_dynamic_map_signed, vaddq_s32(number, vreinterpretq_s32_u32(zero)), s);
    /* The sign of m is kept: codes below that of 0 are negative.  A true comparison is -1. */
    uint32x4_t below = vcltq_u32(code, zero);
    uint32x4_t more = vandq_u32(vcgtzq_f32(m), below), less = vbicq_u32(vcltzq_f32(m), below);
    return vaddq_u32(vsubq_u32(code, more), less);
}

static uint32x4_t unsigned_codes(float32x4_t v, float scale)
{
    float32x4_t s = vmulq_n_f32(v, scale);
    return settle_code(lt_dynamic_map_unsigned, guess_code(&unsigned_guess, s), s);
}

/* n codes, 4 at most, from and to memory. */
static uint32x4_t load_codes(const uint8_t *codes, int64_t n)
{
    uint8_t bytes[8] = {0};
    memcpy(bytes, codes, n < 4 ? (size_t)n : 4);
    return vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(bytes))));
}

static void store_codes(uint8_t *codes, int64_t n, uint32x4_t values)
{
    uint16x4_t words = vmovn_u32(values);
    uint8_t bytes[8];
    vst1_u8(bytes, vmovn_u16(vcombine_u16(words, words)));
    memcpy(codes, bytes, n < 4 ? (size_t)n : 4);
}

struct adamw8 {
    float keep, step, beta1, rest1, beta2, rest2, eps, clip;
};

/* Updates p; m and v, which have room for whole vectors, take the new moments.  Returns their largest numbers. */
static void adamw8_move(float *p, float *m, float *v, float *m_largest, float *v_largest,
                        const uint8_t *m_codes, const uint8_t *v_codes, const float *g, int64_t n,
                        const struct adamw8 *a)
{
    float32x4_t m_max = vdupq_n_f32(0.0f), v_max = m_max;
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t grad = vmulq_n_f32(lt_load_neon(g + i, n - i), a->clip);
        uint32x4_t finite = vcltq_f32(vmulq_f32(grad, grad), vdupq_n_f32(__builtin_inff()));
        float32x4_t m0 = look_up(lt_dynamic_map_signed, load_codes(m_codes + i, n - i));
        float32x4_t v0 = look_up(lt_dynamic_map_unsigned, load_codes(v_codes + i, n - i));
        float32x4_t m1 = blend(a->beta1, vmulq_n_f32(m0, *m_largest), a->rest1, grad);
        float32x4_t v1 = vaddq_f32(vmulq_n_f32(vmulq_n_f32(v0, *v_largest), a->beta2),
                                   vmulq_f32(vmulq_n_f32(grad, a->rest2), grad));
        float32x4_t value = lt_load_neon(p + i, n - i);
        float32x4_t change =
            vdivq_f32(vmulq_n_f32(m1, a->step), vaddq_f32(vsqrtq_f32(v1), vdupq_n_f32(a->eps)));
        float32x4_t moved = vmulq_n_f32(vsubq_f32(value, change), a->keep);
        lt_store_neon(p + i, n - i, vbslq_f32(finite, moved, value));
        /* Beyond n: whatever the codes 0 stand for, which must not count. */
        uint32x4_t lives = n - i < 4 ? vandq_u32(finite, lt_lanes_neon(n - i)) : finite;
        m1 = lt_and_neon(lives, m1);
        v1 = lt_and_neon(lives, v1);
        m_max = vmaxnmq_f32(vabsq_f32(m1), m_max);
        v_max = vmaxnmq_f32(v1, v_max);
        vst1q_f32(m + i, m1);
        vst1q_f32(v + i, v1);
    }
    *m_largest = vmaxnmvq_f32(m_max);
    *v_largest = vmaxnmvq_f32(v_max);
}

/* The reciprocal of an absmax of 0 or of the smallest numbers is infinite. */
static float code_scale(float absmax)
{
    float scale = 1.0f / absmax;
    return scale < FLT_MAX ? scale : FLT_MAX;
}

static void adamw8_neon(float *p, uint8_t *m_codes, float *m_absmax, uint8_t *v_codes, float *v_absmax,
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
        float m_scale = code_scale(*m_largest), v_scale = code_scale(*v_largest);
        for (int64_t i = 0; i < n; i += 4) {
            store_codes(m_codes + at + i, n - i, signed_codes(vld1q_f32(m + i), m_scale));
            store_codes(v_codes + at + i, n - i, unsigned_codes(vld1q_f32(v + i), v_scale));
        }
    }
}

/* ---- SGD, Lion ---- */

static void sgd_neon(float *p, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const float lr = (float)a->lr, decay = (float)a->weight_decay;
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t value = lt_load_neon(p + i, n - i);
        float32x4_t grad = vmulq_n_f32(lt_load_neon(g + i, n - i), a->clip);
        float32x4_t change = vmulq_n_f32(vaddq_f32(grad, vmulq_n_f32(value, decay)), lr);
        lt_store_neon(p + i, n - i, vsubq_f32(value, change));
    }
}

static void lion_neon(float *p, float *m, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    const float keep = (float)(1.0 - a->lr * a->weight_decay);
    const float32x4_t lr = vdupq_n_f32((float)a->lr);
    const float beta1 = (float)a->beta1, rest1 = (float)(1.0 - a->beta1);
    const float beta2 = (float)a->beta2, rest2 = (float)(1.0 - a->beta2);
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t grad = vmulq_n_f32(lt_load_neon(g + i, n - i), a->clip);
        float32x4_t m0 = lt_load_neon(m + i, n - i), direction = blend(beta1, m0, rest1, grad);
        uint32x4_t moves = vorrq_u32(vcgtzq_f32(direction), vcltzq_f32(direction));
        float32x4_t change = lt_and_neon(moves, lt_copysign_neon(lr, direction));
        float32x4_t value = vmulq_n_f32(lt_load_neon(p + i, n - i), keep);
        lt_store_neon(p + i, n - i, vsubq_f32(value, change));
        lt_store_neon(m + i, n - i, blend(beta2, m0, rest2, grad));
    }
}

void lt_optimizer_kernels_neon(struct lt_cpu_kernels *k)
{
    k->sum_squares = sum_squares_neon;
    k->adamw = adamw_neon;
    k->adamw8 = adamw8_neon;
    k->sgd = sgd_neon;
    k->lion = lion_neon;
}
