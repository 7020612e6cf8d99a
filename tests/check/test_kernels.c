/* The row-wise kernels: every instruction set against the portable kernels, and against itself with other
 * neighbours.  `--bench` times the same calls.
 * A bound is a number of roundings times the magnitudes that were rounded, per element; `magnitude` of a case
 * computes the latter in double from the inputs and the portable results. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "tests/support/kernel_check.h"

enum { MAX_ARRAYS = 5, POSITIONS = 16 };

enum shape { NONE, FULL, ROW, COL };

struct call {
    float *in[MAX_ARRAYS], *out[3];
    const int32_t *positions;
    const uint32_t *row_key;
    int64_t rows, cols, begin, end; /* columns [begin, end) for column kernels */
    int variant;
};

struct kernel_case {
    const char *name;
    enum shape in[MAX_ARRAYS], out[3];
    int variants;
    bool accumulates;  /* outputs are read; cut by columns instead of rows */
    double roundings;  /* 0: the same bits */
    double per_column; /* more roundings for each element of a sum along a row, or of rows */
    void (*run)(const struct lt_cpu_kernels *k, const struct call *c);
    void (*magnitude)(const struct call *c, double *m[3]);
};

static const struct lt_rng_site test_site = {.seed = 0x123456789abcdef0u, .step = 7, .site = 99};

/* ---- norms ---- */

static void run_rmsnorm_fwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->rmsnorm_fwd(c->out[0], c->out[1], c->in[0], c->in[1], c->rows, c->cols, 1e-5f, c->variant == 1);
}

static void of_result(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->rows * c->cols; i++)
        m[0][i] = fabs((double)c->out[0][i]);
    for (int64_t r = 0; m[1] && r < c->rows; r++)
        m[1][r] = fabs((double)c->out[1][r]);
}

/* in: dy, x, w, rstd */
static void run_rmsnorm_bwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->rmsnorm_bwd(c->out[0], c->in[0], c->in[1], c->in[2], c->in[3], c->rows, c->cols, c->variant == 1);
}

static double scaled(const struct call *c, int64_t r, int64_t i)
{
    return fabs((double)c->in[0][r * c->cols + i]) * (fabs((double)c->in[2][i]) + (c->variant == 1));
}

static void of_rmsnorm_bwd(const struct call *c, double *m[3])
{
    for (int64_t r = 0; r < c->rows; r++) {
        double rstd = (double)c->in[3][r], dot = 0.0;
        for (int64_t i = 0; i < c->cols; i++)
            dot += scaled(c, r, i) * fabs((double)c->in[1][r * c->cols + i]);
        dot /= (double)c->cols;
        for (int64_t i = 0; i < c->cols; i++)
            m[0][r * c->cols + i] =
                rstd * (scaled(c, r, i) + fabs((double)c->in[1][r * c->cols + i]) * rstd * rstd * dot);
    }
}

/* in: dy, x, rstd */
static void run_rmsnorm_dw(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->rmsnorm_dw(c->out[0], c->in[0], c->in[1], c->in[2], c->rows, c->cols, c->begin, c->end);
}

static void of_rmsnorm_dw(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->cols; i++) {
        m[0][i] = fabs((double)c->out[0][i]) + 1.0;
        for (int64_t r = 0; r < c->rows; r++)
            m[0][i] += fabs((double)c->in[0][r * c->cols + i] * (double)c->in[1][r * c->cols + i] *
                            (double)c->in[2][r]);
    }
}

/* in: x, w, b; out: y, mean, rstd */
static void run_layernorm_fwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->layernorm_fwd(c->out[0], c->out[1], c->out[2], c->in[0], c->in[1], c->in[2], c->rows, c->cols, 1e-5f);
}

