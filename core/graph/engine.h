/* The engine: a model's programs compiled on a backend or two, the memory they need, and the schedules that run
 * them.  Everything is planned before anything is allocated; nothing is allocated in a step. */
#ifndef LT_GRAPH_ENGINE_H
#define LT_GRAPH_ENGINE_H

#include "core/backend/backend.h"
#include "core/graph/backward.h"
#include "core/graph/build.h"
#include "core/graph/device_plan.h"
#include "core/graph/program.h"

struct lt_engine_options {
    struct lt_capacity capacity; /* tokens and labels of a micro-batch; cache rows when decoding */
    bool train, eval, decode;    /* which programs to make */
    bool logits;                 /* eval: the head can give logits as well */
    enum lt_recompute recompute;
    /* Training: so many micro-batches go through every layer together, in order; below 2: one after another.  Their
     * inputs, boundaries and tapes are in memory at once.  The result is the same, bit for bit. */
    int32_t micro_batches;
    /* Training: folder for a file that the inputs of the layers are kept in until the backward pass, through two places
     * in memory; NULL: they are kept in memory.  Borrowed until lt_engine_allocate. */
    const char *boundary_dir;
    int32_t loss_chunk;    /* rows of logits held at once by the loss; 0: chosen */
    size_t param_elements; /* length of the flat parameter buffer (adapters, trainable tensors) */
    /* A second backend, borrowed, on which the last device_layers decoder layers and the head run; NULL: none.  The
     * engine's own is then the host: it has the embedding, the layers below, every segment with an op that the device
     * cannot run, and the parameters and gradients of record; its programs run in the memory of this process. */
    struct lt_backend *device;
    int32_t device_layers;
};

/* Bytes by line, on one backend; the run allocates exactly these. */
struct lt_engine_memory {
    size_t params, grads; /* flat f32 buffers */
    size_t vectors;       /* norm weights and biases */
    size_t tables;        /* rope tables */
    size_t boundaries;    /* hidden states between layers and their gradients */
    size_t tape;          /* kept for the backward pass */
    size_t arena;         /* intermediates of the running program */
    size_t workspace;     /* kernels' own scratch */
    size_t inputs;        /* ids, positions, labels, losses */
    size_t stream;        /* weights that move through memory: two layers */
    size_t cache;         /* keys and values */
    size_t logits;
    size_t boundary_file; /* no memory: what boundary_dir will hold */
    size_t boundary_host; /* of this process, beside a device: what is on the way to that file and from it */
};
size_t lt_engine_memory_total(const struct lt_engine_memory *m); /* without what lies in files */

/* What reading of streamed weights took since lt_engine_allocate. */
struct lt_stream_times {
    uint64_t bytes;
    double reading, waiting; /* seconds: of the helper thread, and of the computation for it */
};

struct lt_engine;

/* Builds and compiles all programs.  The model (shapes, adapters and streamed tensors assigned; weights need not be
 * loaded) and the backend are borrowed.  LT_ERR_UNSUPPORTED for an op that no place can run, and for a trained tensor
 * that segments of two places share. */
enum lt_status lt_engine_create(struct lt_engine **e, struct lt_model *model, struct lt_backend *backend,
                                const struct lt_engine_options *opt, struct lt_error *err) LT_MUST_USE;
void lt_engine_destroy(struct lt_engine *e);
struct lt_backend *lt_engine_backend(const struct lt_engine *e); /* the engine's own */
struct lt_backend *lt_engine_device(const struct lt_engine *e); /* opt.device; NULL when nothing runs there */
const struct lt_engine_memory *lt_engine_memory(const struct lt_engine *e);
/* The same of opt.device; NULL when nothing runs there. */
const struct lt_engine_memory *lt_engine_device_memory(const struct lt_engine *e);
/* What runs on opt.device, and what it costs.  All 0 without one. */
struct lt_engine_placement {
    int layers; /* decoder layers there */
    bool head;
    int copies;        /* of hidden states and their gradients from one place to the other, a micro-batch */
    size_t copy_bytes; /* of all of these, when the micro-batch is full */
    size_t step_bytes; /* training: parameters that go there and gradients that come back, a step */
};
struct lt_engine_placement lt_engine_placement(const struct lt_engine *e);
/* Adds what lt_engine_allocate will make on a device (opt.device where there is one, else the engine's own backend), then
 * the buffers that streamed weights take in turn, which the first step makes.  tensor->weight says how weights will be
 * stored. */
