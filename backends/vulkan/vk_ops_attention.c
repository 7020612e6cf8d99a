/* Attention forward and backward: the choice of tiles, and the dispatches. */
#include <string.h>

#include "backends/vulkan/vk_ops.h"
#include "core/base/checked.h"
#include "core/base/rng.h"

enum { TILE = 64, DEPTH = 16, LANES = 32, SUB_LANES = 16 }; /* as in shaders/attention.glsl */

static const double dispatch_work = 20e9; /* operations of one dispatch, about */

/* Pushed constants of all three shaders. */
struct push {
    uint32_t heads, kv_heads, head_dim;
    int32_t window;
    float scale, softcap;
    uint32_t threshold; /* 0: no dropout */
    float keep_scale;
    uint32_t site;
};

/* A workgroup has `own` rows, or keys; an invocation makes `sub` of them into products at a time. */
struct shape {
    uint32_t own, sub;
};

static struct push push_of(const struct lt_vk_call *c)
{
    const struct lt_op_attr *a = &c->node->attr;
    struct push p = {.heads = (uint32_t)a->heads,
                     .kv_heads = (uint32_t)a->kv_heads,
                     .head_dim = (uint32_t)a->head_dim,
                     .window = a->window,
                     .scale = a->scale,
                     .softcap = a->softcap,
                     .keep_scale = 1.0f,
                     .site = c->site};
    if (c->training && a->dropout > 0.0f) {
        p.threshold = lt_dropout_threshold((double)a->dropout);
        p.keep_scale = 1.0f / (1.0f - a->dropout);
    }
    return p;
}

/* Shared memory of a workgroup: the parts of own and other rows, the weights, and at most 8 numbers an own item. */
static size_t shared_bytes(uint32_t own)
{
    return (DEPTH * (own + 1) + DEPTH * (TILE + 1) + own * (TILE + 1) + 10 * own) * sizeof(float);
}

/* For passes whose own items are query rows.  Few rows, as in decoding: smaller tiles, more invocations a row. */
static struct shape shape_for_rows(const struct lt_vk_call *c, int64_t rows)
{
    static const struct shape small = {8, 1}, medium = {32, 4}, large = {64, 4};
    const struct lt_vk_limits *limits = &c->rec->device->info.limits;
    if (rows <= 2 * small.own)
        return small;
    return rows >= 4 * large.own && limits->shared_bytes >= shared_bytes(large.own) ? large : medium;
}

/* One group along x for each `own` rows, along y for each head; the arguments are left to the caller.  Long sequences
 * are cut into dispatches by rows. */
static struct lt_vk_dispatch dispatch(const struct lt_vk_call *c, enum lt_vk_shader shader, struct shape s,
                                      const struct push *p, int64_t rows, int64_t heads, double work)
{
    uint32_t columns = (uint32_t)lt_div_up(p->head_dim, LANES);
    int64_t max_rows = 0;
    if (work > dispatch_work)
        max_rows = s.own * (int64_t)(1.0 + dispatch_work / work * (double)rows / s.own);
    return (struct lt_vk_dispatch){.key = {.shader = shader,
                                           .spec_count = 4,
                                           .spec = {s.own / s.sub * SUB_LANES, s.own, s.sub, columns}},
                                   .push = p,
                                   .push_bytes = sizeof *p,
                                   .rows = rows,
                                   .kind = c->in_kind[0],
                                   .max_rows = max_rows,
                                   .rows_per_group = s.own,
                                   .groups = {0, (uint32_t)heads, 1},
                                   .work = work};
}

/* Operations of one product of all rows with all keys they see, half of them. */
static double product_work(const struct lt_vk_call *c, int64_t rows, int64_t keys)
{
    return (double)rows * (double)keys * (double)c->node->attr.heads * (double)c->node->attr.head_dim;
}

