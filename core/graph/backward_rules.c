#include "core/graph/backward_internal.h"

/* Every rule reads the gradient of the node's outputs and adds to the gradient of its inputs.  The names
 * of inputs and outputs are those of core/backend/ops.def. */

static int grad_of(const struct lt_backward *b, int v)
{
    return v < 0 ? LT_NO_VALUE : b->grad[v];
}

static bool needs(const struct lt_backward *b, int v)
{
    return v >= 0 && b->needs[v];
}

static int new_grad(struct lt_backward *b, int v)
{
    const struct lt_value *f = &b->fwd->values[v];
    return lt_graph_value_rows(b->bwd, f->rows, f->fixed_rows, f->cols, LT_F32);
}

static void add_grad(struct lt_backward *b, int v, int contribution)
{
    if (b->grad[v] == LT_NO_VALUE) {
        b->grad[v] = contribution;
        return;
    }
    struct lt_node *n = lt_graph_node(b->bwd, LT_OP_ADD);
    n->in[0] = contribution;
    n->in[1] = b->grad[v];
    int sum = new_grad(b, v);
    if (!b->bwd->failed)
        b->bwd->nodes[b->bwd->node_count - 1].out[0] = sum;
    b->grad[v] = sum;
}

/* The gradient extern of a trainable tensor or adapter matrix; LT_NO_VALUE for anything else. */
static int param_grad(struct lt_backward *b, int v)
{
    if (!needs(b, v) || b->fwd->values[v].storage != LT_STORE_EXTERN)
        return LT_NO_VALUE;
    const struct lt_value f = b->fwd->values[v];
    enum lt_extern_kind kind = f.ext_kind == LT_EXT_ADAPTER ? LT_EXT_ADAPTER_GRAD : LT_EXT_GRAD;
    return lt_graph_extern(b->bwd, kind, f.ext_index, LT_F32, f.rows, f.fixed_rows, f.cols);
}

/* Starts a gradient node; inputs are bwd values.  The pointer is valid until the next graph call. */
static struct lt_node *emit(struct lt_backward *b, enum lt_op op, const struct lt_op_attr *attr,
                            const int *in, int n_in, const int *out, int n_out)
{
    struct lt_node *n = lt_graph_node(b->bwd, op);
    n->attr = *attr;
    for (int i = 0; i < n_in; i++)
        n->in[i] = in[i];
    for (int i = 0; i < n_out; i++)
        n->out[i] = out[i];
    return n;
}

static void embed_rule(struct lt_backward *b, const struct lt_node *n, int dy)
{
    int dw = param_grad(b, n->in[1]);
    if (dw == LT_NO_VALUE)
        return;
    int in[] = {dy, lt_backward_use(b, n->in[0])}, out[] = {dw};
    emit(b, LT_OP_EMBED_DW, &n->attr, in, 2, out, 1);
}

static void linear_rule(struct lt_backward *b, const struct lt_node *n, int dy)
{
    int x = n->in[0], w = n->in[1], bias = n->in[2];
    int dw = param_grad(b, w), db = param_grad(b, bias);
    if (dw != LT_NO_VALUE) {
        int in[] = {dy, lt_backward_use(b, x)}, out[] = {dw};
        emit(b, LT_OP_LINEAR_DW, &n->attr, in, 2, out, 1);
    }
    if (db != LT_NO_VALUE) {
        int in[] = {dy}, out[] = {db};
        emit(b, LT_OP_BIAS_DB, &n->attr, in, 1, out, 1);
    }
    if (needs(b, x)) {
        /* What is rounded to bf16 is this product alone, so it is added afterwards. */
        bool apart = n->attr.compute == LT_BF16;
        int in[] = {dy, lt_backward_use(b, w), apart ? LT_NO_VALUE : b->grad[x]}, out[] = {new_grad(b, x)};
        emit(b, LT_OP_LINEAR_DX, &n->attr, in, 3, out, 1);
        if (apart)
            add_grad(b, x, out[0]);
        else
            b->grad[x] = out[0];
    }
}

