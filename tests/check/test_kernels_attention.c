/* Attention kernels: every instruction set against the portable kernels, forward bits that do not depend on
 * how rows are grouped, packed or decoded.  `--bench` times the same calls.
 *
 * Bounds: a score is a sum of head_dim products, so it errs by (head_dim + 2) u sum |q k|; a weight
 * errs by that much relatively, and a result by the weights' error plus one rounding for each key.  In bf16 all kernels
 * round the same queries, keys, values and dO, but weights and dS that differ by the above: each to within 2^-9. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/tensor/dtype.h"
#include "tests/support/kernel_check.h"

struct shape {
    int64_t rows, heads, kv_heads, head_dim, window;
    float softcap;
    double dropout, range;
};

/* One sequence of `rows` tokens, alone in its arrays or at row `at` of longer ones. */
struct data {
    struct shape s;
    int64_t at, total;
    float scale;
    float *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv, *delta, *scratch;
    int32_t *kv_end;
    uint32_t *row_key;
    struct lt_rng_site site;
    bool bf16; /* by the kernels that round factors */
};

static void make_data(struct data *d, struct shape s, bool bf16, int64_t at, int64_t behind)
{
    *d = (struct data){.s = s,
                       .at = at,
                       .total = at + s.rows + behind,
                       .scale = 1.0f / sqrtf((float)s.head_dim),
                       .bf16 = bf16};
    int64_t wide = s.heads * s.head_dim, narrow = s.kv_heads * s.head_dim;
    d->q = lt_check_floats(d->total * wide);
    d->k = lt_check_floats(d->total * narrow);
    d->v = lt_check_floats(d->total * narrow);
    d->o = lt_check_floats(d->total * wide);
    d->lse = lt_check_floats(d->total * s.heads);
    d->d_o = lt_check_floats(d->total * wide);
    d->dq = lt_check_floats(d->total * wide);
    d->dk = lt_check_floats(d->total * narrow);
    d->dv = lt_check_floats(d->total * narrow);
    d->delta = lt_check_floats(s.rows * (s.heads / s.kv_heads));
    d->scratch = lt_check_floats((int64_t)lt_attention_grad_scratch(s.rows, s.head_dim, true));
    d->kv_end = (int32_t *)(void *)lt_check_floats(d->total);
    d->row_key = (uint32_t *)(void *)lt_check_floats(d->total);
    d->site = (struct lt_rng_site){.seed = 42, .step = 3, .site = 1000};
    /* What lies around the sequence stays the NaN of lt_check_floats(). */
    lt_check_seed(17);
    lt_check_fill(d->q + at * wide, s.rows * wide, -s.range, s.range);
    lt_check_fill(d->k + at * narrow, s.rows * narrow, -s.range, s.range);
    lt_check_fill(d->v + at * narrow, s.rows * narrow, -1.0, 1.0);
    lt_check_fill(d->d_o + at * wide, s.rows * wide, -1.0, 1.0);
    for (int64_t t = 0; t < s.rows; t++) {
        d->kv_end[at + t] = (int32_t)(at + t + 1);
        d->row_key[at + t] = (uint32_t)(7919 * t + 5);
    }
}

/* Rows [begin, end) of the sequence, all heads. */
static void forward(const struct lt_cpu_kernels *k, const struct data *d, int64_t begin, int64_t end)
{
    const struct shape *s = &d->s;
    for (int64_t h = 0; h < s->heads; h++) {
        int64_t first = d->at + begin, kv = h / (s->heads / s->kv_heads);
        struct lt_attention_block b = {
            .q = d->q + (first * s->heads + h) * s->head_dim,
            .k = d->k + kv * s->head_dim,
            .v = d->v + kv * s->head_dim,
            .o = d->o + (first * s->heads + h) * s->head_dim,
            .lse = d->lse + first * s->heads + h,
            .ldq = s->heads * s->head_dim,
            .ldkv = s->kv_heads * s->head_dim,
            .ldo = s->heads * s->head_dim,
            .ldlse = s->heads,
            .rows = end - begin,
            .head_dim = s->head_dim,
            .kv_begin = d->at,
            .kv_end = d->kv_end + first,
            .scale = d->scale,
            .softcap = s->softcap,
            .window = s->window,
            .drop_threshold = s->dropout > 0.0 ? lt_dropout_threshold(s->dropout) : 0,
            .drop_scale = (float)(1.0 / (1.0 - s->dropout)),
            .site = d->site,
            .row_key = s->dropout > 0.0 ? d->row_key + first : NULL,
        };
        b.site.site += (uint32_t)h;
        (d->bf16 ? k->attention_fwd_bf16 : k->attention_fwd)(&b);
    }
}

