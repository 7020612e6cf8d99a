#include "core/train/schedule.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/checked.h"

static const double PI = 3.14159265358979323846;

static const char *const names[LT_SCHEDULE_KIND_COUNT] = {
    [LT_SCHEDULE_CONSTANT] = "constant",
    [LT_SCHEDULE_CONSTANT_WITH_WARMUP] = "constant_with_warmup",
    [LT_SCHEDULE_LINEAR] = "linear",
    [LT_SCHEDULE_COSINE] = "cosine",
    [LT_SCHEDULE_COSINE_WITH_RESTARTS] = "cosine_with_restarts",
    [LT_SCHEDULE_POLYNOMIAL] = "polynomial",
    [LT_SCHEDULE_INVERSE_SQRT] = "inverse_sqrt",
    [LT_SCHEDULE_COSINE_WITH_MIN_LR] = "cosine_with_min_lr",
};

const char *lt_schedule_kind_name(enum lt_schedule_kind kind)
{
    return names[kind];
}

enum lt_status lt_schedule_kind_parse(enum lt_schedule_kind *kind, const char *name, struct lt_error *err)
{
    for (int i = 0; i < LT_SCHEDULE_KIND_COUNT; i++)
        if (strcmp(names[i], name) == 0) {
            *kind = (enum lt_schedule_kind)i;
            return LT_OK;
        }
    return lt_fail(
        err, LT_ERR_INVALID,
        "unknown learning-rate schedule \"%.60s\"; there are constant, constant_with_warmup, linear, "
        "cosine, cosine_with_restarts, polynomial, inverse_sqrt and cosine_with_min_lr",
        name);
}

static double or_default(double v, double fallback)
{
    return v == 0 ? fallback : v;
}

static double polynomial_end(const struct lt_schedule *s)
{
    return or_default(s->lr_end, 1e-7);
}

enum lt_status lt_schedule_check(const struct lt_schedule *s, struct lt_error *err)
{
    if (!isfinite(s->base_lr) || s->base_lr < 0)
        return lt_fail(err, LT_ERR_INVALID, "the learning rate is %g; it must be a number of at least 0",
                       s->base_lr);
    if (s->warmup_steps < 0 || s->total_steps < 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "the learning-rate schedule has %lld warm-up steps of %lld; neither may be negative",
                       (long long)s->warmup_steps, (long long)s->total_steps);
    if (!isfinite(s->num_cycles) || s->num_cycles < 0 || !isfinite(s->power) || s->power < 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "num_cycles is %g and power %g in the learning-rate schedule; neither may be negative",
                       s->num_cycles, s->power);
    if (s->kind == LT_SCHEDULE_POLYNOMIAL && !(s->lr_end >= 0 && polynomial_end(s) < s->base_lr))
        return lt_fail(err, LT_ERR_INVALID,
                       "the polynomial schedule ends at %g, which is not below the learning rate %g",
                       polynomial_end(s), s->base_lr);
    if (s->kind == LT_SCHEDULE_COSINE_WITH_MIN_LR && !(s->min_lr_rate >= 0 && s->min_lr_rate <= 1))
        return lt_fail(err, LT_ERR_INVALID, "min_lr_rate is %g; it must lie between 0 and 1", s->min_lr_rate);
    return LT_OK;
}

/* Share of the steps after warm-up that is done. */
static double progress(const struct lt_schedule *s, int64_t t)
{
    return (double)(t - s->warmup_steps) / (double)lt_max_i64(1, s->total_steps - s->warmup_steps);
}

static double linear(const struct lt_schedule *s, int64_t t)
{
    return fmax(0.0, (double)(s->total_steps - t) / (double)lt_max_i64(1, s->total_steps - s->warmup_steps));
}

static double cosine(const struct lt_schedule *s, int64_t t, double min_rate)
{
    double factor = 0.5 * (1.0 + cos(PI * or_default(s->num_cycles, 0.5) * 2.0 * progress(s, t)));
    return fmax(0.0, factor * (1 - min_rate) + min_rate);
}

static double cosine_with_restarts(const struct lt_schedule *s, int64_t t)
{
    double p = progress(s, t);
    if (p >= 1.0)
        return 0.0;
    return fmax(0.0, 0.5 * (1.0 + cos(PI * fmod(or_default(s->num_cycles, 1.0) * p, 1.0))));
}

/* transformers divides by zero when warm-up takes all steps and t is their number; here the end is reached. */
static double polynomial(const struct lt_schedule *s, int64_t t)
{
    double end = polynomial_end(s);
    if (t > s->total_steps || s->total_steps <= s->warmup_steps)
        return end / s->base_lr;
    double remaining = 1 - (double)(t - s->warmup_steps) / (double)(s->total_steps - s->warmup_steps);
    return ((s->base_lr - end) * pow(remaining, or_default(s->power, 1.0)) + end) / s->base_lr;
}

static double inverse_sqrt(const struct lt_schedule *s, int64_t t)
{
    double timescale = s->warmup_steps > 0 ? (double)s->warmup_steps : 10000.0;
    double shift = timescale - (double)s->warmup_steps;
    return 1.0 / sqrt(((double)t + shift) / timescale);
}

static double multiplier(const struct lt_schedule *s, int64_t t)
{
    if (s->kind != LT_SCHEDULE_CONSTANT && t < s->warmup_steps)
        return (double)t / (double)lt_max_i64(1, s->warmup_steps);
    switch (s->kind) {
    case LT_SCHEDULE_LINEAR:
        return linear(s, t);
    case LT_SCHEDULE_COSINE:
        return cosine(s, t, 0.0);
    case LT_SCHEDULE_COSINE_WITH_RESTARTS:
        return cosine_with_restarts(s, t);
    case LT_SCHEDULE_POLYNOMIAL:
        return polynomial(s, t);
    case LT_SCHEDULE_INVERSE_SQRT:
        return inverse_sqrt(s, t);
    case LT_SCHEDULE_COSINE_WITH_MIN_LR:
        return cosine(s, t, s->min_lr_rate);
    case LT_SCHEDULE_CONSTANT:
    case LT_SCHEDULE_CONSTANT_WITH_WARMUP:
    case LT_SCHEDULE_KIND_COUNT:
        break;
    }
    return 1.0;
}

double lt_schedule_lr(const struct lt_schedule *s, int64_t t)
{
    assert(t >= 0);
    return s->base_lr * multiplier(s, t);
}
