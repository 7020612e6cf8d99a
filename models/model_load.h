/* From a checkpoint folder to a struct lt_model: configuration, tensor names, weights.
 *
 * Configuration keys that change the maths and are not supported are LT_ERR_UNSUPPORTED naming key and value;
 * both spellings of transformers (4.x: rope_theta, torch_dtype; 5.x: rope_parameters, dtype) are read. */
#ifndef LT_MODELS_MODEL_LOAD_H
#define LT_MODELS_MODEL_LOAD_H

#include "core/graph/model.h"
#include "core/io/checkpoint.h"

enum lt_load_quant { LT_LOAD_AS_STORED, LT_LOAD_NF4, LT_LOAD_FP4, LT_LOAD_INT8, LT_LOAD_F32 };

/* Where frozen matrices that are used as they are stored lie. */
enum lt_residency {
    LT_WEIGHTS_MMAP,     /* views of the read-only map where they are aligned, else copies */
    LT_WEIGHTS_RESIDENT, /* in memory of the model's: the page cache keeps nothing of the file */
    LT_WEIGHTS_STREAM /* those of the decoder layers in the file only, the engine reads them; the rest as MMAP */
};

struct lt_load_options {
    /* AS_STORED keeps f32/f16/bf16 and bitsandbytes 4-bit and 8-bit weights as they are in the file (f64 becomes f32).
     * NF4, FP4 and INT8 are for linear layers other than the head, and only when the checkpoint is not quantized
     * already: such a one stays as it is.  F32 converts or dequantizes all matrices. */
    enum lt_load_quant quant;
    bool double_quant; /* for NF4 and FP4 */
    enum lt_residency residency;
    float int8_threshold; /* for INT8: of the model's outliers; an int8 checkpoint has its own */
    int threads;          /* for quantizing and converting; below 1: one */
};

/* Configuration and tensor list only: shapes are checked against the checkpoint, nothing is read.
 * The model keeps no reference to the checkpoint.  Tensor names are those of the file; modules are the canonical
 * ones that adapters use ("transformer.h.0.attn.c_attn" also for files without the prefix). */
enum lt_status lt_model_open(struct lt_model **model, const struct lt_checkpoint *ck,
                             const char *name_or_path, struct lt_error *err) LT_MUST_USE;
/* The model that a config.json describes, without a checkpoint: for memory plans and synthetic weights
 * (models/weight_synthetic.h).  Tensors are taken to be as the architecture stores them. */
enum lt_status lt_model_from_config(struct lt_model **model, const json_t *config, const char *name,
                                    struct lt_error *err) LT_MUST_USE;
void lt_model_destroy(struct lt_model *model);

/* Says how every matrix will be stored (tensor->weight without its pointers), and marks what is to be streamed: with
 * LT_WEIGHTS_STREAM, before the engine is created and after tensors are marked trainable; nothing is marked otherwise.  What lt_model_load would quantize or convert cannot be streamed and is not.
 * The checkpoint must stay open. */
enum lt_status lt_model_stream(struct lt_model *model, const struct lt_checkpoint *ck,
                               const struct lt_load_options *opt, struct lt_error *err) LT_MUST_USE;

/* Exact bytes lt_model_load will hold in memory of its own, and bytes it will only map read-only. */
struct lt_model_memory {
    size_t quantized, converted, vectors; /* anonymous memory */
    size_t mapped;                        /* read-only file pages */
    size_t streamed;                      /* in the file only */
    size_t loading;                       /* anonymous, while lt_model_load runs only */
};
enum lt_status lt_model_memory(const struct lt_model *model, const struct lt_checkpoint *ck,
                               const struct lt_load_options *opt, struct lt_model_memory *mem,
                               struct lt_error *err) LT_MUST_USE;

/* Fills tensor->weight and tensor->vector; once per model, after tensors are marked trainable (those are neither
 * quantized nor converted).  Matrices that are used as they are stored lie where opt->residency says; what is
 * quantized or converted is read by pread in chunks of a few MB and worked on by `threads` threads (same bytes for
 * any number).  A Conv1D matrix is transposed to [out, in] before it is quantized, and tensor->transposed cleared.
 * The checkpoint must stay open.  progress (or NULL) is called after each tensor.  After an error, or a
 * cancellation (LT_ERR_CANCELLED), the model can only be destroyed. */
enum lt_status lt_model_load(struct lt_model *model, const struct lt_checkpoint *ck,
                             const struct lt_load_options *opt,
                             void (*progress)(void *user, int done, int total), void *user,
                             struct lt_error *err) LT_MUST_USE;
/* One tensor as lt_model_load would have it, instead of that: for programs that go through a model tensor by tensor.
 * Its values are valid until the next call, or in the checkpoint's map. */
enum lt_status lt_model_load_one(struct lt_model *model, const struct lt_checkpoint *ck,
                                 const struct lt_load_options *opt, int number, struct lt_error *err)
    LT_MUST_USE;

#endif
