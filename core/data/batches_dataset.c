#include "core/base/alloc.h"
#include "core/data/data_internal.h"

/* A unit is a row, or a bin of rows when packing. */
struct dataset_source {
    const struct lt_dataset *ds;
    bool packing;
    struct lt_bins bins;
};

static void append_example(const struct lt_dataset *ds, size_t index, struct lt_batch *b)
{
    const struct lt_example *ex = &ds->examples[index];
    const struct lt_sequence sequence = {
        .ids = ex->ids, .labels = ex->labels, .length = ex->length, .row = (int64_t)index};

    for (int32_t i = lt_batch_append(b, &sequence); i < b->n_tokens; i++)
        b->source[i] = (int64_t)index;
}

static void append_unit(const void *source, int64_t unit, struct lt_batch *b)
{
    const struct dataset_source *s = source;

    if (!s->packing) {
        append_example(s->ds, (size_t)unit, b);
        return;
    }
    for (size_t i = s->bins.begin[unit]; i < s->bins.begin[unit + 1]; i++)
        append_example(s->ds, s->bins.rows[i], b);
}

static void destroy_source(void *source)
{
    struct dataset_source *s = source;

    lt_bins_deinit(&s->bins);
    lt_free(s);
}

static enum lt_status pack(struct dataset_source *s, int32_t max_length, struct lt_error *err)
{
    const struct lt_dataset *ds = s->ds;

    for (size_t i = 0; i < ds->count; i++)
        if (ds->examples[i].length > max_length)
            return lt_fail(
                err, LT_ERR_INVALID,
                "example %zu has %d tokens, more than the packing length %d; load the data with that "
                "maximum length",
                i, (int)ds->examples[i].length, (int)max_length);
    int32_t *lengths = lt_alloc_array(ds->count, sizeof *lengths);
    if (lengths == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for packing %zu rows", ds->count);
    for (size_t i = 0; i < ds->count; i++)
        lengths[i] = ds->examples[i].length;
    enum lt_status status = lt_bins_init(&s->bins, lengths, ds->count, max_length, err);
    lt_free(lengths);
    return status;
}

static void count_units(struct lt_batches *bs, const struct dataset_source *s)
{
    for (int64_t unit = 0; unit < bs->units; unit++) {
        size_t begin = s->packing ? s->bins.begin[unit] : (size_t)unit;
        size_t end = s->packing ? s->bins.begin[unit + 1] : (size_t)unit + 1;
        for (size_t i = begin; i < end; i++) {
            const struct lt_example *ex = &s->ds->examples[s->packing ? s->bins.rows[i] : i];
            bs->unit_tokens[unit] += ex->length;
            bs->unit_targets[unit] += ex->targets;
        }
    }
}

enum lt_status lt_batches_from_dataset(struct lt_batches **out, const struct lt_dataset *ds,
                                       const struct lt_batches_options *opt, struct lt_error *err)
{
    *out = NULL;
    struct dataset_source *s = lt_alloc_zero(1, sizeof *s);
    if (s == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a source of batches");
    s->ds = ds;
    s->packing = opt->packing;
    enum lt_status status = s->packing ? pack(s, opt->max_length, err) : LT_OK;
    if (status == LT_OK)
        status = lt_batches_create(out, (int64_t)(s->packing ? s->bins.count : ds->count), opt->batch_size,
                                   opt, err);
    if (status != LT_OK) {
        destroy_source(s);
        return status;
    }
    (*out)->source = s;
    (*out)->append = append_unit;
    (*out)->destroy = destroy_source;
    count_units(*out, s);
    return LT_OK;
}
