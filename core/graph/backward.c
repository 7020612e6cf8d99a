#include "core/graph/backward.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/graph/backward_internal.h"

static bool extern_is_trainable(const struct lt_backward *b, const struct lt_value *v)
{
    switch (v->ext_kind) {
    case LT_EXT_HIDDEN:
        return v->ext_index == LT_HIDDEN_IN && b->req->need_din;
    case LT_EXT_ADAPTER:
        return true;
    case LT_EXT_TENSOR:
        return v->ext_index < b->req->tensor_count && b->req->trainable[v->ext_index];
    default:
        return false;
    }
}

static void mark_needs(struct lt_backward *b)
{
    for (size_t i = 0; i < b->fwd_values; i++) {
        b->grad[i] = b->mirror[i] = LT_NO_VALUE;
        b->producer[i] = -1;
        b->needs[i] = b->fwd->values[i].storage == LT_STORE_EXTERN &&
                      extern_is_trainable(b, &b->fwd->values[i]);
    }
    for (size_t i = 0; i < b->fwd_nodes; i++) {
        const struct lt_node *n = &b->fwd->nodes[i];
        bool needs = false;
        for (int k = 0; k < LT_MAX_IN; k++)
            needs = needs || (n->in[k] >= 0 && b->needs[n->in[k]]);
        for (int k = 0; k < LT_MAX_OUT; k++)
            if (n->out[k] >= 0) {
                b->needs[n->out[k]] = needs;
                b->producer[n->out[k]] = (int)i;
            }
    }
}

int lt_backward_use(struct lt_backward *b, int v)
{
    if (v < 0 || b->fwd == b->bwd)
        return v;
    if (b->mirror[v] == LT_NO_VALUE) {
        const struct lt_value *f = &b->fwd->values[v];
        if (f->storage == LT_STORE_EXTERN && b->producer[v] < 0)
            b->mirror[v] =
                lt_graph_extern(b->bwd, f->ext_kind, f->ext_index, f->dtype, f->rows, f->fixed_rows, f->cols);
        else
            b->mirror[v] = lt_graph_value_rows(b->bwd, f->rows, f->fixed_rows, f->cols, f->dtype);
    }
    return b->mirror[v];
}

static bool has_cross_entropy(const struct lt_graph *g)
{
    for (size_t i = 0; i < g->node_count; i++)
        if (g->nodes[i].op == LT_OP_CROSS_ENTROPY)
            return true;
    return false;
}

enum lt_status lt_graph_backward(struct lt_graph *fwd, struct lt_graph *bwd,
                                 const struct lt_backward_request *req, struct lt_error *err)
{
    LT_TRY(lt_graph_status(fwd, err));
    struct lt_backward b = {.fwd = fwd,
                            .bwd = has_cross_entropy(fwd) ? fwd : bwd,
                            .req = req,
                            .fwd_values = fwd->value_count,
                            .fwd_nodes = fwd->node_count};
    b.needs = lt_alloc_array(b.fwd_values, sizeof *b.needs);
    b.grad = lt_alloc_array(b.fwd_values, sizeof *b.grad);
    b.mirror = lt_alloc_array(b.fwd_values, sizeof *b.mirror);
    b.producer = lt_alloc_array(b.fwd_values, sizeof *b.producer);
    enum lt_status status = LT_OK;
    if (b.needs && b.grad && b.mirror && b.producer) {
        mark_needs(&b);
        status = lt_backward_emit(&b, err);
        if (status == LT_OK && b.fwd != b.bwd)
            status = lt_backward_recompute(&b, err);
        if (status == LT_OK)
            status = lt_graph_status(b.bwd, err);
    } else {
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while differentiating a graph of %zu ops",
                         fwd->node_count);
    }
    lt_free(b.needs);
    lt_free(b.grad);
    lt_free(b.mirror);
    lt_free(b.producer);
    return status;
}