static void backward(const struct lt_cpu_kernels *k, const struct data *d)
{
    const struct shape *s = &d->s;
    int64_t group = s->heads / s->kv_heads;
    for (int64_t kv = 0; kv < s->kv_heads; kv++) {
        int64_t q_at = (d->at * s->heads + kv * group) * s->head_dim;
        int64_t kv_at = (d->at * s->kv_heads + kv) * s->head_dim;
        struct lt_attention_grad g = {
            .q = d->q + q_at,
            .k = d->k + kv_at,
            .v = d->v + kv_at,
            .o = d->o + q_at,
            .d_o = d->d_o + q_at,
            .lse = d->lse + d->at * s->heads + kv * group,
            .dq = d->dq + q_at,
            .dk = d->dk + kv_at,
            .dv = d->dv + kv_at,
            .ldq = s->heads * s->head_dim,
            .ldkv = s->kv_heads * s->head_dim,
            .ldo = s->heads * s->head_dim,
            .ldlse = s->heads,
            .rows = s->rows,
            .head_dim = s->head_dim,
            .group = group,
            .key_end = s->rows,
            .scale = d->scale,
            .softcap = s->softcap,
            .window = s->window,
            .drop_threshold = s->dropout > 0.0 ? lt_dropout_threshold(s->dropout) : 0,
            .drop_scale = (float)(1.0 / (1.0 - s->dropout)),
            .site = d->site,
            .row_key = s->dropout > 0.0 ? d->row_key + d->at : NULL,
            .delta = d->delta,
            .scratch = d->scratch,
        };
        g.site.site += (uint32_t)(kv * group);
        (d->bf16 ? k->attention_bwd_bf16 : k->attention_bwd)(&g);
    }
}

/* ---- bounds ---- */

struct bounds {
    double *o, *lse, *dq, *dk, *dv;
};

static double dot_size(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)a[i] * (double)b[i]);
    return sum;
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Adds what row t of head h contributes, from q, k, v and the portable o and lse. */
static void add_row_bounds(const struct data *d, struct bounds *b, int64_t h, int64_t t)
{
    const struct shape *s = &d->s;
    int64_t dim = s->head_dim, kv = h / (s->heads / s->kv_heads);
    const float *q = d->q + (t * s->heads + h) * dim, *d_o = d->d_o + (t * s->heads + h) * dim;
    double lse = (double)d->lse[t * s->heads + h];
    double delta = dot_size(d_o, d->o + (t * s->heads + h) * dim, dim);
    double keep = 1.0 / (1.0 - s->dropout), worst = 0.0;
    int64_t begin = s->window > 0 && t + 1 > s->window ? t + 1 - s->window : 0;
    for (int64_t j = begin; j <= t; j++) {
        const float *key = d->k + (j * s->kv_heads + kv) * dim;
        double error = (double)(dim + 2) * dot_size(q, key, dim) * (double)d->scale +
                       8.0 * (double)s->softcap;
        worst = fmax(worst, error + 2.0 * fabs(dot(q, key, dim) * (double)d->scale - lse));
    }
    /* relative error of a weight and of sums of products with it */
    double relative = LT_CHECK_ULP * (2.0 * worst + (double)(t + 1 - begin) + (double)dim + 32.0) +
                      (d->bf16 ? 2.0 * 0x1p-9 : 0.0);
    double in_sums = LT_CHECK_ULP * (double)(s->rows * (s->heads / s->kv_heads));
    b->lse[t * s->heads + h] = relative + 2.0 * LT_CHECK_ULP * fabs(lse);
    for (int64_t j = begin; j <= t; j++) {
        const float *key = d->k + (j * s->kv_heads + kv) * dim, *value = d->v + (j * s->kv_heads + kv) * dim;
        double z = dot(q, key, dim) * (double)d->scale;
        double p = exp((s->softcap != 0.0f ? (double)s->softcap * tanh(z / (double)s->softcap) : z) - lse) *
                   keep;
        double slope = (dot_size(d_o, value, dim) * keep + delta) * (double)d->scale;
        /* Fast kernels take weights below the smallest normal number for 0. */
        double p_error = relative * p + 0x1p-126 * keep, p_sum_error = p_error + in_sums * p;
        for (int64_t i = 0; i < dim; i++) {
            b->o[(t * s->heads + h) * dim + i] += p_error * fabs((double)value[i]);
            b->dq[(t * s->heads + h) * dim + i] += p_error * slope * fabs((double)key[i]);
            b->dk[(j * s->kv_heads + kv) * dim + i] += p_sum_error * slope * fabs((double)q[i]);
            b->dv[(j * s->kv_heads + kv) * dim + i] += p_sum_error * fabs((double)d_o[i]);
        }
    }
}

