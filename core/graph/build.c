#include "core/graph/build.h"

#include "core/base/checked.h"

int lt_model_lowest_trainable(const struct lt_model *m)
{
    for (int i = 0; i < m->tensor_count; i++)
        if (m->tensors[i].trainable || m->tensors[i].lora.rank > 0)
            return m->tensors[i].segment;
    return -1;
}

int lt_build_input(struct lt_build *b, enum lt_input which)
{
    const struct lt_model *m = b->model;
    switch (which) {
    case LT_IN_LABEL_ROWS:
    case LT_IN_LABELS:
        return lt_graph_extern(b->graph, LT_EXT_INPUT, (int)which, LT_I32, LT_ROWS_LABELS, 0, 1);
    case LT_IN_ROPE_TABLE:
    case LT_IN_ROPE_TABLE_LOCAL:
        return lt_graph_extern(b->graph, LT_EXT_INPUT, (int)which, LT_F32, LT_ROWS_FIXED, m->table_positions,
                               m->rotary);
    default:
        return lt_graph_extern(b->graph, LT_EXT_INPUT, (int)which, LT_I32, LT_ROWS_TOKENS, 0, 1);
    }
}

int lt_build_hidden_in(struct lt_build *b)
{
    return lt_graph_extern(b->graph, LT_EXT_HIDDEN, LT_HIDDEN_IN, LT_F32, LT_ROWS_TOKENS, 0,
                           b->model->hidden);
}

void lt_build_hidden_out(struct lt_build *b, int h)
{
    if (b->graph->failed)
        return;
    struct lt_value *v = &b->graph->values[h];
    v->storage = LT_STORE_EXTERN;
    v->ext_kind = LT_EXT_HIDDEN;
    v->ext_index = LT_HIDDEN_OUT;
}

static int tensor_value(struct lt_build *b, int tensor)
{
    const struct lt_model_tensor *t = lt_model_tensor(b->model, b->segment, tensor);
    return lt_graph_extern(b->graph, LT_EXT_TENSOR, tensor, LT_F32, LT_ROWS_FIXED, t->rows, t->cols);
}

static int optional_tensor(struct lt_build *b, int tensor)
{
    return tensor == LT_NO_TENSOR ? LT_NO_VALUE : tensor_value(b, tensor);
}

/* Every op that draws random numbers has a site of its own within the layer. */
static uint32_t take_site(struct lt_build *b)
{
    return b->next_site++;
}

int lt_build_embed(struct lt_build *b, enum lt_input ids, int tensor, float scale)
{
    int in_ids = lt_build_input(b, ids), w = tensor_value(b, tensor);
    int y = lt_graph_value(b->graph, in_ids, lt_model_tensor(b->model, b->segment, tensor)->cols);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_EMBED);
    n->in[0] = in_ids;
    n->in[1] = w;
    n->out[0] = y;
    n->attr.scale = scale;
    return y;
}

static int build_lora(struct lt_build *b, int y, int x, int weight)
{
    const struct lt_model_tensor *t = lt_model_tensor(b->model, b->segment, weight);
    const struct lt_lora *l = &t->lora;
    uint32_t site = take_site(b);
    float dropout = b->mode == LT_BUILD_TRAIN ? l->dropout : 0;
    int a = lt_graph_extern(b->graph, LT_EXT_ADAPTER, 2 * weight, LT_F32, LT_ROWS_FIXED, l->rank, t->cols);
    int bb =
        lt_graph_extern(b->graph, LT_EXT_ADAPTER, 2 * weight + 1, LT_F32, LT_ROWS_FIXED, t->rows, l->rank);
    int out = lt_graph_value(b->graph, y, t->rows), u = lt_graph_value(b->graph, y, l->rank);
    int key = dropout > 0 ? lt_build_input(b, LT_IN_ROW_KEY) : LT_NO_VALUE;
    int scratch = dropout > 0 ? lt_graph_value(b->graph, y, t->cols) : LT_NO_VALUE;
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_LORA);
    n->in[0] = y;
    n->in[1] = x;
    n->in[2] = a;
    n->in[3] = bb;
    n->in[4] = key;
    n->out[0] = out;
    n->out[1] = u;
    n->out[2] = scratch;
    n->attr.scale = l->scale;
    n->attr.dropout = dropout;
    n->attr.site = site;
    return out;
}

/* Trained weights, adapters, the head and all that is no matrix product stay in f32, as bitsandbytes computes. */
static enum lt_dtype compute_dtype(const struct lt_build *b, const struct lt_model_tensor *t)
{
    return t->kind == LT_TENSOR_LINEAR && !t->is_head && !t->trainable ? b->model->compute_dtype : LT_F32;
}

