#include "core/graph/graph.h"

#include <string.h>

#include "core/base/alloc.h"

const struct lt_op_info lt_op_info[LT_OP_COUNT] = {
#define LT_OP(id, name, inplace_in, inplace_out, costly) {name, inplace_in, inplace_out, costly},
#include "core/backend/ops.def"
#undef LT_OP
};

/* Returned to builders after a failure so that they need not check every call. */
static struct lt_node lt_graph_sink;

void lt_graph_init(struct lt_graph *g)
{
    memset(g, 0, sizeof *g);
}

void lt_graph_deinit(struct lt_graph *g)
{
    lt_free(g->values);
    lt_free(g->nodes);
    memset(g, 0, sizeof *g);
}

enum lt_status lt_graph_status(const struct lt_graph *g, struct lt_error *err)
{
    if (g->failed)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while building a graph of %zu ops", g->node_count);
    return LT_OK;
}

static int add_value(struct lt_graph *g, const struct lt_value *v)
{
    if (g->failed || !lt_reserve((void **)&g->values, &g->value_cap, g->value_count, sizeof *g->values)) {
        g->failed = true;
        return LT_NO_VALUE;
    }
    g->values[g->value_count] = *v;
    return (int)g->value_count++;
}

int lt_graph_extern(struct lt_graph *g, enum lt_extern_kind kind, int index, enum lt_dtype dtype,
                    enum lt_rows rows, int64_t fixed_rows, int64_t cols)
{
    for (size_t i = 0; i < g->value_count; i++) {
        const struct lt_value *v = &g->values[i];
        if (v->storage == LT_STORE_EXTERN && v->ext_kind == kind && v->ext_index == index &&
            v->ext_offset == 0)
            return (int)i;
    }
    struct lt_value v = {.dtype = dtype,
                         .rows = rows,
                         .fixed_rows = fixed_rows,
                         .cols = cols,
                         .storage = LT_STORE_EXTERN,
                         .ext_kind = kind,
                         .ext_index = index};
    return add_value(g, &v);
}

int lt_graph_value_rows(struct lt_graph *g, enum lt_rows rows, int64_t fixed_rows, int64_t cols,
                        enum lt_dtype dtype)
{
    struct lt_value v = {
        .dtype = dtype, .rows = rows, .fixed_rows = fixed_rows, .cols = cols, .storage = LT_STORE_ARENA};
    return add_value(g, &v);
}

int lt_graph_value(struct lt_graph *g, int like, int64_t cols)
{
    if (g->failed || like < 0)
        return LT_NO_VALUE;
    return lt_graph_value_rows(g, g->values[like].rows, g->values[like].fixed_rows, cols, LT_F32);
}

struct lt_node *lt_graph_node(struct lt_graph *g, enum lt_op op)
{
    struct lt_node *n = &lt_graph_sink;
    if (!g->failed && lt_reserve((void **)&g->nodes, &g->node_cap, g->node_count, sizeof *g->nodes))
        n = &g->nodes[g->node_count++];
    else
        g->failed = true;
    memset(n, 0, sizeof *n);
    n->op = op;
    for (int i = 0; i < LT_MAX_IN; i++)
        n->in[i] = LT_NO_VALUE;
    for (int i = 0; i < LT_MAX_OUT; i++)
        n->out[i] = LT_NO_VALUE;
    return n;
}

static bool value_equal(const struct lt_value *a, const struct lt_value *b)
{
    if (a->dtype != b->dtype || a->rows != b->rows || a->fixed_rows != b->fixed_rows || a->cols != b->cols ||
        a->storage != b->storage)
        return false;
    return a->storage != LT_STORE_EXTERN ||
           (a->ext_kind == b->ext_kind && a->ext_index == b->ext_index && a->ext_offset == b->ext_offset);
}

static bool attr_equal(const struct lt_op_attr *a, const struct lt_op_attr *b)
{
    return a->scale == b->scale && a->eps == b->eps && a->dropout == b->dropout && a->softcap == b->softcap &&
           a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->rotary == b->rotary && a->window == b->window && a->chunk == b->chunk && a->site == b->site &&
           a->act == b->act && a->inverse == b->inverse && a->plus_one == b->plus_one &&
           a->transposed == b->transposed && a->decay == b->decay && a->step == b->step &&
           a->int8 == b->int8 && a->int8_threshold == b->int8_threshold && a->compute == b->compute;
}

bool lt_graph_equal(const struct lt_graph *a, const struct lt_graph *b)
{
    if (a->value_count != b->value_count || a->node_count != b->node_count)
        return false;
    for (size_t i = 0; i < a->value_count; i++)
        if (!value_equal(&a->values[i], &b->values[i]))
            return false;
    for (size_t i = 0; i < a->node_count; i++) {
        const struct lt_node *x = &a->nodes[i], *y = &b->nodes[i];
        if (x->op != y->op || memcmp(x->in, y->in, sizeof x->in) != 0 ||
            memcmp(x->out, y->out, sizeof x->out) != 0 || !attr_equal(&x->attr, &y->attr))
            return false;
    }
    return true;
}
