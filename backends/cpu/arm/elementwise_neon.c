/* Additions and column sums for NEON. */
#include "backends/cpu/arm/arm_kernels.h"

#include "backends/cpu/arm/vecmath_neon.h"

static void add_neon(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4)
        lt_store_neon(y + i, n - i, vaddq_f32(lt_load_neon(a + i, n - i), lt_load_neon(b + i, n - i)));
}

static void add_bias_neon(float *y, const float *bias, int64_t rows, int64_t cols, int64_t ldy)
{
    for (int64_t r = 0; r < rows; r++)
        add_neon(y + r * ldy, y + r * ldy, bias, cols);
}

/* sums[0 .. 4V) += the columns of x, of which n are left. */
static inline __attribute__((always_inline)) void sum_columns(float *sums, const float *x, int64_t rows,
                                                              int64_t cols, int64_t n, const int V)
{
    float32x4_t sum[16];
#pragma GCC unroll 16
    for (int j = 0; j < V; j++)
        sum[j] = vdupq_n_f32(0.0f);
    for (int64_t r = 0; r < rows; r++, x += cols)
#pragma GCC unroll 16
        for (int j = 0; j < V; j++)
            sum[j] = vaddq_f32(sum[j], lt_load_neon(x + 4 * j, n - 4 * j));
#pragma GCC unroll 16
    for (int j = 0; j < V; j++)
        lt_store_neon(sums + 4 * j, n - 4 * j, vaddq_f32(lt_load_neon(sums + 4 * j, n - 4 * j), sum[j]));
}

static void column_sums_neon(float *sums, const float *x, int64_t rows, int64_t cols, int64_t begin,
                             int64_t end)
{
    int64_t c = begin;
    for (; c + 64 <= end; c += 64)
        sum_columns(sums + c, x + c, rows, cols, 64, 16);
    for (; c < end; c += 4)
        sum_columns(sums + c, x + c, rows, cols, end - c, 1);
}

void lt_elementwise_kernels_neon(struct lt_cpu_kernels *k)
{
    k->add = add_neon;
    k->add_bias = add_bias_neon;
    k->column_sums = column_sums_neon;
}
