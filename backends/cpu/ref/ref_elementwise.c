/* Additions, rounding, column sums and dropout. */
#include "backends/cpu/ref/ref_kernels.h"

#include "core/base/checked.h"
#include "core/tensor/dtype.h"

static void add_ref(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void round_bf16_ref(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = lt_bf16_to_f32(lt_f32_to_bf16(x[i]));
}

static void add_bias_ref(float *y, const float *bias, int64_t rows, int64_t cols, int64_t ldy)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            y[r * ldy + c] += bias[c];
}

static void column_sums_ref(float *sums, const float *x, int64_t rows, int64_t cols, int64_t begin,
                            int64_t end)
{
    for (int64_t c = begin; c < end; c++) {
        double sum = 0.0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)x[r * cols + c];
        sums[c] += (float)sum;
    }
}

static void dropout_ref(float *y, const float *x, const uint32_t *row_key, int64_t rows, int64_t cols,
                        uint32_t threshold, float keep_scale, const struct lt_rng_site *site)
{
    enum { SPAN = 256 };
    uint32_t bits[SPAN];
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        for (int64_t begin = 0; begin < cols; begin += SPAN) {
            int64_t n = lt_min_i64(SPAN, cols - begin);
            lt_rng_bits_row(bits, (size_t)n, site, row_key[r], (uint32_t)begin);
            for (int64_t i = 0; i < n; i++)
                y[begin + i] = bits[i] >= threshold ? x[begin + i] * keep_scale : 0.0f;
        }
    }
}

void lt_elementwise_kernels_ref(struct lt_cpu_kernels *k)
{
    k->add = add_ref;
    k->round_bf16 = round_bf16_ref;
    k->add_bias = add_bias_ref;
    k->column_sums = column_sums_ref;
    k->dropout = dropout_ref;
}
