/* Backward rules: from a forward graph to a forward program and a backward program that share a tape. */
#ifndef LT_GRAPH_BACKWARD_H
#define LT_GRAPH_BACKWARD_H

#include "core/graph/graph.h"

/* What the forward pass of a segment keeps for its backward pass. */
enum lt_recompute {
    LT_RECOMPUTE_NONE,      /* everything the backward pass reads */
    LT_RECOMPUTE_SELECTIVE, /* results of matrix products and attention; the cheap ops run again */
    LT_RECOMPUTE_FULL       /* only the segment's input: the whole segment runs again */
};

/* Which gradients a segment needs, besides those of its trainable externs. */
struct lt_backward_request {
    enum lt_recompute recompute;
    bool need_din; /* gradient of LT_HIDDEN_IN */
    /* Trainable base tensors of the segment: bit per LT_EXT_TENSOR index (adapters always are). */
    const bool *trainable;
    int tensor_count;
};

/* fwd: on entry the forward graph; on return the values kept are LT_STORE_TAPE.  bwd: an initialised empty
 * graph; gets the recomputation and the gradient ops, reading tape values at the same tape offsets, the
 * incoming gradient LT_HIDDEN_DOUT and writing LT_HIDDEN_DIN (when asked) and the gradient externs.
 * A graph with CROSS_ENTROPY (the head) becomes a single program: its gradient ops are appended to fwd
 * itself, bwd stays empty. */
enum lt_status lt_graph_backward(struct lt_graph *fwd, struct lt_graph *bwd,
                                 const struct lt_backward_request *req, struct lt_error *err) LT_MUST_USE;

#endif
