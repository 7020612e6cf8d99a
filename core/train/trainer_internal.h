/* Insides of the trainer, shared by its files. */
#ifndef LT_TRAIN_TRAINER_INTERNAL_H
#define LT_TRAIN_TRAINER_INTERNAL_H

#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/io/tfevents.h"
#include "core/train/trainer.h"

/* What changes from step to step besides parameters and moments.  A checkpoint holds it, so that the log lines of a
 * resumed run are those of one never stopped. */
struct lt_train_progress {
    int64_t step;                      /* completed updates */
    int64_t tokens;                    /* trained on */
    double loss_total, loss_since_log; /* sums of step losses */
    int64_t steps_since_log;
    bool eval_due; /* the evaluation after `step` was cancelled */
};

/* ---- steps and intervals (trainer_steps.c) ---- */

struct lt_train_plan {
    int64_t batches_per_epoch, steps_per_epoch, max_steps;
    int64_t warmup_steps;
    int64_t logging_steps, eval_steps, save_steps; /* 0: not by steps */
};
/* Reference: TrainingArguments and Trainer of transformers.  LT_ERR_INVALID names the option that is wrong. */
enum lt_status lt_train_plan_steps(struct lt_train_plan *p, const struct lt_trainer_config *c,
                                   int64_t batches_per_epoch, struct lt_error *err) LT_MUST_USE;
double lt_train_epoch(const struct lt_train_plan *p, int32_t accumulation, int64_t step);
/* After completed update `step`. */
bool lt_train_log_due(const struct lt_train_plan *p, const struct lt_trainer_config *c, int64_t step);
bool lt_train_eval_due(const struct lt_train_plan *p, const struct lt_trainer_config *c, int64_t step);
bool lt_train_save_due(const struct lt_train_plan *p, const struct lt_trainer_config *c, int64_t step);

/* ---- log files (trainer_log.c) ---- */

struct lt_train_log {
    struct lt_file_appender rows; /* train_log.jsonl */
    struct lt_tfevents events;
    struct lt_strbuf line;
    json_t *history; /* log_history of trainer_state.json; owned */
};
/* An empty history; zeroed ones may be deinit()ed. */
enum lt_status lt_train_log_init(struct lt_train_log *log, struct lt_error *err) LT_MUST_USE;
void lt_train_log_deinit(struct lt_train_log *log);
/* Opens both files in output_dir; the first line of a later step, or (eval_due) of an evaluation at `step`, is cut off
 * with all behind it.  step -1: all lines are. */
