/* Rotary position embedding: frequencies and the rows of the tables that the ROPE op reads.
 * Formulas: transformers' modeling_rope_utils, in f32 as there. */
#ifndef LT_MODELS_ROPE_H
#define LT_MODELS_ROPE_H

#include <stdint.h>

#include "core/base/status.h"
#include "models/config_common.h"

struct lt_rope {
    int32_t rotary;       /* R: leading elements of a head that are rotated; even */
    float *inv_freq;      /* [R/2] */
    float *inv_freq_long; /* [R/2] longrope: for runs with sequences above original_positions; else NULL */
    int32_t original_positions;
    int32_t max_positions;  /* what the scaling allows: max_position_embeddings, or less for "dynamic", whose
                            * frequencies are constant up to there only */
    float attention_factor; /* multiplies cosines and sines */
};

/* Reads rope_theta, rope_scaling, partial_rotary_factor or rope_parameters.  theta_fallback: class default.
 * Types default, linear, dynamic, llama3, yarn, longrope. */
enum lt_status lt_rope_init(struct lt_rope *rope, const struct lt_config *cfg, double theta_fallback,
                            int32_t head_dim, int32_t max_positions, struct lt_error *err) LT_MUST_USE;
void lt_rope_deinit(struct lt_rope *rope); /* zeroed ones are accepted */

/* R/2 cosines, then R/2 sines of `position` in a run whose longest sequence is run_positions. */
void lt_rope_row(const struct lt_rope *rope, int32_t run_positions, int64_t position, float *row);

#endif
