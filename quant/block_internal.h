/* What the block quantizers share: the scale of a block and the walk over blocks and groups. */
#ifndef LT_QUANT_BLOCK_INTERNAL_H
#define LT_QUANT_BLOCK_INTERNAL_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

/* max |x| over n elements.  Magnitudes of IEEE numbers order like their bits and NaN lies above
 * infinity, so that one NaN makes the result NaN instead of vanishing in the maximum. */
static inline float lt_block_absmax(const float *x, int64_t n)
{
    int32_t max = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        max = bits > max ? bits : max;
    }
    float absmax;
    memcpy(&absmax, &max, sizeof absmax);
    return absmax;
}

/* The factor that brings a block into [-1, 1]; 0 for a zero block, where 1/absmax would turn its
 * zeros into NaN. */
static inline float lt_block_reciprocal(float absmax)
{
    return absmax == 0.0f ? 0.0f : 1.0f / absmax;
}

/* Elements quantized at a time: a constant count lets compilers vectorise the comparisons without a
 * remainder loop.  Every legal block size is a multiple. */
enum { LT_QUANT_GROUP = 32 };

/* Codes of LT_QUANT_GROUP elements, scaled by reciprocal first, two a byte, high nibble first. */
typedef void (*lt_quant_group_fn)(uint8_t packed[LT_QUANT_GROUP / 2], const float x[LT_QUANT_GROUP],
                                  float reciprocal);

/* lt_nf4_quantize() and lt_fp4_quantize() for the format that `group` encodes. */
static inline void lt_quantize_blocks(uint8_t *packed, float *absmax, const float *x, int64_t n,
                                      int32_t blocksize, lt_quant_group_fn group)
{
    assert(n >= 0 && blocksize >= LT_QUANT_GROUP && (blocksize & (blocksize - 1)) == 0);
    float reciprocal = 0.0f;
    int64_t i = 0;
    for (; i < n; i += LT_QUANT_GROUP) {
        if (i % blocksize == 0) {
            float max = lt_block_absmax(x + i, n - i < blocksize ? n - i : blocksize);
            absmax[i / blocksize] = max;
            reciprocal = lt_block_reciprocal(max);
        }
        if (n - i < LT_QUANT_GROUP)
            break;
        group(packed + i / 2, x + i, reciprocal);
    }
    if (i >= n)
        return;
    /* A short last group, padded with zeros: an odd last element shares its byte with the code of 0. */
    float tail[LT_QUANT_GROUP] = {0};
    uint8_t tail_packed[LT_QUANT_GROUP / 2];
    memcpy(tail, x + i, (size_t)(n - i) * sizeof *x);
    group(tail_packed, tail, reciprocal);
    memcpy(packed + i / 2, tail_packed, (size_t)(n - i + 1) / 2);
}

#endif
