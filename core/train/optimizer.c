#include "core/train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/file.h"
#include "core/base/system.h"
#include "core/train/optimizer_internal.h"

enum {
    PAGED_PIECE = 1 << 20, /* elements one op updates when the state is paged; whole blocks */
    PAGE = 4096
};

/* ---- programs ---- */

static int flat(struct lt_graph *g, enum lt_optim_value which, enum lt_dtype dtype, size_t begin, size_t n)
{
    int id = lt_graph_value_rows(g, LT_ROWS_FIXED, 1, (int64_t)n, dtype);
    if (g->failed)
        return LT_NO_VALUE;
    g->values[id].storage = LT_STORE_EXTERN;
    g->values[id].ext_kind = LT_EXT_OPTIM;
    g->values[id].ext_index = (int)which;
    g->values[id].ext_offset = (int64_t)begin;
    return id;
}

/* A value of the state; counts what the op dirties, with the parts of pages at both ends. */
static int state(struct lt_graph *g, enum lt_optim_value which, enum lt_dtype dtype, size_t begin, size_t n,
                 size_t *written)
{
    *written += n * (lt_dtype_bits(dtype) / 8) + 2 * PAGE;
    return flat(g, which, dtype, begin, n);
}

/* The op for n elements from number `at` on of a run of adjacent tensors that begins with slot s. */
static void add_update(struct lt_optimizer *o, struct lt_graph *g, const struct lt_optimizer_slot *s,
                       size_t at, size_t n)
{
    static const enum lt_op f32_ops[LT_OPTIMIZER_COUNT] = {LT_OP_ADAMW, LT_OP_ADAMW, LT_OP_SGD, LT_OP_LION};
    size_t begin = s->param.offset + at, from = s->state + at, written = 0;
    int in[] = {flat(g, LT_OPTIM_GRAD, LT_F32, begin, n), flat(g, LT_OPTIM_NORM, LT_F32, 0, 1)};
    int out[LT_MAX_OUT] = {flat(g, LT_OPTIM_PARAM, LT_F32, begin, n)}, outs = 1;
    if (s->codes) {
        size_t blocks = (size_t)lt_div_up((int64_t)n, LT_OPTIM_BLOCK), block = from / LT_OPTIM_BLOCK;
        out[outs++] = state(g, LT_OPTIM_M_CODES, LT_U8, from, n, &written);
        out[outs++] = state(g, LT_OPTIM_M_ABSMAX, LT_F32, block, blocks, &written);
        out[outs++] = state(g, LT_OPTIM_V_CODES, LT_U8, from, n, &written);
        out[outs++] = state(g, LT_OPTIM_V_ABSMAX, LT_F32, block, blocks, &written);
    } else {
        int moments = lt_optimizer_moments(o->config.kind);
        if (moments > 0)
            out[outs++] = state(g, LT_OPTIM_M, LT_F32, from, n, &written);
        if (moments > 1)
            out[outs++] = state(g, LT_OPTIM_V, LT_F32, from, n, &written);
    }
    struct lt_node *node = lt_graph_node(g, s->codes ? LT_OP_ADAMW8 : f32_ops[o->config.kind]);
    node->in[0] = in[0];
    node->in[1] = in[1];
    for (int i = 0; i < outs; i++)
        node->out[i] = out[i];
    node->attr.decay = s->param.decay;
    if (written > o->written_bytes)
        o->written_bytes = written;
}

/* As few ops as the layout allows, or pieces when the state is paged. */
static void add_updates(struct lt_optimizer *o, struct lt_graph *g)
{
    const struct lt_optimizer_layout *l = &o->layout;
    for (size_t i = 0, last; i < l->count; i = last + 1) {
        for (last = i; last + 1 < l->count && lt_optimizer_adjacent(&l->slots[last], &l->slots[last + 1]);)
            last++;
        const struct lt_optimizer_param *end = &l->slots[last].param;
        size_t n = end->offset + end->elements - l->slots[i].param.offset;
        size_t piece = o->config.paged && n > PAGED_PIECE ? PAGED_PIECE : n;
        for (size_t at = 0; at < n; at += piece)
            add_update(o, g, &l->slots[i], at, n - at < piece ? n - at : piece);
    }
}

