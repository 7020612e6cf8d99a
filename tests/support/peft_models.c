#include "tests/support/peft_models.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/io/json.h"
#include "tests/support/fixtures.h"

json_t *lt_peft_cases(void)
{
    static const char relative[] = "peft-init/cases.json";
    char path[4096];
    struct lt_error err;
    json_t *cases;
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    if (lt_json_load(&cases, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    return cases;
}

static bool has(const char *s, const char *part)
{
    return strstr(s, part) != NULL;
}

/* The number in "model.layers.3.…" or "transformer.h.3.…"; -1 outside layers. */
static int layer_of(const char *name)
{
    const char *at = strstr(name, ".layers.");
    if (at)
        return atoi(at + strlen(".layers."));
    at = strstr(name, ".h.");
    return at ? atoi(at + strlen(".h.")) : -1;
}

static void fill(float *x, size_t n, int tensor)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)tensor + (float)i * 0x1p-16f;
}

/* row: name, shape, is Conv1D, is tied to an earlier one */
static void set_tensor(struct lt_model_tensor *t, const json_t *row, int number)
{
    const char *name = json_string_value(json_array_get(row, 0));
    const json_t *shape = json_array_get(row, 1);
    int64_t first = json_integer_value(json_array_get(shape, 0));
    int64_t second = json_integer_value(json_array_get(shape, 1));
    bool vector = json_array_size(shape) == 1;
    size_t n = (size_t)(vector ? first : first * second);
    float *values = lt_alloc_array(n, sizeof *values);
    assert_non_null(values);
    fill(values, n, number);

    t->name = lt_strdup(name);
    t->module = lt_strndup(name, (size_t)(strrchr(name, '.') - name));
    assert_non_null(t->name);
    assert_non_null(t->module);
    t->is_bias = has(name, ".bias");
    t->is_head = has(name, "lm_head");
    t->transposed = json_is_true(json_array_get(row, 2));
    t->shared = -1;
    t->kind = LT_TENSOR_LINEAR;
    t->rows = t->transposed ? second : first;
    t->cols = t->transposed ? first : second;
    if (vector) {
        t->kind = LT_TENSOR_VECTOR;
        t->is_norm = has(name, "norm.") || has(name, ".ln_");
        t->transposed = false;
        t->rows = 1;
        t->cols = first;
        t->vector = values;
        return;
    }
    if (has(name, "embed_tokens") || has(name, ".wte") || has(name, ".wpe"))
        t->kind = LT_TENSOR_EMBEDDING;
    t->weight = (struct lt_weight){.format = LT_WEIGHT_F32,
                                   .transposed = t->transposed,
                                   .rows = t->rows,
                                   .cols = t->cols,
                                   .data = values};
}

void lt_peft_model_init(struct lt_model *model, const json_t *cases, const char *name)
{
    const json_t *rows = json_object_get(json_object_get(cases, "models"), name);
    *model = (struct lt_model){.tensor_count = (int)json_array_size(rows)};
    assert_true(model->tensor_count > 0);
    model->tensors = lt_alloc_zero((size_t)model->tensor_count, sizeof *model->tensors);
    assert_non_null(model->tensors);
    for (int i = 0; i < model->tensor_count; i++) {
        set_tensor(&model->tensors[i], json_array_get(rows, (size_t)i), i);
        if (layer_of(model->tensors[i].name) >= model->layers)
            model->layers = layer_of(model->tensors[i].name) + 1;
    }
    model->segment_first = lt_alloc_zero((size_t)model->layers + 3, sizeof *model->segment_first);
    assert_non_null(model->segment_first);
    int segment = 0;
    for (int i = 0; i < model->tensor_count; i++) {
        struct lt_model_tensor *t = &model->tensors[i];
        int layer = layer_of(t->name);
        int own = layer >= 0 ? layer + 1 : segment > 0 ? model->layers + 1 : 0;
        while (segment < own)
            model->segment_first[++segment] = i;
        t->segment = segment;
        t->index = i - model->segment_first[segment];
        if (json_is_true(json_array_get(json_array_get(rows, (size_t)i), 3)))
            t->shared = 0;
    }
    model->segment_first[model->layers + 2] = model->tensor_count;
}

void lt_peft_model_deinit(struct lt_model *model)
{
    for (int i = 0; i < model->tensor_count; i++) {
        struct lt_model_tensor *t = &model->tensors[i];
        lt_free(t->name);
        lt_free(t->module);
        lt_free((void *)(uintptr_t)t->weight.data);
        lt_free((void *)(uintptr_t)t->vector);
    }
    lt_free(model->tensors);
    lt_free(model->segment_first);
    *model = (struct lt_model){0};
}

void lt_peft_must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

void lt_peft_fixture(char *path, size_t size, const char *relative)
{
    if (!lt_fixture_path(path, size, relative))
        lt_test_skip_missing(relative);
}

void lt_peft_setup_values(struct lt_peft_setup *s)
{
    s->values = lt_alloc_array(s->params.elements, sizeof *s->values);
    assert_non_null(s->values);
    for (size_t i = 0; i < s->params.elements; i++)
        s->values[i] = NAN;
}

/* The recorded model of that name, with the configuration in the fixture folder. */
void lt_peft_setup_init(struct lt_peft_setup *s, const char *model, const char *adapter)
{
    char path[4096];
    struct lt_error err;
    lt_peft_fixture(path, sizeof path, adapter);
    json_t *cases = lt_peft_cases();
    lt_peft_model_init(&s->model, cases, model);
    json_decref(cases);
    lt_lora_config_init(&s->config);
    lt_peft_must(lt_lora_config_load(&s->config, path, &err), &err);
    lt_peft_must(lt_params_lora(&s->params, &s->model, &s->config, &err), &err);
    lt_peft_setup_values(s);
}

/* As set_up with target_modules (and rank 2) in place of a file. */
void lt_peft_setup_targets(struct lt_peft_setup *s, const char *model, const char *targets)
{
    struct lt_error err;
    json_t *cases = lt_peft_cases();
    *s = (struct lt_peft_setup){0};
    lt_peft_model_init(&s->model, cases, model);
    json_decref(cases);
    lt_lora_config_init(&s->config);
    s->config.r = 2;
    lt_peft_must(lt_lora_config_set_targets(&s->config, targets, &err), &err);
}

void lt_peft_setup_deinit(struct lt_peft_setup *s)
{
    lt_free(s->values);
    lt_params_deinit(&s->params);
    lt_lora_config_deinit(&s->config);
    lt_peft_model_deinit(&s->model);
}