/* The mean carries the rounding of all |x|; against the deviation that error counts times rstd. */
static void of_layernorm_fwd(const struct call *c, double *m[3])
{
    for (int64_t r = 0; r < c->rows; r++) {
        double mean = (double)c->out[1][r], rstd = (double)c->out[2][r], size = 0.0;
        for (int64_t i = 0; i < c->cols; i++)
            size += fabs((double)c->in[0][r * c->cols + i]) / (double)c->cols;
        m[1][r] = size;
        m[2][r] = rstd * (1.0 + size * rstd);
        for (int64_t i = 0; i < c->cols; i++) {
            double x = (double)c->in[0][r * c->cols + i];
            double normal = fabs(x - mean) * rstd * (1.0 + size * rstd) + (fabs(x) + size) * rstd;
            m[0][r * c->cols + i] = normal * fabs((double)c->in[1][i]) + fabs((double)c->in[2][i]);
        }
    }
}

/* in: dy, x, w, mean, rstd */
static void run_layernorm_bwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->layernorm_bwd(c->out[0], c->in[0], c->in[1], c->in[2], c->in[3], c->in[4], c->rows, c->cols);
}

static double normal_size(const struct call *c, int64_t r, int64_t i, const float *mean, const float *rstd)
{
    return (fabs((double)c->in[1][r * c->cols + i]) + fabs((double)mean[r])) * fabs((double)rstd[r]);
}

static void of_layernorm_bwd(const struct call *c, double *m[3])
{
    for (int64_t r = 0; r < c->rows; r++) {
        double sum = 0.0, dot = 0.0;
        for (int64_t i = 0; i < c->cols; i++) {
            double g = fabs((double)c->in[0][r * c->cols + i] * (double)c->in[2][i]);
            sum += g / (double)c->cols;
            dot += g * normal_size(c, r, i, c->in[3], c->in[4]) / (double)c->cols;
        }
        for (int64_t i = 0; i < c->cols; i++) {
            double g = fabs((double)c->in[0][r * c->cols + i] * (double)c->in[2][i]);
            m[0][r * c->cols + i] = (double)c->in[4][r] *
                                    (g + sum + normal_size(c, r, i, c->in[3], c->in[4]) * dot);
        }
    }
}

/* in: dy, x, mean, rstd */
static void run_layernorm_dw(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->layernorm_dw(c->out[0], c->out[1], c->in[0], c->in[1], c->in[2], c->in[3], c->rows, c->cols, c->begin,
                    c->end);
}

static void of_layernorm_dw(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->cols; i++) {
        m[0][i] = fabs((double)c->out[0][i]) + 1.0;
        m[1][i] = fabs((double)c->out[1][i]) + 1.0;
        for (int64_t r = 0; r < c->rows; r++) {
            double g = fabs((double)c->in[0][r * c->cols + i]);
            m[0][i] += g * normal_size(c, r, i, c->in[2], c->in[3]);
            m[1][i] += g;
        }
    }
}

/* ---- rope: the table lies in in[1], POSITIONS rows of `rotary` columns at most ---- */

static int64_t rope_heads(const struct call *c)
{
    return c->cols % 3 == 0 ? 3 : 1;
}

static int64_t rope_rotary(const struct call *c)
{
    int64_t head_dim = c->cols / rope_heads(c);
    return (c->variant & 2 ? head_dim / 2 : head_dim) / 2 * 2;
}

static void run_rope(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->rope(c->out[0], c->in[0], c->positions, c->in[1], c->rows, rope_heads(c), c->cols / rope_heads(c),
            rope_rotary(c), (c->variant & 1) != 0);
}

static void of_rope(const struct call *c, double *m[3])
{
    int64_t head_dim = c->cols / rope_heads(c), half = rope_rotary(c) / 2;
    for (int64_t i = 0; i < c->rows * c->cols; i++) {
        int64_t d = i % c->cols % head_dim, pair = d < half ? i + half : i - half;
        m[0][i] = d < 2 * half ? fabs((double)c->in[0][i]) + fabs((double)c->in[0][pair]) : 0.0;
    }
}

/* ---- activations ---- */

static void run_act_fwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->act_fwd(c->out[0], c->in[0], c->rows * c->cols, (enum lt_activation)c->variant);
}

static void run_act_bwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->act_bwd(c->out[0], c->in[0], c->in[1], c->rows * c->cols, (enum lt_activation)c->variant);
}

