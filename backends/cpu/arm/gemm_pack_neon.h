/* What the NEON micro-kernels share: tiles of 8 x 8 at most, packing of elements of four bytes, floats or pairs of bf16,
 * which it only moves.  Included by files with instruction set flags of their own; all of it is inlined into them. */
#ifndef LT_BACKENDS_CPU_ARM_GEMM_PACK_NEON_H
#define LT_BACKENDS_CPU_ARM_GEMM_PACK_NEON_H

#include <arm_neon.h>

#include "backends/cpu/gemm_internal.h"

#define LT_INLINE static inline __attribute__((always_inline))

enum {
    ROWS = 8,
    LANES = 8 /* two registers: one row of a panel */
};

/* Fewer columns go through a whole tile of their own. */
LT_INLINE void gemm_tile_ragged(const struct lt_gemm_tile *t,
                                void (*tile_whole)(const struct lt_gemm_tile *t))
{
    float c[ROWS * LANES] = {0.0F}, bias[LANES] = {0.0F};
    struct lt_gemm_tile whole = *t;
    whole.c = c;
    whole.next_c = c;
    whole.ldc = LANES;
    if (t->load)
        for (int i = 0; i < t->rows; i++)
            for (int j = 0; j < t->cols; j++)
                c[i * LANES + j] = t->c[i * t->ldc + j];
    if (t->bias != NULL) {
        for (int j = 0; j < t->cols; j++)
            bias[j] = t->bias[j];
        whole.bias = bias;
    }
    tile_whole(&whole);
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j++)
            t->c[i * t->ldc + j] = c[i * LANES + j];
}

/* Four columns of four rows, as four rows. */
LT_INLINE void gemm_transpose_4x4(float *dst, int64_t ldd, const float *src, int64_t lds)
{
    float32x4_t r0 = vld1q_f32(src), r1 = vld1q_f32(src + lds);
    float32x4_t r2 = vld1q_f32(src + 2 * lds), r3 = vld1q_f32(src + 3 * lds);
    float64x2_t t0 = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1)),
                t1 = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
    float64x2_t t2 = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3)),
                t3 = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
    vst1q_f32(dst, vreinterpretq_f32_f64(vtrn1q_f64(t0, t2)));
    vst1q_f32(dst + ldd, vreinterpretq_f32_f64(vtrn1q_f64(t1, t3)));
    vst1q_f32(dst + 2 * ldd, vreinterpretq_f32_f64(vtrn2q_f64(t0, t2)));
    vst1q_f32(dst + 3 * ldd, vreinterpretq_f32_f64(vtrn2q_f64(t1, t3)));
}

static void gemm_transpose_8(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols)
{
    int64_t c = 0;
    if (rows == LANES)
        for (; c + 4 <= cols; c += 4) {
            gemm_transpose_4x4(dst + c * ldd, ldd, src + c, lds);
            gemm_transpose_4x4(dst + c * ldd + 4, ldd, src + 4 * lds + c, lds);
        }
    for (; c < cols; c++)
        for (int r = 0; r < LANES; r++)
            dst[c * ldd + r] = r < rows ? src[r * lds + c] : 0.0F;
}

static void gemm_panels_copy_8(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds,
                               int64_t rows, int64_t cols)
{
    enum { GROUP = 4 /* rows: whole cache lines of a panel */ };
    const int64_t stride = lt_gemm_panel_stride(kc, LANES);
    for (int64_t p = 0; p < rows; p += GROUP) {
        const int64_t end = rows - p < GROUP ? rows : p + GROUP;
        float *panel = dst + k0 * LANES;
        int64_t n = 0;
        for (; n + LANES <= cols; n += LANES, panel += stride)
            for (int64_t r = p; r < end; r++) {
                vst1q_f32(panel + r * LANES, vld1q_f32(src + r * lds + n));
                vst1q_f32(panel + r * LANES + 4, vld1q_f32(src + r * lds + n + 4));
            }
        for (int64_t r = p; n < cols && r < end; r++)
            for (int64_t j = 0; j < LANES; j++)
                panel[r * LANES + j] = n + j < cols ? src[r * lds + n + j] : 0.0F;
    }
}

#endif
