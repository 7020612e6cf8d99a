#include "core/tensor/dtype.h"

#include <assert.h>

static const struct {
    const char *name;
    unsigned bits;
} dtypes[LT_DTYPE_COUNT] = {
    [LT_F32] = {"F32", 32},
    [LT_F16] = {"F16", 16},
    [LT_BF16] = {"BF16", 16},
    [LT_F64] = {"F64", 64},
    [LT_I64] = {"I64", 64},
    [LT_I32] = {"I32", 32},
    [LT_I16] = {"I16", 16},
    [LT_I8] = {"I8", 8},
    [LT_U64] = {"U64", 64},
    [LT_U32] = {"U32", 32},
    [LT_U16] = {"U16", 16},
    [LT_U8] = {"U8", 8},
    [LT_BOOL] = {"BOOL", 8},
    [LT_F8_E4M3] = {"F8_E4M3", 8},
    [LT_F8_E5M2] = {"F8_E5M2", 8},
    [LT_F8_E8M0] = {"F8_E8M0", 8},
    [LT_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [LT_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [LT_C64] = {"C64", 64},
    [LT_F4] = {"F4", 4},
    [LT_F6_E2M3] = {"F6_E2M3", 6},
    [LT_F6_E3M2] = {"F6_E3M2", 6},
};

const char *lt_dtype_name(enum lt_dtype dtype)
{
    return (unsigned)dtype < LT_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

bool lt_dtype_from_name(const char *name, enum lt_dtype *dtype)
{
    for (int i = 0; i < LT_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *dtype = (enum lt_dtype)i;
            return true;
        }
    }
    return false;
}

unsigned lt_dtype_bits(enum lt_dtype dtype)
{
    assert((unsigned)dtype < LT_DTYPE_COUNT);
    return dtypes[dtype].bits;
}

bool lt_dtype_bytes(enum lt_dtype dtype, uint64_t n, size_t *bytes)
{
    uint64_t bits = lt_dtype_bits(dtype);
    /* n = 8q + r: 8 elements always fill whole bytes, so only the rest can fail to. */
    uint64_t rest_bits = (n % 8) * bits;
    uint64_t total;
    if (rest_bits % 8 != 0 || __builtin_mul_overflow(n / 8, bits, &total) ||
        __builtin_add_overflow(total, rest_bits / 8, &total) || total > SIZE_MAX)
        return false;
    *bytes = (size_t)total;
    return true;
}

float lt_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    uint32_t bits;
    float f;
    if (exponent == 0) { /* zero or subnormal: exact in f32 */
        f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exponent == 31) /* as the hardware does, a signalling NaN becomes quiet */
        bits = sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u);
    else
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t lt_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t a = u & 0x7fffffffu;
    uint32_t h;
    if (a > 0x7f800000u) { /* NaN */
        h = 0x7e00u | ((a >> 13) & 0x3ffu);
    } else if (a >= 0x477ff000u) { /* 65520, half-way to 2^16, rounds to infinity */
        h = 0x7c00u;
    } else if (a >= 0x38800000u) { /* 2^-14: normal; a carry into the exponent is right */
        h = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
    } else if (a < 0x33000000u) { /* below 2^-25, half the least subnormal */
        h = 0;
    } else { /* subnormal: units of 2^-24 */
        uint32_t mantissa = (a & 0x7fffffu) | 0x800000u;
        uint32_t shift = 126 - (a >> 23); /* 14 to 24 */
        uint32_t half = 1u << (shift - 1);
        h = (mantissa + half - 1 + ((mantissa >> shift) & 1u)) >> shift;
    }
    return (uint16_t)(sign | h);
}

void lt_convert_to_f32(float *dst, const void *src, enum lt_dtype dtype, size_t n)
{
    const unsigned char *s = src;
    switch (dtype) {
    case LT_F32:
        memcpy(dst, src, n * sizeof(float));
        return;
    case LT_F16:
    case LT_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, s + 2 * i, sizeof h);
            dst[i] = dtype == LT_F16 ? lt_f16_to_f32(h) : lt_bf16_to_f32(h);
        }
        return;
    case LT_F64:
        for (size_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, s + 8 * i, sizeof d);
            dst[i] = (float)d;
        }
        return;
    default:
        assert(0 && "lt_convert_to_f32: not a floating-point dtype");
    }
}

void lt_convert_from_f32(void *dst, const float *src, enum lt_dtype dtype, size_t n)
{
    unsigned char *d = dst;
    switch (dtype) {
    case LT_F32:
        memcpy(dst, src, n * sizeof(float));
        return;
    case LT_F16:
    case LT_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = dtype == LT_F16 ? lt_f32_to_f16(src[i]) : lt_f32_to_bf16(src[i]);
            memcpy(d + 2 * i, &h, sizeof h);
        }
        return;
    case LT_F64:
        for (size_t i = 0; i < n; i++) {
            double v = (double)src[i];
            memcpy(d + 8 * i, &v, sizeof v);
        }
        return;
    default:
        assert(0 && "lt_convert_from_f32: not a floating-point dtype");
    }
}
