/* One training step of a golden model, to be had in several ways that must give the same bits. */
#ifndef LT_TESTS_SUPPORT_TINY_STEP_H
#define LT_TESTS_SUPPORT_TINY_STEP_H

#include "tests/support/tiny_model.h"

enum { TINY_STEP_BATCHES = 5 };

/* The step's micro-batches: of different lengths, one without a label.  Their arrays are the batches'. */
struct tiny_step {
    struct tiny_batch left, right;
    struct lt_tokens batches[TINY_STEP_BATCHES];
};
/* Of a golden model's inputs; adds the capacity they need to *o. */
void tiny_step_open(struct tiny_step *s, struct tiny_options *o);
void tiny_step_close(struct tiny_step *s);

/* The flat gradients of record (free). */
float *tiny_step_grads(struct tiny_model *t);
/* Fails the running test unless loss and gradients of the step are the same bits. */
void tiny_step_check_same(const struct tiny_options *a, const struct tiny_options *b);

#endif
