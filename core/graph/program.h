/* A program: a graph with every intermediate placed. */
#ifndef LT_GRAPH_PROGRAM_H
#define LT_GRAPH_PROGRAM_H

#include "core/graph/graph.h"

/* Row capacities that the placement assumes. */
struct lt_capacity {
    int64_t tokens, labels, cache_rows;
};

struct lt_program {
    struct lt_graph graph;
    struct lt_capacity capacity;
    size_t arena_bytes, tape_bytes;
};

enum { LT_VALUE_ALIGN = 64 };

int64_t lt_value_capacity_rows(const struct lt_value *v, const struct lt_capacity *cap);
size_t lt_value_bytes(const struct lt_value *v,
                      const struct lt_capacity *cap); /* rounded up to LT_VALUE_ALIGN */

/* Lays out the tape: an offset for every LT_STORE_TAPE value of fwd, copied to the values of bwd that were
 * made from them (bwd's tape values carry the forward value's number in ext_index).  bwd may be NULL. */
enum lt_status lt_tape_layout(struct lt_graph *fwd, struct lt_graph *bwd, const struct lt_capacity *cap,
                              size_t *bytes, struct lt_error *err) LT_MUST_USE;
/* Merges in-place pairs, computes lifetimes and gives every arena value an offset (largest first, lowest gap);
 * moves the graph into the program. */
enum lt_status lt_program_plan(struct lt_program *p, struct lt_graph *g, const struct lt_capacity *cap,
                               struct lt_error *err) LT_MUST_USE;
void lt_program_deinit(struct lt_program *p);

#endif
