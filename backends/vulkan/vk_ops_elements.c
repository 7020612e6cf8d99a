/* Ops that treat every element alike, rotations and copies of rows. */
#include "backends/vulkan/vk_ops.h"
#include "core/base/checked.h"

enum { THREADS = 256, PER_THREAD = 4 };

/* Rows whose `items` invocations fill a group. */
static int64_t rows_per_group(int64_t items)
{
    return lt_max_i64(1, THREADS * PER_THREAD / lt_max_i64(1, items));
}

/* ---- activations, additions ---- */

/* `inputs` arrays of the shape of the first one, then `outputs` of them. */
static void elements(const struct lt_vk_call *c, enum lt_vk_shader shader, int inputs, int outputs)
{
    const uint32_t push[] = {(uint32_t)c->in_cols[0], (uint32_t)c->node->attr.act};
    struct lt_vk_dispatch d = {.key = {.shader = shader, .spec_count = 1, .spec = {THREADS}},
                               .push = push,
                               .push_bytes = sizeof push,
                               .rows = c->in_rows[0],
                               .kind = c->in_kind[0],
                               .rows_per_group = rows_per_group(c->in_cols[0]),
                               .work = 20.0 * (double)c->in_rows[0] * (double)c->in_cols[0]};
    for (int i = 0; i < inputs; i++)
        d.args[i] = lt_vk_in_rows(c, i);
    for (int i = 0; i < outputs; i++)
        d.args[inputs + i] = lt_vk_out_rows(c, i, LT_VK_WRITE);
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_op_act(const struct lt_vk_call *c)
{
    elements(c, LT_VK_SHADER_act, 1, 1);
}

void lt_vk_op_act_bwd(const struct lt_vk_call *c)
{
    elements(c, LT_VK_SHADER_act_bwd, 2, 1);
}

void lt_vk_op_glu(const struct lt_vk_call *c)
{
    elements(c, LT_VK_SHADER_glu, 2, 1);
}

void lt_vk_op_glu_bwd(const struct lt_vk_call *c)
{
    elements(c, LT_VK_SHADER_glu_bwd, 3, 2);
}

void lt_vk_op_add(const struct lt_vk_call *c)
{
    elements(c, LT_VK_SHADER_add, 2, 1);
}

void lt_vk_op_rope(const struct lt_vk_call *c)
{
    const struct lt_op_attr *a = &c->node->attr;
    const struct {
        uint32_t heads, head_dim, rotary;
        float sign;
    } push = {(uint32_t)a->heads, (uint32_t)a->head_dim, (uint32_t)a->rotary, a->inverse ? -1.0f : 1.0f};
    struct lt_vk_dispatch d = {.key = {.shader = LT_VK_SHADER_rope, .spec_count = 1, .spec = {THREADS}},
                               .args = {lt_vk_in_rows(c, 0), lt_vk_in_rows(c, 1),
                                        lt_vk_whole(c->in[2], LT_VK_READ), lt_vk_out_rows(c, 0, LT_VK_WRITE)},
                               .push = &push,
                               .push_bytes = sizeof push,
                               .rows = c->in_rows[0],
                               .kind = c->in_kind[0],
                               .rows_per_group = rows_per_group(c->in_cols[0] / 2),
                               .work = 6.0 * (double)c->in_rows[0] * (double)c->in_cols[0]};
    lt_vk_dispatch(c->rec, &d);
}

/* ---- copies ---- */

enum copy_mode { COPY, GATHER, SCATTER };

/* Columns of one matrix: `ld` columns a row, of which the copied ones begin at col0. */
struct side {
    struct lt_vk_ref ref;
    int64_t ld, col0;
};

static void copy(const struct lt_vk_call *c, enum copy_mode mode, struct side from, struct side to,
                 int64_t rows, enum lt_vk_rows kind, int64_t cols, struct lt_vk_ref index)
{
    const uint32_t push[] = {(uint32_t)cols, (uint32_t)from.ld, (uint32_t)from.col0, (uint32_t)to.ld,
                             (uint32_t)to.col0};
    struct lt_vk_dispatch d = {
        .key = {.shader = LT_VK_SHADER_copy, .spec_count = 2, .spec = {THREADS, mode}},
        .args = {{from.ref, LT_VK_READ, mode == GATHER ? 0 : (size_t)from.ld * sizeof(float)},
                 {index, LT_VK_READ, mode == COPY ? 0 : sizeof(int32_t)},
                 {to.ref, LT_VK_WRITE, mode == SCATTER ? 0 : (size_t)to.ld * sizeof(float)}},
        .push = push,
        .push_bytes = sizeof push,
        .rows = rows,
        .kind = kind,
        .rows_per_group = rows_per_group(cols),
        .work = (double)rows * (double)cols};
    lt_vk_dispatch(c->rec, &d);
}

static const struct lt_vk_ref none = {0};

void lt_vk_op_split(const struct lt_vk_call *c)
{
    int64_t at = 0;
    for (int k = 0; k < 3 && c->out[k].buffer; k++) {
        copy(c, COPY, (struct side){c->in[0], c->in_cols[0], at}, (struct side){c->out[k], c->out_cols[k], 0},
             c->in_rows[0], c->in_kind[0], c->out_cols[k], none);
        at += c->out_cols[k];
    }
}

void lt_vk_op_concat(const struct lt_vk_call *c)
{
    int64_t at = 0;
    for (int k = 0; k < 3 && c->in[k].buffer; k++) {
        copy(c, COPY, (struct side){c->in[k], c->in_cols[k], 0}, (struct side){c->out[0], c->out_cols[0], at},
             c->in_rows[0], c->in_kind[0], c->in_cols[k], none);
        at += c->in_cols[k];
    }
}

void lt_vk_op_kv_store(const struct lt_vk_call *c)
{
    int64_t cols = c->in_cols[0];
    for (int k = 0; k < 2; k++)
        copy(c, SCATTER, (struct side){c->in[k], cols, 0}, (struct side){c->out[k], cols, 0}, c->in_rows[0],
             c->in_kind[0], cols, c->in[2]);
}

void lt_vk_op_gather_rows(const struct lt_vk_call *c)
{
    int64_t cols = c->in_cols[0];
    copy(c, GATHER, (struct side){c->in[0], cols, 0}, (struct side){c->out[0], cols, 0}, c->out_rows[0],
         c->out_kind[0], cols, c->in[1]);
}

void lt_vk_op_scatter_rows(const struct lt_vk_call *c)
{
    const uint32_t cols = (uint32_t)c->in_cols[0];
    struct lt_vk_dispatch zero = {.key = {.shader = LT_VK_SHADER_fill, .spec_count = 1, .spec = {THREADS}},
                                  .args = {lt_vk_out_rows(c, 0, LT_VK_WRITE)},
                                  .push = &cols,
                                  .push_bytes = sizeof cols,
                                  .rows = c->out_rows[0],
                                  .kind = c->out_kind[0],
                                  .rows_per_group = rows_per_group(cols)};
    lt_vk_dispatch(c->rec, &zero);
    copy(c, SCATTER, (struct side){c->in[0], cols, 0}, (struct side){c->out[0], cols, 0}, c->in_rows[0],
         c->in_kind[0], cols, c->in[1]);
}
