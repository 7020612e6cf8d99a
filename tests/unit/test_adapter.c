/* Adapter files, against those of PEFT (tests/golden/peft_init.py and the goldens). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "core/train/adapter.h"
#include "tests/support/fixtures.h"
#include "tests/support/peft_models.h"

enum { SEED = 42 };

static const struct {
    const char *name, *model;
} cases[] = {
    {"peft-init/true", "llama"},
    {"peft-init/false", "llama"},
    {"peft-init/gaussian", "llama"},
    {"peft-init/gaussian-small", "llama-small"},
    {"peft-init/patterns", "llama-bias"},
    {"peft-init/layers", "llama"},
    {"peft-init/conv1d", "gpt2"},
    {"goldens/lora/adapter", "llama-tiny"},
    {"goldens/lora/adapter-init", "llama-tiny"},
    {"goldens/rslora/adapter", "llama-tiny"},
    {"goldens/qv-only/adapter", "llama-tiny"},
    {"goldens/gpt2-tiny/lora/adapter", "gpt2-tiny"},
};
enum { CASES = sizeof cases / sizeof *cases };

/* ---- files ---- */

static char *read_file(const char *dir, const char *name, size_t *size)
{
    char path[4200], *data;
    struct lt_error err;
    lt_snprintf(path, sizeof path, "%s/%s", dir, name);
    lt_peft_must(lt_file_read(path, 1 << 20, &data, size, &err), &err);
    return data;
}

static const char *scratch(const char *name)
{
    static char dir[600];
    lt_snprintf(dir, sizeof dir, "%s/%s", lt_test_temp_dir(), name);
    return dir;
}

/* Loading PEFT's file and saving it gives PEFT's bytes. */
static void test_files_as_peft(void **state)
{
    (void)state;
    for (int k = 0; k < CASES; k++) {
        struct lt_peft_setup s = {0};
        char path[4096];
        struct lt_error err;
        size_t size, again_size;
        lt_peft_setup_init(&s, cases[k].model, cases[k].name);
        lt_peft_fixture(path, sizeof path, cases[k].name);
        lt_peft_must(lt_adapter_load(&s.params, path, s.values, &err), &err);
        for (size_t i = 0; i < s.params.count; i++)
            for (size_t j = 0; j < s.params.items[i].elements; j++)
                assert_true(isfinite(s.values[s.params.items[i].offset + j]));
        const char *dir = scratch("new/adapter");
        lt_peft_must(lt_adapter_save(&s.params, &s.config, dir, s.values, &err), &err);
        char *original = read_file(path, "adapter_model.safetensors", &size);
        char *again = read_file(dir, "adapter_model.safetensors", &again_size);
        assert_int_equal(size, again_size);
        assert_memory_equal(original, again, size);
        lt_free(original);
        lt_free(again);
        struct lt_lora_config reread;
        lt_lora_config_init(&reread);
        lt_peft_must(lt_lora_config_load(&reread, dir, &err), &err);
        assert_int_equal(reread.target_modules.count, s.config.target_modules.count);
        assert_int_equal(reread.r, s.config.r);
        lt_lora_config_deinit(&reread);
        lt_peft_setup_deinit(&s);
    }
}

