/* AVX2 micro-kernel: 6 x 16, 12 accumulators; the structure of the AVX-512 one.  Of the tiles that fill the registers
 * it is the one that takes the fewest bytes of B, which come from the second-level cache: 11 a cycle. */
#include "backends/cpu/x86/gemm_cursor.h"

enum {
    ROWS = 6,
    LANES = 8,
    VECTORS = 2,
    UNROLL = 4,
    AHEAD = 24,    /* rows of B prefetched ahead */
    COPY_AHEAD = 8 /* rows prefetched ahead of a copy: the processor does not see strides over a page */
};

/* acc + x*w in this very form of the instruction: all sixteen registers are in use, and from the intrinsic
 * GCC picks forms that overwrite a factor and then loads it again. */
LT_INLINE __m256 multiply_add(__m256 acc, __m256 x, __m256 w)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
    return acc;
}

/* acc += A[rows, count] · B[count, vectors]. */
LT_INLINE void multiply(__m256 acc[ROWS][VECTORS], struct gemm_cursor *at, const int rows, const int vectors,
                        const int count)
{
    LT_UNROLL
    for (int q = 0; q < count; q++) {
        __m256 w[VECTORS];
        gemm_cursor_pin(at);
        LT_UNROLL
        for (int v = 0; v < vectors; v++) {
            if ((q * vectors + v) % 2 == 0) /* a cache line is two vectors */
                gemm_cursor_prefetch_b(at, q, v * LANES);
            w[v] = _mm256_loadu_ps(gemm_cursor_b(at, q) + v * LANES);
        }
        LT_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256 x = _mm256_broadcast_ss(gemm_cursor_a(at, i, q));
            LT_UNROLL
            for (int v = 0; v < vectors; v++)
                acc[i][v] = multiply_add(acc[i][v], x, w[v]);
        }
    }
    gemm_cursor_advance(at, count);
}

/* Every vector whole. */
LT_INLINE void tile_body(const struct lt_gemm_tile *t, const int rows, const int vectors)
{
    __m256 acc[ROWS][VECTORS];
    LT_UNROLL
    for (int i = 0; i < rows; i++) {
        LT_UNROLL
        for (int v = 0; v < vectors; v++) {
            acc[i][v] = _mm256_setzero_ps();
            if (t->load)
                acc[i][v] = _mm256_loadu_ps(t->c + i * t->ldc + v * LANES);
            if (t->bias != NULL)
                acc[i][v] = _mm256_add_ps(acc[i][v], _mm256_loadu_ps(t->bias + v * LANES));
        }
        gemm_prefetch(t->next_c, i * t->ldc);
        gemm_prefetch(t->next_c, i * t->ldc + vectors * LANES - 1);
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
            _mm256_storeu_ps(t->c + i * t->ldc + v * LANES, acc[i][v]);
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
    default:
        tile_body(t, 6, vectors);
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

/* Whole vectors only. */
static void tile_vectors(const struct lt_gemm_tile *t)
{
    if (t->cols > LANES)
        tile_2(t);
    else
        tile_1(t);
}

/* Columns that end inside a vector go through a whole tile of their own. */
static void tile_ragged(const struct lt_gemm_tile *t)
{
    float c[ROWS * VECTORS * LANES] = {0.0F}, bias[VECTORS * LANES] = {0.0F};
    struct lt_gemm_tile whole = *t;
    whole.c = c;
    whole.next_c = c;
    whole.ldc = VECTORS * LANES;
    if (t->load)
        for (int i = 0; i < t->rows; i++)
            for (int j = 0; j < t->cols; j++)
                c[i * whole.ldc + j] = t->c[i * t->ldc + j];
    if (t->bias != NULL) {
        for (int j = 0; j < t->cols; j++)
            bias[j] = t->bias[j];
        whole.bias = bias;
    }
    tile_vectors(&whole);
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j++)
            t->c[i * t->ldc + j] = c[i * whole.ldc + j];
}

static void gemm_tile_avx2(const struct lt_gemm_tile *t)
{
    if (t->cols % LANES != 0)
        tile_ragged(t);
    else
        tile_vectors(t);
}

/* [row i, i+4] of the same four columns, one row a 128-bit lane. */
LT_INLINE __m256 gather_lanes(const float *src, int64_t lds)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(src)), _mm_loadu_ps(src + 4 * lds), 1);
}

