/* Double quantization: the f32 block scales of a 4-bit weight stored as 8-bit codes. */
#include <assert.h>

#include "quant/block_internal.h"
#include "quant/dynamic_map.h"
#include "quant/nf4.h"

void lt_double_quantize(uint8_t *codes, float *nested_absmax, float *offset, const float *absmax, int64_t n)
{
    assert(n > 0);
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)absmax[i];
    float mean = (float)(sum / (double)n);
    *offset = mean;

    for (int64_t begin = 0; begin < n; begin += LT_NESTED_BLOCKSIZE) {
        int64_t len = n - begin < LT_NESTED_BLOCKSIZE ? n - begin : LT_NESTED_BLOCKSIZE;
        float centred[LT_NESTED_BLOCKSIZE];
        for (int64_t i = 0; i < len; i++)
            centred[i] = absmax[begin + i] - mean;
        float max = lt_block_absmax(centred, len);
        float reciprocal = lt_block_reciprocal(max);
        nested_absmax[begin / LT_NESTED_BLOCKSIZE] = max;
        for (int64_t i = 0; i < len; i++)
            codes[begin + i] = lt_dynamic_nearest(lt_dynamic_map_signed, centred[i] * reciprocal);
    }
}

void lt_nf4_scales(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    assert(begin >= 0 && n >= 0 && !w->absmax != !w->absmax_codes);
    if (w->absmax) {
        memcpy(dst, w->absmax + begin, (size_t)n * sizeof *dst);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t b = begin + i;
        float centred = w->nested_code[w->absmax_codes[b]] * w->nested_absmax[b / LT_NESTED_BLOCKSIZE];
        dst[i] = centred + w->nested_offset;
    }
}
