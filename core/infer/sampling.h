/* Choosing the next token from logits, with the rules and the order of transformers' logits processors:
 * repetition penalty, temperature, top-k, top-p, draw. */
#ifndef LT_INFER_SAMPLING_H
#define LT_INFER_SAMPLING_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

struct lt_sampling {
    double temperature;        /* 0: greedy, the highest score, the lowest id on ties */
    double top_p;              /* in (0, 1]; 1: off */
    int32_t top_k;             /* 0: off */
    double repetition_penalty; /* above 0; 1: off */
    uint64_t seed;
};

/* Temperature 0, everything else off. */
struct lt_sampling lt_sampling_greedy(void);
/* LT_ERR_INVALID naming the value that is out of its range. */
enum lt_status lt_sampling_check(const struct lt_sampling *s, struct lt_error *err) LT_MUST_USE;

/* Options and the scratch of one sequence; nothing is allocated after init. */
struct lt_sampler {
    struct lt_sampling options;
    int32_t vocab;
    unsigned char *seen; /* [vocab] 1 for ids of the context; NULL without a penalty */
    float *scores;       /* [vocab] penalized logits; NULL without a penalty */
    int32_t *heap;       /* [vocab] NULL without top-k and top-p */
    double *weights;     /* [vocab] NULL when greedy */
};

enum lt_status lt_sampler_init(struct lt_sampler *s, const struct lt_sampling *options, int32_t vocab,
                               struct lt_error *err) LT_MUST_USE;
void lt_sampler_deinit(struct lt_sampler *s); /* zeroed ones are accepted */
/* The id is part of the context from now on (prompt and answer both count). */
void lt_sampler_see(struct lt_sampler *s, int32_t id);

/* Picks an id from logits[vocab].
 *   penalty       scores of seen ids, once each: divided by it when >= 0, multiplied when negative
 *   temperature   scores / temperature
 *   top-k         scores below the k-th largest leave; ties with it stay
 *   top-p         after softmax over what is left, from the most probable down (the lower id first on ties):
 *                 a token stays while the ones before it sum up to less than top_p, so at least one stays
 *   draw          a uniform number of 53 bits, a pure function of (seed, draw), taken along the tokens that
 *                 are left in that same order (ascending ids when neither top-k nor top-p is on)
 * All sums are in f64.  LT_ERR_NUMERIC when a logit is NaN or +Inf, or all are -Inf. */
enum lt_status lt_sampler_pick(struct lt_sampler *s, const float *logits, uint64_t draw, int32_t *id,
                               struct lt_error *err) LT_MUST_USE;

/* Natural logarithm of softmax(logits)[id]: what the model itself says, before any of the above. */
double lt_log_probability(const float *logits, int32_t vocab, int32_t id);

#endif
