/* The training loop with the semantics of transformers.Trainer.
 *
 * One optimizer step: `accumulation` micro-batches; every loss is the sum of cross entropies over the number of
 * targets of the whole window (a token mean); gradients add up; clip; update at schedule(t); log, evaluate,
 * save.  Windows never cross an epoch.  The same seed gives the same bytes for any thread count, and a resumed
 * run the same bytes as one never stopped. */
#ifndef LT_TRAIN_TRAINER_H
#define LT_TRAIN_TRAINER_H

#include "core/data/batch.h"
#include "core/graph/engine.h"
#include "core/train/adapter.h"
#include "core/train/optimizer.h"
#include "core/train/schedule.h"

enum lt_interval { LT_INTERVAL_NO, LT_INTERVAL_STEPS, LT_INTERVAL_EPOCH };

/* Copied by lt_trainer_create; what the pointers lead to stays the caller's and outlives the trainer. */
struct lt_trainer_config {
    double num_train_epochs;
    int64_t max_steps;  /* > 0 overrides the epochs */
    int32_t batch_size; /* rows a micro-batch, for trainer_state.json; the batch source decides */
    int32_t accumulation;
    uint64_t seed;
    struct lt_optimizer_config optimizer;
    double learning_rate;
    struct lt_schedule
        schedule;        /* kind and its own parameters; steps and base_lr are filled in by the trainer */
    double warmup_steps; /* >= 1: steps, the fraction dropped; in (0,1): a share of all steps, rounded up */
    double warmup_ratio; /* used when warmup_steps is 0 */
    enum lt_interval logging_strategy, eval_strategy, save_strategy;
    /* in (0,1): a share of all steps, rounded up; eval_steps 0: as logging_steps.  Read when their strategy is STEPS
     * (logging_steps also for eval_steps 0). */
    double logging_steps, eval_steps, save_steps;
    bool logging_first_step;
    int32_t save_total_limit; /* 0: keep all; older steps go first, the one just written never */
    enum lt_recompute recompute;
    /* No bit changes by these. */
    bool layer_major;        /* all micro-batches of a step go through a layer before the next layer */
    bool boundaries_in_file; /* of output_dir: the inputs of the layers, until the backward pass */
    struct lt_backend
        *device; /* of the last device_layers layers and the head, as in struct lt_engine_options */
    int32_t device_layers;
    const char *output_dir;
    /* What is written: exactly one of the two. */
    const struct lt_lora_config *lora; /* adapter folder; after lt_lora_config_expand() */
    const char *full_source;           /* checkpoint folder whose config.json is copied: full fine-tuning */
    const char *tokenizer_source; /* folder whose tokenizer files are copied into every output; may be NULL */
    const char *command_line;     /* for the record, in lora_train_state.json; may be NULL */
};

/* One line of the memory plan. */
struct lt_plan_line {
    const char *name; /* "adapter parameters" */
    uint64_t bytes;
    bool counted; /* false: what stays in files, shown but not part of the peak */
    bool device;  /* memory of the device, a sum of its own */
};
enum { LT_PLAN_MAX = 48 };
struct lt_plan {
    struct lt_plan_line lines[LT_PLAN_MAX];
    int count;
    uint64_t peak;             /* sum of the counted lines */
    uint64_t device;           /* sum of the device's lines */
    uint64_t device_available; /* what the device can give this program in all; 0: it does not tell */
    struct lt_engine_placement placement; /* of the engine; on a device alone all 0, as on the processor */
};
void lt_plan_add(struct lt_plan *plan, const char *name, uint64_t bytes, bool counted);
/* The lines of an engine on its backend or both, and of an optimizer (or NULL) beside it: a backend with memory of its own
 * has lines of the device, others counted ones.  plan->device is then what the device will hold in all, with its weights
 * and with what its memory is more than the sum of the buffers.  Once a plan. */
enum lt_status lt_plan_add_engine(struct lt_plan *plan, const struct lt_engine *engine,
                                  const char *params_name, const struct lt_optimizer *optimizer,
                                  struct lt_error *err) LT_MUST_USE;

