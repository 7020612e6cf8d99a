/* Instruction data: rows of a JSONL (or JSON array) file become token ids with labels.
 *
 * Row kinds, recognised by their keys (a key with the value null counts as absent), one kind a file (a
 * mixture is an error naming both lines).  Other keys are ignored; of several kinds that fit, the first is
 * taken:
 *   token ids   {"input_ids": […], "labels": […] (optional: else every token is trained)}
 *   chat        {"messages": [{"role", "content"}, …]}   every assistant turn is trained
 *   completion  {"prompt": …, "completion": …}
 *   Alpaca      {"instruction": …, "input": … (optional), "output": …}
 *   text        {"text": …}                              every token is trained
 * Keys that would change what is trained and are not read are refused: completion_mask, assistant_masks
 * and an attention_mask with zeros beside input_ids, tools beside messages.
 * Alpaca prompt: "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n", without the
 * Input part when it is empty or absent; the published long form (two header sentences, no newline after
 * "Response:") by LT_ALPACA_LONG.
 *
 * Labels follow TRL 1.16: prompt and prompt+completion are tokenized separately and the label mask starts
 * at the end of their common prefix; EOS is appended to the completion (or text) unless it already ends
 * with it; BOS as the tokenizer adds it, once.  Labels are ids or -100, unshifted.
 * Chat rows are rendered with their special tokens and tokenized without adding any.  Of a trained part
 * [begin, end) of the rendered text, the trained tokens are those from the end of the common prefix of
 * tokens(text[0, begin]) and tokens(text) to the end of the common prefix of tokens(text[0, end]) and
 * tokens(text): the rule for completions, applied at both ends.  A token across `begin` is trained, one
 * across `end` is not. */
#ifndef LT_DATA_DATASET_H
#define LT_DATA_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/strbuf.h"

enum { LT_LABEL_IGNORE = -100 };

struct lt_data_message {
    const char *role, *content;
};

/* What the data code needs of a tokenizer; models/ provides it (see tools). */
struct lt_data_tokenizer {
    void *user;
    const char *eos_token; /* spelling; NULL: none is appended */
    int32_t vocab_size;    /* of the model: ids must be below it */
    /* *ids: lt_free.  text is valid UTF-8. */
    enum lt_status (*encode)(void *user, const char *text, size_t len, bool add_special, int32_t **ids,
                             size_t *count, struct lt_error *err);
    /* Appends a rendered conversation to text; *spans (lt_free) are span_count pairs of byte offsets,
     * begin and end of each trained part, ascending.  NULL when the model has no chat template: chat rows
     * are then an error. */
    enum lt_status (*render_chat)(void *user, const struct lt_data_message *messages, size_t n,
                                  struct lt_strbuf *text, size_t **spans, size_t *span_count,
                                  struct lt_error *err);
};

enum lt_alpaca_form { LT_ALPACA_SHORT, LT_ALPACA_LONG };

struct lt_dataset_options {
    int32_t max_length;   /* longer rows are cut to the first max_length tokens; at least 2 */
    bool train_on_prompt; /* all tokens are labels (--train-on-inputs); labels given as ids are kept */
    bool keep_text;       /* keep prompt and completion texts (evaluation) */
    enum lt_alpaca_form alpaca;
};

/* One training example. */
struct lt_example {
    int32_t *ids, *labels; /* [length]; one block, owned through ids */
    int32_t length;
    int32_t targets; /* labels[1..] that are not -100; at least 1 */
    /* Of completion and Alpaca rows with keep_text, uncut and without EOS; else NULL.  Owned. */
    char *prompt, *completion;
};

struct lt_dataset {
    struct lt_example *examples;
    size_t count;
    int64_t rows;      /* rows in the file */
    int64_t truncated; /* rows cut to max_length but kept */
    int64_t dropped;   /* rows without any target (after cutting) */
    int64_t tokens, targets;
    int32_t longest;        /* tokens of the longest example */
    int32_t longest_before; /* of the longest row before cutting */
};

/* Reads and tokenizes.  Byte order mark, CRLF and blank lines are accepted.  A bad row is one error with
 * file and line; an empty file, and a file where no row has a target, are errors too.
 * LT_ERR_CANCELLED after lt_cancel_request(). */
enum lt_status lt_dataset_load(struct lt_dataset *ds, const char *path, const struct lt_data_tokenizer *tok,
                               const struct lt_dataset_options *opt, struct lt_error *err) LT_MUST_USE;
void lt_dataset_deinit(struct lt_dataset *ds); /* zeroed ones are accepted */
/* Moves a share of the rows (0 < share < 1; rounded up, at least 1, at most count-1) into *val: the first
 * ones of torch.randperm(count) seeded with seed; both keep file order.  tokens, targets and longest are
 * counted again; rows, truncated, dropped and longest_before stay those of the file in *ds, and in *val are
 * its count, 0, 0 and longest.  On failure *ds is unchanged and *val empty. */
enum lt_status lt_dataset_split(struct lt_dataset *ds, struct lt_dataset *val, double share, uint64_t seed,
                                struct lt_error *err) LT_MUST_USE;
/* Appends the Alpaca prompt alone, for generation.  input may be NULL or empty. */
enum lt_status lt_alpaca_prompt(struct lt_strbuf *out, enum lt_alpaca_form form, const char *instruction,
                                const char *input, struct lt_error *err) LT_MUST_USE;

#endif
