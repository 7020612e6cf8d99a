/* Learning-rate schedules of transformers (optimization.py): the base rate times a multiplier that depends on
 * the number of completed updates. */
#ifndef LT_TRAIN_SCHEDULE_H
#define LT_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "core/base/status.h"

enum lt_schedule_kind {
    LT_SCHEDULE_CONSTANT,
    LT_SCHEDULE_CONSTANT_WITH_WARMUP,
    LT_SCHEDULE_LINEAR,
    LT_SCHEDULE_COSINE,
    LT_SCHEDULE_COSINE_WITH_RESTARTS,
    LT_SCHEDULE_POLYNOMIAL,
    LT_SCHEDULE_INVERSE_SQRT,
    LT_SCHEDULE_COSINE_WITH_MIN_LR,
    LT_SCHEDULE_KIND_COUNT
};

struct lt_schedule {
    enum lt_schedule_kind kind;
    int64_t warmup_steps, total_steps;
    double base_lr;
    double num_cycles;  /* 0: the kind's default (0.5 cosine, 1 restarts) */
    double power;       /* polynomial; 0: 1 */
    double lr_end;      /* polynomial; 0: 1e-7 */
    double min_lr_rate; /* cosine_with_min_lr */
};

/* "linear", "cosine", … as --lr-scheduler-type spells them. */
enum lt_status lt_schedule_kind_parse(enum lt_schedule_kind *kind, const char *name, struct lt_error *err)
    LT_MUST_USE;
const char *lt_schedule_kind_name(enum lt_schedule_kind kind);

/* LT_ERR_INVALID for numbers that make no schedule: a negative or non-finite rate, negative counts, a
 * polynomial whose end is not below its start, a minimum above 1.  lt_schedule_lr() needs this to have passed. */
enum lt_status lt_schedule_check(const struct lt_schedule *s, struct lt_error *err) LT_MUST_USE;
/* The rate for update t+1 (t = completed updates, >= 0). */
double lt_schedule_lr(const struct lt_schedule *s, int64_t t);

#endif
