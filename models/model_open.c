/* Opening a model: which architecture, its configuration, its tensors checked against the checkpoint. */
#include "models/model_load.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "models/arch.h"
#include "models/bnb_weights.h"

static const struct lt_model_arch *const archs[] = {&lt_model_arch_llama, &lt_model_arch_gpt2};

enum { ARCH_COUNT = sizeof archs / sizeof archs[0] };

static enum lt_status no_memory(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory while opening the model");
}

/* ---- architecture ---- */

static enum lt_status unknown_arch(const struct lt_config *cfg, const char *key, const char *name,
                                   struct lt_error *err)
{
    struct lt_strbuf list;
    struct lt_json_excerpt shown;
    lt_strbuf_init(&list);
    for (int i = 0; i < ARCH_COUNT; i++)
        lt_strbuf_printf(&list, "%s%s", i > 0 ? ", " : "", archs[i]->architecture);
    const char *names = lt_strbuf_str(&list);
    enum lt_status status = lt_fail(err, LT_ERR_UNSUPPORTED,
                                    "%s: %s is \"%s\", which is not supported; supported are: %s", cfg->where,
                                    key, lt_json_excerpt(&shown, name), names ? names : "");
    lt_strbuf_deinit(&list);
    return status;
}

/* architectures[0] decides; model_type must not say otherwise, and alone it is enough. */
static enum lt_status choose_arch(const struct lt_model_arch **out, const struct lt_config *cfg,
                                  struct lt_error *err)
{
    const char *type = NULL;
    const char *name = json_string_value(json_array_get(json_object_get(cfg->json, "architectures"), 0));
    LT_TRY(lt_json_get_string(cfg->json, "model_type", &type, cfg->where, err));
    if (!name && !type)
        return lt_fail(err, LT_ERR_FORMAT, "%s: neither architectures nor model_type says what model this is",
                       cfg->where);
    for (int i = 0; i < ARCH_COUNT; i++) {
        if (strcmp(name ? name : type, name ? archs[i]->architecture : archs[i]->model_type) != 0)
            continue;
        if (type && strcmp(type, archs[i]->model_type) != 0)
            return unknown_arch(cfg, "model_type", type, err);
        *out = archs[i];
        return LT_OK;
    }
    return unknown_arch(cfg, name ? "architectures" : "model_type", name ? name : type, err);
}

/* ---- tensors ---- */

void lt_tensor_list_begin_segment(struct lt_tensor_list *list)
{
    struct lt_model *m = &list->store->model;
    m->segment_first[++list->segment] = m->tensor_count;
}

/* Number of the checkpoint's tensor of that name, or SIZE_MAX. */
static size_t find_tensor(const struct lt_checkpoint *ck, const char *name)
{
    struct lt_checkpoint_tensor hit;
    if (!lt_checkpoint_find(ck, name, &hit))
        return SIZE_MAX;
    for (size_t lo = 0, hi = ck->tensor_count; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(ck->tensors[mid].tensor->name, name);
        if (order == 0)
            return mid;
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return SIZE_MAX;
}

static void put_shape(struct lt_strbuf *sb, const int64_t *shape, int ndim)
{
    lt_strbuf_putc(sb, '[');
    for (int i = 0; i < ndim; i++)
        lt_strbuf_printf(sb, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    lt_strbuf_putc(sb, ']');
}

static enum lt_status wrong_shape(const struct lt_checkpoint_tensor *ct, const int64_t *shape, int ndim,
                                  struct lt_error *err)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    lt_strbuf_printf(&sb, "%s: tensor %s has shape ", lt_path_basename(ct->file->map.path), ct->tensor->name);
    put_shape(&sb, ct->tensor->shape, ct->tensor->ndim);
    lt_strbuf_puts(&sb, ", but config.json makes it ");
    put_shape(&sb, shape, ndim);
    const char *text = lt_strbuf_str(&sb);
    enum lt_status status = text ? lt_fail(err, LT_ERR_FORMAT, "%s", text) : no_memory(err);
    lt_strbuf_deinit(&sb);
    return status;
}

static enum lt_status check_dtype(const struct lt_checkpoint_tensor *ct, struct lt_error *err)
{
    switch (ct->tensor->dtype) {
    case LT_F32:
    case LT_F16:
    case LT_BF16:
    case LT_F64:
        return LT_OK;
    default:
        return lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "%s: tensor %s is stored as %s without the scales of bitsandbytes; give a checkpoint in F32, F16 or "
            "BF16, or a bitsandbytes one",
            lt_path_basename(ct->file->map.path), ct->tensor->name, lt_dtype_name(ct->tensor->dtype));
    }
}

