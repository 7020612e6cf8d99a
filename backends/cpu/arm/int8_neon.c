/* LLM.int8() for NEON: activations to codes, and products of codes. */
#include "backends/cpu/arm/arm_kernels.h"

#include <arm_neon.h>
#include <string.h>

#include "quant/int8.h"

enum { STEP = 16, MAX_ROWS = 4 };

static inline float32x4_t load_f16_rounded(const float *x)
{
    return vcvt_f32_f16(vcvt_f16_f32(vld1q_f32(x)));
}

static inline int32x4_t magnitude(float32x4_t x)
{
    return vandq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(0x7fffffff));
}

/* Four codes; adding 1.5 * 2^23 rounds to the nearest integer, which the low byte then holds. */
static inline uint16x4_t code_of(float32x4_t v, float factor, int32x4_t limit)
{
    uint32x4_t bits = vreinterpretq_u32_f32(vaddq_f32(vmulq_n_f32(v, factor), vdupq_n_f32(0x1.8p+23f)));
    return vmovn_u32(vandq_u32(bits, vcltq_s32(magnitude(v), limit)));
}

static int64_t int8_quantize_neon(int8_t *codes, float *scale, const float *x, int64_t n, float threshold,
                                  const uint8_t *skip)
{
    if (skip || n % 8 != 0)
        return lt_int8_quantize_row(codes, scale, x, n, threshold, skip);
    int32_t smallest = INT32_MAX;
    if (threshold > 0.0f)
        memcpy(&smallest, &threshold, sizeof smallest);
    const int32x4_t limit = vdupq_n_s32(smallest);
    int32x4_t max = vdupq_n_s32(0);
    uint32x4_t outliers = vdupq_n_u32(0);
    for (int64_t i = 0; i < n; i += 4) {
        int32x4_t m = magnitude(load_f16_rounded(x + i));
        uint32x4_t out = vcgeq_s32(m, limit); /* true is -1 */
        outliers = vsubq_u32(outliers, out);
        max = vmaxq_s32(max, vbicq_s32(m, vreinterpretq_s32_u32(out)));
    }
    int32_t top = vmaxvq_s32(max);
    memcpy(scale, &top, sizeof top);
    const float factor = top == 0 ? 0.0f : 1.0f / *scale * 127.0f;
    for (int64_t i = 0; i < n; i += 8) {
        uint16x4_t low = code_of(load_f16_rounded(x + i), factor, limit);
        uint16x4_t high = code_of(load_f16_rounded(x + i + 4), factor, limit);
        vst1_s8(codes + i, vreinterpret_s8_u8(vmovn_u16(vcombine_u16(low, high))));
    }
    return (int64_t)vaddlvq_u32(outliers);
}

/* R rows of x with one of w.  Two products, each within 127 * 128, stay within 16 bits. */
static inline __attribute__((always_inline)) void dot_rows(int32_t *acc, int64_t ldacc, const int8_t *x,
                                                           const int8_t *w, int64_t k, const int R)
{
    int32x4_t sum[MAX_ROWS];
    int64_t p = 0;
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        sum[i] = vdupq_n_s32(0);
    for (; p + STEP <= k; p += STEP) {
        int8x16_t b = vld1q_s8(w + p);
#pragma GCC unroll 4
        for (int i = 0; i < R; i++) {
            int8x16_t a = vld1q_s8(x + i * k + p);
            int16x8_t pairs = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            sum[i] = vpadalq_s16(sum[i], vmlal_high_s8(pairs, a, b));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) {
        int32_t s = vaddvq_s32(sum[i]);
        for (int64_t q = p; q < k; q++)
            s += (int32_t)x[i * k + q] * w[q];
        acc[i * ldacc] = s;
    }
}

static void int8_dot_neon(int32_t *acc, int64_t ldacc, const int8_t *x, int64_t m, const int8_t *w, int64_t n,
                          int64_t k)
{
    int64_t i = 0;
    for (; i + MAX_ROWS <= m; i += MAX_ROWS)
        for (int64_t j = 0; j < n; j++)
            dot_rows(acc + i * ldacc + j, ldacc, x + i * k, w + j * k, k, MAX_ROWS);
    for (; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            dot_rows(acc + i * ldacc + j, ldacc, x + i * k, w + j * k, k, 1);
}

void lt_int8_kernels_neon(struct lt_cpu_kernels *k)
{
    k->int8_quantize = int8_quantize_neon;
    k->int8_dot = int8_dot_neon;
}