/* in: gate, up */
static void run_glu_fwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->glu_fwd(c->out[0], c->in[0], c->in[1], c->rows * c->cols, (enum lt_activation)c->variant);
}

/* in: dy, gate, up; out: dgate, dup */
static void run_glu_bwd(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->glu_bwd(c->out[0], c->out[1], c->in[0], c->in[1], c->in[2], c->rows * c->cols,
               (enum lt_activation)c->variant);
}

/* A GELU is x times a factor near 0 known to an absolute error; silu and relu are relatively exact. */
static double act_size(double x, int act)
{
    if (act == LT_ACT_SILU)
        return fabs(x / (1.0 + exp(-x)));
    return act == LT_ACT_RELU && x <= 0.0 ? 0.0 : fabs(x);
}

/* The slope of tanh is 1 - t^2, off by 2 u |x| times the slope of its argument until tanh is flat. */
static double slope_size(double x, int act)
{
    double a = fabs(x);
    if (act == LT_ACT_SILU)
        return 1.0 + a / (1.0 + exp(a));
    return a < 9.0 ? 1.0 + a * (0.8 + 0.11 * a * a) : 1.0;
}

/* The smallest normal number: below it roundings are absolute. */
static const double tiny = 0x1p-126;

static void of_act_fwd(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->rows * c->cols; i++)
        m[0][i] = act_size((double)c->in[0][i], c->variant) + tiny;
}

static void of_act_bwd(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->rows * c->cols; i++)
        m[0][i] = fabs((double)c->in[0][i]) * slope_size((double)c->in[1][i], c->variant) + tiny;
}

static void of_glu_fwd(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->rows * c->cols; i++)
        m[0][i] = (act_size((double)c->in[0][i], c->variant) + tiny) * fabs((double)c->in[1][i]) + tiny;
}

static void of_glu_bwd(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->rows * c->cols; i++) {
        double dy = fabs((double)c->in[0][i]), gate = (double)c->in[1][i];
        m[0][i] = dy * fabs((double)c->in[2][i]) * slope_size(gate, c->variant) + tiny;
        m[1][i] = dy * (act_size(gate, c->variant) + tiny) + tiny;
    }
}

/* ---- additions and dropout ---- */

static void run_add(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->add(c->out[0], c->in[0], c->in[1], c->rows * c->cols);
}

static void run_round_bf16(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->round_bf16(c->out[0], c->in[0], c->rows * c->cols);
}

static void run_add_bias(const struct lt_cpu_kernels *k, const struct call *c)
{
    memcpy(c->out[0], c->in[0], (size_t)(c->rows * c->cols) * sizeof(float));
    k->add_bias(c->out[0], c->in[1], c->rows, c->cols, c->cols);
}

static void run_column_sums(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->column_sums(c->out[0], c->in[0], c->rows, c->cols, c->begin, c->end);
}

static void of_column_sums(const struct call *c, double *m[3])
{
    for (int64_t i = 0; i < c->cols; i++) {
        m[0][i] = fabs((double)c->out[0][i]) + 1.0;
        for (int64_t r = 0; r < c->rows; r++)
            m[0][i] += fabs((double)c->in[0][r * c->cols + i]);
    }
}

static void run_dropout(const struct lt_cpu_kernels *k, const struct call *c)
{
    k->dropout(c->out[0], c->in[0], c->row_key, c->rows, c->cols, 0x40000000u, 4.0f / 3.0f, &test_site);
}

/* ---- the table ---- */

