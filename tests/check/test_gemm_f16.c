/* Products with f16 factors on the device that LT_TEST_DEVICE names: values, range, bits.
 *
 * Tolerance.  A row of A is rounded to f16 in units of its own (shaders/halves.comp), by 2^-11 of an element at most, or,
 * where the device takes subnormal numbers as 0, by 2^-14 units, which is 2^-28 of the row's largest.  W is rounded by
 * 2^-10 at most (a device may truncate), and may lose what is below 2^-14.  Products of two f16 are exact in f32, and so
 * are units; the sum over k, scale, bias and start adds gamma(k + 3) as in test_gemm.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/device_op.h"
#include "tests/support/random_weight.h"

static void need_device(void)
{
    if (device_open() == NULL)
        skip();
}

/* c[m, n] = a Wᵀ (+ extra as bias), or a W (+ extra as start). */
static void product(const struct lt_weight *w, bool forward, const float *a, int64_t m, const float *extra,
                    float *c)
{
    int64_t k = forward ? w->cols : w->rows, n = forward ? w->rows : w->cols;
    struct device_op o = {.op = forward ? LT_OP_LINEAR : LT_OP_LINEAR_DX,
                          .attr = {.compute = LT_F16},
                          .params = {.n_tokens = (int32_t)m}};
    o.in[0] = device_f32(a, m, k);
    o.in[1] = device_weight(w);
    if (extra)
        o.in[2] = forward ? device_fixed(extra, 1, n) : device_f32(extra, m, n);
    o.out[0] = device_f32(c, m, n);
    device_run(&o);
}

static void check_values(const struct lt_random_weight *w, bool forward, int64_t m, float size,
                         bool with_extra)
{
    int64_t k = forward ? w->w.cols : w->w.rows, n = forward ? w->w.rows : w->w.cols, cols = w->w.cols;
    float *a = lt_random_uniforms(m * k), *c = lt_random_uniforms(m * n),
          *extra = with_extra ? lt_random_uniforms(forward ? n : m * n) : NULL;
    for (int64_t i = 0; i < m * k; i++)
        a[i] *= size;
    product(&w->w, forward, a, m, extra, c);
    for (int64_t i = 0; i < m; i++) {
        double largest = 0;
        for (int64_t l = 0; l < k; l++)
            largest = fmax(largest, fabs((double)a[i * k + l]));
        for (int64_t j = 0; j < n; j++) {
            double start = extra ? (double)extra[forward ? j : i * n + j] : 0, sum = start, bound = 0,
                   magnitude = fabs(start), gamma = ((double)k + 3) * 0x1p-24;
            for (int64_t l = 0; l < k; l++) {
                double x = (double)a[i * k + l],
                       y = (double)w->logical[forward ? j * cols + l : l * cols + j], p = fabs(x * y);
                sum += x * y;
                magnitude += p;
                bound += fabs(y) < 0x1p-14 ? p : p * (0x1p-11 + 0x1p-10 + 0x1p-21);
                bound += largest * 0x1p-28 * fabs(y);
            }
            bound += gamma / (1 - gamma) * (magnitude + bound);
            double got = (double)c[i * n + j];
            if (!(fabs(got - sum) <= bound))
                fail_msg("%s %s m %lld n %lld k %lld at (%lld, %lld): %.9g, not %.9g",
                         lt_weight_format_name(w->w.format), forward ? "XWT" : "XW", (long long)m,
                         (long long)n, (long long)k, (long long)i, (long long)j, got, sum);
        }
    }
    free(a);
    free(c);
    free(extra);
}

