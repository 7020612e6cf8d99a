#include "core/data/batch.h"

#include <assert.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/rng.h"
#include "core/data/data_internal.h"

/* ---- one micro-batch ---- */

enum lt_status lt_batch_init(struct lt_batch *b, int32_t cap_tokens, int32_t cap_labels, struct lt_error *err)
{
    assert(cap_tokens >= 0 && cap_labels >= 0);
    size_t tokens = (size_t)cap_tokens, labels = (size_t)cap_labels;

    *b = (struct lt_batch){.cap_tokens = cap_tokens, .cap_labels = cap_labels};
    b->ids = lt_alloc_array(tokens, sizeof *b->ids);
    b->positions = lt_alloc_array(tokens, sizeof *b->positions);
    b->kv_begin = lt_alloc_array(tokens, sizeof *b->kv_begin);
    b->kv_end = lt_alloc_array(tokens, sizeof *b->kv_end);
    b->row_key = lt_alloc_array(tokens, sizeof *b->row_key);
    b->source = lt_alloc_array(tokens, sizeof *b->source);
    b->label_rows = lt_alloc_array(labels, sizeof *b->label_rows);
    b->labels = lt_alloc_array(labels, sizeof *b->labels);
    if (b->ids == NULL || b->positions == NULL || b->kv_begin == NULL || b->kv_end == NULL ||
        b->row_key == NULL || b->source == NULL || b->label_rows == NULL || b->labels == NULL) {
        lt_batch_deinit(b);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a micro-batch of %d tokens", (int)cap_tokens);
    }
    return LT_OK;
}

void lt_batch_deinit(struct lt_batch *b)
{
    lt_free(b->ids);
    lt_free(b->positions);
    lt_free(b->kv_begin);
    lt_free(b->kv_end);
    lt_free(b->row_key);
    lt_free(b->source);
    lt_free(b->label_rows);
    lt_free(b->labels);
    *b = (struct lt_batch){0};
}

int32_t lt_batch_append(struct lt_batch *b, const struct lt_sequence *s)
{
    int32_t first = b->n_tokens;

    assert(s->length <= b->cap_tokens - b->n_tokens);
    for (int32_t i = 0; i < s->length; i++) {
        int32_t at = first + i, column = s->columns != NULL ? s->columns[i] : i;
        b->ids[at] = s->ids[i];
        b->positions[at] = column - s->first_column;
        b->kv_begin[at] = first;
        b->kv_end[at] = at + 1;
        b->row_key[at] = lt_row_key(s->row, column);
        if (i == 0 || s->labels[i] == LT_LABEL_IGNORE)
            continue;
        assert(b->n_labels < b->cap_labels);
        b->label_rows[b->n_labels] = at - 1;
        b->labels[b->n_labels++] = s->labels[i];
    }
    b->n_tokens += s->length;
    return first;
}

/* ---- the order of units ---- */

