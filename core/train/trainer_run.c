/* The loop. */
#include "core/train/trainer_internal.h"

#include "core/base/checked.h"
#include "core/base/file.h"

struct lt_tokens lt_trainer_tokens(const struct lt_batch *b)
{
    return (struct lt_tokens){.n_tokens = b->n_tokens,
                              .n_labels = b->n_labels,
                              .ids = b->ids,
                              .positions = b->positions,
                              .kv_begin = b->kv_begin,
                              .kv_end = b->kv_end,
                              .row_key = b->row_key,
                              .label_rows = b->label_rows,
                              .labels = b->labels};
}

/* ---- one step ---- */

enum lt_status lt_trainer_get(struct lt_trainer *t, struct lt_batches *source, int64_t epoch, int64_t index,
                              struct lt_error *err)
{
    const struct lt_model *m = t->model;
    int32_t limit = m->rope_tables > 0 ? m->table_positions : m->max_positions;

    LT_TRY(lt_batches_get(source, epoch, index, &t->batch, err));
    for (int32_t i = 0; i < t->batch.n_tokens; i++)
        if (t->batch.positions[i] >= limit)
            return lt_fail(
                err, LT_ERR_INVALID,
                "a sequence of the data has a token at position %d; the model is set up for %d positions",
                (int)t->batch.positions[i], (int)limit);
    return LT_OK;
}

/* The micro-batches of one step. */
struct window {
    struct lt_trainer *trainer;
    int64_t epoch, begin;
    int64_t tokens; /* of those the engine has taken */
};

static enum lt_status next_tokens(void *user, int32_t index, struct lt_tokens *tokens, struct lt_error *err)
{
    struct window *w = user;
    struct lt_trainer *t = w->trainer;

    LT_TRY(lt_trainer_get(t, t->train, w->epoch, w->begin + index, err));
    *tokens = lt_trainer_tokens(&t->batch);
    w->tokens += t->batch.n_tokens;
    return LT_OK;
}

enum lt_status lt_trainer_window(struct lt_trainer *t, int64_t step, int64_t *targets, int64_t *tokens,
                                 struct lt_error *err)
{
    int64_t epoch = step / t->plan.steps_per_epoch, accumulation = t->config.accumulation;
    int64_t begin = step % t->plan.steps_per_epoch * accumulation;
    int64_t end = lt_min_i64(begin + accumulation, t->plan.batches_per_epoch);

    *targets = 0;
    for (int64_t i = begin; i < end; i++) {
        int32_t n;
        LT_TRY(lt_batches_targets(t->train, epoch, i, &n, err));
        *targets += n;
    }
    struct lt_step_params params = {.loss_scale = *targets > 0 ? (float)(1.0 / (double)*targets) : 0,
                                    .seed = t->config.seed,
                                    .step = (uint32_t)step};
    struct window w = {.trainer = t, .epoch = epoch, .begin = begin};
    const struct lt_micro_batches batches = {.count = (int32_t)(end - begin), .get = next_tokens, .user = &w};
    LT_TRY(lt_engine_train(t->engine, &batches, &params, err));
    *tokens = w.tokens;
    return LT_OK;
}

enum lt_status lt_trainer_loss(struct lt_trainer *t, int64_t targets, double *loss, struct lt_error *err)
{
    double sum;

    LT_TRY(lt_engine_loss(t->engine, &sum, err));
    *loss = targets > 0 ? sum / (double)targets : 0;
    return LT_OK;
}

/* Either the whole step happens, or parameters, moments and progress stay as they were.  The whole step is asked for
 * before its results are waited for. */
static enum lt_status run_step(struct lt_trainer *t, struct lt_train_metrics *m, struct lt_error *err)
{
    struct lt_train_progress *p = &t->progress;
    double loss, start = lt_clock_seconds();
    int64_t targets, tokens;

    m->learning_rate = lt_schedule_lr(&t->schedule, p->step);
    enum lt_status status = lt_trainer_window(t, p->step, &targets, &tokens, err);
    if (status == LT_OK)
        status = lt_optimizer_step(t->optimizer, lt_engine_params(t->engine), lt_engine_grads(t->engine),
                                   p->step + 1, m->learning_rate, err);
    lt_engine_params_changed(t->engine);
    enum lt_status zeroed = lt_engine_zero_grads(t->engine, status == LT_OK ? err : NULL);
    LT_TRY(status);
    LT_TRY(zeroed);
    LT_TRY(lt_trainer_loss(t, targets, &loss, err));
    LT_TRY(lt_optimizer_norm(t->optimizer, &m->grad_norm, err));
    p->step++;
    p->tokens += tokens;
    p->loss_total += loss;
    p->loss_since_log += loss;
    p->steps_since_log++;
    double seconds = lt_clock_seconds() - start;
    t->run_seconds += seconds;
    t->log_seconds += seconds;
    t->log_tokens += tokens;
    t->run_steps++;
    return LT_OK;
}

/* ---- after a step ---- */

