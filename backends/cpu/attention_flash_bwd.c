#include "backends/cpu/attention_flash.h"

#include <assert.h>
#include <string.h>

#include "backends/cpu/attention_turns.h"
#include "core/base/checked.h"

enum { TILE = LT_ATTENTION_TILE, PAIRS = TILE / 2, GROUP = 8, LANES = 16, ALIGNMENT = 64 };

/* A factor of products: row r at x + r * ld. */
struct factor {
    const float *x;
    int64_t ld;
};

/* Query rows or their gradients, [TILE, head_dim]: for sums over columns, and for sums over rows. */
struct row_tile {
    struct factor rows, columns;
};

/* One tile of keys against up to TILE query rows of one head. */
struct flash_grad {
    const struct lt_attention_ops *ops;
    const struct lt_attention_grad *args;
    float *p, *ds; /* [TILE, TILE], rows are query rows: probabilities; first dP, then dS */
    float *keep;   /* [TILE] */
    /* Of each tile of keys: keys, then values, both [head_dim, TILE], transposed; with pairs also keys by columns. */
    float *tiles;
    /* With pairs: those of p and ds by columns, of ds by rows; of a tile of query rows and of their gradients, by rows and by
     * columns. */
    float *p_pairs, *ds_pairs, *ds_rows, *q_pairs[2], *d_o_pairs[2];
    int64_t each, elements; /* floats of an element of a factor; elements of a head */
    int64_t head;
    int64_t key0, nkeys;
    float *keys, *values;
    struct factor key_columns;
    struct row_tile q, d_o;
    int64_t row0, nrows;
    bool diagonal; /* row0 == key0: row r sees the keys up to its own */
};

/* Floats of a tile of keys in scratch. */
static int64_t tile_floats(bool pairs, int64_t head_dim)
{
    return pairs ? 2 * ((head_dim + 1) / 2) * TILE + PAIRS * head_dim : 2 * head_dim * TILE;
}

size_t lt_attention_grad_scratch(int64_t keys, int64_t head_dim, bool bf16)
{
    assert(keys >= 0 && head_dim > 0);
    const int64_t rows = bf16 ? 2 * (TILE * ((head_dim + 1) / 2) + PAIRS * head_dim) + 3 * TILE * PAIRS : 0;
    return (size_t)(ALIGNMENT / (int64_t)sizeof(float) + 2 * TILE * TILE + TILE + rows +
                    lt_div_up(keys, TILE) * tile_floats(bf16, head_dim));
}

static void divide_scratch(struct flash_grad *f)
{
    /* Vector loads of the tiles should not straddle cache lines. */
    size_t past = (uintptr_t)f->args->scratch % ALIGNMENT / sizeof(float);
    const int64_t head_dim = f->args->head_dim;
    f->p = f->args->scratch + (past ? ALIGNMENT / sizeof(float) - past : 0);
    f->ds = f->p + TILE * TILE;
    f->keep = f->ds + TILE * TILE;
    f->tiles = f->keep + TILE;
    f->p_pairs = f->p;
    f->ds_pairs = f->ds_rows = f->ds;
    f->each = f->ops->pairs ? 2 : 1;
    f->elements = lt_attention_elements(f->ops, head_dim);
    if (!f->ops->pairs)
        return;
    f->p_pairs = f->tiles;
    f->ds_pairs = f->p_pairs + TILE * PAIRS;
    f->ds_rows = f->ds_pairs + TILE * PAIRS;
    f->q_pairs[0] = f->ds_rows + TILE * PAIRS;
    f->q_pairs[1] = f->q_pairs[0] + TILE * f->elements;
    f->d_o_pairs[0] = f->q_pairs[1] + PAIRS * head_dim;
    f->d_o_pairs[1] = f->d_o_pairs[0] + TILE * f->elements;
    f->tiles = f->d_o_pairs[1] + PAIRS * head_dim;
}

/* The tile that begins with key0, up to the end of the call's keys. */
static void select_tile(struct flash_grad *f, int64_t key0)
{
    const struct lt_attention_grad *a = f->args;
    f->key0 = key0;
    f->nkeys = lt_min_i64(TILE, a->key_end - key0);
    f->keys = f->tiles + (key0 - a->key_begin) / TILE * tile_floats(f->ops->pairs != NULL, a->head_dim);
    f->values = f->keys + f->elements * TILE;
    if (f->ops->pairs)
        f->key_columns = (struct factor){f->values + f->elements * TILE, a->head_dim};
    else
        f->key_columns = (struct factor){a->k + key0 * a->ldkv, a->ldkv};
}

