/* Programs: recorded once for each set of bindings, submitted again in every later step. */
#include <string.h>

#include "backends/vulkan/vk_internal.h"
#include "core/base/alloc.h"
#include "core/base/checked.h"

/* Everything that a recording has fixed.  Buffers by number: an address may be used again. */
struct binding_key {
    uint64_t buffer, offset;
};

struct variant {
    struct binding_key *bindings; /* [values + 3]: extern values, then arena, tape, workspace */
    uint32_t site_base;
    bool training;
    struct lt_vk_recording recording;
};

struct lt_compiled {
    const struct lt_program *program;
    size_t workspace;
    struct variant *variants;
    size_t count, cap;
    struct binding_key *wanted; /* of the run at hand */
};

enum lt_status lt_vk_compile(struct lt_backend *be, const struct lt_program *p, struct lt_compiled **out,
                             struct lt_error *err)
{
    (void)be;
    *out = NULL;
    struct lt_compiled *c = lt_alloc_zero(1, sizeof *c);
    if (c)
        c->wanted = lt_alloc_zero(p->graph.value_count + 3, sizeof *c->wanted);
    if (!c || !c->wanted) {
        lt_free(c);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling a program");
    }
    c->program = p;
    for (size_t i = 0; i < p->graph.node_count; i++) {
        size_t bytes = lt_vk_op_workspace(p, &p->graph.nodes[i]);
        c->workspace = bytes > c->workspace ? bytes : c->workspace;
    }
    *out = c;
    return LT_OK;
}

void lt_vk_compiled_destroy(struct lt_backend *be, struct lt_compiled *c)
{
    struct lt_vk *vk = lt_vk_of(be);
    if (!c)
        return;
    (void)!lt_vk_queue_wait(&vk->queue, NULL);
    for (size_t i = 0; i < c->count; i++) {
        lt_vk_recording_release(&vk->queue, &c->variants[i].recording);
        lt_free(c->variants[i].bindings);
    }
    lt_free(c->variants);
    lt_free(c->wanted);
    lt_free(c);
}

size_t lt_vk_workspace_bytes(struct lt_backend *be, const struct lt_compiled *c)
{
    (void)be;
    return c->workspace;
}

/* ---- recording ---- */

static struct lt_vk_ref place_of(const struct lt_program *p, const struct lt_run *run, int number)
{
    const struct lt_value *v = &p->graph.values[number];
    size_t bytes = (size_t)lt_value_capacity_rows(v, &p->capacity) * (size_t)v->cols *
                   (lt_dtype_bits(v->dtype) / 8);
    if (v->storage == LT_STORE_ARENA)
        return (struct lt_vk_ref){run->arena, v->offset, bytes};
    if (v->storage == LT_STORE_TAPE)
        return (struct lt_vk_ref){run->tape, run->tape_offset + v->offset, bytes};
    const struct lt_binding *b = &run->bindings[number];
    if (b->weight)
        return (struct lt_vk_ref){0};
    return (struct lt_vk_ref){b->buffer, b->offset + (size_t)v->ext_offset * (lt_dtype_bits(v->dtype) / 8),
                              bytes};
}

static enum lt_vk_rows kind_of(const struct lt_value *v)
{
    if (v->rows == LT_ROWS_TOKENS)
        return LT_VK_ROWS_TOKENS;
    return v->rows == LT_ROWS_LABELS ? LT_VK_ROWS_LABELS : LT_VK_ROWS_FIXED;
}

static void fill_call(struct lt_vk_call *c, const struct lt_program *p, const struct lt_node *n,
                      const struct lt_run *run)
{
    c->node = n;
    for (int k = 0; k < LT_MAX_IN; k++) {
        if (n->in[k] < 0)
            continue;
        const struct lt_value *v = &p->graph.values[n->in[k]];
        c->in[k] = place_of(p, run, n->in[k]);
        if (v->storage == LT_STORE_EXTERN)
            c->weight[k] = run->bindings[n->in[k]].weight;
        c->in_rows[k] = lt_value_capacity_rows(v, &p->capacity);
        c->in_cols[k] = v->cols;
        c->in_kind[k] = kind_of(v);
    }
    for (int k = 0; k < LT_MAX_OUT; k++) {
        if (n->out[k] < 0)
            continue;
        const struct lt_value *v = &p->graph.values[n->out[k]];
        c->out[k] = place_of(p, run, n->out[k]);
        c->out_rows[k] = lt_value_capacity_rows(v, &p->capacity);
        c->out_cols[k] = v->cols;
        c->out_kind[k] = kind_of(v);
    }
}

static void record_ops(struct lt_vk_recorder *r, const struct lt_program *p, const struct lt_run *run)
{
    for (size_t i = 0; i < p->graph.node_count && r->status == LT_OK; i++) {
        const struct lt_node *n = &p->graph.nodes[i];
        struct lt_vk_call c = {.rec = r,
                               .capacity = &p->capacity,
                               .site = run->params.site_base + n->attr.site,
                               .training = run->params.training};
        if (run->workspace)
            c.workspace = (struct lt_vk_ref){run->workspace, 0, run->workspace->size};
        fill_call(&c, p, n, run);
        r->op = lt_op_info[n->op].name;
        lt_vk_op_table[n->op](&c);
    }
}

/* The first time the pipelines are looked up in a round of their own, so that they are compiled side by side. */
static enum lt_status record(struct lt_vk *vk, const struct lt_program *p, const struct lt_run *run,
                             bool first, struct lt_vk_recording *out, struct lt_error *err)
{
    struct lt_vk_recorder r = {.device = &vk->device,
                               .pipelines = &vk->pipelines,
                               .queue = &vk->queue,
                               .step = vk->step,
                               .out = out,
                               .looking = first};
    if (first) {
        record_ops(&r, p, run);
        if (r.status == LT_OK)
            r.status = lt_vk_pipelines_make(&vk->pipelines, &r.error);
        r.looking = false;
    }
    record_ops(&r, p, run);
    return lt_vk_record_end(&r, err);
}

