/* Linear layers of LLM.int8() outside training: each row of activations to 8 bits, products of integers, and the
 * outlier entries of the row in f32.
 *
 * bitsandbytes takes a column out of the integer product when any row of the batch has an outlier in it.  Here a row's
 * own outliers count only, so that its result depends on that row alone. */
#include <omp.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/checked.h"
#include "quant/int8.h"

enum { TILE_ROWS = 4, TILE_COLS = 64 };

/* In the workspace. */
struct rows8 {
    float *scale;
    int32_t *outliers; /* how many entries of the row */
    int8_t *codes;
};

static size_t row_numbers_bytes(int64_t rows)
{
    return lt_align_up((size_t)rows * sizeof(float), LT_VALUE_ALIGN);
}

size_t lt_cpu_linear_int8_workspace(int64_t rows, int64_t cols)
{
    return 2 * row_numbers_bytes(rows) + (size_t)rows * (size_t)cols;
}

/* y[row, c] for the columns [c0, c0 + cols) of one tile. */
static void put_tile(const struct lt_cpu_call *c, const struct rows8 *r, const int32_t *acc, int64_t m0,
                     int64_t rows, int64_t c0, int64_t cols)
{
    const struct lt_weight *w = c->weight[1];
    const float *bias = c->in[2];
    float *y = c->out[0];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float v = (float)acc[i * TILE_COLS + j] * (r->scale[m0 + i] * w->absmax[c0 + j]) *
                      (1.0f / (127.0f * 127.0f));
            y[(m0 + i) * w->rows + c0 + j] = bias ? v + bias[c0 + j] : v;
        }
}

/* Adds the outlier entries of a row, by ascending column. */
static void add_outliers(const struct lt_cpu_call *c, int64_t row, int64_t c0, int64_t cols)
{
    const struct lt_weight *w = c->weight[1];
    const int8_t *codes = w->data;
    const float *x = (const float *)c->in[0] + row * w->cols;
    float *y = (float *)c->out[0] + row * w->rows + c0;
    for (int64_t k = 0; k < w->cols; k++) {
        if (!lt_int8_is_outlier(x[k], c->node->attr.int8_threshold))
            continue;
        for (int64_t j = 0; j < cols; j++)
            y[j] += x[k] * ((float)codes[(c0 + j) * w->cols + k] * w->absmax[c0 + j] * (1.0f / 127.0f));
    }
}

static void multiply_columns(const struct lt_cpu_call *c, const struct rows8 *r, int64_t c0, int64_t cols)
{
    const struct lt_weight *w = c->weight[1];
    const int8_t *codes = (const int8_t *)w->data + c0 * w->cols;
    int32_t acc[TILE_ROWS * TILE_COLS];
    for (int64_t m = 0; m < c->in_rows[0]; m += TILE_ROWS) {
        int64_t rows = lt_min_i64(TILE_ROWS, c->in_rows[0] - m);
        c->cpu->k.int8_dot(acc, TILE_COLS, r->codes + m * w->cols, rows, codes, cols, w->cols);
        put_tile(c, r, acc, m, rows, c0, cols);
        for (int64_t i = m; i < m + rows; i++)
            if (r->outliers[i] > 0)
                add_outliers(c, i, c0, cols);
    }
}

void lt_cpu_linear_int8(const struct lt_cpu_call *c)
{
    const struct lt_weight *w = c->weight[1];
    const float *x = c->in[0];
    const int64_t rows = c->in_rows[0], blocks = lt_div_up(w->rows, TILE_COLS);
    struct rows8 r = {.scale = (float *)(void *)c->workspace};
    r.outliers = (int32_t *)(void *)(c->workspace + row_numbers_bytes(rows));
    r.codes = (int8_t *)(c->workspace + 2 * row_numbers_bytes(rows));
#pragma omp parallel num_threads(lt_cpu_threads(c, rows * w->cols * w->rows))
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            r.outliers[i] = (int32_t)c->cpu->k.int8_quantize(r.codes + i * w->cols, &r.scale[i],
                                                             x + i * w->cols, w->cols,
                                                             c->node->attr.int8_threshold, NULL);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            multiply_columns(c, &r, b * TILE_COLS, lt_min_i64(TILE_COLS, w->rows - b * TILE_COLS));
    }
}
