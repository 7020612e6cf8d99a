#include "core/train/optimizer.h"

#include <math.h>

#include "core/base/alloc.h"
#include "core/graph/program.h"

struct lt_optimizer {
    struct lt_backend *be;
    struct lt_optimizer_config config;
    size_t elements, decay_elements;
    struct lt_program norm, update;
    struct lt_compiled *norm_code, *update_code;
    struct lt_buffer *m, *v, *norm_value, *workspace;
    struct lt_binding *bindings;
    size_t workspace_bytes;
};

static int flat(struct lt_graph *g, enum lt_optim_value which, size_t begin, size_t n)
{
    struct lt_value v = {.dtype = LT_F32, .rows = LT_ROWS_FIXED, .fixed_rows = 1, .cols = (int64_t)n};
    int id = lt_graph_value_rows(g, v.rows, v.fixed_rows, v.cols, v.dtype);
    if (g->failed)
        return LT_NO_VALUE;
    g->values[id].storage = LT_STORE_EXTERN;
    g->values[id].ext_kind = LT_EXT_OPTIM;
    g->values[id].ext_index = (int)which;
    g->values[id].ext_offset = (int64_t)begin;
    return id;
}

static void add_update(struct lt_graph *g, size_t begin, size_t end, bool decay)
{
    if (begin == end)
        return;
    size_t n = end - begin;
    int grad = flat(g, LT_OPTIM_GRAD, begin, n), norm = flat(g, LT_OPTIM_NORM, 0, 1);
    int p = flat(g, LT_OPTIM_PARAM, begin, n), m = flat(g, LT_OPTIM_M, begin, n),
        v = flat(g, LT_OPTIM_V, begin, n);
    struct lt_node *node = lt_graph_node(g, LT_OP_ADAMW);
    node->in[0] = grad;
    node->in[1] = norm;
    node->out[0] = p;
    node->out[1] = m;
    node->out[2] = v;
    node->attr.decay = decay;
}

static enum lt_status plan(struct lt_optimizer *o, struct lt_error *err)
{
    const struct lt_capacity cap = {1, 1, 1};
    struct lt_graph g;
    lt_graph_init(&g);
    int grad = flat(&g, LT_OPTIM_GRAD, 0, o->elements), norm = flat(&g, LT_OPTIM_NORM, 0, 1);
    struct lt_node *n = lt_graph_node(&g, LT_OP_GRAD_NORM);
    n->in[0] = grad;
    n->out[0] = norm;
    enum lt_status status = lt_program_plan(&o->norm, &g, &cap, err);
    lt_graph_deinit(&g);
    LT_TRY(status);
    lt_graph_init(&g);
    add_update(&g, 0, o->decay_elements, true);
    add_update(&g, o->decay_elements, o->elements, false);
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

enum lt_status lt_optimizer_create(struct lt_optimizer **out, struct lt_backend *be,
                                   const struct lt_optimizer_config *config, size_t elements,
                                   size_t decay_elements, struct lt_error *err)
{
    *out = NULL;
    struct lt_optimizer *o = lt_alloc_zero(1, sizeof *o);
    if (!o)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the optimizer");
    o->be = be;
    o->config = *config;
    o->elements = elements;
    o->decay_elements = decay_elements;
    enum lt_status status = plan(o, err);
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
    struct lt_buffer *buffers[] = {o->m, o->v, o->norm_value, o->workspace};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        o->be->ops->buffer_destroy(o->be, buffers[i]);
    o->be->ops->compiled_destroy(o->be, o->norm_code);
    o->be->ops->compiled_destroy(o->be, o->update_code);
    lt_program_deinit(&o->norm);
    lt_program_deinit(&o->update);
    lt_free(o->bindings);
    lt_free(o);
}

size_t lt_optimizer_state_bytes(const struct lt_optimizer *o)
{
    return 2 * o->elements * sizeof(float);
}

size_t lt_optimizer_workspace_bytes(const struct lt_optimizer *o)
{
    return o->workspace_bytes;
}

enum lt_status lt_optimizer_allocate(struct lt_optimizer *o, struct lt_error *err)
{
    size_t bytes = o->elements * sizeof(float);
    LT_TRY(o->be->ops->buffer_create(o->be, bytes, &o->m, err));
    LT_TRY(o->be->ops->buffer_create(o->be, bytes, &o->v, err));
    LT_TRY(o->be->ops->buffer_create(o->be, sizeof(float), &o->norm_value, err));
    if (o->workspace_bytes > 0)
        LT_TRY(o->be->ops->buffer_create(o->be, o->workspace_bytes, &o->workspace, err));
    return LT_OK;
}

static enum lt_status run(struct lt_optimizer *o, const struct lt_program *p, const struct lt_compiled *code,
                          struct lt_buffer *params, struct lt_buffer *grads,
                          const struct lt_step_params *step, struct lt_error *err)
{
    struct lt_buffer *const by_kind[LT_OPTIM_COUNT] = {params, grads, o->m, o->v, o->norm_value};
    for (size_t i = 0; i < p->graph.value_count; i++)
        o->bindings[i] = (struct lt_binding){.buffer = by_kind[p->graph.values[i].ext_index]};
    struct lt_run r = {.bindings = o->bindings, .workspace = o->workspace, .params = *step};
    return o->be->ops->run(o->be, code, &r, err);
}

enum lt_status lt_optimizer_step(struct lt_optimizer *o, struct lt_buffer *params, struct lt_buffer *grads,
                                 int64_t t, double lr, double *grad_norm, struct lt_error *err)
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
    float norm;
    LT_TRY(o->be->ops->buffer_read(o->be, o->norm_value, 0, &norm, sizeof norm, err));
    *grad_norm = (double)norm;
    if (!isfinite(norm))
        return lt_fail(
            err, LT_ERR_NUMERIC,
            "the gradient norm of step %lld is not a finite number: lower --learning-rate or check the data",
            (long long)t);
    return run(o, &o->update, o->update_code, params, grads, &step, err);
}

enum lt_status lt_optimizer_read(struct lt_optimizer *o, int moment, size_t offset, float *dst, size_t n,
                                 struct lt_error *err)
{
    return o->be->ops->buffer_read(o->be, moment == 0 ? o->m : o->v, offset * sizeof *dst, dst, n * sizeof *dst, err);
}

enum lt_status lt_optimizer_write(struct lt_optimizer *o, int moment, size_t offset, const float *src, size_t n,
                                  struct lt_error *err)
{
    return o->be->ops->buffer_write(o->be, moment == 0 ? o->m : o->v, offset * sizeof *src, src, n * sizeof *src,
                                    err);
}
