#include "core/graph/backward_internal.h"

#include <string.h>

#include "core/base/alloc.h"

/* Which forward values go on the tape, and where the others are computed again.  A backward program is the
 * list of gradient ops; the ops that recompute a value are inserted right before the first op that
 * reads it, so that it lives as briefly as possible. */

static bool from_outside(const struct lt_backward *b, int v)
{
    return b->producer[v] < 0;
}

/* Can v be had from externs and kept values without a costly op? */
static bool is_cheap(const struct lt_backward *b, const bool *kept, int v)
{
    if (from_outside(b, v) || kept[v])
        return true;
    const struct lt_node *n = &b->fwd->nodes[b->producer[v]];
    if (lt_op_info[n->op].costly)
        return false;
    for (int k = 0; k < LT_MAX_IN; k++)
        if (n->in[k] >= 0 && !is_cheap(b, kept, n->in[k]))
            return false;
    return true;
}

static void choose_kept(struct lt_backward *b, bool *kept)
{
    memset(kept, 0, b->fwd_values * sizeof *kept);
    if (b->req->recompute == LT_RECOMPUTE_FULL)
        return;
    for (size_t i = 0; i < b->fwd_nodes; i++)
        for (int k = 0; k < LT_MAX_OUT; k++) {
            int v = b->fwd->nodes[i].out[k];
            if (v >= 0 && b->mirror[v] != LT_NO_VALUE && b->fwd->values[v].storage == LT_STORE_ARENA)
                kept[v] = b->req->recompute == LT_RECOMPUTE_NONE || !is_cheap(b, kept, v);
        }
}

static void put_on_tape(struct lt_backward *b, const bool *kept)
{
    for (size_t v = 0; v < b->fwd_values; v++) {
        if (!kept[v])
            continue;
        b->fwd->values[v].storage = LT_STORE_TAPE;
        struct lt_value *m = &b->bwd->values[b->mirror[v]];
        m->storage = LT_STORE_TAPE;
        m->ext_index = (int)v;
    }
}

struct inserter {
    struct lt_backward *b;
    const bool *kept;
    bool *done;          /* [fwd_nodes] already recomputed */
    struct lt_graph out; /* new node list; values stay in b->bwd */
};

static void insert_node(struct inserter *s, int node)
{
    if (s->done[node])
        return;
    s->done[node] = true;
    const struct lt_node f = s->b->fwd->nodes[node];
    for (int k = 0; k < LT_MAX_IN; k++)
        if (f.in[k] >= 0 && !from_outside(s->b, f.in[k]) && !s->kept[f.in[k]])
            insert_node(s, s->b->producer[f.in[k]]);
    struct lt_node copy = f;
    for (int k = 0; k < LT_MAX_IN; k++)
        copy.in[k] = lt_backward_use(s->b, f.in[k]);
    for (int k = 0; k < LT_MAX_OUT; k++)
        copy.out[k] = f.out[k] >= 0 && s->kept[f.out[k]]
                          ? lt_graph_value(s->b->bwd, copy.in[0], s->b->fwd->values[f.out[k]].cols)
                          : lt_backward_use(s->b, f.out[k]);
    *lt_graph_node(&s->out, f.op) = copy;
}

static enum lt_status rebuild(struct lt_backward *b, const bool *kept, struct lt_error *err)
{
    size_t values = b->bwd->value_count;
    struct inserter s = {.b = b, .kept = kept};
    int *origin = lt_alloc_array(values, sizeof *origin);
    s.done = lt_alloc_zero(b->fwd_nodes, sizeof *s.done);
    lt_graph_init(&s.out);
    if (!origin || !s.done) {
        b->bwd->failed = true;
        goto done;
    }
    for (size_t i = 0; i < values; i++)
        origin[i] = LT_NO_VALUE;
    for (size_t v = 0; v < b->fwd_values; v++)
        if (b->mirror[v] != LT_NO_VALUE && !from_outside(b, (int)v) && !kept[v])
            origin[b->mirror[v]] = (int)v;
    for (size_t i = 0; i < b->bwd->node_count; i++) {
        const struct lt_node n = b->bwd->nodes[i];
        for (int k = 0; k < LT_MAX_IN; k++) {
            bool copied = n.in[k] >= 0 && n.in[k] < (int)values && origin[n.in[k]] >= 0;
            if (copied)
                insert_node(&s, b->producer[origin[n.in[k]]]);
        }
        *lt_graph_node(&s.out, n.op) = n;
    }
    if (!s.out.failed) {
        struct lt_node *old = b->bwd->nodes;
        b->bwd->nodes = s.out.nodes;
        b->bwd->node_count = s.out.node_count;
        b->bwd->node_cap = s.out.node_cap;
        s.out.nodes = old;
    } else {
        b->bwd->failed = true;
    }
done:
    lt_graph_deinit(&s.out);
    lt_free(s.done);
    lt_free(origin);
    return lt_graph_status(b->bwd, err);
}

enum lt_status lt_backward_recompute(struct lt_backward *b, struct lt_error *err)
{
    bool *kept = lt_alloc_array(b->fwd_values, sizeof *kept);
    if (!kept)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while choosing what to keep for the backward pass");
    choose_kept(b, kept);
    put_on_tape(b, kept);
    enum lt_status status = rebuild(b, kept, err);
    lt_free(kept);
    return status;
}
