/* Overflow-checked arithmetic on sizes and counts that came from outside. */
#ifndef LT_BASE_CHECKED_H
#define LT_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each returns false, leaving *out untouched, when the exact result does not fit. */
static inline bool lt_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool lt_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool lt_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline size_t lt_align_up(size_t n, size_t alignment) /* alignment: a power of two */
{
    return (n + alignment - 1) & ~(alignment - 1);
}

static inline int64_t lt_div_up(int64_t a, int64_t b) /* a >= 0, b > 0 */
{
    return (a + b - 1) / b;
}

static inline int64_t lt_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t lt_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
