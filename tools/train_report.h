/* What lora-train shows: the summary before the run, a progress line on a terminal, plain lines elsewhere. */
#ifndef LT_TOOLS_TRAIN_REPORT_H
#define LT_TOOLS_TRAIN_REPORT_H

#include "core/train/trainer.h"

struct train_summary {
    const struct lt_model *model;
    const struct lt_backend *backend;
    const struct lt_params *params;
    const char *method;  /* "LoRA r=16 alpha=32, 4-bit NF4 base" */
    const char *where;   /* "20 of 32 layers …", or NULL: all is on the backend */
    const char *memory;  /* "1.1 GiB of 8 GiB (…): …" */
    int64_t packed_rows; /* rows that were packed into `rows` sequences, or 0 */
    int64_t rows, max_steps, tokens_per_epoch, targets_per_epoch, steps_per_epoch, batch_rows, accumulation;
    bool frozen;    /* the base model is not trained */
    double seconds; /* estimate for the whole run */
};

/* The work of one token in a training step, in floating-point operations: 2 forward and 2 backward per weight of the
 * linear layers, 2 more for trained weights, 2 more for layers computed twice, and attention over `length` keys. */
double train_flops_per_token(const struct lt_model *m, enum lt_recompute recompute, double length);
/* Floating-point operations a second that the backend reaches on a 256 x 2048 x 2048 product in f32 or LT_BF16,
 * measured now (about 0.1 s). */
enum lt_status train_measure_rate(struct lt_backend *be, enum lt_dtype compute, double *flops,
                                  struct lt_error *err) LT_MUST_USE;

void train_print_summary(const struct train_summary *s);
/* Events for the trainer; user is unused. */
struct lt_trainer_events train_report_events(void);

#endif