static struct binding_key key_of_buffer(const struct lt_buffer *b, size_t offset)
{
    return (struct binding_key){b ? b->id : 0, offset};
}

static void fill_key(const struct lt_compiled *c, const struct lt_run *run)
{
    const struct lt_graph *g = &c->program->graph;
    for (size_t i = 0; i < g->value_count; i++) {
        if (g->values[i].storage != LT_STORE_EXTERN)
            continue;
        const struct lt_binding *b = &run->bindings[i];
        c->wanted[i] = b->weight ? key_of_buffer(b->weight->data.buffer, b->weight->data.offset)
                                 : key_of_buffer(b->buffer, b->offset);
    }
    c->wanted[g->value_count] = key_of_buffer(run->arena, 0);
    c->wanted[g->value_count + 1] = key_of_buffer(run->tape, run->tape_offset);
    c->wanted[g->value_count + 2] = key_of_buffer(run->workspace, 0);
}

/* The recording for these bindings, made now when there is none. */
static enum lt_status find_recording(struct lt_vk *vk, struct lt_compiled *c, const struct lt_run *run,
                                     const struct lt_vk_recording **out, struct lt_error *err)
{
    size_t n = c->program->graph.value_count + 3;
    fill_key(c, run);
    for (size_t i = 0; i < c->count; i++) {
        struct variant *v = &c->variants[i];
        if (v->site_base == run->params.site_base && v->training == run->params.training &&
            memcmp(v->bindings, c->wanted, n * sizeof *c->wanted) == 0) {
            *out = &v->recording;
            return LT_OK;
        }
    }
    struct variant v = {.site_base = run->params.site_base, .training = run->params.training};
    v.bindings = lt_alloc_array(n, sizeof *v.bindings);
    if (!v.bindings || !lt_reserve((void **)&c->variants, &c->cap, c->count, sizeof *c->variants)) {
        lt_free(v.bindings);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while recording a program");
    }
    memcpy(v.bindings, c->wanted, n * sizeof *c->wanted);
    enum lt_status status = record(vk, c->program, run, c->count == 0, &v.recording, err);
    if (status != LT_OK) {
        lt_free(v.bindings);
        return status;
    }
    c->variants[c->count] = v;
    *out = &c->variants[c->count++].recording;
    return LT_OK;
}

/* ---- running ---- */

static struct lt_vk_step step_of(const struct lt_step_params *p)
{
    return (struct lt_vk_step){
        .n_tokens = (uint32_t)p->n_tokens,
        .n_labels = (uint32_t)p->n_labels,
        .loss_scale = p->loss_scale,
        .max_grad_norm = p->max_grad_norm,
        .seed_lo = (uint32_t)p->seed,
        .seed_hi = (uint32_t)(p->seed >> 32),
        .step = p->step,
        .lr = (float)p->lr,
        .weight_decay = (float)p->weight_decay,
        .keep = (float)(1.0 - p->lr * p->weight_decay),
        .beta1 = (float)p->beta1,
        .rest1 = (float)(1.0 - p->beta1),
        .beta2 = (float)p->beta2,
        .rest2 = (float)(1.0 - p->beta2),
        .adamw_step = p->bias_correction1 > 0 ? (float)(p->lr / p->bias_correction1) : 0.0f,
        .correction = (float)p->sqrt_bias_correction2,
        .eps = (float)p->eps,
        .adamw8_step =
            p->bias_correction1 > 0 ? (float)(p->lr * p->sqrt_bias_correction2 / p->bias_correction1) : 0.0f,
        .adamw8_eps = (float)(p->sqrt_bias_correction2 * p->eps)};
}

/* The step's numbers change once a micro-batch, not with every program. */
static enum lt_status update_step(struct lt_vk *vk, const struct lt_step_params *p, struct lt_error *err)
{
    struct lt_vk_step wanted = step_of(p);
    if (vk->step_known && memcmp(&wanted, &vk->now, sizeof wanted) == 0)
        return LT_OK;
    vk->now = wanted;
    vk->step_known = true;
    return lt_vk_queue_write(&vk->queue, vk->step, 0, &wanted, sizeof wanted, err);
}

enum lt_status lt_vk_run(struct lt_backend *be, const struct lt_compiled *code, const struct lt_run *run,
                         struct lt_error *err)
{
    struct lt_vk *vk = lt_vk_of(be);
    struct lt_compiled *c = (struct lt_compiled *)(uintptr_t)code; /* it only remembers what was recorded */
    const struct lt_capacity *cap = &c->program->capacity;
    const struct lt_vk_recording *recording = NULL;
    if (run->params.n_tokens > cap->tokens || run->params.n_labels > cap->labels)
        return lt_fail(
            err, LT_ERR_INVALID, "a batch of %d tokens and %d labels is above the planned %lld and %lld",
            run->params.n_tokens, run->params.n_labels, (long long)cap->tokens, (long long)cap->labels);
    LT_TRY(find_recording(vk, c, run, &recording, err));
    LT_TRY(update_step(vk, &run->params, err));
    vk->runs++;
    vk->queue.counters.dispatches += recording->dispatches;
    for (size_t i = 0; i < recording->count; i++) {
        const struct lt_vk_piece *p = &recording->pieces[i];
        LT_TRY(lt_vk_queue_append(&vk->queue, p->commands, p->work, p->op, err));
    }
    return LT_OK;
}
