/* Insides of the engine, shared by its compile, memory and run files. */
#ifndef LT_GRAPH_ENGINE_INTERNAL_H
#define LT_GRAPH_ENGINE_INTERNAL_H

#include "core/graph/engine.h"

/* One distinct program pair; segments of the same structure share it. */
struct lt_stage {
    struct lt_program fwd, bwd;
    struct lt_compiled *fwd_code, *bwd_code;
    bool has_bwd;
    size_t tape_bytes;
};

enum lt_pass { LT_PASS_TRAIN, LT_PASS_EVAL, LT_PASS_LOGITS, LT_PASS_DECODE, LT_PASS_STEP, LT_PASS_COUNT };

struct lt_engine {
    struct lt_model *model;
    struct lt_backend *be;
    struct lt_engine_options opt;
    struct lt_engine_memory memory;
    int lowest; /* lowest trainable segment; segments from here on run backward */

    struct lt_stage **stages; /* distinct ones */
    size_t stage_count, stage_cap;
    struct lt_stage **of_segment[LT_PASS_COUNT]; /* [segments], NULL when the pass was not asked for */

    int32_t group;       /* micro-batches that go through a layer together */
    int first_kept;      /* outputs of this segment on are kept for the backward pass */
    size_t *tape_offset; /* [segments] of the group's first micro-batch */
    size_t tape_bytes;   /* of one micro-batch */
    size_t max_externs;
    struct lt_live_rows {
        int32_t tokens, labels;
    } * live; /* [group] */

    struct lt_step_losses {
        float *values;   /* [cap][capacity.labels], by micro-batch; on their way until lt_engine_loss */
        int32_t *labels; /* [cap] */
        int32_t count, cap;
    } losses; /* of the last step */

    struct lt_buffer *params, *grads, *vectors, *tables, *boundaries, *tape, *arena, *workspace, *inputs,
        *cache, *logits;
    struct lt_device_weight **weights; /* [tensors] */
    struct lt_weight_stream *stream;   /* NULL: no tensor is streamed */
    struct lt_boundary_file *boundary_file;
    size_t *vector_offset;       /* [tensors] bytes */
    struct lt_binding *bindings; /* [max_externs] scratch of the running program */
};

enum lt_status lt_engine_compile(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_plan_memory(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
/* Offset of an input (enum lt_input, then loss and argmax) of a micro-batch of the group. */
size_t lt_engine_input_offset(const struct lt_engine *e, int which, int32_t micro_batch);
size_t lt_engine_cache_bytes(const struct lt_engine *e); /* keys (or values) of one layer */

/* ---- boundaries: what lies between two segments (engine_boundary.c) ---- */

enum lt_status lt_engine_plan_boundaries(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
size_t lt_engine_boundary_bytes(const struct lt_engine *e); /* one slot */
/* Bytes from the start of the boundary buffer to the output of a segment, and to the gradient of that output. */
size_t lt_engine_hidden_offset(const struct lt_engine *e, enum lt_pass pass, int segment,
                               int32_t micro_batch);
size_t lt_engine_dhidden_offset(const struct lt_engine *e, int segment, int32_t micro_batch);

/* ---- kept boundaries in a file (engine_boundary_file.c); without opt.boundary_dir these do nothing ---- */

enum lt_status lt_engine_boundary_file_create(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
void lt_engine_boundary_file_destroy(struct lt_engine *e);
/* Before anything writes to the boundary buffer at this offset: what goes to the file from there has left. */
enum lt_status lt_engine_boundary_settle(struct lt_engine *e, size_t offset, struct lt_error *err)
    LT_MUST_USE;
/* The output of a segment is there: begins to write it, when it is one that is kept. */
void lt_engine_boundary_put(struct lt_engine *e, int segment, int32_t micro_batch);
/* All of the first n micro-batches' were put: ends the writing and begins to read in the order of the backward pass. */
enum lt_status lt_engine_boundary_turn(struct lt_engine *e, int32_t n, struct lt_error *err) LT_MUST_USE;
/* *offset: where the output of a segment lies for the backward pass; begins to read the next one. */
enum lt_status lt_engine_boundary_get(struct lt_engine *e, int segment, int32_t micro_batch, size_t *offset,
                                      struct lt_error *err) LT_MUST_USE;

/* ---- weights that are read when they are needed (engine_stream.c) ---- */

/* Bytes of the two slots; 0 when no tensor of the model is streamed. */
size_t lt_engine_stream_bytes(const struct lt_model *model);
enum lt_status lt_engine_stream_create(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
void lt_engine_stream_destroy(struct lt_engine *e);
/* Brings the weights of a segment into memory and binds them, then begins to read those of `next`. */
enum lt_status lt_engine_take_weights(struct lt_engine *e, int segment, int next, struct lt_error *err)
    LT_MUST_USE;

/* ---- running (engine_run.c) ---- */

enum lt_status lt_engine_upload(struct lt_engine *e, const struct lt_tokens *t, int32_t micro_batch,
                                struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_run_forward(struct lt_engine *e, enum lt_pass pass, int segment, int32_t micro_batch,
                                     const struct lt_step_params *params, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_run_backward(struct lt_engine *e, int segment, int32_t micro_batch,
                                      const struct lt_step_params *params, struct lt_error *err) LT_MUST_USE;

#endif
