/* One row of x times a stored 4-bit weight with AVX512-VNNI, which the processors with AVX512-BF16 have. */
#include "backends/cpu/x86/gemv_4bit_avx512.h"

static inline __m512i dot_avx512bf16(__m512i sum, __m512i codes, __m512i x)
{
    return _mm512_dpwssd_epi32(sum, codes, x);
}

static void gemv_4bit_avx512bf16(const struct lt_gemv *g)
{
    gemv_4bit_512(g, dot_avx512bf16);
}

void lt_gemv_kernels_avx512bf16(struct lt_cpu_kernels *k)
{
    k->gemv[LT_WEIGHT_NF4] = gemv_4bit_avx512bf16;
    k->gemv[LT_WEIGHT_FP4] = gemv_4bit_avx512bf16;
}
