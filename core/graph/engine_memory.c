#include "core/graph/engine_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

size_t lt_engine_memory_total(const struct lt_engine_memory *m)
{
    return m->params + m->grads + m->vectors + m->tables + m->boundaries + m->tape + m->arena + m->workspace +
           m->inputs + m->stream + m->cache + m->logits + m->boundary_host;
}

bool lt_engine_layer_major_possible(const struct lt_model *model)
{
    for (int i = 0; i < model->tensor_count; i++)
        if (model->tensors[i].shared >= 0 && model->tensors[model->tensors[i].shared].trainable)
            return false;
    return true;
}

const struct lt_engine_memory *lt_engine_memory(const struct lt_engine *e)
{
    return &e->places[LT_PLACE_HOST].memory;
}

const struct lt_engine_memory *lt_engine_device_memory(const struct lt_engine *e)
{
    return e->places[LT_PLACE_DEVICE].be ? &e->places[LT_PLACE_DEVICE].memory : NULL;
}

size_t lt_engine_cache_bytes(const struct lt_engine *e)
{
    return (size_t)e->opt.capacity.cache_rows * (size_t)e->model->kv_heads * (size_t)e->model->head_dim *
           sizeof(float);
}

static size_t table_bytes(const struct lt_engine *e)
{
    return lt_align_up((size_t)e->model->table_positions * (size_t)e->model->rotary * sizeof(float),
                       LT_VALUE_ALIGN);
}

/* A micro-batch's inputs lie one after another: token arrays, label arrays, then losses and argmax. */
static size_t inputs_before(const struct lt_engine *e, int which)
{
    size_t tokens = lt_align_up((size_t)e->opt.capacity.tokens * sizeof(int32_t), LT_VALUE_ALIGN);
    size_t labels = lt_align_up((size_t)e->opt.capacity.labels * sizeof(int32_t), LT_VALUE_ALIGN);
    size_t offset = 0;
    for (int i = 0; i < which; i++) {
        bool table = i == LT_IN_ROPE_TABLE || i == LT_IN_ROPE_TABLE_LOCAL;
        bool label = i == LT_IN_LABEL_ROWS || i == LT_IN_LABELS || i >= LT_IN_COUNT;
        offset += table ? 0 : label ? labels : tokens;
    }
    return offset;
}

