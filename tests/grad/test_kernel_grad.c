/* Backward kernels of every instruction set against central differences of the forward formulas, which are
 * written out again here in double.
 *
 * With a step h = 1e-5 and functions whose derivatives are of size 1, a difference errs by about h^2 = 1e-10
 * of the largest derivative plus 1e-16/h = 1e-11 of the loss: nothing against the f32 roundings of the kernel.
 * Those are allowed as (terms + 64) u times the largest derivative of the array, `terms` being the longest
 * sum behind one element. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "tests/support/kernel_check.h"

typedef double (*loss_fn)(const void *context, const double *x);

/* Derivatives of loss at x[n] against got[n]. */
static void check_gradient(const char *what, enum lt_cpu_isa isa, loss_fn loss, const void *context,
                           double *x, const float *got, int64_t n, int64_t terms)
{
    const double h = 1e-5;
    double *want = lt_alloc_array((size_t)n, sizeof *want), largest = 0.0;
    assert_non_null(want);
    for (int64_t i = 0; i < n; i++) {
        double at = x[i];
        x[i] = at + h;
        double above = loss(context, x);
        x[i] = at - h;
        want[i] = (above - loss(context, x)) / (2.0 * h);
        x[i] = at;
        largest = fmax(largest, fabs(want[i]));
    }
    double bound = LT_CHECK_ULP * (double)(terms + 64) * largest;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= bound))
            fail_msg("%s, %s: derivative %lld is %.9g, differences say %.9g; allowed %.3g", what,
                     lt_cpu_isa_name(isa), (long long)i, (double)got[i], want[i], bound);
    lt_free(want);
}

static void widen(double *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = (double)from[i];
}

/* Runs a test body for every available instruction set, ref included. */
static void for_each_isa(void (*body)(const struct lt_cpu_kernels *k))
{
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    lt_cpu_kernels_init(&isas[0], LT_CPU_REF);
    int n = 1 + lt_check_isas(isas + 1);
    for (int i = 0; i < n; i++) {
        lt_check_seed(77);
        body(&isas[i]);
    }
}

/* ---- norms: x[ROWS * COLS], w[COLS], b[COLS] in one array ---- */

enum { ROWS = 3, COLS = 37, N = ROWS * COLS };

struct norm {
    bool plus_one, layer;
    float weights[N]; /* of the outputs in the loss */
};

static double norm_loss(const void *context, const double *x)
{
    const struct norm *s = context;
    const double *w = x + N, *b = w + COLS;
    double loss = 0.0;
    for (int r = 0; r < ROWS; r++) {
        double mean = 0.0, square = 0.0;
        for (int i = 0; s->layer && i < COLS; i++)
            mean += x[r * COLS + i] / COLS;
        for (int i = 0; i < COLS; i++)
            square += (x[r * COLS + i] - mean) * (x[r * COLS + i] - mean) / COLS;
        double rstd = 1.0 / sqrt(square + (double)1e-5f);
        for (int i = 0; i < COLS; i++) {
            double y = (x[r * COLS + i] - mean) * rstd * (w[i] + s->plus_one) + (s->layer ? b[i] : 0.0);
            loss += y * (double)s->weights[r * COLS + i];
        }
    }
    return loss;
}

static void check_norm(const struct lt_cpu_kernels *k, bool layer, bool plus_one)
{
    struct norm s = {.plus_one = plus_one, .layer = layer};
    float x[N + 2 * COLS], g[N + 2 * COLS] = {0}, y[N], mean[ROWS], rstd[ROWS];
    double at[N + 2 * COLS];
    lt_check_fill(s.weights, N, -1.0, 1.0);
    lt_check_fill(x, N + 2 * COLS, -1.0, 1.0);
    widen(at, x, N + 2 * COLS);
    float *dx = g, *dw = g + N, *db = dw + COLS;
    if (layer) {
        k->layernorm_fwd(y, mean, rstd, x, x + N, x + N + COLS, ROWS, COLS, 1e-5f);
        k->layernorm_bwd(dx, s.weights, x, x + N, mean, rstd, ROWS, COLS);
        k->layernorm_dw(dw, db, s.weights, x, mean, rstd, ROWS, COLS, 0, COLS);
    } else {
        k->rmsnorm_fwd(y, rstd, x, x + N, ROWS, COLS, 1e-5f, plus_one);
        k->rmsnorm_bwd(dx, s.weights, x, x + N, rstd, ROWS, COLS, plus_one);
        k->rmsnorm_dw(dw, s.weights, x, rstd, ROWS, COLS, 0, COLS);
    }
    double loss = 0.0;
    for (int i = 0; i < N; i++)
        loss += (double)y[i] * (double)s.weights[i];
    assert_true(fabs(loss - norm_loss(&s, at)) <= LT_CHECK_ULP * (COLS + 64) * N);
    check_gradient(layer ? "layernorm" : "rmsnorm", k->isa, norm_loss, &s, at, g, N + (layer ? 2 : 1) * COLS,
                   COLS);
}

