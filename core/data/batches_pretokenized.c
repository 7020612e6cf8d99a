#include <string.h>

#include "core/base/alloc.h"
#include "core/data/data_internal.h"
#include "core/io/safetensors.h"

/* Kept tokens of all rows, one after the other; a sequence is a row's kept tokens or one segment. */
struct kept_sequence {
    int64_t row;
    size_t begin; /* first token */
    int32_t length, first_column;
};

struct pretokenized {
    int64_t columns;
    int32_t *ids, *labels, *token_columns; /* labels of tokens that are no target are -100 */
    size_t tokens;
    struct kept_sequence *sequences;
    size_t sequence_count, sequence_cap;
    size_t *row_sequences; /* [rows + 1]: a row's first sequence */
};

/* The tensors of the file while it is read. */
struct input {
    const char *path;
    struct lt_safetensors st;
    const struct lt_st_tensor *ids, *labels, *mask, *segments;
    int64_t micro_batches; /* 0: two-dimensional */
    int64_t rows, columns; /* rows over all micro-batches */
    int32_t vocab_size;
};

static void destroy_source(void *source)
{
    struct pretokenized *p = source;

    lt_free(p->ids);
    lt_free(p->labels);
    lt_free(p->token_columns);
    lt_free(p->sequences);
    lt_free(p->row_sequences);
    lt_free(p);
}

static void append_row(const void *source, int64_t row, struct lt_batch *b)
{
    const struct pretokenized *p = source;

    for (size_t i = p->row_sequences[row]; i < p->row_sequences[row + 1]; i++) {
        const struct kept_sequence *kept = &p->sequences[i];
        const struct lt_sequence sequence = {.ids = p->ids + kept->begin,
                                             .labels = p->labels + kept->begin,
                                             .columns = p->token_columns + kept->begin,
                                             .length = kept->length,
                                             .first_column = kept->first_column,
                                             .row = row};
        int32_t first = lt_batch_append(b, &sequence);
        for (int32_t k = 0; k < kept->length; k++)
            b->source[first + k] = row * p->columns + sequence.columns[k];
    }
}

/* ---- the file's shape ---- */

static enum lt_status find_tensors(struct input *in, struct lt_error *err)
{
    struct lt_json_excerpt name;

    for (size_t i = 0; i < in->st.count; i++) {
        const struct lt_st_tensor *t = &in->st.tensors[i];
        if (strcmp(t->name, "input_ids") == 0)
            in->ids = t;
        else if (strcmp(t->name, "labels") == 0)
            in->labels = t;
        else if (strcmp(t->name, "attention_mask") == 0)
            in->mask = t;
        else if (strcmp(t->name, "segment_ids") == 0)
            in->segments = t;
        else
            return lt_fail(
                err, LT_ERR_UNSUPPORTED,
                "%s: the tensor %s is not read; give input_ids, labels and either attention_mask or "
                "segment_ids",
                in->path, lt_json_excerpt(&name, t->name));
    }
    if (in->ids == NULL || in->labels == NULL)
        return lt_fail(err, LT_ERR_NOT_FOUND, "%s: there is no tensor %s", in->path,
                       in->ids == NULL ? "input_ids" : "labels");
    if (in->mask != NULL && in->segments != NULL)
        return lt_fail(err, LT_ERR_INVALID,
                       "%s: has attention_mask and segment_ids; keep one (segment 0 is padding)", in->path);
    return LT_OK;
}

static enum lt_status check_tensor(const struct input *in, const struct lt_st_tensor *t, struct lt_error *err)
{
    if (t == NULL)
        return LT_OK;
    if (t->dtype != LT_I64 && t->dtype != LT_I32)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be I64 or I32, found %s", in->path, t->name,
                       lt_dtype_name(t->dtype));
    if (t->ndim != in->ids->ndim ||
        memcmp(t->shape, in->ids->shape, (size_t)t->ndim * sizeof t->shape[0]) != 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s and input_ids must have the same shape", in->path,
                       t->name);
    return LT_OK;
}