static void lora_rule(struct lt_backward *b, const struct lt_node *n, int dy)
{
    int y = n->in[0], x = n->in[1];
    int rank = (int)b->fwd->values[n->out[1]].cols;
    int64_t in_cols = b->fwd->values[x].cols;
    int in[] = {dy,
                lt_backward_use(b, x),
                lt_backward_use(b, n->out[1]),
                lt_backward_use(b, n->in[2]),
                lt_backward_use(b, n->in[3]),
                lt_backward_use(b, n->in[4]),
                LT_NO_VALUE};
    int out[] = {LT_NO_VALUE, lt_graph_value(b->bwd, dy, rank), param_grad(b, n->in[2]),
                 param_grad(b, n->in[3]), LT_NO_VALUE};
    if (n->attr.dropout > 0)
        out[4] = lt_graph_value(b->bwd, dy, in_cols);
    if (needs(b, x)) {
        in[6] = b->grad[x];
        out[0] = new_grad(b, x);
    }
    emit(b, LT_OP_LORA_BWD, &n->attr, in, 7, out, 5);
    if (needs(b, x))
        b->grad[x] = out[0];
    if (needs(b, y))
        add_grad(b, y, dy);
}

static void norm_rule(struct lt_backward *b, const struct lt_node *n, int dy)
{
    bool layer = n->op == LT_OP_LAYERNORM;
    int x = n->in[0], w = n->in[1];
    int out[] = {needs(b, x) ? new_grad(b, x) : LT_NO_VALUE, param_grad(b, w),
                 layer ? param_grad(b, n->in[2]) : LT_NO_VALUE};
    int in[] = {dy, lt_backward_use(b, x), lt_backward_use(b, w), lt_backward_use(b, n->out[1]),
                layer ? lt_backward_use(b, n->out[2]) : LT_NO_VALUE};
    emit(b, layer ? LT_OP_LAYERNORM_BWD : LT_OP_RMSNORM_BWD, &n->attr, in, layer ? 5 : 4, out, layer ? 3 : 2);
    if (needs(b, x))
        add_grad(b, x, out[0]);
}

static void rope_rule(struct lt_backward *b, const struct lt_node *n, int dy)
{
    int in[] = {dy, lt_backward_use(b, n->in[1]), lt_backward_use(b, n->in[2])},
        out[] = {new_grad(b, n->in[0])};
    struct lt_op_attr attr = n->attr;
    attr.inverse = !attr.inverse;
    emit(b, LT_OP_ROPE, &attr, in, 3, out, 1);
    add_grad(b, n->in[0], out[0]);
}

static void split_rule(struct lt_backward *b, const struct lt_node *n)
{
    int in[3] = {LT_NO_VALUE, LT_NO_VALUE, LT_NO_VALUE};
    for (int i = 0; i < 3; i++)
        in[i] = grad_of(b, n->out[i]);
    int out[] = {new_grad(b, n->in[0])};
    emit(b, LT_OP_CONCAT, &n->attr, in, 3, out, 1);
    add_grad(b, n->in[0], out[0]);
}

static void attention_rule(struct lt_backward *b, const struct lt_node *n, int d_o)
{
    int in[9] = {d_o};
    for (int i = 0; i < 3; i++)
        in[1 + i] = lt_backward_use(b, n->in[i]);
    in[4] = lt_backward_use(b, n->out[0]);
    in[5] = lt_backward_use(b, n->out[1]);
    for (int i = 3; i < 6; i++)
        in[3 + i] = lt_backward_use(b, n->in[i]);
    int out[3];
    for (int i = 0; i < 3; i++)
        out[i] = new_grad(b, n->in[i]);
    emit(b, LT_OP_ATTENTION_BWD, &n->attr, in, 9, out, 3);
    for (int i = 0; i < 3; i++)
        if (needs(b, n->in[i]))
            add_grad(b, n->in[i], out[i]);
}

static void glu_rule(struct lt_backward *b, const struct lt_node *n, int dy)
{
    int in[] = {dy, lt_backward_use(b, n->in[0]), lt_backward_use(b, n->in[1])};
    int out[] = {new_grad(b, n->in[0]), new_grad(b, n->in[1])};
    emit(b, LT_OP_GLU_BWD, &n->attr, in, 3, out, 2);
    for (int i = 0; i < 2; i++)
        if (needs(b, n->in[i]))
            add_grad(b, n->in[i], out[i]);
}

