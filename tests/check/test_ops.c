/* Ops of a device as a whole, where the kernels' cases do not reach: several sequences in one batch, decoding from a
 * cache, the loss in chunks, the gradient norm and the clipping by it.  The device is the one that LT_TEST_DEVICE names,
 * without it the CPU. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "tests/support/device_op.h"
#include "tests/support/kernel_check.h"
#include "tests/support/random_weight.h"

/* ---- attention ---- */

enum { HEADS = 4, KV_HEADS = 2, DIM = 20, WIDE = HEADS * DIM, NARROW = KV_HEADS * DIM, SEQUENCES = 5 };

static const int64_t lengths[SEQUENCES] = {33, 1, 70, 5, 64};

/* Rows of some sequences behind one another. */
struct batch {
    int64_t rows;
    float *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv;
    int32_t *begin, *end;
    uint32_t *key;
};

static struct batch make_batch(int64_t rows)
{
    struct batch b = {.rows = rows};
    float **wide[] = {&b.q, &b.o, &b.d_o, &b.dq}, **narrow[] = {&b.k, &b.v, &b.dk, &b.dv};
    float *at = lt_check_floats(rows * (4 * WIDE + 4 * NARROW + HEADS + 3));
    for (int i = 0; i < 4; i++, at += rows * WIDE)
        *wide[i] = at;
    for (int i = 0; i < 4; i++, at += rows * NARROW)
        *narrow[i] = at;
    b.lse = at;
    b.begin = (int32_t *)(void *)(at + rows * HEADS);
    b.end = b.begin + rows;
    b.key = (uint32_t *)(void *)(b.end + rows);
    return b;
}

/* Sequence s into rows [at, at + lengths[s]). */
static void put_sequence(struct batch *b, int s, int64_t at)
{
    int64_t n = lengths[s];
    lt_check_seed((uint64_t)s + 3);
    lt_check_fill(b->q + at * WIDE, n * WIDE, -2.0, 2.0);
    lt_check_fill(b->k + at * NARROW, n * NARROW, -2.0, 2.0);
    lt_check_fill(b->v + at * NARROW, n * NARROW, -1.0, 1.0);
    lt_check_fill(b->d_o + at * WIDE, n * WIDE, -1.0, 1.0);
    for (int64_t t = 0; t < n; t++) {
        b->begin[at + t] = (int32_t)at;
        b->end[at + t] = (int32_t)(at + t + 1);
        b->key[at + t] = (uint32_t)(1000 * s + t);
    }
}

static struct device_op attention_op(enum lt_op op, int64_t rows, int32_t window, float dropout)
{
    struct device_op o = {.op = op, .params = {.n_tokens = (int32_t)rows, .n_labels = 1, .loss_scale = 1}};
    o.attr.heads = HEADS;
    o.attr.kv_heads = KV_HEADS;
    o.attr.head_dim = DIM;
    o.attr.window = window;
    o.attr.scale = 0.3f;
    o.attr.dropout = dropout;
    o.attr.site = 77;
    o.params.seed = 0x123456789abcdef0u;
    o.params.step = 5;
    o.params.training = true;
    return o;
}

static void forward(const struct batch *b, int32_t window, float dropout)
{
    struct device_op o = attention_op(LT_OP_ATTENTION, b->rows, window, dropout);
    o.in[0] = device_f32(b->q, b->rows, WIDE);
    o.in[1] = device_f32(b->k, b->rows, NARROW);
    o.in[2] = device_f32(b->v, b->rows, NARROW);
    o.in[3] = device_i32(b->begin, b->rows);
    o.in[4] = device_i32(b->end, b->rows);
    o.in[5] = device_i32(b->key, b->rows);
    o.out[0] = device_f32(b->o, b->rows, WIDE);
    o.out[1] = device_f32(b->lse, b->rows, HEADS);
    device_run(&o);
}

