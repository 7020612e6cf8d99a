/* checkpoint-N folders: writing, reading back, rotation. */
#include "core/train/trainer_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

enum { FORMAT_VERSION = 1 };

static const char STATE_NAME[] = "lora_train_state.json";
static const char FOLDER_PREFIX[] = "checkpoint-";

/* ---- names ---- */

int64_t lt_train_checkpoint_step(const char *name)
{
    long long step;

    if (strncmp(name, FOLDER_PREFIX, sizeof FOLDER_PREFIX - 1) != 0)
        return -1;
    const char *digits = name + sizeof FOLDER_PREFIX - 1;
    if (strspn(digits, "0123456789") != strlen(digits) || !lt_parse_i64(digits, &step))
        return -1;
    return step;
}

static char *checkpoint_path(const char *output_dir, const char *prefix, int64_t step)
{
    char name[64];
    lt_snprintf(name, sizeof name, "%s%lld", prefix, (long long)step);
    return lt_path_join(output_dir, name);
}

enum lt_status lt_trainer_last_checkpoint(const char *output_dir, char **path, struct lt_error *err)
{
    char **names;
    size_t count;
    int64_t last = -1;

    *path = NULL;
    if (lt_file_kind(output_dir) != LT_FILE_DIRECTORY)
        return lt_fail(err, LT_ERR_NOT_FOUND, "there is no folder %s to resume from", output_dir);
    LT_TRY(lt_dir_list(output_dir, &names, &count, err));
    for (size_t i = 0; i < count; i++)
        if (lt_train_checkpoint_step(names[i]) > last)
            last = lt_train_checkpoint_step(names[i]);
    lt_dir_list_free(names, count);
    if (last < 0)
        return lt_fail(err, LT_ERR_NOT_FOUND, "%s holds no checkpoint-<step> folder to resume from",
                       output_dir);
    *path = checkpoint_path(output_dir, FOLDER_PREFIX, last);
    return *path ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "%s: out of memory", output_dir);
}

/* The lowest step in the folder besides `newest`, or -1; *count: how many checkpoints there are. */
static enum lt_status find_oldest(const char *output_dir, int64_t newest, int64_t *oldest, int32_t *count,
                                  struct lt_error *err)
{
    char **names;
    size_t n;

    *oldest = -1;
    *count = 0;
    LT_TRY(lt_dir_list(output_dir, &names, &n, err));
    for (size_t i = 0; i < n; i++) {
        int64_t step = lt_train_checkpoint_step(names[i]);
        if (step < 0)
            continue;
        ++*count;
        if (step != newest && (*oldest < 0 || step < *oldest))
            *oldest = step;
    }
    lt_dir_list_free(names, n);
    return LT_OK;
}

enum lt_status lt_train_rotate(const char *output_dir, int32_t limit, int64_t newest, struct lt_error *err)
{
    int64_t oldest;
    int32_t count;

    if (limit < 1)
        return LT_OK;
    LT_TRY(find_oldest(output_dir, newest, &oldest, &count, err));
    while (count > limit && oldest >= 0) {
        char *path = checkpoint_path(output_dir, FOLDER_PREFIX, oldest);
        if (!path)
            return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while removing old checkpoints", output_dir);
        enum lt_status status = lt_dir_remove_tree(path, err);
        lt_free(path);
        LT_TRY(status);
        LT_TRY(find_oldest(output_dir, newest, &oldest, &count, err));
    }
    return LT_OK;
}

/* ---- parameters ---- */

static enum lt_status read_tensor(const struct lt_safetensors *st, const struct lt_param *param, float *dst,
                                  struct lt_error *err)
{
    const struct lt_st_tensor *tensor;

    LT_TRY(lt_train_find_tensor(st, param->name, LT_F32, param->shape, param->ndim, &tensor, err));
    return lt_safetensors_read_f32(st, tensor, dst, err);
}

static enum lt_status read_full_model(const struct lt_trainer *t, const char *dir, float *values,
                                      struct lt_error *err)
{
    struct lt_safetensors st = {0};

    enum lt_status status = lt_train_open_tensors(&st, dir, "model.safetensors", err);
    for (size_t i = 0; i < t->params->count && status == LT_OK; i++) {
        const struct lt_param *param = &t->params->items[i];
        status = read_tensor(&st, param, values + param->offset, err);
    }
    lt_safetensors_close(&st);
    return status;
}

static enum lt_status load_params(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    struct lt_flat_view view;

    LT_TRY(lt_trainer_view_params(t, false, &view, err));
    memset(view.values, 0, t->params->elements * sizeof(float));
    enum lt_status status = t->config.lora ? lt_adapter_load(t->params, dir, view.values, err)
                                           : read_full_model(t, dir, view.values, err);
    lt_engine_params_changed(t->engine); /* where the view is its own memory */
    if (status == LT_OK && view.bytes > 0)
        status = lt_engine_write_params(t->engine, 0, view.values, t->params->elements, err);
    lt_trainer_view_release(&view);
    return status;
}

/* ---- lora_train_state.json ---- */

