/* What is trained: LoRA adapters, biases or the whole model, laid out in one flat f32 parameter buffer.
 *
 * Layout: first all decayed parameters, then the undecayed ones (names matched as transformers does:
 * bias, layernorm, rmsnorm, norm, _norm; and every norm, as GPT-2's ln_1 is a torch LayerNorm); each in model
 * order; every tensor starts at a multiple of 16 elements.  Offsets are elements. */
#ifndef LT_TRAIN_ADAPTER_H
#define LT_TRAIN_ADAPTER_H

#include "core/graph/model.h"
#include "core/train/lora_config.h"

struct lt_param {
    char *
        name; /* as saved: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", or the base tensor's
                   name */
    int64_t shape[2]; /* as stored in a checkpoint: GPT-2's Conv1D weights are [in, out] */
    int ndim;
    size_t offset, elements;
    bool decay;
    int tensor; /* model tensor number */
    int part;   /* 0: the tensor itself, 1: lora_A [rank, in], 2: lora_B [out, rank] */
};

struct lt_params {
    struct lt_param *items; /* in layout order */
    size_t count;
    size_t elements;       /* of the flat buffer, padding included */
    size_t decay_elements; /* the decayed ones come first */
    uint64_t trainable;    /* parameters without padding */
};

/* Marks the tensors of the model that LoRA adapts (ranks, scales, offsets; trainable biases); earlier marks are
 * gone, after a failure all are.  No module matching is LT_ERR_INVALID listing the module names there are; a target
 * that cannot be adapted (embedding, head, norm) is LT_ERR_UNSUPPORTED.  A target name or pattern that matches
 * nothing beside others that do is logged as a warning. */
enum lt_status lt_params_lora(struct lt_params *p, struct lt_model *model,
                              const struct lt_lora_config *config, struct lt_error *err) LT_MUST_USE;
/* Every tensor is trained, tied ones once.  A quantized tensor is LT_ERR_INVALID. */
enum lt_status lt_params_full(struct lt_params *p, struct lt_model *model, struct lt_error *err) LT_MUST_USE;
void lt_params_deinit(struct lt_params *p);
const struct lt_param *lt_params_find(const struct lt_params *p, const char *name);

/* Initial values into values[p->elements] (zeroed padding): LoRA as PEFT's init_lora_weights true / gaussian / false,
 * drawn from one torch-compatible generator seeded with seed in PEFT's order (A's default init, B's default init,
 * A again, per module in model order); biases and full parameters from the loaded model, whose tensors must be in
 * f32, f16 or bf16 (else LT_ERR_INVALID).  config may be NULL when there is no LoRA in p.
 *
 * Equal to torch.manual_seed(seed); get_peft_model(model, config), as long as the model lists its linears in the
 * order of named_modules(): bit for bit for true and false, within a few ulp for gaussian (torch's vectorised
 * logarithm, sine and cosine). */
enum lt_status lt_params_init(const struct lt_params *p, const struct lt_model *model,
                              const struct lt_lora_config *config, uint64_t seed, float *values,
                              struct lt_error *err) LT_MUST_USE;

/* PEFT adapter folder: adapter_config.json and adapter_model.safetensors (F32/F16/BF16 read, F32 written, metadata
 * format pt).  Missing, surplus or misshapen tensors are LT_ERR_FORMAT naming them, NaN and infinity LT_ERR_NUMERIC;
 * both spellings of bias keys are read.  values[p->elements] outside the tensors is not touched; after a failure
 * what is in them is unspecified. */
enum lt_status lt_adapter_load(const struct lt_params *p, const char *dir, float *values,
                               struct lt_error *err) LT_MUST_USE;
/* Makes the folder and writes both files, each atomically, the configuration last. */
enum lt_status lt_adapter_save(const struct lt_params *p, const struct lt_lora_config *config,
                               const char *dir, const float *values, struct lt_error *err) LT_MUST_USE;

/* Turns the targets into what is saved: a list is sorted and freed of doubles; all-linear becomes the sorted list of
 * the linears' distinct last components (the full names where a last component is also that of another kind of
 * module); another regular expression stays.  Sets fan_in_fan_out to what the targeted tensors are.
 * Call before lt_adapter_save. */
enum lt_status lt_lora_config_expand(struct lt_lora_config *config, const struct lt_model *model,
                                     struct lt_error *err) LT_MUST_USE;

#endif