static enum lt_status check_shapes(struct input *in, struct lt_error *err)
{
    const struct lt_st_tensor *ids = in->ids;

    if (ids->ndim != 2 && ids->ndim != 3)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: input_ids has %d dimensions; [rows, T] or [micro-batches, rows, T] needed",
                       in->path, ids->ndim);
    LT_TRY(check_tensor(in, ids, err));
    LT_TRY(check_tensor(in, in->labels, err));
    LT_TRY(check_tensor(in, in->mask, err));
    LT_TRY(check_tensor(in, in->segments, err));
    if (ids->elements == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: input_ids is empty", in->path);
    in->columns = ids->shape[ids->ndim - 1];
    if (in->columns > INT32_MAX)
        return lt_fail(err, LT_ERR_FORMAT, "%s: rows of %lld tokens are too long", in->path,
                       (long long)in->columns);
    in->rows = (int64_t)(ids->elements / (uint64_t)in->columns);
    in->micro_batches = ids->ndim == 3 ? ids->shape[0] : 0;
    return LT_OK;
}

/* ---- its values ---- */

static int64_t value_at(const struct input *in, const struct lt_st_tensor *t, int64_t row, int64_t column)
{
    const unsigned char *data = lt_safetensors_data(&in->st, t);
    size_t at = (size_t)(row * in->columns + column);
    int64_t wide;
    int32_t narrow;

    if (t->dtype == LT_I64) {
        memcpy(&wide, data + at * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, data + at * sizeof narrow, sizeof narrow);
    return narrow;
}

static enum lt_status bad_value(const struct input *in, const struct lt_st_tensor *t, int64_t row,
                                int64_t column, int64_t value, const char *wanted, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: %s at row %lld, column %lld is %lld; %s", in->path, t->name,
                   (long long)row, (long long)column, (long long)value, wanted);
}

static enum lt_status bad_token(const struct input *in, const struct lt_st_tensor *t, int64_t row,
                                int64_t column, int64_t value, struct lt_error *err)
{
    char wanted[96];

    lt_snprintf(wanted, sizeof wanted, "a token below %d%s needed", (int)in->vocab_size,
                t == in->labels ? " or -100" : "");
    return bad_value(in, t, row, column, value, wanted, err);
}

/* The segment of a column: 0 where nothing is kept, 1 for all of a row without segment_ids. */
static enum lt_status read_segment(const struct input *in, int64_t row, int64_t column, int64_t *segment,
                                   struct lt_error *err)
{
    *segment = 1;
    if (in->mask != NULL) {
        *segment = value_at(in, in->mask, row, column);
        if (*segment != 0 && *segment != 1)
            return bad_value(in, in->mask, row, column, *segment, "0 or 1 needed", err);
    } else if (in->segments != NULL) {
        *segment = value_at(in, in->segments, row, column);
        if (*segment < 0)
            return bad_value(in, in->segments, row, column, *segment, "0 (padding) or more needed", err);
    }
    return LT_OK;
}

static enum lt_status begin_sequence(struct pretokenized *p, int64_t row, int32_t first_column,
                                     const char *path, struct lt_error *err)
{
    void *items = p->sequences;

    if (!lt_reserve(&items, &p->sequence_cap, p->sequence_count, sizeof *p->sequences))
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for its rows", path);
    p->sequences = items;
    p->sequences[p->sequence_count++] = (struct kept_sequence){row, p->tokens, 0, first_column};
    return LT_OK;
}

