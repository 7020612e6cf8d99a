#include "tests/support/train_run.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "backends/registry.h"
#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "models/model_load.h"
#include "tests/support/fixtures.h"

enum { MAX_PATHS = 512 };

/* The one copy of a path. */
static const char *keep(const char *path)
{
    static char *paths[MAX_PATHS];
    size_t i = 0;

    while (i < MAX_PATHS - 1 && paths[i] && strcmp(paths[i], path) != 0)
        i++;
    if (!paths[i])
        paths[i] = strdup(path); /* not among the allocations that tests make fail */
    assert_non_null(paths[i]);
    assert_string_equal(paths[i], path);
    return paths[i];
}

const char *train_fixture(const char *relative)
{
    char path[4096];
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    return keep(path);
}

const char *train_temp(const char *name)
{
    char path[4096];
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    return keep(path);
}

void train_ok(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s: %s", lt_status_name(status), err->message);
}

struct lt_trainer_config train_recipe(int64_t max_steps, int32_t accumulation, const char *output_dir)
{
    return (struct lt_trainer_config){.max_steps = max_steps,
                                      .accumulation = accumulation,
                                      .batch_size = 4,
                                      .seed = 42,
                                      .optimizer = {.beta1 = 0.9,
                                                    .beta2 = 0.999,
                                                    .epsilon = 1e-8,
                                                    .weight_decay = 0.01,
                                                    .max_grad_norm = 1},
                                      .learning_rate = 1e-3,
                                      .schedule = {.kind = LT_SCHEDULE_COSINE},
                                      .warmup_steps = 5,
                                      .logging_strategy = LT_INTERVAL_STEPS,
                                      .logging_steps = 1,
                                      .recompute = LT_RECOMPUTE_SELECTIVE,
                                      .output_dir = output_dir};
}

static void open_batches(struct lt_batches **bs, const char *path, int32_t vocab, int32_t batch_size,
                         int32_t accumulation)
{
    struct lt_error err = {0};
    const struct lt_batches_options opt = {.batch_size = batch_size, .accumulation = accumulation};
    train_ok(lt_batches_from_pretokenized(bs, path, vocab, &opt, &err), &err);
}

/* What is trained. */
static void open_params(struct train_run *r, const struct train_setup *s)
{
    struct lt_error err = {0};

    lt_lora_config_init(&r->lora);
    if (!s->adapter) {
        train_ok(lt_params_full(&r->params, r->model, &err), &err);
        return;
    }
    train_ok(lt_lora_config_load(&r->lora, train_fixture(s->adapter), &err), &err);
    r->lora.dropout = s->dropout;
    train_ok(lt_params_lora(&r->params, r->model, &r->lora, &err), &err);
    train_ok(lt_lora_config_expand(&r->lora, r->model, &err), &err);
}

void train_run_open(struct train_run *r, const struct train_setup *s)
{
    struct lt_error err = {0};
    const char *model_dir = train_fixture(s->model);
    struct lt_backend_request request = {.device = lt_test_device(),
                                         .threads = s->threads > 0 ? s->threads : 1,
                                         .isa = s->isa ? s->isa : getenv("LT_CPU"),
                                         .gemm = getenv("LT_GEMM")};
    const struct lt_load_options load = {.residency = s->residency, .threads = 1};
    struct lt_trainer_config config = s->config;

    memset(r, 0, sizeof *r);
    train_ok(lt_checkpoint_open(&r->checkpoint, model_dir, &err), &err);
    train_ok(lt_model_open(&r->model, &r->checkpoint, model_dir, &err), &err);
    r->model->compute_dtype = s->compute;
    open_params(r, s);
    open_batches(&r->train, s->train, r->model->vocab, s->batch_size, config.accumulation);
    if (s->eval)
        open_batches(&r->eval, s->eval, r->model->vocab, s->eval_batch_size, 1);
    if (s->device_layers > 0) {
        train_ok(lt_backend_create(&r->device, &request, &err), &err);
        request.device = "cpu";
    }
    train_ok(lt_backend_create(&r->backend, &request, &err), &err);
    config.device = r->device;
    config.device_layers = s->device_layers;
    train_ok(lt_model_stream(r->model, &r->checkpoint, &load, &err), &err);
    config.lora = s->adapter ? &r->lora : NULL;
    config.full_source = s->adapter ? NULL : r->checkpoint.dir;
    train_ok(lt_trainer_create(&r->trainer, &config, r->model, &r->params, r->backend, r->train, r->eval,
                               &s->events, &err),
             &err);
    train_ok(lt_model_load(r->model, &r->checkpoint, &load, NULL, NULL, &err), &err);
}

