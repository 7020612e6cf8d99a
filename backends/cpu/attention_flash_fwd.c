#include "backends/cpu/attention_flash.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/checked.h"

enum { TILE = LT_ATTENTION_TILE, GROUP = 8, LANES = 16 };

/* Up to TILE query rows on their way over the key tiles. */
struct flash_rows {
    const struct lt_attention_ops *ops;
    const struct lt_attention_block *block;
    int64_t row0, rows;
    int64_t tile;        /* first key of the tile at hand */
    int64_t first, last; /* the rows [first, last) see some of it: columns [lo, hi) */
    int64_t lo[TILE], hi[TILE];
    float max[TILE], sum[TILE];
    float keep[TILE];
    const float *q; /* the rows, as factors */
    int64_t ldq;
    _Alignas(64) float scores[TILE * TILE];
    _Alignas(64) float keys[TILE * TILE]; /* transposed, TILE elements of the head at a time */
    /* With pairs: */
    _Alignas(64) float q_pairs[TILE * LT_ATTENTION_BF16_DIM / 2];
    _Alignas(64) float value_pairs[TILE / 2 * LT_ATTENTION_BF16_DIM]; /* of keys */
};

static int64_t first_visible_key(const struct lt_attention_block *b, int64_t row)
{
    int64_t end = b->kv_end[row];
    return b->window > 0 ? lt_max_i64(b->kv_begin, end - b->window) : b->kv_begin;
}

static void find_visible(struct flash_rows *f, int64_t tile)
{
    f->tile = tile;
    f->first = f->last = 0;
    for (int64_t r = 0; r < f->rows; r++) {
        int64_t row = f->row0 + r;
        f->lo[r] = lt_max_i64(first_visible_key(f->block, row) - tile, 0);
        f->hi[r] = lt_min_i64(f->block->kv_end[row] - tile, TILE);
        if (f->lo[r] >= f->hi[r])
            continue;
        if (f->first == f->last)
            f->first = r;
        f->last = r + 1;
    }
}

static void score_tile(struct flash_rows *f)
{
    const struct lt_attention_block *b = f->block;
    const int64_t keys = f->hi[f->last - 1], elements = lt_attention_elements(f->ops, b->head_dim);
    const int64_t each = f->ops->pairs ? 2 : 1;
    for (int64_t d = 0; d < elements; d += TILE) {
        const int64_t depth = lt_min_i64(TILE, elements - d);
        f->ops->transpose(f->keys, b->k + f->tile * b->ldkv + each * d, b->ldkv, keys,
                          lt_min_i64(each * TILE, b->head_dim - each * d));
        for (int64_t r = f->first, end; r < f->last; r = end) {
            /* Below the diagonal all rows see all columns; on it, few rows at a time waste few columns. */
            end = f->hi[r] == keys ? f->last : lt_min_i64(f->last, r + GROUP);
            int64_t columns = (f->hi[end - 1] + LANES - 1) / LANES * LANES;
            f->ops->product(&(struct lt_tile_product){.c = f->scores + r * TILE,
                                                      .ldc = TILE,
                                                      .a = f->q + r * f->ldq + d,
                                                      .a_row = f->ldq,
                                                      .a_col = 1,
                                                      .b = f->keys,
                                                      .ldb = TILE,
                                                      .rows = end - r,
                                                      .n = columns,
                                                      .k = depth,
                                                      .accumulate = d > 0});
        }
    }
}

static void weigh_tile(struct flash_rows *f)
{
    const struct lt_attention_block *b = f->block;
    struct lt_score_row row = {.scale = b->scale, .softcap = b->softcap};
    for (int64_t r = f->first; r < f->last; r++) {
        row.lo = f->lo[r];
        row.hi = f->hi[r];
        if (b->drop_threshold != 0) {
            row.keep = f->keep;
            f->ops->keep_row(f->keep, TILE, &b->site, b->row_key[f->row0 + r],
                             (uint32_t)(f->tile - b->kv_begin), b->drop_threshold, b->drop_scale);
        }
        float before = f->ops->softmax_row(f->scores + r * TILE, &row, &f->max[r], &f->sum[r]);
        if (before != 1.0f)
            f->ops->scale_row(b->o + (f->row0 + r) * b->ldo, before, b->head_dim);
        if (f->ops->pairs)
            f->ops->pairs->weights(f->scores + r * TILE, row.lo, row.hi);
    }
}

/* o += weights · v for rows [r, end) and columns [lo, hi) of the tile. */
static void add_values(struct flash_rows *f, int64_t r, int64_t end, int64_t lo, int64_t hi)
{
    const struct lt_attention_block *b = f->block;
    if (lo >= hi)
        return;
    f->ops->product(&(struct lt_tile_product){.c = b->o + (f->row0 + r) * b->ldo,
                                              .ldc = b->ldo,
                                              .a = f->scores + r * TILE + lo,
                                              .a_row = TILE,
                                              .a_col = 1,
                                              .b = b->v + (f->tile + lo) * b->ldkv,
                                              .ldb = b->ldkv,
                                              .rows = end - r,
                                              .n = b->head_dim,
                                              .k = hi - lo,
                                              .accumulate = true});
}

