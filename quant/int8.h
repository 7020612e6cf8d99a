/* LLM.int8() weight storage: int8 codes, one f32 scale a row (an f16 value). */
#ifndef LT_QUANT_INT8_H
#define LT_QUANT_INT8_H

#include <stdbool.h>
#include <stdint.h>

#include "core/tensor/weight.h"

/* Rows are no longer, so that 32 bits hold a sum of products of codes. */
enum { LT_INT8_MAX_COLS = 1 << 17 };

/* Row-wise: the weight is rounded to f16 first, scale = max|row|, code = RNE(w * (1 / scale * 127)).  A zero
 * row gives scale 0 and codes 0; magnitudes beyond f16 and NaN make the scale infinite or NaN. */
void lt_int8_quantize(int8_t *codes, float *scale, const float *x, int64_t rows, int64_t cols);
/* Flat elements [begin, begin+n): (code * scale[row]) * (1/127).  The weight is never `transposed`: its
 * scales belong to output features. */
void lt_int8_dequantize(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);

/* An activation row of n elements, rounded to f16 first.  Outlier entries are those with |x| >= threshold (NaN is one;
 * threshold 0: there are none); they have code 0, as have entries in columns c with skip[c] != 0 (NULL: none).
 * scale = max |x| of all entries that are no outliers, code = RNE(x * (1 / scale * 127)); without such entries the scale
 * is 0.  Returns the number of outlier entries. */
int64_t lt_int8_quantize_row(int8_t *codes, float *scale, const float *x, int64_t n, float threshold,
                             const uint8_t *skip);
/* Whether x is an outlier there. */
bool lt_int8_is_outlier(float x, float threshold);

#endif
