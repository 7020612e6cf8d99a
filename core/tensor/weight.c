#include "core/tensor/weight.h"

#include "core/base/checked.h"

const char *lt_weight_format_name(enum lt_weight_format format)
{
    static const char *const names[LT_WEIGHT_FORMAT_COUNT] = {
        [LT_WEIGHT_F32] = "f32", [LT_WEIGHT_F16] = "f16", [LT_WEIGHT_BF16] = "bf16",
        [LT_WEIGHT_NF4] = "nf4", [LT_WEIGHT_FP4] = "fp4", [LT_WEIGHT_INT8] = "int8",
    };
    return (unsigned)format < LT_WEIGHT_FORMAT_COUNT ? names[format] : "?";
}

size_t lt_weight_data_bytes(enum lt_weight_format format, int64_t rows, int64_t cols)
{
    /* What does not fit any memory gives SIZE_MAX, larger than every real file or budget. */
    size_t n, bytes;
    if (rows < 0 || cols < 0 || (uint64_t)rows > SIZE_MAX || (uint64_t)cols > SIZE_MAX ||
        !lt_mul_size((size_t)rows, (size_t)cols, &n))
        return SIZE_MAX;
    switch (format) {
    case LT_WEIGHT_F32:
        return lt_mul_size(n, 4, &bytes) ? bytes : SIZE_MAX;
    case LT_WEIGHT_F16:
    case LT_WEIGHT_BF16:
        return lt_mul_size(n, 2, &bytes) ? bytes : SIZE_MAX;
    case LT_WEIGHT_NF4:
    case LT_WEIGHT_FP4:
        return n / 2 + n % 2;
    case LT_WEIGHT_INT8:
        return n;
    case LT_WEIGHT_FORMAT_COUNT:
        break;
    }
    return SIZE_MAX;
}
