/* Attention forward and backward: the split over heads, rows and sequences. */
#include <omp.h>
#include <stdatomic.h>

#include "backends/cpu/cpu_ops.h"
#include "backends/cpu/cpu_ops_random.h"
#include "core/base/checked.h"

enum {
    ATTENTION_ROWS = 64, /* query rows of one task */
    FEW_TASKS = 16,      /* for each thread */
    FEW_ROWS = 8,        /* so many at most are taken one by one, their heads together */
    MOST_HEADS = 64,
    MOST_KEYS = 4 * LT_ATTENTION_TILE /* of a task: its rows are fetched a quarter as often as for one tile */
};

/* Rows of the same sequence starting at `row`, up to `end`. */
static int64_t run_end(const int32_t *kv_begin, int64_t row, int64_t end)
{
    int64_t e = row + 1;
    while (e < end && kv_begin[e] == kv_begin[row])
        e++;
    return e;
}

/* The kernels that round factors to bf16, where there are any. */
static bool in_bf16(const struct lt_cpu *cpu, const struct lt_op_attr *a)
{
    return a->compute == LT_BF16 && cpu->k.attention_fwd_bf16 && a->head_dim <= LT_ATTENTION_BF16_DIM;
}

static void attend(const struct lt_cpu_call *c, const struct lt_attention_block *b)
{
    if (in_bf16(c->cpu, &c->node->attr))
        c->cpu->k.attention_fwd_bf16(b);
    else
        c->cpu->k.attention_fwd(b);
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
        attend(c, &b);
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
    attend(c, &b);
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

/* A sequence of the batch: its first row, and how many pieces all sequences before it have. */
struct sequence {
    int32_t row, piece;
};

/* The backward pass and its workspace. */
struct backward {
    const struct lt_cpu_call *call;
    int64_t piece;              /* keys of a task */
    struct sequence *sequences; /* [count + 1], the last one is the end */
    int64_t count;
    float *delta;           /* of a row and head one element; of a sequence and kv head: [group, rows] */
    _Atomic int32_t *turns; /* as many; of a sequence and kv head: [group, tiles of rows] */
    unsigned char *scratch; /* of each thread */
    size_t scratch_bytes;
};

/* Places the parts; returns how many bytes they take. */
static size_t lay_out(struct backward *b, const struct lt_cpu *cpu, const struct lt_op_attr *a,
                      int64_t tokens, unsigned char *workspace)
{
    const size_t scratch = lt_attention_grad_scratch(MOST_KEYS, a->head_dim, in_bf16(cpu, a));
    const size_t rows = (size_t)tokens * (size_t)a->heads * sizeof(float);
    const size_t sizes[] = {((size_t)tokens + 1) * sizeof *b->sequences, rows, rows};
    size_t at[3], end = 0;
    for (int i = 0; i < 3; i++) {
        at[i] = end;
        end += lt_align_up(sizes[i], LT_VALUE_ALIGN);
    }
    b->scratch_bytes = lt_align_up(scratch * sizeof(float), LT_VALUE_ALIGN);
    if (workspace) {
        b->sequences = (struct sequence *)(void *)(workspace + at[0]);
        b->delta = (float *)(void *)(workspace + at[1]);
        b->turns = (_Atomic int32_t *)(void *)(workspace + at[2]);
        b->scratch = workspace + end;
    }
    return end + (size_t)cpu->threads * b->scratch_bytes;
}

/* Cuts the keys of every sequence into pieces; returns how many there are. */
static int64_t find_sequences(struct backward *b, int64_t piece)
{
    const int32_t *kv_begin = b->call->in[6];
    int64_t rows = b->call->in_rows[0], pieces = 0;
    b->piece = piece;
    b->count = 0;
    for (int64_t row = 0, end; row < rows; row = end) {
        end = run_end(kv_begin, row, rows);
        b->sequences[b->count++] = (struct sequence){(int32_t)row, (int32_t)pieces};
        pieces += lt_div_up(end - row, piece);
    }
    b->sequences[b->count] = (struct sequence){(int32_t)rows, (int32_t)pieces};
    return pieces;
}

/* A piece of the keys of a sequence, for one kv head. */
static void backward_keys(const struct backward *b, const struct sequence *s, int64_t piece, int64_t kv_head)
{
    const struct lt_cpu_call *c = b->call;
    const struct lt_op_attr *a = &c->node->attr;
    int64_t begin = s[0].row, rows = s[1].row - begin, tiles = lt_div_up(rows, LT_ATTENTION_TILE);
    int64_t group = a->heads / a->kv_heads, head = kv_head * group, dim = a->head_dim;
    int64_t ldq = c->in_cols[1], ldkv = c->in_cols[2], at_q = begin * ldq + head * dim,
            at_kv = begin * ldkv + kv_head * dim;
    struct lt_cpu_dropout d = lt_cpu_dropout_of(c);
    const uint32_t *key = c->in[8];
    d.site.site += (uint32_t)head;
    struct lt_attention_grad g = {
        .q = (const float *)c->in[1] + at_q,
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
        .rows = rows,
        .head_dim = dim,
        .group = group,
        .key_begin = piece * b->piece,
        .key_end = lt_min_i64(rows, (piece + 1) * b->piece),
        .scale = a->scale,
        .softcap = a->softcap,
        .window = a->window,
        .drop_threshold = d.threshold,
        .drop_scale = d.keep_scale,
        .site = d.site,
        .row_key = key ? key + begin : NULL,
        .delta = b->delta + begin * a->heads + head * rows,
        .turns = b->turns + begin * a->heads + head * tiles,
        .scratch = (float *)(void *)(b->scratch + (size_t)omp_get_thread_num() * b->scratch_bytes)};
    if (in_bf16(c->cpu, a))
        c->cpu->k.attention_bwd_bf16(&g);
    else
        c->cpu->k.attention_bwd(&g);
}

/* Tasks are taken in order: pieces of the keys one after another, so that calls for the same kv head begin in the order of
 * their keys, as their turns demand, and those with the most rows first; kv heads of a piece side by side, so that few have
 * to wait for one another. */
static void take_tasks(const struct backward *b, int64_t *next)
{
    const struct sequence *s = b->sequences, *end = s + b->count;
    const int64_t kv_heads = b->call->node->attr.kv_heads;
    for (;;) {
        int64_t task;
#pragma omp atomic capture
        task = (*next)++;
        while (s < end && task / kv_heads >= s[1].piece)
            s++;
        if (s == end)
            break;
        backward_keys(b, s, task / kv_heads - s->piece, task % kv_heads);
    }
}

void lt_cpu_op_attention_bwd(const struct lt_cpu_call *c)
{
    struct backward b = {.call = c};
    const struct lt_op_attr *a = &c->node->attr;
    int64_t next = 0;
    lay_out(&b, c->cpu, a, c->capacity->tokens, c->workspace);
    if (find_sequences(&b, MOST_KEYS) * a->kv_heads < FEW_TASKS * (int64_t)c->cpu->threads)
        find_sequences(&b, LT_ATTENTION_TILE);
    for (int64_t i = 0; i < c->in_rows[0] * a->heads; i++)
        atomic_store_explicit(&b.turns[i], 0, memory_order_relaxed);
#pragma omp parallel num_threads(c->cpu->threads)
    take_tasks(&b, &next);
}

size_t lt_cpu_op_workspace(const struct lt_cpu *cpu, const struct lt_program *p, const struct lt_node *n)
{
    struct backward b;
    if (n->op == LT_OP_ATTENTION_BWD)
        return lay_out(&b, cpu, &n->attr, p->capacity.tokens, NULL);
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