static const struct kernel_case cases[] = {
    /* 4 x 8 lanes, then a tree; half of the error of a sum of squares reaches its root */
    {"rmsnorm_fwd", {FULL, COL}, {FULL, ROW}, 2, false, 8, 1.0 / 32, run_rmsnorm_fwd, of_result},
    {"rmsnorm_bwd", {FULL, FULL, COL, ROW}, {FULL}, 2, false, 12, 1.0 / 32, run_rmsnorm_bwd, of_rmsnorm_bwd},
    {"rmsnorm_dw", {FULL, FULL, ROW}, {COL}, 1, true, 4, 1, run_rmsnorm_dw, of_rmsnorm_dw},
    {"layernorm_fwd",
     {FULL, COL, COL},
     {FULL, ROW, ROW},
     1,
     false,
     12,
     1.0 / 32,
     run_layernorm_fwd,
     of_layernorm_fwd},
    {"layernorm_bwd",
     {FULL, FULL, COL, ROW, ROW},
     {FULL},
     1,
     false,
     16,
     1.0 / 8,
     run_layernorm_bwd,
     of_layernorm_bwd},
    {"layernorm_dw", {FULL, FULL, ROW, ROW}, {COL, COL}, 1, true, 4, 1, run_layernorm_dw, of_layernorm_dw},
    {"rope", {FULL, COL}, {FULL}, 4, false, 2, 0, run_rope, of_rope},
    {"act_fwd", {FULL}, {FULL}, 4, false, 8, 0, run_act_fwd, of_act_fwd},
    {"act_bwd", {FULL, FULL}, {FULL}, 4, false, 10, 0, run_act_bwd, of_act_bwd},
    {"glu_fwd", {FULL, FULL}, {FULL}, 4, false, 9, 0, run_glu_fwd, of_glu_fwd},
    {"glu_bwd", {FULL, FULL, FULL}, {FULL, FULL}, 4, false, 12, 0, run_glu_bwd, of_glu_bwd},
    {"add", {FULL, FULL}, {FULL}, 1, false, 0, 0, run_add, NULL},
    {"round_bf16", {FULL}, {FULL}, 1, false, 0, 0, run_round_bf16, NULL},
    {"add_bias", {FULL, COL}, {FULL}, 1, false, 0, 0, run_add_bias, NULL},
    {"column_sums", {FULL}, {COL}, 1, true, 2, 1, run_column_sums, of_column_sums},
    {"dropout", {FULL}, {FULL}, 1, false, 0, 0, run_dropout, NULL},
};

enum { CASES = sizeof cases / sizeof *cases };

static int64_t elements(enum shape shape, int64_t rows, int64_t cols)
{
    return shape == FULL ? rows * cols : shape == ROW ? rows : shape == COL ? cols : 0;
}

/* The call for rows from r on: pointers move, the rest stays. */
static struct call from_row(const struct kernel_case *k, struct call c, int64_t r)
{
    for (int i = 0; i < MAX_ARRAYS; i++)
        c.in[i] = c.in[i] && k->in[i] != COL ? c.in[i] + elements(k->in[i], r, c.cols) : c.in[i];
    for (int i = 0; i < 3; i++)
        c.out[i] = c.out[i] && k->out[i] != COL ? c.out[i] + elements(k->out[i], r, c.cols) : c.out[i];
    c.positions += r;
    c.row_key += r;
    return c;
}

static struct call make_call(const struct kernel_case *k, int64_t rows, int64_t cols, double range)
{
    static int32_t positions[1024];
    static uint32_t row_key[1024];
    struct call c = {.rows = rows, .cols = cols, .end = cols, .positions = positions, .row_key = row_key};
    for (int64_t r = 0; r < rows; r++) {
        positions[r] = (int32_t)(lt_check_random() % POSITIONS);
        row_key[r] = lt_check_random();
    }
    for (int i = 0; i < MAX_ARRAYS && k->in[i] != NONE; i++) {
        int64_t n = elements(k->in[i], rows, cols);
        bool table = k->run == run_rope && i == 1; /* of cosines and sines */
        n = table ? POSITIONS * cols : n;
        c.in[i] = lt_check_floats(n);
        lt_check_fill(c.in[i], n,
                      k->in[i] == ROW ? 0.1
                      : table         ? -1.0
                                      : -range,
                      k->in[i] == ROW || table ? 1.0 : range);
    }
    for (int i = 0; i < 3 && k->out[i] != NONE; i++) {
        int64_t n = elements(k->out[i], rows, cols);
        c.out[i] = lt_check_floats(n);
        if (k->accumulates)
            lt_check_fill(c.out[i], n, -1.0, 1.0);
    }
    return c;
}