static float *rounded(const float *x, int64_t n)
{
    float *y = lt_check_floats(n);
    for (int64_t i = 0; i < n; i++)
        y[i] = lt_bf16_to_f32(lt_f32_to_bf16(x[i]));
    return y;
}

/* What the products of `want` multiply. */
static struct data factors(const struct data *want)
{
    struct data d = *want;
    const int64_t wide = d.total * d.s.heads * d.s.head_dim, narrow = d.total * d.s.kv_heads * d.s.head_dim;
    if (d.bf16) {
        d.q = rounded(want->q, wide);
        d.k = rounded(want->k, narrow);
        d.v = rounded(want->v, narrow);
        d.d_o = rounded(want->d_o, wide);
    }
    return d;
}

static void compare(const struct lt_cpu_kernels *k, const struct data *got, const struct data *want)
{
    const struct shape *s = &want->s;
    const struct data multiplied = factors(want);
    size_t wide = (size_t)(s->rows * s->heads * s->head_dim),
           narrow = (size_t)(s->rows * s->kv_heads * s->head_dim);
    size_t heads = (size_t)(s->rows * s->heads);
    double *all = lt_alloc_zero(2 * wide + 2 * narrow + heads, sizeof *all);
    assert_non_null(all);
    struct bounds b = {all, all + wide, all + wide + heads, all + 2 * wide + heads,
                       all + 2 * wide + heads + narrow};
    for (int64_t h = 0; h < s->heads; h++)
        for (int64_t t = 0; t < s->rows; t++)
            add_row_bounds(&multiplied, &b, h, t);
    lt_check_close("attention o", k->isa, got->o, want->o, b.o, (int64_t)wide);
    lt_check_close("attention lse", k->isa, got->lse, want->lse, b.lse, (int64_t)heads);
    lt_check_close("attention dq", k->isa, got->dq, want->dq, b.dq, (int64_t)wide);
    lt_check_close("attention dk", k->isa, got->dk, want->dk, b.dk, (int64_t)narrow);
    lt_check_close("attention dv", k->isa, got->dv, want->dv, b.dv, (int64_t)narrow);
    lt_free(all);
}

static const struct shape shapes[] = {
    {.rows = 1, .heads = 1, .kv_heads = 1, .head_dim = 1, .range = 2},
    {.rows = 7, .heads = 2, .kv_heads = 1, .head_dim = 12, .range = 2},
    {.rows = 33, .heads = 4, .kv_heads = 2, .head_dim = 16, .range = 2},
    {.rows = 64, .heads = 1, .kv_heads = 1, .head_dim = 80, .range = 1},
    {.rows = 257, .heads = 2, .kv_heads = 2, .head_dim = 64, .range = 1},
    {.rows = 130, .heads = 3, .kv_heads = 1, .head_dim = 128, .range = 1},
    {.rows = 70, .heads = 1, .kv_heads = 1, .head_dim = 96, .range = 20},
    {.rows = 75, .heads = 2, .kv_heads = 1, .head_dim = 256, .range = 1},
    {.rows = 200, .heads = 2, .kv_heads = 1, .head_dim = 32, .window = 50, .range = 2},
    {.rows = 200, .heads = 2, .kv_heads = 1, .head_dim = 33, .window = 64, .range = 2},
    {.rows = 150, .heads = 1, .kv_heads = 1, .head_dim = 8, .window = 1, .range = 2},
    {.rows = 150, .heads = 2, .kv_heads = 1, .head_dim = 20, .softcap = 5.0f, .range = 3},
    {.rows = 150, .heads = 4, .kv_heads = 2, .head_dim = 16, .dropout = 0.3, .range = 2},
    {.rows = 190,
     .heads = 2,
     .kv_heads = 1,
     .head_dim = 17,
     .window = 70,
     .softcap = 3.0f,
     .dropout = 0.1,
     .range = 2},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The available instruction sets, and the portable kernels last, that have these kernels. */
static int having(struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1], bool bf16)
{
    int n = lt_check_isas(isas), kept = 0;
    lt_cpu_kernels_init(&isas[n++], LT_CPU_REF);
    for (int i = 0; i < n; i++)
        if (!bf16 || isas[i].attention_fwd_bf16)
            isas[kept++] = isas[i];
    return kept;
}