static void backward(const struct batch *b, int32_t window, float dropout)
{
    struct device_op o = attention_op(LT_OP_ATTENTION_BWD, b->rows, window, dropout);
    o.in[0] = device_f32(b->d_o, b->rows, WIDE);
    o.in[1] = device_f32(b->q, b->rows, WIDE);
    o.in[2] = device_f32(b->k, b->rows, NARROW);
    o.in[3] = device_f32(b->v, b->rows, NARROW);
    o.in[4] = device_f32(b->o, b->rows, WIDE);
    o.in[5] = device_f32(b->lse, b->rows, HEADS);
    o.in[6] = device_i32(b->begin, b->rows);
    o.in[7] = device_i32(b->end, b->rows);
    o.in[8] = device_i32(b->key, b->rows);
    o.out[0] = device_f32(b->dq, b->rows, WIDE);
    o.out[1] = device_f32(b->dk, b->rows, NARROW);
    o.out[2] = device_f32(b->dv, b->rows, NARROW);
    device_run(&o);
}

static const enum lt_cpu_isa any = LT_CPU_REF; /* named in messages only */

/* Sequences in one batch give the bits of each alone; one of them is broken and stays so. */
static void test_packed_attention(void **unused)
{
    (void)unused;
    static const struct {
        int32_t window;
        float dropout;
    } kinds[] = {{0, 0.0f}, {0, 0.25f}, {9, 0.0f}};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        int64_t rows = 0, at = 0;
        for (int s = 0; s < SEQUENCES; s++)
            rows += lengths[s];
        struct batch all = make_batch(rows);
        for (int s = 0; s < SEQUENCES; at += lengths[s], s++)
            put_sequence(&all, s, at);
        all.v[(lengths[0] + lengths[1]) * NARROW] = NAN; /* the first value of sequence 2 */
        forward(&all, kinds[kind].window, kinds[kind].dropout);
        backward(&all, kinds[kind].window, kinds[kind].dropout);
        at = 0;
        for (int s = 0; s < SEQUENCES; at += lengths[s], s++) {
            int64_t n = lengths[s];
            if (s == 2) {
                assert_true(isnan(all.o[at * WIDE]));
                continue;
            }
            struct batch one = make_batch(n);
            put_sequence(&one, s, 0);
            forward(&one, kinds[kind].window, kinds[kind].dropout);
            backward(&one, kinds[kind].window, kinds[kind].dropout);
            lt_check_same("packed o", any, all.o + at * WIDE, one.o, n * WIDE);
            lt_check_same("packed lse", any, all.lse + at * HEADS, one.lse, n * HEADS);
            lt_check_same("packed dq", any, all.dq + at * WIDE, one.dq, n * WIDE);
            lt_check_same("packed dk", any, all.dk + at * NARROW, one.dk, n * NARROW);
            lt_check_same("packed dv", any, all.dv + at * NARROW, one.dv, n * NARROW);
        }
        lt_check_release();
    }
}

/* The last row of every sequence, its keys and values in a cache with room between them, gives the bits it has in the
 * whole sequence. */
static void test_decoding(void **unused)
{
    (void)unused;
    enum { ROOM = 80 };
    struct batch last = make_batch(SEQUENCES);
    float *k = lt_check_floats((SEQUENCES * ROOM) * NARROW),
          *v = lt_check_floats((SEQUENCES * ROOM) * NARROW);
    float *o = lt_check_floats(SEQUENCES * WIDE), *lse = lt_check_floats(SEQUENCES * HEADS);
    for (int s = 0; s < SEQUENCES; s++) {
        int64_t n = lengths[s];
        struct batch one = make_batch(n);
        put_sequence(&one, s, 0);
        forward(&one, 0, 0.0f);
        memcpy(o + s * WIDE, one.o + (n - 1) * WIDE, WIDE * sizeof *o);
        memcpy(lse + s * HEADS, one.lse + (n - 1) * HEADS, HEADS * sizeof *lse);
        memcpy(last.q + s * WIDE, one.q + (n - 1) * WIDE, WIDE * sizeof *o);
        memcpy(k + (s * ROOM + 3) * NARROW, one.k, (size_t)(n * NARROW) * sizeof *k);
        memcpy(v + (s * ROOM + 3) * NARROW, one.v, (size_t)(n * NARROW) * sizeof *v);
        last.begin[s] = s * ROOM + 3;
        last.end[s] = last.begin[s] + (int32_t)n;
    }
    struct device_op op = attention_op(LT_OP_ATTENTION, SEQUENCES, 0, 0.0f);
    op.params.training = false;
    op.in[0] = device_f32(last.q, SEQUENCES, WIDE);
    op.in[1] = device_fixed(k, SEQUENCES * ROOM, NARROW);
    op.in[2] = device_fixed(v, SEQUENCES * ROOM, NARROW);
    op.in[3] = device_i32(last.begin, SEQUENCES);
    op.in[4] = device_i32(last.end, SEQUENCES);
    op.out[0] = device_f32(last.o, SEQUENCES, WIDE);
    op.out[1] = device_f32(last.lse, SEQUENCES, HEADS);
    device_run(&op);
    lt_check_same("decoded o", any, last.o, o, SEQUENCES * WIDE);
    lt_check_same("decoded lse", any, last.lse, lse, SEQUENCES * HEADS);
    lt_check_release();
}