static void prepare_keys(struct flash_grad *f)
{
    const struct lt_attention_grad *a = f->args;
    for (int64_t key0 = a->key_begin; key0 < a->key_end; key0 += TILE) {
        const float *k = a->k + key0 * a->ldkv;
        select_tile(f, key0);
        f->ops->transpose(f->keys, k, a->ldkv, f->nkeys, a->head_dim);
        f->ops->transpose(f->values, a->v + key0 * a->ldkv, a->ldkv, f->nkeys, a->head_dim);
        if (f->ops->pairs)
            f->ops->pairs->columns(f->values + f->elements * TILE, a->head_dim, k, a->ldkv, f->nkeys,
                                   a->head_dim);
    }
    for (int64_t t = a->key_begin; t < a->key_end; t++) {
        memset(a->dk + t * a->ldkv, 0, (size_t)a->head_dim * sizeof(float));
        memset(a->dv + t * a->ldkv, 0, (size_t)a->head_dim * sizeof(float));
    }
}

/* Before the first keys of a tile of rows: delta = rowsum(dO * O), dq = 0. */
static void prepare_rows(struct flash_grad *f)
{
    const struct lt_attention_grad *a = f->args;
    int64_t column = f->head * a->head_dim;
    for (int64_t t = f->row0; t < lt_min_i64(a->rows, f->row0 + TILE); t++) {
        int64_t at = t * a->ldo + column;
        a->delta[f->head * a->rows + t] = f->ops->dot(a->d_o + at, a->o + at, a->head_dim);
        memset(a->dq + t * a->ldq + column, 0, (size_t)a->head_dim * sizeof(float));
    }
}

/* The tile of query rows at row0, or of their gradients. */
static struct row_tile row_tile(const struct flash_grad *f, const float *x, int64_t ld, float *const pairs[2])
{
    const struct lt_attention_grad *a = f->args;
    const int64_t rows = lt_min_i64(TILE, a->rows - f->row0);
    x += f->row0 * ld + f->head * a->head_dim;
    if (!f->ops->pairs)
        return (struct row_tile){{x, ld}, {x, ld}};
    f->ops->pairs->rows(pairs[0], f->elements, x, ld, rows, a->head_dim);
    f->ops->pairs->columns(pairs[1], a->head_dim, x, ld, rows, a->head_dim);
    return (struct row_tile){{pairs[0], f->elements}, {pairs[1], a->head_dim}};
}

/* dst[nrows, nkeys] = a · b for the transposed keys or values b, leaving out what no row of a group sees. */
static void row_products(struct flash_grad *f, float *dst, struct factor a, const float *b)
{
    int64_t step = f->diagonal ? GROUP : f->nrows;
    for (int64_t r = 0; r < f->nrows; r += step) {
        int64_t rows = lt_min_i64(step, f->nrows - r);
        int64_t seen = f->diagonal ? lt_min_i64(f->nkeys, r + rows) : f->nkeys;
        f->ops->product(&(struct lt_tile_product){.c = dst + r * TILE,
                                                  .ldc = TILE,
                                                  .a = a.x + r * a.ld,
                                                  .a_row = a.ld,
                                                  .a_col = 1,
                                                  .b = b,
                                                  .ldb = TILE,
                                                  .rows = rows,
                                                  .n = (seen + LANES - 1) / LANES * LANES,
                                                  .k = f->elements,
                                                  .accumulate = false});
    }
}

/* p and ds of the tile from the raw products. */
static void gradient_tile(struct flash_grad *f)
{
    const struct lt_attention_grad *a = f->args;
    struct lt_score_row row = {.scale = a->scale, .softcap = a->softcap};
    struct lt_rng_site site = a->site;
    site.site += (uint32_t)f->head;
    for (int64_t r = 0; r < f->nrows; r++) {
        int64_t t = f->row0 + r;
        int64_t begin = a->window > 0 ? lt_max_i64(0, t + 1 - a->window) : 0;
        row.lo = lt_max_i64(0, begin - f->key0);
        row.hi = lt_min_i64(f->nkeys, t + 1 - f->key0);
        if (a->drop_threshold != 0) {
            row.keep = f->keep;
            f->ops->keep_row(f->keep, TILE, &site, a->row_key[t], (uint32_t)f->key0, a->drop_threshold,
                             a->drop_scale);
        }
        f->ops->grad_row(f->p + r * TILE, f->ds + r * TILE, &row, a->lse[t * a->ldlse + f->head],
                         a->delta[f->head * a->rows + t]);
    }
    if (f->ops->pairs) {
        f->ops->pairs->columns(f->p_pairs, TILE, f->p, TILE, f->nrows, TILE);
        f->ops->pairs->columns(f->ds_pairs, TILE, f->ds, TILE, f->nrows, TILE);
        f->ops->pairs->rows(f->ds_rows, PAIRS, f->ds, TILE, f->nrows, TILE);
    }
}