size_t lt_engine_input_offset(const struct lt_engine *e, int which, int32_t micro_batch)
{
    return (size_t)micro_batch * inputs_before(e, LT_IN_COUNT + 2) + inputs_before(e, which);
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Where the segments of a place have their parts of its tape, its cache and its vectors. */
static void plan_segments(struct lt_engine *e, enum lt_place_id place)
{
    const struct lt_model *model = e->model;
    struct lt_place *p = &e->places[place];
    int layers = 0;
    p->tape_bytes = 0;
    for (int s = 0; s < lt_model_segments(model); s++) {
        if (e->place_of[s] != place)
            continue;
        e->cache_index[s] = layers;
        layers += s >= 1 && s <= model->layers;
        e->tape_offset[s] = p->tape_bytes;
        p->tape_bytes += e->opt.train ? e->of_segment[LT_PASS_TRAIN][s]->tape_bytes : 0;
        for (int i = model->segment_first[s]; i < model->segment_first[s + 1]; i++) {
            const struct lt_model_tensor *t = &model->tensors[i];
            e->vector_offset[i] = p->memory.vectors;
            if (t->kind == LT_TENSOR_VECTOR && !t->trainable)
                p->memory.vectors += lt_align_up((size_t)t->cols * sizeof(float), LT_VALUE_ALIGN);
        }
    }
    p->memory.tape = (size_t)e->group * p->tape_bytes;
    p->memory.tables = layers > 0 ? (size_t)model->rope_tables * table_bytes(e) : 0;
    p->memory.cache = e->opt.decode ? 2 * (size_t)layers * lt_engine_cache_bytes(e) : 0;
}

static void plan_programs(struct lt_engine *e)
{
    for (size_t i = 0; i < e->stage_count; i++) {
        const struct lt_stage *s = e->stages[i];
        struct lt_backend *be = e->places[s->place].be;
        struct lt_engine_memory *m = &e->places[s->place].memory;
        m->arena = max_size(m->arena, max_size(s->fwd.arena_bytes, s->bwd.arena_bytes));
        m->workspace = max_size(m->workspace, be->ops->workspace_bytes(be, s->fwd_code));
        if (s->has_bwd)
            m->workspace = max_size(m->workspace, be->ops->workspace_bytes(be, s->bwd_code));
    }
}

enum lt_status lt_engine_plan_memory(struct lt_engine *e, struct lt_error *err)
{
    struct lt_engine_memory *host = &e->places[LT_PLACE_HOST].memory;
    host->params = e->opt.param_elements * sizeof(float);
    host->stream = lt_engine_stream_bytes(e->model);
    LT_TRY(lt_engine_place_params(e, err));
    for (int i = 0; i < LT_PLACES; i++) {
        struct lt_place *p = &e->places[i];
        if (!p->be)
            continue;
        p->kept = lt_alloc_array((size_t)lt_model_segments(e->model), sizeof *p->kept);
        if (!p->kept)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the engine");
        p->memory.grads = e->opt.train ? p->memory.params : 0;
        p->memory.inputs = lt_engine_input_offset(e, 0, e->group);
        plan_segments(e, (enum lt_place_id)i);
    }
    if (e->of_segment[LT_PASS_LOGITS] || e->of_segment[LT_PASS_DECODE])
        lt_engine_head_place(e)->memory.logits = (size_t)e->opt.capacity.labels * (size_t)e->model->vocab *
                                                 sizeof(float);
    plan_programs(e);
    return lt_engine_plan_boundaries(e, err);
}

/* Equal chunks of about 64 MiB of logits.  The weight of the head is packed anew for each: at least 64 rows. */
static int32_t choose_loss_chunk(int64_t labels, int64_t vocab)
{
    int64_t most = lt_max_i64(64, (64 << 20) / (vocab * (int64_t)sizeof(float)));
    int64_t chunks = lt_max_i64(1, lt_div_up(labels, most));
    return (int32_t)lt_max_i64(1, lt_div_up(labels, chunks));
}

enum lt_status lt_engine_create(struct lt_engine **out, struct lt_model *model, struct lt_backend *backend,
                                const struct lt_engine_options *opt, struct lt_error *err)
{
    *out = NULL;
    struct lt_engine *e = lt_alloc_zero(1, sizeof *e);
    if (!e)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the engine");
    e->model = model;
    e->places[LT_PLACE_HOST].be = backend;
    e->opt = *opt;
    e->lowest = lt_model_lowest_trainable(model);
    e->group = opt->train && opt->micro_batches > 1 ? opt->micro_batches : 1;
    if (e->group > 1 && !lt_engine_layer_major_possible(model)) {
        lt_free(e);
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "the embedding is trained and also the head: only one micro-batch at a time can go "
                       "through this model");
    }
    if (e->opt.loss_chunk <= 0)
        e->opt.loss_chunk = choose_loss_chunk(opt->capacity.labels, model->vocab);
    size_t segments = (size_t)lt_model_segments(model);
    e->place_of = lt_alloc_zero(segments, sizeof *e->place_of);
    e->tape_offset = lt_alloc_zero(segments, sizeof *e->tape_offset);
    e->cache_index = lt_alloc_zero(segments, sizeof *e->cache_index);
    e->live = lt_alloc_zero((size_t)e->group, sizeof *e->live);
    e->vector_offset = lt_alloc_zero((size_t)model->tensor_count, sizeof *e->vector_offset);
    enum lt_status status = LT_OK;
    if (!e->place_of || !e->tape_offset || !e->cache_index || !e->live || !e->vector_offset)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the engine");
    else if (opt->device && backend->ops->counters)
        status =
            lt_fail(err, LT_ERR_UNSUPPORTED,
                    "the %s backend cannot share a model with the %s backend: one of the two must be the "
                    "processor",
                    backend->name, opt->device->name);
    if (status == LT_OK)
        status = lt_engine_compile(e, err);
    if (status == LT_OK)
        status = lt_engine_plan_memory(e, err);
    if (status != LT_OK) {
        lt_engine_destroy(e);
        return status;
    }
    *out = e;
    return LT_OK;
}