/* ---- loss ---- */

enum { LABELS = 8, HIDDEN = 13, VOCAB = 130 };

struct loss {
    struct lt_random_weight w;
    float *h, *loss, *dh, *dw, *dw_before, *scratch;
    int32_t *labels, *argmax;
};

static struct loss make_loss(enum lt_weight_format format, enum lt_random_layout layout)
{
    struct loss l = {.w = lt_random_weight_make(format, layout, VOCAB, HIDDEN),
                     .h = lt_check_floats(LABELS * HIDDEN),
                     .loss = lt_check_floats(LABELS),
                     .dh = lt_check_floats(LABELS * HIDDEN),
                     .dw = lt_check_floats(VOCAB * HIDDEN),
                     .dw_before = lt_check_floats(VOCAB * HIDDEN),
                     .scratch = lt_check_floats(LABELS * VOCAB)};
    l.labels = (int32_t *)(void *)lt_check_floats(LABELS);
    l.argmax = (int32_t *)(void *)lt_check_floats(LABELS);
    lt_check_seed(9);
    lt_check_fill(l.h, LABELS * HIDDEN, -2.0, 2.0);
    lt_check_fill(l.dw, VOCAB * HIDDEN, -1.0, 1.0);
    memcpy(l.dw_before, l.dw, VOCAB * HIDDEN * sizeof *l.dw);
    for (int64_t r = 0; r < LABELS; r++)
        l.labels[r] = (int32_t)(lt_check_random() % VOCAB);
    return l;
}

static void run_loss(const struct loss *l, int32_t chunk, float softcap)
{
    struct device_op o = {.op = LT_OP_CROSS_ENTROPY,
                          .attr = {.chunk = chunk, .softcap = softcap},
                          .params = {.n_tokens = LABELS, .n_labels = 1, .loss_scale = 0.125f}};
    o.in[0] = device_f32(l->h, LABELS, HIDDEN);
    o.in[1] = device_weight(&l->w.w);
    o.in[2] = device_i32(l->labels, LABELS);
    o.out[0] = device_f32(l->loss, LABELS, 1);
    o.out[1] = device_i32(l->argmax, LABELS);
    o.out[2] = device_f32(l->dh, LABELS, HIDDEN);
    o.out[3] = device_fixed(l->dw, VOCAB, HIDDEN);
    o.out[4] = device_fixed(l->scratch, chunk, VOCAB);
    device_run(&o);
}

/* Row r in double: the logits' gradients and the bound of their error.  A logit errs by HIDDEN + 2 roundings of its
 * terms and 8 of the cap, an exponential by twice that and 8, the sums by VOCAB at most. */
