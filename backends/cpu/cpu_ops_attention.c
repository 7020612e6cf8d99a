/* Attention forward and backward: the split over heads, rows and sequences. */
#include <omp.h>

#include "backends/cpu/cpu_ops.h"
#include "backends/cpu/cpu_ops_random.h"
#include "core/base/checked.h"

enum {
    ATTENTION_ROWS = 64, /* query rows of one task */
    FEW_ROWS = 8,        /* so many at most are taken one by one, their heads together */
    MOST_HEADS = 64
};

/* Rows of the same sequence starting at `row`, up to `end`. */
static int64_t run_end(const int32_t *kv_begin, int64_t row, int64_t end)
{
    int64_t e = row + 1;
    while (e < end && kv_begin[e] == kv_begin[row])
        e++;
    return e;
}

static void forward_rows(const struct lt_cpu_call *c, int64_t head, int64_t begin, int64_t end)
{
    const struct lt_op_attr *a = &c->node->attr;
    const float *q = c->in[0], *k = c->in[1], *v = c->in[2];
    const int32_t *kv_begin = c->in[3], *kv_end = c->in[4];
    const uint32_t *key = c->in[5];
    float *o = c->out[0], *lse = c->out[1];
    struct lt_cpu_dropout d = lt_cpu_dropout_of(c);
    int64_t kv_head = head / (a->heads / a->kv_heads);
    d.site.site += (uint32_t)head;
    for (int64_t row = begin; row < end;) {
        int64_t stop = run_end(kv_begin, row, end);
        struct lt_attention_block b = {.q = q + row * c->in_cols[0] + head * a->head_dim,
                                       .k = k + kv_head * a->head_dim,
                                       .v = v + kv_head * a->head_dim,
                                       .o = o + row * c->out_cols[0] + head * a->head_dim,
                                       .lse = lse + row * a->heads + head,
                                       .ldq = c->in_cols[0],
                                       .ldkv = c->in_cols[1],
                                       .ldo = c->out_cols[0],
                                       .ldlse = a->heads,
                                       .rows = stop - row,
                                       .head_dim = a->head_dim,
                                       .kv_begin = kv_begin[row],
                                       .kv_end = kv_end + row,
                                       .scale = a->scale,
                                       .softcap = a->softcap,
                                       .window = a->window,
                                       .drop_threshold = d.threshold,
                                       .drop_scale = d.keep_scale,
                                       .site = d.site,
                                       .row_key = key ? key + row : NULL};
        c->cpu->k.attention_fwd(&b);
        row = stop;
    }
}

/* One row and n heads that share keys and values: to the kernel they are n rows that see the same. */
static void forward_heads(const struct lt_cpu_call *c, int64_t row, int64_t head, int64_t n)
{
    const struct lt_op_attr *a = &c->node->attr;
    const int64_t kv_head = head / (a->heads / a->kv_heads);
    int32_t kv_end[MOST_HEADS];
    for (int64_t i = 0; i < n; i++)
        kv_end[i] = ((const int32_t *)c->in[4])[row];
    struct lt_attention_block b = {.q = (const float *)c->in[0] + row * c->in_cols[0] + head * a->head_dim,
                                   .k = (const float *)c->in[1] + kv_head * a->head_dim,
                                   .v = (const float *)c->in[2] + kv_head * a->head_dim,
                                   .o = (float *)c->out[0] + row * c->out_cols[0] + head * a->head_dim,
                                   .lse = (float *)c->out[1] + row * a->heads + head,
                                   .ldq = a->head_dim,
                                   .ldkv = c->in_cols[1],
                                   .ldo = a->head_dim,
                                   .ldlse = 1,
                                   .rows = n,
                                   .head_dim = a->head_dim,
                                   .kv_begin = ((const int32_t *)c->in[3])[row],
                                   .kv_end = kv_end,
                                   .scale = a->scale,
                                   .softcap = a->softcap,
                                   .window = a->window};
    c->cpu->k.attention_fwd(&b);
}

static void forward_few(const struct lt_cpu_call *c, int threads)
{
    const int64_t rows = c->in_rows[0], group = c->node->attr.heads / c->node->attr.kv_heads;
    const int64_t shares =
        lt_div_up(threads, rows * c->node->attr.kv_heads); /* of a group, for all threads */
    const int64_t each = lt_min_i64(MOST_HEADS, lt_div_up(group, shares)), parts = lt_div_up(group, each);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < rows * c->node->attr.kv_heads * parts; task++) {
        const int64_t part = task % parts, kv_head = task / parts % c->node->attr.kv_heads;
        forward_heads(c, task / parts / c->node->attr.kv_heads, kv_head * group + part * each,
                      lt_min_i64(each, group - part * each));
    }
}

