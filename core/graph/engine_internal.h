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

enum lt_pass { LT_PASS_TRAIN, LT_PASS_EVAL, LT_PASS_LOGITS, LT_PASS_DECODE, LT_PASS_COUNT };

struct lt_engine {
    struct lt_model *model;
    struct lt_backend *be;
    struct lt_engine_options opt;
    struct lt_engine_memory memory;
    int lowest; /* lowest trainable segment; segments from here on run backward */

    struct lt_stage **stages; /* distinct ones */
    size_t stage_count, stage_cap;
    struct lt_stage **of_segment[LT_PASS_COUNT]; /* [segments], NULL when the pass was not asked for */

    size_t tape_of_segment_max; /* bytes */
    size_t *tape_offset;        /* [segments] */
    int *boundary_slot;         /* [segments] slot that holds the output of the segment in training */
    int boundary_slots;
    size_t max_externs;

    struct lt_buffer *params, *grads, *vectors, *tables, *boundaries, *dboundaries, *tape, *arena, *workspace,
        *inputs, *cache, *logits;
    struct lt_device_weight **weights; /* [tensors] */
    size_t *vector_offset;             /* [tensors] bytes */
    struct lt_binding *bindings;       /* [max_externs] scratch of the running program */
};

enum lt_status lt_engine_compile(struct lt_engine *e, struct lt_error *err) LT_MUST_USE;
void lt_engine_plan_memory(struct lt_engine *e);
size_t lt_engine_boundary_bytes(const struct lt_engine *e);
size_t lt_engine_input_offset(const struct lt_engine *e, int which); /* enum lt_input, then loss and argmax */
size_t lt_engine_cache_bytes(const struct lt_engine *e);             /* keys (or values) of one layer */

#endif