static void transpose_avx2(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols)
{
    int64_t c = 0;
    if (rows == LANES)
        for (; c + 4 <= cols; c += 4) {
            __m256 r0 = gather_lanes(src + c, lds), r1 = gather_lanes(src + lds + c, lds);
            __m256 r2 = gather_lanes(src + 2 * lds + c, lds), r3 = gather_lanes(src + 3 * lds + c, lds);
            __m256 t0 = _mm256_unpacklo_ps(r0, r1), t1 = _mm256_unpackhi_ps(r0, r1);
            __m256 t2 = _mm256_unpacklo_ps(r2, r3), t3 = _mm256_unpackhi_ps(r2, r3);
            _mm256_storeu_ps(dst + c * ldd, _mm256_shuffle_ps(t0, t2, 0x44));
            _mm256_storeu_ps(dst + (c + 1) * ldd, _mm256_shuffle_ps(t0, t2, 0xee));
            _mm256_storeu_ps(dst + (c + 2) * ldd, _mm256_shuffle_ps(t1, t3, 0x44));
            _mm256_storeu_ps(dst + (c + 3) * ldd, _mm256_shuffle_ps(t1, t3, 0xee));
        }
    for (; c < cols; c++)
        for (int r = 0; r < LANES; r++)
            dst[c * ldd + r] = r < rows ? src[r * lds + c] : 0.0F;
}

/* count rows of one panel. */
LT_INLINE void copy_rows(float *dst, const float *src, int64_t lds, const int count)
{
    LT_UNROLL
    for (int r = 0; r < count; r++) {
        const float *s = src + r * lds;
        float *d = dst + r * VECTORS * LANES;
        gemm_prefetch(s, COPY_AHEAD * lds);
        gemm_prefetch(s, COPY_AHEAD * lds + VECTORS * LANES - 1);
        __m256 a = _mm256_loadu_ps(s), b = _mm256_loadu_ps(s + LANES);
        _mm256_storeu_ps(d, a);
        _mm256_storeu_ps(d + LANES, b);
    }
}

static void panels_copy_avx2(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds, int64_t rows,
                             int64_t cols)
{
    enum { GROUP = 4 /* rows: whole cache lines of a panel, whose rows are one and a half */ };
    const int nr = VECTORS * LANES;
    const int64_t full = cols / nr, stride = lt_gemm_panel_stride(kc, nr);
    const int rest = (int)(cols % nr);
    const int width = (rest + LANES - 1) / LANES * LANES;
    for (int64_t p = 0; p < rows; p += GROUP) {
        const float *s = src + p * lds;
        float *d = dst + (k0 + p) * nr;
        const int group = rows - p < GROUP ? (int)(rows - p) : GROUP;
        for (int64_t j = 0; j < full; j++, s += nr, d += stride)
            if (group == GROUP)
                copy_rows(d, s, lds, GROUP);
            else
                for (int r = 0; r < group; r++)
                    copy_rows(d + r * nr, s + r * lds, lds, 1);
        d = dst + full * stride + (k0 + p) * width;
        for (int r = 0; r < group; r++)
            for (int j = 0; j < width; j++)
                d[r * width + j] = j < rest ? s[r * lds + j] : 0.0F;
    }
}

const struct lt_gemm_kernel lt_gemm_kernel_avx2 = {
    .mr = ROWS,
    .nr = VECTORS * LANES,
    .lanes = LANES,
    .k_step = 1,
    .kc = 512,
    .panels = 18,
    .tile = gemm_tile_avx2,
    .transpose = transpose_avx2,
    .panels_copy = panels_copy_avx2,
};
