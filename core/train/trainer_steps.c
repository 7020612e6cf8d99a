#include "core/train/trainer_internal.h"

#include <math.h>

#include "core/base/checked.h"

/* Python's ceil(max_steps * share), both as doubles. */
static int64_t share_of(int64_t steps, double share)
{
    return (int64_t)ceil((double)steps * share);
}

static enum lt_status resolve_interval(int64_t *steps, const char *option, double value, int64_t max_steps,
                                       struct lt_error *err)
{
    if (!(value > 0) || value > (double)INT32_MAX || (value >= 1 && value != floor(value)))
        return lt_fail(
            err, LT_ERR_INVALID,
            "%s is %g; it must be a whole number of steps, or a share of all steps between 0 and 1", option,
            value);
    *steps = value < 1 ? share_of(max_steps, value) : (int64_t)value;
    return LT_OK;
}

static enum lt_status resolve_intervals(struct lt_train_plan *p, const struct lt_trainer_config *c,
                                        struct lt_error *err)
{
    bool eval_as_logging = c->eval_steps == 0;

    p->logging_steps = p->eval_steps = p->save_steps = 0;
    if (c->logging_strategy == LT_INTERVAL_STEPS)
        LT_TRY(resolve_interval(&p->logging_steps, "logging_steps", c->logging_steps, p->max_steps, err));
    if (c->eval_strategy == LT_INTERVAL_STEPS)
        LT_TRY(resolve_interval(&p->eval_steps, eval_as_logging ? "logging_steps" : "eval_steps",
                                eval_as_logging ? c->logging_steps : c->eval_steps, p->max_steps, err));
    if (c->save_strategy == LT_INTERVAL_STEPS)
        LT_TRY(resolve_interval(&p->save_steps, "save_steps", c->save_steps, p->max_steps, err));
    return LT_OK;
}

static enum lt_status resolve_max_steps(struct lt_train_plan *p, const struct lt_trainer_config *c,
                                        struct lt_error *err)
{
    double steps = (double)c->max_steps;

    if (c->max_steps <= 0) {
        if (!(c->num_train_epochs > 0) || !isfinite(c->num_train_epochs))
            return lt_fail(err, LT_ERR_INVALID,
                           "num_train_epochs is %g; it must be above 0, or max_steps given",
                           c->num_train_epochs);
        steps = ceil(c->num_train_epochs * (double)p->steps_per_epoch);
    }
    if (steps > (double)INT32_MAX) /* the step is a 32-bit word of the random numbers' counter */
        return lt_fail(err, LT_ERR_INVALID, "the run would take %.0f steps; at most %d are possible", steps,
                       INT32_MAX);
    p->max_steps = (int64_t)steps;
    return LT_OK;
}

static enum lt_status resolve_warmup(struct lt_train_plan *p, const struct lt_trainer_config *c,
                                     struct lt_error *err)
{
    if (!(c->warmup_steps >= 0) || c->warmup_steps > (double)INT32_MAX)
        return lt_fail(err, LT_ERR_INVALID, "warmup_steps is %g; it must be at least 0", c->warmup_steps);
    if (!(c->warmup_ratio >= 0 && c->warmup_ratio <= 1))
        return lt_fail(err, LT_ERR_INVALID, "warmup_ratio is %g; it must lie between 0 and 1",
                       c->warmup_ratio);
    if (c->warmup_steps >= 1)
        p->warmup_steps = (int64_t)c->warmup_steps;
    else
        p->warmup_steps = share_of(p->max_steps, c->warmup_steps > 0 ? c->warmup_steps : c->warmup_ratio);
    return LT_OK;
}

enum lt_status lt_train_plan_steps(struct lt_train_plan *p, const struct lt_trainer_config *c,
                                   int64_t batches_per_epoch, struct lt_error *err)
{
    if (c->accumulation < 1)
        return lt_fail(err, LT_ERR_INVALID, "gradient_accumulation_steps is %d; it must be at least 1",
                       (int)c->accumulation);
    if (c->save_total_limit < 0)
        return lt_fail(err, LT_ERR_INVALID, "save_total_limit is %d; it must be at least 1, or 0 to keep all",
                       (int)c->save_total_limit);
    p->batches_per_epoch = batches_per_epoch;
    p->steps_per_epoch = lt_max_i64(1, lt_div_up(batches_per_epoch, c->accumulation));
    LT_TRY(resolve_max_steps(p, c, err));
    LT_TRY(resolve_warmup(p, c, err));
    return resolve_intervals(p, c, err);
}

double lt_train_epoch(const struct lt_train_plan *p, int32_t accumulation, int64_t step)
{
    int64_t epoch = step / p->steps_per_epoch, window = step % p->steps_per_epoch;
    int64_t done = lt_min_i64(window * accumulation, p->batches_per_epoch);
    return (double)epoch + (double)done / (double)p->batches_per_epoch;
}

/* An epoch also ends where the training does. */
static bool is_due(const struct lt_train_plan *p, enum lt_interval strategy, int64_t every, int64_t step)
{
    switch (strategy) {
    case LT_INTERVAL_NO:
        return false;
    case LT_INTERVAL_STEPS:
        return step % every == 0;
    case LT_INTERVAL_EPOCH:
        return step % p->steps_per_epoch == 0 || step == p->max_steps;
    }
    return false;
}

bool lt_train_log_due(const struct lt_train_plan *p, const struct lt_trainer_config *c, int64_t step)
{
    return (step == 1 && c->logging_first_step) || is_due(p, c->logging_strategy, p->logging_steps, step);
}

bool lt_train_eval_due(const struct lt_train_plan *p, const struct lt_trainer_config *c, int64_t step)
{
    return is_due(p, c->eval_strategy, p->eval_steps, step);
}

bool lt_train_save_due(const struct lt_train_plan *p, const struct lt_trainer_config *c, int64_t step)
{
    return is_due(p, c->save_strategy, p->save_steps, step) ||
           (c->save_strategy == LT_INTERVAL_STEPS && step == p->max_steps);
}
