/* One step in every way the engine can run it: all must give the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/system.h"
#include "tests/support/fixtures.h"
#include "tests/support/tiny_model.h"

enum { MICRO_BATCHES = 5 };

/* Micro-batches of different lengths, one without a label. */
static void make_batches(struct lt_tokens batches[MICRO_BATCHES], const struct tiny_batch *left,
                         const struct tiny_batch *right)
{
    for (int i = 0; i < MICRO_BATCHES; i++)
        batches[i] = i % 2 ? left->tokens : right->tokens;
    batches[2].n_labels = 0;
    batches[4].n_labels -= 3;
}

static float *read_grads(struct tiny_model *t)
{
    struct lt_error err;
    float *g = malloc(t->params.elements * sizeof *g);
    assert_non_null(g);
    if (lt_engine_read_grads(t->engine, 0, g, t->params.elements, &err) != LT_OK)
        fail_msg("%s", err.message);
    return g;
}

struct result {
    double loss;
    float *grads;
    size_t elements;
};

static struct result run_step(const struct tiny_options *o)
{
    struct tiny_model t;
    struct tiny_batch left, right;
    struct lt_tokens batches[MICRO_BATCHES];
    struct tiny_options all = *o;
    tiny_batch_load(&left, "goldens/llama-tiny/inputs.safetensors", "left.");
    tiny_batch_load(&right, "goldens/llama-tiny/inputs.safetensors", "right.");
    make_batches(batches, &left, &right);
    all.tokens = left.rows * left.columns;
    all.labels = all.tokens;
    tiny_open(&t, &all);
    struct result r = {.loss = tiny_train(&t, batches, MICRO_BATCHES), .elements = t.params.elements};
    r.grads = read_grads(&t);
    tiny_close(&t);
    tiny_batch_free(&left);
    tiny_batch_free(&right);
    return r;
}

static void check_same(const struct tiny_options *base, const struct tiny_options *other)
{
    struct result a = run_step(base), b = run_step(other);
    assert_memory_equal(&a.loss, &b.loss, sizeof a.loss);
    assert_int_equal(a.elements, b.elements);
    assert_memory_equal(a.grads, b.grads, a.elements * sizeof *a.grads);
    free(a.grads);
    free(b.grads);
}

static const char *const adapters[] = {"goldens/lora/adapter", "goldens/qv-only/adapter"};

/* Groups of 2 and 3 leave a shorter last one; 8 are more than there are. */
static void test_layer_major(void **state)
{
    (void)state;
    const int32_t groups[] = {2, 3, 5, 8};
    for (size_t a = 0; a < sizeof adapters / sizeof *adapters; a++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (int recompute = LT_RECOMPUTE_NONE; recompute <= LT_RECOMPUTE_FULL; recompute++) {
                struct tiny_options o = {
                    .model = "goldens/llama-tiny", .adapter = adapters[a], .dropout = 0.1f};
                struct tiny_options grouped = o;
                grouped.recompute = (enum lt_recompute)recompute;
                grouped.micro_batches = groups[g];
                grouped.threads = g % 2 ? 1 : 3;
                check_same(&o, &grouped);
            }
}

static void test_layer_major_full(void **state)
{
    (void)state;
    struct tiny_options o = {.model = "goldens/llama-tiny", .full = true}, grouped = o;
    grouped.micro_batches = MICRO_BATCHES;
    check_same(&o, &grouped);
}

/* Its gradient would be the sum of other addends first. */
static void test_tied_embedding(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_engine *e;
    struct lt_error err;
    struct lt_engine_options opt = {
        .capacity = {.tokens = 8, .labels = 8}, .train = true, .micro_batches = 2};
    tiny_open(
        &t, &(struct tiny_options){.model = "goldens/archs/smollm2", .full = true, .tokens = 8, .labels = 8});
    assert_false(lt_engine_layer_major_possible(t.model));
    opt.param_elements = t.params.elements;
    assert_int_equal(lt_engine_create(&e, t.model, t.be, &opt, &err), LT_ERR_UNSUPPORTED);
    opt.micro_batches = 1;
    assert_int_equal(lt_engine_create(&e, t.model, t.be, &opt, &err), LT_OK);
    lt_engine_destroy(e);
    tiny_close(&t);
}

static enum lt_status cancel(void *user, int32_t index, struct lt_tokens *tokens, struct lt_error *err)
{
    const struct tiny_batch *b = user;
    (void)err;
    *tokens = b->tokens;
    if (index == 1)
        lt_cancel_request();
    return LT_OK;
}

static void test_cancel(void **state)
{
    (void)state;
    struct tiny_model t;
    struct tiny_batch b;
    struct lt_error err;
    double loss;
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "left.");
    struct tiny_options o = {.model = "goldens/llama-tiny",
                             .adapter = adapters[0],
                             .tokens = b.rows * b.columns,
                             .labels = b.rows * b.columns,
                             .micro_batches = 2};
    tiny_open(&t, &o);
    const struct lt_micro_batches step = {.count = 2, .get = cancel, .user = &b};
    const struct lt_step_params p = {.loss_scale = 1, .step = 6};
    assert_int_equal(lt_engine_train(t.engine, &step, &p, &loss, &err), LT_ERR_CANCELLED);
    assert_non_null(strstr(err.message, "step 7"));
    lt_cancel_reset();
    tiny_close(&t);
    tiny_batch_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_major),
        cmocka_unit_test(test_layer_major_full),
        cmocka_unit_test(test_tied_embedding),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
