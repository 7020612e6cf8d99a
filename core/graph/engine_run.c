#include "core/graph/engine_internal.h"

#include <string.h>

#include "core/base/system.h"

enum lt_status lt_engine_write_params(struct lt_engine *e, size_t offset, const float *src, size_t n,
                                      struct lt_error *err)
{
    const struct lt_place *p = &e->places[LT_PLACE_HOST];
    lt_engine_params_changed(e);
    return p->be->ops->buffer_write(p->be, p->params, offset * sizeof *src, src, n * sizeof *src, err);
}

enum lt_status lt_engine_read_params(struct lt_engine *e, size_t offset, float *dst, size_t n,
                                     struct lt_error *err)
{
    const struct lt_place *p = &e->places[LT_PLACE_HOST];
    return p->be->ops->buffer_read(p->be, p->params, offset * sizeof *dst, dst, n * sizeof *dst, err);
}

enum lt_status lt_engine_read_grads(struct lt_engine *e, size_t offset, float *dst, size_t n,
                                    struct lt_error *err)
{
    const struct lt_place *p = &e->places[LT_PLACE_HOST];
    return p->be->ops->buffer_read(p->be, p->grads, offset * sizeof *dst, dst, n * sizeof *dst, err);
}

enum lt_status lt_engine_zero_grads(struct lt_engine *e, struct lt_error *err)
{
    for (int i = 0; i < LT_PLACES; i++) {
        const struct lt_place *p = &e->places[i];
        if (p->grads)
            LT_TRY(p->be->ops->buffer_zero(p->be, p->grads, 0, p->memory.grads, err));
    }
    return LT_OK;
}

struct lt_buffer *lt_engine_params(struct lt_engine *e)
{
    return e->places[LT_PLACE_HOST].params;
}

struct lt_buffer *lt_engine_grads(struct lt_engine *e)
{
    return e->places[LT_PLACE_HOST].grads;
}