static void norms(const struct lt_cpu_kernels *k)
{
    check_norm(k, false, false);
    check_norm(k, false, true);
    check_norm(k, true, false);
}

static void test_norms(void **unused)
{
    (void)unused;
    for_each_isa(norms);
}

/* ---- rope: <R x, y> = <x, R' y>, and R' R = 1 ---- */

static void rope(const struct lt_cpu_kernels *k)
{
    enum { TOKENS = 5, HEADS = 3, DIM = 22, ROTARY = 18, ALL = TOKENS * HEADS * DIM };
    float table[8 * ROTARY], x[ALL], y[ALL], rx[ALL], ry[ALL];
    const int32_t positions[TOKENS] = {0, 3, 7, 1, 3};
    for (int p = 0; p < 8; p++) {
        for (int i = 0; i < ROTARY / 2; i++) {
            double angle = p * pow(100.0, -2.0 * i / ROTARY);
            table[p * ROTARY + i] = (float)cos(angle);
            table[p * ROTARY + ROTARY / 2 + i] = (float)sin(angle);
        }
    }
    lt_check_fill(x, ALL, -1.0, 1.0);
    lt_check_fill(y, ALL, -1.0, 1.0);
    k->rope(rx, x, positions, table, TOKENS, HEADS, DIM, ROTARY, false);
    k->rope(ry, y, positions, table, TOKENS, HEADS, DIM, ROTARY, true);
    double left = 0.0, right = 0.0;
    for (int i = 0; i < ALL; i++) {
        left += (double)rx[i] * (double)y[i];
        right += (double)x[i] * (double)ry[i];
    }
    assert_true(fabs(left - right) <= 4.0 * LT_CHECK_ULP * ALL);
    k->rope(rx, rx, positions, table, TOKENS, HEADS, DIM, ROTARY, true);
    for (int i = 0; i < ALL; i++) /* two rotations of values up to 2, and the rounding of the table */
        assert_true(fabs((double)rx[i] - (double)x[i]) <= 16.0 * LT_CHECK_ULP);
}

static void test_rope(void **unused)
{
    (void)unused;
    for_each_isa(rope);
}

/* ---- activations and gated units ---- */

struct act {
    enum lt_activation act;
    bool gated;
    float weights[N];
};

static double act_value(double x, enum lt_activation act)
{
    switch (act) {
    case LT_ACT_SILU:
        return x / (1.0 + exp(-x));
    case LT_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case LT_ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case LT_ACT_RELU:
        break;
    }
    return x > 0.0 ? x : 0.0;
}

static double act_loss(const void *context, const double *x)
{
    const struct act *s = context;
    double loss = 0.0;
    for (int i = 0; i < N; i++)
        loss += (double)s->weights[i] * act_value(x[i], s->act) * (s->gated ? x[N + i] : 1.0);
    return loss;
}

static void activations(const struct lt_cpu_kernels *k)
{
    for (int act = LT_ACT_SILU; act <= LT_ACT_RELU; act++) {
        struct act s = {.act = (enum lt_activation)act};
        float x[2 * N], y[N], g[2 * N];
        double at[2 * N];
        lt_check_fill(s.weights, N, -1.0, 1.0);
        lt_check_fill(x, 2 * N, -6.0, 6.0);
        for (int i = 0; i < N; i++) /* off the kink of relu */
            x[i] = fabsf(x[i]) < 1e-3f ? 0.5f : x[i];
        widen(at, x, 2 * N);
        k->act_bwd(g, s.weights, x, N, s.act);
        check_gradient("activation", k->isa, act_loss, &s, at, g, N, 1);
        s.gated = true;
        k->glu_bwd(g, g + N, s.weights, x, x + N, N, s.act);
        check_gradient("gated unit", k->isa, act_loss, &s, at, g, 2 * N, 1);
        k->glu_fwd(y, x, x + N, N, s.act);
        for (int i = 0; i < N; i++)
            assert_true(fabs((double)y[i] - act_value(at[i], s.act) * at[N + i]) <=
                        8.0 * LT_CHECK_ULP * 36.0);
    }
}

