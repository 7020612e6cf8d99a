/* Weights that a checkpoint already holds in bitsandbytes' 4-bit form (layout: quant/bnb_checkpoint.h), or in the one of
 * LLM.int8(): P.weight I8 [out, in], P.SCB F32 [out], P.weight_format U8 scalar (0: row by row; older files lack it). */
#ifndef LT_MODELS_BNB_WEIGHTS_H
#define LT_MODELS_BNB_WEIGHTS_H

#include "core/io/checkpoint.h"
#include "core/tensor/weight_source.h"
#include "quant/bnb_checkpoint.h"

/* The stored parts; absent ones have a NULL tensor. */
struct lt_bnb_weight {
    struct lt_bnb_state state;
    struct lt_checkpoint_tensor codes, absmax, map, nested_absmax, nested_map;
};

/* Looks for the state, or the row scales, of tensor `name` ("P.weight").  *found false: not quantized so.  Otherwise the logical shape
 * must be [rows, cols], and all parts must be there with the dtypes and sizes that follow from the state; else
 * LT_ERR_FORMAT naming the part. */
enum lt_status lt_bnb_weight_find(struct lt_bnb_weight *out, const struct lt_checkpoint *ck, const char *name,
                                  int64_t rows, int64_t cols, bool *found, struct lt_error *err) LT_MUST_USE;

/* Parts that cannot be read in place because the file has them unaligned: their bytes, each rounded up to
 * `alignment`; and the bytes of those that can. */
void lt_bnb_weight_bytes(const struct lt_bnb_weight *b, size_t alignment, size_t *copied, size_t *mapped);
/* What the weight is, and its parts in their files: *w has no pointers until lt_weight_source_bind. */
void lt_bnb_weight_source(struct lt_weight *w, struct lt_weight_source *source,
                          const struct lt_bnb_weight *b);
/* Fills *w; copied parts go to `memory` in the order and with the rounding of lt_bnb_weight_bytes. */
enum lt_status lt_bnb_weight_bind(struct lt_weight *w, const struct lt_bnb_weight *b, size_t alignment,
                                  unsigned char *memory, struct lt_error *err) LT_MUST_USE;

#endif