/* Checks the stored tensor; *transposed: how it lies there. */
static enum lt_status check_stored(const struct lt_tensor_list *list, size_t at,
                                   const struct lt_tensor_spec *spec, bool *transposed, struct lt_error *err)
{
    const struct lt_checkpoint_tensor *ct = &list->ck->tensors[at];
    struct lt_bnb_weight bnb;
    *transposed = spec->transposed;
    if (spec->kind == LT_TENSOR_LINEAR) {
        bool found;
        LT_TRY(lt_bnb_weight_find(&bnb, list->ck, ct->tensor->name, spec->rows, spec->cols, &found, err));
        if (found) {
            *transposed = false;
            return LT_OK;
        }
    }
    bool vector = spec->kind == LT_TENSOR_VECTOR;
    const int64_t shape[2] = {vector || spec->transposed ? spec->cols : spec->rows,
                              spec->transposed ? spec->rows : spec->cols};
    int ndim = vector ? 1 : 2;
    if (ct->tensor->ndim != ndim || ct->tensor->shape[0] != shape[0] ||
        (ndim == 2 && ct->tensor->shape[1] != shape[1]))
        return wrong_shape(ct, shape, ndim, err);
    return check_dtype(ct, err);
}

static enum lt_status claim_stored(struct lt_tensor_list *list, const char *stored,
                                   const struct lt_tensor_spec *spec, bool *transposed, struct lt_error *err)
{
    size_t at = find_tensor(list->ck, stored);
    if (at == SIZE_MAX)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s is missing: the checkpoint is incomplete",
                       list->ck->file_count == 1 ? lt_path_basename(list->ck->files[0].map.path)
                                                 : "model.safetensors.index.json",
                       stored);
    list->used[at] = true;
    return check_stored(list, at, spec, transposed, err);
}

/* The stored name of a canonical one. */
static const char *stored_name(const struct lt_tensor_list *list, const char *name)
{
    size_t n = strlen(list->strip);
    return strncmp(name, list->strip, n) == 0 ? name + n : name;
}

enum lt_status lt_tensor_list_add(struct lt_tensor_list *list, const char *name,
                                  const struct lt_tensor_spec *spec, int *index, struct lt_error *err)
{
    struct lt_model *m = &list->store->model;
    const char *stored = stored_name(list, name), *dot = strrchr(name, '.');
    bool transposed = spec->transposed;
    if (!spec->tied && list->ck)
        LT_TRY(claim_stored(list, stored, spec, &transposed, err));
    if (!spec->tied)
        m->parameters += (uint64_t)spec->rows * (uint64_t)spec->cols;
    void *items = m->tensors;
    bool room = lt_reserve(&items, &list->store->tensor_cap, (size_t)m->tensor_count, sizeof *m->tensors);
    m->tensors = items;
    if (!room)
        return no_memory(err);
    struct lt_model_tensor *t = &m->tensors[m->tensor_count++];
    *t = (struct lt_model_tensor){.name = lt_strdup(stored),
                                  .module = lt_strndup(name, (size_t)(dot - name)),
                                  .kind = spec->kind,
                                  .is_norm = spec->is_norm,
                                  .is_bias = strcmp(dot, ".bias") == 0,
                                  .is_head = spec->is_head,
                                  .transposed = transposed,
                                  .rows = spec->rows,
                                  .cols = spec->cols,
                                  .segment = list->segment,
                                  .index = m->tensor_count - 1 - m->segment_first[list->segment],
                                  .shared = spec->tied ? spec->shared : -1};
    if (index)
        *index = t->index;
    return t->name && t->module ? LT_OK : no_memory(err);
}

