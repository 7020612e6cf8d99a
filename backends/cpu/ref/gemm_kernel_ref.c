/* Portable micro-kernel: what the others compute, bit for bit. */
#include "backends/cpu/gemm_internal.h"

#include <math.h>

enum { ROWS = 4, COLS = 8, LANES = 8 };

static void gemm_tile_ref(const struct lt_gemm_tile *t)
{
    float acc[ROWS][COLS] = {{0.0F}};
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j++) {
            if (t->load)
                acc[i][j] = t->c[i * t->ldc + j];
            if (t->bias != NULL)
                acc[i][j] += t->bias[j];
        }
    for (int64_t p = 0; p < t->k; p++) {
        const float *b = t->b + p * t->ldb;
        for (int i = 0; i < t->rows; i++) {
            float a = t->a[i * t->lda + p];
            for (int j = 0; j < COLS; j++)
                acc[i][j] = fmaf(a, b[j], acc[i][j]);
        }
    }
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j++)
            t->c[i * t->ldc + j] = acc[i][j];
}

static void transpose_ref(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols)
{
    for (int64_t c = 0; c < cols; c++)
        for (int r = 0; r < LANES; r++)
            dst[c * ldd + r] = r < rows ? src[r * lds + c] : 0.0F;
}

static void panels_copy_ref(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds, int64_t rows,
                            int64_t cols)
{
    for (int64_t n = 0; n < cols; n += COLS) {
        float *panel = dst + n / COLS * lt_gemm_panel_stride(kc, COLS);
        for (int64_t p = 0; p < rows; p++)
            for (int64_t j = 0; j < COLS; j++)
                panel[(k0 + p) * COLS + j] = n + j < cols ? src[p * lds + n + j] : 0.0F;
    }
}

const struct lt_gemm_kernel lt_gemm_kernel_ref = {
    .mr = ROWS,
    .nr = COLS,
    .lanes = LANES,
    .k_step = 1,
    .kc = 256,
    .panels = 16,
    .tile = gemm_tile_ref,
    .transpose = transpose_ref,
    .panels_copy = panels_copy_ref,
};