void lt_engine_device_buffers(const struct lt_engine *e, struct lt_device_plan *p);
void lt_engine_device_streamed(const struct lt_engine *e, struct lt_device_plan *p);
void lt_engine_stream_times(const struct lt_engine *e, struct lt_stream_times *times);
/* Allocates every buffer and binds the model's loaded weights. */
enum lt_status lt_engine_allocate(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;

/* The flat parameters: write or read n f32 elements at an element offset. */
enum lt_status lt_engine_write_params(struct lt_engine *e, size_t offset, const float *src, size_t n,
                                      struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_read_params(struct lt_engine *e, size_t offset, float *dst, size_t n,
                                     struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_read_grads(struct lt_engine *e, size_t offset, float *dst, size_t n,
                                    struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_zero_grads(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
/* For the optimizer's program, which runs on the engine's own backend. */
struct lt_buffer *lt_engine_params(struct lt_engine *e);
struct lt_buffer *lt_engine_grads(struct lt_engine *e);
/* What lies in the buffer of the parameters was written by other hands than lt_engine_write_params. */
void lt_engine_params_changed(struct lt_engine *e);

/* A micro-batch, borrowed (the arrays of struct lt_batch). */
struct lt_tokens {
    int32_t n_tokens, n_labels;
    const int32_t *ids, *positions, *kv_begin, *kv_end;
    const uint32_t *row_key;
    const int32_t *label_rows, *labels;
    const int32_t *cache_slots; /* decode only */
};

/* The micro-batches of an optimizer step.  get() is called once for each, in order; its arrays must stay valid until
 * the next call. */
struct lt_micro_batches {
    int32_t count;
    enum lt_status (*get)(void *user, int32_t index, struct lt_tokens *t, struct lt_error *err);
    void *user;
};

/* Can more than one micro-batch go through a layer at a time?  Not when a tensor that two segments share is trained:
 * its gradient would be summed in another order. */
bool lt_engine_layer_major_possible(const struct lt_model *model);
/* Forward and backward of a step's micro-batches; gradients are added to the flat gradient buffer, those of the first
 * micro-batch first.  Micro-batches without a label are left out.  A device may only have begun when this returns.
 * LT_ERR_CANCELLED soon after lt_cancel_request(): some gradients are added then, others not. */
enum lt_status lt_engine_train(struct lt_engine *e, const struct lt_micro_batches *step,
                               const struct lt_step_params *params, struct lt_error *err) LT_MUST_USE;
/* Waits for the step: the sum of its cross entropies over all labels (double; in label order, then over the
 * micro-batches). */
enum lt_status lt_engine_loss(struct lt_engine *e, double *loss_sum, struct lt_error *err) LT_MUST_USE;
/* Loss only: per-label losses and argmax (each may be NULL).  LT_ERR_CANCELLED soon after lt_cancel_request(). */
enum lt_status lt_engine_eval(struct lt_engine *e, const struct lt_tokens *t, float *losses, int32_t *argmax,
                              struct lt_error *err) LT_MUST_USE;
/* Logits [n_labels, vocab] of the rows in label_rows; eval with opt.logits, or decode. */
enum lt_status lt_engine_logits(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_decode(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                struct lt_error *err) LT_MUST_USE;
/* The same for one token or a few: linear layers are computed as fast as their weights can be read, in another
 * arithmetic than a prompt's (docs/numerics.md).  Which of the two is called is the caller's decision, never one by the
 * number of tokens, so that a token has the same bits whatever else there is. */
enum lt_status lt_engine_decode_step(struct lt_engine *e, const struct lt_tokens *t, float *logits,
                                     struct lt_error *err) LT_MUST_USE;

#endif
