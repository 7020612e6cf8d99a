/* The schedules of a training step: which segment runs when, for which micro-batch. */
#include "core/base/alloc.h"
#include "core/base/system.h"
#include "core/graph/engine_internal.h"

static enum lt_status check_cancelled(const struct lt_step_params *params, struct lt_error *err)
{
    if (lt_cancel_requested())
        return lt_fail(err, LT_ERR_CANCELLED, "stopped during step %llu",
                       (unsigned long long)params->step + 1);
    return LT_OK;
}

/* Room for the losses of all micro-batches of a step; a longer step than any before makes new room. */
static enum lt_status make_room(struct lt_engine *e, int32_t micro_batches, struct lt_error *err)
{
    struct lt_step_losses *l = &e->losses;
    l->count = 0;
    if (micro_batches <= l->cap)
        return LT_OK;
    struct lt_backend *be = lt_engine_head_place(e)->be;
    LT_TRY(be->ops->finish(be, err)); /* nothing is on its way to what is freed */
    lt_free(l->values);
    lt_free(l->labels);
    l->cap = 0;
    l->labels = lt_alloc_array((size_t)micro_batches, sizeof *l->labels);
    l->values = lt_alloc_array((size_t)micro_batches, (size_t)e->opt.capacity.labels * sizeof *l->values);
    if (!l->values || !l->labels)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the losses of a step");
    l->cap = micro_batches;
    return LT_OK;
}

static enum lt_status fetch_losses(struct lt_engine *e, int32_t micro_batch, struct lt_error *err)
{
    struct lt_step_losses *l = &e->losses;
    const struct lt_place *p = lt_engine_head_place(e);
    float *to = l->values + (size_t)l->count * (size_t)e->opt.capacity.labels;
    int32_t labels = e->live[micro_batch].labels;
    l->labels[l->count++] = labels;
    return p->be->ops->buffer_read_later(p->be, p->inputs,
                                         lt_engine_input_offset(e, LT_IN_COUNT, micro_batch), to,
                                         (size_t)labels * sizeof *to, err);
}

/* In order, as doubles: the same for any number of threads and in any schedule. */
enum lt_status lt_engine_loss(struct lt_engine *e, double *loss_sum, struct lt_error *err)
{
    const struct lt_step_losses *l = &e->losses;
    struct lt_backend *be = lt_engine_head_place(e)->be;
    *loss_sum = 0;
    LT_TRY(be->ops->finish(be, err));
    for (int32_t i = 0; i < l->count; i++) {
        const float *losses = l->values + (size_t)i * (size_t)e->opt.capacity.labels;
        double sum = 0;
        for (int32_t k = 0; k < l->labels[i]; k++)
            sum += (double)losses[k];
        *loss_sum += sum;
    }
    return LT_OK;
}

/* The first n uploaded micro-batches, forward through all segments and back. */
static enum lt_status run_group(struct lt_engine *e, int32_t n, const struct lt_step_params *params,
                                struct lt_error *err)
{
    int top = e->model->layers, back = e->lowest >= 0 && e->lowest <= top ? top : 1;
    for (int s = 0; s < lt_model_segments(e->model); s++) {
        LT_TRY(lt_engine_take_weights(e, s, s < top ? s + 1 : back, err));
        for (int32_t i = 0; i < n; i++) {
            LT_TRY(check_cancelled(params, err));
            LT_TRY(lt_engine_run_forward(e, LT_PASS_TRAIN, s, i, params, err));
        }
    }
    for (int32_t i = 0; i < n; i++)
        LT_TRY(fetch_losses(e, i, err));
    if (e->lowest < 0)
        return LT_OK;
    LT_TRY(lt_engine_boundary_turn(e, n, err));
    for (int s = top; s >= e->lowest; s--) {
        LT_TRY(lt_engine_take_weights(e, s, s > e->lowest ? s - 1 : 1, err));
        for (int32_t i = 0; i < n; i++) {
            LT_TRY(check_cancelled(params, err));
            LT_TRY(lt_engine_run_backward(e, s, i, params, err));
        }
    }
    return LT_OK;
}

enum lt_status lt_engine_train(struct lt_engine *e, const struct lt_micro_batches *step,
                               const struct lt_step_params *params, struct lt_error *err)
{
    struct lt_step_params p = *params;
    int32_t n = 0;
    p.training = true;
    LT_TRY(make_room(e, step->count, err));
    for (int32_t i = 0; i < step->count; i++) {
        struct lt_tokens tokens;
        LT_TRY(check_cancelled(&p, err));
        LT_TRY(step->get(step->user, i, &tokens, err));
        if (tokens.n_labels > 0) /* else no loss, no gradient */
            LT_TRY(lt_engine_upload(e, &tokens, n++, err));
        if (n == 0 || (n < e->group && i + 1 < step->count))
            continue;
        LT_TRY(run_group(e, n, &p, err));
        n = 0;
    }
    return lt_engine_collect_grads(e, err);
}
