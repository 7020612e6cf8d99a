/* Additions and column sums for AVX2. */
#include "backends/cpu/x86/x86_kernels.h"

#include "backends/cpu/x86/vecmath_avx2.h"

static void add_avx2(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += 8)
        lt_store_avx2(y + i, n - i, _mm256_add_ps(lt_load_avx2(a + i, n - i), lt_load_avx2(b + i, n - i)));
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
    k->add_bias = add_bias_avx2;
    k->column_sums = column_sums_avx2;
}
