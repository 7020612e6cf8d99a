/* Norms, sums over rows, embeddings. */
#include "backends/vulkan/vk_gemm.h"
#include "core/base/checked.h"

/* Invocations that share a row of `cols` elements. */
static uint32_t threads_for(int64_t cols)
{
    return cols <= 64 ? 32 : cols <= 512 ? 128 : 256;
}

/* A group a row. */
static struct lt_vk_dispatch by_row(const struct lt_vk_call *c, enum lt_vk_shader shader, const void *push,
                                    size_t bytes)
{
    return (struct lt_vk_dispatch){
        .key = {.shader = shader, .spec_count = 1, .spec = {threads_for(c->in_cols[0])}},
        .push = push,
        .push_bytes = bytes,
        .rows = c->in_rows[0],
        .kind = c->in_kind[0],
        .rows_per_group = 1,
        .work = 4.0 * (double)c->in_rows[0] * (double)c->in_cols[0]};
}

/* ---- norms ---- */

void lt_vk_op_rmsnorm(const struct lt_vk_call *c)
{
    const struct {
        uint32_t cols, plus_one;
        float eps;
    } push = {(uint32_t)c->in_cols[0], c->node->attr.plus_one, c->node->attr.eps};
    struct lt_vk_dispatch d = by_row(c, LT_VK_SHADER_rmsnorm, &push, sizeof push);
    d.args[0] = lt_vk_in_rows(c, 0);
    d.args[1] = lt_vk_whole(c->in[1], LT_VK_READ);
    d.args[2] = lt_vk_out_rows(c, 0, LT_VK_WRITE);
    d.args[3] = lt_vk_out_rows(c, 1, LT_VK_WRITE);
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_layernorm(const struct lt_vk_call *c)
{
    const struct {
        uint32_t cols;
        float eps;
    } push = {(uint32_t)c->in_cols[0], c->node->attr.eps};
    struct lt_vk_dispatch d = by_row(c, LT_VK_SHADER_layernorm, &push, sizeof push);
    d.args[0] = lt_vk_in_rows(c, 0);
    d.args[1] = lt_vk_whole(c->in[1], LT_VK_READ);
    d.args[2] = lt_vk_whole(c->in[2], LT_VK_READ);
    for (int k = 0; k < 3; k++)
        d.args[3 + k] = lt_vk_out_rows(c, k, LT_VK_WRITE);
    lt_vk_dispatch(c->rec, &d);
}

/* ---- sums over rows ---- */

enum sum_mode { SUM_PLAIN, SUM_RMSNORM, SUM_LAYERNORM };
static const struct lt_vk_arg none = {{0}, LT_VK_READ, 0};

/* sums += over the rows of in[0], which the norm's x, mean and rstd scale. */
static void add_columns(const struct lt_vk_call *c, enum sum_mode mode, struct lt_vk_ref sums,
                        struct lt_vk_arg x, struct lt_vk_arg mean, struct lt_vk_arg rstd)
{
    enum { THREADS = 64 };
    const uint32_t cols = (uint32_t)c->in_cols[0];
    struct lt_vk_dispatch d = {
        .key = {.shader = LT_VK_SHADER_column_sums, .spec_count = 2, .spec = {THREADS, mode}},
        .args = {lt_vk_in_rows(c, 0), x, mean, rstd, {sums, LT_VK_READ_WRITE, 0}},
        .push = &cols,
        .push_bytes = sizeof cols,
        .rows = c->in_rows[0],
        .kind = c->in_kind[0],
        .groups = {(uint32_t)lt_div_up(cols, THREADS)},
        .work = 3.0 * (double)c->in_rows[0] * (double)cols};
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_bias_db(const struct lt_vk_call *c)
{
    add_columns(c, SUM_PLAIN, c->out[0], none, none, none);
}

void lt_vk_op_rmsnorm_bwd(const struct lt_vk_call *c)
{
    const uint32_t push[] = {(uint32_t)c->in_cols[0], c->node->attr.plus_one};
    struct lt_vk_dispatch d = by_row(c, LT_VK_SHADER_rmsnorm_bwd, push, sizeof push);
    if (c->out[1].buffer) /* before dx, which may overwrite dy */
        add_columns(c, SUM_RMSNORM, c->out[1], lt_vk_in_rows(c, 1), none, lt_vk_in_rows(c, 3));
    if (!c->out[0].buffer)
        return;
    d.args[0] = lt_vk_in_rows(c, 0);
    d.args[1] = lt_vk_in_rows(c, 1);
    d.args[2] = lt_vk_whole(c->in[2], LT_VK_READ);
    d.args[3] = lt_vk_in_rows(c, 3);
    d.args[4] = lt_vk_out_rows(c, 0, LT_VK_WRITE);
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_layernorm_bwd(const struct lt_vk_call *c)
{
    const uint32_t cols = (uint32_t)c->in_cols[0];
    struct lt_vk_dispatch d = by_row(c, LT_VK_SHADER_layernorm_bwd, &cols, sizeof cols);
    if (c->out[1].buffer)
        add_columns(c, SUM_LAYERNORM, c->out[1], lt_vk_in_rows(c, 1), lt_vk_in_rows(c, 3),
                    lt_vk_in_rows(c, 4));
    if (c->out[2].buffer)
        add_columns(c, SUM_PLAIN, c->out[2], none, none, none);
    if (!c->out[0].buffer)
        return;
    d.args[0] = lt_vk_in_rows(c, 0);
    d.args[1] = lt_vk_in_rows(c, 1);
    d.args[2] = lt_vk_whole(c->in[2], LT_VK_READ);
    d.args[3] = lt_vk_in_rows(c, 3);
    d.args[4] = lt_vk_in_rows(c, 4);
    d.args[5] = lt_vk_out_rows(c, 0, LT_VK_WRITE);
    lt_vk_dispatch(c->rec, &d);
}

/* ---- embeddings ---- */

void lt_vk_op_embed(const struct lt_vk_call *c)
{
    const struct lt_device_weight *w = c->weight[1];
    int64_t cols = c->out_cols[0], step = lt_vk_weight_rows_at_once(c->rec, w);
    for (int64_t row = 0; step > 0 && row < w->rows; row += step) {
        int64_t rows = lt_min_i64(step, w->rows - row);
        const struct {
            uint32_t cols, first, count;
            float scale;
            struct lt_vk_weight_push weight;
        } push = {(uint32_t)cols, (uint32_t)row, (uint32_t)rows, c->node->attr.scale,
                  lt_vk_weight_push(w, row)};
        struct lt_vk_dispatch d = {.key = {.shader = LT_VK_SHADER_embed,
                                           .spec_count = 3,
                                           .spec = {256, (uint32_t)w->format, w->nested}},
                                   .args = {lt_vk_in_rows(c, 0),
                                            {lt_vk_weight_rows(w, row, rows), LT_VK_READ, 0},
                                            {w->meta, LT_VK_READ, 0},
                                            lt_vk_out_rows(c, 0, LT_VK_WRITE)},
                                   .push = &push,
                                   .push_bytes = sizeof push,
                                   .rows = c->out_rows[0],
                                   .kind = c->out_kind[0],
                                   .rows_per_group = lt_max_i64(1, 1024 / cols),
                                   .work = 4.0 * (double)c->out_rows[0] * (double)cols};
        lt_vk_dispatch(c->rec, &d);
    }
}

void lt_vk_op_embed_dw(const struct lt_vk_call *c)
{
    enum { THREADS = 64 };
    int64_t cols = c->in_cols[0], vocab = (int64_t)(c->out[0].size / sizeof(float)) / cols;
    const struct lt_device_weight dw = lt_vk_plain_weight(c->out[0], vocab, cols);
    int64_t step = lt_vk_weight_rows_at_once(c->rec, &dw);
    for (int64_t row = 0; step > 0 && row < vocab; row += step) {
        int64_t rows = lt_min_i64(step, vocab - row);
        const struct {
            uint32_t cols, first, count;
            float scale;
        } push = {(uint32_t)cols, (uint32_t)row, (uint32_t)rows, c->node->attr.scale};
        struct lt_vk_dispatch d = {
            .key = {.shader = LT_VK_SHADER_embed_dw, .spec_count = 1, .spec = {THREADS}},
            .args = {lt_vk_in_rows(c, 0),
                     lt_vk_in_rows(c, 1),
                     {lt_vk_weight_rows(&dw, row, rows), LT_VK_READ_WRITE, 0}},
            .push = &push,
            .push_bytes = sizeof push,
            .rows = c->in_rows[0],
            .kind = c->in_kind[0],
            .groups = {(uint32_t)lt_div_up(cols, THREADS)},
            .work = 2.0 * (double)c->in_rows[0] * (double)cols};
        lt_vk_dispatch(c->rec, &d);
    }
}
