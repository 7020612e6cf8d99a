#include "backends/vulkan/vk_gemm_int8.h"

#include <string.h>

#include "backends/vulkan/vk_gemm.h"
#include "core/base/checked.h"

enum { THREADS = 256 };

/* m x n elements of the result, tm x tn of them for an invocation. */
struct tile {
    uint32_t m, n, tm, tn;
};

/* Of a row of activations: shaders/int8_rows.comp. */
static size_t record_bytes(int64_t cols)
{
    return (size_t)(2 + 9 * lt_div_up(cols, 32)) * sizeof(uint32_t);
}

size_t lt_vk_gemm_int8_workspace(int64_t rows, int64_t cols)
{
    return (size_t)rows * record_bytes(cols);
}

/* Magnitudes order like their bits; 0: no number is that large. */
static uint32_t limit_of(float threshold)
{
    uint32_t bits;
    memcpy(&bits, &threshold, sizeof bits);
    return threshold > 0 ? bits : INT32_MAX;
}

static void quantize_rows(const struct lt_vk_call *c, struct lt_vk_ref records)
{
    const struct {
        uint32_t cols, limit;
    } push = {(uint32_t)c->in_cols[0], limit_of(c->node->attr.int8_threshold)};
    struct lt_vk_dispatch d = {
        .key = {.shader = LT_VK_SHADER_int8_rows, .spec_count = 1, .spec = {THREADS}},
        .args = {lt_vk_in_rows(c, 0), {records, LT_VK_WRITE, record_bytes(c->in_cols[0])}},
        .push = &push,
        .push_bytes = sizeof push,
        .rows = c->in_rows[0],
        .kind = c->in_kind[0],
        .rows_per_group = 1,
        .work = 40.0 * (double)c->in_rows[0] * (double)c->in_cols[0]};
    lt_vk_dispatch(c->rec, &d);
}

/* The columns [row, row + rows) of the result, which are rows of the weight. */
static void product(const struct lt_vk_call *c, struct lt_vk_ref records, int64_t row, int64_t rows)
{
    static const struct tile square = {.m = 64, .n = 64, .tm = 4, .tn = 4},
                             flat = {.m = 16, .n = 64, .tm = 1, .tn = 4};
    const struct lt_device_weight *w = c->weight[1];
    const struct {
        uint32_t n, k, ldc, c_col0;
    } push = {(uint32_t)rows, (uint32_t)w->cols, (uint32_t)w->rows, (uint32_t)row};
    const struct tile *t = c->in_rows[0] <= 16 ? &flat : &square;
    struct lt_vk_dispatch d = {
        .key = {.shader = LT_VK_SHADER_gemm_int8,
                .spec_count = 7,
                .spec = {THREADS, t->m, t->n, t->tm, t->tn, w->cols % 4 == 0, c->in[2].buffer != NULL}},
        .args = {{records, LT_VK_READ, record_bytes(w->cols)},
                 lt_vk_in_rows(c, 0),
                 lt_vk_whole(lt_vk_weight_rows(w, row, rows), LT_VK_READ),
                 lt_vk_whole(w->meta, LT_VK_READ),
                 lt_vk_whole(c->in[2], LT_VK_READ),
                 lt_vk_out_rows(c, 0, LT_VK_WRITE)},
        .push = &push,
        .push_bytes = sizeof push,
        .rows = c->in_rows[0],
        .kind = c->in_kind[0],
        .max_rows = (int64_t)t->m * LT_VK_MAX_GROUPS,
        .rows_per_group = t->m,
        .groups = {0, (uint32_t)lt_div_up(rows, t->n)},
        .work = 2.0 * (double)c->in_rows[0] * (double)rows * (double)w->cols};
    lt_vk_dispatch(c->rec, &d);
}

void lt_vk_gemm_int8(const struct lt_vk_call *c)
{
    const struct lt_device_weight *w = c->weight[1];
    struct lt_vk_ref records =
        lt_vk_slice(c->workspace, 0, lt_vk_gemm_int8_workspace(c->in_rows[0], w->cols));
    int64_t step = lt_vk_weight_rows_at_once(c->rec, w);
    quantize_rows(c, records);
    for (int64_t row = 0; step > 0 && row < w->rows; row += step)
        product(c, records, row, lt_min_i64(step, w->rows - row));
}