static enum lt_status plan(struct lt_optimizer *o, struct lt_error *err)
{
    const struct lt_capacity cap = {1, 1, 1};
    struct lt_graph g;
    lt_graph_init(&g);
    int grad = flat(&g, LT_OPTIM_GRAD, LT_F32, 0, o->elements), norm = flat(&g, LT_OPTIM_NORM, LT_F32, 0, 1);
    struct lt_node *n = lt_graph_node(&g, LT_OP_GRAD_NORM);
    n->in[0] = grad;
    n->out[0] = norm;
    enum lt_status status = lt_program_plan(&o->norm, &g, &cap, err);
    lt_graph_deinit(&g);
    LT_TRY(status);
    lt_graph_init(&g);
    add_updates(o, &g);
    status = lt_program_plan(&o->update, &g, &cap, err);
    lt_graph_deinit(&g);
    LT_TRY(status);
    LT_TRY(o->be->ops->compile(o->be, &o->norm, &o->norm_code, err));
    LT_TRY(o->be->ops->compile(o->be, &o->update, &o->update_code, err));
    size_t a = o->be->ops->workspace_bytes(o->be, o->norm_code),
           b = o->be->ops->workspace_bytes(o->be, o->update_code);
    o->workspace_bytes = a > b ? a : b;
    size_t values = o->norm.graph.value_count > o->update.graph.value_count ? o->norm.graph.value_count
                                                                            : o->update.graph.value_count;
    o->bindings = lt_alloc_zero(values, sizeof *o->bindings);
    return o->bindings ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the optimizer");
}

/* ---- creation ---- */

enum lt_status lt_optimizer_create(struct lt_optimizer **out, struct lt_backend *be,
                                   const struct lt_optimizer_config *config,
                                   const struct lt_optimizer_param *params, size_t count, size_t elements,
                                   struct lt_error *err)
{
    *out = NULL;
    struct lt_optimizer *o = lt_alloc_zero(1, sizeof *o);
    if (!o)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the optimizer");
    o->be = be;
    o->config = *config;
    o->elements = elements;
    if (config->paged && !be->ops->buffer_create_paged) {
        lt_log(LT_LOG_WARNING, "%s has no paged memory: the optimizer's state stays in ordinary memory",
               be->name);
        o->config.paged = false;
    }
    enum lt_status status = lt_optimizer_lay_out(o, params, count, err);
    if (status == LT_OK)
        status = plan(o, err);
    if (status != LT_OK) {
        lt_optimizer_destroy(o);
        return status;
    }
    *out = o;
    return LT_OK;
}

void lt_optimizer_destroy(struct lt_optimizer *o)
{
    if (!o)
        return;
    struct lt_buffer *buffers[] = {o->state, o->norm_value, o->workspace};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        o->be->ops->buffer_destroy(o->be, buffers[i]);
    o->be->ops->compiled_destroy(o->be, o->norm_code);
    o->be->ops->compiled_destroy(o->be, o->update_code);
    lt_program_deinit(&o->norm);
    lt_program_deinit(&o->update);
    lt_free(o->layout.slots);
    lt_free(o->bindings);
    lt_free(o);
}

size_t lt_optimizer_state_bytes(const struct lt_optimizer *o)
{
    size_t all = o->layout.bytes;
    return o->config.paged && o->written_bytes < all ? o->written_bytes : all;
}

size_t lt_optimizer_paged_bytes(const struct lt_optimizer *o)
{
    return o->config.paged ? o->layout.bytes : 0;
}

size_t lt_optimizer_workspace_bytes(const struct lt_optimizer *o)
{
    return o->workspace_bytes;
}

