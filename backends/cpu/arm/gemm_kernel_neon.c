/* NEON micro-kernel: 8 x 8, 16 accumulators, 8 registers of A (four k of each row) and 2 of B.  A row of A is
 * multiplied out of its register lane by lane, so that four steps of k cost 8 loads of A and 8 of B for 64
 * multiply-adds.  Block sizes: half of a second-level cache of 512 KiB, as the smaller server cores have. */
#include "backends/cpu/arm/gemm_pack_neon.h"

enum { UNROLL = 4 /* the lanes of a register */ };

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

static void gemm_tile_neon(const struct lt_gemm_tile *t)
{
    if (t->cols < LANES)
        gemm_tile_ragged(t, tile_whole);
    else
        tile_whole(t);
}

const struct lt_gemm_kernel lt_gemm_kernel_neon = {
    .mr = ROWS,
    .nr = LANES,
    .lanes = LANES,
    .k_step = 1,
    .kc = 256,
    .panels = 32,
    .tile = gemm_tile_neon,
    .transpose = gemm_transpose_8,
    .panels_copy = gemm_panels_copy_8,
};
