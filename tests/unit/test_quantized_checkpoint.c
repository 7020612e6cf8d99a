/* Checkpoints written quantized: the bytes of the goldens and of quantizing while loading, whole folders or none, and
 * the cache of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "models/quantized_cache.h"
#include "quant/nf4.h"
#include "tests/support/fixtures.h"

static const char *const models[] = {"goldens/llama-tiny", "goldens/gpt2-tiny", "goldens/archs/smollm2",
                                     "goldens/archs/llama31"};
enum { MODELS = sizeof models / sizeof *models };

static void fixture(char path[1024], const char *relative)
{
    if (!lt_fixture_path(path, 1024, relative))
        lt_test_skip_missing(relative);
}

static void place(char path[1024], const char *name)
{
    struct lt_error err;
    lt_snprintf(path, 1024, "%s/%s", lt_test_temp_dir(), name);
    assert_int_equal(lt_dir_remove_tree(path, &err), LT_OK);
}

static void convert(const char *from, const char *to, const struct lt_quantize_options *opt)
{
    struct lt_error err = {0};
    if (lt_quantize_checkpoint(from, to, opt, &err) != LT_OK)
        fail_msg("%s", err.message);
}

/* ---- bytes ---- */

struct opened {
    struct lt_checkpoint ck;
    struct lt_model *model;
};

static void open_and_load(struct opened *o, const char *path, const struct lt_load_options *opt)
{
    struct lt_error err = {0};
    if (lt_checkpoint_open(&o->ck, path, &err) != LT_OK ||
        lt_model_open(&o->model, &o->ck, path, &err) != LT_OK ||
        lt_model_load(o->model, &o->ck, opt, NULL, NULL, &err) != LT_OK)
        fail_msg("%s", err.message);
}

static void close_opened(struct opened *o)
{
    lt_model_destroy(o->model);
    lt_checkpoint_close(&o->ck);
}

static void same_bytes(const void *a, const void *b, size_t n)
{
    assert_true((a == NULL) == (b == NULL));
    if (a)
        assert_memory_equal(a, b, n);
}

static void same_weight(const struct lt_weight *a, const struct lt_weight *b)
{
    assert_int_equal(a->format, b->format);
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    assert_int_equal(a->transposed, b->transposed);
    same_bytes(a->data, b->data, lt_weight_data_bytes(a->format, a->rows, a->cols));
    if (!lt_weight_is_quantized(a))
        return;
    size_t blocks = (size_t)(a->format == LT_WEIGHT_INT8
                                 ? a->rows
                                 : lt_quant_blocks(a->rows * a->cols, LT_NF4_BLOCKSIZE));
    assert_int_equal(a->blocksize, b->blocksize);
    same_bytes(a->absmax, b->absmax, blocks * sizeof(float));
    same_bytes(a->absmax_codes, b->absmax_codes, blocks);
    same_bytes(a->nested_absmax, b->nested_absmax, (blocks + 255) / 256 * sizeof(float));
    same_bytes(a->nested_code, b->nested_code, 256 * sizeof(float));
    same_bytes(a->code, b->code, 16 * sizeof(float));
    same_bytes(&a->nested_offset, &b->nested_offset, sizeof(float));
}

static void same_as_in_memory(const char *from, const char *to, const struct lt_load_options *load)
{
    struct opened memory, file;
    open_and_load(&memory, from, load);
    open_and_load(&file, to, &(struct lt_load_options){.threads = 1});
    assert_int_equal(memory.model->tensor_count, file.model->tensor_count);
    int quantized = 0;
    for (int i = 0; i < memory.model->tensor_count; i++) {
        const struct lt_model_tensor *a = &memory.model->tensors[i], *b = &file.model->tensors[i];
        assert_string_equal(a->name, b->name);
        if (a->kind == LT_TENSOR_VECTOR)
            assert_memory_equal(a->vector, b->vector, (size_t)a->cols * sizeof(float));
        else
            same_weight(&a->weight, &b->weight);
        quantized += a->kind != LT_TENSOR_VECTOR && lt_weight_is_quantized(&a->weight);
    }
    assert_true(quantized > 0);
    close_opened(&memory);
    close_opened(&file);
}