static void measure(struct lt_trainer *t, struct lt_train_metrics *m)
{
    const struct lt_train_progress *p = &t->progress;
    struct lt_memory_stat memory;

    lt_memory_stat(&memory);
    m->step = p->step;
    m->max_steps = t->plan.max_steps;
    m->epoch = lt_train_epoch(&t->plan, t->config.accumulation, p->step);
    m->loss = p->loss_since_log / (double)p->steps_since_log;
    m->tokens = p->tokens;
    m->tokens_per_second = t->log_seconds > 0 ? (double)t->log_tokens / t->log_seconds : 0;
    m->eta_seconds = t->run_seconds / (double)t->run_steps * (double)(t->plan.max_steps - p->step);
    m->memory_bytes = lt_memory_counted(&memory);
    m->peak_memory_bytes = lt_memory_sampler_peak(t->sampler);
}

static enum lt_status report_step(struct lt_trainer *t, struct lt_train_metrics *m, struct lt_error *err)
{
    bool due = lt_train_log_due(&t->plan, &t->config, t->progress.step);

    if (due || t->events.step)
        measure(t, m);
    if (t->events.step)
        t->events.step(t->events.user, m);
    if (!due)
        return LT_OK;
    t->progress.loss_since_log = 0;
    t->progress.steps_since_log = 0;
    t->log_seconds = 0;
    t->log_tokens = 0;
    if (t->events.log)
        t->events.log(t->events.user, m);
    return lt_train_log_step(&t->log, m, err);
}

/* Evaluation and checkpoint that are due at the current step. */
static enum lt_status finish_step(struct lt_trainer *t, struct lt_error *err)
{
    if (t->progress.eval_due) {
        struct lt_eval_metrics m;
        LT_TRY(lt_trainer_evaluate(t, &m, err));
        t->progress.eval_due = false;
        if (t->events.eval)
            t->events.eval(t->events.user, &m);
        LT_TRY(lt_train_log_eval(&t->log, &m, err));
    }
    if (lt_train_save_due(&t->plan, &t->config, t->progress.step) && t->saved_step != t->progress.step)
        LT_TRY(lt_trainer_save_checkpoint(t, err));
    return LT_OK;
}

static enum lt_status train(struct lt_trainer *t, struct lt_error *err)
{
    if (t->progress.eval_due) /* the checkpoint resumed from was written when it was cancelled */
        LT_TRY(finish_step(t, err));
    while (t->progress.step < t->plan.max_steps) {
        struct lt_train_metrics m = {0};
        LT_TRY(run_step(t, &m, err));
        LT_TRY(report_step(t, &m, err));
        t->progress.eval_due = lt_train_eval_due(&t->plan, &t->config, t->progress.step);
        LT_TRY(finish_step(t, err));
    }
    return LT_OK;
}

/* ---- the run ---- */

struct lt_train_state lt_trainer_state(const struct lt_trainer *t)
{
    uint64_t computed = t->model->parameters; /* transformers leaves the embeddings out of its estimate */
    for (int i = 0; i < t->model->tensor_count; i++) {
        const struct lt_model_tensor *tensor = &t->model->tensors[i];
        uint64_t n = (uint64_t)tensor->rows * (uint64_t)tensor->cols;
        if (tensor->kind == LT_TENSOR_EMBEDDING && n <= computed)
            computed -= n;
    }
    return (struct lt_train_state){
        .step = t->progress.step,
        .max_steps = t->plan.max_steps,
        .epochs = lt_div_up(t->plan.max_steps, t->plan.steps_per_epoch),
        .logging_steps = t->plan.logging_steps,
        .eval_steps = t->plan.eval_steps,
        .save_steps = t->plan.save_steps,
        .batch_size = t->config.batch_size,
        .epoch = lt_train_epoch(&t->plan, t->config.accumulation, t->progress.step),
        .total_flos = 6.0 * (double)computed * (double)t->progress.tokens,
        .history = t->log.history};
}

static enum lt_status save_cancelled(struct lt_trainer *t, struct lt_error *err)
{
    long long step = t->progress.step;

    if (t->saved_step != t->progress.step)
        LT_TRY(lt_trainer_save_checkpoint(t, err));
    return lt_fail(err, LT_ERR_CANCELLED, "stopped after step %lld; %s/checkpoint-%lld continues from there",
                   step, t->config.output_dir, step);
}

enum lt_status lt_trainer_run(struct lt_trainer *t, struct lt_error *err)
{
    double start = lt_clock_seconds();

    if (!t->config.output_dir || !*t->config.output_dir)
        return lt_fail(err, LT_ERR_INVALID, "no output folder is given");
    LT_TRY(lt_train_log_open(&t->log, t->config.output_dir, t->resumed ? t->progress.step : -1,
                             t->progress.eval_due, err));
    enum lt_status status = train(t, err);
    if (status == LT_ERR_CANCELLED)
        return save_cancelled(t, err);
    LT_TRY(status);
    return lt_trainer_write_output(t, lt_clock_seconds() - start, err);
}
