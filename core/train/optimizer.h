/* AdamW over the flat parameter buffer, as one program on the backend: gradient norm, clipping, update. */
#ifndef LT_TRAIN_OPTIMIZER_H
#define LT_TRAIN_OPTIMIZER_H

#include "core/backend/backend.h"

struct lt_optimizer_config {
    double beta1, beta2, epsilon, weight_decay;
    double max_grad_norm; /* <= 0: no clipping */
};

struct lt_optimizer;

/* elements: length of the flat buffers; the first decay_elements get weight decay. */
enum lt_status lt_optimizer_create(struct lt_optimizer **o, struct lt_backend *be, const struct lt_optimizer_config *config,
                                   size_t elements, size_t decay_elements, struct lt_error *err) LT_MUST_USE;
void lt_optimizer_destroy(struct lt_optimizer *o);
size_t lt_optimizer_state_bytes(const struct lt_optimizer *o);     /* both moments */
size_t lt_optimizer_workspace_bytes(const struct lt_optimizer *o);
enum lt_status lt_optimizer_allocate(struct lt_optimizer *o, struct lt_error *err) LT_MUST_USE;

/* Update number t (1-based) with rate lr.  *grad_norm: L2 norm before clipping; LT_ERR_NUMERIC, with the
 * parameters untouched, when it is not finite. */
enum lt_status lt_optimizer_step(struct lt_optimizer *o, struct lt_buffer *params, struct lt_buffer *grads, int64_t t, double lr,
                                 double *grad_norm, struct lt_error *err) LT_MUST_USE;

/* Elements [offset, offset+n) of a moment (0: first, 1: second), for checkpoints. */
enum lt_status lt_optimizer_read(struct lt_optimizer *o, int moment, size_t offset, float *dst, size_t n,
                                 struct lt_error *err) LT_MUST_USE;
enum lt_status lt_optimizer_write(struct lt_optimizer *o, int moment, size_t offset, const float *src, size_t n,
                                  struct lt_error *err) LT_MUST_USE;

#endif