static enum lt_status write_progress(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    const struct lt_train_progress *p = &t->progress;
    json_t *identity;
    bool ok = true;

    LT_TRY(lt_trainer_identity(t, &identity, err));
    json_t *o = json_object();
    lt_train_put(o, "format_version", json_integer(FORMAT_VERSION), &ok);
    lt_train_put(o, "step", json_integer(p->step), &ok);
    lt_train_put(o, "tokens", json_integer(p->tokens), &ok);
    lt_train_put(o, "loss_total", json_real(p->loss_total), &ok);
    lt_train_put(o, "loss_since_log", json_real(p->loss_since_log), &ok);
    lt_train_put(o, "steps_since_log", json_integer(p->steps_since_log), &ok);
    lt_train_put(o, "evaluation_due", json_boolean(p->eval_due), &ok);
    lt_train_put(o, "backend", json_string(t->be->description), &ok);
    lt_train_put(o, "command_line",
                 t->config.command_line ? json_string(t->config.command_line) : json_null(), &ok);
    lt_train_put(o, "identity", identity, &ok);
    char *path = lt_path_join(dir, STATE_NAME);
    enum lt_status status =
        ok && path ? lt_json_save(o, path, 2, err)
                   : lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while writing %s", dir, STATE_NAME);
    lt_free(path);
    json_decref(o);
    return status;
}

static enum lt_status check_backend(const struct lt_trainer *t, const json_t *o, const char *where,
                                    struct lt_error *err)
{
    const char *backend = NULL;

    LT_TRY(lt_json_get_string(o, "backend", &backend, where, err));
    if (backend && strcmp(backend, t->be->description) != 0)
        lt_log(
            LT_LOG_WARNING,
            "the checkpoint was written on \"%s\"; here it is \"%s\": the run goes on, but its bits may differ",
            backend, t->be->description);
    return LT_OK;
}

static enum lt_status parse_progress(struct lt_trainer *t, const json_t *o, const char *where,
                                     struct lt_error *err)
{
    struct lt_train_progress p = {.step = -1};
    int64_t version = 0;
    json_t *mine;

    LT_TRY(lt_json_get_i64(o, "format_version", &version, where, err));
    if (version != FORMAT_VERSION)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: has format_version %lld; this program reads %d", where,
                       (long long)version, (int)FORMAT_VERSION);
    LT_TRY(lt_trainer_identity(t, &mine, err));
    enum lt_status status = lt_train_identity_check(mine, json_object_get(o, "identity"), where, err);
    json_decref(mine);
    LT_TRY(status);
    LT_TRY(lt_json_get_i64(o, "step", &p.step, where, err));
    LT_TRY(lt_json_get_i64(o, "tokens", &p.tokens, where, err));
    LT_TRY(lt_json_get_double(o, "loss_total", &p.loss_total, where, err));
    LT_TRY(lt_json_get_double(o, "loss_since_log", &p.loss_since_log, where, err));
    LT_TRY(lt_json_get_i64(o, "steps_since_log", &p.steps_since_log, where, err));
    LT_TRY(lt_json_get_bool(o, "evaluation_due", &p.eval_due, where, err));
    if (p.step < 0 || p.tokens < 0 || p.steps_since_log < 0 || p.steps_since_log > p.step)
        return lt_fail(err, LT_ERR_FORMAT, "%s: step, tokens or steps_since_log make no sense", where);
    if (p.step > t->plan.max_steps)
        return lt_fail(err, LT_ERR_INVALID,
                       "%s: the checkpoint is at step %lld, behind the end of this run at step %lld", where,
                       (long long)p.step, (long long)t->plan.max_steps);
    t->progress = p;
    return check_backend(t, o, where, err);
}

static enum lt_status read_progress(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    json_t *o = NULL;
    enum lt_status status;
    char *path = lt_path_join(dir, STATE_NAME);

    if (!path)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading %s", dir, STATE_NAME);
    if (lt_file_kind(path) == LT_FILE_NONE)
        status = lt_fail(err, LT_ERR_NOT_FOUND, "%s is no checkpoint of this program: it has no %s", dir,
                         STATE_NAME);
    else
        status = lt_json_load(&o, path, err);
    if (status == LT_OK)
        status = parse_progress(t, o, path, err);
    json_decref(o);
    lt_free(path);
    return status;
}

/* ---- the whole folder ---- */

static enum lt_status write_folder(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    struct lt_train_state state = lt_trainer_state(t);

    LT_TRY(lt_dir_remove_tree(dir, err));
    LT_TRY(lt_trainer_write_model(t, dir, true, err));
    LT_TRY(lt_trainer_save_moments(t, dir, err));
    LT_TRY(lt_train_state_save(&state, dir, err));
    return write_progress(t, dir, err);
}

enum lt_status lt_trainer_save_checkpoint(struct lt_trainer *t, struct lt_error *err)
{
    const char *output = t->config.output_dir;
    int64_t step = t->progress.step;
    char *path = checkpoint_path(output, FOLDER_PREFIX, step),
         *temp = checkpoint_path(output, "unfinished-checkpoint-", step);
    enum lt_status status =
        path && temp ? LT_OK
                     : lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while saving a checkpoint", output);

    if (status == LT_OK) {
        status = write_folder(t, temp, err);
        if (status == LT_OK)
            status = lt_dir_replace(temp, path, err);
        if (status != LT_OK && lt_dir_remove_tree(temp, NULL) != LT_OK)
            lt_log(LT_LOG_WARNING, "%s is left over from a checkpoint that failed; remove it", temp);
    }
    if (status == LT_OK) {
        t->saved_step = step;
        status = lt_train_rotate(output, t->config.save_total_limit, step, err);
    }
    if (status == LT_OK && t->events.saved)
        t->events.saved(t->events.user, path);
    lt_free(path);
    lt_free(temp);
    return status;
}

enum lt_status lt_trainer_load_checkpoint(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    json_t *history;

    LT_TRY(read_progress(t, dir, err));
    LT_TRY(load_params(t, dir, err));
    LT_TRY(lt_trainer_load_moments(t, dir, err));
    LT_TRY(lt_train_state_history(&history, dir, err));
    json_decref(t->log.history);
    t->log.history = history;
    return LT_OK;
}
