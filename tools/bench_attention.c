/* Attention, split over threads as the op layer does it. */
#include <math.h>
#include <omp.h>
#include <stdio.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "tools/bench_kernels.h"
#include "tools/bench_machine.h"

enum { ATTENTION_ROWS = 64 }; /* query rows of one task, as in the op layer */

struct attention {
    const struct lt_cpu_kernels *k;
    int threads;
    int64_t seq, heads, kv_heads, head_dim;
    float *q, *key, *v, *o, *d_o, *dq, *dk, *dv, *lse, *scratch;
    size_t scratch_floats; /* of a thread */
    int32_t *kv_end;
};

static void run_forward(void *user)
{
    const struct attention *a = user;
    int64_t blocks = lt_div_up(a->seq, ATTENTION_ROWS), group = a->heads / a->kv_heads;
#pragma omp parallel for num_threads(a->threads) schedule(dynamic)
    for (int64_t task = 0; task < blocks * a->heads; task++) {
        int64_t row = (blocks - 1 - task / a->heads) * ATTENTION_ROWS, head = task % a->heads;
        int64_t ldq = a->heads * a->head_dim, ldkv = a->kv_heads * a->head_dim;
        const struct lt_attention_block block = {.q = a->q + row * ldq + head * a->head_dim,
                                                 .k = a->key + head / group * a->head_dim,
                                                 .v = a->v + head / group * a->head_dim,
                                                 .o = a->o + row * ldq + head * a->head_dim,
                                                 .lse = a->lse + row * a->heads + head,
                                                 .ldq = ldq,
                                                 .ldkv = ldkv,
                                                 .ldo = ldq,
                                                 .ldlse = a->heads,
                                                 .rows = lt_min_i64(ATTENTION_ROWS, a->seq - row),
                                                 .head_dim = a->head_dim,
                                                 .kv_end = a->kv_end + row,
                                                 .scale = 1 / sqrtf((float)a->head_dim)};
        a->k->attention_fwd(&block);
    }
}

static void run_backward(void *user)
{
    const struct attention *a = user;
    int64_t group = a->heads / a->kv_heads, ldq = a->heads * a->head_dim, ldkv = a->kv_heads * a->head_dim;
#pragma omp parallel for num_threads(a->threads) schedule(dynamic)
    for (int64_t h = 0; h < a->kv_heads; h++) {
        int64_t at_q = h * group * a->head_dim, at_kv = h * a->head_dim;
        const struct lt_attention_grad grad = {.q = a->q + at_q,
                                               .k = a->key + at_kv,
                                               .v = a->v + at_kv,
                                               .o = a->o + at_q,
                                               .d_o = a->d_o + at_q,
                                               .lse = a->lse + h * group,
                                               .dq = a->dq + at_q,
                                               .dk = a->dk + at_kv,
                                               .dv = a->dv + at_kv,
                                               .ldq = ldq,
                                               .ldkv = ldkv,
                                               .ldo = ldq,
                                               .ldlse = a->heads,
                                               .rows = a->seq,
                                               .head_dim = a->head_dim,
                                               .group = group,
                                               .scale = 1 / sqrtf((float)a->head_dim),
                                               .scratch = a->scratch +
                                                          (size_t)omp_get_thread_num() * a->scratch_floats};
        a->k->attention_bwd(&grad);
    }
}

/* All arrays in one block of memory. */
static size_t lay_out(struct attention *a, float *memory)
{
    size_t q = (size_t)(a->seq * a->heads * a->head_dim), kv = (size_t)(a->seq * a->kv_heads * a->head_dim);
    size_t lse = (size_t)(a->seq * a->heads), at = 0;
    a->scratch_floats =
        lt_align_up(lt_attention_grad_scratch(a->seq, a->head_dim, a->heads / a->kv_heads), 16);
    const size_t sizes[] = {
        q, kv, kv, q, q, kv, kv, q, lse, (size_t)a->threads * a->scratch_floats, (size_t)a->seq};
    float **const parts[] = {&a->q,  &a->key, &a->v, &a->d_o, &a->dq,
                             &a->dk, &a->dv,  &a->o, &a->lse, &a->scratch};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (memory && i < sizeof parts / sizeof *parts)
            *parts[i] = memory + at;
        else if (memory)
            a->kv_end = (int32_t *)(void *)(memory + at);
        at += lt_align_up(sizes[i], 16);
    }
    return at * sizeof(float);
}

static void fill_attention(struct attention *a, const struct bench_kernels *b)
{
    const struct lt_synthetic_options f32 = {
        .format = LT_WEIGHT_F32, .seed = b->s.synthetic.seed, .threads = b->s.threads};
    struct lt_weight ignored;
    lt_synthetic_weight(&ignored, a->q, a->seq, a->heads * a->head_dim, &f32, 4);
    lt_synthetic_weight(&ignored, a->key, a->seq, a->kv_heads * a->head_dim, &f32, 5);
    lt_synthetic_weight(&ignored, a->v, a->seq, a->kv_heads * a->head_dim, &f32, 6);
    lt_synthetic_weight(&ignored, a->d_o, a->seq, a->heads * a->head_dim, &f32, 7);
    for (int64_t i = 0; i < a->seq; i++)
        a->kv_end[i] = (int32_t)i + 1;
}

static void print_attention(const char *name, double seconds, double flops)
{
    printf("  %-24s %14.3f %14.1f\n", name, 1e3 * seconds, 1e-9 * flops / seconds);
}

enum lt_status bench_attention(struct bench_kernels *b, struct lt_error *err)
{
    const struct lt_model *m = b->s.model;
    struct attention a = {.k = &b->k,
                          .threads = b->s.threads,
                          .seq = b->seq,
                          .heads = m->heads,
                          .kv_heads = m->kv_heads,
                          .head_dim = m->head_dim};
    size_t bytes = lay_out(&a, NULL);
    float *memory = lt_alloc_pages(bytes);
    if (!memory)
        return lt_fail(err, LT_ERR_NOMEM,
                       "out of memory for attention over %lld tokens: %zu bytes are needed",
                       (long long)b->seq, bytes);
    lay_out(&a, memory);
    fill_attention(&a, b);
    /* A product of half the score matrix (what lies above the diagonal is not computed); two forward, five
     * backward. */
    double product = (double)a.heads * (double)a.head_dim * (double)a.seq * (double)a.seq;
    double forward = bench_best_seconds(run_forward, &a, b->budget);
    double backward = bench_best_seconds(run_backward, &a, b->budget);
    printf("\nAttention, %lld tokens, %lld heads of %lld over %lld key heads\n  %-24s %14s %14s\n",
           (long long)a.seq, (long long)a.heads, (long long)a.head_dim, (long long)a.kv_heads, "", "ms",
           "GFLOP/s");
    print_attention("forward", forward, 2 * product);
    print_attention("backward", backward, 5 * product);
    bench_session_add(&b->s, json_pack("{s:{s:I, s:f, s:f, s:f, s:f}}", "attention", "seq", (json_int_t)a.seq,
                                       "forward_seconds", forward, "forward_flops_per_second",
                                       2 * product / forward, "backward_seconds", backward,
                                       "backward_flops_per_second", 5 * product / backward));
    lt_free_pages(memory, bytes);
    return LT_OK;
}
