/* Optimizers over the flat parameter buffer, as programs on the backend: gradient norm, clipping, update.
 *
 * Names and formulas are those of transformers' --optim: torch's AdamW and SGD (no momentum), bitsandbytes' 8-bit
 * AdamW (its CUDA rules) and Lion.  8-bit state is one code for each element of both moments and an f32 absmax for
 * every LT_OPTIM_BLOCK elements of a tensor; small tensors and embeddings keep f32 moments and AdamW's update. */
#ifndef LT_TRAIN_OPTIMIZER_H
#define LT_TRAIN_OPTIMIZER_H

#include "core/backend/backend.h"
#include "core/graph/device_plan.h"
#include "core/tensor/dtype.h"

enum lt_optimizer_kind {
    LT_OPTIMIZER_ADAMW,
    LT_OPTIMIZER_ADAMW_8BIT,
    LT_OPTIMIZER_SGD,
    LT_OPTIMIZER_LION,
    LT_OPTIMIZER_COUNT
};
const char *lt_optimizer_kind_name(
    enum lt_optimizer_kind kind); /* "adamw_torch", "adamw_8bit", "sgd", "lion_32bit" */

struct lt_optimizer_config {
    enum lt_optimizer_kind kind;
    /* The state lives in a file that is touched piece by piece; the numbers are the same.  Where the backend has no
     * such memory, ordinary one is used, with a warning. */
    bool paged;
    int32_t min_8bit_size; /* tensors with fewer elements keep f32 moments; 0: 4096, as bitsandbytes */
    double beta1, beta2, epsilon, weight_decay;
    double max_grad_norm; /* <= 0: no clipping */
};

/* Sets kind and paged from a name of transformers: adamw_torch (adamw_torch_fused, adamw_hf, adamw), adamw_8bit
 * (adamw_bnb_8bit), paged_adamw_8bit, paged_adamw_32bit (paged_adamw), sgd, lion_32bit.  LT_ERR_INVALID otherwise. */
enum lt_status lt_optimizer_parse(struct lt_optimizer_config *config, const char *name, struct lt_error *err)
    LT_MUST_USE;

/* One tensor in the flat buffers, which hold zeros between tensors. */
struct lt_optimizer_param {
    size_t offset, elements;
    bool decay;
    bool f32_state; /* also with an 8-bit optimizer */
};

struct lt_optimizer;

/* params: `count` tensors by ascending offset, each a multiple of 16; copied.  elements: length of the flat buffers. */
enum lt_status lt_optimizer_create(struct lt_optimizer **o, struct lt_backend *be,
                                   const struct lt_optimizer_config *config,
                                   const struct lt_optimizer_param *params, size_t count, size_t elements,
                                   struct lt_error *err) LT_MUST_USE;
void lt_optimizer_destroy(struct lt_optimizer *o);
size_t lt_optimizer_state_bytes(const struct lt_optimizer *o); /* in memory; paged: at one time */
size_t lt_optimizer_paged_bytes(const struct lt_optimizer *o); /* in the file; 0 when not paged */
size_t lt_optimizer_workspace_bytes(const struct lt_optimizer *o);
/* Adds what lt_optimizer_allocate will make on a device. */
void lt_optimizer_device_buffers(const struct lt_optimizer *o, struct lt_device_plan *p);
/* dir: folder for the file of paged state; where it is none (or NULL) TMPDIR, else /tmp. */
enum lt_status lt_optimizer_allocate(struct lt_optimizer *o, const char *dir, struct lt_error *err)
    LT_MUST_USE;

/* Update number t (1-based) with rate lr.  A device may only have begun when this returns. */
enum lt_status lt_optimizer_step(struct lt_optimizer *o, struct lt_buffer *params, struct lt_buffer *grads,
                                 int64_t t, double lr, struct lt_error *err) LT_MUST_USE;
/* Waits for the step.  *grad_norm: L2 norm before clipping; LT_ERR_NUMERIC when it is not finite: parameters and moments
 * are then as they were before. */
enum lt_status lt_optimizer_norm(struct lt_optimizer *o, double *grad_norm, struct lt_error *err) LT_MUST_USE;

/* ---- the state, for checkpoints ---- */

/* One tensor of the state of a parameter. */
struct lt_optimizer_tensor {
    const char *prefix;  /* goes before the parameter's name: "exp_avg." */
    enum lt_dtype dtype; /* LT_F32 or LT_U8 */
    bool absmax;         /* [elements], one for every block; else of the parameter's own shape */
    size_t elements;
    size_t offset; /* bytes, for lt_optimizer_read and _write */
};
enum { LT_OPTIMIZER_TENSORS = 4 };
/* Those of parameter number `param`: how many.  AdamW exp_avg, exp_avg_sq; 8-bit state1, state2, absmax1, absmax2
 * (without absmax where the state is f32); Lion state1; SGD none. */
int lt_optimizer_tensors(const struct lt_optimizer *o, size_t param,
                         struct lt_optimizer_tensor tensors[LT_OPTIMIZER_TENSORS]);
enum lt_status lt_optimizer_read(struct lt_optimizer *o, size_t offset, void *dst, size_t n,
                                 struct lt_error *err) LT_MUST_USE;
enum lt_status lt_optimizer_write(struct lt_optimizer *o, size_t offset, const void *src, size_t n,
                                  struct lt_error *err) LT_MUST_USE;

#endif