/* What to do to the file of "peft-init/layers" and biases before it is read. */
struct change {
    const char *tensor; /* end of the name */
    const char *rename; /* new end; "" drops the tensor */
    enum lt_dtype dtype;
    int64_t rows; /* new first dimension, 0: as it is */
    float value;  /* of element 3 */
};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static void write_changed(const struct lt_peft_setup *s, const char *dir, const struct change *change)
{
    struct lt_st_writer *w;
    struct lt_error err;
    char path[700], name[300];
    void *buffers[64] = {0};
    assert_true(s->params.count <= 64);
    lt_peft_must(lt_dir_create(dir, &err), &err);
    lt_peft_must(lt_st_writer_create(&w, &err), &err);
    for (size_t i = 0; i < s->params.count; i++) {
        const struct lt_param *p = &s->params.items[i];
        int64_t shape[2] = {p->shape[0], p->shape[1]};
        bool hit = change && ends_with(p->name, change->tensor);
        enum lt_dtype dtype = hit ? change->dtype : LT_F32;
        float *x = lt_alloc_array(2 * p->elements, sizeof *x);
        assert_non_null(x);
        buffers[i] = x;
        memcpy(x, s->values + p->offset, p->elements * sizeof *x);
        memcpy(x + p->elements, x, p->elements * sizeof *x);
        lt_snprintf(name, sizeof name, "%s", p->name);
        if (hit && change->rename) {
            if (!*change->rename)
                continue;
            lt_snprintf(name + strlen(name) - strlen(change->tensor), 100, "%s", change->rename);
        }
        if (hit && change->rows)
            shape[0] = change->rows;
        if (hit && change->value != 0)
            x[3] = change->value;
        if (dtype == LT_BF16 || dtype == LT_F16)
            lt_convert_from_f32(x, s->values + p->offset, dtype, p->elements);
        lt_peft_must(lt_st_writer_add(w, name, dtype, shape, p->ndim, x, &err), &err);
    }
    lt_snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    lt_peft_must(lt_st_writer_save(w, path, &err), &err);
    lt_st_writer_destroy(w);
    for (size_t i = 0; i < s->params.count; i++)
        lt_free(buffers[i]);
}

static void load_changed(struct lt_peft_setup *s, const struct change *change, enum lt_status status,
                         const char *part)
{
    const char *dir = scratch("changed");
    struct lt_error err = {0};
    float *values = lt_alloc_array(s->params.elements, sizeof *values);
    assert_non_null(values);
    write_changed(s, dir, change);
    if (lt_adapter_load(&s->params, dir, values, &err) != status || !strstr(err.message, part))
        fail_msg("wanted %s \"%s\", got %s \"%s\"", lt_status_name(status), part, lt_status_name(err.status),
                 err.message);
    for (size_t i = 0; status == LT_OK && i < s->params.count; i++) {
        const struct lt_param *p = &s->params.items[i];
        for (size_t j = 0; j < p->elements; j++) {
            float expected = s->values[p->offset + j];
            if (ends_with(p->name, change->tensor) && change->dtype == LT_BF16)
                expected = lt_bf16_to_f32(lt_f32_to_bf16(expected));
            if (ends_with(p->name, change->tensor) && change->dtype == LT_F16)
                expected = lt_f16_to_f32(lt_f32_to_f16(expected));
            assert_true(values[p->offset + j] == expected);
        }
    }
    lt_free(values);
}

static void test_changed_files(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    lt_peft_setup_init(&s, "llama-bias", "peft-init/patterns");
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, NULL), LT_OK);
#define A "model.layers.1.mlp.down_proj.lora_A.weight"
    load_changed(&s, &(struct change){.tensor = "none"}, LT_OK, "");
    load_changed(&s, &(struct change){.tensor = "weight", .dtype = LT_BF16}, LT_OK, "");
    load_changed(&s, &(struct change){.tensor = "lora_A.weight", .dtype = LT_F16}, LT_OK, "");
    load_changed(&s, &(struct change){.tensor = ".base_layer.bias", .rename = ".bias"}, LT_OK, "");
    load_changed(&s, &(struct change){.tensor = A, .rename = ""}, LT_ERR_FORMAT, A " is missing");
    load_changed(&s, &(struct change){.tensor = A, .rename = "x.lora_A.weight"}, LT_ERR_FORMAT, "is missing");
    load_changed(&s, &(struct change){.tensor = A, .dtype = LT_I32}, LT_ERR_FORMAT, A);
    load_changed(&s, &(struct change){.tensor = A, .rows = 4}, LT_ERR_FORMAT, A " has shape [4, 24] where");
    load_changed(&s, &(struct change){.tensor = A, .rows = 6}, LT_ERR_FORMAT, "make it [3, 24]");
    load_changed(&s, &(struct change){.tensor = A, .value = NAN}, LT_ERR_NUMERIC,
                 A " holds NaN at element 3");
    load_changed(&s, &(struct change){.tensor = A, .value = -INFINITY}, LT_ERR_NUMERIC, "infinity");
    load_changed(&s, &(struct change){.tensor = "q_proj.base_layer.bias", .rename = ""}, LT_ERR_FORMAT,
                 "is missing");
    lt_peft_setup_deinit(&s);
}

