/* Ops that treat every element alike: activations, additions, dropout. */
#include "backends/vulkan/vk_ops.h"

enum { THREADS = 256, PER_THREAD = 4 };

/* A dispatch over the elements of rows x cols values. */
static struct lt_vk_dispatch elements(const struct lt_vk_call *c, enum lt_vk_shader shader)
{
    int64_t cols = c->in_cols[0], per_group = THREADS * PER_THREAD / cols;
    return (struct lt_vk_dispatch){.key = {.shader = shader, .spec_count = 1, .spec = {THREADS}},
                                   .rows = c->in_rows[0],
                                   .kind = c->in_kind[0],
                                   .rows_per_group = per_group > 0 ? per_group : 1,
                                   .work = (double)c->in_rows[0] * (double)cols};
}

static void act(const struct lt_vk_call *c, enum lt_vk_shader shader, int inputs, int outputs)
{
    const uint32_t push[] = {(uint32_t)c->in_cols[0], (uint32_t)c->node->attr.act};
    struct lt_vk_dispatch d = elements(c, shader);
    for (int i = 0; i < inputs; i++)
        d.args[i] = lt_vk_in_rows(c, i);
    for (int i = 0; i < outputs; i++)
        d.args[inputs + i] = lt_vk_out_rows(c, i, LT_VK_WRITE);
    d.push = push;
    d.push_bytes = sizeof push;
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_act(const struct lt_vk_call *c)
{
    act(c, LT_VK_SHADER_act, 1, 1);
}

void lt_vk_op_act_bwd(const struct lt_vk_call *c)
{
    act(c, LT_VK_SHADER_act_bwd, 2, 1);
}

void lt_vk_op_add(const struct lt_vk_call *c)
{
    act(c, LT_VK_SHADER_add, 2, 1);
}
