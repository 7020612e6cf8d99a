/* Weights stored unquantized: f32, f16, bf16. */
#ifndef LT_QUANT_PLAIN_H
#define LT_QUANT_PLAIN_H

#include <stdint.h>

#include "core/tensor/weight.h"

/* Flat stored elements [begin, begin+n) of an F32, F16 or BF16 weight, exactly. */
void lt_plain_decode(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);

#endif
