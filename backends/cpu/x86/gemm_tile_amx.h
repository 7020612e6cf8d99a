/* The tile of the AMX micro-kernel, 32 x 32 in four accumulators, written with four operations on tile registers of 16
 * rows of 64 bytes, so that the test can run the same lines with registers of its own where the processor has none.
 * A is [row][pair], W [pair][column] of pairs: rows of A and panels of W are such as they lie.  Registers: 0 to 3
 * accumulators, 4 and 5 A, 6 and 7 W. */
#ifndef LT_BACKENDS_CPU_X86_GEMM_TILE_AMX_H
#define LT_BACKENDS_CPU_X86_GEMM_TILE_AMX_H

#include <string.h>

#include "backends/cpu/gemm_internal.h"

#define AMX_INLINE static inline __attribute__((always_inline))

enum { TILE = 16 /* rows, and elements of four bytes in a row */, AMX_ROWS = 2 * TILE, AMX_COLS = 2 * TILE };

struct amx_registers {
    void (*zero)(int t);
    void (*load)(int t, const float *from, int64_t stride); /* strides in bytes */
    void (*store)(int t, float *to, int64_t stride);
    /* c[i][j] += a[i][k] . w[k][j] over 16 k, each the product of two pairs of bf16; c is 0 to 3, a 4 + c / 2, w 6 + c % 2 */
    void (*dot)(int c, int a, int w);
};

/* The accumulators of c[rows, cols], rows and cols whole registers. */
AMX_INLINE void amx_load(const struct amx_registers *on, float *c, int64_t ldc, bool two_rows, bool two_cols)
{
    const int64_t stride = ldc * 4;
    on->load(0, c, stride);
    if (two_cols)
        on->load(1, c + TILE, stride);
    if (two_rows)
        on->load(2, c + TILE * ldc, stride);
    if (two_rows && two_cols)
        on->load(3, c + TILE * ldc + TILE, stride);
}

AMX_INLINE void amx_store(const struct amx_registers *on, float *c, int64_t ldc, bool two_rows, bool two_cols)
{
    const int64_t stride = ldc * 4;
    on->store(0, c, stride);
    if (two_cols)
        on->store(1, c + TILE, stride);
    if (two_rows)
        on->store(2, c + TILE * ldc, stride);
    if (two_rows && two_cols)
        on->store(3, c + TILE * ldc + TILE, stride);
}

/* All k of the tile into the accumulators.  Rows of A are there up to whole registers. */
AMX_INLINE void amx_multiply(const struct amx_registers *on, const struct lt_gemm_tile *t, bool two_rows,
                             bool two_cols)
{
    const int64_t a_stride = t->lda * 4, b_stride = t->ldb * 4;
    for (int64_t k = 0; k < t->k; k += TILE) {
        const float *a = t->a + k, *b = t->b + k * t->ldb;
        on->load(4, a, a_stride);
        on->load(6, b, b_stride);
        on->dot(0, 4, 6);
        if (two_cols) {
            on->load(7, b + TILE, b_stride);
            on->dot(1, 4, 7);
        }
        if (two_rows) {
            on->load(5, a + TILE * t->lda, a_stride);
            on->dot(2, 5, 6);
        }
        if (two_rows && two_cols)
            on->dot(3, 5, 7);
    }
}

/* A tile that ends inside a register, or starts from a bias, through a copy of whole registers. */
AMX_INLINE void amx_tile_copied(const struct amx_registers *on, const struct lt_gemm_tile *t, bool two_rows,
                                bool two_cols)
{
    float c[AMX_ROWS * AMX_COLS];
    memset(c, 0, sizeof c);
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j++) {
            float *at = c + i * AMX_COLS + j;
            *at = t->load ? t->c[i * t->ldc + j] : 0.0F;
            if (t->bias != NULL)
                *at += t->bias[j];
        }
    amx_load(on, c, AMX_COLS, two_rows, two_cols);
    amx_multiply(on, t, two_rows, two_cols);
    amx_store(on, c, AMX_COLS, two_rows, two_cols);
    for (int i = 0; i < t->rows; i++)
        memcpy(t->c + i * t->ldc, c + i * AMX_COLS, (size_t)t->cols * sizeof *c);
}

AMX_INLINE void gemm_tile_amx(const struct amx_registers *on, const struct lt_gemm_tile *t)
{
    const bool two_rows = t->rows > TILE, two_cols = t->cols > TILE;
    if (t->rows % TILE != 0 || t->cols % TILE != 0 || t->bias != NULL) {
        amx_tile_copied(on, t, two_rows, two_cols);
        return;
    }
    if (t->load) {
        amx_load(on, t->c, t->ldc, two_rows, two_cols);
    } else {
        on->zero(0);
        on->zero(1);
        on->zero(2);
        on->zero(3);
    }
    amx_multiply(on, t, two_rows, two_cols);
    amx_store(on, t->c, t->ldc, two_rows, two_cols);
}

#endif