static void test_activations(void **unused)
{
    (void)unused;
    for_each_isa(activations);
}

/* ---- cross entropy ---- */

struct entropy {
    int label;
    double softcap;
};

static double entropy_loss(const void *context, const double *x)
{
    const struct entropy *s = context;
    double sum = 0.0, label = 0.0;
    for (int i = 0; i < N; i++) {
        double z = s->softcap != 0.0 ? s->softcap * tanh(x[i] / s->softcap) : x[i];
        sum += exp(z);
        label = i == s->label ? z : label;
    }
    return 0.5 * (log(sum) - label);
}

static void cross_entropy(const struct lt_cpu_kernels *k)
{
    for (int i = 0; i < 4; i++) {
        struct entropy s = {.label = 13 * i, .softcap = i & 1 ? 3.0 : 0.0};
        float x[N], loss;
        double at[N];
        int32_t argmax;
        lt_check_fill(x, N, -4.0, 4.0);
        if (i & 2) /* nearly certain; a cap's slope 1 - t^2 must not drown in the rounding of t */
            x[s.label] = i & 1 ? 5.0f : 9.0f;
        widen(at, x, N);
        k->cross_entropy_row(x, N, s.label, (float)s.softcap, true, 0.5f, &loss, &argmax);
        assert_true(fabs(0.5 * (double)loss - entropy_loss(&s, at)) <= 64.0 * LT_CHECK_ULP);
        check_gradient("cross entropy", k->isa, entropy_loss, &s, at, x, N, 8);
    }
}

static void test_cross_entropy(void **unused)
{
    (void)unused;
    for_each_isa(cross_entropy);
}

/* ---- attention: q, k, v of one sequence in one array ---- */

struct attention {
    int64_t rows, heads, kv_heads, dim, window;
    double scale, softcap;
    uint32_t threshold;
    double keep;
    struct lt_rng_site site;
    const uint32_t *row_key;
    const float *weights; /* of the outputs in the loss */
};

/* Row t of head h: o[dim]. */
static void attend(const struct attention *s, const double *x, int64_t h, int64_t t, double *o)
{
    const double *q = x, *k = q + s->rows * s->heads * s->dim, *v = k + s->rows * s->kv_heads * s->dim;
    int64_t kv = h / (s->heads / s->kv_heads);
    int64_t begin = s->window > 0 ? lt_max_i64(0, t + 1 - s->window) : 0;
    struct lt_rng_site site = s->site;
    site.site += (uint32_t)h;
    double sum = 0.0;
    memset(o, 0, (size_t)s->dim * sizeof *o);
    for (int64_t j = begin; j <= t; j++) {
        double z = 0.0;
        for (int64_t d = 0; d < s->dim; d++)
            z += q[(t * s->heads + h) * s->dim + d] * k[(j * s->kv_heads + kv) * s->dim + d];
        z *= s->scale;
        double p = exp(s->softcap != 0.0 ? s->softcap * tanh(z / s->softcap) : z);
        sum += p;
        if (s->threshold != 0)
            p *= lt_rng_bits(&site, s->row_key[t], (uint32_t)j) >= s->threshold ? s->keep : 0.0;
        for (int64_t d = 0; d < s->dim; d++)
            o[d] += p * v[(j * s->kv_heads + kv) * s->dim + d];
    }
    for (int64_t d = 0; d < s->dim; d++)
        o[d] /= sum;
}

static double attention_loss(const void *context, const double *x)
{
    const struct attention *s = context;
    double loss = 0.0, o[64];
    for (int64_t h = 0; h < s->heads; h++) {
        for (int64_t t = 0; t < s->rows; t++) {
            attend(s, x, h, t, o);
            for (int64_t d = 0; d < s->dim; d++)
                loss += o[d] * (double)s->weights[(t * s->heads + h) * s->dim + d];
        }
    }
    return loss;
}

