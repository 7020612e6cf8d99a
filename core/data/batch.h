/* Micro-batches: padding-free flat token lists, their order, packing, and pre-tokenized tensors.
 *
 * A micro-batch is one flat list of tokens; each sequence (row, or packed segment) is contiguous,
 * attends only to itself and has positions of its own.  Padding is never stored or computed. */
#ifndef LT_DATA_BATCH_H
#define LT_DATA_BATCH_H

#include "core/data/dataset.h"

struct lt_batch {
    int32_t n_tokens;
    int32_t *ids;       /* [n_tokens] */
    int32_t *positions; /* within the sequence */
    int32_t *kv_begin;  /* first token of the own sequence */
    int32_t *kv_end;    /* own index + 1 */
    uint32_t *row_key;  /* lt_row_key(): identity of the token for dropout, free of its place in a batch */
    int32_t n_labels;
    int32_t *label_rows; /* [n_labels] ascending: the token whose logits predict … */
    int32_t *labels;     /* … this id (labels already shifted by one); never across two sequences */
    int32_t n_examples;  /* rows or bins taken from the source (eval_loss weights batches by it) */
    int64_t *source;     /* [n_tokens] row * T + column in the pre-tokenized tensor, or the example's index */
    int32_t cap_tokens, cap_labels;
};

/* row * 0x9E3779B1 + column mod 2^32: example index and position in the example for a dataset, packed or
 * not; row of the file (over all micro-batches) and column for a pre-tokenized source. */
static inline uint32_t lt_row_key(int64_t row, int32_t column)
{
    return (uint32_t)row * UINT32_C(0x9E3779B1) + (uint32_t)column;
}

/* Storage for at most these counts; n_* start at 0. */
enum lt_status lt_batch_init(struct lt_batch *b, int32_t cap_tokens, int32_t cap_labels, struct lt_error *err)
    LT_MUST_USE;
void lt_batch_deinit(struct lt_batch *b); /* zeroed ones are accepted */

/* A source of micro-batches: a dataset in some order, or a pre-tokenized file. */
struct lt_batches;

struct lt_batches_options {
    int32_t batch_size;   /* rows (or packed bins) a micro-batch */
    int32_t accumulation; /* micro-batches a step */
    uint64_t seed;        /* epoch e uses torch.randperm(n) seeded with seed + e (transformers' order) */
    bool shuffle;         /* false: file order (evaluation) */
    bool packing;         /* best-fit-decreasing bins of max_length tokens, TRL "bfd" */
    int32_t max_length;   /* bin size when packing; no example may be longer */
    bool drop_last;       /* leave a shorter last micro-batch out; an error when none remains */
};

/* The dataset is borrowed and must outlive the source.  Bins are formed once, from file order, over groups
 * of 1000 rows as TRL does, and then shuffled like rows. */
enum lt_status lt_batches_from_dataset(struct lt_batches **out, const struct lt_dataset *ds,
                                       const struct lt_batches_options *opt, struct lt_error *err)
    LT_MUST_USE;
/* safetensors with input_ids, labels, optional attention_mask or segment_ids, I64 or I32, shaped [rows, T]
 * or [micro-batches, rows, T]; used in file order (shuffle and packing do nothing).  [rows, T]: batch_size
 * rows a micro-batch (0: all rows); [micro-batches, rows, T]: rows a micro-batch.
 * Labels are unshifted (position i+1's label is predicted by i); a label whose own token, or whose
 * predecessor, is masked or in another segment is not a target.  Masked tokens are dropped but keep
 * positions: position = column.  segment_ids: 0 = padding; positions restart at every segment; the columns
 * of a segment are contiguous and every segment has a higher id than those before it in its row.
 * Rows without any token or target are accepted, a file without a target too.
 * Everything is checked and copied here; the file is not needed afterwards. */
enum lt_status lt_batches_from_pretokenized(struct lt_batches **out, const char *path, int32_t vocab_size,
                                            const struct lt_batches_options *opt, struct lt_error *err)
    LT_MUST_USE;
void lt_batches_destroy(struct lt_batches *bs);

/* Micro-batches in one epoch, and optimizer steps an epoch: max(1, ceil(micro-batches / accumulation)). */
int64_t lt_batches_per_epoch(const struct lt_batches *bs);
int64_t lt_batches_steps_per_epoch(const struct lt_batches *bs);
int64_t lt_batches_rows(const struct lt_batches *bs); /* examples or bins */
/* Rows (over all micro-batches) and columns of a pre-tokenized source (0 for a dataset): shape of a logits
 * dump. */
void lt_batches_shape(const struct lt_batches *bs, int64_t *rows, int64_t *columns);
/* The largest n_tokens and n_labels of any micro-batch of epochs [0, epochs): exact plan capacities. */
enum lt_status lt_batches_capacity(struct lt_batches *bs, int64_t epochs, int32_t *tokens, int32_t *labels,
                                   struct lt_error *err) LT_MUST_USE;
/* Total tokens and targets of all rows (with drop_last an epoch may use fewer). */
void lt_batches_totals(const struct lt_batches *bs, int64_t *tokens, int64_t *targets);

/* Fills *b with micro-batch `index` of `epoch`: a pure function of (source, epoch, index), so that resume
 * only needs the two numbers.  The permutation of one epoch is cached; nothing is allocated.
 * LT_ERR_INVALID when there is no such micro-batch or *b is too small. */
enum lt_status lt_batches_get(struct lt_batches *bs, int64_t epoch, int64_t index, struct lt_batch *b,
                              struct lt_error *err) LT_MUST_USE;
/* Targets of that micro-batch without building it (the step's token count for the loss mean). */
enum lt_status lt_batches_targets(struct lt_batches *bs, int64_t epoch, int64_t index, int32_t *targets,
                                  struct lt_error *err) LT_MUST_USE;

/* TRL "bfd" over one group: lengths[n] → bin[n], bins numbered in creation order; *bins.  A length above
 * max_length counts as max_length; a row of length 0 gets bin -1.  In a bin, rows are in the order of
 * (length descending, index ascending). */
enum lt_status lt_pack_bfd(const int32_t *lengths, size_t n, int32_t max_length, int32_t *bin, size_t *bins,
                           struct lt_error *err) LT_MUST_USE;

#endif
