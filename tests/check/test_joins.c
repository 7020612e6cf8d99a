/* Which neighbours the CPU backend runs as one product.  That the result is the same is for tests/golden and for the
 * updates of test_gemm.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backends/cpu/cpu_ops.h"

enum { IN = 24, OUT = 40, RANK = 4 };

struct values {
    int x, w, a, b, y, updated, u;
};

static int matrix(struct lt_graph *g, enum lt_extern_kind kind, int index, int64_t rows, int64_t cols)
{
    return lt_graph_extern(g, kind, index, LT_F32, LT_ROWS_FIXED, rows, cols);
}

/* y = x Wᵀ; updated = y + u Bᵀ. */
static struct values forward(struct lt_graph *g)
{
    lt_graph_init(g);
    struct values v = {
        .x = lt_graph_extern(g, LT_EXT_HIDDEN, LT_HIDDEN_IN, LT_F32, LT_ROWS_TOKENS, 0, IN),
        .w = matrix(g, LT_EXT_TENSOR, 0, OUT, IN),
        .a = matrix(g, LT_EXT_ADAPTER, 0, RANK, IN),
        .b = matrix(g, LT_EXT_ADAPTER, 1, OUT, RANK),
    };
    v.y = lt_graph_value(g, v.x, OUT);
    v.updated = lt_graph_value(g, v.x, OUT);
    v.u = lt_graph_value(g, v.x, RANK);
    struct lt_node *linear = lt_graph_node(g, LT_OP_LINEAR);
    linear->in[0] = v.x;
    linear->in[1] = v.w;
    linear->out[0] = v.y;
    struct lt_node *lora = lt_graph_node(g, LT_OP_LORA);
    lora->in[0] = v.y;
    lora->in[1] = v.x;
    lora->in[2] = v.a;
    lora->in[3] = v.b;
    lora->out[0] = v.updated;
    lora->out[1] = v.u;
    return v;
}

/* dx = acc + v A; sum = dx + dy W. */
static void backward(struct lt_graph *g, float dropout, bool bf16, bool with_acc)
{
    lt_graph_init(g);
    int dy = lt_graph_extern(g, LT_EXT_HIDDEN, LT_HIDDEN_DOUT, LT_F32, LT_ROWS_TOKENS, 0, OUT);
    int x = lt_graph_extern(g, LT_EXT_HIDDEN, LT_HIDDEN_IN, LT_F32, LT_ROWS_TOKENS, 0, IN);
    int acc = lt_graph_value(g, x, IN), dx = lt_graph_value(g, x, IN), sum = lt_graph_value(g, x, IN);
    struct lt_node *first = lt_graph_node(g, LT_OP_ACT);
    first->in[0] = x;
    first->out[0] = acc;
    struct lt_node *lora = lt_graph_node(g, LT_OP_LORA_BWD);
    const int in[] = {dy,
                      x,
                      lt_graph_value(g, dy, RANK),
                      matrix(g, LT_EXT_ADAPTER, 0, RANK, IN),
                      matrix(g, LT_EXT_ADAPTER, 1, OUT, RANK),
                      LT_NO_VALUE,
                      with_acc ? acc : LT_NO_VALUE};
    for (int i = 0; i < 7; i++)
        lora->in[i] = in[i];
    lora->out[0] = dx;
    lora->out[1] = lt_graph_value(g, dy, RANK);
    lora->attr.dropout = dropout;
    struct lt_node *linear = lt_graph_node(g, LT_OP_LINEAR_DX);
    linear->in[0] = dy;
    linear->in[1] = matrix(g, LT_EXT_TENSOR, 0, OUT, IN);
    linear->in[2] = dx;
    linear->out[0] = sum;
    linear->attr.compute = bf16 ? LT_BF16 : LT_F32;
}

static bool joins_planned(struct lt_graph *g, size_t node)
{
    const struct lt_capacity capacity = {.tokens = 8, .labels = 8, .cache_rows = 1};
    struct lt_program p;
    struct lt_error err;
    assert_int_equal(lt_program_plan(&p, g, &capacity, &err), LT_OK);
    bool joins = lt_cpu_joins(&p, node);
    lt_program_deinit(&p);
    return joins;
}

static void add(struct lt_graph *g, int a, int b)
{
    int sum = lt_graph_value(g, a, OUT);
    struct lt_node *n = lt_graph_node(g, LT_OP_ADD);
    n->in[0] = a;
    n->in[1] = b;
    n->out[0] = sum;
}

static void test_forward(void **state)
{
    (void)state;
    struct lt_graph g;
    forward(&g);
    assert_true(joins_planned(&g, 0));
    forward(&g);
    assert_false(joins_planned(&g, 1)); /* the last node has no next one */

    struct values v = forward(&g); /* the product alone is read as well */
    add(&g, v.updated, v.y);
    assert_false(joins_planned(&g, 0));

    v = forward(&g); /* an update made from another input */
    g.nodes[1].in[1] = lt_graph_extern(&g, LT_EXT_HIDDEN, LT_HIDDEN_DOUT, LT_F32, LT_ROWS_TOKENS, 0, IN);
    assert_false(joins_planned(&g, 0));

    forward(&g); /* integer products have kernels of their own */
    g.nodes[0].attr.int8 = true;
    assert_false(joins_planned(&g, 0));
}

static void test_backward(void **state)
{
    (void)state;
    struct lt_graph g;
    backward(&g, 0, false, true);
    assert_true(joins_planned(&g, 1));
    backward(&g, 0, false, false);
    assert_true(joins_planned(&g, 1));
    backward(&g, 0.1f, false, true); /* v A goes through the mask first */
    assert_false(joins_planned(&g, 1));
    backward(&g, 0, true, true); /* the product is rounded before it is added */
    assert_false(joins_planned(&g, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward), cmocka_unit_test(test_backward)};
    return cmocka_run_group_tests_name("joins", tests, NULL, NULL);
}