enum { BUFFERS = 11 };

/* In the order in which they are made. */
static void list_buffers(const struct lt_engine_memory *m, size_t bytes[BUFFERS])
{
    const size_t all[BUFFERS] = {m->params, m->grads,     m->vectors, m->tables, m->boundaries, m->tape,
                                 m->arena,  m->workspace, m->inputs,  m->cache,  m->logits};
    memcpy(bytes, all, sizeof all);
}

static enum lt_status allocate_buffers(struct lt_place *p, struct lt_error *err)
{
    struct lt_buffer **buffers[BUFFERS] = {&p->params,     &p->grads, &p->vectors, &p->tables,
                                           &p->boundaries, &p->tape,  &p->arena,   &p->workspace,
                                           &p->inputs,     &p->cache, &p->logits};
    size_t bytes[BUFFERS];
    list_buffers(&p->memory, bytes);
    for (int i = 0; i < BUFFERS; i++)
        if (bytes[i] > 0)
            LT_TRY(p->be->ops->buffer_create(p->be, bytes[i], buffers[i], err));
    return LT_OK;
}

/* ---- what a device will hold ---- */

static enum lt_place_id device_of(const struct lt_engine *e)
{
    return e->places[LT_PLACE_DEVICE].be ? LT_PLACE_DEVICE : LT_PLACE_HOST;
}

/* The tensor of whose weight this one has a copy on its backend from the start, or NULL. */
static const struct lt_model_tensor *copied_weight(const struct lt_engine *e, int tensor)
{
    const struct lt_model_tensor *t = &e->model->tensors[tensor];
    if (t->kind == LT_TENSOR_VECTOR || lt_engine_weight_of(e, tensor) != tensor)
        return NULL;
    if (t->shared >= 0)
        t = &e->model->tensors[t->shared];
    return t->trainable || t->streamed ? NULL : t;
}

void lt_engine_device_buffers(const struct lt_engine *e, struct lt_device_plan *p)
{
    enum lt_place_id device = device_of(e);
    size_t bytes[BUFFERS];
    list_buffers(&e->places[device].memory, bytes);
    for (int i = 0; i < BUFFERS; i++)
        lt_device_plan_add(p, bytes[i]);
    for (int i = 0; i < e->model->tensor_count; i++) {
        const struct lt_model_tensor *t = copied_weight(e, i);
        if (t && e->place_of[e->model->tensors[i].segment] == device)
            p->weights += lt_device_plan_add_weight(p, e->places[device].be, &t->weight, t->nested);
    }
}

/* So many tensors of this one's form are in its layer, up to it. */
static int same_form(const struct lt_model *m, int segment, int index, const struct lt_model_tensor *form)
{
    int n = 0;
    for (int i = 0; i <= index; i++) {
        const struct lt_model_tensor *t = lt_model_tensor(m, segment, i);
        n += t->streamed && t->rows == form->rows && t->cols == form->cols &&
             t->weight.format == form->weight.format && t->nested == form->nested &&
             t->weight.blocksize == form->weight.blocksize;
    }
    return n;
}

/* In a whole layer; none in layer 0, which stands for no layer. */
static int all_of_form(const struct lt_model *m, int segment, const struct lt_model_tensor *form)
{
    return segment < 1 ? 0 : same_form(m, segment, lt_model_segment_tensors(m, segment) - 1, form);
}

/* The next layer below in the same place; 0: none. */
static int layer_below(const struct lt_engine *e, int segment)
{
    int s = segment - 1;
    while (s > 0 && e->place_of[s] != e->place_of[segment])
        s--;
    return s;
}

