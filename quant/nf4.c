#include "quant/nf4.h"

#include <assert.h>

#include "quant/block_internal.h"

const float lt_nf4_code[16] = {
    -0x1.000000p+0f, -0x1.647362p-1f, -0x1.0cd660p-1f, -0x1.946540p-2f,
    -0x1.23449ap-2f, -0x1.7a6a7ep-3f, -0x1.74f0e2p-4f, 0.0f,
    0x1.45f5fep-4f,  0x1.4995c6p-3f,  0x1.f809bap-3f,  0x1.5a0674p-2f,
    0x1.c34970p-2f,  0x1.200f56p-1f,  0x1.722766p-1f,  0x1.000000p+0f,
};

/* Number of decision boundaries strictly below s.  A boundary is the f32 midpoint of its two codes. */
static inline int32_t nf4_index(float s)
{
    return (s > -0x1.b239b0p-1f) + (s > -0x1.38a4e0p-1f) + (s > -0x1.d70900p-2f) + (s > -0x1.5bd4ecp-2f) +
           (s > -0x1.e079d8p-3f) + (s > -0x1.1a7178p-3f) + (s > -0x1.74f0e2p-5f) + (s > 0x1.45f5fep-5f) +
           (s > 0x1.ec90c4p-4f) + (s > 0x1.a0cfc0p-3f) + (s > 0x1.2b05a8p-2f) + (s > 0x1.8ea7f2p-2f) +
           (s > 0x1.00da08p-1f) + (s > 0x1.491b5ep-1f) + (s > 0x1.b913b4p-1f);
}

static void nf4_group(uint8_t packed[LT_QUANT_GROUP / 2], const float x[LT_QUANT_GROUP], float reciprocal)
{
    int32_t index[LT_QUANT_GROUP];
    for (int i = 0; i < LT_QUANT_GROUP; i++)
        index[i] = nf4_index(x[i] * reciprocal);
    for (int i = 0; i < LT_QUANT_GROUP / 2; i++)
        packed[i] = (uint8_t)(index[2 * i] << 4 | index[2 * i + 1]);
}

void lt_nf4_quantize(uint8_t *packed, float *absmax, const float *x, int64_t n, int32_t blocksize)
{
    lt_quantize_blocks(packed, absmax, x, n, blocksize, nf4_group);
}

/* Elements [begin, begin+n) of one block, by the 16 products that can occur in it. */
static void decode_block(float *dst, const uint8_t *packed, int64_t begin, int64_t n, const float product[16])
{
    int64_t i = 0;
    if ((begin & 1) != 0)
        dst[i++] = product[packed[begin / 2] & 15];
    const uint8_t *p = packed + (begin + i) / 2;
    for (; i + 2 <= n; i += 2, p++) {
        dst[i] = product[*p >> 4];
        dst[i + 1] = product[*p & 15];
    }
    if (i < n)
        dst[i] = product[*p >> 4];
}

void lt_nf4_dequantize(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    assert(w->format == LT_WEIGHT_NF4 || w->format == LT_WEIGHT_FP4);
    assert(begin >= 0 && n >= 0 && w->code && w->blocksize > 0);
    for (int64_t done = 0; done < n;) {
        int64_t at = begin + done;
        int64_t block = at / w->blocksize;
        int64_t len = (block + 1) * w->blocksize - at;
        if (len > n - done)
            len = n - done;
        float scale, product[16];
        lt_nf4_scales(&scale, w, block, 1);
        for (int i = 0; i < 16; i++)
            product[i] = w->code[i] * scale;
        decode_block(dst + done, w->data, at, len, product);
        done += len;
    }
}
