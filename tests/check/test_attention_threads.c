/* Attention of the CPU backend on several threads: the bits of the kernels called one after another on whole sequences,
 * for any number of threads and therefore for any cut of the keys, with threads that wait for one another. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/alloc.h"
#include "tests/support/kernel_check.h"

enum { DIM = 12, LONG = 500, SEQUENCES = 5, ROWS = LONG + 33 + 129 + 1 + 64 };

static const int64_t lengths[SEQUENCES] = {33, LONG, 129, 1, 64};

struct kind {
    int32_t heads, kv_heads, window;
    float dropout;
};

/* Two kv heads make 18 pieces of two tiles, which stay whole on one thread and are cut on several. */
static const struct kind kinds[] = {{.heads = 6, .kv_heads = 2},
                                    {.heads = 3, .kv_heads = 1, .dropout = 0.2f},
                                    {.heads = 4, .kv_heads = 2, .window = 200}};

enum { KINDS = sizeof kinds / sizeof *kinds };

struct arrays {
    float *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv;
    int32_t *begin, *end;
    uint32_t *key;
};

static struct arrays make_arrays(const struct kind *kind)
{
    const int64_t wide = ROWS * kind->heads * DIM, narrow = ROWS * kind->kv_heads * DIM;
    struct arrays a = {.q = lt_check_floats(wide),
                       .k = lt_check_floats(narrow),
                       .v = lt_check_floats(narrow),
                       .o = lt_check_floats(wide),
                       .lse = lt_check_floats(ROWS * kind->heads),
                       .d_o = lt_check_floats(wide),
                       .dq = lt_check_floats(wide),
                       .dk = lt_check_floats(narrow),
                       .dv = lt_check_floats(narrow),
                       .begin = (int32_t *)(void *)lt_check_floats(ROWS),
                       .end = (int32_t *)(void *)lt_check_floats(ROWS),
                       .key = (uint32_t *)(void *)lt_check_floats(ROWS)};
    lt_check_seed(5);
    lt_check_fill(a.q, wide, -2.0, 2.0);
    lt_check_fill(a.k, narrow, -2.0, 2.0);
    lt_check_fill(a.v, narrow, -1.0, 1.0);
    lt_check_fill(a.d_o, wide, -1.0, 1.0);
    for (int64_t s = 0, row = 0; s < SEQUENCES; s++) {
        const int64_t first = row;
        for (; row < first + lengths[s]; row++) {
            a.begin[row] = (int32_t)first;
            a.end[row] = (int32_t)row + 1;
            a.key[row] = (uint32_t)(31 * row + 7);
        }
    }
    return a;
}

/* With an operand's columns; integers have one. */
static void set(struct lt_cpu_call *c, bool out, int i, void *data, int64_t cols)
{
    (out ? c->out : c->in)[i] = data;
    (out ? c->out_rows : c->in_rows)[i] = ROWS;
    (out ? c->out_cols : c->in_cols)[i] = cols;
}

struct op {
    struct lt_cpu cpu;
    struct lt_node node;
    struct lt_program program;
    struct lt_step_params params;
};

static struct op make_op(const struct lt_cpu_kernels *k, const struct kind *kind, bool bf16, int threads)
{
    return (struct op){.cpu = {.k = *k, .threads = threads},
                       .node = {.op = LT_OP_ATTENTION_BWD,
                                .attr = {.heads = kind->heads,
                                         .kv_heads = kind->kv_heads,
                                         .head_dim = DIM,
                                         .window = kind->window,
                                         .scale = 0.3f,
                                         .dropout = kind->dropout,
                                         .site = 9,
                                         .compute = bf16 ? LT_BF16 : LT_F32}},
                       .program.capacity = {.tokens = ROWS + 3, .labels = 1},
                       .params = {.n_tokens = ROWS, .seed = 11, .step = 2, .training = true}};
}

static struct lt_cpu_call call_of(const struct op *op)
{
    return (struct lt_cpu_call){
        .cpu = &op->cpu, .node = &op->node, .capacity = &op->program.capacity, .params = &op->params};
}

static void run_forward(const struct op *op, const struct arrays *a)
{
    const int64_t wide = op->node.attr.heads * DIM, narrow = op->node.attr.kv_heads * DIM;
    struct lt_cpu_call c = call_of(op);
    set(&c, false, 0, a->q, wide);
    set(&c, false, 1, a->k, narrow);
    set(&c, false, 2, a->v, narrow);
    set(&c, false, 3, a->begin, 1);
    set(&c, false, 4, a->end, 1);
    set(&c, false, 5, a->key, 1);
    set(&c, true, 0, a->o, wide);
    set(&c, true, 1, a->lse, op->node.attr.heads);
    lt_cpu_op_attention(&c);
}