void train_run_start(struct train_run *r, const struct train_setup *s)
{
    struct lt_error err = {0};

    r->values = lt_alloc_zero(r->params.elements, sizeof *r->values);
    assert_non_null(r->values);
    if (s->adapter)
        train_ok(lt_adapter_load(&r->params, train_fixture(s->adapter), r->values, &err), &err);
    else
        train_ok(lt_params_init(&r->params, r->model, NULL, s->config.seed, r->values, &err), &err);
    train_ok(lt_trainer_start(r->trainer, r->values, &err), &err);
}

void train_run_close(struct train_run *r)
{
    lt_trainer_destroy(r->trainer);
    lt_batches_destroy(r->train);
    lt_batches_destroy(r->eval);
    lt_params_deinit(&r->params);
    lt_lora_config_deinit(&r->lora);
    lt_model_destroy(r->model);
    lt_checkpoint_close(&r->checkpoint);
    lt_backend_destroy(r->backend);
    lt_backend_destroy(r->device);
    lt_free(r->values);
    memset(r, 0, sizeof *r);
}

void train_assert_same_file(const char *dir_a, const char *dir_b, const char *name)
{
    struct lt_error err = {0};
    char *path_a = lt_path_join(dir_a, name), *path_b = lt_path_join(dir_b, name), *a, *b;
    size_t size_a, size_b;

    train_ok(lt_file_read(path_a, 1 << 26, &a, &size_a, &err), &err);
    train_ok(lt_file_read(path_b, 1 << 26, &b, &size_b, &err), &err);
    if (size_a != size_b || memcmp(a, b, size_a) != 0)
        fail_msg("%s and %s differ", path_a, path_b);
    lt_free(a);
    lt_free(b);
    lt_free(path_a);
    lt_free(path_b);
}

static double tensor_difference(const struct lt_safetensors *a, const struct lt_safetensors *b, size_t index)
{
    struct lt_error err = {0};
    const struct lt_st_tensor *x = &a->tensors[index], *y = lt_safetensors_find(b, x->name);
    double largest = 0;

    if (!y)
        fail_msg("%s has no tensor %s", b->map.path, x->name);
    assert_int_equal(x->elements, y->elements);
    float *u = lt_alloc_array((size_t)x->elements, sizeof *u),
          *v = lt_alloc_array((size_t)x->elements, sizeof *v);
    assert_true(u && v);
    train_ok(lt_safetensors_read_f32(a, x, u, &err), &err);
    train_ok(lt_safetensors_read_f32(b, y, v, &err), &err);
    for (uint64_t i = 0; i < x->elements; i++) {
        double d = fabs((double)u[i] - (double)v[i]);
        largest = d <= largest ? largest : d; /* NaN is large */
    }
    lt_free(u);
    lt_free(v);
    return largest;
}

double train_file_difference(const char *path_a, const char *path_b)
{
    struct lt_error err = {0};
    struct lt_safetensors a, b;
    double largest = 0;

    train_ok(lt_safetensors_open(&a, path_a, &err), &err);
    train_ok(lt_safetensors_open(&b, path_b, &err), &err);
    assert_int_equal(a.count, b.count);
    for (size_t i = 0; i < a.count; i++) {
        double d = tensor_difference(&a, &b, i);
        largest = d <= largest ? largest : d;
    }
    lt_safetensors_close(&a);
    lt_safetensors_close(&b);
    return largest;
}
