/* Products of one row with a stored weight, of every instruction set: against the exact sum of what they multiply, for any
 * piece of the rows, odd sizes and values that are not finite. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/base/checked.h"
#include "quant/nf4.h"
#include "tests/support/kernel_check.h"
#include "tests/support/random_weight.h"

enum { MAX_COLS = 4224 + 64, MAX_OUT = 40 };

static float x[MAX_COLS], bias[MAX_OUT], scales[MAX_COLS / 64 + 1];
static int16_t codes[MAX_COLS + 128];

static bool is_4bit(const struct lt_weight *w)
{
    return w->format == LT_WEIGHT_NF4 || w->format == LT_WEIGHT_FP4;
}

static struct lt_gemv prepare(const struct lt_cpu_kernels *k, const struct lt_weight *w, float *y,
                              const float *with_bias)
{
    struct lt_gemv g = {
        .w = w, .x = x, .bias = with_bias, .y = y, .end = w->rows, .codes = codes, .scales = scales};
    if (is_4bit(w)) {
        k->gemv_quantize(codes, scales, x, w->cols);
        for (int i = 0; i < 16; i++)
            g.table[i] = (int16_t)lrintf(w->code[i] * LT_GEMV_UNIT);
    }
    return g;
}

/* Largest magnitude of x in the block of column c. */
static double block_max(int64_t c)
{
    double max = 0;
    for (int64_t i = c / LT_GEMV_BLOCK * LT_GEMV_BLOCK; i < (c / LT_GEMV_BLOCK + 1) * LT_GEMV_BLOCK; i++)
        max = fmax(max, fabs((double)x[i]));
    return max;
}

/* Rounding: one for each addition of a lane's chain and each level of the tree; of 4-bit weights also half a unit of a code
 * of x, of the table's code, and a few for scales. */
static void check_values(const struct lt_random_weight *m, const float *y, const float *with_bias)
{
    const struct lt_weight *w = &m->w;
    for (int64_t r = 0; r < w->rows; r++) {
        double want = with_bias ? (double)with_bias[r] : 0, size = fabs(want), coarse = 0;
        for (int64_t c = 0; c < w->cols; c++) {
            double v = (double)m->logical[r * w->cols + c];
            want += v * (double)x[c];
            size += fabs(v * (double)x[c]);
            if (is_4bit(w)) {
                float scale;
                lt_nf4_scales(&scale, w, (r * w->cols + c) / LT_GEMV_BLOCK, 1);
                double unit = 0.5 / (double)LT_GEMV_UNIT;
                coarse += unit * (fabs(v) * block_max(c) +
                                  fabs((double)scale) * (fabs((double)x[c]) + unit * block_max(c)));
            }
        }
        double bound = ((double)w->cols / 8 + 16) * LT_CHECK_ULP * (size + coarse) + coarse;
        if (!(fabs((double)y[r] - want) <= bound))
            fail_msg("format %d, [%lld, %lld] row %lld: %g, not %g (bound %g)", (int)w->format,
                     (long long)w->rows, (long long)w->cols, (long long)r, (double)y[r], want, bound);
    }
}

/* The same bits from any piece of the rows. */
static void check_pieces(const struct lt_cpu_kernels *k, struct lt_gemv g, const float *whole)
{
    float y[MAX_OUT + 2];
    const int64_t rows = g.w->rows;
    for (int64_t begin = 0; begin < rows; begin += 1 + begin) {
        for (int i = 0; i < MAX_OUT + 2; i++)
            y[i] = 77.0f;
        g.y = y + 1;
        g.begin = begin;
        g.end = lt_min_i64(rows, 2 * begin + 1);
        k->gemv[g.w->format](&g);
        for (int64_t r = -1; r <= rows; r++)
            assert_true(r >= g.begin && r < g.end ? memcmp(&y[r + 1], &whole[r], sizeof *y) == 0
                                                  : y[r + 1] == 77.0f);
    }
}

/* The same bits from two halves side by side. */
static void check_apart(const struct lt_cpu_kernels *k, struct lt_gemv g, const float *whole)
{
    float y[MAX_OUT + 2];
    const int64_t half = g.w->rows / 2;
    for (int i = 0; i < MAX_OUT + 2; i++)
        y[i] = 77.0f;
    g.y = y + 1;
    g.begin = half / 3;
    g.end = half;
    g.apart = half;
    k->gemv[g.w->format](&g);
    for (int64_t r = -1; r <= g.w->rows; r++) {
        bool in = (r >= g.begin && r < g.end) || (r >= g.begin + half && r < g.end + half);
        assert_true(in ? memcmp(&y[r + 1], &whole[r], sizeof *y) == 0 : y[r + 1] == 77.0f);
    }
}

static void check_weight(const struct lt_cpu_kernels *k, enum lt_weight_format format,
                         enum lt_random_layout layout, int64_t rows, int64_t cols)
{
    float y[MAX_OUT];
    struct lt_random_weight m = lt_random_weight_make(format, layout, rows, cols);
    for (int with = 0; with < 2; with++) {
        struct lt_gemv g = prepare(k, &m.w, y, with ? bias : NULL);
        k->gemv[format](&g);
        check_values(&m, y, g.bias);
        check_pieces(k, g, y);
        check_apart(k, g, y);
    }
    /* What is not finite stays so. */
    const float odd[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float before = x[cols / 2];
        x[cols / 2] = odd[i];
        struct lt_gemv g = prepare(k, &m.w, y, NULL);
        k->gemv[format](&g);
        for (int64_t r = 0; r < rows; r++)
            assert_true(!isfinite(y[r]) || m.logical[r * cols + cols / 2] == 0.0f);
        x[cols / 2] = before;
    }
    lt_random_weight_free(&m);
}

static void check_table(const struct lt_cpu_kernels *k)
{
    static const int64_t odd[] = {1, 7, 16, 17, 48, 100, 1000}, whole[] = {64, 128, 192, 576, 2112, 4224};
    static const enum lt_weight_format plain[] = {LT_WEIGHT_F16, LT_WEIGHT_BF16};
    for (int f = 0; f < 2; f++)
        for (size_t c = 0; c < sizeof odd / sizeof *odd; c++)
            check_weight(k, plain[f], LT_LAYOUT_PLAIN, 1 + (int64_t)c * 3, odd[c]);
    for (int f = 0; f < 4; f++)
        for (size_t c = 0; c < sizeof whole / sizeof *whole; c++)
            check_weight(k, f % 2 ? LT_WEIGHT_FP4 : LT_WEIGHT_NF4, f / 2 ? LT_LAYOUT_NESTED : LT_LAYOUT_PLAIN,
                         1 + (int64_t)c * 2, whole[c]);
}

static void all_sets(void **state)
{
    (void)state;
    struct lt_cpu_kernels k;
    for (int kind = 0; kind < 3; kind++) {
        lt_check_seed(7 + (uint64_t)kind);
        lt_check_fill(bias, MAX_OUT, -1, 1);
        lt_check_fill(x, MAX_COLS, -3, 3);
        for (int i = 0; i < MAX_COLS; i++) {
            if (kind == 1) /* blocks of zeros, and one large entry */
                x[i] = i / 64 % 2 ? 0.0f : i % 64 == 5 ? 1e6f : x[i] * 1e-3f;
            if (kind == 2)
                x[i] *= 1e-25f;
        }
        for (int isa = LT_CPU_REF; isa < LT_CPU_ISA_COUNT; isa++) {
            if (!lt_cpu_isa_available((enum lt_cpu_isa)isa))
                continue;
            lt_cpu_kernels_init(&k, (enum lt_cpu_isa)isa);
            check_table(&k);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_sets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