static enum lt_status upload_to(struct lt_engine *e, const struct lt_place *p, const struct lt_tokens *t,
                                int32_t micro_batch, struct lt_error *err)
{
    const struct {
        int input;
        const void *array;
        int32_t n;
    } arrays[] = {{LT_IN_IDS, t->ids, t->n_tokens},
                  {LT_IN_POSITIONS, t->positions, t->n_tokens},
                  {LT_IN_KV_BEGIN, t->kv_begin, t->n_tokens},
                  {LT_IN_KV_END, t->kv_end, t->n_tokens},
                  {LT_IN_ROW_KEY, t->row_key, t->n_tokens},
                  {LT_IN_CACHE_SLOTS, t->cache_slots, t->n_tokens},
                  {LT_IN_LABEL_ROWS, t->label_rows, t->n_labels},
                  {LT_IN_LABELS, t->labels, t->n_labels}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (arrays[i].array && arrays[i].n > 0)
            LT_TRY(p->be->ops->buffer_write(p->be, p->inputs,
                                            lt_engine_input_offset(e, arrays[i].input, micro_batch),
                                            arrays[i].array, (size_t)arrays[i].n * sizeof(int32_t), err));
    return LT_OK;
}

enum lt_status lt_engine_upload(struct lt_engine *e, const struct lt_tokens *t, int32_t micro_batch,
                                struct lt_error *err)
{
    for (int i = 0; i < LT_PLACES; i++)
        if (e->places[i].be)
            LT_TRY(upload_to(e, &e->places[i], t, micro_batch, err));
    e->live[micro_batch] = (struct lt_live_rows){.tokens = t->n_tokens, .labels = t->n_labels};
    return LT_OK;
}

/* One run of one segment: whose inputs it reads, and where its hidden states lie in the boundary buffer. */
struct visit {
    int segment;
    int32_t micro_batch;
    size_t hidden[LT_HIDDEN_COUNT];
};

static struct lt_binding bind_tensor_value(struct lt_engine *e, int segment, const struct lt_value *v)
{
    const struct lt_place *p = lt_engine_place(e, segment);
    int number = e->model->segment_first[segment] + v->ext_index;
    const struct lt_model_tensor *t = &e->model->tensors[number];
    if (t->kind != LT_TENSOR_VECTOR)
        return (struct lt_binding){.weight = e->weights[lt_engine_weight_of(e, number)]};
    if (t->trainable)
        return (struct lt_binding){.buffer = p->params,
                                   .offset = lt_engine_param_at(p, t->param_offset) * sizeof(float)};
    return (struct lt_binding){.buffer = p->vectors, .offset = e->vector_offset[number]};
}

static struct lt_binding bind_flat(struct lt_engine *e, int segment, const struct lt_value *v)
{
    const struct lt_place *p = lt_engine_place(e, segment);
    bool grad = v->ext_kind == LT_EXT_GRAD || v->ext_kind == LT_EXT_ADAPTER_GRAD;
    bool adapter = v->ext_kind == LT_EXT_ADAPTER || v->ext_kind == LT_EXT_ADAPTER_GRAD;
    const struct lt_model_tensor *t =
        lt_model_tensor(e->model, segment, adapter ? v->ext_index / 2 : v->ext_index);
    if (t->shared >= 0)
        t = &e->model->tensors[t->shared];
    size_t element = !adapter ? t->param_offset : v->ext_index % 2 ? t->lora.b_offset : t->lora.a_offset;
    return (struct lt_binding){.buffer = grad ? p->grads : p->params,
                               .offset = lt_engine_param_at(p, element) * sizeof(float)};
}

static struct lt_binding bind_input(const struct lt_engine *e, const struct lt_place *p, int which,
                                    int32_t micro_batch)
{
    if (which == LT_IN_ROPE_TABLE || which == LT_IN_ROPE_TABLE_LOCAL)
        return (struct lt_binding){.buffer = p->tables,
                                   .offset = which == LT_IN_ROPE_TABLE ? 0 : p->memory.tables / 2};
    return (struct lt_binding){.buffer = p->inputs, .offset = lt_engine_input_offset(e, which, micro_batch)};
}

static struct lt_binding bind_value(struct lt_engine *e, const struct visit *at, const struct lt_value *v)
{
    int segment = at->segment;
    const struct lt_place *p = lt_engine_place(e, segment);
    switch (v->ext_kind) {
    case LT_EXT_INPUT:
        return bind_input(e, p, v->ext_index, at->micro_batch);
    case LT_EXT_TENSOR:
        return bind_tensor_value(e, segment, v);
    case LT_EXT_ADAPTER:
    case LT_EXT_GRAD:
    case LT_EXT_ADAPTER_GRAD:
        return bind_flat(e, segment, v);
    case LT_EXT_HIDDEN:
        return (struct lt_binding){.buffer = p->boundaries, .offset = at->hidden[v->ext_index]};
    case LT_EXT_OUTPUT:
        if (v->ext_index == LT_OUT_LOGITS)
            return (struct lt_binding){.buffer = p->logits};
        return bind_input(e, p, LT_IN_COUNT + (v->ext_index == LT_OUT_ARGMAX), at->micro_batch);
    case LT_EXT_CACHE:
        return (struct lt_binding){.buffer = p->cache,
                                   .offset = (size_t)(2 * e->cache_index[segment] + v->ext_index) *
                                             lt_engine_cache_bytes(e)};
    case LT_EXT_OPTIM:
        break;
    }
    return (struct lt_binding){0};
}

static enum lt_status run_program(struct lt_engine *e, const struct visit *at, const struct lt_program *p,
                                  const struct lt_compiled *code, const struct lt_step_params *params,
                                  struct lt_error *err)
{
    const struct lt_place *place = lt_engine_place(e, at->segment);
    if (e->place_of[at->segment] == LT_PLACE_DEVICE)
        LT_TRY(lt_engine_send_params(e, err));
    for (size_t i = 0; i < p->graph.value_count; i++)
        if (p->graph.values[i].storage == LT_STORE_EXTERN)
            e->bindings[i] = bind_value(e, at, &p->graph.values[i]);
    struct lt_run run = {.bindings = e->bindings,
                         .arena = place->arena,
                         .tape = place->tape,
                         .workspace = place->workspace,
                         .tape_offset = (size_t)at->micro_batch * place->tape_bytes +
                                        e->tape_offset[at->segment],
                         .params = *params};
    run.params.site_base = (uint32_t)at->segment * 1024u;
    run.params.n_tokens = e->live[at->micro_batch].tokens;
    run.params.n_labels = e->live[at->micro_batch].labels;
    return place->be->ops->run(place->be, code, &run, err);
}

/* The gradient of a segment's input, where the one below runs backward, to the place of that one. */
static enum lt_status pass_gradient_on(struct lt_engine *e, const struct visit *at, struct lt_error *err)
{
    size_t offset = at->hidden[LT_HIDDEN_DIN];
    bool wanted = e->lowest >= 0 && at->segment > e->lowest;
    return wanted ? lt_engine_cross(e, at->segment, offset, at->segment - 1, offset, at->micro_batch, err)
                  : LT_OK;
}

enum lt_status lt_engine_run_forward(struct lt_engine *e, enum lt_pass pass, int segment, int32_t micro_batch,
                                     const struct lt_step_params *params, struct lt_error *err)
{
    const struct lt_stage *stage = e->of_segment[pass][segment];
    const enum lt_place_id place = stage->place;
    bool head = segment == e->model->layers + 1;
    struct visit at = {.segment = segment, .micro_batch = micro_batch};
    if (segment > 0)
        at.hidden[LT_HIDDEN_IN] = lt_engine_hidden_offset(e, place, pass, segment - 1, micro_batch);
    if (!head)
        at.hidden[LT_HIDDEN_OUT] = lt_engine_hidden_offset(e, place, pass, segment, micro_batch);
    else /* the loss gives its gradient at once */
        at.hidden[LT_HIDDEN_DIN] = lt_engine_dhidden_offset(e, segment - 1, micro_batch);
    LT_TRY(lt_engine_boundary_settle(e, at.hidden[head ? LT_HIDDEN_DIN : LT_HIDDEN_OUT], err));
    LT_TRY(run_program(e, &at, &stage->fwd, stage->fwd_code, params, err));
    if (head)
        return pass == LT_PASS_TRAIN ? pass_gradient_on(e, &at, err) : LT_OK;
    if (pass == LT_PASS_TRAIN)
        LT_TRY(lt_engine_boundary_put(e, segment, micro_batch, err));
    size_t there = lt_engine_hidden_offset(e, e->place_of[segment + 1], pass, segment, micro_batch);
    return lt_engine_cross(e, segment, at.hidden[LT_HIDDEN_OUT], segment + 1, there, micro_batch, err);
}

enum lt_status lt_engine_run_backward(struct lt_engine *e, int segment, int32_t micro_batch,
                                      const struct lt_step_params *params, struct lt_error *err)
{
    const struct lt_stage *stage = e->of_segment[LT_PASS_TRAIN][segment];
    if (!stage->has_bwd)
        return LT_OK;
    struct visit at = {.segment = segment, .micro_batch = micro_batch};
    at.hidden[LT_HIDDEN_OUT] = lt_engine_hidden_offset(e, stage->place, LT_PASS_TRAIN, segment, micro_batch);
    at.hidden[LT_HIDDEN_DOUT] = lt_engine_dhidden_offset(e, segment, micro_batch);
    if (segment > 0) {
        LT_TRY(lt_engine_boundary_get(e, segment - 1, micro_batch, &at.hidden[LT_HIDDEN_IN], err));
        at.hidden[LT_HIDDEN_DIN] = lt_engine_dhidden_offset(e, segment - 1, micro_batch);
    }
    LT_TRY(run_program(e, &at, &stage->bwd, stage->bwd_code, params, err));
    return pass_gradient_on(e, &at, err);
}

static enum lt_status read_output(struct lt_engine *e, int which, void *dst, int32_t n, struct lt_error *err)
{
    const struct lt_place *p = lt_engine_head_place(e);
    if (n == 0 || !dst)
        return LT_OK;
    return p->be->ops->buffer_read(p->be, p->inputs, lt_engine_input_offset(e, LT_IN_COUNT + which, 0), dst,
                                   (size_t)n * sizeof(float), err);
}

static enum lt_status run_inference(struct lt_engine *e, enum lt_pass pass, const struct lt_tokens *t,
                                    struct lt_error *err)
{
    const struct lt_step_params p = {.loss_scale = 1};
    LT_TRY(lt_engine_upload(e, t, 0, err));
    for (int s = 0; s < lt_model_segments(e->model); s++) {
        if (pass == LT_PASS_EVAL && lt_cancel_requested())
            return lt_fail(err, LT_ERR_CANCELLED, "stopped during an evaluation");
        LT_TRY(lt_engine_take_weights(e, s, s < e->model->layers ? s + 1 : 1, err));
        LT_TRY(lt_engine_run_forward(e, pass, s, 0, &p, err));
    }
    return LT_OK;
}

enum lt_status lt_engine_eval(struct lt_engine *e, const struct lt_tokens *t, float *losses, int32_t *argmax,
                              struct lt_error *err)
{
    LT_TRY(run_inference(e, LT_PASS_EVAL, t, err));
    LT_TRY(read_output(e, 0, losses, t->n_labels, err));
    return read_output(e, 1, argmax, t->n_labels, err);
}

static enum lt_status read_logits(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                  struct lt_error *err)
{
    const struct lt_place *p = lt_engine_head_place(e);
    if (t->n_labels == 0)
        return LT_OK;
    return p->be->ops->buffer_read(p->be, p->logits, 0, logits,
                                   (size_t)t->n_labels * (size_t)e->model->vocab * sizeof(float), err);
}

enum lt_status lt_engine_logits(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                struct lt_error *err)
{
    LT_TRY(run_inference(e, LT_PASS_LOGITS, t, err));
    return read_logits(e, t, logits, err);
}

enum lt_status lt_engine_decode(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                struct lt_error *err)
{
    LT_TRY(run_inference(e, LT_PASS_DECODE, t, err));
    return read_logits(e, t, logits, err);
}

enum lt_status lt_engine_decode_step(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                     struct lt_error *err)
{
    LT_TRY(run_inference(e, LT_PASS_STEP, t, err));
    return read_logits(e, t, logits, err);
}