static void equals_memory(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++)
        for (int kind = 0; kind < 5; kind++) {
            char from[1024], to[1024];
            struct lt_quantize_options opt = {.load = {.quant = kind == 4  ? LT_LOAD_INT8
                                                                : kind & 1 ? LT_LOAD_FP4
                                                                           : LT_LOAD_NF4,
                                                       .double_quant = kind & 2,
                                                       .threads = 1 + kind},
                                              .max_shard_bytes = kind < 1 ? 150000 : 5000000000u};
            fixture(from, models[m]);
            place(to, "equal");
            convert(from, to, &opt);
            same_as_in_memory(from, to, &opt.load);
        }
}

static void golden_bytes(void **state)
{
    (void)state;
    char from[1024], golden[1024], to[1024];
    struct lt_checkpoint ours, theirs;
    struct lt_quantize_options opt = {.load = {.quant = LT_LOAD_NF4, .double_quant = true},
                                      .max_shard_bytes = 5000000000u};
    fixture(from, models[0]);
    fixture(golden, "goldens/qlora/checkpoint-bnb-4bit");
    place(to, "golden");
    convert(from, to, &opt);
    assert_int_equal(lt_checkpoint_open(&ours, to, NULL), LT_OK);
    assert_int_equal(lt_checkpoint_open(&theirs, golden, NULL), LT_OK);
    assert_true(json_equal(ours.config, theirs.config));
    assert_int_equal(ours.tensor_count, theirs.tensor_count);
    for (size_t i = 0; i < ours.tensor_count; i++) {
        const struct lt_st_tensor *a = ours.tensors[i].tensor, *b = theirs.tensors[i].tensor;
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->dtype, b->dtype);
        assert_int_equal(a->ndim, b->ndim);
        if (strstr(a->name, "quant_state")) /* the mean of the scales may differ in its last digits */
            continue;
        for (int d = 0; d < a->ndim; d++)
            assert_int_equal(a->shape[d], b->shape[d]);
        const void *x = lt_safetensors_data(ours.tensors[i].file, a),
                   *y = lt_safetensors_data(theirs.tensors[i].file, b);
        if (strstr(a->name, ".nested_absmax")) {
            const float *u = x, *v = y;
            assert_true(*u - *v <= 1e-6f * *v && *v - *u <= 1e-6f * *v);
        } else if (strstr(a->name, ".weight.absmax")) { /* their CPU library takes a neighbour at times */
            const uint8_t *u = x, *v = y;
            for (size_t k = 0; k < a->bytes; k++)
                assert_in_range(u[k] + 1 - v[k], 0, 2);
        } else {
            assert_memory_equal(x, y, a->bytes);
        }
    }
    lt_checkpoint_close(&ours);
    lt_checkpoint_close(&theirs);
}

/* What is not quantized keeps its element type and bytes. */
static void keeps_the_rest(void **state)
{
    (void)state;
    char from[1024], to[1024];
    struct lt_checkpoint source, result;
    struct lt_quantize_options opt = {.load.quant = LT_LOAD_NF4, .max_shard_bytes = 1000};
    fixture(from, "goldens/archs/smollm2");
    place(to, "rest");
    convert(from, to, &opt);
    assert_int_equal(lt_checkpoint_open(&source, from, NULL), LT_OK);
    assert_int_equal(lt_checkpoint_open(&result, to, NULL), LT_OK);
    assert_true(result.file_count > 5);
    int kept = 0;
    for (size_t i = 0; i < source.tensor_count; i++) {
        struct lt_checkpoint_tensor found;
        const struct lt_st_tensor *t = source.tensors[i].tensor;
        if (!strstr(t->name, "norm") && !strstr(t->name, "embed"))
            continue;
        assert_true(lt_checkpoint_find(&result, t->name, &found));
        assert_int_equal(t->dtype, LT_BF16);
        assert_int_equal(found.tensor->dtype, LT_BF16);
        assert_memory_equal(lt_safetensors_data(source.tensors[i].file, t),
                            lt_safetensors_data(found.file, found.tensor), t->bytes);
        kept++;
    }
    assert_int_equal(kept, 1 + 2 * 2 + 1);
    lt_checkpoint_close(&source);
    lt_checkpoint_close(&result);
}

