/* Which neighbours of a program run as one product (cpu_ops.h). */
#include "backends/cpu/cpu_ops.h"

static bool same_place(const struct lt_program *p, int v, int w)
{
    const struct lt_value *a = &p->graph.values[v], *b = &p->graph.values[w];
    if (a->storage != b->storage)
        return false;
    if (a->storage != LT_STORE_EXTERN)
        return a->offset == b->offset;
    return a->ext_kind == b->ext_kind && a->ext_index == b->ext_index && a->ext_offset == b->ext_offset;
}

static int readers(const struct lt_program *p, int v)
{
    int count = 0;
    for (size_t i = 0; i < p->graph.node_count; i++)
        for (int k = 0; k < LT_MAX_IN; k++)
            count += p->graph.nodes[i].in[k] == v;
    return count;
}

/* y = x Wᵀ, then y' = y + u Bᵀ over it. */
static bool joins_forward(const struct lt_program *p, const struct lt_node *linear,
                          const struct lt_node *lora)
{
    int y = linear->out[0];
    return linear->op == LT_OP_LINEAR && lora->op == LT_OP_LORA && lora->in[0] == y &&
           lora->in[1] == linear->in[0] && !linear->attr.int8 && !linear->attr.step && readers(p, y) == 1 &&
           same_place(p, y, lora->out[0]);
}

/* dx = acc + v A, then dx' = dx + dy W over it. */
static bool joins_backward(const struct lt_program *p, const struct lt_node *lora,
                           const struct lt_node *linear)
{
    int dx = lora->out[0], acc = lora->in[6];
    return lora->op == LT_OP_LORA_BWD && linear->op == LT_OP_LINEAR_DX && dx >= 0 && linear->in[2] == dx &&
           lora->attr.dropout <= 0 && linear->attr.compute == LT_F32 && readers(p, dx) == 1 &&
           same_place(p, dx, linear->out[0]) && (acc < 0 || same_place(p, acc, dx));
}

bool lt_cpu_joins(const struct lt_program *p, size_t i)
{
    if (i + 1 >= p->graph.node_count)
        return false;
    const struct lt_node *a = &p->graph.nodes[i], *b = a + 1;
    return joins_forward(p, a, b) || joins_backward(p, a, b);
}