/* A row only ever touches the values it may see (what lies behind may be another sequence or no number at
 * all), yet rows share their common columns: first what a row sees before them, then those, then the rest. */
static void value_tile(struct flash_rows *f)
{
    for (int64_t r = f->first, end; r < f->last; r = end) {
        int64_t lo = f->lo[r], hi = f->hi[r];
        for (end = r + 1; end < f->last && f->lo[end] == lo && f->hi[end] == hi;)
            end++;
        if (end - r >= GROUP / 2) {
            add_values(f, r, end, lo, hi);
            continue;
        }
        end = lt_min_i64(f->last, r + GROUP / 2);
        lo = f->lo[end - 1];
        if (lo >= hi) {
            end = r + 1;
            lo = hi;
        }
        for (int64_t i = r; i < end; i++)
            add_values(f, i, i + 1, f->lo[i], lo);
        add_values(f, r, end, lo, hi);
        for (int64_t i = r; i < end; i++)
            add_values(f, i, i + 1, hi, f->hi[i]);
    }
}

/* The same with pairs: outside of what a row sees its weights are 0 and the values finite. */
static void value_pairs_tile(struct flash_rows *f)
{
    const struct lt_attention_block *b = f->block;
    const int64_t begin = f->lo[f->first] / 2 * 2, keys = f->hi[f->last - 1] - begin;
    f->ops->pairs->columns(f->value_pairs, b->head_dim, b->v + (f->tile + begin) * b->ldkv, b->ldkv, keys,
                           b->head_dim);
    for (int64_t r = f->first, end; r < f->last; r = end) {
        for (end = r + 1; end < f->last && (f->hi[end] == f->hi[r] || end < r + GROUP);)
            end++;
        const int64_t lo = f->lo[r] / 2, hi = (f->hi[end - 1] + 1) / 2;
        f->ops->product(&(struct lt_tile_product){.c = b->o + (f->row0 + r) * b->ldo,
                                                  .ldc = b->ldo,
                                                  .a = f->scores + r * TILE + lo,
                                                  .a_row = TILE,
                                                  .a_col = 1,
                                                  .b = f->value_pairs + (lo - begin / 2) * b->head_dim,
                                                  .ldb = b->head_dim,
                                                  .rows = end - r,
                                                  .n = b->head_dim,
                                                  .k = hi - lo,
                                                  .accumulate = true});
    }
}

static void select_queries(struct flash_rows *f)
{
    const struct lt_attention_block *b = f->block;
    f->q = b->q + f->row0 * b->ldq;
    f->ldq = b->ldq;
    if (!f->ops->pairs)
        return;
    const int64_t pairs = lt_attention_elements(f->ops, b->head_dim);
    f->ops->pairs->rows(f->q_pairs, pairs, f->q, b->ldq, f->rows, b->head_dim);
    f->q = f->q_pairs;
    f->ldq = pairs;
}

static void finish_rows(struct flash_rows *f)
{
    const struct lt_attention_block *b = f->block;
    for (int64_t r = 0; r < f->rows; r++) {
        int64_t row = f->row0 + r;
        bool blind = b->kv_end[row] <= b->kv_begin;
        if (!blind)
            f->ops->scale_row(b->o + row * b->ldo, 1.0f / f->sum[r], b->head_dim);
        b->lse[row * b->ldlse] = blind ? -INFINITY : f->max[r] + logf(f->sum[r]);
    }
}

static void attend_rows(struct flash_rows *f)
{
    const struct lt_attention_block *b = f->block;
    for (int64_t r = 0; r < f->rows; r++) {
        memset(b->o + (f->row0 + r) * b->ldo, 0, (size_t)b->head_dim * sizeof(float));
        f->max[r] = -INFINITY;
        f->sum[r] = 0.0f;
    }
    select_queries(f);
    int64_t begin = first_visible_key(b, f->row0), end = b->kv_end[f->row0 + f->rows - 1];
    for (int64_t tile = begin - (begin - b->kv_begin) % TILE; tile < end; tile += TILE) {
        find_visible(f, tile);
        if (f->first == f->last)
            continue;
        const int64_t next = tile + TILE, rows = lt_min_i64(TILE, end - next);
        lt_attention_fetch(b->k + next * b->ldkv, b->ldkv, rows, b->head_dim);
        lt_attention_fetch(b->v + next * b->ldkv, b->ldkv, rows, b->head_dim);
        score_tile(f);
        weigh_tile(f);
        if (f->ops->pairs)
            value_pairs_tile(f);
        else
            value_tile(f);
    }
    finish_rows(f);
}

void lt_attention_flash_fwd(const struct lt_attention_ops *ops, const struct lt_attention_block *block)
{
    assert(block->head_dim > 0 && block->rows >= 0);
    assert(!ops->pairs || block->head_dim <= LT_ATTENTION_BF16_DIM);
    struct flash_rows f;
    f.ops = ops;
    f.block = block;
    for (f.row0 = 0; f.row0 < block->rows; f.row0 += TILE) {
        f.rows = lt_min_i64(TILE, block->rows - f.row0);
        attend_rows(&f);
    }
}
