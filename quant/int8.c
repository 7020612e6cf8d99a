#include "quant/int8.h"

#include <assert.h>

#include "core/tensor/dtype.h"
#include "quant/block_internal.h"

enum { CHUNK = 256 };

/* Nearest integer, ties to even, of |v| < 2^22: adding 1.5 * 2^23 leaves it in the low mantissa bits.
 * Unlike a conversion this is defined for the NaN that a non-finite weight brings. */
static inline int8_t nearest_int8(float v)
{
    float shifted = v + 0x1.8p+23f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (int8_t)(uint8_t)bits;
}

/* What brings codes to +-127; 127 times the reciprocal, as bitsandbytes has it, not the quotient. */
static float code_factor(float max)
{
    return max == 0.0f ? 0.0f : 1.0f / max * 127.0f;
}

static void quantize_row(int8_t *codes, const float *x, int64_t n, float factor)
{
    for (int64_t begin = 0; begin < n; begin += CHUNK) {
        int64_t len = n - begin < CHUNK ? n - begin : CHUNK;
        uint16_t half[CHUNK];
        float rounded[CHUNK];
        lt_convert_from_f32(half, x + begin, LT_F16, (size_t)len);
        lt_convert_to_f32(rounded, half, LT_F16, (size_t)len);
        for (int64_t i = 0; i < len; i++)
            codes[begin + i] = nearest_int8(rounded[i] * factor);
    }
}

void lt_int8_quantize(int8_t *codes, float *scale, const float *x, int64_t rows, int64_t cols)
{
    assert(rows >= 0 && cols >= 0);
    for (int64_t row = 0; row < rows; row++) {
        /* Rounding is monotonic: the largest rounded magnitude is the rounded largest magnitude. */
        float max = lt_f16_to_f32(lt_f32_to_f16(lt_block_absmax(x + row * cols, cols)));
        scale[row] = max;
        quantize_row(codes + row * cols, x + row * cols, cols, code_factor(max));
    }
}

void lt_int8_dequantize(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    assert(w->format == LT_WEIGHT_INT8 && !w->transposed && begin >= 0 && n >= 0);
    const int8_t *codes = w->data;
    for (int64_t done = 0; done < n;) {
        int64_t at = begin + done;
        int64_t row = at / w->cols;
        int64_t len = (row + 1) * w->cols - at;
        if (len > n - done)
            len = n - done;
        float scale = w->absmax[row];
        for (int64_t i = 0; i < len; i++)
            dst[done + i] = (float)codes[at + i] * scale * (1.0f / 127.0f);
        done += len;
    }
}

static float to_f16(float x)
{
    return lt_f16_to_f32(lt_f32_to_f16(x));
}

/* Magnitudes order like their bits, NaN above all. */
static int32_t magnitude(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

static int32_t outlier_magnitude(float threshold)
{
    return threshold > 0.0f ? magnitude(threshold) : INT32_MAX;
}

bool lt_int8_is_outlier(float x, float threshold)
{
    return magnitude(to_f16(x)) >= outlier_magnitude(threshold);
}

int64_t lt_int8_quantize_row(int8_t *codes, float *scale, const float *x, int64_t n, float threshold,
                             const uint8_t *skip)
{
    const int32_t limit = outlier_magnitude(threshold);
    int32_t max = 0;
    int64_t outliers = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t m = magnitude(to_f16(x[i]));
        if (m >= limit)
            outliers++;
        else if (m > max)
            max = m;
    }
    memcpy(scale, &max, sizeof *scale);
    const float factor = code_factor(*scale);
    for (int64_t i = 0; i < n; i++) {
        float v = to_f16(x[i]);
        bool zero = magnitude(v) >= limit || (skip && skip[i]);
        codes[i] = zero ? 0 : nearest_int8(v * factor);
    }
    return outliers;
}