void lt_optimizer_device_buffers(const struct lt_optimizer *o, struct lt_device_plan *p)
{
    lt_device_plan_add(p, o->layout.bytes);
    lt_device_plan_add(p, sizeof o->norm_read);
    lt_device_plan_add(p, o->workspace_bytes);
}

static const char *page_folder(const char *dir)
{
    if (dir && lt_file_kind(dir) == LT_FILE_DIRECTORY)
        return dir;
    const char *temporary = getenv("TMPDIR");
    return temporary && *temporary ? temporary : "/tmp";
}

enum lt_status lt_optimizer_allocate(struct lt_optimizer *o, const char *dir, struct lt_error *err)
{
    const struct lt_backend_ops *ops = o->be->ops;
    size_t bytes = o->layout.bytes;
    if (bytes > 0 && o->config.paged)
        LT_TRY(ops->buffer_create_paged(o->be, bytes, page_folder(dir), &o->state, err));
    else if (bytes > 0)
        LT_TRY(ops->buffer_create(o->be, bytes, &o->state, err));
    LT_TRY(ops->buffer_create(o->be, sizeof(float), &o->norm_value, err));
    if (o->workspace_bytes > 0)
        LT_TRY(ops->buffer_create(o->be, o->workspace_bytes, &o->workspace, err));
    return LT_OK;
}

/* ---- a step ---- */

static enum lt_status run(struct lt_optimizer *o, const struct lt_program *p, const struct lt_compiled *code,
                          struct lt_buffer *params, struct lt_buffer *grads,
                          const struct lt_step_params *step, struct lt_error *err)
{
    for (size_t i = 0; i < p->graph.value_count; i++) {
        int which = p->graph.values[i].ext_index;
        struct lt_binding b = {.buffer = o->state, .offset = o->layout.region[which]};
        if (which == LT_OPTIM_PARAM || which == LT_OPTIM_GRAD || which == LT_OPTIM_NORM)
            b = (struct lt_binding){.buffer = which == LT_OPTIM_PARAM  ? params
                                              : which == LT_OPTIM_GRAD ? grads
                                                                       : o->norm_value};
        o->bindings[i] = b;
    }
    struct lt_run r = {.bindings = o->bindings, .workspace = o->workspace, .params = *step};
    return o->be->ops->run(o->be, code, &r, err);
}

enum lt_status lt_optimizer_step(struct lt_optimizer *o, struct lt_buffer *params, struct lt_buffer *grads,
                                 int64_t t, double lr, struct lt_error *err)
{
    const struct lt_optimizer_config *c = &o->config;
    struct lt_step_params step = {.lr = lr,
                                  .beta1 = c->beta1,
                                  .beta2 = c->beta2,
                                  .eps = c->epsilon,
                                  .weight_decay = c->weight_decay,
                                  .bias_correction1 = 1.0 - pow(c->beta1, (double)t),
                                  .sqrt_bias_correction2 = sqrt(1.0 - pow(c->beta2, (double)t)),
                                  .max_grad_norm = (float)c->max_grad_norm};
    LT_TRY(run(o, &o->norm, o->norm_code, params, grads, &step, err));
    o->step = t;
    LT_TRY(o->be->ops->buffer_read_later(o->be, o->norm_value, 0, &o->norm_read, sizeof o->norm_read, err));
    return run(o, &o->update, o->update_code, params, grads, &step, err);
}

enum lt_status lt_optimizer_norm(struct lt_optimizer *o, double *grad_norm, struct lt_error *err)
{
    LT_TRY(o->be->ops->finish(o->be, err));
    *grad_norm = (double)o->norm_read;
    if (isfinite(o->norm_read))
        return LT_OK;
    return lt_fail(
        err, LT_ERR_NUMERIC,
        "the gradient norm of step %lld is not a finite number: lower --learning-rate or check the data",
        (long long)o->step);
}
