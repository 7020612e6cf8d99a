/* The optimizer over several tensors: names, layout of the state, what is equal to what, paged memory, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/registry.h"
#include "core/base/checked.h"
#include "core/base/system.h"
#include "core/train/optimizer.h"
#include "tests/support/fixtures.h"

static struct lt_error err;

static void ok(enum lt_status status)
{
    if (status != LT_OK)
        fail_msg("%s: %s", lt_status_name(status), err.message);
}

static void test_names(void **state)
{
    (void)state;
    const struct {
        const char *name;
        enum lt_optimizer_kind kind;
        bool paged;
    } names[] = {{"adamw_torch", LT_OPTIMIZER_ADAMW, false},
                 {"adamw", LT_OPTIMIZER_ADAMW, false},
                 {"adamw_hf", LT_OPTIMIZER_ADAMW, false},
                 {"adamw_8bit", LT_OPTIMIZER_ADAMW_8BIT, false},
                 {"adamw_bnb_8bit", LT_OPTIMIZER_ADAMW_8BIT, false},
                 {"paged_adamw_8bit", LT_OPTIMIZER_ADAMW_8BIT, true},
                 {"paged_adamw_32bit", LT_OPTIMIZER_ADAMW, true},
                 {"paged_adamw", LT_OPTIMIZER_ADAMW, true},
                 {"sgd", LT_OPTIMIZER_SGD, false},
                 {"lion_32bit", LT_OPTIMIZER_LION, false}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct lt_optimizer_config c = {.paged = !names[i].paged, .beta1 = 0.5};
        ok(lt_optimizer_parse(&c, names[i].name, &err));
        assert_int_equal(c.kind, names[i].kind);
        assert_int_equal(c.paged, names[i].paged);
        assert_true(c.beta1 == 0.5);
    }
    struct lt_optimizer_config c = {0};
    assert_int_equal(lt_optimizer_parse(&c, "adam", &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "paged_adamw_8bit"));
}

/* ---- a bench of tensors ---- */

/* Large, short last block, large again without a gap, embedding, small ones, without decay; gaps are zeros. */
static const struct lt_optimizer_param tensors[] = {
    {.offset = 0, .elements = 5050, .decay = true},
    {.offset = 5056, .elements = 8192, .decay = true},
    {.offset = 13248, .elements = 4096, .decay = true},
    {.offset = 17344, .elements = 6000, .decay = true, .f32_state = true},
    {.offset = 23344, .elements = 33, .decay = true},
    {.offset = 23392, .elements = 4095, .decay = true},
    {.offset = 27488, .elements = 5000, .decay = false},
    {.offset = 32496, .elements = 64, .decay = false}};
enum { TENSORS = sizeof tensors / sizeof *tensors, FLAT = 32560 };

struct run {
    struct lt_backend *be;
    struct lt_optimizer *o;
    struct lt_buffer *params, *grads;
    size_t elements;
    float *host;
};

static void open_run(struct run *r, const char *optim, double max_grad_norm, int threads,
                     const struct lt_optimizer_param *list, size_t count, size_t elements)
{
    const struct lt_backend_request request = {.device = "cpu", .threads = threads};
    struct lt_optimizer_config c = {
        .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .max_grad_norm = max_grad_norm};
    ok(lt_optimizer_parse(&c, optim, &err));
    ok(lt_backend_create(&r->be, &request, &err));
    ok(lt_optimizer_create(&r->o, r->be, &c, list, count, elements, &err));
    ok(lt_optimizer_allocate(r->o, lt_test_temp_dir(), &err));
    r->elements = elements;
    ok(r->be->ops->buffer_create(r->be, elements * sizeof(float), &r->params, &err));
    ok(r->be->ops->buffer_create(r->be, elements * sizeof(float), &r->grads, &err));
    float *p = r->be->ops->buffer_host(r->be, r->params);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < list[i].elements; k++)
            p[list[i].offset + k] = (float)sin((double)(list[i].offset + k));
    r->host = p;
}

static void open_bench(struct run *r, const char *optim, double max_grad_norm, int threads)
{
    open_run(r, optim, max_grad_norm, threads, tensors, TENSORS, FLAT);
}

static void close_run(struct run *r)
{
    r->be->ops->buffer_destroy(r->be, r->params);
    r->be->ops->buffer_destroy(r->be, r->grads);
    lt_optimizer_destroy(r->o);
    lt_backend_destroy(r->be);
    *r = (struct run){0};
}