/* "P.weight.absmax" and its like, "P.SCB" and "P.weight_format" belong to "P.weight". */
static bool belongs_to_used(const struct lt_tensor_list *list, const char *name)
{
    const char *at = strstr(name, ".weight."), *dot = strrchr(name, '.');
    char owner[512];
    if (!at && dot && (strcmp(dot, ".SCB") == 0 || strcmp(dot, ".weight_format") == 0))
        at = dot;
    int n = at ? lt_snprintf(owner, sizeof owner, "%.*s.weight", (int)(at - name), name) : -1;
    if (n < 0 || (size_t)n >= sizeof owner)
        return false;
    size_t number = find_tensor(list->ck, owner);
    return number != SIZE_MAX && list->used[number];
}

static void warn_of_surplus(const struct lt_tensor_list *list)
{
    size_t count = 0, first = 0;
    for (size_t i = list->ck->tensor_count; i-- > 0;) {
        const char *name = list->ck->tensors[i].tensor->name;
        if (list->used[i] || list->store->kind->ignores(name) || belongs_to_used(list, name))
            continue;
        first = i;
        count++;
    }
    struct lt_json_excerpt shown;
    if (count > 0)
        lt_log(LT_LOG_WARNING,
               "%s: %zu tensors of the checkpoint are no part of a %s and are not used, the first is %s",
               list->ck->dir, count, list->store->kind->architecture,
               lt_json_excerpt(&shown, list->ck->tensors[first].tensor->name));
}

static enum lt_status list_tensors(struct lt_model_store *store, const struct lt_checkpoint *ck,
                                   struct lt_error *err)
{
    struct lt_model *m = &store->model;
    struct lt_tensor_list list = {.store = store, .ck = ck, .strip = "", .segment = -1};
    m->segment_first = lt_alloc_zero((size_t)m->layers + 3, sizeof *m->segment_first);
    list.used = lt_alloc_zero(ck ? ck->tensor_count : 0, sizeof *list.used);
    enum lt_status status = m->segment_first && list.used ? store->kind->list_tensors(&list, err)
                                                          : no_memory(err);
    if (status == LT_OK) {
        lt_tensor_list_begin_segment(&list); /* the end of the head */
        if (ck)
            warn_of_surplus(&list);
    }
    lt_free(list.used);
    return status;
}

/* ---- ids ---- */

/* generation_config.json, where there is one, says what ends a generation; absent keys take the defaults of the
 * configuration class, null means none. */
static enum lt_status read_ids(struct lt_model_store *store, const struct lt_checkpoint *ck,
                               const struct lt_config *cfg, struct lt_error *err)
{
    enum { MAX_EOS = sizeof store->model.eos_ids / sizeof *store->model.eos_ids };
    struct lt_model *m = &store->model;
    json_t *generation = NULL;
    int32_t count;
    bool has_bos, has_eos;
    m->bos_id = json_object_get(cfg->json, "bos_token_id") || store->kind->bos_default >= m->vocab
                    ? -1
                    : store->kind->bos_default;
    LT_TRY(lt_config_ids(cfg, "bos_token_id", m->vocab, &m->bos_id, 1, &count, &has_bos, err));
    LT_TRY(lt_config_ids(cfg, "eos_token_id", m->vocab, m->eos_ids, MAX_EOS, &m->eos_count, &has_eos, err));
    if (!json_object_get(cfg->json, "eos_token_id") && store->kind->eos_default < m->vocab)
        m->eos_ids[m->eos_count++] = store->kind->eos_default;
    if (!ck)
        return LT_OK;

    char *path = lt_path_join(ck->dir, "generation_config.json");
    if (!path)
        return no_memory(err);
    enum lt_status status = lt_file_kind(path) == LT_FILE_REGULAR ? lt_json_load(&generation, path, err)
                                                                  : LT_OK;
    lt_free(path);
    if (status == LT_OK && json_object_get(generation, "eos_token_id")) {
        const struct lt_config gen = {.json = generation, .where = "generation_config.json"};
        int32_t ids[MAX_EOS];
        status = lt_config_ids(&gen, "eos_token_id", m->vocab, ids, MAX_EOS, &count, &has_eos, err);
        if (status == LT_OK && has_eos) {
            memcpy(m->eos_ids, ids, (size_t)count * sizeof *ids);
            m->eos_count = count;
        }
    }
    json_decref(generation);
    return status;
}