static void values(void **state)
{
    static const int64_t shapes[][3] = {{1, 1, 1},       {2, 33, 1},     {9, 49, 33},  {33, 257, 17},
                                        {17, 95, 400},   {65, 130, 257}, {3, 16, 385}, {40, 64, 128},
                                        {130, 264, 272}, {4, 300, 1200}};
    static const float sizes[] = {1, 3e-9f, 4e6f}; /* activations; gradients; what no f16 can hold */
    (void)state;
    need_device();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++)
            for (int layout = 0; layout < LT_LAYOUT_COUNT; layout++) {
                unsigned variant = (unsigned)(format + layout) + (unsigned)i;
                if (!lt_random_weight_exists((enum lt_weight_format)format, (enum lt_random_layout)layout) ||
                    variant % 3 != 0)
                    continue;
                struct lt_random_weight w = lt_random_weight_make(
                    (enum lt_weight_format)format, (enum lt_random_layout)layout, shapes[i][1], shapes[i][2]);
                check_values(&w, true, shapes[i][0], sizes[i % 3], variant & 1);
                check_values(&w, false, shapes[i][0], sizes[(i + 1) % 3], variant & 2);
                lt_random_weight_free(&w);
            }
}

/* [2, k] of ones as f32. */
static struct lt_weight two_rows(float *data, int64_t k, float value)
{
    for (int64_t i = 0; i < 2 * k; i++)
        data[i] = value;
    return (struct lt_weight){.format = LT_WEIGHT_F32, .rows = 2, .cols = k, .data = data};
}

/* 1 + 2^-12 is 1 in f16, and 1e6 is 65504 in a weight. */
static void rounding(void **state)
{
    enum { K = 40 };
    float w[2 * K], a[K], c[2];
    (void)state;
    need_device();
    for (int i = 0; i < K; i++)
        a[i] = 1 + 0x1p-12f;
    struct lt_weight ones = two_rows(w, K, 1);
    product(&ones, true, a, 1, NULL, c);
    assert_true(c[0] == K && c[1] == K);
    struct lt_weight large = two_rows(w, K, -1e6f);
    product(&large, true, a, 1, NULL, c);
    assert_true(c[0] == -65504.0f * K && c[1] == -65504.0f * K);
}

/* A row of zeros, one with an infinity and one with a NaN, between ordinary ones. */
static void special_rows(void **state)
{
    enum { M = 5, K = 70 };
    float w[2 * K], a[M * K], c[M * 2];
    (void)state;
    need_device();
    for (int i = 0; i < M * K; i++)
        a[i] = i / K == 1 ? 0 : 0.5f;
    a[2 * K + 3] = INFINITY;
    a[3 * K + 69] = NAN;
    struct lt_weight ones = two_rows(w, K, 1);
    product(&ones, true, a, M, NULL, c);
    assert_true(c[0] == K / 2.0f && c[2 * 1] == 0 && isinf(c[2 * 2]) && isnan(c[2 * 3]) &&
                c[2 * 4] == K / 2.0f);
}

/* Rows alone and in other company have the same bits. */
static void invariance(void **state)
{
    enum { M = 300, ROWS = 272, COLS = 288 };
    static const int64_t counts[] = {1, 5, 17, 130}, starts[] = {0, 3, 150};
    (void)state;
    need_device();
    struct lt_random_weight w = lt_random_weight_make(LT_WEIGHT_NF4, LT_LAYOUT_NESTED, ROWS, COLS);
    for (int forward = 0; forward < 2; forward++) {
        int64_t k = forward ? COLS : ROWS, n = forward ? ROWS : COLS;
        float *a = lt_random_uniforms(M * k), *all = lt_random_uniforms(M * n),
              *some = lt_random_uniforms(M * n);
        product(&w.w, forward, a, M, NULL, all);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            for (size_t j = 0; j < sizeof starts / sizeof *starts; j++) {
                product(&w.w, forward, a + starts[j] * k, counts[i], NULL, some);
                assert_memory_equal(some, all + starts[j] * n, (size_t)(counts[i] * n) * sizeof(float));
            }
        free(a);
        free(all);
        free(some);
    }
    lt_random_weight_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(rounding),
                                       cmocka_unit_test(special_rows), cmocka_unit_test(invariance)};
    return cmocka_run_group_tests_name("f16 products of a device", tests, NULL, NULL);
}
