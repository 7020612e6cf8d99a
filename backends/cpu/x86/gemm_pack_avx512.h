/* Packing for the 512-bit micro-kernels: elements of four bytes, floats or pairs of bf16, which it only moves.  Included
 * by files with instruction set flags of their own; all of it is inlined into them. */
#ifndef LT_BACKENDS_CPU_X86_GEMM_PACK_AVX512_H
#define LT_BACKENDS_CPU_X86_GEMM_PACK_AVX512_H

#include "backends/cpu/x86/gemm_cursor.h"

enum {
    LANES = 16,
    COPY_AHEAD = 8 /* rows prefetched ahead of a copy: the processor does not see strides over a page */
};

/* Four stored rows to the four columns of each 128-bit lane. */
LT_INLINE void transpose_4x4_lanes(__m512 r[4])
{
    __m512 t0 = _mm512_unpacklo_ps(r[0], r[1]), t1 = _mm512_unpackhi_ps(r[0], r[1]);
    __m512 t2 = _mm512_unpacklo_ps(r[2], r[3]), t3 = _mm512_unpackhi_ps(r[2], r[3]);
    r[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t0), _mm512_castps_pd(t2)));
    r[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t0), _mm512_castps_pd(t2)));
    r[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t1), _mm512_castps_pd(t3)));
    r[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t1), _mm512_castps_pd(t3)));
}

/* [row i, i+4, i+8, i+12] of the same four columns, one row a 128-bit lane. */
LT_INLINE __m512 gather_lanes(const float *src, int64_t lds)
{
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(src));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(src + 4 * lds), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(src + 8 * lds), 2);
    return _mm512_insertf32x4(x, _mm_loadu_ps(src + 12 * lds), 3);
}

static inline void gemm_transpose_512(float *dst, int64_t ldd, const float *src, int64_t lds, int rows,
                                      int64_t cols)
{
    int64_t c = 0;
    if (rows == LANES)
        for (; c + 4 <= cols; c += 4) {
            __m512 r[4];
            LT_UNROLL
            for (int i = 0; i < 4; i++)
                r[i] = gather_lanes(src + i * lds + c, lds);
            transpose_4x4_lanes(r);
            LT_UNROLL
            for (int i = 0; i < 4; i++)
                _mm512_storeu_ps(dst + (c + i) * ldd, r[i]);
        }
    for (; c < cols; c++)
        for (int r = 0; r < LANES; r++)
            dst[c * ldd + r] = r < rows ? src[r * lds + c] : 0.0F;
}

LT_INLINE void gemm_panels_copy_512(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds,
                                    int64_t rows, int64_t cols, const int vectors)
{
    const int nr = vectors * LANES;
    const int64_t full = cols / nr, stride = lt_gemm_panel_stride(kc, nr);
    const int rest = (int)(cols % nr);
    const int rest_vectors = (rest + LANES - 1) / LANES;
    for (int64_t p = 0; p < rows; p++) {
        const float *s = src + p * lds;
        float *d = dst + (k0 + p) * nr;
        for (int64_t j = 0; j < full; j++, s += nr, d += stride) {
            LT_UNROLL
            for (int v = 0; v < vectors; v++)
                gemm_prefetch(s, COPY_AHEAD * lds + v * LANES);
            LT_UNROLL
            for (int v = 0; v < vectors; v++)
                _mm512_storeu_ps(d + v * LANES, _mm512_loadu_ps(s + v * LANES));
        }
        d = dst + full * stride + (k0 + p) * rest_vectors * LANES;
        for (int v = 0; v < rest_vectors; v++) {
            int left = rest - v * LANES;
            __mmask16 mask = (__mmask16)(left >= LANES ? 0xffffu : (1u << left) - 1u);
            _mm512_storeu_ps(d + v * LANES, _mm512_maskz_loadu_ps(mask, s + v * LANES));
        }
    }
}

#endif
