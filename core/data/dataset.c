#include "core/data/dataset.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/base/system.h"
#include "core/data/data_internal.h"

struct loader {
    struct lt_dataset *ds;
    size_t capacity;
    const char *path;
    const struct lt_data_tokenizer *tok;
    const struct lt_dataset_options *opt;
    struct lt_strbuf where; /* "<path>:<line>" of the current row */
    enum lt_row_kind kind;  /* of all rows, once there is one */
    int64_t kind_line;      /* of the first row; 0: none yet */
};

static enum lt_status check_kind(struct loader *l, enum lt_row_kind kind, int64_t line, struct lt_error *err)
{
    if (l->kind_line == 0) {
        l->kind = kind;
        l->kind_line = line;
    }
    if (kind != l->kind)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: a row with %s, but line %lld has %s; a file holds rows of one kind",
                       lt_strbuf_str(&l->where), lt_row_kind_name(kind), (long long)l->kind_line,
                       lt_row_kind_name(l->kind));
    return LT_OK;
}

static enum lt_status keep_text(struct lt_example *ex, const struct lt_row *row, const char *where,
                                struct lt_error *err)
{
    if (row->prompt == NULL)
        return LT_OK;
    ex->prompt = lt_strdup(row->prompt);
    ex->completion = lt_strdup(row->completion);
    if (ex->prompt == NULL || ex->completion == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the row's text", where);
    return LT_OK;
}

/* Takes *ex, which has a target. */
static enum lt_status add_example(struct loader *l, struct lt_example *ex, struct lt_error *err)
{
    struct lt_dataset *ds = l->ds;
    void *items = ds->examples;

    if (!lt_reserve(&items, &l->capacity, ds->count, sizeof *ds->examples)) {
        lt_example_deinit(ex);
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for %zu examples", l->path, ds->count + 1);
    }
    ds->examples = items;
    ds->examples[ds->count++] = *ex;
    return LT_OK;
}

static enum lt_status add_row(struct loader *l, const struct lt_row *row, struct lt_error *err)
{
    const char *where = lt_strbuf_str(&l->where);
    struct lt_dataset *ds = l->ds;
    struct lt_example ex;
    size_t before;

    LT_TRY(lt_example_from_row(&ex, &before, row, l->tok, l->opt, where, err));
    if (before > INT32_MAX) {
        lt_example_deinit(&ex);
        return lt_fail(err, LT_ERR_FORMAT, "%s: a row of %zu tokens is too long; split it", where, before);
    }
    ds->rows++;
    if ((int32_t)before > ds->longest_before)
        ds->longest_before = (int32_t)before;
    if (ex.ids == NULL) {
        ds->dropped++;
        return LT_OK;
    }
    ds->truncated += (int32_t)before > ex.length;
    enum lt_status status = l->opt->keep_text ? keep_text(&ex, row, where, err) : LT_OK;
    if (status != LT_OK) {
        lt_example_deinit(&ex);
        return status;
    }
    return add_example(l, &ex, err);
}

static enum lt_status load_row(struct loader *l, const struct lt_row_text *text, struct lt_error *err)
{
    struct lt_row row;

    if (lt_cancel_requested())
        return lt_fail(err, LT_ERR_CANCELLED, "%s: cancelled while reading", l->path);
    lt_strbuf_clear(&l->where);
    lt_strbuf_printf(&l->where, "%s:%lld", l->path, (long long)text->line);
    if (!lt_strbuf_ok(&l->where))
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading", l->path);
    LT_TRY(lt_row_parse(&row, text, lt_strbuf_str(&l->where), l->opt->alpaca, l->tok->vocab_size, err));
    enum lt_status status = check_kind(l, row.kind, text->line, err);
    if (status == LT_OK)
        status = add_row(l, &row, err);
    lt_row_deinit(&row);
    return status;
}

static enum lt_status load_rows(struct loader *l, const struct lt_file_map *map, struct lt_error *err)
{
    struct lt_row_reader reader;
    struct lt_row_text text;