static void exact_row(const struct loss *l, int64_t r, double cap, double *loss, double *loss_bound,
                      double grad[VOCAB], double bound[VOCAB])
{
    double z[VOCAB], slope[VOCAB], largest = -INFINITY, sum = 0.0, error = 8.0 * cap;
    for (int v = 0; v < VOCAB; v++) {
        double raw = 0.0, size = 0.0;
        for (int i = 0; i < HIDDEN; i++) {
            raw += (double)l->h[r * HIDDEN + i] * (double)l->w.logical[v * HIDDEN + i];
            size += fabs((double)l->h[r * HIDDEN + i] * (double)l->w.logical[v * HIDDEN + i]);
        }
        z[v] = cap != 0.0 ? cap * tanh(raw / cap) : raw;
        slope[v] = cap != 0.0 ? 1.0 - z[v] * z[v] / (cap * cap) : 1.0;
        largest = fmax(largest, z[v]);
        error = fmax(error, 8.0 * cap + (HIDDEN + 2) * size);
    }
    for (int v = 0; v < VOCAB; v++)
        sum += exp(z[v] - largest);
    double lse = largest + log(sum), relative = LT_CHECK_ULP * (2.0 * error + VOCAB + 8.0);
    *loss = lse - z[l->labels[r]];
    *loss_bound = relative + 4.0 * LT_CHECK_ULP * (fabs(lse) + fabs(*loss));
    for (int v = 0; v < VOCAB; v++) {
        double p = exp(z[v] - lse), share = v == l->labels[r] ? p - 1.0 : p;
        grad[v] = share * slope[v] * 0.125;
        bound[v] = 0.125 * (relative * (p + fabs(share)) + 8.0 * LT_CHECK_ULP);
    }
    assert_true(largest - z[l->argmax[r]] <= 2.0 * LT_CHECK_ULP * error);
}

static void compare_loss(const struct loss *l, float softcap)
{
    double grad[VOCAB], bound[VOCAB], loss, loss_bound;
    double *dw = lt_alloc_zero(2 * VOCAB * HIDDEN, sizeof *dw), *dw_bound = dw + VOCAB * HIDDEN;
    assert_non_null(dw);
    for (int64_t r = 0; r < LABELS; r++) {
        double dh[HIDDEN] = {0}, dh_bound[HIDDEN] = {0};
        exact_row(l, r, (double)softcap, &loss, &loss_bound, grad, bound);
        assert_true(fabs((double)l->loss[r] - loss) <= loss_bound);
        for (int v = 0; v < VOCAB; v++)
            for (int i = 0; i < HIDDEN; i++) {
                double w = (double)l->w.logical[v * HIDDEN + i], h = (double)l->h[r * HIDDEN + i];
                dh[i] += grad[v] * w;
                dh_bound[i] += (bound[v] + VOCAB * LT_CHECK_ULP * fabs(grad[v])) * fabs(w);
                dw[v * HIDDEN + i] += grad[v] * h;
                dw_bound[v * HIDDEN + i] += (bound[v] + LABELS * LT_CHECK_ULP * fabs(grad[v])) * fabs(h);
            }
        for (int i = 0; i < HIDDEN; i++)
            assert_true(fabs((double)l->dh[r * HIDDEN + i] - dh[i]) <= dh_bound[i]);
    }
    for (int i = 0; i < VOCAB * HIDDEN; i++) {
        double before = (double)l->dw_before[i];
        assert_true(fabs((double)l->dw[i] - before - dw[i]) <=
                    dw_bound[i] + LABELS * LT_CHECK_ULP * (fabs(before) + fabs(dw[i])));
    }
    lt_free(dw);
}

/* In chunks, the last one short; rows give the same bits in chunks of every size. */
static void check_chunks(enum lt_weight_format format, enum lt_random_layout layout, float softcap)
{
    struct loss whole = make_loss(format, layout), parts = whole;
    parts.loss = lt_check_floats(LABELS);
    parts.dh = lt_check_floats(LABELS * HIDDEN);
    parts.dw = lt_check_floats(VOCAB * HIDDEN);
    memcpy(parts.dw, whole.dw, VOCAB * HIDDEN * sizeof *parts.dw);
    run_loss(&whole, LABELS, softcap);
    compare_loss(&whole, softcap);
    run_loss(&parts, 3, softcap);
    compare_loss(&parts, softcap);
    lt_check_same("loss in chunks", any, parts.loss, whole.loss, LABELS);
    lt_check_same("dh in chunks", any, parts.dh, whole.dh, LABELS * HIDDEN);
    lt_random_weight_free(&whole.w);
    lt_check_release();
}