/* The same inputs and starting values, other outputs. */
static struct call with_new_outputs(const struct kernel_case *k, struct call c)
{
    for (int i = 0; i < 3 && k->out[i] != NONE; i++) {
        int64_t n = elements(k->out[i], c.rows, c.cols);
        float *old = c.out[i];
        c.out[i] = lt_check_floats(n);
        memcpy(c.out[i], old, (size_t)n * sizeof(float));
    }
    return c;
}

static void compare(const struct kernel_case *k, enum lt_cpu_isa isa, const struct call *got,
                    const struct call *want)
{
    double *m[3] = {NULL, NULL, NULL};
    double unit = LT_CHECK_ULP *
                  (k->roundings + k->per_column * (double)(k->accumulates ? got->rows : got->cols));
    for (int i = 0; i < 3 && k->out[i] != NONE; i++) {
        m[i] = lt_alloc_zero((size_t)elements(k->out[i], got->rows, got->cols), sizeof(double));
        assert_non_null(m[i]);
    }
    if (k->magnitude)
        k->magnitude(want, m);
    for (int i = 0; i < 3 && k->out[i] != NONE; i++) {
        int64_t n = elements(k->out[i], got->rows, got->cols);
        for (int64_t j = 0; j < n; j++)
            m[i][j] *= unit;
        lt_check_close(k->name, isa, got->out[i], want->out[i], m[i], n);
        lt_free(m[i]);
    }
}

/* A kernel cut at row or column `at` gives the bits of the whole. */
static void check_cut(const struct kernel_case *k, const struct lt_cpu_kernels *isa, const struct call *start,
                      const struct call *whole, int64_t at)
{
    struct call parts = with_new_outputs(k, *start);
    struct call first = parts, second = parts;
    if (k->accumulates) {
        first.end = second.begin = at;
    } else {
        first.rows = at;
        second = from_row(k, parts, at);
        second.rows = parts.rows - at;
    }
    k->run(isa, &first);
    k->run(isa, &second);
    for (int i = 0; i < 3 && k->out[i] != NONE; i++)
        lt_check_same(k->name, isa->isa, parts.out[i], whole->out[i],
                      elements(k->out[i], parts.rows, parts.cols));
}

static void check_case(const struct kernel_case *k, int64_t rows, int64_t cols, double range, int sprinkle)
{
    struct lt_cpu_kernels ref, isas[LT_CPU_ISA_COUNT];
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    int n = lt_check_isas(isas);
    struct call start = make_call(k, rows, cols, range);
    for (int i = 0; i < MAX_ARRAYS && sprinkle > 0 && k->in[i] != NONE; i++)
        if (k->in[i] == FULL)
            lt_check_sprinkle(start.in[i], rows * cols, sprinkle > 1);
    for (start.variant = 0; start.variant < k->variants; start.variant++) {
        struct call want = with_new_outputs(k, start);
        k->run(&ref, &want);
        for (int i = 0; i < n; i++) {
            struct call got = with_new_outputs(k, start);
            k->run(&isas[i], &got);
            compare(k, isas[i].isa, &got, &want);
            check_cut(k, &isas[i], &start, &got, (k->accumulates ? cols : rows) / 3);
            check_cut(k, &isas[i], &start, &got, k->accumulates ? cols - 1 : 1);
        }
    }
    lt_check_release();
}

static void check_all(double range, int sprinkle)
{
    const int64_t shapes[][2] = {{1, 1}, {3, 7}, {5, 33}, {7, 257}, {4, 96}, {33, 64}, {3, 2051}};
    for (int i = 0; i < CASES; i++) {
        lt_check_seed((uint64_t)i + 1);
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            check_case(&cases[i], shapes[s][0], shapes[s][1], range, sprinkle);
    }
}

static void test_ordinary(void **unused)
{
    (void)unused;
    check_all(1.0, 0);
    check_all(12.0, 0);
}

static void test_large_arguments(void **unused)
{
    (void)unused;
    check_all(100.0, 0);
}

static void test_extreme_values(void **unused)
{
    (void)unused;
    check_all(1.0, 1);
}

