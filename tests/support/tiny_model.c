#include "tests/support/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/registry.h"
#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "tests/support/fixtures.h"

static void must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

static void fixture(char *path, size_t size, const char *relative)
{
    if (relative[0] == '/')
        lt_snprintf(path, size, "%s", relative);
    else if (!lt_fixture_path(path, size, relative))
        lt_test_skip_missing(relative);
}

static void choose_params(struct tiny_model *t, const struct tiny_options *o)
{
    struct lt_error err;
    char path[4096];
    if (o->full) {
        must(lt_params_full(&t->params, t->model, &err), &err);
    } else if (o->adapter) {
        fixture(path, sizeof path, o->adapter);
        must(lt_lora_config_load(&t->lora, path, &err), &err);
        if (o->dropout > 0)
            t->lora.dropout = (double)o->dropout;
        must(lt_params_lora(&t->params, t->model, &t->lora, &err), &err);
    }
}

void tiny_open(struct tiny_model *t, const struct tiny_options *o)
{
    struct lt_error err;
    char path[4096];
    memset(t, 0, sizeof *t);
    fixture(path, sizeof path, o->model);
    struct lt_backend_request req = {
        .device = lt_test_device(), .threads = o->threads ? o->threads : 2, .isa = o->isa, .gemm = o->gemm};
    if (!req.isa)
        req.isa = getenv("LT_CPU");
    if (!req.gemm)
        req.gemm = getenv("LT_GEMM");
    if (!o->backend)
        must(lt_backend_create(&t->own_be, &req, &err), &err);
    t->be = o->backend ? o->backend : t->own_be;
    must(lt_checkpoint_open(&t->ck, path, &err), &err);
    must(lt_model_open(&t->model, &t->ck, path, &err), &err);
    t->model->table_positions = t->model->table_positions < 64 ? t->model->table_positions : 64;
    t->model->compute_dtype = o->bf16 ? LT_BF16 : LT_F32;
    choose_params(t, o);
    struct lt_load_options load = {
        .quant = o->quant, .double_quant = true, .residency = o->residency, .threads = 2};
    must(lt_model_stream(t->model, &t->ck, &load, &err), &err);
    must(lt_model_load(t->model, &t->ck, &load, NULL, NULL, &err), &err);
    struct lt_engine_options opt = {.capacity = {.tokens = o->tokens, .labels = o->labels, .cache_rows = 1},
                                    .train = true,
                                    .eval = true,
                                    .logits = true,
                                    .recompute = o->recompute,
                                    .micro_batches = o->micro_batches,
                                    .boundary_dir = o->boundary_dir,
                                    .loss_chunk = o->loss_chunk,
                                    .param_elements = t->params.elements,
                                    .device = o->device,
                                    .device_layers = o->device_layers};
    must(lt_engine_create(&t->engine, t->model, t->be, &opt, &err), &err);
    must(lt_engine_allocate(t->engine, &err), &err);
    if (t->params.elements == 0)
        return;
    t->values = calloc(t->params.elements, sizeof *t->values);
    assert_non_null(t->values);
    must(lt_params_init(&t->params, t->model, o->adapter ? &t->lora : NULL, 1, t->values, &err), &err);
    if (o->adapter) {
        fixture(path, sizeof path, o->adapter);
        must(lt_adapter_load(&t->params, path, t->values, &err), &err);
    }
    must(lt_engine_write_params(t->engine, 0, t->values, t->params.elements, &err), &err);
}

void tiny_close(struct tiny_model *t)
{
    free(t->values);
    lt_engine_destroy(t->engine);
    lt_params_deinit(&t->params);
    lt_lora_config_deinit(&t->lora);
    lt_model_destroy(t->model);
    lt_checkpoint_close(&t->ck);
    lt_backend_destroy(t->own_be);
    memset(t, 0, sizeof *t);
}

static enum lt_status next_tokens(void *user, int32_t index, struct lt_tokens *tokens, struct lt_error *err)
{
    const struct lt_tokens *batches = user;
    (void)err;
    *tokens = batches[index];
    return LT_OK;
}

double tiny_train(struct tiny_model *t, const struct lt_tokens *batches, int32_t count)
{
    struct lt_error err;
    int32_t labels = 0;
    double sum = 0;
    for (int32_t i = 0; i < count; i++)
        labels += batches[i].n_labels;
    const struct lt_step_params p = {.loss_scale = 1.0f / (float)labels, .seed = 1};
    const struct lt_micro_batches step = {
        .count = count, .get = next_tokens, .user = (void *)(uintptr_t)batches};
    must(lt_engine_train(t->engine, &step, &p, &err), &err);
    must(lt_engine_loss(t->engine, &sum, &err), &err);
    return sum;
}

