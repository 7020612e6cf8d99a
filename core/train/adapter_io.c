/* The PEFT adapter folder. */
#include "core/train/adapter.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"

static const char WEIGHTS_NAME[] = "adapter_model.safetensors";
static const char PICKLE_NAME[] = "adapter_model.bin";

/* ---- reading ---- */

static bool put_dims(struct lt_strbuf *sb, const int64_t *shape, int ndim)
{
    lt_strbuf_putc(sb, '[');
    for (int i = 0; i < ndim; i++)
        lt_strbuf_printf(sb, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    lt_strbuf_putc(sb, ']');
    return lt_strbuf_ok(sb);
}

static enum lt_status check_shape(const struct lt_safetensors *st, const struct lt_st_tensor *t,
                                  const struct lt_param *item, struct lt_error *err)
{
    struct lt_strbuf found, needed;
    enum lt_status status;
    bool same = t->ndim == item->ndim;

    for (int i = 0; same && i < t->ndim; i++)
        same = t->shape[i] == item->shape[i];
    if (same)
        return LT_OK;
    lt_strbuf_init(&found);
    lt_strbuf_init(&needed);
    if (put_dims(&found, t->shape, t->ndim) && put_dims(&needed, item->shape, item->ndim))
        status = lt_fail(
            err, LT_ERR_FORMAT,
            "%s: tensor %s has shape %s where the model and adapter_config.json make it %s; the adapter "
            "belongs to another model or rank",
            st->map.path, t->name, lt_strbuf_str(&found), lt_strbuf_str(&needed));
    else
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading it", st->map.path);
    lt_strbuf_deinit(&found);
    lt_strbuf_deinit(&needed);
    return status;
}

static enum lt_status check_finite(const struct lt_safetensors *st, const struct lt_st_tensor *t,
                                   const float *values, size_t n, struct lt_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return lt_fail(err, LT_ERR_NUMERIC,
                           "%s: tensor %s holds %s at element %llu; the training that wrote it has diverged",
                           st->map.path, t->name, isnan(values[i]) ? "NaN" : "infinity",
                           (unsigned long long)i);
    return LT_OK;
}

/* "x.base_layer.bias" is written by some PEFT releases as "x.bias", and the other way round.  *out is owned; NULL
 * for a name that is no bias. */
static enum lt_status other_spelling(char **out, const char *name, struct lt_error *err)
{
    static const char wrapped[] = ".base_layer.bias", plain[] = ".bias";
    size_t n = strlen(name), cut;
    struct lt_strbuf sb;

    *out = NULL;
    if (n >= sizeof wrapped - 1 && strcmp(name + n - (sizeof wrapped - 1), wrapped) == 0)
        cut = sizeof wrapped - 1;
    else if (n >= sizeof plain - 1 && strcmp(name + n - (sizeof plain - 1), plain) == 0)
        cut = sizeof plain - 1;
    else
        return LT_OK;
    lt_strbuf_init(&sb);
    lt_strbuf_put(&sb, name, n - cut);
    lt_strbuf_puts(&sb, cut == sizeof plain - 1 ? wrapped : plain);
    *out = lt_strbuf_take(&sb);
    lt_strbuf_deinit(&sb);
    return *out ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory while reading an adapter");
}

static enum lt_status find_tensor(const struct lt_st_tensor **found, const struct lt_safetensors *st,
                                  const struct lt_param *item, struct lt_error *err)
{
    *found = lt_safetensors_find(st, item->name);
    if (*found)
        return LT_OK;
    char *other;
    LT_TRY(other_spelling(&other, item->name, err));
    if (other)
        *found = lt_safetensors_find(st, other);
    lt_free(other);
    if (*found)
        return LT_OK;
    return lt_fail(
        err, LT_ERR_FORMAT,
        "%s: tensor %s is missing; the adapter belongs to another model, or its adapter_config.json to "
        "another adapter",
        st->map.path, item->name);
}

/* used[k]: tensor k of the file was taken. */
static enum lt_status check_surplus(const struct lt_safetensors *st, const bool *used, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    for (size_t k = 0; k < st->count; k++)
        if (!used[k])
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: tensor %s belongs to nothing that adapter_config.json adapts in this model",
                           st->map.path, lt_json_excerpt(&shown, st->tensors[k].name));
    return LT_OK;
}

static enum lt_status read_tensors(const struct lt_params *p, const struct lt_safetensors *st, bool *used,
                                   float *values, struct lt_error *err)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        const struct lt_st_tensor *t;
        LT_TRY(find_tensor(&t, st, item, err));
        LT_TRY(check_shape(st, t, item, err));
        LT_TRY(lt_safetensors_read_f32(st, t, values + item->offset, err));
        LT_TRY(check_finite(st, t, values + item->offset, item->elements, err));
        used[t - st->tensors] = true;
    }
    return check_surplus(st, used, err);
}

static enum lt_status open_weights(struct lt_safetensors *st, const char *dir, struct lt_error *err)
{
    char *path = lt_path_join(dir, WEIGHTS_NAME), *pickle = lt_path_join(dir, PICKLE_NAME);
    enum lt_status status;

    if (!path || !pickle)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while reading %s", WEIGHTS_NAME);
    else if (lt_file_kind(path) == LT_FILE_NONE && lt_file_kind(pickle) != LT_FILE_NONE)
        status = lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "%s is a pickle, which can run code and is not read; save the adapter as safetensors with a "
            "recent PEFT",
            pickle);
    else
        status = lt_safetensors_open(st, path, err);
    lt_free(path);
    lt_free(pickle);
    return status;
}

enum lt_status lt_adapter_load(const struct lt_params *p, const char *dir, float *values,
                               struct lt_error *err)
{
    struct lt_safetensors st = {0};
    enum lt_status status;

    LT_TRY(open_weights(&st, dir, err));
    bool *used = lt_alloc_zero(st.count, sizeof *used);
    if (used)
        status = read_tensors(p, &st, used, values, err);
    else
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading it", st.map.path);
    lt_free(used);
    lt_safetensors_close(&st);
    return status;
}

/* ---- writing ---- */

static enum lt_status write_weights(const struct lt_params *p, const char *path, const float *values,
                                    struct lt_error *err)
{
    struct lt_st_writer *w = NULL;
    enum lt_status status = lt_st_writer_create(&w, err);

    if (status == LT_OK)
        status = lt_st_writer_metadata(w, "format", "pt", err);
    for (size_t i = 0; i < p->count && status == LT_OK; i++) {
        const struct lt_param *item = &p->items[i];
        status = lt_st_writer_add(w, item->name, LT_F32, item->shape, item->ndim, values + item->offset, err);
    }
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

enum lt_status lt_adapter_save(const struct lt_params *p, const struct lt_lora_config *config,
                               const char *dir, const float *values, struct lt_error *err)
{
    LT_TRY(lt_dir_create(dir, err));
    char *path = lt_path_join(dir, WEIGHTS_NAME);
    if (!path)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while writing %s", WEIGHTS_NAME);
    enum lt_status status = write_weights(p, path, values, err);
    lt_free(path);
    return status == LT_OK ? lt_lora_config_save(config, dir, err) : status;
}
