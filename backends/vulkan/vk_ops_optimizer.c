/* Gradient norm and optimizer updates.  The norm stays on the device: every update reads it and clips by it. */
#include "backends/vulkan/vk_ops.h"
#include "core/base/checked.h"

enum {
    THREADS = 256,
    PER_GROUP = 4 * THREADS, /* elements of one group in a pass */
    NORM_BLOCK = 16384,      /* elements of one partial sum; fixed, so that the order of the sum is */
    NORM_SUMS = 6 * 4        /* bytes of a partial sum: struct Sums of shaders/norm.glsl */
};

/* ---- gradient norm ---- */

static int64_t norm_blocks(int64_t n)
{
    return lt_div_up(n, NORM_BLOCK);
}

size_t lt_vk_grad_norm_workspace(int64_t n)
{
    return (size_t)norm_blocks(n) * NORM_SUMS;
}

void lt_vk_op_grad_norm(const struct lt_vk_call *c)
{
    int64_t n = c->in_cols[0], blocks = norm_blocks(n);
    const struct lt_vk_ref sums = lt_vk_slice(c->workspace, 0, lt_vk_grad_norm_workspace(n));
    const struct {
        uint32_t n, block;
    } push = {(uint32_t)n, NORM_BLOCK};
    const uint32_t count = (uint32_t)blocks;
    lt_vk_dispatch(c->rec,
                   &(struct lt_vk_dispatch){
                       .key = {.shader = LT_VK_SHADER_grad_norm, .spec_count = 1, .spec = {THREADS}},
                       .args = {{c->in[0], LT_VK_READ, NORM_BLOCK * sizeof(float)}, {sums, LT_VK_WRITE, 0}},
                       .push = &push,
                       .push_bytes = sizeof push,
                       .rows = blocks,
                       .rows_per_group = 1,
                       .work = 20.0 * (double)n});
    lt_vk_dispatch(c->rec,
                   &(struct lt_vk_dispatch){
                       .key = {.shader = LT_VK_SHADER_grad_norm_end, .spec_count = 1, .spec = {THREADS}},
                       .args = {{sums, LT_VK_READ, 0}, {c->out[0], LT_VK_WRITE, 0}},
                       .push = &count,
                       .push_bytes = sizeof count,
                       .rows = 1,
                       .rows_per_group = 1,
                       .work = 10.0 * (double)blocks});
}

/* ---- updates ---- */

/* p and `moments` moments, all f32: an element is a row. */
static void update(const struct lt_vk_call *c, enum lt_vk_shader shader, int moments)
{
    const uint32_t decay = c->node->attr.decay;
    struct lt_vk_dispatch d = {.key = {.shader = shader, .spec_count = 1, .spec = {THREADS}},
                               .args = {{c->in[0], LT_VK_READ, sizeof(float)}, {c->in[1], LT_VK_READ, 0}},
                               .push = &decay,
                               .push_bytes = sizeof decay,
                               .rows = c->in_cols[0],
                               .rows_per_group = PER_GROUP,
                               .work = 20.0 * (double)c->in_cols[0]};
    for (int i = 0; i <= moments; i++)
        d.args[2 + i] = (struct lt_vk_arg){c->out[i], LT_VK_READ_WRITE, sizeof(float)};
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_adamw(const struct lt_vk_call *c)
{
    update(c, LT_VK_SHADER_adamw, 2);
}

void lt_vk_op_sgd(const struct lt_vk_call *c)
{
    update(c, LT_VK_SHADER_sgd, 0);
}

void lt_vk_op_lion(const struct lt_vk_call *c)
{
    update(c, LT_VK_SHADER_lion, 1);
}

/* A block with its scales is a row. */
void lt_vk_op_adamw8(const struct lt_vk_call *c)
{
    const size_t floats = LT_OPTIM_BLOCK * sizeof(float), codes = LT_OPTIM_BLOCK, scale = sizeof(float);
    const struct {
        uint32_t n, decay;
    } push = {(uint32_t)c->in_cols[0], c->node->attr.decay};
    lt_vk_dispatch(c->rec,
                   &(struct lt_vk_dispatch){
                       .key = {.shader = LT_VK_SHADER_adamw8, .spec_count = 1, .spec = {LT_OPTIM_BLOCK}},
                       .args = {{c->in[0], LT_VK_READ, floats},
                                {c->in[1], LT_VK_READ, 0},
                                {c->out[0], LT_VK_READ_WRITE, floats},
                                {c->out[1], LT_VK_READ_WRITE, codes},
                                {c->out[2], LT_VK_READ_WRITE, scale},
                                {c->out[3], LT_VK_READ_WRITE, codes},
                                {c->out[4], LT_VK_READ_WRITE, scale}},
                       .push = &push,
                       .push_bytes = sizeof push,
                       .rows = lt_div_up(c->in_cols[0], LT_OPTIM_BLOCK),
                       .rows_per_group = 1,
                       .work = 60.0 * (double)c->in_cols[0]});
}
