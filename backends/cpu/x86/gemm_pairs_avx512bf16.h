/* Rounding to pairs of bf16 with AVX512-BF16: to nearest even; the instruction takes subnormal numbers as 0.  Included by
 * files with instruction set flags of their own; all of it is inlined into them. */
#ifndef LT_BACKENDS_CPU_X86_GEMM_PAIRS_AVX512BF16_H
#define LT_BACKENDS_CPU_X86_GEMM_PAIRS_AVX512BF16_H

#include "backends/cpu/x86/gemm_cursor.h"

/* The first n lanes: none below 1, all from 16. */
LT_INLINE __mmask16 pair_lanes(int64_t n)
{
    return (__mmask16)(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

static void gemm_pair_row_512(float *dst, const float *src, int64_t n)
{
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512bh h = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(src + i + 16), _mm512_loadu_ps(src + i));
        _mm512_storeu_si512(dst + i / 2, (__m512i)h);
    }
    if (i < n) {
        __m512bh h = _mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(pair_lanes(n - i - 16), src + i + 16),
                                         _mm512_maskz_loadu_ps(pair_lanes(n - i), src + i));
        _mm512_mask_storeu_epi32(dst + i / 2, pair_lanes((n - i + 1) / 2), (__m512i)h);
    }
}

static void gemm_pair_rows_512(float *dst, const float *even, const float *odd, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 m = pair_lanes(n - i);
        __m512 high = odd != NULL ? _mm512_maskz_loadu_ps(m, odd + i) : _mm512_setzero_ps();
        __m256i e = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, even + i));
        __m256i o = (__m256i)_mm512_cvtneps_pbh(high);
        __m512i pairs =
            _mm512_or_si512(_mm512_cvtepu16_epi32(e), _mm512_slli_epi32(_mm512_cvtepu16_epi32(o), 16));
        _mm512_mask_storeu_epi32(dst + i, m, pairs);
    }
}

#endif
