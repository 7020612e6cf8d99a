/* How the x86 GEMM micro-kernels walk through A and B.  Included by files with instruction set flags of
 * their own; all of it is inlined into them. */
#ifndef LT_BACKENDS_CPU_X86_GEMM_CURSOR_H
#define LT_BACKENDS_CPU_X86_GEMM_CURSOR_H

#include <immintrin.h>

#include "backends/cpu/gemm_internal.h"

#define LT_INLINE static inline __attribute__((always_inline))

/* Before a loop over a constant number of accumulators: they live in registers only when it is unrolled
 * whole. */
#ifdef __clang__
#define LT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LT_UNROLL _Pragma("GCC unroll 16")
#endif

/* Strides in bytes.  Up to eight rows of A are reached from two pointers with scaled index registers, four
 * rows of B from one, so that the loop spends no registers or additions on a pointer a row. */
struct gemm_cursor {
    const char *a0, *a4; /* rows 0 and 4 of A */
    intptr_t a_step, a_step3;
    const char *b;
    uintptr_t b_ahead; /* where B is prefetched, maybe past its end */
    intptr_t b_step, b_step3;
};

LT_INLINE struct gemm_cursor gemm_cursor_start(const struct lt_gemm_tile *t, int rows, int ahead)
{
    struct gemm_cursor c = {.a_step = t->lda * 4, .b_step = t->ldb * 4};
    c.a_step3 = 3 * c.a_step;
    c.b_step3 = 3 * c.b_step;
    c.a0 = (const char *)t->a;
    c.a4 = rows > 4 ? c.a0 + 4 * c.a_step : c.a0;
    c.b = (const char *)t->b;
    c.b_ahead = (uintptr_t)c.b + (uintptr_t)(ahead * c.b_step);
    return c;
}

/* Keeps the compiler from turning each row's address into a loop variable of its own. */
LT_INLINE void gemm_cursor_pin(struct gemm_cursor *c)
{
    __asm__("" : "+r"(c->a0), "+r"(c->a4), "+r"(c->a_step), "+r"(c->a_step3));
    __asm__("" : "+r"(c->b), "+r"(c->b_ahead), "+r"(c->b_step), "+r"(c->b_step3));
}

LT_INLINE intptr_t gemm_cursor_steps(int n, intptr_t step, intptr_t step3) /* 0 <= n < 4 */
{
    return n == 3 ? step3 : n * step;
}

/* A[i, q] of the cursor's place. */
LT_INLINE const float *gemm_cursor_a(const struct gemm_cursor *c, int i, int q)
{
    return (const float *)((i < 4 ? c->a0 : c->a4) + gemm_cursor_steps(i % 4, c->a_step, c->a_step3)) + q;
}

LT_INLINE const float *gemm_cursor_b(const struct gemm_cursor *c, int q)
{
    return (const float *)(c->b + gemm_cursor_steps(q, c->b_step, c->b_step3));
}

LT_INLINE void gemm_cursor_prefetch_b(const struct gemm_cursor *c, int q, int column)
{
    uintptr_t row = c->b_ahead + (uintptr_t)gemm_cursor_steps(q, c->b_step, c->b_step3);
    _mm_prefetch((const char *)(row + (uintptr_t)column * 4), _MM_HINT_T0);
}

LT_INLINE void gemm_cursor_advance(struct gemm_cursor *c, int count) /* 1 or 4 */
{
    c->a0 += 4 * count;
    c->a4 += 4 * count;
    c->b += count * c->b_step;
    c->b_ahead += (uintptr_t)(count * c->b_step);
}

/* Asks for base[offset], which may lie outside the array. */
LT_INLINE void gemm_prefetch(const float *base, int64_t offset)
{
    _mm_prefetch((const char *)((uintptr_t)base + (uintptr_t)offset * sizeof(float)), _MM_HINT_T0);
}

#endif
