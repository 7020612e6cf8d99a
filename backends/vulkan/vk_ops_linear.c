/* Linear layers, LoRA and their gradients. */
#include "backends/vulkan/vk_gemm.h"
#include "backends/vulkan/vk_gemm_int8.h"
#include "core/base/checked.h"
#include "core/base/rng.h"

enum { THREADS = 256 };

/* ---- dropout ---- */

struct dropout {
    uint32_t threshold; /* 0: off */
    float keep_scale;
};

static struct dropout dropout_of(const struct lt_vk_call *c)
{
    float p = c->training ? c->node->attr.dropout : 0.0f;
    return p > 0.0f ? (struct dropout){lt_dropout_threshold((double)p), 1.0f / (1.0f - p)}
                    : (struct dropout){0, 1.0f};
}

/* y = (start +) drop(x); all [rows, cols]. */
static void drop(const struct lt_vk_call *c, struct lt_vk_ref y, struct lt_vk_ref x, struct lt_vk_ref key,
                 struct lt_vk_ref start, int64_t rows, int64_t cols, const struct dropout *d)
{
    const struct {
        uint32_t cols, threshold;
        float keep_scale;
        uint32_t site;
    } push = {(uint32_t)cols, d->threshold, d->keep_scale, c->site};
    size_t row = (size_t)cols * sizeof(float);
    struct lt_vk_dispatch call = {
        .key = {.shader = LT_VK_SHADER_dropout, .spec_count = 2, .spec = {THREADS, start.buffer != NULL}},
        .args = {{x, LT_VK_READ, row}, {key, LT_VK_READ, 4}, {start, LT_VK_READ, row}, {y, LT_VK_WRITE, row}},
        .push = &push,
        .push_bytes = sizeof push,
        .rows = rows,
        .kind = c->in_kind[0],
        .rows_per_group = lt_max_i64(1, 4 * THREADS / lt_max_i64(1, cols)),
        .work = 40.0 * (double)rows * (double)cols};
    lt_vk_dispatch(c->rec, &call);
}

void lt_vk_op_dropout(const struct lt_vk_call *c)
{
    struct dropout d = dropout_of(c);
    drop(c, c->out[0], c->in[0], c->in[1], (struct lt_vk_ref){0}, c->in_rows[0], c->in_cols[0], &d);
}

/* ---- linear ---- */

void lt_vk_op_linear(const struct lt_vk_call *c)
{
    const struct lt_device_weight *w = c->weight[1];
    if (c->node->attr.int8 && w->format == LT_WEIGHT_INT8) {
        lt_vk_gemm_int8(c);
        return;
    }
    lt_vk_gemm(c->rec, &(struct lt_vk_gemm){.m = c->in_rows[0],
                                            .n = w->rows,
                                            .k = w->cols,
                                            .a = c->in[0],
                                            .w = w,
                                            .bias = c->in[2],
                                            .c = c->out[0],
                                            .scale = 1,
                                            .compute = c->node->attr.compute,
                                            .kind = c->in_kind[0],
                                            .workspace = c->workspace});
}

void lt_vk_op_linear_dx(const struct lt_vk_call *c)
{
    const struct lt_device_weight *w = c->weight[1];
    lt_vk_gemm(c->rec, &(struct lt_vk_gemm){.m = c->in_rows[0],
                                            .n = w->cols,
                                            .k = w->rows,
                                            .a = c->in[0],
                                            .w = w,
                                            .by_rows = true,
                                            .start = c->in[2],
                                            .c = c->out[0],
                                            .scale = 1,
                                            .compute = c->node->attr.compute,
                                            .kind = c->in_kind[0],
                                            .workspace = c->workspace});
}

/* c[m, n] += aᵀ b over the rows of a and b. */
static void product_tn(const struct lt_vk_call *c, struct lt_vk_ref out, struct lt_vk_ref a, int64_t m,
                       struct lt_vk_ref b, int64_t n)
{
    const struct lt_device_weight w = lt_vk_plain_weight(b, c->in_rows[0], n);
    lt_vk_gemm(c->rec, &(struct lt_vk_gemm){.m = m,
                                            .n = n,
                                            .k = c->in_rows[0],
                                            .a = a,
                                            .a_transposed = true,
                                            .w = &w,
                                            .by_rows = true,
                                            .start = out,
                                            .c = out,
                                            .scale = 1,
                                            .kind = c->in_kind[0],
                                            .workspace = c->workspace});
}

void lt_vk_op_linear_dw(const struct lt_vk_call *c)
{
    int64_t n = c->in_cols[0], k = c->in_cols[1];
    if (c->node->attr.transposed)
        product_tn(c, c->out[0], c->in[1], k, c->in[0], n);
    else
        product_tn(c, c->out[0], c->in[0], n, c->in[1], k);
}

