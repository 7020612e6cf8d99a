/* Insides of the optimizer, shared by its files. */
#ifndef LT_TRAIN_OPTIMIZER_INTERNAL_H
#define LT_TRAIN_OPTIMIZER_INTERNAL_H

#include "core/graph/program.h"
#include "core/train/optimizer.h"

/* Where the state of one parameter lies. */
struct lt_optimizer_slot {
    struct lt_optimizer_param param;
    bool codes; /* 8-bit */
    size_t
        state; /* first element in each f32 moment, or in each moment's codes (a multiple of LT_OPTIM_BLOCK) */
};

/* The state buffer: one region for each of LT_OPTIM_M ... LT_OPTIM_V_ABSMAX. */
struct lt_optimizer_layout {
    struct lt_optimizer_slot *slots; /* as the parameters were given */
    size_t count;
    size_t region[LT_OPTIM_COUNT]; /* offsets in bytes */
    size_t bytes;
};

struct lt_optimizer {
    struct lt_backend *be;
    struct lt_optimizer_config config;
    size_t elements;
    struct lt_optimizer_layout layout;
    struct lt_program norm, update;
    struct lt_compiled *norm_code, *update_code;
    struct lt_buffer *state, *norm_value, *workspace;
    struct lt_binding *bindings;
    size_t workspace_bytes;
    float norm_read; /* of the last step; on its way until lt_optimizer_norm */
    int64_t step;
    size_t written_bytes; /* of the state, by one op at most */
};

/* f32 tensors in the state of a parameter that has no codes. */
int lt_optimizer_moments(enum lt_optimizer_kind kind);

/* Fills the layout for o->config; slots are lt_free'd by the caller. */
enum lt_status lt_optimizer_lay_out(struct lt_optimizer *o, const struct lt_optimizer_param *params,
                                    size_t count, struct lt_error *err) LT_MUST_USE;

/* Whether one op can update both: b follows a without a gap in every buffer, with the same rules. */
bool lt_optimizer_adjacent(const struct lt_optimizer_slot *a, const struct lt_optimizer_slot *b);

#endif
