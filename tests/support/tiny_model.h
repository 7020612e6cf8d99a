/* Golden models opened for tests: a model with weights, a backend, parameters and an engine in one. */
#ifndef LT_TESTS_SUPPORT_TINY_MODEL_H
#define LT_TESTS_SUPPORT_TINY_MODEL_H

#include "core/graph/engine.h"
#include "core/io/checkpoint.h"
#include "core/train/adapter.h"
#include "models/model_load.h"

struct tiny_options {
    const char *model;   /* fixture folder: "goldens/llama-tiny"; or an absolute path */
    const char *adapter; /* fixture folder of a PEFT adapter, or NULL */
    bool full;           /* train every tensor */
    enum lt_load_quant quant;
    enum lt_residency residency;
    enum lt_recompute recompute;
    int threads;
    const char *isa, *gemm; /* NULL: the default */
    int32_t tokens, labels; /* capacity */
    int32_t loss_chunk;
    int32_t micro_batches;      /* that go through a layer together */
    const char *boundary_dir;   /* NULL: layer boundaries in memory */
    float dropout;              /* overrides the adapter's */
    bool bf16;                  /* compute dtype */
    struct lt_backend *backend; /* borrowed; NULL: one of the device that is tested */
    struct lt_backend *device;  /* of the last device_layers layers and the head; borrowed */
    int32_t device_layers;
};

struct tiny_model {
    struct lt_backend *be, *own_be;
    struct lt_checkpoint ck;
    struct lt_model *model;
    struct lt_lora_config lora;
    struct lt_params params;
    struct lt_engine *engine;
    float *values;
};

/* A padded batch flattened: masked tokens left out, positions = columns (tests/golden inputs). */
struct tiny_batch {
    int32_t rows, columns;
    struct lt_tokens tokens;
    int32_t *ids, *positions, *kv_begin, *kv_end, *label_rows, *labels, *all_rows, *source;
    uint32_t *row_key;
};

/* Skips the running test visibly when the fixture is absent; fails it on any error. */
void tiny_open(struct tiny_model *t, const struct tiny_options *o);
void tiny_close(struct tiny_model *t);
/* Gradients of these micro-batches as one step (seed 1, every label weighs the same) added up; the sum of the losses. */
double tiny_train(struct tiny_model *t, const struct lt_tokens *batches, int32_t count);
/* prefix: "" or "right." before input_ids, attention_mask, labels. */
void tiny_batch_load(struct tiny_batch *b, const char *fixture, const char *prefix);
void tiny_batch_free(struct tiny_batch *b);
/* Reads one tensor as f32 (test_free). */
float *tiny_tensor(const char *fixture, const char *name, size_t *elements);

#endif