/* dx = op(dy, other): activations, dropout, gathering. */
static void unary_rule(struct lt_backward *b, const struct lt_node *n, enum lt_op op, int dy, int other)
{
    int in[] = {dy, lt_backward_use(b, other)}, out[] = {new_grad(b, n->in[0])};
    emit(b, op, &n->attr, in, 2, out, 1);
    add_grad(b, n->in[0], out[0]);
}

/* The loss: its gradient with respect to h comes out of the forward op itself. */
static void cross_entropy_rule(struct lt_backward *b, size_t node)
{
    struct lt_node n = b->fwd->nodes[node];
    int dw = param_grad(b, n.in[1]);
    int dh = needs(b, n.in[0]) ? new_grad(b, n.in[0]) : LT_NO_VALUE;
    if (b->fwd->failed)
        return;
    b->fwd->nodes[node].out[2] = dh;
    b->fwd->nodes[node].out[3] = dw;
    b->grad[n.in[0]] = dh;
}

static enum lt_status node_rule(struct lt_backward *b, size_t i, struct lt_error *err)
{
    const struct lt_node n = b->fwd->nodes[i];
    int dy = grad_of(b, n.out[0]);
    if (n.op == LT_OP_CROSS_ENTROPY) {
        cross_entropy_rule(b, i);
        return LT_OK;
    }
    if (n.op == LT_OP_SPLIT) {
        if (needs(b, n.in[0]))
            split_rule(b, &n);
        return LT_OK;
    }
    if (dy == LT_NO_VALUE || !needs(b, n.out[0]))
        return LT_OK;
    switch (n.op) {
    case LT_OP_EMBED:
        embed_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_LINEAR:
        linear_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_LORA:
        lora_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_RMSNORM:
    case LT_OP_LAYERNORM:
        norm_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_ROPE:
        rope_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_ATTENTION:
        attention_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_ACT:
        unary_rule(b, &n, LT_OP_ACT_BWD, dy, n.in[0]);
        return LT_OK;
    case LT_OP_GLU:
        glu_rule(b, &n, dy);
        return LT_OK;
    case LT_OP_ADD:
        for (int k = 0; k < 2; k++)
            if (needs(b, n.in[k]))
                add_grad(b, n.in[k], dy);
        return LT_OK;
    case LT_OP_DROPOUT:
        unary_rule(b, &n, LT_OP_DROPOUT, dy, n.in[1]);
        return LT_OK;
    case LT_OP_GATHER_ROWS:
        unary_rule(b, &n, LT_OP_SCATTER_ROWS, dy, n.in[1]);
        return LT_OK;
    default:
        return lt_fail(err, LT_ERR_UNSUPPORTED, "op %s has no gradient rule", lt_op_info[n.op].name);
    }
}

static int find_hidden(const struct lt_backward *b, enum lt_hidden which)
{
    for (size_t i = 0; i < b->fwd_values; i++) {
        const struct lt_value *v = &b->fwd->values[i];
        if (v->storage == LT_STORE_EXTERN && v->ext_kind == LT_EXT_HIDDEN && v->ext_index == (int)which)
            return (int)i;
    }
    return LT_NO_VALUE;
}

enum lt_status lt_backward_emit(struct lt_backward *b, struct lt_error *err)
{
    int h_out = find_hidden(b, LT_HIDDEN_OUT), h_in = find_hidden(b, LT_HIDDEN_IN);
    if (h_out >= 0) {
        const struct lt_value v = b->fwd->values[h_out];
        b->grad[h_out] =
            lt_graph_extern(b->bwd, LT_EXT_HIDDEN, LT_HIDDEN_DOUT, LT_F32, v.rows, v.fixed_rows, v.cols);
    }
    for (size_t i = b->fwd_nodes; i-- > 0;)
        LT_TRY(node_rule(b, i, err));
    LT_TRY(lt_graph_status(b->bwd, err));
    if (!b->req->need_din || h_in < 0)
        return LT_OK;
    if (b->grad[h_in] == LT_NO_VALUE)
        return lt_fail(err, LT_ERR_INVALID, "the segment's output does not depend on its input");
    struct lt_value *din = &b->bwd->values[b->grad[h_in]];
    din->storage = LT_STORE_EXTERN;
    din->ext_kind = LT_EXT_HIDDEN;
    din->ext_index = LT_HIDDEN_DIN;
    return LT_OK;
}