void lt_vk_op_attention(const struct lt_vk_call *c)
{
    const struct push p = push_of(c);
    int64_t rows = c->in_rows[0];
    struct lt_vk_dispatch d = dispatch(c, LT_VK_SHADER_attention, shape_for_rows(c, rows), &p, rows, p.heads,
                                       2.0 * product_work(c, rows, c->in_rows[1]));
    const struct lt_vk_arg args[] = {lt_vk_in_rows(c, 0),
                                     lt_vk_whole(c->in[1], LT_VK_READ),
                                     lt_vk_whole(c->in[2], LT_VK_READ),
                                     lt_vk_in_rows(c, 3),
                                     lt_vk_in_rows(c, 4),
                                     lt_vk_in_rows(c, 5),
                                     lt_vk_out_rows(c, 0, LT_VK_WRITE),
                                     lt_vk_out_rows(c, 1, LT_VK_WRITE)};
    memcpy(d.args, args, sizeof args);
    lt_vk_dispatch(c->rec, &d);
}

/* ---- backward ---- */

size_t lt_vk_attention_bwd_workspace(int64_t tokens, int64_t heads)
{
    return (size_t)(tokens * heads) * sizeof(float);
}

static void pass_for_rows(const struct lt_vk_call *c, const struct push *p, struct lt_vk_ref delta)
{
    int64_t rows = c->in_rows[0];
    struct lt_vk_dispatch d = dispatch(c, LT_VK_SHADER_attention_dq, shape_for_rows(c, rows), p, rows,
                                       p->heads, 3.0 * product_work(c, rows, rows));
    const struct lt_vk_arg args[] = {lt_vk_in_rows(c, 0),
                                     lt_vk_in_rows(c, 1),
                                     lt_vk_whole(c->in[2], LT_VK_READ),
                                     lt_vk_whole(c->in[3], LT_VK_READ),
                                     lt_vk_in_rows(c, 4),
                                     lt_vk_in_rows(c, 5),
                                     lt_vk_in_rows(c, 6),
                                     lt_vk_in_rows(c, 7),
                                     lt_vk_in_rows(c, 8),
                                     lt_vk_out_rows(c, 0, LT_VK_WRITE),
                                     {delta, LT_VK_WRITE, p->heads * sizeof(float)}};
    memcpy(d.args, args, sizeof args);
    lt_vk_dispatch(c->rec, &d);
}

static void pass_for_keys(const struct lt_vk_call *c, const struct push *p, struct lt_vk_ref delta)
{
    /* two sums an own item: of wide heads fewer items an invocation */
    const struct shape s = {32, p->head_dim > 4 * LANES ? 2 : 4};
    int64_t rows = c->in_rows[2];
    struct lt_vk_dispatch d =
        dispatch(c, LT_VK_SHADER_attention_dkv, s, p, rows, p->kv_heads, 4.0 * product_work(c, rows, rows));
    const struct lt_vk_arg args[] = {lt_vk_whole(c->in[0], LT_VK_READ),
                                     lt_vk_whole(c->in[1], LT_VK_READ),
                                     lt_vk_in_rows(c, 2),
                                     lt_vk_in_rows(c, 3),
                                     lt_vk_whole(delta, LT_VK_READ),
                                     lt_vk_whole(c->in[5], LT_VK_READ),
                                     lt_vk_whole(c->in[6], LT_VK_READ),
                                     lt_vk_whole(c->in[7], LT_VK_READ),
                                     lt_vk_whole(c->in[8], LT_VK_READ),
                                     lt_vk_out_rows(c, 1, LT_VK_WRITE),
                                     lt_vk_out_rows(c, 2, LT_VK_WRITE)};
    memcpy(d.args, args, sizeof args);
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_attention_bwd(const struct lt_vk_call *c)
{
    const struct push p = push_of(c);
    const struct lt_vk_ref delta =
        lt_vk_slice(c->workspace, 0, lt_vk_attention_bwd_workspace(c->in_rows[0], p.heads));
    pass_for_rows(c, &p, delta);
    pass_for_keys(c, &p, delta);
}
