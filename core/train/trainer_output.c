/* Model, adapter and tokenizer files of an output or checkpoint folder. */
#include "core/train/trainer_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/io/checkpoint.h"
#include "core/io/model_files.h"

/* ---- parameters in host memory ---- */

enum lt_status lt_trainer_view_params(struct lt_trainer *t, bool read, struct lt_flat_view *v,
                                      struct lt_error *err)
{
    size_t bytes = t->params->elements * sizeof(float);

    *v = (struct lt_flat_view){.values = t->be->ops->buffer_host(t->be, lt_engine_params(t->engine))};
    if (v->values)
        return LT_OK;
    v->values = lt_alloc_pages(bytes);
    if (!v->values)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a copy of the parameters (%zu bytes)", bytes);
    v->bytes = bytes;
    enum lt_status status = read ? lt_engine_read_params(t->engine, 0, v->values, t->params->elements, err)
                                 : LT_OK;
    if (status != LT_OK)
        lt_trainer_view_release(v);
    return status;
}

void lt_trainer_view_release(struct lt_flat_view *v)
{
    if (v->bytes > 0)
        lt_free_pages(v->values, v->bytes);
    *v = (struct lt_flat_view){0};
}

static enum lt_status produce(void *user, struct lt_file_writer *w, struct lt_error *err)
{
    enum { PIECE = 4096 };
    const struct lt_flat_tensor *f = user;
    struct lt_engine *engine = f->trainer->engine;
    float values[PIECE];
    unsigned char bytes[PIECE * sizeof(float)];
    size_t element_bytes = lt_dtype_bits(f->dtype) / 8;

    for (size_t done = 0; done < f->param->elements; done += PIECE) {
        size_t left = f->param->elements - done, n = left < PIECE ? left : PIECE,
               at = f->param->offset + done;
        if (f->gradient)
            LT_TRY(lt_engine_read_grads(engine, at, values, n, err));
        else
            LT_TRY(lt_engine_read_params(engine, at, values, n, err));
        lt_convert_from_f32(bytes, values, f->dtype, n);
        LT_TRY(lt_file_writer_put(w, bytes, n * element_bytes, err));
    }
    return LT_OK;
}

enum lt_status lt_flat_tensor_add(struct lt_flat_tensor *f, struct lt_st_writer *w, struct lt_error *err)
{
    return lt_st_writer_add_produced(w, f->param->name, f->dtype, f->param->shape, f->param->ndim, produce, f,
                                     err);
}

/* ---- full models ---- */

/* The element type of the source checkpoint where it is one of 16 bits, else F32. */
static enum lt_dtype source_dtype(const struct lt_checkpoint *ck, const char *name)
{
    struct lt_checkpoint_tensor found;

    if (!lt_checkpoint_find(ck, name, &found))
        return LT_F32;
    enum lt_dtype dtype = found.tensor->dtype;
    return dtype == LT_F16 || dtype == LT_BF16 ? dtype : LT_F32;
}

static enum lt_status save_tensors(struct lt_trainer *t, const struct lt_checkpoint *ck,
                                   struct lt_flat_tensor *flat, const char *path, struct lt_error *err)
{
    struct lt_st_writer *w = NULL;
    enum lt_status status = lt_st_writer_create(&w, err);

    if (status == LT_OK)
        status = lt_st_writer_metadata(w, "format", "pt", err);
    for (size_t i = 0; i < t->params->count && status == LT_OK; i++) {
        const struct lt_param *param = &t->params->items[i];
        enum lt_dtype dtype = ck ? source_dtype(ck, param->name) : LT_F32;
        flat[i] = (struct lt_flat_tensor){.trainer = t, .param = param, .dtype = dtype};
        status = lt_flat_tensor_add(&flat[i], w, err);
    }
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

/* Checkpoints keep every bit of the f32 parameters; the result has the source's precision. */
static enum lt_status write_full_weights(struct lt_trainer *t, const char *dir, bool checkpoint,
                                         struct lt_error *err)
{
    struct lt_checkpoint ck = {0};
    enum lt_status status = checkpoint ? LT_OK : lt_checkpoint_open(&ck, t->config.full_source, err);

    if (status != LT_OK)
        return status;
    char *path = lt_path_join(dir, "model.safetensors");
    struct lt_flat_tensor *flat = lt_alloc_array(t->params->count, sizeof *flat);
    if (path && flat)
        status = save_tensors(t, checkpoint ? NULL : &ck, flat, path, err);
    else
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while writing the model", dir);
    lt_free(flat);
    lt_free(path);
    lt_checkpoint_close(&ck);
    return status;
}

enum lt_status lt_trainer_write_model(struct lt_trainer *t, const char *dir, bool checkpoint,
                                      struct lt_error *err)
{
    LT_TRY(lt_dir_create(dir, err));
    if (t->config.lora) {
        struct lt_flat_view view;
        LT_TRY(lt_trainer_view_params(t, true, &view, err));
        enum lt_status status = lt_adapter_save(t->params, t->config.lora, dir, view.values, err);
        lt_trainer_view_release(&view);
        LT_TRY(status);
    } else {
        LT_TRY(write_full_weights(t, dir, checkpoint, err));
        LT_TRY(lt_model_file_copy(t->config.full_source, dir, "config.json", err));
        LT_TRY(lt_model_file_copy(t->config.full_source, dir, "generation_config.json", err));
    }
    return t->config.tokenizer_source ? lt_tokenizer_files_copy(t->config.tokenizer_source, dir, err) : LT_OK;
}

/* ---- the end of a run ---- */

/* The last entry of log_history, as transformers adds it when training ends. */
static enum lt_status add_summary(struct lt_trainer *t, const struct lt_train_state *s, double seconds,
                                  struct lt_error *err)
{
    bool ok = true;
    double steps = (double)s->step, runtime = seconds > 0 ? seconds : 1e-9;
    double samples = s->epoch * (double)lt_batches_rows(t->train);
    json_t *row = json_object();

    lt_train_put(row, "epoch", json_real(s->epoch), &ok);
    lt_train_put(row, "step", json_integer(s->step), &ok);
    lt_train_put(row, "total_flos", lt_train_number(s->total_flos), &ok);
    lt_train_put(row, "train_loss", lt_train_number(steps > 0 ? t->progress.loss_total / steps : 0), &ok);
    lt_train_put(row, "train_runtime", json_real(seconds), &ok);
    lt_train_put(row, "train_samples_per_second", lt_train_number(samples / runtime), &ok);
    lt_train_put(row, "train_steps_per_second", lt_train_number(steps / runtime), &ok);
    if (json_array_append(t->log.history, row) != 0)
        ok = false;
    json_decref(row);
    return ok ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory for the training log");
}

enum lt_status lt_trainer_write_output(struct lt_trainer *t, double wall_seconds, struct lt_error *err)
{
    const char *dir = t->config.output_dir;
    struct lt_train_state state = lt_trainer_state(t);

    LT_TRY(lt_trainer_write_model(t, dir, false, err));
    LT_TRY(add_summary(t, &state, wall_seconds, err));
    LT_TRY(lt_train_state_save(&state, dir, err));
    if (t->events.saved)
        t->events.saved(t->events.user, dir);
    return LT_OK;
}