static int64_t *read_i64(const struct lt_safetensors *st, const char *prefix, const char *name,
                         int64_t shape[2])
{
    char full[256];
    strcpy(full, prefix);
    strcat(full, name);
    const struct lt_st_tensor *x = lt_safetensors_find(st, full);
    assert_non_null(x);
    assert_int_equal(x->dtype, LT_I64);
    assert_int_equal(x->ndim, 2);
    int64_t *v = malloc(x->bytes);
    assert_non_null(v);
    memcpy(v, lt_safetensors_data(st, x), x->bytes);
    memcpy(shape, x->shape, 2 * sizeof *shape);
    return v;
}

static int32_t *ints(size_t n)
{
    int32_t *v = calloc(n, sizeof *v);
    assert_non_null(v);
    return v;
}

static void flatten(struct tiny_batch *b, const int64_t *ids, const int64_t *mask, const int64_t *labels)
{
    int32_t n = 0, n_labels = 0;
    for (int32_t r = 0; r < b->rows; r++) {
        int32_t begin = n;
        for (int32_t c = 0; c < b->columns; c++) {
            size_t at = (size_t)r * (size_t)b->columns + (size_t)c;
            if (!mask[at])
                continue;
            b->ids[n] = (int32_t)ids[at];
            b->positions[n] = c;
            b->kv_begin[n] = begin;
            b->kv_end[n] = n + 1;
            b->row_key[n] = (uint32_t)at;
            b->all_rows[n] = n;
            b->source[n] = (int32_t)at;
            if (c + 1 < b->columns && mask[at + 1] && labels[at + 1] != -100) {
                b->label_rows[n_labels] = n;
                b->labels[n_labels++] = (int32_t)labels[at + 1];
            }
            n++;
        }
    }
    b->tokens = (struct lt_tokens){.n_tokens = n,
                                   .n_labels = n_labels,
                                   .ids = b->ids,
                                   .positions = b->positions,
                                   .kv_begin = b->kv_begin,
                                   .kv_end = b->kv_end,
                                   .row_key = b->row_key,
                                   .label_rows = b->label_rows,
                                   .labels = b->labels};
}

void tiny_batch_load(struct tiny_batch *b, const char *relative, const char *prefix)
{
    struct lt_safetensors st = {0};
    struct lt_error err;
    char path[4096];
    int64_t shape[2];
    memset(b, 0, sizeof *b);
    fixture(path, sizeof path, relative);
    must(lt_safetensors_open(&st, path, &err), &err);
    int64_t *ids = read_i64(&st, prefix, "input_ids", shape);
    int64_t *mask = read_i64(&st, prefix, "attention_mask", shape);
    int64_t *labels = read_i64(&st, prefix, "labels", shape);
    b->rows = (int32_t)shape[0];
    b->columns = (int32_t)shape[1];
    size_t n = (size_t)(shape[0] * shape[1]);
    int32_t **arrays[] = {&b->ids,        &b->positions, &b->kv_begin, &b->kv_end,
                          &b->label_rows, &b->labels,    &b->all_rows, &b->source};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        *arrays[i] = ints(n);
    b->row_key = calloc(n, sizeof *b->row_key);
    assert_non_null(b->row_key);
    flatten(b, ids, mask, labels);
    free(ids);
    free(mask);
    free(labels);
    lt_safetensors_close(&st);
}

void tiny_batch_free(struct tiny_batch *b)
{
    int32_t *arrays[] = {b->ids,        b->positions, b->kv_begin, b->kv_end,
                         b->label_rows, b->labels,    b->all_rows, b->source};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    free(b->row_key);
    memset(b, 0, sizeof *b);
}

float *tiny_tensor(const char *relative, const char *name, size_t *elements)
{
    struct lt_safetensors st = {0};
    struct lt_error err;
    char path[4096];
    fixture(path, sizeof path, relative);
    must(lt_safetensors_open(&st, path, &err), &err);
    const struct lt_st_tensor *x = lt_safetensors_find(&st, name);
    if (!x)
        fail_msg("%s has no tensor %s", relative, name);
    float *v = malloc(x->elements * sizeof *v);
    assert_non_null(v);
    must(lt_safetensors_read_f32(&st, x, v, &err), &err);
    *elements = x->elements;
    lt_safetensors_close(&st);
    return v;
}
