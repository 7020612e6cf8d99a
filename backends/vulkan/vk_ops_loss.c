/* Linear + cross entropy over chunks of rows: no more logits exist than scratch holds. */
#include "backends/vulkan/vk_gemm.h"
#include "core/base/checked.h"

enum { THREADS = 256 };

/* A chunk: rows [begin, begin + rows) of the op. */
struct chunk {
    const struct lt_vk_call *call;
    int64_t begin, rows, hidden, vocab;
    struct lt_vk_ref logits;
};

/* The chunk's rows of a value with `cols` columns. */
static struct lt_vk_ref rows_of(const struct chunk *k, struct lt_vk_ref whole, int64_t cols)
{
    size_t row = (size_t)cols * sizeof(float);
    return lt_vk_slice(whole, (size_t)k->begin * row, (size_t)k->rows * row);
}

static struct lt_vk_gemm product(const struct chunk *k)
{
    const struct lt_vk_call *c = k->call;
    return (struct lt_vk_gemm){
        .m = k->rows, .scale = 1, .kind = c->in_kind[0], .row0 = k->begin, .workspace = c->workspace};
}

static void make_logits(const struct chunk *k)
{
    struct lt_vk_gemm g = product(k);
    g.n = k->vocab;
    g.k = k->hidden;
    g.a = rows_of(k, k->call->in[0], k->hidden);
    g.w = k->call->weight[1];
    g.c = k->logits;
    lt_vk_gemm(k->call->rec, &g);
}

/* The losses; with `gradient` the logits become their gradient. */
static void make_losses(const struct chunk *k, bool gradient)
{
    const struct lt_vk_call *c = k->call;
    const struct {
        uint32_t vocab;
        float softcap;
    } push = {(uint32_t)k->vocab, c->node->attr.softcap};
    lt_vk_dispatch(
        c->rec,
        &(struct lt_vk_dispatch){
            .key = {.shader = LT_VK_SHADER_cross_entropy, .spec_count = 2, .spec = {THREADS, gradient}},
            .args = {{k->logits, LT_VK_READ_WRITE, (size_t)k->vocab * sizeof(float)},
                     {rows_of(k, c->in[2], 1), LT_VK_READ, sizeof(int32_t)},
                     {rows_of(k, c->out[0], 1), LT_VK_WRITE, sizeof(float)},
                     {rows_of(k, c->out[1], 1), LT_VK_WRITE, sizeof(int32_t)}},
            .push = &push,
            .push_bytes = sizeof push,
            .rows = k->rows,
            .kind = c->in_kind[0],
            .row0 = k->begin,
            .rows_per_group = 1,
            .work = 60.0 * (double)k->rows * (double)k->vocab});
}

/* dh = dlogits W */
static void make_dh(const struct chunk *k)
{
    struct lt_vk_gemm g = product(k);
    g.n = k->hidden;
    g.k = k->vocab;
    g.a = k->logits;
    g.w = k->call->weight[1];
    g.by_rows = true;
    g.c = rows_of(k, k->call->out[2], k->hidden);
    lt_vk_gemm(k->call->rec, &g);
}

/* dW += dlogitsᵀ h */
static void add_dw(const struct chunk *k)
{
    const struct lt_device_weight h =
        lt_vk_plain_weight(rows_of(k, k->call->in[0], k->hidden), k->rows, k->hidden);
    struct lt_vk_gemm g = product(k);
    g.m = k->vocab;
    g.n = k->hidden;
    g.k = k->rows;
    g.a = k->logits;
    g.a_transposed = true;
    g.w = &h;
    g.by_rows = true;
    g.start = g.c = k->call->out[3];
    lt_vk_gemm(k->call->rec, &g);
}

void lt_vk_op_cross_entropy(const struct lt_vk_call *c)
{
    const struct lt_device_weight *w = c->weight[1];
    int64_t rows = c->in_rows[0], step = c->node->attr.chunk;
    bool dh = c->out[2].buffer, dw = c->out[3].buffer;
    for (int64_t begin = 0; begin < rows; begin += step) {
        struct chunk k = {.call = c,
                          .begin = begin,
                          .rows = lt_min_i64(step, rows - begin),
                          .hidden = c->in_cols[0],
                          .vocab = w->rows};
        k.logits = lt_vk_slice(c->out[4], 0, (size_t)(k.rows * k.vocab) * sizeof(float));
        make_logits(&k);
        make_losses(&k, dh || dw);
        if (dh)
            make_dh(&k);
        if (dw)
            add_dw(&k);
    }
}

size_t lt_vk_cross_entropy_workspace(const struct lt_program *p, const struct lt_node *n)
{
    const struct lt_value *v = p->graph.values;
    int64_t rows = n->attr.chunk, hidden = v[n->in[0]].cols, vocab = v[n->out[4]].cols;
    size_t logits = lt_vk_gemm_workspace(rows, vocab, hidden, false);
    size_t dh = lt_vk_gemm_workspace(rows, hidden, vocab, false);
    size_t dw = lt_vk_gemm_workspace(vocab, hidden, rows, true);
    size_t most = logits > dh ? logits : dh;
    return most > dw ? most : dw;
}
