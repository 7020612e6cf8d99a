/* Insides of the engine, shared by its compile, memory and run files. */
#ifndef LT_GRAPH_ENGINE_INTERNAL_H
#define LT_GRAPH_ENGINE_INTERNAL_H

#include "core/graph/engine.h"

/* A tensor's part of the flat buffers, or several that follow one another, and where a place has it.  Elements. */
struct lt_param_range {
    size_t first, count, at;
};

/* A backend, and what the segments that run there hold.  Without opt.device there is the host alone, whatever it is. */
enum lt_place_id { LT_PLACE_HOST, LT_PLACE_DEVICE, LT_PLACES };
struct lt_place {
    struct lt_backend *be; /* NULL: no such place */
    struct lt_engine_memory memory;
    struct lt_buffer *params, *grads, *vectors, *tables, *boundaries, *tape, *arena, *workspace, *inputs,
        *cache, *logits;
    int *kept;                     /* [segments] which of the kept outputs here this one is; -1: not kept */
    size_t tape_bytes;             /* of one micro-batch */
    struct lt_param_range *ranges; /* by first; the device's: the host has all parameters where they are */
    size_t range_count, range_cap;
};

/* One distinct program pair; segments of the same structure in the same place share it. */
struct lt_stage {
    enum lt_place_id place;
    struct lt_program fwd, bwd;
    struct lt_compiled *fwd_code, *bwd_code;
    bool has_bwd;
    size_t tape_bytes;
};

enum lt_pass { LT_PASS_TRAIN, LT_PASS_EVAL, LT_PASS_LOGITS, LT_PASS_DECODE, LT_PASS_STEP, LT_PASS_COUNT };

struct lt_engine {
    struct lt_model *model;
    struct lt_place places[LT_PLACES];
    enum lt_place_id *place_of; /* [segments] */
    bool params_changed;        /* since the device got them */
    struct lt_engine_options opt;
    int lowest; /* lowest trainable segment; segments from here on run backward */

    struct lt_stage **stages; /* distinct ones */
    size_t stage_count, stage_cap;
    struct lt_stage **of_segment[LT_PASS_COUNT]; /* [segments], NULL when the pass was not asked for */

    int32_t group;       /* micro-batches that go through a layer together */
    int first_kept;      /* outputs of this segment on are kept for the backward pass */
    size_t *tape_offset; /* [segments] of the group's first micro-batch, in its place */
    int *cache_index;    /* [segments] among the decoder layers of its place */
    size_t max_externs;
    struct lt_live_rows {
        int32_t tokens, labels;
    } * live; /* [group] */

    struct lt_step_losses {
        float *values;   /* [cap][capacity.labels], by micro-batch; on their way until lt_engine_loss */
        int32_t *labels; /* [cap] */
        int32_t count, cap;
    } losses; /* of the last step */

    struct lt_device_weight **weights; /* [tensors] each in the place of its segment */
    struct lt_weight_stream *stream;   /* NULL: no tensor is streamed */
    struct lt_boundary_file *boundary_file;
    size_t *vector_offset;       /* [tensors] bytes, in the place of its segment */
    struct lt_binding *bindings; /* [max_externs] scratch of the running program */
};

static inline struct lt_place *lt_engine_place(struct lt_engine *e, int segment)
{
    return &e->places[e->place_of[segment]];
}

/* Where losses, argmax and logits are. */
static inline struct lt_place *lt_engine_head_place(struct lt_engine *e)
{
    return lt_engine_place(e, e->model->layers + 1);
}

/* Compiles all programs, and says where each segment runs. */
enum lt_status lt_engine_compile(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_engine_plan_memory(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
/* Offset of an input (enum lt_input, then loss and argmax) of a micro-batch of the group. */
size_t lt_engine_input_offset(const struct lt_engine *e, int which, int32_t micro_batch);
size_t lt_engine_cache_bytes(const struct lt_engine *e); /* keys (or values) of one layer */

/* ---- two places (engine_place.c) ---- */

/* The tensor whose weight a tensor is bound to: the one it shares where both are in the same place. */
int lt_engine_weight_of(const struct lt_engine *e, int tensor);
/* Checks that the device's segments can be there, and finds their parts of the flat buffers. */
enum lt_status lt_engine_place_params(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
/* Where a place has this element of the flat buffers. */
size_t lt_engine_param_at(const struct lt_place *p, size_t element);
/* Before a program on the device: its parameters are those of record. */
enum lt_status lt_engine_send_params(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
/* At the end of a step: the device's gradients are in the buffer of record. */
enum lt_status lt_engine_collect_grads(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
/* Copies the live rows of a micro-batch from a boundary in the place of one segment to one in that of another; nothing
 * when it is the same place. */
enum lt_status lt_engine_cross(struct lt_engine *e, int from, size_t from_offset, int to, size_t to_offset,
                               int32_t micro_batch, struct lt_error *err) LT_MUST_USE;

/* ---- boundaries: what lies between two segments (engine_boundary.c) ---- */

enum lt_status lt_engine_plan_boundaries(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
size_t lt_engine_boundary_bytes(const struct lt_engine *e);                  /* one slot */
size_t lt_engine_live_bytes(const struct lt_engine *e, int32_t micro_batch); /* of its live rows */
/* Bytes from the start of a place's boundary buffer to the output of a segment, and to the gradient of that output. */
size_t lt_engine_hidden_offset(const struct lt_engine *e, enum lt_place_id place, enum lt_pass pass,
                               int segment, int32_t micro_batch);
size_t lt_engine_dhidden_offset(const struct lt_engine *e, int segment, int32_t micro_batch);

/* ---- kept boundaries in a file (engine_boundary_file.c); without opt.boundary_dir these do nothing ---- */

enum lt_status lt_engine_boundary_file_create(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
void lt_engine_boundary_file_destroy(struct lt_engine *e);
/* Before anything writes to the boundary buffer at this offset: what goes to the file from there has left. */
enum lt_status lt_engine_boundary_settle(struct lt_engine *e, size_t offset, struct lt_error *err)
    LT_MUST_USE;
/* The output of a segment is there: begins to write it, when it is one that is kept. */
enum lt_status lt_engine_boundary_put(struct lt_engine *e, int segment, int32_t micro_batch,
                                      struct lt_error *err) LT_MUST_USE;
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
