/* FP4 quantization.  Decoding is that of NF4 with the other code table (nf4.c). */
#include "quant/nf4.h"

#include "quant/block_internal.h"

/* Bit 3 is the sign; the magnitudes are 0, 0.0625, 8, 12, 4, 6, 2, 3 twelfths. */
const float lt_fp4_code[16] = {
    0.0f,
    0x1.555556p-8f,
    0x1.555556p-1f,
    0x1.000000p+0f,
    0x1.555556p-2f,
    0x1.000000p-1f,
    0x1.555556p-3f,
    0x1.000000p-2f,
    -0.0f,
    -0x1.555556p-8f,
    -0x1.555556p-1f,
    -0x1.000000p+0f,
    -0x1.555556p-2f,
    -0x1.000000p-1f,
    -0x1.555556p-3f,
    -0x1.000000p-2f,
};

/* Code of the r-th smallest magnitude. */
static const uint8_t code_of_rank[8] = {0, 1, 6, 7, 4, 5, 2, 3};

/* Rank of |s| among the magnitudes, plus 8 when s is negative.  The thresholds are the decimal
 * literals of the CUDA kernel, which are not quite the midpoints of the codes. */
static inline int32_t fp4_rank(float s)
{
    float a = s < 0.0f ? -s : s;
    return (a > 0.00260417f) + (a > 0.0859375f) + (a > 0.20833333f) + (a > 0.29166667f) + (a > 0.4166667f) +
           (a > 0.583333f) + (a > 0.8333333f) + (s < 0.0f ? 8 : 0);
}

static uint8_t fp4_code_of(int32_t rank)
{
    return (uint8_t)(code_of_rank[rank & 7] | (rank & 8));
}

static void fp4_group(uint8_t packed[LT_QUANT_GROUP / 2], const float x[LT_QUANT_GROUP], float reciprocal)
{
    int32_t rank[LT_QUANT_GROUP];
    for (int i = 0; i < LT_QUANT_GROUP; i++)
        rank[i] = fp4_rank(x[i] * reciprocal);
    for (int i = 0; i < LT_QUANT_GROUP / 2; i++)
        packed[i] = (uint8_t)(fp4_code_of(rank[2 * i]) << 4 | fp4_code_of(rank[2 * i + 1]));
}

void lt_fp4_quantize(uint8_t *packed, float *absmax, const float *x, int64_t n, int32_t blocksize)
{
    lt_quantize_blocks(packed, absmax, x, n, blocksize, fp4_group);
}
