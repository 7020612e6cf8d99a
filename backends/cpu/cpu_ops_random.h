/* Dropout parameters of an op, resolved for this run. */
#ifndef LT_BACKENDS_CPU_CPU_OPS_RANDOM_H
#define LT_BACKENDS_CPU_CPU_OPS_RANDOM_H

#include "backends/cpu/cpu_ops.h"

struct lt_cpu_dropout {
    uint32_t threshold; /* 0: dropout is off */
    float keep_scale;
    struct lt_rng_site site;
};

static inline struct lt_cpu_dropout lt_cpu_dropout_of(const struct lt_cpu_call *c)
{
    float p = c->params->training ? c->node->attr.dropout : 0.0f;
    struct lt_cpu_dropout d = {.keep_scale = 1.0f};
    d.site.seed = c->params->seed;
    d.site.step = c->params->step;
    d.site.site = c->params->site_base + c->node->attr.site;
    if (p > 0.0f) {
        d.threshold = lt_dropout_threshold((double)p);
        d.keep_scale = 1.0f / (1.0f - p);
    }
    return d;
}

#endif
