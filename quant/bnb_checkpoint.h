/* The quant_state of a bitsandbytes 4-bit weight in a safetensors checkpoint.
 *
 * A weight P.weight of n = shape[0] * shape[1] elements is stored as P.weight (U8 [(n+1)/2, 1]),
 * P.weight.absmax (F32, or U8 when nested, [blocks]), P.weight.quant_map (F32 [16]), when nested
 * P.weight.nested_absmax (F32 [ceil(blocks/256)]) and P.weight.nested_quant_map (F32 [256]), and
 * P.weight<lt_bnb_state_suffix()>: a U8 tensor that holds the JSON text read and written here. */
#ifndef LT_QUANT_BNB_CHECKPOINT_H
#define LT_QUANT_BNB_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/strbuf.h"
#include "core/tensor/dtype.h"
#include "core/tensor/weight.h"

struct lt_bnb_state {
    enum lt_weight_format quant_type; /* LT_WEIGHT_NF4 or LT_WEIGHT_FP4 */
    int32_t blocksize;                /* a power of two, 32 … 4096 */
    enum lt_dtype dtype;              /* before quantization: LT_F32, LT_F16 or LT_BF16 */
    int64_t shape[2];                 /* [out, in], both positive; the product fits int64_t */
    /* Double quantization; the other three are zero (LT_F32) without it. */
    bool nested;
    int32_t nested_blocksize;   /* LT_NESTED_BLOCKSIZE, the only one there are kernels for */
    enum lt_dtype nested_dtype; /* LT_F32 */
    float nested_offset;
};

/* Name of the JSON tensor behind "P.weight": ".quant_state.bitsandbytes__nf4" or "…__fp4". */
const char *lt_bnb_state_suffix(enum lt_weight_format quant_type);

/* Reads the n bytes at json.  `where` (file and tensor) names them in errors: LT_ERR_FORMAT when
 * they are not such an object, LT_ERR_UNSUPPORTED for another quantization type, element type, rank or
 * nested block size.  Unknown keys are ignored; a nested_blocksize of 0 means not nested. */
enum lt_status lt_bnb_state_parse(struct lt_bnb_state *out, const void *json, size_t n, const char *where,
                                  struct lt_error *err) LT_MUST_USE;

/* Appends the JSON text as bitsandbytes writes it (Python's json.dumps, its keys in its order). */
void lt_bnb_state_format(struct lt_strbuf *sb, const struct lt_bnb_state *state);

#endif
