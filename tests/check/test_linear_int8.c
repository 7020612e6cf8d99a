/* LINEAR of LLM.int8(): the op of a device against its definition (docs/numerics.md), bit for bit.  The codes, the sums
 * of integers and every rounding of the result are prescribed, so there is no tolerance.  The device is the one that
 * LT_TEST_DEVICE names, without it the CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quant/int8.h"
#include "tests/support/device_op.h"
#include "tests/support/kernel_check.h"
#include "tests/support/random_weight.h"

static const enum lt_cpu_isa any = LT_CPU_REF; /* named in messages only */

static void linear(float *y, const float *x, int64_t rows, const struct lt_weight *w, const float *bias,
                   float threshold)
{
    struct device_op o = {.op = LT_OP_LINEAR,
                          .attr = {.int8 = true, .int8_threshold = threshold},
                          .params = {.n_tokens = (int32_t)rows, .n_labels = 1, .loss_scale = 1}};
    o.in[0] = device_f32(x, rows, w->cols);
    o.in[1] = device_weight(w);
    if (bias)
        o.in[2] = device_fixed(bias, 1, w->rows);
    o.out[0] = device_f32(y, rows, w->rows);
    device_run(&o);
}

/* One row of the result. */
static void define(float *y, const float *x, int8_t *codes, const struct lt_weight *w, const float *bias,
                   float threshold)
{
    float scale;
    lt_int8_quantize_row(codes, &scale, x, w->cols, threshold, NULL);
    for (int64_t j = 0; j < w->rows; j++) {
        const int8_t *row = (const int8_t *)w->data + j * w->cols;
        int32_t sum = 0;
        for (int64_t k = 0; k < w->cols; k++)
            sum += (int32_t)codes[k] * row[k];
        y[j] = (float)sum * (scale * w->absmax[j]) * (1.0f / (127.0f * 127.0f));
        if (bias)
            y[j] += bias[j];
        for (int64_t k = 0; k < w->cols; k++)
            if (lt_int8_is_outlier(x[k], threshold))
                y[j] += x[k] * ((float)row[k] * w->absmax[j] * (1.0f / 127.0f));
    }
}

struct shape {
    int64_t rows, n, k;
};

/* What is in x beside ordinary numbers. */
enum content { ORDINARY, OUTLIERS, EXTREME, NON_FINITE, TINY, ALL_ZERO, CONTENTS };

static void fill(float *x, int64_t n, enum content content)
{
    lt_check_fill(x, n, -5.9, 5.9);
    for (int64_t i = 0; content == OUTLIERS && i < n; i++)
        if (lt_check_random() % 40 == 0)
            x[i] *= 20.0f;
    if (content == EXTREME || content == NON_FINITE)
        lt_check_sprinkle(x, n, content == NON_FINITE);
    for (int64_t i = 0; (content == TINY || content == ALL_ZERO) && i < n; i++)
        x[i] *= content == TINY ? 1e-7f : 0.0f; /* f16 has a few bits for these */
}

static void check(const struct shape *s, enum content content, float threshold, bool with_bias)
{
    struct lt_random_weight w = lt_random_weight_make(LT_WEIGHT_INT8, LT_LAYOUT_PLAIN, s->n, s->k);
    float *x = lt_check_floats(s->rows * s->k), *got = lt_check_floats(s->rows * s->n),
          *want = lt_check_floats(s->rows * s->n), *bias = lt_check_floats(s->n);
    int8_t *codes = lt_must_alloc((size_t)s->k, 1);
    fill(x, s->rows * s->k, content);
    lt_check_fill(bias, s->n, -1.0, 1.0);
    for (int64_t i = 0; i < s->rows; i++)
        define(want + i * s->n, x + i * s->k, codes, &w.w, with_bias ? bias : NULL, threshold);
    linear(got, x, s->rows, &w.w, with_bias ? bias : NULL, threshold);
    lt_check_same("linear of LLM.int8()", any, got, want, s->rows * s->n);
    free(codes);
    lt_random_weight_free(&w);
    lt_check_release();
}

static void test_values(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {{1, 1, 1},    {1, 33, 257},  {33, 257, 33}, {257, 1, 33},
                                          {5, 33, 1},   {17, 65, 130}, {3, 257, 257}, {16, 64, 32},
                                          {40, 70, 96}, {2, 5, 3}};
    unsigned turn = 0;
    lt_check_seed(1);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int content = 0; content < CONTENTS; content++)
            for (int t = 0; t < 2; t++)
                check(&shapes[s], (enum content)content, t ? 6.0f : 0.0f, turn++ % 3 != 0);
}

/* More of the weight, of x and of the result than a binding of 1 MiB shows, which a device may have as its limit. */
static void test_large(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {{2, 1100, 1003}, {300, 17, 1001}, {300, 1003, 35}};
    lt_check_seed(2);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        check(&shapes[s], OUTLIERS, 6.0f, true);
}

/* Rows alone and in other company have the same bits. */
static void test_rows_alone(void **unused)
{
    (void)unused;
    enum { ROWS = 70, N = 40, K = 99 };
    static const int64_t counts[] = {1, 5, 17, 33}, starts[] = {0, 3, 36};
    lt_check_seed(3);
    struct lt_random_weight w = lt_random_weight_make(LT_WEIGHT_INT8, LT_LAYOUT_PLAIN, N, K);
    float *x = lt_check_floats(ROWS * K), *all = lt_check_floats(ROWS * N), *some = lt_check_floats(ROWS * N);
    fill(x, ROWS * K, OUTLIERS);
    linear(all, x, ROWS, &w.w, NULL, 6.0f);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t j = 0; j < sizeof starts / sizeof *starts; j++) {
            linear(some, x + starts[j] * K, counts[i], &w.w, NULL, 6.0f);
            lt_check_same("rows alone", any, some, all + starts[j] * N, counts[i] * N);
        }
    lt_random_weight_free(&w);
    lt_check_release();
}

/* In a model of LLM.int8() some weights have another form: they are multiplied as they are. */
static void test_other_forms(void **unused)
{
    (void)unused;
    enum { ROWS = 3, N = 9, K = 64 };
    for (int format = 0; format < LT_WEIGHT_INT8; format++) {
        struct lt_random_weight w =
            lt_random_weight_make((enum lt_weight_format)format, LT_LAYOUT_PLAIN, N, K);
        float *x = lt_check_floats(ROWS * K), *y = lt_check_floats(ROWS * N),
              *want = lt_check_floats(ROWS * N);
        double bound[ROWS * N];
        lt_check_fill(x, ROWS * K, -1.0, 1.0);
        for (int i = 0; i < ROWS * N; i++) {
            double sum = 0, size = 0;
            for (int k = 0; k < K; k++) {
                double p = (double)x[i / N * K + k] * (double)w.logical[i % N * K + k];
                sum += p;
                size += p < 0 ? -p : p;
            }
            want[i] = (float)sum;
            bound[i] = (K + 2) * LT_CHECK_ULP * size;
        }
        linear(y, x, ROWS, &w.w, NULL, 6.0f);
        lt_check_close("other forms", any, y, want, bound, ROWS * N);
        lt_random_weight_free(&w);
        lt_check_release();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_large),
                                       cmocka_unit_test(test_rows_alone), cmocka_unit_test(test_other_forms)};
    setenv("LT_TEST_DEVICE", "cpu", 0);
    return cmocka_run_group_tests_name("linear of LLM.int8()", tests, NULL, NULL);
}