/* ---- interface ---- */

/* What a checkpoint of LLM.int8() says of its products. */
static enum lt_status read_int8(struct lt_model *m, const struct lt_config *cfg, struct lt_error *err)
{
    const json_t *q = json_object_get(cfg->json, "quantization_config");
    double threshold = 6;
    LT_TRY(lt_json_get_bool(q, "load_in_8bit", &m->int8, cfg->where, err));
    LT_TRY(lt_json_get_double(q, "llm_int8_threshold", &threshold, cfg->where, err));
    if (!(threshold >= 0 && threshold <= 1e30))
        return lt_fail(err, LT_ERR_INVALID, "%s: llm_int8_threshold must be 0 or more", cfg->where);
    m->int8_threshold = (float)threshold;
    return LT_OK;
}

static enum lt_status open_model(struct lt_model_store *store, const struct lt_checkpoint *ck,
                                 const json_t *config, struct lt_error *err)
{
    const struct lt_config cfg = {.json = config, .where = "config.json"};
    struct lt_model *m = &store->model;
    LT_TRY(choose_arch(&store->kind, &cfg, err));
    LT_TRY(lt_config_check_quantization(&cfg, err));
    LT_TRY(read_int8(m, &cfg, err));
    m->arch = &store->kind->graph;
    LT_TRY(store->kind->configure(m, &cfg, err));
    LT_TRY(read_ids(store, ck, &cfg, err));
    return list_tensors(store, ck, err);
}

/* ck: NULL for a model that has none. */
static enum lt_status new_model(struct lt_model **model, const struct lt_checkpoint *ck, const json_t *config,
                                const char *name, struct lt_error *err)
{
    *model = NULL;
    struct lt_model_store *store = lt_alloc_zero(1, sizeof *store);
    if (!store)
        return no_memory(err);
    store->model.name_or_path = lt_strdup(name);
    enum lt_status status = store->model.name_or_path ? open_model(store, ck, config, err) : no_memory(err);
    if (status != LT_OK) {
        lt_model_destroy(&store->model);
        return lt_fail_prefix(err, status, "%s", ck ? ck->dir : name);
    }
    *model = &store->model;
    return LT_OK;
}

enum lt_status lt_model_open(struct lt_model **model, const struct lt_checkpoint *ck,
                             const char *name_or_path, struct lt_error *err)
{
    return new_model(model, ck, ck->config, name_or_path, err);
}

enum lt_status lt_model_from_config(struct lt_model **model, const json_t *config, const char *name,
                                    struct lt_error *err)
{
    return new_model(model, NULL, config, name, err);
}

void lt_model_destroy(struct lt_model *model)
{
    if (!model)
        return;
    struct lt_model_store *store = lt_model_store_of(model);
    for (int i = 0; i < model->tensor_count; i++) {
        lt_free(model->tensors[i].name);
        lt_free(model->tensors[i].module);
    }
    for (int i = 0; i < LT_BLOCK_COUNT; i++)
        lt_free_pages(store->blocks[i].data, store->blocks[i].size);
    if (store->kind)
        store->kind->free_config(model->config);
    lt_free(model->tensors);
    lt_free(model->segment_first);
    lt_free(model->name_or_path);
    lt_free(store);
}
