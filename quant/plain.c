#include "quant/plain.h"

#include <assert.h>

#include "core/tensor/dtype.h"

void lt_plain_decode(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    assert(!lt_weight_is_quantized(w) && begin >= 0 && n >= 0);
    enum lt_dtype dtype = w->format == LT_WEIGHT_F32 ? LT_F32 : w->format == LT_WEIGHT_F16 ? LT_F16 : LT_BF16;
    size_t size = lt_dtype_bits(dtype) / 8;
    const unsigned char *bytes = w->data;
    lt_convert_to_f32(dst, bytes + (size_t)begin * size, dtype, (size_t)n);
}
