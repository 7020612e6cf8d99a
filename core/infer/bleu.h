/* Corpus BLEU as sacreBLEU computes it (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp): Papineni et al. 2002 over
 * the tokens of mteval-v13a, with exponential smoothing of orders that have no match. */
#ifndef LT_INFER_BLEU_H
#define LT_INFER_BLEU_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/strbuf.h"

enum { LT_BLEU_ORDER = 4 };

/* The corpus so far; starts zeroed. */
struct lt_bleu {
    int64_t correct[LT_BLEU_ORDER], total[LT_BLEU_ORDER];
    int64_t system_length, reference_length; /* tokens */
};

/* Adds one sentence pair (UTF-8).  A failure leaves *b unchanged. */
enum lt_status lt_bleu_add(struct lt_bleu *b, const char *hypothesis, const char *reference,
                           struct lt_error *err) LT_MUST_USE;
double lt_bleu_score(const struct lt_bleu *b); /* 0 … 100 */
/* 1 when the answers are at least as long as the references. */
double lt_bleu_brevity_penalty(const struct lt_bleu *b);

/* Appends the 13a tokens of text, each followed by '\n'. */
enum lt_status lt_bleu_tokenize(struct lt_strbuf *tokens, const char *text, struct lt_error *err) LT_MUST_USE;

#endif
