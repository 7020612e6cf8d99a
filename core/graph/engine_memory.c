#include "core/graph/engine_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

size_t lt_engine_memory_total(const struct lt_engine_memory *m)
{
    return m->params + m->grads + m->vectors + m->tables + m->boundaries + m->tape + m->arena + m->workspace +
           m->inputs + m->stream + m->cache + m->logits;
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
    return &e->memory;
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

static void plan_tape(struct lt_engine *e)
{
    e->tape_bytes = 0;
    for (int s = 0; e->opt.train && s < lt_model_segments(e->model); s++) {
        e->tape_offset[s] = e->tape_bytes;
        e->tape_bytes += e->of_segment[LT_PASS_TRAIN][s]->tape_bytes;
    }
    e->memory.tape = (size_t)e->group * e->tape_bytes;
}

enum lt_status lt_engine_plan_memory(struct lt_engine *e, struct lt_error *err)
{
    struct lt_engine_memory *m = &e->memory;
    const struct lt_model *model = e->model;
    memset(m, 0, sizeof *m);
    m->params = e->opt.param_elements * sizeof(float);
    m->grads = e->opt.train ? m->params : 0;
    for (int i = 0; i < model->tensor_count; i++) {
        const struct lt_model_tensor *t = &model->tensors[i];
        e->vector_offset[i] = m->vectors;
        if (t->kind == LT_TENSOR_VECTOR && !t->trainable)
            m->vectors += lt_align_up((size_t)t->cols * sizeof(float), LT_VALUE_ALIGN);
    }
    m->tables = (size_t)model->rope_tables * table_bytes(e);
    LT_TRY(lt_engine_plan_boundaries(e, err));
    plan_tape(e);
    for (size_t i = 0; i < e->stage_count; i++) {
        const struct lt_stage *s = e->stages[i];
        m->arena = max_size(m->arena, max_size(s->fwd.arena_bytes, s->bwd.arena_bytes));
        m->workspace = max_size(m->workspace, e->be->ops->workspace_bytes(e->be, s->fwd_code));
        if (s->has_bwd)
            m->workspace = max_size(m->workspace, e->be->ops->workspace_bytes(e->be, s->bwd_code));
    }
    m->inputs = lt_engine_input_offset(e, 0, e->group);
    m->stream = lt_engine_stream_bytes(model);
    m->cache = e->opt.decode ? 2 * (size_t)model->layers * lt_engine_cache_bytes(e) : 0;
    if (e->of_segment[LT_PASS_LOGITS] || e->of_segment[LT_PASS_DECODE])
        m->logits = (size_t)e->opt.capacity.labels * (size_t)model->vocab * sizeof(float);
    return LT_OK;
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
    e->be = backend;
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
    e->tape_offset = lt_alloc_zero(segments, sizeof *e->tape_offset);
    e->live = lt_alloc_zero((size_t)e->group, sizeof *e->live);
    e->vector_offset = lt_alloc_zero((size_t)model->tensor_count, sizeof *e->vector_offset);
    enum lt_status status = LT_OK;
    if (!e->tape_offset || !e->live || !e->vector_offset)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the engine");
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

static enum lt_status allocate_buffers(struct lt_engine *e, struct lt_error *err)
{
    struct lt_buffer **buffers[BUFFERS] = {&e->params,     &e->grads, &e->vectors, &e->tables,
                                           &e->boundaries, &e->tape,  &e->arena,   &e->workspace,
                                           &e->inputs,     &e->cache, &e->logits};
    size_t bytes[BUFFERS];
    list_buffers(&e->memory, bytes);
    for (int i = 0; i < BUFFERS; i++)
        if (bytes[i] > 0)
            LT_TRY(e->be->ops->buffer_create(e->be, bytes[i], buffers[i], err));
    return LT_OK;
}

/* ---- what a device will hold ---- */

/* Whether a matrix has a copy of its own on the device from the start. */
static bool is_copied(const struct lt_model_tensor *t)
{
    return t->kind != LT_TENSOR_VECTOR && t->shared < 0 && !t->trainable && !t->streamed;
}

void lt_engine_device_buffers(const struct lt_engine *e, struct lt_device_plan *p)
{
    size_t bytes[BUFFERS];
    list_buffers(&e->memory, bytes);
    for (int i = 0; i < BUFFERS; i++)
        lt_device_plan_add(p, bytes[i]);
    for (int i = 0; i < e->model->tensor_count; i++) {
        const struct lt_model_tensor *t = &e->model->tensors[i];
        if (is_copied(t))
            p->weights += lt_device_plan_add_weight(p, e->be, &t->weight, t->nested);
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

/* In a whole layer; none in those below the first. */
static int all_of_form(const struct lt_model *m, int segment, const struct lt_model_tensor *form)
{
    return segment < 1 ? 0 : same_form(m, segment, lt_model_segment_tensors(m, segment) - 1, form);
}

/* Weights of the same form take turns, those of two layers at a time: a layer brings new buffers for what it and the one
 * before it have more than any two neighbours below. */
void lt_engine_device_streamed(const struct lt_engine *e, struct lt_device_plan *p)
{
    const struct lt_model *m = e->model;
    for (int s = 1; s <= m->layers; s++)
        for (int i = 0; i < lt_model_segment_tensors(m, s); i++) {
            const struct lt_model_tensor *t = lt_model_tensor(m, s, i);
            if (!t->streamed)
                continue;
            int need = same_form(m, s, i, t) + all_of_form(m, s - 1, t), most = 0;
            for (int k = 1; k < s && most < need; k++) {
                int have = all_of_form(m, k, t) + all_of_form(m, k - 1, t);
                most = have > most ? have : most;
            }
            if (need > most)
                p->streamed += lt_device_plan_add_weight(p, e->be, &t->weight, t->nested);
        }
}

/* ---- allocation ---- */

static enum lt_status upload_tables(struct lt_engine *e, struct lt_error *err)
{
    const struct lt_model *m = e->model;
    float *row = m->rope_tables ? lt_alloc_array((size_t)m->rotary, sizeof *row) : NULL;
    if (m->rope_tables && !row)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a rope table");
    enum lt_status status = LT_OK;
    size_t row_bytes = (size_t)m->rotary * sizeof(float);
    for (int which = 0; which < m->rope_tables; which++)
        for (int32_t p = 0; status == LT_OK && p < m->table_positions; p++) {
            m->rope_fill(m, which, p, row);
            status = e->be->ops->buffer_write(e->be, e->tables,
                                              (size_t)which * table_bytes(e) + (size_t)p * row_bytes, row,
                                              row_bytes, err);
        }
    lt_free(row);
    return status;
}

/* A tensor that uses the storage of another one uses its binding. */
static enum lt_status bind_tensor(struct lt_engine *e, int i, struct lt_error *err)
{
    const struct lt_model_tensor *t = &e->model->tensors[i];
    if (t->kind == LT_TENSOR_VECTOR) {
        if (t->trainable)
            return LT_OK;
        return e->be->ops->buffer_write(e->be, e->vectors, e->vector_offset[i], t->vector,
                                        (size_t)t->cols * sizeof(float), err);
    }
    if (t->shared >= 0)
        return LT_OK;
    if (t->trainable) {
        struct lt_weight w = {
            .format = LT_WEIGHT_F32, .transposed = t->transposed, .rows = t->rows, .cols = t->cols};
        return e->be->ops->weight_view(e->be, &w, e->params, t->param_offset * sizeof(float), &e->weights[i],
                                       err);
    }
    return e->be->ops->weight_create(e->be, &t->weight, &e->weights[i], err);
}

enum lt_status lt_engine_allocate(struct lt_engine *e, struct lt_error *err)
{
    e->weights = lt_alloc_zero((size_t)e->model->tensor_count, sizeof *e->weights);
    e->bindings = lt_alloc_zero(e->max_externs, sizeof *e->bindings);
    if (!e->weights || !e->bindings)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding the model");
    LT_TRY(allocate_buffers(e, err));
    LT_TRY(upload_tables(e, err));
    LT_TRY(lt_engine_boundary_file_create(e, err));
    if (e->memory.stream > 0)
        LT_TRY(lt_engine_stream_create(e, err));
    for (int i = 0; i < e->model->tensor_count; i++)
        LT_TRY(bind_tensor(e, i, err));
    return LT_OK;
}
