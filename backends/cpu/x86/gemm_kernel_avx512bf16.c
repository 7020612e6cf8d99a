/* AVX512-BF16 micro-kernel.  A step adds the products of the odd, then of the even k of a pair, each rounded once,
 * subnormal numbers taken as 0 (Intel SDM volume 2, VDPBF16PS). */
#include "backends/cpu/x86/gemm_pairs_avx512bf16.h"
#include "backends/cpu/x86/gemm_tile_avx512.h"

LT_INLINE __m512 step_avx512bf16(__m512 acc, __m512 x, __m512 w)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w);
}

static void tile_1(const struct lt_gemm_tile *t)
{
    gemm_tile_rows(t, 1, step_avx512bf16);
}

static void tile_2(const struct lt_gemm_tile *t)
{
    gemm_tile_rows(t, 2, step_avx512bf16);
}

static void tile_3(const struct lt_gemm_tile *t)
{
    gemm_tile_rows(t, 3, step_avx512bf16);
}

static void gemm_tile_avx512bf16(const struct lt_gemm_tile *t)
{
    if (t->cols > 2 * LANES)
        tile_3(t);
    else if (t->cols > LANES)
        tile_2(t);
    else
        tile_1(t);
}

const struct lt_gemm_kernel lt_gemm_kernel_avx512bf16 = {
    .mr = ROWS,
    .nr = VECTORS * LANES,
    .lanes = LANES,
    .pairs = true,
    .k_step = 1,
    .kc = 256,
    .panels = 12,
    .tile = gemm_tile_avx512bf16,
    .transpose = gemm_transpose_512,
    .panels_copy = gemm_panels_copy_48,
    .pair_row = gemm_pair_row_512,
    .pair_rows = gemm_pair_rows_512,
};