static void against_portable(struct shape s, bool bf16)
{
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    struct data want;
    int ref = having(isas, bf16) - 1;
    make_data(&want, s, bf16, 0, 0);
    forward(&isas[ref], &want, 0, s.rows);
    backward(&isas[ref], &want);
    for (int j = 0; j < ref; j++) {
        struct data got;
        make_data(&got, s, bf16, 0, 0);
        /* The gradients of both start from the same forward results. */
        float *o = got.o, *lse = got.lse;
        got.o = want.o;
        got.lse = want.lse;
        backward(&isas[j], &got);
        got.o = o;
        got.lse = lse;
        forward(&isas[j], &got, 0, s.rows);
        compare(&isas[j], &got, &want);
    }
    lt_check_release();
}

static void test_against_portable(void **unused)
{
    (void)unused;
    for (int i = 0; i < SHAPES; i++) {
        against_portable(shapes[i], false);
        against_portable(shapes[i], true);
    }
}

static void same_rows(const char *what, const struct lt_cpu_kernels *k, const struct data *got,
                      const struct data *want)
{
    int64_t wide = want->s.heads * want->s.head_dim;
    lt_check_same(what, k->isa, got->o + got->at * wide, want->o + want->at * wide, want->s.rows * wide);
    lt_check_same(what, k->isa, got->lse + got->at * got->s.heads, want->lse + want->at * want->s.heads,
                  want->s.rows * want->s.heads);
}

/* All at once, in blocks, row by row as in decoding, and in the middle of NaN neighbours. */
static void same_in_blocks(const struct lt_cpu_kernels *isa, struct shape s, bool bf16)
{
    static const int64_t steps[] = {1, 3, 61, 64, 1000};
    for (int64_t at = 0; at <= 37; at += 37) {
        struct data whole, parts;
        make_data(&whole, s, bf16, 0, 0);
        forward(isa, &whole, 0, whole.s.rows);
        make_data(&parts, s, bf16, at, at / 2);
        for (size_t m = 0; m < sizeof steps / sizeof *steps; m++) {
            for (int64_t t = 0; t < parts.s.rows; t += steps[m])
                forward(isa, &parts, t, lt_min_i64(t + steps[m], parts.s.rows));
            same_rows(at ? "attention in a packed batch" : "attention in blocks", isa, &parts, &whole);
        }
        lt_check_release();
    }
}

/* A backward pass in the middle of a packed batch gives the bits of the sequence alone. */
static void same_gradients_packed(const struct lt_cpu_kernels *isa, struct shape s, bool bf16)
{
    struct data alone, packed;
    make_data(&alone, s, bf16, 0, 0);
    make_data(&packed, s, bf16, 11, 5);
    forward(isa, &alone, 0, alone.s.rows);
    forward(isa, &packed, 0, packed.s.rows);
    backward(isa, &alone);
    backward(isa, &packed);
    int64_t wide = s.heads * s.head_dim, narrow = s.kv_heads * s.head_dim;
    lt_check_same("packed dq", isa->isa, packed.dq + 11 * wide, alone.dq, s.rows * wide);
    lt_check_same("packed dk", isa->isa, packed.dk + 11 * narrow, alone.dk, s.rows * narrow);
    lt_check_same("packed dv", isa->isa, packed.dv + 11 * narrow, alone.dv, s.rows * narrow);
    lt_check_release();
}

/* check() for every shape, with all kernels that there are. */
static void for_all(void (*check)(const struct lt_cpu_kernels *isa, struct shape s, bool bf16))
{
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        int n = having(isas, bf16);
        for (int i = 0; i < SHAPES; i++)
            for (int j = 0; j < n; j++)
                check(&isas[j], shapes[i], bf16);
    }
}

static void test_row_invariance(void **unused)
{
    (void)unused;
    for_all(same_in_blocks);
}

static void test_packed_gradients(void **unused)
{
    (void)unused;
    for_all(same_gradients_packed);
}

