/* bf16 micro-kernel for Arm's BFMMLA: 8 x 8, 16 accumulators of 2 x 2.  One instruction multiplies four k of two rows
 * with four k of two columns; an element of C adds the products of its four k in the order of the instruction, a fixed
 * one, with subnormal numbers taken as 0 (Arm ARM, BFMMLA). */
#include "backends/cpu/arm/gemm_pack_neon.h"

#include <string.h>

#include "core/tensor/dtype.h"

enum { K_STEP = 2 /* pairs: the four k of an instruction */ };

LT_INLINE bfloat16x8_t as_bf16(float32x4_t pairs)
{
    return vreinterpretq_bf16_f32(pairs);
}

/* Two columns of two rows of C, from or to which the second row may be missing. */
LT_INLINE float32x4_t load_2x2(const float *c, int64_t ldc, bool second)
{
    float32x2_t upper = vld1_f32(c);
    return vcombine_f32(upper, second ? vld1_f32(c + ldc) : upper);
}

LT_INLINE void store_2x2(float *c, int64_t ldc, bool second, float32x4_t v)
{
    vst1_f32(c, vget_low_f32(v));
    if (second)
        vst1_f32(c + ldc, vget_high_f32(v));
}

/* acc += A[rows, four k] · B[four k, 8] for `twos` pairs of rows. */
LT_INLINE void multiply(float32x4_t acc[ROWS / 2][LANES / 2], const float *const a[ROWS], int64_t k,
                        const float *b, int64_t ldb, const int twos)
{
    float32x4_t u0 = vld1q_f32(b), u1 = vld1q_f32(b + 4), v0 = vld1q_f32(b + ldb),
                v1 = vld1q_f32(b + ldb + 4);
    /* All four k of a column side by side. */
    const float32x4_t w[LANES / 2] = {vzip1q_f32(u0, v0), vzip2q_f32(u0, v0), vzip1q_f32(u1, v1),
                                      vzip2q_f32(u1, v1)};
#pragma GCC unroll 4
    for (int i = 0; i < twos; i++) {
        float32x4_t x = vcombine_f32(vld1_f32(a[2 * i] + k), vld1_f32(a[2 * i + 1] + k));
#pragma GCC unroll 4
        for (int j = 0; j < LANES / 2; j++)
            acc[i][j] = vbfmmlaq_f32(acc[i][j], as_bf16(x), as_bf16(w[j]));
    }
}

/* All eight columns. */
LT_INLINE void tile_body(const struct lt_gemm_tile *t, const int twos)
{
    float32x4_t acc[ROWS / 2][LANES / 2];
    const float *a[ROWS];
#pragma GCC unroll 4
    for (int i = 0; i < twos; i++) {
        const bool second = 2 * i + 1 < t->rows;
        a[2 * i] = t->a + 2 * i * t->lda;
        a[2 * i + 1] = second ? a[2 * i] + t->lda : a[2 * i];
#pragma GCC unroll 4
        for (int j = 0; j < LANES / 2; j++) {
            const float *c = t->c + 2 * i * t->ldc + 2 * j;
            acc[i][j] = t->load ? load_2x2(c, t->ldc, second) : vdupq_n_f32(0.0F);
            if (t->bias != NULL)
                acc[i][j] = vaddq_f32(acc[i][j], load_2x2(t->bias + 2 * j, 0, true));
        }
    }
    const float *b = t->b;
    for (int64_t k = 0; k < t->k; k += K_STEP, b += K_STEP * t->ldb)
        multiply(acc, a, k, b, t->ldb, twos);
#pragma GCC unroll 4
    for (int i = 0; i < twos; i++)
#pragma GCC unroll 4
        for (int j = 0; j < LANES / 2; j++)
            store_2x2(t->c + 2 * i * t->ldc + 2 * j, t->ldc, 2 * i + 1 < t->rows, acc[i][j]);
}

static void tile_whole(const struct lt_gemm_tile *t)
{
    switch ((t->rows + 1) / 2) {
    case 1:
        tile_body(t, 1);
        break;
    case 2:
        tile_body(t, 2);
        break;
    case 3:
        tile_body(t, 3);
        break;
    default:
        tile_body(t, 4);
        break;
    }
}

static void gemm_tile_neonbf16(const struct lt_gemm_tile *t)
{
    if (t->cols < LANES)
        gemm_tile_ragged(t, tile_whole);
    else
        tile_whole(t);
}

/* ---- rounding to pairs, to nearest even ---- */

static float pair(float even, float odd)
{
    const uint16_t halves[2] = {lt_f32_to_bf16(even), lt_f32_to_bf16(odd)};
    float p;
    memcpy(&p, halves, sizeof p);
    return p;
}

static void pair_row_neonbf16(float *dst, const float *src, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        bfloat16x8_t low = vcvtq_low_bf16_f32(vld1q_f32(src + i));
        vst1q_f32(dst + i / 2, vreinterpretq_f32_bf16(vcvtq_high_bf16_f32(low, vld1q_f32(src + i + 4))));
    }
    for (; i < n; i += 2)
        dst[i / 2] = pair(src[i], i + 1 < n ? src[i + 1] : 0.0F);
}

static void pair_rows_neonbf16(float *dst, const float *even, const float *odd, int64_t n)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint16x4_t e = vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(even + i))), o = vdup_n_u16(0);
        if (odd != NULL)
            o = vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(odd + i)));
        vst1q_f32(dst + i, vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(e, o), vzip2_u16(e, o))));
    }
    for (; i < n; i++)
        dst[i] = pair(even[i], odd != NULL ? odd[i] : 0.0F);
}

const struct lt_gemm_kernel lt_gemm_kernel_neonbf16 = {
    .mr = ROWS,
    .nr = LANES,
    .lanes = LANES,
    .pairs = true,
    .k_step = K_STEP,
    .kc = 256,
    .panels = 32,
    .tile = gemm_tile_neonbf16,
    .transpose = gemm_transpose_8,
    .panels_copy = gemm_panels_copy_8,
    .pair_row = pair_row_neonbf16,
    .pair_rows = pair_rows_neonbf16,
};