static void run_backward(const struct op *op, const struct arrays *a)
{
    const int64_t wide = op->node.attr.heads * DIM, narrow = op->node.attr.kv_heads * DIM;
    const size_t workspace = lt_cpu_op_workspace(&op->cpu, &op->program, &op->node);
    struct lt_cpu_call c = call_of(op);
    set(&c, false, 0, a->d_o, wide);
    set(&c, false, 1, a->q, wide);
    set(&c, false, 2, a->k, narrow);
    set(&c, false, 3, a->v, narrow);
    set(&c, false, 4, a->o, wide);
    set(&c, false, 5, a->lse, op->node.attr.heads);
    set(&c, false, 6, a->begin, 1);
    set(&c, false, 7, a->end, 1);
    set(&c, false, 8, a->key, 1);
    set(&c, true, 0, a->dq, wide);
    set(&c, true, 1, a->dk, narrow);
    set(&c, true, 2, a->dv, narrow);
    c.workspace = lt_alloc_pages(workspace);
    assert_non_null(c.workspace);
    memset(c.workspace, 0xa5, workspace); /* what an op before it may have left */
    lt_cpu_op_attention_bwd(&c);
    lt_free_pages(c.workspace, workspace);
}

/* Every sequence and kv head in one call of the kernel. */
static void whole_sequences(const struct op *op, const struct arrays *a, struct arrays *want)
{
    const struct lt_op_attr *t = &op->node.attr;
    const int64_t group = t->heads / t->kv_heads, wide = t->heads * DIM, narrow = t->kv_heads * DIM;
    const bool bf16 = t->compute == LT_BF16;
    const size_t floats = lt_attention_grad_scratch(LONG, DIM, bf16);
    float *scratch = lt_alloc_array(floats, sizeof *scratch);
    float *delta = lt_alloc_array((size_t)(LONG * group), sizeof *delta);
    assert_non_null(scratch);
    assert_non_null(delta);
    for (int64_t s = 0, row = 0; s < SEQUENCES; row += lengths[s], s++) {
        for (int64_t kv = 0; kv < t->kv_heads; kv++) {
            const int64_t at_q = row * wide + kv * group * DIM, at_kv = row * narrow + kv * DIM;
            struct lt_attention_grad g = {.q = a->q + at_q,
                                          .k = a->k + at_kv,
                                          .v = a->v + at_kv,
                                          .o = a->o + at_q,
                                          .d_o = a->d_o + at_q,
                                          .lse = a->lse + row * t->heads + kv * group,
                                          .dq = want->dq + at_q,
                                          .dk = want->dk + at_kv,
                                          .dv = want->dv + at_kv,
                                          .ldq = wide,
                                          .ldkv = narrow,
                                          .ldo = wide,
                                          .ldlse = t->heads,
                                          .rows = lengths[s],
                                          .head_dim = DIM,
                                          .group = group,
                                          .key_end = lengths[s],
                                          .scale = t->scale,
                                          .window = t->window,
                                          .site = {.seed = 11, .step = 2, .site = 9 + (uint32_t)(kv * group)},
                                          .row_key = a->key + row,
                                          .delta = delta,
                                          .scratch = scratch};
            if (t->dropout > 0.0f) {
                g.drop_threshold = lt_dropout_threshold((double)t->dropout);
                g.drop_scale = 1.0f / (1.0f - t->dropout);
            }
            (bf16 ? op->cpu.k.attention_bwd_bf16 : op->cpu.k.attention_bwd)(&g);
        }
    }
    lt_free(scratch);
    lt_free(delta);
}

static void check_threads(const struct lt_cpu_kernels *k, const struct kind *kind, bool bf16)
{
    const int64_t wide = ROWS * kind->heads * DIM, narrow = ROWS * kind->kv_heads * DIM;
    struct arrays want = make_arrays(kind);
    const struct op one = make_op(k, kind, bf16, 1);
    run_forward(&one, &want);
    whole_sequences(&one, &want, &want);
    static const int threads[] = {1, 2, 3, 5};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        struct arrays got = make_arrays(kind);
        const struct op op = make_op(k, kind, bf16, threads[i]);
        run_forward(&op, &got);
        run_backward(&op, &got);
        lt_check_same("o on threads", k->isa, got.o, want.o, wide);
        lt_check_same("lse on threads", k->isa, got.lse, want.lse, ROWS * kind->heads);
        lt_check_same("dq on threads", k->isa, got.dq, want.dq, wide);
        lt_check_same("dk on threads", k->isa, got.dk, want.dk, narrow);
        lt_check_same("dv on threads", k->isa, got.dv, want.dv, narrow);
    }
    lt_check_release();
}

static void test_threads(void **unused)
{
    (void)unused;
    for (int isa = 0; isa < LT_CPU_ISA_COUNT; isa++) {
        struct lt_cpu_kernels k;
        if (!lt_cpu_isa_available((enum lt_cpu_isa)isa))
            continue;
        lt_cpu_kernels_init(&k, (enum lt_cpu_isa)isa);
        for (int i = 0; i < KINDS; i++)
            check_threads(&k, &kinds[i], false);
        for (int i = 0; i < KINDS && k.attention_fwd_bf16; i++)
            check_threads(&k, &kinds[i], true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests_name("attention on threads", tests, NULL, NULL);
}