/* ---- whole or not at all ---- */

static size_t entries(const char *dir)
{
    char **names;
    size_t count;
    assert_int_equal(lt_dir_list(dir, &names, &count, NULL), LT_OK);
    lt_dir_list_free(names, count);
    return count;
}

static void refusals(void **state)
{
    (void)state;
    char from[1024], bnb[1024], to[1024], inside[1100];
    struct lt_error err;
    struct lt_quantize_options opt = {.load.quant = LT_LOAD_NF4, .max_shard_bytes = 1 << 20};
    fixture(from, models[0]);
    fixture(bnb, "goldens/qlora/checkpoint-bnb-4bit");
    place(to, "refused");
    assert_int_equal(lt_quantize_checkpoint(bnb, to, &opt, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "quantized already"));
    assert_int_equal(lt_file_kind(to), LT_FILE_NONE);
    assert_int_equal(lt_dir_create(to, &err), LT_OK);
    lt_snprintf(inside, sizeof inside, "%s/mine", to);
    assert_int_equal(lt_file_write_atomic(inside, "x", 1, &err), LT_OK);
    assert_int_equal(lt_quantize_checkpoint(from, to, &opt, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "name another"));
    assert_int_equal(entries(to), 1);
    assert_int_equal(unlink(inside), 0);
    lt_snprintf(inside, sizeof inside, "%s///", to); /* an empty folder, however written */
    convert(from, inside, &opt);
    assert_int_equal(entries(to), 3);
}

static void stop_at_five(void *user, int done, int total)
{
    (void)user;
    (void)total;
    if (done == 5)
        lt_cancel_request();
}

static void cancelled(void **state)
{
    (void)state;
    char from[1024], to[1024], parent[1024];
    struct lt_error err;
    struct lt_quantize_options opt = {
        .load.quant = LT_LOAD_NF4, .max_shard_bytes = 1 << 20, .progress = stop_at_five};
    fixture(from, models[0]);
    place(parent, "stopped");
    lt_snprintf(to, sizeof to, "%s/stopped/out", lt_test_temp_dir());
    assert_int_equal(lt_quantize_checkpoint(from, to, &opt, &err), LT_ERR_CANCELLED);
    lt_cancel_reset();
    assert_int_equal(entries(parent), 0);
}

static void short_of_memory(void **state)
{
    (void)state;
    char from[1024], to[1024], parent[1024];
    struct lt_error err;
    struct lt_quantize_options opt = {.load.quant = LT_LOAD_NF4, .max_shard_bytes = 1u << 30};
    enum lt_status status = LT_ERR_NOMEM;
    fixture(from, models[0]);
    place(parent, "memory");
    lt_snprintf(to, sizeof to, "%s/memory/out", lt_test_temp_dir());
    assert_int_equal(lt_dir_create(parent, &err), LT_OK);
    for (long n = 1; status != LT_OK; n++) {
        lt_alloc_fail_at(n);
        status = lt_quantize_checkpoint(from, to, &opt, &err);
        lt_alloc_fail_at(0);
        if (status == LT_OK)
            break;
        assert_int_equal(status, LT_ERR_NOMEM);
        /* Removing what was begun takes memory too; the very allocation that fails may be one of its own. */
        assert_int_equal(entries(parent), 0);
    }
}

/* ---- cache ---- */

static char *cached(const char *model, const struct lt_quantized_cache_options *opt)
{
    struct lt_error err = {0};
    char *folder;
    if (lt_quantized_cache_folder(&folder, model, opt, &err) != LT_OK)
        fail_msg("%s", err.message);
    return folder;
}