static void fill_gradients(struct run *r, const struct lt_optimizer_param *list, size_t count, int t)
{
    float *g = r->be->ops->buffer_host(r->be, r->grads);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < list[i].elements; k++)
            g[list[i].offset + k] = (float)cos((double)(list[i].offset + k) * 1.7 + t) * 1e-3f;
}

static void steps(struct run *r, int first, int last)
{
    double norm;
    for (int t = first; t <= last; t++) {
        fill_gradients(r, tensors, TENSORS, t);
        ok(lt_optimizer_step(r->o, r->params, r->grads, t, 1e-3, &err));
        ok(lt_optimizer_norm(r->o, &norm, &err));
        assert_true(norm > 0);
    }
}

static void assert_same(const struct run *a, const struct run *b, size_t begin, size_t n)
{
    assert_memory_equal(a->host + begin, b->host + begin, n * sizeof(float));
}

/* All tensors of the state of one optimizer into another. */
static void copy_state(struct run *to, struct run *from)
{
    unsigned char bytes[1 << 16];
    for (size_t i = 0; i < TENSORS; i++) {
        struct lt_optimizer_tensor a[LT_OPTIMIZER_TENSORS], b[LT_OPTIMIZER_TENSORS];
        int n = lt_optimizer_tensors(from->o, i, a);
        assert_int_equal(lt_optimizer_tensors(to->o, i, b), n);
        for (int k = 0; k < n; k++) {
            size_t size = a[k].elements * (lt_dtype_bits(a[k].dtype) / 8);
            assert_string_equal(a[k].prefix, b[k].prefix);
            assert_true(size <= sizeof bytes);
            ok(lt_optimizer_read(from->o, a[k].offset, bytes, size, &err));
            ok(lt_optimizer_write(to->o, b[k].offset, bytes, size, &err));
        }
    }
}

/* ---- layout ---- */

static void test_state(void **state)
{
    (void)state;
    struct run r;
    struct lt_optimizer_tensor t[LT_OPTIMIZER_TENSORS];

    open_bench(&r, "adamw_torch", 1, 1);
    assert_int_equal(lt_optimizer_state_bytes(r.o), 2 * FLAT * sizeof(float));
    assert_int_equal(lt_optimizer_paged_bytes(r.o), 0);
    assert_int_equal(lt_optimizer_tensors(r.o, 3, t), 2);
    assert_string_equal(t[0].prefix, "exp_avg.");
    assert_string_equal(t[1].prefix, "exp_avg_sq.");
    assert_int_equal(t[1].elements, 6000);
    close_run(&r);

    open_bench(&r, "adamw_8bit", 1, 1);
    /* Whole blocks of 5050, 8192, 4096, 5000 at 2 + 8/256 bytes; f32 for the rest, 16 elements at a time; every kind
     * begins at a multiple of 64 bytes. */
    size_t codes = 5120 + 8192 + 4096 + 5120, floats = 6000 + 48 + 4096 + 64;
    assert_int_equal(lt_optimizer_state_bytes(r.o),
                     2 * codes + 2 * lt_align_up(codes / 256 * 4, 64) + 2 * floats * 4);
    for (size_t i = 0; i < TENSORS; i++) {
        bool eight = tensors[i].elements >= 4096 && !tensors[i].f32_state;
        assert_int_equal(lt_optimizer_tensors(r.o, i, t), eight ? 4 : 2);
        assert_string_equal(t[0].prefix, "state1.");
        assert_string_equal(t[1].prefix, "state2.");
        assert_int_equal(t[0].dtype, eight ? LT_U8 : LT_F32);
        assert_int_equal(t[0].elements, tensors[i].elements);
        if (eight) {
            assert_string_equal(t[3].prefix, "absmax2.");
            assert_true(t[3].absmax && t[3].dtype == LT_F32);
            assert_int_equal(t[3].elements, (tensors[i].elements + 255) / 256);
        }
    }
    close_run(&r);

    open_bench(&r, "lion_32bit", 1, 1);
    assert_int_equal(lt_optimizer_state_bytes(r.o), FLAT * sizeof(float));
    assert_int_equal(lt_optimizer_tensors(r.o, 0, t), 1);
    assert_string_equal(t[0].prefix, "state1.");
    close_run(&r);

    open_bench(&r, "sgd", 1, 1);
    assert_int_equal(lt_optimizer_state_bytes(r.o), 0);
    assert_int_equal(lt_optimizer_tensors(r.o, 0, t), 0);
    close_run(&r);
}

/* ---- what is equal to what ---- */

