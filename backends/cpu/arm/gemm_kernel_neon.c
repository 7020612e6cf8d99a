/* NEON micro-kernel: 8 x 8, 16 accumulators, 8 registers of A (four k of each row) and 2 of B.  A row of A is
 * multiplied out of its register lane by lane, so that four steps of k cost 8 loads of A and 8 of B for 64
 * multiply-adds.  Block sizes: half of a second-level cache of 512 KiB, as the smaller server cores have. */
#include "backends/cpu/gemm_internal.h"

#include <arm_neon.h>

#define LT_INLINE static inline __attribute__((always_inline))

enum {
    ROWS = 8,
    LANES = 8, /* two registers: one row of a panel */
    UNROLL = 4 /* the lanes of a register */
};

/* acc += A[rows, k … k+3] · B[4, 8].  Subscripts of vectors choose the lane of the multiplication itself. */
LT_INLINE void multiply_4(float32x4_t acc[ROWS][2], const float *const a[ROWS], int64_t k, const float *b,
                          int64_t ldb, const int rows)
{
    float32x4_t x[ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        x[i] = vld1q_f32(a[i] + k);
#pragma GCC unroll 4
    for (int q = 0; q < UNROLL; q++) {
        float32x4_t w0 = vld1q_f32(b + q * ldb), w1 = vld1q_f32(b + q * ldb + 4);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            acc[i][0] = vfmaq_n_f32(acc[i][0], w0, x[i][q]);
            acc[i][1] = vfmaq_n_f32(acc[i][1], w1, x[i][q]);
        }
    }
}

LT_INLINE void multiply_1(float32x4_t acc[ROWS][2], const float *const a[ROWS], int64_t k, const float *b,
                          const int rows)
{
    float32x4_t w0 = vld1q_f32(b), w1 = vld1q_f32(b + 4);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        acc[i][0] = vfmaq_n_f32(acc[i][0], w0, a[i][k]);
        acc[i][1] = vfmaq_n_f32(acc[i][1], w1, a[i][k]);
    }
}

/* All eight columns. */
LT_INLINE void tile_body(const struct lt_gemm_tile *t, const int rows)
{
    float32x4_t acc[ROWS][2];
    const float *a[ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        a[i] = t->a + i * t->lda;
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            acc[i][v] = t->load ? vld1q_f32(t->c + i * t->ldc + 4 * v) : vdupq_n_f32(0.0F);
            if (t->bias != NULL)
                acc[i][v] = vaddq_f32(acc[i][v], vld1q_f32(t->bias + 4 * v));
        }
        __builtin_prefetch(t->next_c + i * t->ldc);
    }

    const float *b = t->b;
    int64_t k = 0;
    for (; k + UNROLL <= t->k; k += UNROLL, b += UNROLL * t->ldb)
        multiply_4(acc, a, k, b, t->ldb, rows);
    for (; k < t->k; k++, b += t->ldb)
        multiply_1(acc, a, k, b, rows);

#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        vst1q_f32(t->c + i * t->ldc, acc[i][0]);
        vst1q_f32(t->c + i * t->ldc + 4, acc[i][1]);
    }
}

static void tile_whole(const struct lt_gemm_tile *t)
{
    switch (t->rows) {
    case 1:
        tile_body(t, 1);
        break;
    case 2:
        tile_body(t, 2);
        break;
    case 3:
        tile_body(t, 3);
        break;
    case 4:
        tile_body(t, 4);
        break;
    case 5:
        tile_body(t, 5);
        break;
    case 6:
        tile_body(t, 6);
        break;
    case 7:
        tile_body(t, 7);
        break;
    default:
        tile_body(t, 8);
        break;
    }
}

/* Fewer columns go through a whole tile of their own. */
static void tile_ragged(const struct lt_gemm_tile *t)
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

static void gemm_tile_neon(const struct lt_gemm_tile *t)
{
    if (t->cols < LANES)
        tile_ragged(t);
    else
        tile_whole(t);
}

/* Four columns of four rows, as four rows. */
LT_INLINE void transpose_4x4(float *dst, int64_t ldd, const float *src, int64_t lds)
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

static void transpose_neon(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols)
{
    int64_t c = 0;
    if (rows == LANES)
        for (; c + 4 <= cols; c += 4) {
            transpose_4x4(dst + c * ldd, ldd, src + c, lds);
            transpose_4x4(dst + c * ldd + 4, ldd, src + 4 * lds + c, lds);
        }
    for (; c < cols; c++)
        for (int r = 0; r < LANES; r++)
            dst[c * ldd + r] = r < rows ? src[r * lds + c] : 0.0F;
}

static void panels_copy_neon(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds, int64_t rows,
                             int64_t cols)
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

const struct lt_gemm_kernel lt_gemm_kernel_neon = {
    .mr = ROWS,
    .nr = LANES,
    .lanes = LANES,
    .k_step = 1,
    .kc = 256,
    .panels = 32,
    .tile = gemm_tile_neon,
    .transpose = transpose_neon,
    .panels_copy = panels_copy_neon,
};