/* Weights of the same form take turns, those of two layers at a time: a layer brings new buffers for what it and the one
 * before it have more than any two neighbours below. */
void lt_engine_device_streamed(const struct lt_engine *e, struct lt_device_plan *p)
{
    const struct lt_model *m = e->model;
    enum lt_place_id device = device_of(e);
    for (int s = 1; s <= m->layers; s++)
        for (int i = 0; e->place_of[s] == device && i < lt_model_segment_tensors(m, s); i++) {
            const struct lt_model_tensor *t = lt_model_tensor(m, s, i);
            if (!t->streamed)
                continue;
            int need = same_form(m, s, i, t) + all_of_form(m, layer_below(e, s), t), most = 0;
            for (int k = layer_below(e, s); k > 0 && most < need; k = layer_below(e, k)) {
                int have = all_of_form(m, k, t) + all_of_form(m, layer_below(e, k), t);
                most = have > most ? have : most;
            }
            if (need > most)
                p->streamed += lt_device_plan_add_weight(p, e->places[device].be, &t->weight, t->nested);
        }
}

/* ---- allocation ---- */

static enum lt_status upload_tables(struct lt_engine *e, struct lt_place *p, struct lt_error *err)
{
    const struct lt_model *m = e->model;
    if (!p->tables)
        return LT_OK;
    float *row = lt_alloc_array((size_t)m->rotary, sizeof *row);
    if (!row)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a rope table");
    enum lt_status status = LT_OK;
    size_t row_bytes = (size_t)m->rotary * sizeof(float);
    for (int which = 0; which < m->rope_tables; which++)
        for (int32_t i = 0; status == LT_OK && i < m->table_positions; i++) {
            m->rope_fill(m, which, i, row);
            status = p->be->ops->buffer_write(p->be, p->tables,
                                              (size_t)which * table_bytes(e) + (size_t)i * row_bytes, row,
                                              row_bytes, err);
        }
    lt_free(row);
    return status;
}

/* A tensor that uses the storage of another one uses its binding, where both are in the same place. */
static enum lt_status bind_tensor(struct lt_engine *e, int i, struct lt_error *err)
{
    const struct lt_model_tensor *t = &e->model->tensors[i];
    struct lt_place *p = lt_engine_place(e, t->segment);
    if (t->kind == LT_TENSOR_VECTOR) {
        if (t->trainable)
            return LT_OK;
        return p->be->ops->buffer_write(p->be, p->vectors, e->vector_offset[i], t->vector,
                                        (size_t)t->cols * sizeof(float), err);
    }
    if (lt_engine_weight_of(e, i) != i)
        return LT_OK;
    if (t->trainable) {
        struct lt_weight w = {
            .format = LT_WEIGHT_F32, .transposed = t->transposed, .rows = t->rows, .cols = t->cols};
        size_t at = lt_engine_param_at(p, t->param_offset) * sizeof(float);
        return p->be->ops->weight_view(p->be, &w, p->params, at, &e->weights[i], err);
    }
    return p->be->ops->weight_create(p->be, &t->weight, &e->weights[i], err);
}

enum lt_status lt_engine_allocate(struct lt_engine *e, struct lt_error *err)
{
    e->weights = lt_alloc_zero((size_t)e->model->tensor_count, sizeof *e->weights);
    e->bindings = lt_alloc_zero(e->max_externs, sizeof *e->bindings);
    if (!e->weights || !e->bindings)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding the model");
    for (int i = 0; i < LT_PLACES; i++) {
        LT_TRY(allocate_buffers(&e->places[i], err));
        LT_TRY(upload_tables(e, &e->places[i], err));
    }
    LT_TRY(lt_engine_boundary_file_create(e, err));
    if (e->places[LT_PLACE_HOST].memory.stream > 0)
        LT_TRY(lt_engine_stream_create(e, err));
    for (int i = 0; i < e->model->tensor_count; i++)
        LT_TRY(bind_tensor(e, i, err));
    return LT_OK;
}