enum lt_status lt_batches_create(struct lt_batches **out, int64_t units, int64_t per_batch,
                                 const struct lt_batches_options *opt, struct lt_error *err)
{
    *out = NULL;
    if (per_batch < 1 || opt->accumulation < 1)
        return lt_fail(err, LT_ERR_INVALID, "batch size %lld and gradient accumulation %d must be at least 1",
                       (long long)per_batch, (int)opt->accumulation);
    int64_t batches = opt->drop_last ? units / per_batch : units / per_batch + (units % per_batch != 0);
    if (batches < 1)
        return lt_fail(
            err, LT_ERR_INVALID,
            "%lld rows are too few for a micro-batch of %lld; use a smaller batch or keep the last one",
            (long long)units, (long long)per_batch);
    struct lt_batches *bs = lt_alloc_zero(1, sizeof *bs);
    if (bs == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a source of batches");
    bs->units = units;
    bs->per_batch = per_batch;
    bs->batches = batches;
    bs->accumulation = opt->accumulation;
    bs->shuffle = opt->shuffle;
    bs->seed = opt->seed;
    bs->perm_epoch = -1;
    bs->unit_tokens = lt_alloc_zero((size_t)units, sizeof *bs->unit_tokens);
    bs->unit_targets = lt_alloc_zero((size_t)units, sizeof *bs->unit_targets);
    if (bs->shuffle)
        bs->perm = lt_alloc_array((size_t)units, sizeof *bs->perm);
    if (bs->unit_tokens == NULL || bs->unit_targets == NULL || (bs->shuffle && bs->perm == NULL)) {
        lt_batches_destroy(bs);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the order of %lld rows", (long long)units);
    }
    *out = bs;
    return LT_OK;
}

void lt_batches_destroy(struct lt_batches *bs)
{
    if (bs == NULL)
        return;
    if (bs->source != NULL)
        bs->destroy(bs->source);
    lt_free(bs->unit_tokens);
    lt_free(bs->unit_targets);
    lt_free(bs->perm);
    lt_free(bs);
}

/* The unit at a place of the epoch's order.  transformers seeds epoch e with seed + e, from 0. */
static int64_t unit_at(struct lt_batches *bs, int64_t epoch, int64_t place)
{
    struct lt_mt19937 mt;

    if (!bs->shuffle)
        return place;
    if (bs->perm_epoch != epoch) {
        lt_mt19937_seed(&mt, bs->seed + (uint64_t)epoch);
        lt_mt19937_randperm(&mt, bs->perm, bs->units);
        bs->perm_epoch = epoch;
    }
    return bs->perm[place];
}

struct batch_extent {
    int64_t begin, end; /* places in the order */
    int32_t tokens, targets;
};

static enum lt_status measure(struct lt_batches *bs, int64_t epoch, int64_t index,
                              struct batch_extent *extent, struct lt_error *err)
{
    int64_t tokens = 0, targets = 0;

    if (epoch < 0 || index < 0 || index >= bs->batches)
        return lt_fail(err, LT_ERR_INVALID, "there is no micro-batch %lld in epoch %lld; an epoch has %lld",
                       (long long)index, (long long)epoch, (long long)bs->batches);
    extent->begin = index * bs->per_batch;
    extent->end = bs->units - extent->begin < bs->per_batch ? bs->units : extent->begin + bs->per_batch;
    for (int64_t i = extent->begin; i < extent->end; i++) {
        int64_t unit = unit_at(bs, epoch, i);
        tokens += bs->unit_tokens[unit];
        targets += bs->unit_targets[unit];
    }
    if (tokens > INT32_MAX || extent->end - extent->begin > INT32_MAX)
        return lt_fail(err, LT_ERR_INVALID,
                       "a micro-batch of %lld rows has %lld tokens, too many; use a smaller batch",
                       (long long)(extent->end - extent->begin), (long long)tokens);
    extent->tokens = (int32_t)tokens;
    extent->targets = (int32_t)targets;
    return LT_OK;
}

enum lt_status lt_batches_get(struct lt_batches *bs, int64_t epoch, int64_t index, struct lt_batch *b,
                              struct lt_error *err)
{
    struct batch_extent extent;

    b->n_tokens = b->n_labels = b->n_examples = 0;
    LT_TRY(measure(bs, epoch, index, &extent, err));
    if (extent.tokens > b->cap_tokens || extent.targets > b->cap_labels)
        return lt_fail(err, LT_ERR_INVALID,
                       "micro-batch %lld of epoch %lld has %d tokens and %d targets, planned were %d and %d",
                       (long long)index, (long long)epoch, (int)extent.tokens, (int)extent.targets,
                       (int)b->cap_tokens, (int)b->cap_labels);
    for (int64_t i = extent.begin; i < extent.end; i++)
        bs->append(bs->source, unit_at(bs, epoch, i), b);
    b->n_examples = (int32_t)(extent.end - extent.begin);
    assert(b->n_tokens == extent.tokens && b->n_labels == extent.targets);
    return LT_OK;
}

enum lt_status lt_batches_targets(struct lt_batches *bs, int64_t epoch, int64_t index, int32_t *targets,
                                  struct lt_error *err)
{
    struct batch_extent extent;

    LT_TRY(measure(bs, epoch, index, &extent, err));
    *targets = extent.targets;
    return LT_OK;
}

/* ---- questions about an epoch ---- */

int64_t lt_batches_per_epoch(const struct lt_batches *bs)
{
    return bs->batches;
}

int64_t lt_batches_steps_per_epoch(const struct lt_batches *bs)
{
    return lt_max_i64(1, lt_div_up(bs->batches, bs->accumulation));
}

int64_t lt_batches_rows(const struct lt_batches *bs)
{
    return bs->units;
}

void lt_batches_shape(const struct lt_batches *bs, int64_t *rows, int64_t *columns)
{
    *rows = bs->rows;
    *columns = bs->columns;
}

void lt_batches_totals(const struct lt_batches *bs, int64_t *tokens, int64_t *targets)
{
    *tokens = *targets = 0;
    for (int64_t i = 0; i < bs->units; i++) {
        *tokens += bs->unit_tokens[i];
        *targets += bs->unit_targets[i];
    }
}

enum lt_status lt_batches_capacity(struct lt_batches *bs, int64_t epochs, int32_t *tokens, int32_t *labels,
                                   struct lt_error *err)
{
    int64_t different = bs->shuffle ? epochs : lt_min_i64(epochs, 1);
    struct batch_extent extent;

    *tokens = *labels = 0;
    for (int64_t epoch = 0; epoch < different; epoch++)
        for (int64_t index = 0; index < bs->batches; index++) {
            LT_TRY(measure(bs, epoch, index, &extent, err));
            *tokens = extent.tokens > *tokens ? extent.tokens : *tokens;
            *labels = extent.targets > *labels ? extent.targets : *labels;
        }
    return LT_OK;
}
