/* Attention: the CPU backend's ops over one sequence. */
#include <math.h>
#include <stdio.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "tools/bench_kernels.h"
#include "tools/bench_machine.h"

enum { Q, K, V, O, D_O, DQ, DK, DV, LSE, KV_BEGIN, KV_END, WORKSPACE, PARTS };

struct attention {
    struct lt_cpu cpu;
    struct lt_program program; /* capacities only */
    struct lt_node node;
    struct lt_step_params params;
    int64_t cols[PARTS]; /* 4 bytes each; of WORKSPACE in one row */
    void *parts[PARTS];
};

static struct lt_cpu_call call_of(const struct attention *a)
{
    return (struct lt_cpu_call){.cpu = &a->cpu,
                                .node = &a->node,
                                .capacity = &a->program.capacity,
                                .params = &a->params,
                                .workspace = a->parts[WORKSPACE]};
}

static void set_in(struct lt_cpu_call *c, const struct attention *a, int in, int part)
{
    c->in[in] = a->parts[part];
    c->in_rows[in] = a->program.capacity.tokens;
    c->in_cols[in] = a->cols[part];
}

static void set_out(struct lt_cpu_call *c, const struct attention *a, int out, int part)
{
    c->out[out] = a->parts[part];
    c->out_rows[out] = a->program.capacity.tokens;
    c->out_cols[out] = a->cols[part];
}

static void run_forward(void *user)
{
    static const int in[] = {Q, K, V, KV_BEGIN, KV_END}, out[] = {O, LSE};
    struct lt_cpu_call c = call_of(user);
    for (int i = 0; i < 5; i++)
        set_in(&c, user, i, in[i]);
    for (int i = 0; i < 2; i++)
        set_out(&c, user, i, out[i]);
    lt_cpu_op_attention(&c);
}

static void run_backward(void *user)
{
    static const int in[] = {D_O, Q, K, V, O, LSE, KV_BEGIN, KV_END}, out[] = {DQ, DK, DV};
    struct lt_cpu_call c = call_of(user);
    for (int i = 0; i < 8; i++)
        set_in(&c, user, i, in[i]);
    for (int i = 0; i < 3; i++)
        set_out(&c, user, i, out[i]);
    lt_cpu_op_attention_bwd(&c);
}

static void describe(struct attention *a, const struct bench_kernels *b)
{
    const struct lt_model *m = b->s.model;
    const int64_t wide = m->heads * m->head_dim, narrow = m->kv_heads * m->head_dim;
    *a = (struct attention){.cpu = {.k = b->k, .threads = b->s.threads},
                            .program.capacity = {.tokens = b->seq, .labels = b->seq},
                            .node = {.op = LT_OP_ATTENTION_BWD,
                                     .attr = {.compute = LT_BF16, /* for the larger workspace */
                                              .heads = (int32_t)m->heads,
                                              .kv_heads = (int32_t)m->kv_heads,
                                              .head_dim = (int32_t)m->head_dim,
                                              .scale = 1 / sqrtf((float)m->head_dim)}},
                            .params = {.n_tokens = (int32_t)b->seq, .n_labels = 1, .training = true},
                            .cols = {[Q] = wide,
                                     [K] = narrow,
                                     [V] = narrow,
                                     [O] = wide,
                                     [D_O] = wide,
                                     [DQ] = wide,
                                     [DK] = narrow,
                                     [DV] = narrow,
                                     [LSE] = m->heads,
                                     [KV_BEGIN] = 1,
                                     [KV_END] = 1}};
    a->cols[WORKSPACE] = (int64_t)(lt_cpu_op_workspace(&a->cpu, &a->program, &a->node) / sizeof(float));
}

/* All arrays in one block of memory, as in a step; NULL: only how many bytes they take. */
static size_t lay_out(struct attention *a, unsigned char *memory)
{
    size_t at = 0;
    for (int i = 0; i < PARTS; i++) {
        int64_t rows = i == WORKSPACE ? 1 : a->program.capacity.tokens;
        a->parts[i] = memory ? memory + at : NULL;
        at += lt_align_up((size_t)(rows * a->cols[i]) * sizeof(float), LT_VALUE_ALIGN);
    }
    return at;
}

static void fill_attention(struct attention *a, const struct bench_kernels *b)
{
    static const int inputs[] = {Q, K, V, D_O};
    const struct lt_synthetic_options f32 = {
        .format = LT_WEIGHT_F32, .seed = b->s.synthetic.seed, .threads = b->s.threads};
    struct lt_weight ignored;
    for (unsigned i = 0; i < sizeof inputs / sizeof *inputs; i++)
        lt_synthetic_weight(&ignored, a->parts[inputs[i]], b->seq, a->cols[inputs[i]], &f32, 4 + i);
    for (int64_t i = 0; i < b->seq; i++) {
        ((int32_t *)a->parts[KV_BEGIN])[i] = 0;
        ((int32_t *)a->parts[KV_END])[i] = (int32_t)i + 1;
    }
}

/* pairs: of a query and a key it sees, all heads; flops: of one of them. */
static void print_attention(const char *name, double seconds, double pairs, double flops)
{
    printf("  %-24s %14.3f %14.1f %14.3f\n", name, 1e3 * seconds, 1e-9 * flops * pairs / seconds,
           1e9 * seconds / pairs);
}

/* A row of the table for each direction; returns the object for the results. */
static json_t *measure(struct attention *a, const struct bench_kernels *b, enum lt_dtype compute)
{
    const struct lt_op_attr *attr = &a->node.attr;
    const bool bf16 = compute == LT_BF16;
    /* Two products of a row with a row forward, five backward. */
    const double pairs = (double)attr->heads * (double)b->seq * (double)(b->seq + 1) / 2;
    const double product = 2.0 * (double)attr->head_dim;
    a->node.attr.compute = compute;
    const double forward = bench_best_seconds(run_forward, a, b->budget);
    const double backward = bench_best_seconds(run_backward, a, b->budget);
    print_attention(bf16 ? "forward, bf16" : "forward", forward, pairs, 2 * product);
    print_attention(bf16 ? "backward, bf16" : "backward", backward, pairs, 5 * product);
    return json_pack("{s:I, s:f, s:f, s:f, s:f}", "seq", (json_int_t)b->seq, "forward_seconds", forward,
                     "forward_flops_per_second", 2 * product * pairs / forward, "backward_seconds", backward,
                     "backward_flops_per_second", 5 * product * pairs / backward);
}

enum lt_status bench_attention(struct bench_kernels *b, struct lt_error *err)
{
    struct attention a;
    const struct lt_op_attr *attr = &a.node.attr;
    describe(&a, b);
    size_t bytes = lay_out(&a, NULL);
    unsigned char *memory = lt_alloc_pages(bytes);
    if (!memory)
        return lt_fail(err, LT_ERR_NOMEM,
                       "out of memory for attention over %lld tokens: %zu bytes are needed",
                       (long long)b->seq, bytes);
    lay_out(&a, memory);
    fill_attention(&a, b);
    printf("\nAttention, %lld tokens, %d heads of %d over %d key heads\n  %-24s %14s %14s %14s\n",
           (long long)b->seq, attr->heads, attr->head_dim, attr->kv_heads, "", "ms", "GFLOP/s", "ns a pair");
    bench_session_add(&b->s, json_pack("{s:o}", "attention", measure(&a, b, LT_F32)));
    if (a.cpu.k.attention_fwd_bf16)
        bench_session_add(&b->s, json_pack("{s:o}", "attention_bf16", measure(&a, b, LT_BF16)));
    lt_free_pages(memory, bytes);
    return LT_OK;
}