/* ---- LoRA ---- */

/* c = scale * a B (+ start) with B a small f32 matrix: by_rows as in struct lt_vk_gemm. */
static void product(const struct lt_vk_call *c, struct lt_vk_ref out, struct lt_vk_ref a, struct lt_vk_ref b,
                    int64_t b_rows, int64_t b_cols, bool by_rows, float scale, struct lt_vk_ref start)
{
    const struct lt_device_weight w = lt_vk_plain_weight(b, b_rows, b_cols);
    lt_vk_gemm(c->rec, &(struct lt_vk_gemm){.m = c->in_rows[0],
                                            .n = by_rows ? b_cols : b_rows,
                                            .k = by_rows ? b_rows : b_cols,
                                            .a = a,
                                            .w = &w,
                                            .by_rows = by_rows,
                                            .start = start,
                                            .c = out,
                                            .scale = scale,
                                            .kind = c->in_kind[0],
                                            .workspace = c->workspace});
}

static const struct lt_vk_ref none = {0};

void lt_vk_op_lora(const struct lt_vk_call *c)
{
    int64_t rows = c->in_rows[0], n = c->in_cols[0], k = c->in_cols[1], r = c->out_cols[1];
    struct lt_vk_ref x = c->in[1];
    struct dropout d = dropout_of(c);
    if (d.threshold) {
        drop(c, c->out[2], x, c->in[4], none, rows, k, &d);
        x = c->out[2];
    }
    product(c, c->out[1], x, c->in[2], r, k, false, c->node->attr.scale, none);
    product(c, c->out[0], c->out[1], c->in[3], n, r, false, 1, c->in[0]);
}

void lt_vk_op_lora_bwd(const struct lt_vk_call *c)
{
    int64_t rows = c->in_rows[0], n = c->in_cols[0], k = c->in_cols[1], r = c->in_cols[2];
    struct lt_vk_ref dy = c->in[0], x = c->in[1], u = c->in[2], a = c->in[3], b = c->in[4], key = c->in[5],
                     acc = c->in[6];
    struct lt_vk_ref dx = c->out[0], v = c->out[1], scratch = c->out[4];
    struct dropout d = dropout_of(c);
    product(c, v, dy, b, n, r, true, c->node->attr.scale, none);
    product_tn(c, c->out[3], dy, n, u, r);
    if (d.threshold) {
        drop(c, scratch, x, key, none, rows, k, &d);
        x = scratch;
    }
    product_tn(c, c->out[2], v, r, x, k);
    if (!dx.buffer)
        return;
    if (!d.threshold) {
        product(c, dx, v, a, r, k, true, 1, acc);
        return;
    }
    product(c, scratch, v, a, r, k, true, 1, none);
    drop(c, dx, scratch, key, acc, rows, k, &d);
}

/* ---- workspace ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t lt_vk_linear_workspace(const struct lt_program *p, const struct lt_node *n)
{
    const struct lt_value *v = p->graph.values;
    int64_t rows = n->in[0] >= 0 ? lt_value_capacity_rows(&v[n->in[0]], &p->capacity) : 0;
    int64_t a = n->in[0] >= 0 ? v[n->in[0]].cols : 0, b = n->in[1] >= 0 ? v[n->in[1]].cols : 0;
    switch (n->op) {
    case LT_OP_LINEAR:
    case LT_OP_LINEAR_DX: { /* the weight of an int8 model may have another format */
        size_t halves = n->attr.compute == LT_F16 ? lt_vk_halves_bytes(rows, a) : 0;
        return larger(larger(lt_vk_gemm_workspace(rows, v[n->out[0]].cols, a, false), halves),
                      n->attr.int8 ? lt_vk_gemm_int8_workspace(rows, a) : 0);
    }
    case LT_OP_LINEAR_DW:
        return n->attr.transposed ? lt_vk_gemm_workspace(b, a, rows, true)
                                  : lt_vk_gemm_workspace(a, b, rows, true);
    case LT_OP_LORA: { /* u [rows, r], then y [rows, a] from r */
        int64_t r = v[n->out[1]].cols;
        return larger(lt_vk_gemm_workspace(rows, r, b, false), lt_vk_gemm_workspace(rows, a, r, false));
    }
    case LT_OP_LORA_BWD: {
        int64_t r = v[n->in[2]].cols;
        return larger(
            larger(lt_vk_gemm_workspace(rows, r, a, false), lt_vk_gemm_workspace(rows, b, r, false)),
            larger(lt_vk_gemm_workspace(a, r, rows, true), lt_vk_gemm_workspace(r, b, rows, true)));
    }
    default:
        return 0;
    }
}
