/* 4-bit block formats of bitsandbytes: NF4 and FP4, with and without double quantization.
 * QLoRA (Dettmers et al. 2023); byte-exact with bitsandbytes' CUDA rules. */
#ifndef LT_QUANT_NF4_H
#define LT_QUANT_NF4_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/tensor/weight.h"

extern const float lt_nf4_code[16];
extern const float lt_fp4_code[16];

enum { LT_NF4_BLOCKSIZE = 64, LT_NESTED_BLOCKSIZE = 256 };

static inline int64_t lt_quant_blocks(int64_t n, int64_t blocksize)
{
    return (n + blocksize - 1) / blocksize;
}

/* Codes of the n flat elements [0,n) of x: packed[(n+1)/2] (high nibble first, an odd last low nibble
 * holds the code of 0), absmax[ceil(n/blocksize)].  scale = 1/absmax, code of x*scale by strict
 * comparison with the f32 midpoints (FP4: the CUDA kernel's decimal thresholds on the magnitude); a zero
 * block gives absmax 0 and the code of 0.  A NaN has code 0 and makes its block's absmax NaN.
 * blocksize: a power of two >= 32.  Chunks of a larger matrix may be given separately when they start at
 * a block boundary: the bytes are those of the whole. */
void lt_nf4_quantize(uint8_t *packed, float *absmax, const float *x, int64_t n, int32_t blocksize);
void lt_fp4_quantize(uint8_t *packed, float *absmax, const float *x, int64_t n, int32_t blocksize);

/* Flat elements [begin, begin+n) of w to f32: code[nibble] * scale(block), one multiply.  Any begin. */
void lt_nf4_dequantize(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);

/* absmax[n] → codes[n], nested_absmax[ceil(n/256)], *offset = mean(absmax) (summed in double).
 * Signed dynamic map (lt_dynamic_map_signed), block 256, nearest code by the CUDA rule.  n > 0. */
void lt_double_quantize(uint8_t *codes, float *nested_absmax, float *offset, const float *absmax, int64_t n);
/* Scales of blocks [begin, begin+n) of a 4-bit weight in either representation. */
void lt_nf4_scales(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);

#endif
