/* The options of lora-bench train. */
#ifndef LT_TOOLS_BENCH_TRAIN_OPTIONS_H
#define LT_TOOLS_BENCH_TRAIN_OPTIONS_H

#include "tools/bench_session.h"

struct bench_train_options {
    struct bench_options common;
    int64_t seq, batch, accumulation, steps, warmup, labels, rank;
    bool lora, full;
    const char *checkpointing, *optim, *compute_dtype;
    const char *memory_limit, *weights, *order, *boundaries, *weights_dir;
    bool keep_weights, plan;
};
extern const struct bench_train_options bench_train_defaults;

/* Appends all rows, the shared ones first, to `table` (room for BENCH_TRAIN_OPTION_COUNT); returns how many. */
enum { BENCH_TRAIN_OPTION_COUNT = BENCH_OPTION_COUNT + 19 };
size_t bench_train_option_rows(struct cli_option *table, struct bench_train_options *o);

#endif