/* A file with more than the configuration adapts. */
static void test_surplus(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0}, fewer = {0};
    struct lt_error err;
    lt_peft_setup_init(&s, "llama-bias", "peft-init/patterns");
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, NULL), LT_OK);
    const char *dir = scratch("surplus");
    write_changed(&s, dir, NULL);
    lt_peft_setup_init(&fewer, "llama-bias", "peft-init/patterns");
    lt_params_deinit(&fewer.params);
    fewer.config.bias = LT_LORA_BIAS_NONE;
    lt_peft_must(lt_params_lora(&fewer.params, &fewer.model, &fewer.config, &err), &err);
    assert_int_equal(lt_adapter_load(&fewer.params, dir, fewer.values, &err), LT_ERR_FORMAT);
    assert_non_null(
        strstr(err.message, "model.layers.0.self_attn.q_proj.base_layer.bias belongs to nothing"));
    lt_peft_setup_deinit(&fewer);
    lt_peft_setup_deinit(&s);
}

/* Biases that no adapter wraps, in the spelling of a release that wrapped everything. */
static void test_plain_bias_spelling(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    lt_peft_setup_init(&s, "gpt2", "peft-init/conv1d");
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, NULL), LT_OK);
    load_changed(&s, &(struct change){.tensor = "ln_f.bias", .rename = "ln_f.base_layer.bias"}, LT_OK, "");
    lt_peft_setup_deinit(&s);
}

static void test_broken_folders(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    struct lt_error err;
    char path[700];
    lt_peft_setup_init(&s, "llama", "peft-init/layers");
    assert_int_not_equal(lt_adapter_load(&s.params, scratch("nowhere"), s.values, &err), LT_OK);
    assert_non_null(strstr(err.message, "adapter_model.safetensors"));
    const char *dir = scratch("pickle");
    lt_peft_must(lt_dir_create(dir, &err), &err);
    lt_snprintf(path, sizeof path, "%s/adapter_model.bin", dir);
    lt_peft_must(lt_file_write_atomic(path, "PK", 2, &err), &err);
    assert_int_equal(lt_adapter_load(&s.params, dir, s.values, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "pickle"));
    /* Cut anywhere, the file is refused. */
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, NULL), LT_OK);
    dir = scratch("cut");
    write_changed(&s, dir, NULL);
    size_t size;
    char *data = read_file(dir, "adapter_model.safetensors", &size);
    lt_snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    for (size_t n = 0; n < size; n += 61) {
        lt_peft_must(lt_file_write_atomic(path, data, n, &err), &err);
        assert_int_not_equal(lt_adapter_load(&s.params, dir, s.values, &err), LT_OK);
    }
    lt_free(data);
    lt_peft_setup_deinit(&s);
}

/* A folder is made; a file in its place is an error. */
static void test_save_errors(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    struct lt_error err = {0};
    lt_peft_setup_init(&s, "llama", "peft-init/layers");
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, NULL), LT_OK);
    lt_peft_must(lt_file_write_atomic(scratch("file"), "x", 1, &err), &err);
    assert_int_not_equal(lt_adapter_save(&s.params, &s.config, scratch("file"), s.values, &err), LT_OK);
    assert_true(err.message[0]);
    lt_peft_setup_deinit(&s);
}

