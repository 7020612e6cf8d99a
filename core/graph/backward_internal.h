/* State shared by the two halves of the backward pass: gradient rules and recomputation. */
#ifndef LT_GRAPH_BACKWARD_INTERNAL_H
#define LT_GRAPH_BACKWARD_INTERNAL_H

#include "core/graph/backward.h"

struct lt_backward {
    struct lt_graph *fwd, *bwd; /* the same graph for a head */
    const struct lt_backward_request *req;
    size_t fwd_values, fwd_nodes; /* counts before anything was appended */
    bool *needs;                  /* [fwd_values] a trainable extern or a wanted input is upstream */
    int *grad;                    /* [fwd_values] bwd value holding the gradient, or LT_NO_VALUE */
    int *mirror;                  /* [fwd_values] bwd value standing for the forward value, or LT_NO_VALUE */
    int *producer;                /* [fwd_values] forward node, or -1 */
};

/* Emits the gradient ops in reverse order. */
enum lt_status lt_backward_emit(struct lt_backward *b, struct lt_error *err) LT_MUST_USE;

/* The bwd value that stands for forward value v; its origin is settled by lt_backward_recompute(). */
int lt_backward_use(struct lt_backward *b, int v);

/* Decides what is kept on the tape and inserts the recomputation before the first use of each value. */
enum lt_status lt_backward_recompute(struct lt_backward *b, struct lt_error *err) LT_MUST_USE;

#endif
