/* One step in every way the engine can run it: all must give the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "tests/support/fixtures.h"
#include "tests/support/tiny_step.h"

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
                tiny_step_check_same(&o, &grouped);
            }
}

static void test_layer_major_full(void **state)
{
    (void)state;
    struct tiny_options o = {.model = "goldens/llama-tiny", .full = true}, grouped = o;
    grouped.micro_batches = TINY_STEP_BATCHES;
    tiny_step_check_same(&o, &grouped);
}

static const struct {
    const char *model, *adapter;
} stored[] = {
    {"goldens/llama-tiny", "goldens/lora/adapter"},
    {"goldens/gpt2-tiny", "goldens/gpt2-tiny/lora/adapter"},
    {"goldens/qlora/checkpoint-bnb-4bit", "goldens/lora/adapter"},
};

static void test_residency(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++)
        for (int32_t group = 1; group <= TINY_STEP_BATCHES; group += 4)
            for (int threads = 1; threads <= 2; threads++) {
                struct tiny_options o = {.model = stored[i].model, .adapter = stored[i].adapter}, other = o;
                other.micro_batches = group;
                other.threads = threads;
                other.recompute = group > 1 ? LT_RECOMPUTE_FULL : LT_RECOMPUTE_SELECTIVE;
                other.residency = LT_WEIGHTS_RESIDENT;
                tiny_step_check_same(&o, &other);
                other.residency = LT_WEIGHTS_STREAM;
                tiny_step_check_same(&o, &other);
            }
}

static void test_boundaries_in_a_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++)
        for (int32_t group = 1; group <= TINY_STEP_BATCHES; group++)
            for (int streamed = 0; streamed < 2; streamed++) {
                struct tiny_options o = {.model = stored[i].model, .adapter = stored[i].adapter}, other = o;
                other.micro_batches = group;
                other.boundary_dir = lt_test_temp_dir();
                other.threads = 1 + group % 2;
                other.recompute = group % 2 ? LT_RECOMPUTE_FULL : LT_RECOMPUTE_SELECTIVE;
                other.residency = streamed ? LT_WEIGHTS_STREAM : LT_WEIGHTS_MMAP;
                tiny_step_check_same(&o, &other);
            }
}

/* Only the upper layers are trained: the lower ones' boundaries are needed once. */
static void test_boundaries_of_some_layers(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_engine *e[2];
    struct lt_error err;
    tiny_open(&t, &(struct tiny_options){
                      .model = stored[0].model, .adapter = stored[0].adapter, .tokens = 10, .labels = 10});
    for (int i = 0; i < t.model->tensor_count; i++)
        if (t.model->tensors[i].segment < t.model->layers)
            t.model->tensors[i].lora.rank = 0;
    struct lt_engine_options opt = {.capacity = {.tokens = 10, .labels = 10},
                                    .train = true,
                                    .micro_batches = 4,
                                    .param_elements = t.params.elements};
    assert_int_equal(lt_engine_create(&e[0], t.model, t.be, &opt, &err), LT_OK);
    opt.boundary_dir = lt_test_temp_dir();
    assert_int_equal(lt_engine_create(&e[1], t.model, t.be, &opt, &err), LT_OK);
    size_t slot = 10 * 64 * sizeof(float);
    assert_int_equal(lt_engine_memory(e[0])->boundaries, (5 + 2 * 4) * slot);
    assert_int_equal(lt_engine_memory(e[0])->boundary_file, 0);
    assert_int_equal(lt_engine_memory(e[1])->boundaries, (5 + 2) * slot);
    assert_int_equal(lt_engine_memory(e[1])->boundary_file, 4 * slot);
    lt_engine_destroy(e[0]);
    lt_engine_destroy(e[1]);
    tiny_close(&t);
}