static void test_threads_and_resume(void **state)
{
    (void)state;
    const char *const optims[] = {"adamw_torch",       "adamw_8bit", "paged_adamw_8bit",
                                  "paged_adamw_32bit", "sgd",        "lion_32bit"};
    for (size_t i = 0; i < sizeof optims / sizeof *optims; i++) {
        struct run one, three, resumed;
        open_bench(&one, optims[i], 0.05, 1);
        open_bench(&three, optims[i], 0.05, 3);
        open_bench(&resumed, optims[i], 0.05, 2);
        steps(&one, 1, 4);
        steps(&three, 1, 4);
        assert_same(&one, &three, 0, FLAT);
        memcpy(resumed.host, one.host, FLAT * sizeof(float));
        copy_state(&resumed, &one);
        steps(&one, 5, 7);
        steps(&resumed, 5, 7);
        assert_same(&one, &resumed, 0, FLAT);
        for (size_t k = 0; k + 1 < TENSORS; k++)
            for (size_t at = tensors[k].offset + tensors[k].elements; at < tensors[k + 1].offset; at++)
                assert_true(one.host[at] == 0);
        close_run(&one);
        close_run(&three);
        close_run(&resumed);
    }
}

/* Pages change nothing; small tensors and the embedding do in 8 bit what AdamW does, the others nearly so. */
static void test_same_as_adamw(void **state)
{
    (void)state;
    struct run plain, paged, eight, paged_eight;
    open_bench(&plain, "adamw_torch", 1, 2);
    open_bench(&paged, "paged_adamw", 1, 2);
    open_bench(&eight, "adamw_8bit", 1, 2);
    open_bench(&paged_eight, "paged_adamw_8bit", 1, 2);
    steps(&plain, 1, 6);
    steps(&paged, 1, 6);
    steps(&eight, 1, 6);
    steps(&paged_eight, 1, 6);
    assert_same(&plain, &paged, 0, FLAT);
    assert_same(&eight, &paged_eight, 0, FLAT);
    double worst = 0;
    for (size_t i = 0; i < TENSORS; i++) {
        if (tensors[i].elements < 4096 || tensors[i].f32_state) {
            assert_same(&plain, &eight, tensors[i].offset, tensors[i].elements);
            continue;
        }
        for (size_t k = 0; k < tensors[i].elements; k++)
            worst = fmax(worst, fabs((double)plain.host[tensors[i].offset + k] -
                                     (double)eight.host[tensors[i].offset + k]));
    }
    /* Six steps of 1e-3 each: the same way, not the same place. */
    assert_true(worst > 0 && worst < 1.5e-3);
    close_run(&plain);
    close_run(&paged);
    close_run(&eight);
    close_run(&paged_eight);
}

static void test_clipping_and_decay(void **state)
{
    (void)state;
    struct run r;
    double norm, sum = 0;
    open_bench(&r, "sgd", 1e-2, 1);
    fill_gradients(&r, tensors, TENSORS, 1);
    const float *g = r.be->ops->buffer_host(r.be, r.grads);
    for (size_t i = 0; i < FLAT; i++)
        sum += (double)g[i] * (double)g[i];
    ok(lt_optimizer_step(r.o, r.params, r.grads, 1, 0.5, &err));
    ok(lt_optimizer_norm(r.o, &norm, &err));
    assert_true(fabs(norm - sqrt(sum)) <= 1e-6 * norm && norm > 1e-2);
    for (size_t i = 0; i < TENSORS; i++)
        for (size_t k = tensors[i].offset; k < tensors[i].offset + tensors[i].elements; k++) {
            double p = (double)(float)sin((double)k), clip = 1e-2 / (norm + 1e-6);
            double want = p - 0.5 * ((double)g[k] * clip + (tensors[i].decay ? 0.01 * p : 0));
            assert_true(fabs((double)r.host[k] - want) <= 1e-6);
        }
    close_run(&r);
}

static void test_broken_gradient(void **state)
{
    (void)state;
    const char *const optims[] = {"adamw_torch", "paged_adamw_8bit", "sgd", "lion_32bit"};
    for (size_t i = 0; i < sizeof optims / sizeof *optims; i++) {
        struct run broken, clean;
        double norm;
        open_bench(&broken, optims[i], 1, 2);
        open_bench(&clean, optims[i], 1, 2);
        steps(&broken, 1, 2);
        steps(&clean, 1, 2);
        fill_gradients(&broken, tensors, TENSORS, 3);
        ((float *)broken.be->ops->buffer_host(broken.be, broken.grads))[7000] = NAN;
        ok(lt_optimizer_step(broken.o, broken.params, broken.grads, 3, 1e-3, &err));
        assert_int_equal(lt_optimizer_norm(broken.o, &norm, &err), LT_ERR_NUMERIC);
        assert_non_null(strstr(err.message, "step 3"));
        steps(&broken, 3, 3); /* neither parameters nor moments were touched */
        steps(&clean, 3, 3);
        assert_same(&broken, &clean, 0, FLAT);
        close_run(&broken);
        close_run(&clean);
    }
}

