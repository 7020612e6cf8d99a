/* AVX-512 micro-kernel: 8 x 48, 24 accumulators.  A is broadcast straight from its rows, B comes from
 * packed panels in the second-level cache: 8 bytes of B a cycle at one 512-bit multiply-add a cycle, which
 * that cache delivers when the lines are asked for early enough. */
#include "backends/cpu/x86/gemm_cursor.h"

enum {
    ROWS = 8,
    LANES = 16,
    VECTORS = 3,
    UNROLL = 4,
    AHEAD = 12,    /* rows of B prefetched ahead */
    COPY_AHEAD = 8 /* rows prefetched ahead of a copy: the processor does not see strides over a page */
};

/* acc += A[rows, count] · B[count, vectors]. */
LT_INLINE void multiply(__m512 acc[ROWS][VECTORS], struct gemm_cursor *at, const int rows, const int vectors,
                        const int count)
{
    LT_UNROLL
    for (int q = 0; q < count; q++) {
        __m512 w[VECTORS];
        gemm_cursor_pin(at);
        LT_UNROLL
        for (int v = 0; v < vectors; v++) {
            gemm_cursor_prefetch_b(at, q, v * LANES);
            w[v] = _mm512_loadu_ps(gemm_cursor_b(at, q) + v * LANES);
        }
        LT_UNROLL
        for (int i = 0; i < rows; i++) {
            __m512 x = _mm512_set1_ps(*gemm_cursor_a(at, i, q));
            LT_UNROLL
            for (int v = 0; v < vectors; v++)
                acc[i][v] = _mm512_fmadd_ps(x, w[v], acc[i][v]);
        }
    }
    gemm_cursor_advance(at, count);
}

LT_INLINE void tile_body(const struct lt_gemm_tile *t, const int rows, const int vectors)
{
    const __mmask16 tail = (__mmask16)(0xffffu >> (vectors * LANES - t->cols));
    __m512 acc[ROWS][VECTORS];
    LT_UNROLL
    for (int i = 0; i < rows; i++) {
        LT_UNROLL
        for (int v = 0; v < vectors; v++) {
            const __mmask16 mask = v == vectors - 1 ? tail : 0xffff;
            acc[i][v] = _mm512_setzero_ps();
            if (t->load)
                acc[i][v] = _mm512_maskz_loadu_ps(mask, t->c + i * t->ldc + v * LANES);
            if (t->bias != NULL)
                acc[i][v] = _mm512_add_ps(acc[i][v], _mm512_maskz_loadu_ps(mask, t->bias + v * LANES));
            gemm_prefetch(t->next_c, i * t->ldc + v * LANES);
        }
    }

    struct gemm_cursor at = gemm_cursor_start(t, rows, AHEAD);
    int64_t k = t->k;
    for (; k >= UNROLL; k -= UNROLL)
        multiply(acc, &at, rows, vectors, UNROLL);
    for (; k > 0; k--)
        multiply(acc, &at, rows, vectors, 1);

    LT_UNROLL
    for (int i = 0; i < rows; i++) {
        LT_UNROLL
        for (int v = 0; v < vectors; v++)
            _mm512_mask_storeu_ps(t->c + i * t->ldc + v * LANES, v == vectors - 1 ? tail : (__mmask16)0xffff,
                                  acc[i][v]);
    }
}

LT_INLINE void tile_rows(const struct lt_gemm_tile *t, const int vectors)
{
    switch (t->rows) {
    case 1:
        tile_body(t, 1, vectors);
        break;
    case 2:
        tile_body(t, 2, vectors);
        break;
    case 3:
        tile_body(t, 3, vectors);
        break;
    case 4:
        tile_body(t, 4, vectors);
        break;
    case 5:
        tile_body(t, 5, vectors);
        break;
    case 6:
        tile_body(t, 6, vectors);
        break;
    case 7:
        tile_body(t, 7, vectors);
        break;
    default:
        tile_body(t, 8, vectors);
        break;
    }
}

static void tile_1(const struct lt_gemm_tile *t)
{
    tile_rows(t, 1);
}

static void tile_2(const struct lt_gemm_tile *t)
{
    tile_rows(t, 2);
}

static void tile_3(const struct lt_gemm_tile *t)
{
    tile_rows(t, 3);
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

static void transpose_avx512(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols)
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

static void panels_copy_avx512(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds,
                               int64_t rows, int64_t cols)
{
    const int nr = VECTORS * LANES;
    const int64_t full = cols / nr, stride = lt_gemm_panel_stride(kc, nr);
    const int rest = (int)(cols % nr);
    const int vectors = (rest + LANES - 1) / LANES;
    for (int64_t p = 0; p < rows; p++) {
        const float *s = src + p * lds;
        float *d = dst + (k0 + p) * nr;
        for (int64_t j = 0; j < full; j++, s += nr, d += stride) {
            for (int v = 0; v < VECTORS; v++)
                gemm_prefetch(s, COPY_AHEAD * lds + v * LANES);
            _mm512_storeu_ps(d, _mm512_loadu_ps(s));
            _mm512_storeu_ps(d + LANES, _mm512_loadu_ps(s + LANES));
            _mm512_storeu_ps(d + 2 * LANES, _mm512_loadu_ps(s + 2 * LANES));
        }
        d = dst + full * stride + (k0 + p) * vectors * LANES;
        for (int v = 0; v < vectors; v++) {
            int left = rest - v * LANES;
            __mmask16 mask = (__mmask16)(left >= LANES ? 0xffffu : (1u << left) - 1u);
            _mm512_storeu_ps(d + v * LANES, _mm512_maskz_loadu_ps(mask, s + v * LANES));
        }
    }
}

const struct lt_gemm_kernel lt_gemm_kernel_avx512 = {
    .mr = ROWS,
    .nr = VECTORS * LANES,
    .lanes = LANES,
    .kc = 512,
    .panels = 6,
    .tile = gemm_tile_avx512,
    .transpose = transpose_avx512,
    .panels_copy = panels_copy_avx512,
};
