/* A weight matrix in any storage format, as the compute kernels see it.
 *
 * Logical shape [rows, cols], row-major; for a linear layer rows = out features and cols = in
 * features, y = x·Wᵀ.  `transposed` marks GPT-2's Conv1D storage [in, out]: the bytes are those of the
 * [cols, rows] matrix; rows and cols still give the logical [out, in] shape.
 * A weight borrows all its memory. */
#ifndef LT_TENSOR_WEIGHT_H
#define LT_TENSOR_WEIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lt_weight_format {
    LT_WEIGHT_F32,
    LT_WEIGHT_F16,
    LT_WEIGHT_BF16,
    LT_WEIGHT_NF4,  /* 4-bit codes, two a byte, high nibble first; one scale per block of the flat matrix */
    LT_WEIGHT_FP4,  /* as NF4 with the FP4 code table */
    LT_WEIGHT_INT8, /* LLM.int8(): int8 codes and one f32 scale a row: W = code * scale / 127 */
    LT_WEIGHT_FORMAT_COUNT
};

struct lt_weight {
    enum lt_weight_format format;
    bool transposed;
    int64_t rows, cols;
    const void *data; /* codes or elements; at least 2-byte aligned for F16/BF16, 4 for F32 */

    /* NF4 / FP4: block scales.  Exactly one of absmax and absmax_codes is set.
     * Plain: absmax[blocks].  Double-quantized: scale(b) = nested_code[absmax_codes[b]] *
     * nested_absmax[b / 256] + nested_offset (f32 multiply, then f32 add).  INT8: absmax[rows]. */
    int32_t blocksize; /* elements, a power of two >= 32; 64 by default */
    const float *absmax;
    const uint8_t *absmax_codes;
    const float *nested_absmax; /* [ceil(blocks / 256)] */
    const float *nested_code;   /* [256], sorted */
    float nested_offset;
    const float *code; /* [16] NF4/FP4 code table */
};

static inline bool lt_weight_is_quantized(const struct lt_weight *w)
{
    return w->format >= LT_WEIGHT_NF4;
}

const char *lt_weight_format_name(enum lt_weight_format format); /* "f32", "nf4", … */
/* Bytes of `data` for a matrix of n = rows*cols elements. */
size_t lt_weight_data_bytes(enum lt_weight_format format, int64_t rows, int64_t cols);

#endif