/* dst[nkeys, head_dim] += aᵀ · b for the tile a and the query rows b. */
static void add_to_keys(struct flash_grad *f, float *dst, const float *a, struct factor b)
{
    int64_t step = f->diagonal ? GROUP : f->nkeys;
    for (int64_t c = 0; c < f->nkeys; c += step) {
        const int64_t from = f->diagonal ? lt_min_i64(c, f->nrows) / f->each : 0; /* c is even */
        f->ops->product(&(struct lt_tile_product){.c = dst + (f->key0 + c) * f->args->ldkv,
                                                  .ldc = f->args->ldkv,
                                                  .a = a + from * TILE + c,
                                                  .a_row = 1,
                                                  .a_col = TILE,
                                                  .b = b.x + from * b.ld,
                                                  .ldb = b.ld,
                                                  .rows = lt_min_i64(step, f->nkeys - c),
                                                  .n = f->args->head_dim,
                                                  .k = lt_attention_elements(f->ops, f->nrows) - from,
                                                  .accumulate = true});
    }
}

/* dq += ds · k. */
static void add_to_queries(struct flash_grad *f, float *dq)
{
    const struct lt_attention_grad *a = f->args;
    int64_t step = f->diagonal ? GROUP : f->nrows;
    for (int64_t r = 0; r < f->nrows; r += step) {
        const int64_t rows = lt_min_i64(step, f->nrows - r);
        const int64_t seen = f->diagonal ? lt_min_i64(f->nkeys, r + rows) : f->nkeys;
        f->ops->product(&(struct lt_tile_product){.c = dq + r * a->ldq,
                                                  .ldc = a->ldq,
                                                  .a = f->ds_rows + r * (TILE / f->each),
                                                  .a_row = TILE / f->each,
                                                  .a_col = 1,
                                                  .b = f->key_columns.x,
                                                  .ldb = f->key_columns.ld,
                                                  .rows = rows,
                                                  .n = a->head_dim,
                                                  .k = lt_attention_elements(f->ops, seen),
                                                  .accumulate = true});
    }
}

/* The query rows at row0 against the tile of keys. */
static void rows_against_tile(struct flash_grad *f)
{
    const struct lt_attention_grad *a = f->args;
    f->nrows = lt_min_i64(TILE, lt_attention_last_row(a, f->key0 + f->nkeys) - f->row0);
    f->diagonal = f->row0 == f->key0;
    row_products(f, f->p, f->q.rows, f->keys);
    row_products(f, f->ds, f->d_o.rows, f->values);
    gradient_tile(f);
    add_to_keys(f, a->dv, f->p_pairs, f->d_o.columns);
    add_to_keys(f, a->dk, f->ds_pairs, f->q.columns);
    add_to_queries(f, a->dq + f->row0 * a->ldq + f->head * a->head_dim);
}

/* A head's rows at row0 against all keys of the call that they see. */
static void rows_against_keys(struct flash_grad *f)
{
    const struct lt_attention_grad *a = f->args;
    const int64_t next = f->row0 + TILE, rows = lt_min_i64(TILE, a->rows - next),
                  column = f->head * a->head_dim;
    if (lt_attention_turn_take(a, f->head, f->row0))
        prepare_rows(f);
    lt_attention_fetch(a->q + next * a->ldq + column, a->ldq, rows, a->head_dim);
    lt_attention_fetch(a->d_o + next * a->ldo + column, a->ldo, rows, a->head_dim);
    lt_attention_fetch(a->dq + next * a->ldq + column, a->ldq, rows, a->head_dim);
    f->q = row_tile(f, a->q, a->ldq, f->q_pairs);
    f->d_o = row_tile(f, a->d_o, a->ldo, f->d_o_pairs);
    for (int64_t key0 = a->key_begin; key0 < a->key_end && key0 <= f->row0; key0 += TILE) {
        select_tile(f, key0);
        if (f->row0 < lt_attention_last_row(a, key0 + f->nkeys))
            rows_against_tile(f);
    }
    lt_attention_turn_pass(a, f->head, f->row0);
}

void lt_attention_flash_bwd(const struct lt_attention_ops *ops, const struct lt_attention_grad *grad)
{
    assert(grad->head_dim > 0 && grad->group > 0 && grad->scratch && grad->delta);
    assert(!ops->pairs || grad->head_dim <= LT_ATTENTION_BF16_DIM);
    struct flash_grad f = {.ops = ops, .args = grad};
    int64_t end = lt_attention_last_row(grad, grad->key_end);
    divide_scratch(&f);
    prepare_keys(&f);
    for (f.head = 0; f.head < grad->group; f.head++)
        for (f.row0 = grad->key_begin; f.row0 < end; f.row0 += TILE)
            rows_against_keys(&f);
}