static void test_non_finite_values(void **unused)
{
    (void)unused;
    check_all(1.0, 2);
}

/* Outputs in the place of inputs, where the contract allows it. */
static void test_in_place(void **unused)
{
    (void)unused;
    enum { N = 77 };
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT];
    int n = lt_check_isas(isas);
    lt_cpu_kernels_init(&isas[n++], LT_CPU_REF);
    float x[N], g[N], u[N], want[N], want2[N], got[N], got2[N];
    lt_check_seed(5);
    lt_check_fill(x, N, -3, 3);
    lt_check_fill(g, N, -3, 3);
    lt_check_fill(u, N, -3, 3);
    for (int i = 0; i < n; i++) {
        const struct lt_cpu_kernels *k = &isas[i];
        k->glu_bwd(want, want2, x, g, u, N, LT_ACT_SILU);
        memcpy(got, g, sizeof got);
        memcpy(got2, u, sizeof got2);
        k->glu_bwd(got, got2, x, got, got2, N, LT_ACT_SILU);
        lt_check_same("glu_bwd onto gate", k->isa, got, want, N);
        lt_check_same("glu_bwd onto up", k->isa, got2, want2, N);
        memcpy(got, g, sizeof got);
        memcpy(got2, x, sizeof got2);
        k->glu_bwd(got, got2, got2, got, u, N, LT_ACT_SILU);
        lt_check_same("glu_bwd onto dy", k->isa, got2, want2, N);
        k->act_bwd(want, g, x, N, LT_ACT_GELU);
        memcpy(got, g, sizeof got);
        k->act_bwd(got, got, x, N, LT_ACT_GELU);
        lt_check_same("act_bwd in place", k->isa, got, want, N);
        const float rstd = 0.7f, mean = 0.1f;
        k->rmsnorm_bwd(want, g, x, u, &rstd, 1, N, false);
        memcpy(got, g, sizeof got);
        k->rmsnorm_bwd(got, got, x, u, &rstd, 1, N, false);
        lt_check_same("rmsnorm_bwd in place", k->isa, got, want, N);
        k->layernorm_bwd(want, g, x, u, &mean, &rstd, 1, N);
        memcpy(got, g, sizeof got);
        k->layernorm_bwd(got, got, x, u, &mean, &rstd, 1, N);
        lt_check_same("layernorm_bwd in place", k->isa, got, want, N);
        const int32_t position = 0;
        k->rope(want, x, &position, u, 1, 1, N, 50, false);
        memcpy(got, x, sizeof got);
        k->rope(got, got, &position, u, 1, 1, N, 50, false);
        lt_check_same("rope in place", k->isa, got, want, N);
        k->round_bf16(want, got, N);
        k->round_bf16(got, got, N);
        lt_check_same("round_bf16 in place", k->isa, got, want, N);
    }
}

/* ---- speed ---- */

struct timed {
    const struct kernel_case *k;
    const struct lt_cpu_kernels *isa;
    struct call call;
};

static void run_timed(void *context)
{
    struct timed *t = context;
    t->k->run(t->isa, &t->call);
}

static int bench(void)
{
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    lt_cpu_kernels_init(&isas[0], LT_CPU_REF);
    int n = 1 + lt_check_isas(isas + 1);
    for (int i = 0; i < CASES; i++) {
        struct timed t = {.k = &cases[i], .call = make_call(&cases[i], 128, 2048, 4.0)};
        double arrays = 0.0;
        for (int j = 0; j < MAX_ARRAYS; j++)
            arrays += cases[i].in[j] == FULL;
        for (int j = 0; j < 3; j++)
            arrays += cases[i].out[j] == FULL;
        for (int j = 0; j < n; j++) {
            t.isa = &isas[j];
            lt_check_bench(cases[i].name, isas[j].isa, run_timed, &t, arrays * 128 * 2048 * 4, "GB/s");
        }
        lt_check_release();
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ordinary),       cmocka_unit_test(test_large_arguments),
        cmocka_unit_test(test_extreme_values), cmocka_unit_test(test_non_finite_values),
        cmocka_unit_test(test_in_place),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