enum lt_status lt_train_log_open(struct lt_train_log *log, const char *output_dir, int64_t step,
                                 bool eval_due, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_train_log_step(struct lt_train_log *log, const struct lt_train_metrics *m,
                                 struct lt_error *err) LT_MUST_USE;
enum lt_status lt_train_log_eval(struct lt_train_log *log, const struct lt_eval_metrics *m,
                                 struct lt_error *err) LT_MUST_USE;

/* ---- trainer_state.json (trainer_state.c) ---- */

/* json_object_set_new that remembers a failure: *ok is cleared when v is NULL or memory is short. */
void lt_train_put(json_t *object, const char *key, json_t *v, bool *ok);
json_t *lt_train_number(double v); /* null for NaN and infinity, which JSON has not */

struct lt_train_state {
    int64_t step, max_steps, epochs, logging_steps, eval_steps, save_steps, batch_size;
    double epoch, total_flos;
    const json_t *history;
};
/* The file as transformers writes it: indent 2, sorted keys. */
enum lt_status lt_train_state_save(const struct lt_train_state *s, const char *dir, struct lt_error *err)
    LT_MUST_USE;
/* log_history of dir/trainer_state.json (owned). */
enum lt_status lt_train_state_history(json_t **history, const char *dir, struct lt_error *err) LT_MUST_USE;

/* ---- the trainer ---- */

struct lt_trainer {
    struct lt_trainer_config config;
    struct lt_model *model;
    const struct lt_params *params;
    struct lt_backend *be;
    struct lt_batches *train, *eval;
    struct lt_trainer_events events;

    struct lt_train_plan plan;
    struct lt_schedule schedule;
    struct lt_engine_options engine_options;
    struct lt_engine *engine;
    struct lt_optimizer *optimizer;
    struct lt_batch batch;
    float *eval_losses; /* [capacity.labels] */
    int32_t *eval_argmax;
    struct lt_memory_sampler *sampler;

    struct lt_train_progress progress;
    struct lt_train_log log;
    bool started, resumed;
    int64_t saved_step; /* of the newest checkpoint, -1: none */

    /* Pace, in seconds spent in steps. */
    double run_seconds, log_seconds;
    int64_t run_steps, log_tokens;
};

struct lt_tokens lt_trainer_tokens(const struct lt_batch *b);
struct lt_train_state lt_trainer_state(const struct lt_trainer *t);

/* A micro-batch into t->batch, its positions checked against the model's. */
enum lt_status lt_trainer_get(struct lt_trainer *t, struct lt_batches *source, int64_t epoch, int64_t index,
                              struct lt_error *err) LT_MUST_USE;
/* One step's window of micro-batches: gradients added up, though a device may only have begun.  LT_ERR_CANCELLED when
 * asked to stop. */
enum lt_status lt_trainer_window(struct lt_trainer *t, int64_t step, int64_t *targets, int64_t *tokens,
                                 struct lt_error *err) LT_MUST_USE;
/* Waits for it: the mean loss. */
enum lt_status lt_trainer_loss(struct lt_trainer *t, int64_t targets, double *loss, struct lt_error *err)
    LT_MUST_USE;

/* ---- parameters in host memory (trainer_output.c) ---- */

/* The flat parameters: the device's own memory where the host can address it, else a copy. */
struct lt_flat_view {
    float *values;
    size_t bytes; /* of the copy; 0: no copy */
};
enum lt_status lt_trainer_view_params(struct lt_trainer *t, bool read, struct lt_flat_view *v,
                                      struct lt_error *err) LT_MUST_USE;
void lt_trainer_view_release(struct lt_flat_view *v);

/* A parameter, or its gradient, as a tensor of a safetensors file: the bytes are read from the engine piece by piece
 * when the file is saved. */
struct lt_flat_tensor {
    struct lt_trainer *trainer;
    const struct lt_param *param;
    bool gradient;
    enum lt_dtype dtype;
};
enum lt_status lt_flat_tensor_add(struct lt_flat_tensor *f, struct lt_st_writer *w, struct lt_error *err)
    LT_MUST_USE;

/* The files a model or adapter folder consists of. */
enum lt_status lt_trainer_write_model(struct lt_trainer *t, const char *dir, bool checkpoint,
                                      struct lt_error *err) LT_MUST_USE;
/* The end of a run: output_dir itself.  run_seconds: wall time of the run. */
enum lt_status lt_trainer_write_output(struct lt_trainer *t, double wall_seconds, struct lt_error *err)
    LT_MUST_USE;

/* ---- checkpoints ---- */

/* What must be equal for a resumed run to repeat this one, as a flat JSON object (trainer_identity.c). */
enum lt_status lt_trainer_identity(struct lt_trainer *t, json_t **identity, struct lt_error *err) LT_MUST_USE;
/* LT_ERR_INVALID at the first difference; `where` names the file that `saved` came from. */
enum lt_status lt_train_identity_check(const json_t *mine, const json_t *saved, const char *where,
                                       struct lt_error *err) LT_MUST_USE;

/* optimizer.safetensors of a checkpoint folder. */
enum lt_status lt_trainer_save_moments(struct lt_trainer *t, const char *dir, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_trainer_load_moments(struct lt_trainer *t, const char *dir, struct lt_error *err)
    LT_MUST_USE;
/* A safetensors file of a checkpoint folder, and in it the tensor of that name, type and shape. */
enum lt_status lt_train_open_tensors(struct lt_safetensors *st, const char *dir, const char *name,
                                     struct lt_error *err) LT_MUST_USE;
enum lt_status lt_train_find_tensor(const struct lt_safetensors *st, const char *name, enum lt_dtype dtype,
                                    const int64_t *shape, int ndim, const struct lt_st_tensor **tensor,
                                    struct lt_error *err) LT_MUST_USE;

enum lt_status lt_trainer_save_checkpoint(struct lt_trainer *t, struct lt_error *err) LT_MUST_USE;
/* Progress, parameters, moments and history, into an allocated trainer. */
enum lt_status lt_trainer_load_checkpoint(struct lt_trainer *t, const char *dir, struct lt_error *err)
    LT_MUST_USE;
/* The number of a "checkpoint-<step>" name, or -1. */
int64_t lt_train_checkpoint_step(const char *name);
/* Removes the lowest checkpoints of output_dir until `limit` are left; never that of step `newest`. */
enum lt_status lt_train_rotate(const char *output_dir, int32_t limit, int64_t newest, struct lt_error *err)
    LT_MUST_USE;

#endif