    lt_row_reader_init(&reader, l->path, map->data, map->size);
    for (;;) {
        LT_TRY(lt_row_reader_next(&reader, &text, err));
        if (text.text == NULL)
            return LT_OK;
        LT_TRY(load_row(l, &text, err));
    }
}

static void count_totals(struct lt_dataset *ds)
{
    ds->tokens = ds->targets = ds->longest = 0;
    for (size_t i = 0; i < ds->count; i++) {
        const struct lt_example *ex = &ds->examples[i];
        ds->tokens += ex->length;
        ds->targets += ex->targets;
        if (ex->length > ds->longest)
            ds->longest = ex->length;
    }
}

static enum lt_status check_result(struct loader *l, struct lt_error *err)
{
    struct lt_dataset *ds = l->ds;

    count_totals(ds);
    if (ds->rows == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: there are no rows in the file", l->path);
    if (ds->count == 0)
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: none of the %lld rows has anything to train within its first %d tokens (the longest has "
            "%d); raise the maximum length or check the labels",
            l->path, (long long)ds->rows, (int)l->opt->max_length, (int)ds->longest_before);
    return LT_OK;
}

enum lt_status lt_dataset_load(struct lt_dataset *ds, const char *path, const struct lt_data_tokenizer *tok,
                               const struct lt_dataset_options *opt, struct lt_error *err)
{
    struct loader l = {.ds = ds, .path = path, .tok = tok, .opt = opt};
    struct lt_file_map map;

    *ds = (struct lt_dataset){0};
    if (opt->max_length < 2)
        return lt_fail(err, LT_ERR_INVALID,
                       "a maximum length of %d tokens leaves nothing to train; at least 2 needed",
                       (int)opt->max_length);
    LT_TRY(lt_file_map_open(&map, path, err));
    lt_strbuf_init(&l.where);
    enum lt_status status = load_rows(&l, &map, err);
    if (status == LT_OK)
        status = check_result(&l, err);
    lt_strbuf_deinit(&l.where);
    lt_file_map_close(&map);
    if (status != LT_OK)
        lt_dataset_deinit(ds);
    return status;
}

void lt_dataset_deinit(struct lt_dataset *ds)
{
    for (size_t i = 0; i < ds->count; i++)
        lt_example_deinit(&ds->examples[i]);
    lt_free(ds->examples);
    *ds = (struct lt_dataset){0};
}

/* chosen[i] for the first `moved` indices of the seeded permutation. */
static enum lt_status choose_rows(bool *chosen, size_t count, size_t moved, uint64_t seed,
                                  struct lt_error *err)
{
    struct lt_mt19937 mt;
    int64_t *perm = lt_alloc_array(count, sizeof *perm);

    if (perm == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the order of %zu rows", count);
    lt_mt19937_seed(&mt, seed);
    lt_mt19937_randperm(&mt, perm, (int64_t)count);
    for (size_t i = 0; i < moved; i++)
        chosen[perm[i]] = true;
    lt_free(perm);
    return LT_OK;
}

enum lt_status lt_dataset_split(struct lt_dataset *ds, struct lt_dataset *val, double share, uint64_t seed,
                                struct lt_error *err)
{
    *val = (struct lt_dataset){0};
    if (!(share > 0 && share < 1))
        return lt_fail(err, LT_ERR_INVALID, "the share of validation rows must be between 0 and 1, not %g",
                       share);
    if (ds->count < 2)
        return lt_fail(err, LT_ERR_INVALID, "a validation share needs at least 2 rows, there is %zu",
                       ds->count);

    size_t moved = (size_t)ceil((double)ds->count * share);
    if (moved >= ds->count)
        moved = ds->count - 1;
    bool *chosen = lt_alloc_zero(ds->count, sizeof *chosen);
    val->examples = lt_alloc_array(moved, sizeof *val->examples);
    enum lt_status status;
    if (chosen == NULL || val->examples == NULL)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory for %zu validation rows", moved);
    else
        status = choose_rows(chosen, ds->count, moved, seed, err);
    if (status != LT_OK) {
        lt_dataset_deinit(val);
        goto done;
    }
    size_t kept = 0;
    for (size_t i = 0; i < ds->count; i++) {
        if (chosen[i])
            val->examples[val->count++] = ds->examples[i];
        else
            ds->examples[kept++] = ds->examples[i];
    }
    ds->count = kept;
    count_totals(ds);
    count_totals(val);
    val->rows = (int64_t)val->count;
    val->longest_before = val->longest;
done:
    lt_free(chosen);
    return status;
}