void lt_cpu_op_attention(const struct lt_cpu_call *c)
{
    int64_t rows = c->in_rows[0], heads = c->node->attr.heads, blocks = lt_div_up(rows, ATTENTION_ROWS);
    const int threads = lt_cpu_threads(c, 8 * rows * c->in_cols[0]);
    if (rows > 0 && rows <= FEW_ROWS && lt_cpu_dropout_of(c).threshold == 0) {
        forward_few(c, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < blocks * heads; task++) {
        int64_t block = blocks - 1 - task / heads; /* the longest rows first */
        forward_rows(c, task % heads, block * ATTENTION_ROWS, lt_min_i64(rows, (block + 1) * ATTENTION_ROWS));
    }
}

static void backward_sequence(const struct lt_cpu_call *c, int64_t kv_head, int64_t begin, int64_t end,
                              float *scratch)
{
    const struct lt_op_attr *a = &c->node->attr;
    int64_t group = a->heads / a->kv_heads, head = kv_head * group, dim = a->head_dim;
    int64_t ldq = c->in_cols[1], ldkv = c->in_cols[2], at_q = begin * ldq + head * dim,
            at_kv = begin * ldkv + kv_head * dim;
    struct lt_cpu_dropout d = lt_cpu_dropout_of(c);
    const uint32_t *key = c->in[8];
    d.site.site += (uint32_t)head;
    struct lt_attention_grad g = {.q = (const float *)c->in[1] + at_q,
                                  .k = (const float *)c->in[2] + at_kv,
                                  .v = (const float *)c->in[3] + at_kv,
                                  .o = (const float *)c->in[4] + at_q,
                                  .d_o = (const float *)c->in[0] + at_q,
                                  .lse = (const float *)c->in[5] + begin * a->heads + head,
                                  .dq = (float *)c->out[0] + at_q,
                                  .dk = (float *)c->out[1] + at_kv,
                                  .dv = (float *)c->out[2] + at_kv,
                                  .ldq = ldq,
                                  .ldkv = ldkv,
                                  .ldo = ldq,
                                  .ldlse = a->heads,
                                  .rows = end - begin,
                                  .head_dim = dim,
                                  .group = group,
                                  .scale = a->scale,
                                  .softcap = a->softcap,
                                  .window = a->window,
                                  .drop_threshold = d.threshold,
                                  .drop_scale = d.keep_scale,
                                  .site = d.site,
                                  .row_key = key ? key + begin : NULL,
                                  .scratch = scratch};
    c->cpu->k.attention_bwd(&g);
}

static size_t scratch_bytes(const struct lt_op_attr *a, int64_t tokens)
{
    size_t floats = lt_attention_grad_scratch(tokens, a->head_dim, a->heads / a->kv_heads);
    return lt_align_up(floats * sizeof(float), LT_VALUE_ALIGN);
}

/* Workspace: the first row of every sequence, then one scratch a thread. */
static size_t starts_bytes(int64_t tokens)
{
    return lt_align_up((size_t)(tokens + 1) * sizeof(int32_t), LT_VALUE_ALIGN);
}

void lt_cpu_op_attention_bwd(const struct lt_cpu_call *c)
{
    const int32_t *kv_begin = c->in[6];
    int64_t rows = c->in_rows[0], kv_heads = c->node->attr.kv_heads, sequences = 0;
    int32_t *starts = (int32_t *)(void *)c->workspace;
    unsigned char *scratch = c->workspace + starts_bytes(c->capacity->tokens);
    size_t each = scratch_bytes(&c->node->attr, c->capacity->tokens);
    for (int64_t row = 0; row < rows; row = run_end(kv_begin, row, rows))
        starts[sequences++] = (int32_t)row;
    starts[sequences] = (int32_t)rows;
#pragma omp parallel for num_threads(c->cpu->threads) schedule(dynamic)
    for (int64_t task = 0; task < sequences * kv_heads; task++) {
        int64_t s = task / kv_heads;
        float *mine = (float *)(void *)(scratch + (size_t)omp_get_thread_num() * each);
        backward_sequence(c, task % kv_heads, starts[s], starts[s + 1], mine);
    }
}

size_t lt_cpu_op_workspace(const struct lt_cpu *cpu, const struct lt_program *p, const struct lt_node *n)
{
    if (n->op == LT_OP_ATTENTION_BWD)
        return starts_bytes(p->capacity.tokens) +
               (size_t)cpu->threads * scratch_bytes(&n->attr, p->capacity.tokens);
    if (n->op == LT_OP_GRAD_NORM)
        return lt_cpu_grad_norm_workspace(p->graph.values[n->in[0]].cols);
    if (n->op != LT_OP_LINEAR)
        return 0;
    const struct lt_value *x = &p->graph.values[n->in[0]];
    size_t step = n->attr.step ? lt_cpu_linear_step_workspace(cpu, x->cols) : 0;
    size_t int8 =
        n->attr.int8 ? lt_cpu_linear_int8_workspace(lt_value_capacity_rows(x, &p->capacity), x->cols) : 0;
    return step > int8 ? step : int8;
}
