/* Gradient norm and optimizer updates: the split of the flat buffers over threads. */
#include <math.h>
#include <omp.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/checked.h"

enum {
    NORM_BLOCK = 1 << 16, /* elements of one partial sum; fixed, so that threads do not change the order */
    GRAIN = 64            /* elements a thread's share is a multiple of: whole cache lines */
};

size_t lt_cpu_grad_norm_workspace(int64_t n)
{
    return (size_t)lt_div_up(n, NORM_BLOCK) * sizeof(double);
}

void lt_cpu_op_grad_norm(const struct lt_cpu_call *c)
{
    const float *g = c->in[0];
    int64_t n = c->in_cols[0], blocks = lt_div_up(n, NORM_BLOCK);
    double *partial = (double *)(void *)c->workspace, sum = 0;
#pragma omp parallel for num_threads(c->cpu->threads) schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        partial[b] = c->cpu->k.sum_squares(g + b * NORM_BLOCK, lt_min_i64(NORM_BLOCK, n - b * NORM_BLOCK));
    for (int64_t b = 0; b < blocks; b++)
        sum += partial[b];
    *(float *)c->out[0] = (float)__builtin_sqrt(sum);
}

/* in[1] is the norm of all gradients; false: it is not finite, and the step is not taken. */
static bool optimizer_args(const struct lt_cpu_call *c, struct lt_optimizer_args *args)
{
    const struct lt_step_params *s = c->params;
    float norm = *(const float *)c->in[1];
    *args = (struct lt_optimizer_args){.lr = s->lr,
                                       .beta1 = s->beta1,
                                       .beta2 = s->beta2,
                                       .eps = s->eps,
                                       .weight_decay = c->node->attr.decay ? s->weight_decay : 0.0,
                                       .bias_correction1 = s->bias_correction1,
                                       .sqrt_bias_correction2 = s->sqrt_bias_correction2,
                                       .clip = 1.0f};
    if (s->max_grad_norm > 0) {
        float clip = s->max_grad_norm / (norm + 1e-6f);
        args->clip = clip < 1.0f ? clip : 1.0f;
    }
    return isfinite(norm);
}

void lt_cpu_op_adamw(const struct lt_cpu_call *c)
{
    struct lt_optimizer_args args;
    const float *g = c->in[0];
    float *p = c->out[0], *m = c->out[1], *v = c->out[2];
    if (!optimizer_args(c, &args))
        return;
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(c->in_cols[0], GRAIN, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        c->cpu->k.adamw(p + b, m + b, v + b, g + b, e - b, &args);
    }
}

void lt_cpu_op_adamw8(const struct lt_cpu_call *c)
{
    struct lt_optimizer_args args;
    const float *g = c->in[0];
    float *p = c->out[0], *m_absmax = c->out[2], *v_absmax = c->out[4];
    uint8_t *m_codes = c->out[1], *v_codes = c->out[3];
    if (!optimizer_args(c, &args))
        return;
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(c->in_cols[0], LT_OPTIM_BLOCK, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        int64_t block =
            lt_div_up(b, LT_OPTIM_BLOCK); /* a share that is empty may begin at a short block's end */
        c->cpu->k.adamw8(p + b, m_codes + b, m_absmax + block, v_codes + b, v_absmax + block, g + b, e - b,
                         &args);
    }
}

void lt_cpu_op_sgd(const struct lt_cpu_call *c)
{
    struct lt_optimizer_args args;
    const float *g = c->in[0];
    float *p = c->out[0];
    if (!optimizer_args(c, &args))
        return;
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(c->in_cols[0], GRAIN, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        c->cpu->k.sgd(p + b, g + b, e - b, &args);
    }
}

void lt_cpu_op_lion(const struct lt_cpu_call *c)
{
    struct lt_optimizer_args args;
    const float *g = c->in[0];
    float *p = c->out[0], *m = c->out[1];
    if (!optimizer_args(c, &args))
        return;
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(c->in_cols[0], GRAIN, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        c->cpu->k.lion(p + b, m + b, g + b, e - b, &args);
    }
}
