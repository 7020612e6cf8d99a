/* The optimizer's state in a checkpoint: optimizer.safetensors. */
#include "core/train/trainer_internal.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

static const char OPTIMIZER_NAME[] = "optimizer.safetensors";

/* One tensor of the state on its way to or from the file, a piece at a time. */
struct state_tensor {
    struct lt_optimizer *optimizer;
    struct lt_optimizer_tensor tensor;
};

enum { PIECE = 4096 }; /* elements */

static enum lt_status produce_state(void *user, struct lt_file_writer *w, struct lt_error *err)
{
    const struct state_tensor *s = user;
    const size_t size = lt_dtype_bits(s->tensor.dtype) / 8;
    float values[PIECE];

    for (size_t done = 0; done < s->tensor.elements; done += PIECE) {
        size_t left = s->tensor.elements - done, bytes = (left < PIECE ? left : PIECE) * size;
        LT_TRY(lt_optimizer_read(s->optimizer, s->tensor.offset + done * size, values, bytes, err));
        LT_TRY(lt_file_writer_put(w, values, bytes, err));
    }
    return LT_OK;
}

static char *state_name(const struct lt_optimizer_tensor *tensor, const struct lt_param *param)
{
    struct lt_strbuf sb;

    lt_strbuf_init(&sb);
    lt_strbuf_puts(&sb, tensor->prefix);
    lt_strbuf_puts(&sb, param->name);
    return lt_strbuf_take(&sb);
}

/* The shape in the file; returns the number of dimensions. */
static int state_shape(const struct lt_optimizer_tensor *tensor, const struct lt_param *param,
                       int64_t shape[LT_ST_MAX_DIMS])
{
    shape[0] = (int64_t)tensor->elements;
    for (int i = 0; !tensor->absmax && i < param->ndim; i++)
        shape[i] = param->shape[i];
    return tensor->absmax ? 1 : param->ndim;
}

static enum lt_status add_state(struct lt_st_writer *w, struct state_tensor *s, const struct lt_param *param,
                                struct lt_error *err)
{
    int64_t shape[LT_ST_MAX_DIMS];
    int ndim = state_shape(&s->tensor, param, shape);
    char *name = state_name(&s->tensor, param);

    if (!name)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while writing the optimizer's state");
    enum lt_status status =
        lt_st_writer_add_produced(w, name, s->tensor.dtype, shape, ndim, produce_state, s, err);
    lt_free(name);
    return status;
}

static enum lt_status write_state(struct lt_trainer *t, struct state_tensor *tensors, const char *path,
                                  struct lt_error *err)
{
    struct lt_st_writer *w = NULL;
    enum lt_status status = lt_st_writer_create(&w, err);

    for (size_t i = 0; i < t->params->count && status == LT_OK; i++) {
        struct lt_optimizer_tensor state[LT_OPTIMIZER_TENSORS];
        int n = lt_optimizer_tensors(t->optimizer, i, state);
        for (int k = 0; k < n && status == LT_OK; k++) {
            *tensors = (struct state_tensor){.optimizer = t->optimizer, .tensor = state[k]};
            status = add_state(w, tensors++, &t->params->items[i], err);
        }
    }
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

enum lt_status lt_trainer_save_moments(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    struct state_tensor *tensors = lt_alloc_array(t->params->count, LT_OPTIMIZER_TENSORS * sizeof *tensors);
    char *path = lt_path_join(dir, OPTIMIZER_NAME);
    enum lt_status status = tensors && path ? write_state(t, tensors, path, err)
                                            : lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while writing %s",
                                                      dir, OPTIMIZER_NAME);

    lt_free(path);
    lt_free(tensors);
    return status;
}

/* ---- reading back ---- */

enum lt_status lt_train_open_tensors(struct lt_safetensors *st, const char *dir, const char *name,
                                     struct lt_error *err)
{
    char *path = lt_path_join(dir, name);

    if (!path)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading %s", dir, name);
    enum lt_status status = lt_safetensors_open(st, path, err);
    lt_free(path);
    return status;
}

enum lt_status lt_train_find_tensor(const struct lt_safetensors *st, const char *name, enum lt_dtype dtype,
                                    const int64_t *shape, int ndim, const struct lt_st_tensor **tensor,
                                    struct lt_error *err)
{
    const struct lt_st_tensor *found = lt_safetensors_find(st, name);

    if (!found)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s is missing; the checkpoint is not complete",
                       st->map.path, name);
    bool same = found->dtype == dtype && found->ndim == ndim;
    for (int i = 0; same && i < ndim; i++)
        same = found->shape[i] == shape[i];
    if (!same)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s has not the shape and type (%s) of its parameter",
                       st->map.path, name, lt_dtype_name(dtype));
    *tensor = found;
    return LT_OK;
}

/* A NaN in the state would spread over a whole block of parameters, long after. */
static bool all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

static enum lt_status copy_state(struct lt_optimizer *o, const struct lt_safetensors *st,
                                 const struct lt_st_tensor *from, const struct lt_optimizer_tensor *to,
                                 struct lt_error *err)
{
    const size_t size = lt_dtype_bits(to->dtype) / 8;
    const char *data = lt_safetensors_data(st, from);
    float values[PIECE];

    for (size_t done = 0; done < to->elements; done += PIECE) {
        size_t left = to->elements - done, n = left < PIECE ? left : PIECE;
        memcpy(values, data + done * size, n * size); /* the tensor need not be aligned in the file */
        if (to->dtype == LT_F32 && !all_finite(values, n))
            return lt_fail(err, LT_ERR_NUMERIC, "%s: tensor %s has numbers that are not finite", st->map.path,
                           from->name);
        LT_TRY(lt_optimizer_write(o, to->offset + done * size, values, n * size, err));
    }
    return LT_OK;
}

static enum lt_status read_state(struct lt_trainer *t, const struct lt_safetensors *st,
                                 const struct lt_optimizer_tensor *tensor, const struct lt_param *param,
                                 struct lt_error *err)
{
    const struct lt_st_tensor *found = NULL;
    int64_t shape[LT_ST_MAX_DIMS];
    int ndim = state_shape(tensor, param, shape);
    char *name = state_name(tensor, param);

    if (!name)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading it", st->map.path);
    enum lt_status status = lt_train_find_tensor(st, name, tensor->dtype, shape, ndim, &found, err);
    lt_free(name);
    return status == LT_OK ? copy_state(t->optimizer, st, found, tensor, err) : status;
}

enum lt_status lt_trainer_load_moments(struct lt_trainer *t, const char *dir, struct lt_error *err)
{
    struct lt_safetensors st = {0};

    enum lt_status status = lt_train_open_tensors(&st, dir, OPTIMIZER_NAME, err);
    for (size_t i = 0; status == LT_OK && i < t->params->count; i++) {
        struct lt_optimizer_tensor state[LT_OPTIMIZER_TENSORS];
        int n = lt_optimizer_tensors(t->optimizer, i, state);
        for (int k = 0; status == LT_OK && k < n; k++)
            status = read_state(t, &st, &state[k], &t->params->items[i], err);
    }
    lt_safetensors_close(&st);
    return status;
}
