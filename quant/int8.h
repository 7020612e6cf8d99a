/* LLM.int8() weight storage: int8 codes, one f32 scale a row (an f16 value). */
#ifndef LT_QUANT_INT8_H
#define LT_QUANT_INT8_H

#include <stdint.h>

#include "core/tensor/weight.h"

/* Row-wise: the weight is rounded to f16 first, scale = max|row|, code = RNE(w * (127 / scale)).  A zero
 * row gives scale 0 and codes 0; magnitudes beyond f16 and NaN make the scale infinite or NaN. */
void lt_int8_quantize(int8_t *codes, float *scale, const float *x, int64_t rows, int64_t cols);
/* Flat elements [begin, begin+n): (code * scale[row]) * (1/127).  The weight is never `transposed`: its
 * scales belong to output features. */
void lt_int8_dequantize(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);

#endif