static void test_loss_in_chunks(void **unused)
{
    (void)unused;
    for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++)
        for (int layout = 0; layout < LT_LAYOUT_COUNT; layout++)
            if (lt_random_weight_exists((enum lt_weight_format)format, (enum lt_random_layout)layout))
                for (int cap = 0; cap < (format == LT_WEIGHT_F32 ? 2 : 1); cap++)
                    check_chunks((enum lt_weight_format)format, (enum lt_random_layout)layout,
                                 cap ? 3.0f : 0.0f);
}

/* ---- gradient norm and clipping ---- */

static float norm_of(float *g, int64_t n)
{
    float norm = NAN;
    struct device_op o = {.op = LT_OP_GRAD_NORM, .params = {.n_tokens = 1, .n_labels = 1, .loss_scale = 1}};
    o.in[0] = device_fixed(g, 1, n);
    o.out[0] = device_fixed(&norm, 1, 1);
    device_run(&o);
    return norm;
}

/* The squares of some of these are not among the f32 numbers.  Rounded are the squares, the root (by 3 roundings on a
 * device) and the result. */
static void test_grad_norm(void **unused)
{
    (void)unused;
    enum { N = 70001 };
    static const double sizes[][2] = {{1.0, 1.0},     {1e30, 1e-3},  {3e37, 1e30},
                                      {1e-30, 1e-30}, {1e-3, 1e-30}, {1e13, 1e11}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        float *g = lt_check_floats(N);
        double sum = 0.0;
        lt_check_seed(s);
        for (int64_t i = 0; i < N; i++) {
            g[i] = (float)(lt_check_uniform(-1.0, 1.0) * sizes[s][i % 3 == 0]);
            sum += (double)g[i] * (double)g[i];
        }
        double want = sqrt(sum), got = (double)norm_of(g, N);
        if (!(fabs(got - want) <= 6.0 * LT_CHECK_ULP * want) && !(isinf(got) && (float)want > FLT_MAX))
            fail_msg("the norm is %.9g, not %.9g", got, want);
        lt_check_release();
    }
    float *g = lt_check_floats(N);
    memset(g, 0, N * sizeof *g);
    assert_true(norm_of(g, N) == 0.0f);
    g[40000] = INFINITY;
    assert_true(isinf(norm_of(g, N)));
    g[17] = NAN;
    assert_true(isnan(norm_of(g, N)));
    lt_check_release();
}

static float sgd_step(float g, float norm, float max_grad_norm)
{
    float p = 0.0f;
    struct device_op o = {.op = LT_OP_SGD, .params = {.n_tokens = 1, .n_labels = 1, .loss_scale = 1}};
    o.params.lr = 1.0;
    o.params.max_grad_norm = max_grad_norm;
    o.in[0] = device_fixed(&g, 1, 1);
    o.in[1] = device_fixed(&norm, 1, 1);
    o.out[0] = device_fixed(&p, 1, 1);
    device_run(&o);
    return -p;
}

static void test_clipping(void **unused)
{
    (void)unused;
    assert_true(sgd_step(3.0f, 2.0f, 0.0f) == 3.0f);                /* never */
    assert_true(sgd_step(3.0f, 0.5f, 1.0f) == 3.0f);                /* not above the limit */
    assert_true(fabsf(sgd_step(3.0f, 4.0f, 1.0f) - 0.75f) < 1e-6f); /* by 1 / (4 + 1e-6) */
    /* No step at all. */
    assert_true(sgd_step(3.0f, INFINITY, 1.0f) == 0.0f);
    assert_true(sgd_step(3.0f, NAN, 1.0f) == 0.0f);
    assert_true(sgd_step(3.0f, NAN, 0.0f) == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed_attention), cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_loss_in_chunks),   cmocka_unit_test(test_grad_norm),
        cmocka_unit_test(test_clipping),
    };
    setenv("LT_TEST_DEVICE", "cpu", 0);
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
