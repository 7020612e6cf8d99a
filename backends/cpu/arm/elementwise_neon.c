/* Additions, rounding and column sums for NEON. */
#include "backends/cpu/arm/arm_kernels.h"

#include "backends/cpu/arm/vecmath_neon.h"

static void add_neon(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4)
        lt_store_neon(y + i, n - i, vaddq_f32(lt_load_neon(a + i, n - i), lt_load_neon(b + i, n - i)));
}

/* The upper half after adding half of what is cut off, or a bit less where the half to keep is even; NaN is made quiet
 * and only cut. */
static void round_bf16_neon(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t v = lt_load_neon(x + i, n - i);
        uint32x4_t u = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
        uint32x4_t near = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        near = vbslq_u32(vceqq_f32(v, v), near, vorrq_u32(u, vdupq_n_u32(0x400000)));
        lt_store_neon(y + i, n - i, lt_and_neon(vdupq_n_u32(0xffff0000u), vreinterpretq_f32_u32(near)));
    }
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
    k->round_bf16 = round_bf16_neon;
    k->add_bias = add_bias_neon;
    k->column_sums = column_sums_neon;
}