/* Reads a row; *tokens and *targets count what is kept. */
static enum lt_status read_row(struct pretokenized *p, const struct input *in, int64_t row, int32_t *tokens,
                               int32_t *targets, struct lt_error *err)
{
    int64_t before = 0, highest = 0, segment; /* of the column before, and of all before it */

    for (int64_t column = 0; column < in->columns; column++, before = segment) {
        int64_t id = value_at(in, in->ids, row, column), label = value_at(in, in->labels, row, column);
        if (id < 0 || id >= in->vocab_size)
            return bad_token(in, in->ids, row, column, id, err);
        if (label != LT_LABEL_IGNORE && (label < 0 || label >= in->vocab_size))
            return bad_token(in, in->labels, row, column, label, err);
        LT_TRY(read_segment(in, row, column, &segment, err));
        if (segment == 0)
            continue;
        if (in->segments != NULL && segment != before && segment <= highest)
            return bad_value(in, in->segments, row, column, segment,
                             "a segment must be contiguous and its id above those before it in the row", err);
        if (segment != highest) {
            int32_t first_column = in->segments != NULL ? (int32_t)column : 0;
            LT_TRY(begin_sequence(p, row, first_column, in->path, err));
            highest = segment;
        }
        p->ids[p->tokens] = (int32_t)id;
        p->labels[p->tokens] = segment == before ? (int32_t)label : LT_LABEL_IGNORE;
        p->token_columns[p->tokens] = (int32_t)column;
        *targets += p->labels[p->tokens] != LT_LABEL_IGNORE;
        ++*tokens;
        p->tokens++;
        p->sequences[p->sequence_count - 1].length++;
    }
    p->row_sequences[row + 1] = p->sequence_count;
    return LT_OK;
}

static enum lt_status create_source(struct pretokenized **out, const struct input *in, struct lt_error *err)
{
    size_t tokens = (size_t)in->ids->elements; /* no more than the file has bytes */
    struct pretokenized *p = lt_alloc_zero(1, sizeof *p);

    *out = p;
    if (p != NULL) {
        p->columns = in->columns;
        p->ids = lt_alloc_array(tokens, sizeof *p->ids);
        p->labels = lt_alloc_array(tokens, sizeof *p->labels);
        p->token_columns = lt_alloc_array(tokens, sizeof *p->token_columns);
        p->row_sequences = lt_alloc_zero((size_t)in->rows + 1, sizeof *p->row_sequences);
    }
    if (p == NULL || p->ids == NULL || p->labels == NULL || p->token_columns == NULL ||
        p->row_sequences == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for %zu tokens", in->path, tokens);
    return LT_OK;
}

static enum lt_status read_file(struct lt_batches **out, const struct input *in,
                                const struct lt_batches_options *opt, struct lt_error *err)
{
    struct lt_batches_options in_order = *opt;
    int64_t per_batch = opt->batch_size == 0 ? in->rows : opt->batch_size;
    struct pretokenized *p = NULL;

    in_order.shuffle = false;
    if (in->micro_batches > 0)
        per_batch = in->rows / in->micro_batches;
    LT_TRY(lt_batches_create(out, in->rows, per_batch, &in_order, err));
    struct lt_batches *bs = *out;
    enum lt_status status = create_source(&p, in, err);
    bs->source = p;
    bs->append = append_row;
    bs->destroy = destroy_source;
    bs->rows = in->rows;
    bs->columns = in->columns;
    for (int64_t row = 0; row < in->rows && status == LT_OK; row++)
        status = read_row(p, in, row, &bs->unit_tokens[row], &bs->unit_targets[row], err);
    if (status != LT_OK) {
        lt_batches_destroy(bs);
        *out = NULL;
    }
    return status;
}

enum lt_status lt_batches_from_pretokenized(struct lt_batches **out, const char *path, int32_t vocab_size,
                                            const struct lt_batches_options *opt, struct lt_error *err)
{
    struct input in = {.path = path, .vocab_size = vocab_size};

    *out = NULL;
    LT_TRY(lt_safetensors_open(&in.st, path, err));
    enum lt_status status = find_tensors(&in, err);
    if (status == LT_OK)
        status = check_shapes(&in, err);
    if (status == LT_OK)
        status = read_file(out, &in, opt, err);
    lt_safetensors_close(&in.st);
    return status;
}
