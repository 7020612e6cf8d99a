/* How a run is made to fit into memory: where weights and layer boundaries lie, in which order micro-batches are
 * computed, what is computed twice.  None of it changes a bit of the result. */
#ifndef LT_TOOLS_TRAIN_MEMORY_H
#define LT_TOOLS_TRAIN_MEMORY_H

#include "core/train/trainer.h"
#include "models/model_load.h"

struct train_memory {
    enum lt_residency weights;
    bool layer_major, boundaries_in_file, paged_optimizer;
    enum lt_recompute recompute;
};

/* What the user has set. */
struct train_memory_options {
    const char *limit;               /* NULL: none */
    const char *weights;             /* auto | resident | mmap | stream */
    const char *order;               /* auto | micro-batch | layer */
    const char *boundaries;          /* auto | memory | file */
    enum lt_recompute recompute;     /* when it is not to be chosen */
    bool keep_recompute, keep_optim; /* given: not to be changed */
};

/* What the choice is made from. */
struct train_memory_case {
    struct train_memory_options options;
    bool layer_major_possible;
    bool mappable, streamable; /* can weights be mapped, or some of them streamed? */
    const char *advice;        /* what else could help; where nothing can be streamed, why */
    int64_t accumulation;      /* micro-batches of a step */
    /* Makes the plan of a choice; what the last call made stays.  *mapped: bytes of the weights' lines that are not in
     * the peak. */
    enum lt_status (*plan)(void *user, const struct train_memory *choice, struct lt_plan *plan,
                           uint64_t *mapped, struct lt_error *err);
    void *user;
};

/* "8G", "1.5GiB", "800m", "4096": bytes, the suffixes being powers of 1024. */
enum lt_status train_memory_size(uint64_t *bytes, const char *text, struct lt_error *err) LT_MUST_USE;

/* The plan of the fastest choice with what the user has set.  c: a const struct train_memory_case *. */
enum lt_status train_memory_plan_first(void *c, struct lt_plan *plan, struct lt_error *err) LT_MUST_USE;

/* Tries choices from the fastest to the smallest until a plan fits, and leaves that one made.  What the user set stays
 * as it was set.  With --memory-limit everything may be chosen, and LT_ERR_INVALID says which line is too large when
 * nothing fits; without it the weights' place alone is, and the smallest one taken with a warning.  *text: one line for
 * people about the choice. */
enum lt_status train_memory_choose(const struct train_memory_case *c, struct train_memory *choice,
                                   struct lt_plan *plan, char *text, size_t text_size, struct lt_error *err)
    LT_MUST_USE;

#endif
