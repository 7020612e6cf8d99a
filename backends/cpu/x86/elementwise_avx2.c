/* Additions, rounding and column sums for AVX2. */
#include "backends/cpu/x86/x86_kernels.h"

#include "backends/cpu/x86/vecmath_avx2.h"

static void add_avx2(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += 8)
        lt_store_avx2(y + i, n - i, _mm256_add_ps(lt_load_avx2(a + i, n - i), lt_load_avx2(b + i, n - i)));
}

/* The upper half after adding half of what is cut off, or a bit less where the half to keep is even; NaN is made quiet
 * and only cut. */
static void round_bf16_avx2(float *y, const float *x, int64_t n)
{
    const __m256i half = _mm256_set1_epi32(0x7fff), one = _mm256_set1_epi32(1),
                  quiet = _mm256_set1_epi32(0x400000), upper = _mm256_set1_epi32((int)0xffff0000u);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = lt_load_avx2(x + i, n - i);
        __m256i u = _mm256_castps_si256(v);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
        __m256i near = _mm256_add_epi32(u, _mm256_add_epi32(odd, half));
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        near = _mm256_blendv_epi8(near, _mm256_or_si256(u, quiet), nan);
        lt_store_avx2(y + i, n - i, _mm256_castsi256_ps(_mm256_and_si256(near, upper)));
    }
}

static void add_bias_avx2(float *y, const float *bias, int64_t rows, int64_t cols, int64_t ldy)
{
    for (int64_t r = 0; r < rows; r++)
        add_avx2(y + r * ldy, y + r * ldy, bias, cols);
}

/* sums[0 .. 8V) += the columns of x, of which n are left. */
static inline __attribute__((always_inline)) void sum_columns(float *sums, const float *x, int64_t rows,
                                                              int64_t cols, int64_t n, const int V)
{
    __m256 sum[8];
#pragma GCC unroll 8
    for (int j = 0; j < V; j++)
        sum[j] = _mm256_setzero_ps();
    for (int64_t r = 0; r < rows; r++, x += cols)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            sum[j] = _mm256_add_ps(sum[j], lt_load_avx2(x + 8 * j, n - 8 * j));
#pragma GCC unroll 8
    for (int j = 0; j < V; j++)
        lt_store_avx2(sums + 8 * j, n - 8 * j, _mm256_add_ps(lt_load_avx2(sums + 8 * j, n - 8 * j), sum[j]));
}

static void column_sums_avx2(float *sums, const float *x, int64_t rows, int64_t cols, int64_t begin,
                             int64_t end)
{
    int64_t c = begin;
    for (; c + 64 <= end; c += 64)
        sum_columns(sums + c, x + c, rows, cols, 64, 8);
    for (; c < end; c += 8)
        sum_columns(sums + c, x + c, rows, cols, end - c, 1);
}

void lt_elementwise_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->add = add_avx2;
    k->round_bf16 = round_bf16_avx2;
    k->add_bias = add_bias_avx2;
    k->column_sums = column_sums_avx2;
}
