/* trainer_state.json as transformers writes it. */
#include "core/train/trainer_internal.h"

#include <math.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

static const char STATE_NAME[] = "trainer_state.json";
enum { DEFAULT_INTERVAL = 500 }; /* TrainerState's value where there is none */

void lt_train_put(json_t *object, const char *key, json_t *v, bool *ok)
{
    if (json_object_set_new(object, key, v) != 0)
        *ok = false;
}

json_t *lt_train_number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static int64_t interval_or_default(int64_t steps)
{
    return steps > 0 ? steps : DEFAULT_INTERVAL;
}

/* stateful_callbacks: what the Trainer's control object looks like while a checkpoint is saved. */
static json_t *callbacks(const struct lt_train_state *s, bool *ok)
{
    json_t *all = json_object(), *control = json_object(), *args = json_object();

    lt_train_put(args, "should_epoch_stop", json_false(), ok);
    lt_train_put(args, "should_evaluate", json_false(), ok);
    lt_train_put(args, "should_log", json_false(), ok);
    lt_train_put(args, "should_save", json_true(), ok);
    lt_train_put(args, "should_training_stop", json_boolean(s->step >= s->max_steps), ok);
    lt_train_put(control, "args", args, ok);
    lt_train_put(control, "attributes", json_object(), ok);
    lt_train_put(all, "TrainerControl", control, ok);
    return all;
}

static json_t *state_object(const struct lt_train_state *s)
{
    bool ok = true;
    json_t *o = json_object();

    lt_train_put(o, "best_global_step", json_null(), &ok);
    lt_train_put(o, "best_metric", json_null(), &ok);
    lt_train_put(o, "best_model_checkpoint", json_null(), &ok);
    lt_train_put(o, "epoch", json_real(s->epoch), &ok);
    lt_train_put(o, "eval_steps", json_integer(interval_or_default(s->eval_steps)), &ok);
    lt_train_put(o, "global_step", json_integer(s->step), &ok);
    lt_train_put(o, "is_hyper_param_search", json_false(), &ok);
    lt_train_put(o, "is_local_process_zero", json_true(), &ok);
    lt_train_put(o, "is_world_process_zero", json_true(), &ok);
    lt_train_put(o, "log_history", json_deep_copy(s->history), &ok);
    lt_train_put(o, "logging_steps", json_integer(interval_or_default(s->logging_steps)), &ok);
    lt_train_put(o, "max_steps", json_integer(s->max_steps), &ok);
    lt_train_put(o, "num_input_tokens_seen", json_integer(0), &ok);
    lt_train_put(o, "num_train_epochs", json_integer(s->epochs), &ok);
    lt_train_put(o, "save_steps", json_integer(interval_or_default(s->save_steps)), &ok);
    lt_train_put(o, "stateful_callbacks", callbacks(s, &ok), &ok);
    lt_train_put(o, "total_flos", lt_train_number(s->total_flos), &ok);
    lt_train_put(o, "train_batch_size", json_integer(s->batch_size), &ok);
    lt_train_put(o, "trial_name", json_null(), &ok);
    lt_train_put(o, "trial_params", json_null(), &ok);
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

enum lt_status lt_train_state_save(const struct lt_train_state *s, const char *dir, struct lt_error *err)
{
    char *path = lt_path_join(dir, STATE_NAME);
    json_t *o = state_object(s);
    enum lt_status status;

    if (!path || !o)
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while writing %s", dir, STATE_NAME);
    else
        status = lt_json_save(o, path, 2, err);
    json_decref(o);
    lt_free(path);
    return status;
}

enum lt_status lt_train_state_history(json_t **history, const char *dir, struct lt_error *err)
{
    json_t *o = NULL;
    size_t index;
    json_t *row;

    *history = NULL;
    char *path = lt_path_join(dir, STATE_NAME);
    if (!path)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading %s", dir, STATE_NAME);
    enum lt_status status = lt_json_load(&o, path, err);
    json_t *rows = status == LT_OK ? json_object_get(o, "log_history") : NULL;
    if (status == LT_OK && !json_is_array(rows))
        status = lt_fail(err, LT_ERR_FORMAT, "%s: log_history must be an array, found %s", path,
                         lt_json_type_name(rows));
    json_array_foreach(rows, index, row) if (status == LT_OK && !json_is_object(row))
        status = lt_fail(err, LT_ERR_FORMAT, "%s: entry %zu of log_history must be an object, found %s", path,
                         index, lt_json_type_name(row));
    if (status == LT_OK)
        *history = json_incref(rows);
    json_decref(o);
    lt_free(path);
    return status;
}
