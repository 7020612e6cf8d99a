/* Shared by the files of this folder: rows of a file, rows to examples, sources of micro-batches. */
#ifndef LT_DATA_DATA_INTERNAL_H
#define LT_DATA_DATA_INTERNAL_H

#include "core/data/batch.h"
#include "core/data/dataset.h"
#include "core/io/json.h"

/* ---- row_reader.c: where one row ends and the next begins ---- */

struct lt_row_reader {
    const char *path; /* borrowed, for errors */
    const char *data; /* the whole file, borrowed */
    size_t size, pos;
    int64_t line; /* of pos, from 1 */
    bool array;   /* a JSON array of rows instead of one row a line */
    bool any;     /* a row was returned */
};

struct lt_row_text {
    const char *text; /* NULL: no more rows; else neither empty nor blank, in valid UTF-8 */
    size_t size;
    int64_t line; /* where it begins */
};

void lt_row_reader_init(struct lt_row_reader *r, const char *path, const void *data, size_t size);
enum lt_status lt_row_reader_next(struct lt_row_reader *r, struct lt_row_text *row, struct lt_error *err)
    LT_MUST_USE;

/* ---- rows.c: what a row says ---- */

enum lt_row_kind { LT_ROW_IDS, LT_ROW_CHAT, LT_ROW_COMPLETION, LT_ROW_ALPACA, LT_ROW_TEXT };

struct lt_row {
    enum lt_row_kind kind;
    const char *prompt, *completion;  /* COMPLETION, ALPACA */
    const char *text;                 /* TEXT */
    struct lt_data_message *messages; /* CHAT */
    size_t message_count;
    int32_t *ids, *labels; /* IDS; labels NULL when the row has none */
    size_t id_count;
    json_t *json;        /* owns the strings above */
    char *alpaca_prompt; /* owns prompt of an ALPACA row */
};

const char *lt_row_kind_name(enum lt_row_kind kind);
/* `where` is "<file>:<line>". */
enum lt_status lt_row_parse(struct lt_row *row, const struct lt_row_text *text, const char *where,
                            enum lt_alpaca_form form, int32_t vocab_size, struct lt_error *err) LT_MUST_USE;
void lt_row_deinit(struct lt_row *row);

/* ---- masking.c: tokens and labels ---- */

/* The row's first max_length tokens with their labels; *length_before: tokens before cutting.  An example
 * without a target is left empty (ids NULL).  Texts are not filled. */
enum lt_status lt_example_from_row(struct lt_example *ex, size_t *length_before, const struct lt_row *row,
                                   const struct lt_data_tokenizer *tok, const struct lt_dataset_options *opt,
                                   const char *where, struct lt_error *err) LT_MUST_USE;
void lt_example_deinit(struct lt_example *ex);

/* ---- batch.c: order and slicing over units (rows or bins) of any source ---- */

struct lt_batches {
    int64_t units, per_batch, batches;
    int32_t accumulation;
    bool shuffle;
    uint64_t seed;
    int64_t rows, columns;               /* of a pre-tokenized file */
    int32_t *unit_tokens, *unit_targets; /* [units] */
    int64_t *perm;                       /* [units] when shuffling */
    int64_t perm_epoch;                  /* -1: perm is not filled */
    void *source;                        /* owned */
    /* Appends the unit's tokens and labels to a batch that has room for them. */
    void (*append)(const void *source, int64_t unit, struct lt_batch *b);
    void (*destroy)(void *source);
};

/* Checks the options and allocates for `units` units of per_batch a micro-batch; unit_tokens and
 * unit_targets are zero.  Takes nothing. */
enum lt_status lt_batches_create(struct lt_batches **out, int64_t units, int64_t per_batch,
                                 const struct lt_batches_options *opt, struct lt_error *err) LT_MUST_USE;

struct lt_sequence {
    const int32_t *ids, *labels; /* [length], unshifted */
    const int32_t *columns;      /* place in the source row; NULL: 0, 1, 2 … */
    int32_t length;
    int32_t first_column; /* where positions count from */
    int64_t row;
};

/* Appends one sequence without `source`; returns the index of its first token. */
int32_t lt_batch_append(struct lt_batch *b, const struct lt_sequence *s);

/* ---- packing.c ---- */

struct lt_bins {
    size_t count;
    size_t *begin; /* [count + 1]: bin k holds rows[begin[k]] … rows[begin[k+1] - 1] */
    size_t *rows;
};

/* Best-fit-decreasing over consecutive groups of 1000 rows; lengths are 1 … max_length. */
enum lt_status lt_bins_init(struct lt_bins *bins, const int32_t *lengths, size_t n, int32_t max_length,
                            struct lt_error *err) LT_MUST_USE;
void lt_bins_deinit(struct lt_bins *bins);

#endif