static void check_attention(const struct lt_cpu_kernels *kernels, struct attention s)
{
    int64_t wide = s.rows * s.heads * s.dim, narrow = s.rows * s.kv_heads * s.dim, all = wide + 2 * narrow;
    int64_t group = s.heads / s.kv_heads;
    float *x = lt_check_floats(all), *g = lt_check_floats(all), *o = lt_check_floats(wide);
    float *weights = lt_check_floats(wide), *lse = lt_check_floats(s.rows * s.heads);
    float *delta = lt_check_floats(s.rows * group);
    float *scratch = lt_check_floats((int64_t)lt_attention_grad_scratch(s.rows, s.dim, false));
    double *at = lt_alloc_array((size_t)all, sizeof *at);
    int32_t kv_end[128];
    uint32_t row_key[128];
    assert_non_null(at);
    lt_check_fill(x, all, -1.5, 1.5);
    lt_check_fill(weights, wide, -1.0, 1.0);
    widen(at, x, all);
    for (int32_t t = 0; t < (int32_t)s.rows; t++) {
        kv_end[t] = t + 1;
        row_key[t] = lt_check_random();
    }
    s.weights = weights;
    s.row_key = row_key;
    for (int64_t h = 0; h < s.heads; h++) {
        struct lt_attention_block b = {
            .q = x + h * s.dim,
            .k = x + wide + h / group * s.dim,
            .v = x + wide + narrow + h / group * s.dim,
            .o = o + h * s.dim,
            .lse = lse + h,
            .ldq = s.heads * s.dim,
            .ldkv = s.kv_heads * s.dim,
            .ldo = s.heads * s.dim,
            .ldlse = s.heads,
            .rows = s.rows,
            .head_dim = s.dim,
            .kv_end = kv_end,
            .scale = (float)s.scale,
            .softcap = (float)s.softcap,
            .window = s.window,
            .drop_threshold = s.threshold,
            .drop_scale = (float)s.keep,
            .site = s.site,
            .row_key = row_key,
        };
        b.site.site += (uint32_t)h;
        kernels->attention_fwd(&b);
    }
    for (int64_t kv = 0; kv < s.kv_heads; kv++) {
        struct lt_attention_grad a = {
            .q = x + kv * group * s.dim,
            .k = x + wide + kv * s.dim,
            .v = x + wide + narrow + kv * s.dim,
            .o = o + kv * group * s.dim,
            .d_o = weights + kv * group * s.dim,
            .lse = lse + kv * group,
            .dq = g + kv * group * s.dim,
            .dk = g + wide + kv * s.dim,
            .dv = g + wide + narrow + kv * s.dim,
            .ldq = s.heads * s.dim,
            .ldkv = s.kv_heads * s.dim,
            .ldo = s.heads * s.dim,
            .ldlse = s.heads,
            .rows = s.rows,
            .head_dim = s.dim,
            .group = group,
            .key_end = s.rows,
            .scale = (float)s.scale,
            .softcap = (float)s.softcap,
            .window = s.window,
            .drop_threshold = s.threshold,
            .drop_scale = (float)s.keep,
            .site = s.site,
            .row_key = row_key,
            .delta = delta,
            .scratch = scratch,
        };
        a.site.site += (uint32_t)(kv * group);
        kernels->attention_bwd(&a);
    }
    for (int64_t t = 0; t < s.rows; t++) {
        for (int64_t h = 0; h < s.heads; h++) {
            double row[64];
            attend(&s, at, h, t, row);
            for (int64_t d = 0; d < s.dim; d++) /* outputs are means of values up to 1.5, times keep */
                assert_true(fabs(row[d] - (double)o[(t * s.heads + h) * s.dim + d]) <=
                            LT_CHECK_ULP * (double)(s.rows + 64) * 1.5 * s.keep);
        }
    }
    check_gradient("attention", kernels->isa, attention_loss, &s, at, g, all, s.rows * group);
    lt_free(at);
    lt_check_release();
}

static void attention(const struct lt_cpu_kernels *k)
{
    const struct lt_rng_site site = {.seed = 99, .step = 4, .site = 50};
    const struct attention plain = {
        .rows = 67, .heads = 2, .kv_heads = 2, .dim = 2, .scale = 0.5, .keep = 1.0, .site = site};
    struct attention s = plain;
    check_attention(k, s);
    s.kv_heads = 1;
    s.window = 20;
    check_attention(k, s);
    s = plain;
    s.softcap = 0.75;
    check_attention(k, s);
    s = plain;
    s.threshold = lt_dropout_threshold(0.25);
    s.keep = 1.0 / 0.75;
    check_attention(k, s);
    s.rows = 11;
    s.heads = 4;
    s.kv_heads = 2;
    s.dim = 18;
    s.softcap = 1.5;
    s.window = 7;
    check_attention(k, s);
}

static void test_attention(void **unused)
{
    (void)unused;
    for_each_isa(attention);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),       cmocka_unit_test(test_rope),
        cmocka_unit_test(test_activations), cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests_name("kernel gradients", tests, NULL, NULL);
}