/* ---- paged memory ---- */

/* 24 MiB of parameters, 48 MiB of f32 moments: what is dirty stays far below, and as planned. */
static void test_pages(void **state)
{
    (void)state;
    if (lt_test_emulated()) {
        print_message("SKIP: the memory of an emulator\n");
        skip();
    }
    enum { ELEMENTS = 6 << 20, MIB = 1 << 20 };
    const struct lt_optimizer_param big = {.elements = ELEMENTS, .decay = true};
    const char *const optims[2][2] = {{"adamw_torch", "paged_adamw_32bit"},
                                      {"adamw_8bit", "paged_adamw_8bit"}};
    for (int k = 0; k < 2; k++) {
        struct run plain, paged;
        double norm;
        open_run(&plain, optims[k][0], 1, 2, &big, 1, ELEMENTS);
        open_run(&paged, optims[k][1], 1, 2, &big, 1, ELEMENTS);
        assert_int_equal(lt_optimizer_paged_bytes(paged.o), lt_optimizer_state_bytes(plain.o));
        assert_true(lt_optimizer_state_bytes(paged.o) <= (k == 0 ? 9 : 3) * MIB);
        for (int t = 1; t <= 2; t++) {
            struct lt_memory_stat stat;
            struct lt_memory_sampler *sampler;
            fill_gradients(&plain, &big, 1, t);
            fill_gradients(&paged, &big, 1, t);
            ok(lt_optimizer_step(plain.o, plain.params, plain.grads, t, 1e-3, &err));
            ok(lt_optimizer_norm(plain.o, &norm, &err));
            lt_memory_stat(&stat);
            uint64_t before = lt_memory_counted(&stat);
            ok(lt_memory_sampler_create(&sampler, 0.0005, &err));
            ok(lt_optimizer_step(paged.o, paged.params, paged.grads, t, 1e-3, &err));
            ok(lt_optimizer_norm(paged.o, &norm, &err));
            uint64_t peak = lt_memory_sampler_peak(sampler);
            lt_memory_sampler_destroy(sampler);
            lt_memory_stat(&stat);
            assert_true(stat.file_dirty < MIB);
            assert_true(peak <= before + lt_optimizer_state_bytes(paged.o) + 2 * MIB);
        }
        assert_same(&plain, &paged, 0, ELEMENTS);
        close_run(&plain);
        close_run(&paged);
    }
}

static void test_pages_refused(void **state)
{
    (void)state;
    const struct lt_backend_request request = {.device = "cpu", .threads = 1};
    struct lt_optimizer_config c = {.kind = LT_OPTIMIZER_ADAMW, .paged = true, .beta1 = 0.9, .beta2 = 0.999};
    struct lt_backend *be;
    struct lt_optimizer *o;
    ok(lt_backend_create(&be, &request, &err));

    /* No such folder: the one for temporary files. */
    ok(lt_optimizer_create(&o, be, &c, tensors, TENSORS, FLAT, &err));
    setenv("TMPDIR", "/nowhere/at/all", 1);
    assert_int_equal(lt_optimizer_allocate(o, "/nor/here", &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
    lt_optimizer_destroy(o);
    ok(lt_optimizer_create(&o, be, &c, tensors, TENSORS, FLAT, &err));
    setenv("TMPDIR", lt_test_temp_dir(), 1);
    ok(lt_optimizer_allocate(o, "/nor/here", &err));
    lt_optimizer_destroy(o);

    /* A device without paged memory. */
    struct lt_backend_ops ops = *be->ops;
    const struct lt_backend_ops *real = be->ops;
    ops.buffer_create_paged = NULL;
    be->ops = &ops;
    ok(lt_optimizer_create(&o, be, &c, tensors, TENSORS, FLAT, &err));
    assert_int_equal(lt_optimizer_paged_bytes(o), 0);
    ok(lt_optimizer_allocate(o, NULL, &err));
    lt_optimizer_destroy(o);
    be->ops = real;
    lt_backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_threads_and_resume),
        cmocka_unit_test(test_same_as_adamw),
        cmocka_unit_test(test_clipping_and_decay),
        cmocka_unit_test(test_broken_gradient),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_pages_refused),
    };
    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}
