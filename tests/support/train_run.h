/* A training run over fixture files, set up the way a program does it. */
#ifndef LT_TESTS_SUPPORT_TRAIN_RUN_H
#define LT_TESTS_SUPPORT_TRAIN_RUN_H

#include "core/io/checkpoint.h"
#include "core/train/trainer.h"
#include "models/model_load.h"

struct train_setup {
    const char *model;   /* fixture: checkpoint folder */
    const char *adapter; /* fixture: adapter folder to start from; NULL: full fine-tuning */
    const char *train;   /* path of a pre-tokenized file */
    const char *eval;    /* the same, or NULL */
    int32_t batch_size, eval_batch_size;
    int threads; /* 0: 1 */
    enum lt_residency residency;
    double dropout;
    const char *isa; /* NULL: LT_CPU of the environment */
    enum lt_dtype compute;
    int32_t
        device_layers; /* so many on the device that is tested, the rest on the processor; 0: all where it is tested */
    struct lt_trainer_config config; /* lora and full_source are filled in */
    struct lt_trainer_events events;
};

struct train_run {
    struct lt_checkpoint checkpoint;
    struct lt_model *model;
    struct lt_lora_config lora;
    struct lt_params params;
    struct lt_backend *backend, *device;
    struct lt_batches *train, *eval;
    struct lt_trainer *trainer;
    float *values;
};

/* The recipe of the golden curves: AdamW 0.9 0.999 1e-8, weight decay 0.01, clipping at 1, cosine from 1e-3 with 5
 * steps of warm-up; logging every step, nothing saved in between. */
struct lt_trainer_config train_recipe(int64_t max_steps, int32_t accumulation, const char *output_dir);
/* Everything up to, not including, lt_trainer_start or lt_trainer_resume.  Skips the test when a fixture is
 * missing, fails it on any error. */
void train_run_open(struct train_run *r, const struct train_setup *s);
void train_run_start(struct train_run *r, const struct train_setup *s);
void train_run_close(struct train_run *r);

/* tests/golden/data or the shared goldens; skips the test when it is missing.  Paths stay valid. */
const char *train_fixture(const char *relative);
/* "<scratch folder>/<name>" */
const char *train_temp(const char *name);
/* Fails the test with the message unless status is LT_OK. */
void train_ok(enum lt_status status, const struct lt_error *err);
/* "<dir>/<name>" of both folders hold the same bytes. */
void train_assert_same_file(const char *dir_a, const char *dir_b, const char *name);
/* The largest difference of two F32 safetensors files, which have the same tensors. */
double train_file_difference(const char *path_a, const char *path_b);

#endif