int lt_build_linear(struct lt_build *b, int x, int weight, int bias)
{
    const struct lt_model_tensor *t = lt_model_tensor(b->model, b->segment, weight);
    int w = tensor_value(b, weight), bv = optional_tensor(b, bias);
    int y = lt_graph_value(b->graph, x, t->rows);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_LINEAR);
    n->in[0] = x;
    n->in[1] = w;
    n->in[2] = bv;
    n->out[0] = y;
    n->attr.transposed = t->transposed;
    n->attr.step = b->step;
    n->attr.int8 = b->model->int8 && b->mode != LT_BUILD_TRAIN && !t->is_head;
    n->attr.int8_threshold = n->attr.int8 ? b->model->int8_threshold : 0;
    n->attr.compute = compute_dtype(b, t);
    return t->lora.rank > 0 ? build_lora(b, y, x, weight) : y;
}

int lt_build_rmsnorm(struct lt_build *b, int x, int weight, float eps, bool plus_one)
{
    int64_t cols = lt_model_tensor(b->model, b->segment, weight)->cols;
    int w = tensor_value(b, weight);
    int y = lt_graph_value(b->graph, x, cols), rstd = lt_graph_value(b->graph, x, 1);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_RMSNORM);
    n->in[0] = x;
    n->in[1] = w;
    n->out[0] = y;
    n->out[1] = rstd;
    n->attr.eps = eps;
    n->attr.plus_one = plus_one;
    return y;
}

int lt_build_layernorm(struct lt_build *b, int x, int weight, int bias, float eps)
{
    int64_t cols = lt_model_tensor(b->model, b->segment, weight)->cols;
    int w = tensor_value(b, weight), bv = tensor_value(b, bias);
    int y = lt_graph_value(b->graph, x, cols);
    int mean = lt_graph_value(b->graph, x, 1), rstd = lt_graph_value(b->graph, x, 1);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_LAYERNORM);
    n->in[0] = x;
    n->in[1] = w;
    n->in[2] = bv;
    n->out[0] = y;
    n->out[1] = mean;
    n->out[2] = rstd;
    n->attr.eps = eps;
    return y;
}

static int64_t cols_of(const struct lt_build *b, int v)
{
    return b->graph->failed || v < 0 ? 0 : b->graph->values[v].cols;
}

int lt_build_rope(struct lt_build *b, int x, int32_t heads, int32_t head_dim, int32_t rotary, int table)
{
    int pos = lt_build_input(b, LT_IN_POSITIONS);
    int tab = lt_build_input(b, table == 0 ? LT_IN_ROPE_TABLE : LT_IN_ROPE_TABLE_LOCAL);
    int y = lt_graph_value(b->graph, x, cols_of(b, x));
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_ROPE);
    n->in[0] = x;
    n->in[1] = pos;
    n->in[2] = tab;
    n->out[0] = y;
    n->attr.heads = heads;
    n->attr.head_dim = head_dim;
    n->attr.rotary = rotary;
    return y;
}

static int binary(struct lt_build *b, enum lt_op op, int x, int y, enum lt_activation act)
{
    int z = lt_graph_value(b->graph, x, cols_of(b, x));
    struct lt_node *n = lt_graph_node(b->graph, op);
    n->in[0] = x;
    n->in[1] = y;
    n->out[0] = z;
    n->attr.act = act;
    return z;
}

int lt_build_add(struct lt_build *b, int x, int y)
{
    return binary(b, LT_OP_ADD, x, y, LT_ACT_SILU);
}

int lt_build_act(struct lt_build *b, int x, enum lt_activation act)
{
    return binary(b, LT_OP_ACT, x, LT_NO_VALUE, act);
}

int lt_build_glu(struct lt_build *b, int gate, int up, enum lt_activation act)
{
    return binary(b, LT_OP_GLU, gate, up, act);
}

int lt_build_dropout(struct lt_build *b, int x, float p)
{
    uint32_t site = take_site(b);
    if (p <= 0 || b->mode != LT_BUILD_TRAIN)
        return x;
    int key = lt_build_input(b, LT_IN_ROW_KEY);
    int y = lt_graph_value(b->graph, x, cols_of(b, x));
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_DROPOUT);
    n->in[0] = x;
    n->in[1] = key;
    n->out[0] = y;
    n->attr.dropout = p;
    n->attr.site = site;
    return y;
}

