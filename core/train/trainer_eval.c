#include "core/train/trainer_internal.h"

#include <math.h>

struct eval_sums {
    double weighted, weight; /* example-weighted batch losses */
    double loss;             /* over all targets */
    int64_t targets, hits;
};

static enum lt_status eval_batch(struct lt_trainer *t, int64_t index, struct eval_sums *s,
                                 struct lt_error *err)
{
    struct lt_batch *b = &t->batch;
    double loss = 0;

    LT_TRY(lt_trainer_get(t, t->eval, 0, index, err));
    if (b->n_labels == 0)
        return LT_OK;
    struct lt_tokens tokens = lt_trainer_tokens(b);
    LT_TRY(lt_engine_eval(t->engine, &tokens, t->eval_losses, t->eval_argmax, err));
    for (int32_t i = 0; i < b->n_labels; i++) {
        loss += (double)t->eval_losses[i];
        s->hits += t->eval_argmax[i] == b->labels[i];
    }
    s->targets += b->n_labels;
    s->loss += loss;
    s->weighted += (double)b->n_examples * (loss / (double)b->n_labels);
    s->weight += (double)b->n_examples;
    return LT_OK;
}

enum lt_status lt_trainer_evaluate(struct lt_trainer *t, struct lt_eval_metrics *m, struct lt_error *err)
{
    struct eval_sums s = {0};
    double start = lt_clock_seconds();

    if (!t->eval)
        return lt_fail(err, LT_ERR_INVALID, "there is no evaluation data");
    int64_t batches = lt_batches_per_epoch(t->eval);
    for (int64_t i = 0; i < batches; i++) {
        if (lt_cancel_requested())
            return lt_fail(err, LT_ERR_CANCELLED, "stopped during the evaluation");
        LT_TRY(eval_batch(t, i, &s, err));
    }
    if (s.targets == 0)
        return lt_fail(err, LT_ERR_INVALID, "no token of the evaluation data is a target; check its masking");
    *m = (struct lt_eval_metrics){.step = t->progress.step,
                                  .epoch = lt_train_epoch(&t->plan, t->config.accumulation, t->progress.step),
                                  .eval_loss = s.weighted / s.weight,
                                  .perplexity = exp(s.loss / (double)s.targets),
                                  .token_accuracy = (double)s.hits / (double)s.targets,
                                  .runtime = lt_clock_seconds() - start,
                                  .examples = lt_batches_rows(t->eval),
                                  .targets = s.targets,
                                  .batches = batches};
    return LT_OK;
}