static void copy_model(const char *to)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char from[1024], source[1100], target[1100];
    struct lt_error err;
    fixture(from, models[0]);
    assert_int_equal(lt_dir_create(to, &err), LT_OK);
    for (int i = 0; i < 2; i++) {
        lt_snprintf(source, sizeof source, "%s/%s", from, files[i]);
        lt_snprintf(target, sizeof target, "%s/%s", to, files[i]);
        assert_int_equal(lt_file_copy(source, target, &err), LT_OK);
    }
}

static void cache_keys(void **state)
{
    (void)state;
    char model[1024], cache[1024], bnb[1024];
    place(model, "source");
    place(cache, "cache");
    copy_model(model);
    fixture(bnb, "goldens/qlora/checkpoint-bnb-4bit");
    struct lt_quantized_cache_options opt = {
        .dir = cache, .quantize = {.load.quant = LT_LOAD_NF4, .max_shard_bytes = 1u << 30}};
    assert_null(cached(model, &opt));
    assert_int_equal(lt_file_kind(cache), LT_FILE_NONE);
    opt.write = true;
    assert_null(cached(bnb, &opt)); /* nothing to quantize */
    char *first = cached(model, &opt);
    assert_non_null(first);
    same_as_in_memory(model, first, &opt.quantize.load);
    opt.write = false;
    char *again = cached(model, &opt);
    assert_string_equal(first, again);
    opt.quantize.load.double_quant = true;
    assert_null(cached(model, &opt));
    opt.quantize.load = (struct lt_load_options){.quant = LT_LOAD_FP4};
    assert_null(cached(model, &opt));
    opt.quantize.load = (struct lt_load_options){.quant = LT_LOAD_NF4};
    copy_model(model); /* new times */
    assert_null(cached(model, &opt));
    lt_free(first);
    lt_free(again);
}

/* What a killed process left goes away; several processes make one folder. */
static void cache_at_once(void **state)
{
    (void)state;
    enum { PROCESSES = 4 };
    char model[1024], cache[1024], stale[1200];
    struct lt_error err;
    place(model, "source");
    place(cache, "cache");
    copy_model(model);
    struct lt_quantized_cache_options opt = {
        .dir = cache, .write = true, .quantize = {.load.quant = LT_LOAD_NF4, .max_shard_bytes = 1u << 30}};
    char *folder = cached(model, &opt);
    assert_int_equal(lt_dir_remove_tree(folder, &err), LT_OK);
    lt_snprintf(stale, sizeof stale, "%s.tmp-1-0", folder);
    assert_int_equal(lt_dir_create(stale, &err), LT_OK);
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            char *mine;
            _exit(lt_quantized_cache_folder(&mine, model, &opt, &err) == LT_OK && mine &&
                          strcmp(mine, folder) == 0
                      ? 0
                      : 1);
        }
        assert_true(children[i] > 0);
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(entries(cache), 2); /* the folder and its lock */
    same_as_in_memory(model, folder, &opt.quantize.load);
    lt_free(folder);
}

static void cache_place(void **state)
{
    (void)state;
    char model[1024], cache[1024];
    struct lt_error err;
    char *folder;
    place(model, "source");
    place(cache, "variable");
    copy_model(model);
    struct lt_quantized_cache_options opt = {
        .write = true, .quantize = {.load.quant = LT_LOAD_NF4, .max_shard_bytes = 1u << 30}};
    assert_int_equal(setenv("LORA_TRAIN_CACHE", cache, 1), 0);
    folder = cached(model, &opt);
    assert_memory_equal(folder, cache, strlen(cache));
    lt_free(folder);
    assert_int_equal(unsetenv("LORA_TRAIN_CACHE") | unsetenv("XDG_CACHE_HOME") | unsetenv("HOME"), 0);
    assert_int_equal(lt_quantized_cache_folder(&folder, model, &opt, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "--cache-dir"));
    assert_null(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_memory), cmocka_unit_test(golden_bytes),  cmocka_unit_test(keeps_the_rest),
        cmocka_unit_test(refusals),      cmocka_unit_test(cancelled),     cmocka_unit_test(short_of_memory),
        cmocka_unit_test(cache_keys),    cmocka_unit_test(cache_at_once), cmocka_unit_test(cache_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