/* Evaluation between two steps finds its own layers, and the next step those of its own. */
static void test_streamed_evaluation(void **state)
{
    (void)state;
    struct tiny_model mapped, streamed;
    struct tiny_batch b;
    struct lt_error err;
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "left.");
    struct tiny_options o = {.model = stored[2].model,
                             .adapter = stored[2].adapter,
                             .tokens = b.rows * b.columns,
                             .labels = b.rows * b.columns};
    size_t n = (size_t)b.tokens.n_labels;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    assert_true(want && got);
    tiny_open(&mapped, &o);
    o.residency = LT_WEIGHTS_STREAM;
    tiny_open(&streamed, &o);
    assert_int_equal(lt_engine_memory(mapped.engine)->stream, 0);
    assert_int_equal(lt_engine_eval(mapped.engine, &b.tokens, want, NULL, &err), LT_OK);
    double loss = tiny_train(&mapped, &b.tokens, 1);
    for (int round = 0; round < 2; round++) {
        memset(got, 0, n * sizeof *got);
        assert_int_equal(lt_engine_eval(streamed.engine, &b.tokens, got, NULL, &err), LT_OK);
        assert_memory_equal(got, want, n * sizeof *got);
        double now = tiny_train(&streamed, &b.tokens, 1);
        assert_memory_equal(&now, &loss, sizeof now);
    }
    struct lt_stream_times times;
    lt_engine_stream_times(streamed.engine, &times);
    assert_true(times.bytes > 0);
    tiny_close(&mapped);
    tiny_close(&streamed);
    tiny_batch_free(&b);
    free(want);
    free(got);
}

/* A copy of a checkpoint whose file ends `missing` bytes early once it is open. */
static void copy_checkpoint(const char *from, char *dir, size_t size)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char source[1024], target[1024];
    struct lt_error err;
    if (!lt_fixture_path(source, sizeof source, from))
        lt_test_skip_missing(from);
    size_t base = strlen(source);
    lt_snprintf(dir, size, "%s/cut", lt_test_temp_dir());
    assert_int_equal(lt_dir_create(dir, &err), LT_OK);
    for (int i = 0; i < 2; i++) {
        lt_snprintf(source + base, sizeof source - base, "/%s", files[i]);
        lt_snprintf(target, sizeof target, "%s/%s", dir, files[i]);
        assert_int_equal(lt_file_copy(source, target, &err), LT_OK);
    }
}

static void test_file_cut_while_streaming(void **state)
{
    (void)state;
    struct tiny_model t;
    struct tiny_batch b;
    struct lt_error err;
    char dir[512], path[1024];
    size_t end = 0;
    float losses[128];
    copy_checkpoint(stored[2].model, dir, sizeof dir);
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "left.");
    struct tiny_options o = {.model = dir,
                             .adapter = stored[2].adapter,
                             .tokens = b.rows * b.columns,
                             .labels = b.rows * b.columns,
                             .residency = LT_WEIGHTS_STREAM};
    tiny_open(&t, &o);
    lt_snprintf(path, sizeof path, "%s/model.safetensors", dir);
    for (int i = 0; i < t.model->tensor_count; i++)
        if (t.model->tensors[i].streamed)
            end = t.model->tensors[i].source.parts[LT_PART_DATA].offset;
    assert_int_equal(lt_file_truncate(path, end + 64, &err), LT_OK);
    for (int attempt = 0; attempt < 2; attempt++) {
        assert_int_equal(lt_engine_eval(t.engine, &b.tokens, losses, NULL, &err), LT_ERR_IO);
        assert_non_null(strstr(err.message, "model.layers."));
        assert_non_null(strstr(err.message, "model.safetensors' became shorter"));
    }
    tiny_close(&t);
    tiny_batch_free(&b);
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
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "left.");
    struct tiny_options o = {.model = "goldens/llama-tiny",
                             .adapter = adapters[0],
                             .tokens = b.rows * b.columns,
                             .labels = b.rows * b.columns,
                             .micro_batches = 2};
    tiny_open(&t, &o);
    const struct lt_micro_batches step = {.count = 2, .get = cancel, .user = &b};
    const struct lt_step_params p = {.loss_scale = 1, .step = 6};
    assert_int_equal(lt_engine_train(t.engine, &step, &p, &err), LT_ERR_CANCELLED);
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
        cmocka_unit_test(test_residency),
        cmocka_unit_test(test_boundaries_in_a_file),
        cmocka_unit_test(test_boundaries_of_some_layers),
        cmocka_unit_test(test_streamed_evaluation),
        cmocka_unit_test(test_file_cut_while_streaming),
        cmocka_unit_test(test_tied_embedding),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