/* A published adapter of TinyLlama (r 4 on q_proj and v_proj of 22 layers): the model's shapes, without its data. */
static void test_published_adapter(void **state)
{
    (void)state;
    enum { LAYERS = 22, TENSORS = 2 * LAYERS };
    static const char relative[] = "data/minhmc2007+A.R.O.N.A/tinyllama_lora/checkpoint-180";
    static struct lt_model_tensor tensors[TENSORS];
    static char modules[TENSORS][64];
    static int segment_first[LAYERS + 3];
    struct lt_peft_setup s = {.model = {.layers = LAYERS, .tensors = tensors, .tensor_count = TENSORS}};
    struct lt_error err;
    char path[4096];

    lt_peft_fixture(path, sizeof path, relative);
    for (int i = 0; i < TENSORS; i++) {
        lt_snprintf(modules[i], sizeof modules[i], "model.layers.%d.self_attn.%s", i / 2,
                    i % 2 ? "v_proj" : "q_proj");
        tensors[i] = (struct lt_model_tensor){.name = modules[i],
                                              .module = modules[i],
                                              .rows = i % 2 ? 256 : 2048,
                                              .cols = 2048,
                                              .segment = 1 + i / 2,
                                              .index = i % 2,
                                              .shared = -1};
    }
    for (int i = 2; i < LAYERS + 3; i++)
        segment_first[i] = 2 * (i - 1) < TENSORS ? 2 * (i - 1) : TENSORS;
    s.model.segment_first = segment_first;
    lt_lora_config_init(&s.config);
    lt_peft_must(lt_lora_config_load(&s.config, path, &err), &err);
    lt_peft_must(lt_params_lora(&s.params, &s.model, &s.config, &err), &err);
    assert_int_equal(s.params.trainable, LAYERS * 4 * (2048 + 2048 + 2048 + 256));
    lt_peft_setup_values(&s);
    lt_peft_must(lt_adapter_load(&s.params, path, s.values, &err), &err);
    const struct lt_param *b =
        lt_params_find(&s.params, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    bool trained = false;
    for (size_t i = 0; i < b->elements; i++)
        trained = trained || s.values[b->offset + i] != 0;
    assert_true(trained);
    lt_free(s.values);
    lt_params_deinit(&s.params);
    lt_lora_config_deinit(&s.config);
}

/* ---- memory ---- */

/* Everything from the targets to the saved file and back. */
static enum lt_status whole_way(struct lt_peft_setup *s, const char *dir, struct lt_error *err)
{
    LT_TRY(lt_lora_config_set_targets(&s->config, "all-linear", err));
    LT_TRY(lt_lora_config_expand(&s->config, &s->model, err));
    LT_TRY(lt_params_lora(&s->params, &s->model, &s->config, err));
    LT_TRY(lt_params_init(&s->params, &s->model, &s->config, SEED, s->values, err));
    LT_TRY(lt_adapter_save(&s->params, &s->config, dir, s->values, err));
    return lt_adapter_load(&s->params, dir, s->values, err);
}

static void test_allocation_failures(void **state)
{
    (void)state;
    struct lt_peft_setup s;
    char dir[600];
    lt_snprintf(dir, sizeof dir, "%s", scratch("memory"));
    lt_peft_setup_targets(&s, "llama-small", "all-linear");
    assert_int_equal(lt_params_lora(&s.params, &s.model, &s.config, NULL), LT_OK);
    lt_peft_setup_values(&s);
    for (long n = 1;; n++) {
        struct lt_error err = {0};
        lt_params_deinit(&s.params);
        lt_alloc_fail_at(n);
        enum lt_status status = whole_way(&s, dir, &err);
        bool reached = lt_alloc_count() >= n;
        lt_alloc_fail_at(0);
        if (!reached) {
            assert_int_equal(status, LT_OK);
            break;
        }
        if (status != LT_ERR_NOMEM || !err.message[0])
            fail_msg("allocation %ld failed: %s \"%s\"", n, lt_status_name(status), err.message);
    }
    lt_peft_setup_deinit(&s);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_as_peft),     cmocka_unit_test(test_changed_files),
        cmocka_unit_test(test_surplus),           cmocka_unit_test(test_plain_bias_spelling),
        cmocka_unit_test(test_broken_folders),    cmocka_unit_test(test_save_errors),
        cmocka_unit_test(test_published_adapter), cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests_name("adapter", tests, NULL, NULL);
}
