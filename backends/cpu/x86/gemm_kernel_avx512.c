/* AVX-512 micro-kernel for f32. */
#include "backends/cpu/x86/gemm_tile_avx512.h"

LT_INLINE __m512 step_avx512(__m512 acc, __m512 x, __m512 w)
{
    return _mm512_fmadd_ps(x, w, acc);
}

static void tile_1(const struct lt_gemm_tile *t)
{
    gemm_tile_rows(t, 1, step_avx512);
}

static void tile_2(const struct lt_gemm_tile *t)
{
    gemm_tile_rows(t, 2, step_avx512);
}

static void tile_3(const struct lt_gemm_tile *t)
{
    gemm_tile_rows(t, 3, step_avx512);
}

static void gemm_tile_avx512(const struct lt_gemm_tile *t)
{
    if (t->cols > 2 * LANES)
        tile_3(t);
    else if (t->cols > LANES)
        tile_2(t);
    else
        tile_1(t);
}

const struct lt_gemm_kernel lt_gemm_kernel_avx512 = {
    .mr = ROWS,
    .nr = VECTORS * LANES,
    .lanes = LANES,
    .k_step = 1,
    .kc = 512,
    .panels = 6,
    .tile = gemm_tile_avx512,
    .transpose = gemm_transpose_512,
    .panels_copy = gemm_panels_copy_48,
};
