#include "core/train/trainer.h"

#include <assert.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/train/trainer_internal.h"

/* ---- creation ---- */

static enum lt_status check_config(const struct lt_trainer *t, struct lt_error *err)
{
    const struct lt_trainer_config *c = &t->config;

    assert((c->lora != NULL) != (c->full_source != NULL));
    if (t->params->count == 0)
        return lt_fail(err, LT_ERR_INVALID, "nothing in the model is trained");
    if (c->eval_strategy != LT_INTERVAL_NO && !t->eval)
        return lt_fail(err, LT_ERR_INVALID, "evaluation is asked for, but there is no evaluation data");
    return LT_OK;
}

static enum lt_status plan_schedule(struct lt_trainer *t, struct lt_error *err)
{
    t->schedule = t->config.schedule;
    t->schedule.base_lr = t->config.learning_rate;
    t->schedule.warmup_steps = t->plan.warmup_steps;
    t->schedule.total_steps = t->plan.max_steps;
    return lt_schedule_check(&t->schedule, err);
}

static enum lt_status plan_capacity(struct lt_trainer *t, struct lt_error *err)
{
    int64_t epochs = lt_div_up(t->plan.max_steps, t->plan.steps_per_epoch);
    int32_t tokens, labels, eval_tokens = 0, eval_labels = 0;

    LT_TRY(lt_batches_capacity(t->train, epochs, &tokens, &labels, err));
    if (labels == 0)
        return lt_fail(err, LT_ERR_INVALID, "no token of the training data is a target; check its masking");
    if (t->eval)
        LT_TRY(lt_batches_capacity(t->eval, 1, &eval_tokens, &eval_labels, err));
    t->engine_options = (struct lt_engine_options){
        .capacity = {.tokens = lt_max_i64(tokens, eval_tokens), .labels = lt_max_i64(labels, eval_labels)},
        .train = true,
        .eval = t->eval != NULL,
        .recompute = t->config.recompute,
        .micro_batches = t->config.layer_major
                             ? (int32_t)lt_min_i64(t->config.accumulation, t->plan.batches_per_epoch)
                             : 1,
        .boundary_dir = t->config.boundaries_in_file ? t->config.output_dir : NULL,
        .param_elements = t->params->elements,
        .device = t->config.device,
        .device_layers = t->config.device_layers};
    return LT_OK;
}

/* As with transformers, embeddings keep f32 state beside an 8-bit optimizer. */
static enum lt_status create_optimizer(struct lt_trainer *t, struct lt_error *err)
{
    const struct lt_params *p = t->params;
    struct lt_optimizer_param *list = lt_alloc_array(p->count, sizeof *list);

    if (!list)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the optimizer");
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        list[i] = (struct lt_optimizer_param){.offset = item->offset,
                                              .elements = item->elements,
                                              .decay = item->decay,
                                              .f32_state = t->model->tensors[item->tensor].kind ==
                                                           LT_TENSOR_EMBEDDING};
    }
    enum lt_status status =
        lt_optimizer_create(&t->optimizer, t->be, &t->config.optimizer, list, p->count, p->elements, err);
    lt_free(list);
    return status;
}

static enum lt_status set_up(struct lt_trainer *t, struct lt_error *err)
{
    LT_TRY(check_config(t, err));
    LT_TRY(lt_train_plan_steps(&t->plan, &t->config, lt_batches_per_epoch(t->train), err));
    LT_TRY(plan_schedule(t, err));
    LT_TRY(plan_capacity(t, err));
    LT_TRY(lt_train_log_init(&t->log, err));
    LT_TRY(lt_engine_create(&t->engine, t->model, t->be, &t->engine_options, err));
    LT_TRY(create_optimizer(t, err));
    return lt_memory_sampler_create(&t->sampler, 0.02, err);
}

enum lt_status lt_trainer_create(struct lt_trainer **out, const struct lt_trainer_config *config,
                                 struct lt_model *model, const struct lt_params *params,
                                 struct lt_backend *be, struct lt_batches *train, struct lt_batches *eval,
                                 const struct lt_trainer_events *events, struct lt_error *err)
{
    *out = NULL;
    struct lt_trainer *t = lt_alloc_zero(1, sizeof *t);
    if (!t)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the trainer");
    t->config = *config;
    t->model = model;
    t->params = params;
    t->be = be;
    t->train = train;
    t->eval = eval;
    t->saved_step = -1;
    if (events)
        t->events = *events;
    enum lt_status status = set_up(t, err);
    if (status != LT_OK) {
        lt_trainer_destroy(t);
        return status;
    }
    *out = t;
    return LT_OK;
}

void lt_trainer_destroy(struct lt_trainer *t)
{
    if (!t)
        return;
    lt_memory_sampler_destroy(t->sampler);
    lt_train_log_deinit(&t->log);
    lt_optimizer_destroy(t->optimizer);
    lt_engine_destroy(t->engine);
    lt_batch_deinit(&t->batch);
    lt_free(t->eval_losses);
    lt_free(t->eval_argmax);
    lt_free(t);
}

int64_t lt_trainer_max_steps(const struct lt_trainer *t)
{
    return t->plan.max_steps;
}

int64_t lt_trainer_step(const struct lt_trainer *t)
{
    return t->progress.step;
}

/* ---- start ---- */

static enum lt_status allocate(struct lt_trainer *t, struct lt_error *err)
{
    const struct lt_capacity *cap = &t->engine_options.capacity;

    assert(!t->started);
    LT_TRY(lt_batch_init(&t->batch, (int32_t)cap->tokens, (int32_t)cap->labels, err));
    if (t->eval) {
        t->eval_losses = lt_alloc_array((size_t)cap->labels, sizeof *t->eval_losses);
        t->eval_argmax = lt_alloc_array((size_t)cap->labels, sizeof *t->eval_argmax);
        if (!t->eval_losses || !t->eval_argmax)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory for the evaluation");
    }
    LT_TRY(lt_engine_allocate(t->engine, err));
    LT_TRY(lt_optimizer_allocate(t->optimizer, t->config.output_dir, err));
    /* The gradients are zeros already.  Writing zeros would bring them into memory beside the caller's values. */
    t->started = true;
    return LT_OK;
}

enum lt_status lt_trainer_start(struct lt_trainer *t, const float *values, struct lt_error *err)
{
    LT_TRY(allocate(t, err));
    return lt_engine_write_params(t->engine, 0, values, t->params->elements, err);
}

enum lt_status lt_trainer_resume(struct lt_trainer *t, const char *checkpoint_dir, struct lt_error *err)
{
    LT_TRY(allocate(t, err));
    LT_TRY(lt_trainer_load_checkpoint(t, checkpoint_dir, err));
    t->resumed = true;
    return LT_OK;
}
