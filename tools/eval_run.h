/* What lora-eval measures: losses over all batches, BLEU of greedy answers, and the logits themselves. */
#ifndef LT_TOOLS_EVAL_RUN_H
#define LT_TOOLS_EVAL_RUN_H

#include "core/data/batch.h"
#include "core/infer/bleu.h"
#include "tools/cli_session.h"

struct eval_result {
    bool done, has_bleu;
    int64_t targets, examples;
    double loss;      /* mean cross entropy of all targets; its exp is the perplexity */
    double eval_loss; /* as transformers: mean over examples of the loss of their batch */
    double accuracy;  /* share of targets that are the most probable token */
    double seconds;
    struct lt_bleu bleu;
    int64_t answers, left_out; /* rows with an answer; rows whose prompt leaves no room for one */
    int64_t answer_tokens;
    double answer_seconds;
};

/* Both measure the session's model as it is now: with the adapter once cli_session_adapter() was called.
 * `what` names it in the progress line.  LT_ERR_CANCELLED after a signal. */

/* sequence: tokens of the longest one.  dump: a safetensors file to write, with `logits` F32 [rows, T, vocab]
 * of a pre-tokenized source (zeros where masked) and `loss`; or NULL. */
enum lt_status eval_losses(struct cli_session *s, struct lt_batches *batches, int32_t sequence,
                           const char *what, const char *dump, struct eval_result *res, struct lt_error *err)
    LT_MUST_USE;
/* Rows without a prompt and a completion are passed over. */
enum lt_status eval_answers(struct cli_session *s, const struct lt_dataset *ds, int32_t max_new_tokens,
                            const char *what, struct eval_result *res, struct lt_error *err) LT_MUST_USE;

#endif