void lt_build_split(struct lt_build *b, int x, const int64_t *parts, int count, int *out)
{
    for (int i = 0; i < count; i++)
        out[i] = lt_graph_value(b->graph, x, parts[i]);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_SPLIT);
    n->in[0] = x;
    for (int i = 0; i < count; i++)
        n->out[i] = out[i];
}

/* In decode mode keys and values go to the layer's cache and attention reads the cache. */
static void through_cache(struct lt_build *b, int *k, int *v)
{
    int64_t cols = cols_of(b, *k);
    int kc = lt_graph_extern(b->graph, LT_EXT_CACHE, 0, LT_F32, LT_ROWS_CACHE, 0, cols);
    int vc = lt_graph_extern(b->graph, LT_EXT_CACHE, 1, LT_F32, LT_ROWS_CACHE, 0, cols);
    int slots = lt_build_input(b, LT_IN_CACHE_SLOTS);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_KV_STORE);
    n->in[0] = *k;
    n->in[1] = *v;
    n->in[2] = slots;
    n->out[0] = kc;
    n->out[1] = vc;
    *k = kc;
    *v = vc;
}

int lt_build_attention(struct lt_build *b, int q, int k, int v, const struct lt_attention_spec *spec)
{
    uint32_t site = take_site(b);
    b->next_site += (uint32_t)spec->heads; /* one stream a head */
    if (b->mode == LT_BUILD_DECODE)
        through_cache(b, &k, &v);
    float dropout = b->mode == LT_BUILD_TRAIN ? spec->dropout : 0;
    int begin = lt_build_input(b, LT_IN_KV_BEGIN), end = lt_build_input(b, LT_IN_KV_END);
    int key = dropout > 0 ? lt_build_input(b, LT_IN_ROW_KEY) : LT_NO_VALUE;
    int o = lt_graph_value(b->graph, q, cols_of(b, q)), lse = lt_graph_value(b->graph, q, spec->heads);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_ATTENTION);
    n->in[0] = q;
    n->in[1] = k;
    n->in[2] = v;
    n->in[3] = begin;
    n->in[4] = end;
    n->in[5] = key;
    n->out[0] = o;
    n->out[1] = lse;
    n->attr.heads = spec->heads;
    n->attr.kv_heads = spec->kv_heads;
    n->attr.head_dim = spec->head_dim;
    n->attr.window = spec->window;
    n->attr.scale = spec->scale;
    n->attr.softcap = spec->softcap;
    n->attr.dropout = dropout;
    n->attr.site = site;
    n->attr.compute = b->model->compute_dtype == LT_BF16 && !b->step ? LT_BF16 : LT_F32;
    return o;
}

int lt_build_label_rows(struct lt_build *b, int h)
{
    int index = lt_build_input(b, LT_IN_LABEL_ROWS);
    int y = lt_graph_value_rows(b->graph, LT_ROWS_LABELS, 0, cols_of(b, h), LT_F32);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_GATHER_ROWS);
    n->in[0] = h;
    n->in[1] = index;
    n->out[0] = y;
    return y;
}

static void build_logits(struct lt_build *b, int h, int weight)
{
    int y = lt_build_linear(b, h, weight, LT_NO_TENSOR);
    if (b->graph->failed)
        return;
    struct lt_value *v = &b->graph->values[y];
    v->storage = LT_STORE_EXTERN;
    v->ext_kind = LT_EXT_OUTPUT;
    v->ext_index = LT_OUT_LOGITS;
}

void lt_build_loss(struct lt_build *b, int h, int weight, float softcap)
{
    if (b->logits) {
        build_logits(b, h, weight);
        return;
    }
    const struct lt_model_tensor *t = lt_model_tensor(b->model, b->segment, weight);
    int w = tensor_value(b, weight), labels = lt_build_input(b, LT_IN_LABELS);
    int loss = lt_graph_extern(b->graph, LT_EXT_OUTPUT, LT_OUT_LOSS, LT_F32, LT_ROWS_LABELS, 0, 1);
    int argmax = lt_graph_extern(b->graph, LT_EXT_OUTPUT, LT_OUT_ARGMAX, LT_I32, LT_ROWS_LABELS, 0, 1);
    int scratch = lt_graph_value_rows(b->graph, LT_ROWS_FIXED, b->loss_chunk, t->rows, LT_F32);
    struct lt_node *n = lt_graph_node(b->graph, LT_OP_CROSS_ENTROPY);
    n->in[0] = h;
    n->in[1] = w;
    n->in[2] = labels;
    n->out[0] = loss;
    n->out[1] = argmax;
    n->out[4] = scratch;
    n->attr.softcap = softcap;
    n->attr.chunk = b->loss_chunk;
}