/* Rows that see nothing, and a NaN that stays in its row. */
static void blind_and_broken_rows(const struct lt_cpu_kernels *isa, bool bf16)
{
    const struct shape s = {.rows = 90, .heads = 1, .kv_heads = 1, .head_dim = 24, .range = 2};
    struct data clean, d;
    make_data(&clean, s, bf16, 0, 0);
    forward(isa, &clean, 0, s.rows);
    make_data(&d, s, bf16, 0, 0);
    d.kv_end[0] = d.kv_end[1] = 0;
    d.q[70 * s.head_dim + 3] = NAN;
    forward(isa, &d, 0, s.rows);
    for (int64_t t = 0; t < s.rows; t++) {
        const float *row = d.o + t * s.head_dim;
        if (t < 2) {
            assert_true(isinf(d.lse[t]) && d.lse[t] < 0.0f);
            for (int64_t i = 0; i < s.head_dim; i++)
                assert_true(row[i] == 0.0f);
        } else if (t == 70) {
            assert_true(isnan(d.lse[t]) && isnan(row[0]) && isnan(row[s.head_dim - 1]));
        } else {
            lt_check_same("rows beside a NaN", isa->isa, row, clean.o + t * s.head_dim, s.head_dim);
        }
    }
    lt_check_release();
}

static void test_blind_and_broken_rows(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        int n = having(isas, bf16);
        for (int j = 0; j < n; j++)
            blind_and_broken_rows(&isas[j], bf16);
    }
}

/* ---- speed ---- */

struct timed {
    const struct lt_cpu_kernels *k;
    struct data *d;
};

static void run_forward(void *context)
{
    struct timed *t = context;
    forward(t->k, t->d, 0, t->d->s.rows);
}

static void run_backward(void *context)
{
    struct timed *t = context;
    backward(t->k, t->d);
}

static void run_decode(void *context)
{
    struct timed *t = context;
    forward(t->k, t->d, t->d->s.rows - 1, t->d->s.rows);
}

/* Only what the causal mask leaves counts as work. */
static int bench(void)
{
    const struct {
        const char *name;
        struct shape shape;
    } timed[] = {
        {"T=512 d=64", {.rows = 512, .heads = 1, .kv_heads = 1, .head_dim = 64, .range = 1}},
        {"T=512 d=128", {.rows = 512, .heads = 2, .kv_heads = 1, .head_dim = 128, .range = 1}},
        {"T=2048 d=64", {.rows = 2048, .heads = 1, .kv_heads = 1, .head_dim = 64, .range = 1}},
        {"T=64 d=16", {.rows = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .range = 1}},
        {"T=512 d=64 drop",
         {.rows = 512, .heads = 1, .kv_heads = 1, .head_dim = 64, .dropout = 0.1, .range = 1}},
        {"T=512 d=64 cap",
         {.rows = 512, .heads = 1, .kv_heads = 1, .head_dim = 64, .softcap = 30, .range = 1}},
    };
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    for (size_t i = 0; i < 2 * sizeof timed / sizeof *timed; i++) {
        const bool bf16 = i % 2;
        const struct shape *s = &timed[i / 2].shape;
        int n = having(isas, bf16);
        for (int j = 0; j < n; j++) {
            struct data d;
            make_data(&d, *s, bf16, 0, 0);
            forward(&isas[j], &d, 0, s->rows);
            struct timed t = {&isas[j], &d};
            double rows = (double)s->rows, row_work = 4.0 * (double)(s->head_dim * s->heads);
            double work = row_work * rows * (rows + 1.0) / 2.0;
            char name[64];
            strcpy(name, "fwd ");
            strcat(name, timed[i / 2].name);
            strcat(name, bf16 ? " bf16" : "");
            lt_check_bench(name, isas[j].isa, run_forward, &t, work, "GFLOP/s");
            memcpy(name, "one ", 4);
            lt_check_bench(name, isas[j].isa, run_decode, &t, row_work * rows, "GFLOP/s");
            memcpy(name, "bwd ", 4);
            lt_check_bench(name, isas[j].isa, run_backward, &t, 2.5 * work, "GFLOP/s");
            lt_check_release();
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_portable),
        cmocka_unit_test(test_row_invariance),
        cmocka_unit_test(test_packed_gradients),
        cmocka_unit_test(test_blind_and_broken_rows),
    };
    return cmocka_run_group_tests_name("attention kernels", tests, NULL, NULL);
}
