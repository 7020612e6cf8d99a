/* Element types and block formats: sizes, names, scalar conversions. */
#ifndef LT_TENSOR_DTYPE_H
#define LT_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum lt_dtype {
    LT_F32,
    LT_F16,
    LT_BF16,
    LT_F64,
    LT_I64,
    LT_I32,
    LT_I16,
    LT_I8,
    LT_U64,
    LT_U32,
    LT_U16,
    LT_U8,
    LT_BOOL,
    /* Read for their size only; no arithmetic here. */
    LT_F8_E4M3,
    LT_F8_E5M2,
    LT_F8_E8M0,
    LT_F8_E4M3FNUZ,
    LT_F8_E5M2FNUZ,
    LT_C64,
    LT_F4,
    LT_F6_E2M3,
    LT_F6_E3M2,
    LT_DTYPE_COUNT
};

/* Name as in safetensors ("F32", "BF16", …). */
const char *lt_dtype_name(enum lt_dtype dtype);
bool lt_dtype_from_name(const char *name, enum lt_dtype *dtype);
unsigned lt_dtype_bits(enum lt_dtype dtype); /* per element */
/* Bytes of n elements; false on overflow or when the bits do not come out to whole bytes. */
bool lt_dtype_bytes(enum lt_dtype dtype, uint64_t n, size_t *bytes);

static inline float lt_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN (quiet). */
static inline uint16_t lt_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float lt_f16_to_f32(uint16_t h);
uint16_t lt_f32_to_f16(float f); /* round to nearest even */

/* n elements of F32/F16/BF16/F64 to f32 and back.  src and dst may be unaligned, must not overlap.
 * Other dtypes: assert. */
void lt_convert_to_f32(float *dst, const void *src, enum lt_dtype dtype, size_t n);
void lt_convert_from_f32(void *dst, const float *src, enum lt_dtype dtype, size_t n);

#endif