struct lt_train_metrics { /* of one logged step */
    int64_t step, max_steps;
    double epoch;
    double loss; /* mean of the step losses since the last log line */
    double grad_norm, learning_rate;
    int64_t tokens;           /* trained on since step 0, also in the processes before a resume */
    double tokens_per_second; /* over the steps since the last log line, evaluation and saving not counted */
    double eta_seconds;       /* of the remaining steps at the pace of this process */
    uint64_t memory_bytes, peak_memory_bytes; /* core/base/system.h, sampled since lt_trainer_create */
};
struct lt_eval_metrics {
    int64_t step;
    double epoch;
    double eval_loss;  /* mean over the examples of their batch's loss, as transformers */
    double perplexity; /* exp of the mean over the targets */
    double token_accuracy;
    double runtime; /* seconds */
    int64_t examples, targets, batches;
};

/* What a tool wants to hear about; every pointer may be NULL. */
struct lt_trainer_events {
    void *user;
    void (*log)(void *user, const struct lt_train_metrics *m);  /* at every logging step */
    void (*step)(void *user, const struct lt_train_metrics *m); /* at every step: progress line */
    void (*eval)(void *user, const struct lt_eval_metrics *m);
    void (*saved)(void *user, const char *path);
};

struct lt_trainer;

/* Model, params, backend and batch sources are borrowed; eval and events may be NULL.  Compiles and plans; allocates
 * nothing big.  Micro-batches are sized for the larger of both sources. */
enum lt_status lt_trainer_create(struct lt_trainer **t, const struct lt_trainer_config *config,
                                 struct lt_model *model, const struct lt_params *params,
                                 struct lt_backend *be, struct lt_batches *train, struct lt_batches *eval,
                                 const struct lt_trainer_events *events, struct lt_error *err) LT_MUST_USE;
void lt_trainer_destroy(struct lt_trainer *t);
int64_t lt_trainer_max_steps(const struct lt_trainer *t);
int64_t lt_trainer_step(const struct lt_trainer *t); /* completed updates: 0, or those before a resume */
/* Adds the lines of the engine, the optimizer and the backend; weights in memory of the process and the process itself
 * are the caller's. */
enum lt_status lt_trainer_plan(const struct lt_trainer *t, struct lt_plan *plan, struct lt_error *err)
    LT_MUST_USE;

/* After the model's weights were loaded: allocates, and sets the parameters to values[params->elements]. */
enum lt_status lt_trainer_start(struct lt_trainer *t, const float *values, struct lt_error *err) LT_MUST_USE;
/* Or instead: continues from checkpoint-N (weights, moments, step, log history).  A checkpoint whose updates this run
 * would not repeat (other seed, batches, data, parameters, schedule …) is LT_ERR_INVALID saying what differs.  Its
 * max_steps may differ when the schedule does not depend on it (constant, constant_with_warmup, inverse_sqrt). */
enum lt_status lt_trainer_resume(struct lt_trainer *t, const char *checkpoint_dir, struct lt_error *err)
    LT_MUST_USE;
/* "last": the highest checkpoint-N of output_dir (lt_free); LT_ERR_NOT_FOUND when there is none. */
enum lt_status lt_trainer_last_checkpoint(const char *output_dir, char **path, struct lt_error *err)
    LT_MUST_USE;

/* Trains to the end, then writes output_dir:
 *   adapter_config.json, adapter_model.safetensors   or   config.json, generation_config.json, model.safetensors
 *   (each tensor in the element type of full_source), the tokenizer's files, trainer_state.json;
 *   train_log.jsonl: a line a logged step and a line an evaluation;  runs/<time>/: TensorBoard;
 *   checkpoint-N/: the same (models in f32), optimizer.safetensors and lora_train_state.json.
 * When cancelled (lt_cancel_requested, polled before every micro-batch) the unfinished step is dropped, checkpoint-N
 * of the last complete one is saved (checkpoint-0 when there is none) and LT_ERR_CANCELLED returned. */
enum lt_status lt_trainer_run(struct lt_trainer *t, struct lt_error *err) LT_MUST_USE;
/* Over all of eval, with the parameters as they are.  LT_ERR_INVALID without eval, or without a target in it. */
enum lt_status lt_trainer_evaluate(struct lt_trainer *t, struct lt_eval_metrics *m, struct lt_error *err)
    LT_MUST_USE;

/* First step only, into one safetensors file: `logits` F32 [rows, T, vocab] of the first micro-batch (0 where there is
 * no token; dropout off), `loss` F64 [] of the step, gradients under the parameters' own names.  T: columns of a
 * pre-tokenized source, else the longest sequence.  The parameters stay as they are. */
enum lt_status lt_trainer_dump_step(struct lt_trainer *t, const char *path, struct lt_error *err) LT_MUST_USE;

#endif
