/* Tiled attention without an ISA: the walk over rows, key tiles and heads is written once, the arithmetic
 * comes from a table of primitives that each instruction set fills.
 *
 * Forward: Dao, "FlashAttention-2" (2023), algorithm 1, with key tiles aligned to the first key of the
 * sequence.  Backward: algorithm 2.  Every output element is one chain of operations whose order depends on
 * its own row and columns only, so grouping rows changes no bit.
 *
 * With pairs an element of a factor is not a float but a pair of bf16, the one of the even index in its low half, as in
 * gemm_internal.h: the sums over head_dim, keys or rows go over pairs then, an odd last one filled up with 0.  A product
 * may then multiply a weight of 0 with what its row does not see, where that is a row of the same sequence and tile. */
#ifndef LT_BACKENDS_CPU_ATTENTION_FLASH_H
#define LT_BACKENDS_CPU_ATTENTION_FLASH_H

#include "backends/cpu/kernels.h"

/* c[rows, n] (+)= a[rows, k] · b[k, n], k counting floats or pairs.  Element (i, p) of a is a[i * a_row + p * a_col], so
 * that a transposed operand costs nothing.  Each element of c is one sum over k in order. */
struct lt_tile_product {
    float *c;
    const float *a, *b;
    int64_t ldc, a_row, a_col, ldb;
    int64_t rows, n, k;
    bool accumulate;
};

/* One row of scores in a tile: columns [lo, hi) of LT_ATTENTION_TILE are visible, hi > lo. */
struct lt_score_row {
    int64_t lo, hi;
    float scale, softcap;
    const float *keep; /* [LT_ATTENTION_TILE] dropout factors, 0 or 1/(1-p); NULL without dropout */
};

struct lt_attention_ops {
    void (*product)(const struct lt_tile_product *p);
    /* dst[d * LT_ATTENTION_TILE + key] = src[key * ld + d] for depth values of d, with pairs for the pairs of them; keys up
     * to the next multiple of 16 are zero. */
    void (*transpose)(float *dst, const float *src, int64_t ld, int64_t keys, int64_t depth);
    /* Raw scores s become weights exp(score - max) times keep in the visible columns; *max and *sum carry the
     * online softmax.  Returns the factor for what was accumulated before. */
    float (*softmax_row)(float *s, const struct lt_score_row *row, float *max, float *sum);
    /* Raw scores s become probabilities times keep, dp becomes the gradient of q.k; columns outside
     * [lo, hi) of both become 0. */
    void (*grad_row)(float *s, float *dp, const struct lt_score_row *row, float lse, float delta);
    void (*scale_row)(float *y, float factor, int64_t n);
    float (*dot)(const float *a, const float *b, int64_t n);
    /* keep[i] = bits(row_key, column + i) >= threshold ? scale : 0; column a multiple of 4. */
    void (*keep_row)(float *keep, int64_t n, const struct lt_rng_site *site, uint32_t row_key,
                     uint32_t column, uint32_t threshold, float scale);
    const struct lt_pair_ops *pairs; /* NULL: factors are floats */
};

/* Rounding to pairs. */
struct lt_pair_ops {
    /* dst[r * ldd + c] = the pair of src[r * ld + 2c] and the next one. */
    void (*rows)(float *dst, int64_t ldd, const float *src, int64_t ld, int64_t rows, int64_t cols);
    /* dst[r * ldd + c] = the pair of src[2r * ld + c] and the one below it. */
    void (*columns)(float *dst, int64_t ldd, const float *src, int64_t ld, int64_t rows, int64_t cols);
    /* A row of LT_ATTENTION_TILE weights becomes pairs in place, 0 outside [lo, hi). */
    void (*weights)(float *s, int64_t lo, int64_t hi);
};

/* Elements of a factor that make up n floats. */
static inline int64_t lt_attention_elements(const struct lt_attention_ops *ops, int64_t n)
{
    return ops->pairs ? (n + 1) / 2 : n;
}

/* Asks for rows of the next tile while the one at hand is worked on: those of a head lie apart, where the processor sees
 * no pattern.  GCC 12 drops the calls of a function that only prefetches unless it is inlined. */
static inline __attribute__((always_inline)) void lt_attention_fetch(const float *x, int64_t ld, int64_t rows,
                                                                     int64_t head_dim)
{
    enum { LINE = 64 / sizeof(float) };
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < head_dim; d += LINE)
            __builtin_prefetch(x + r * ld + d, 0, 2);
}

void lt_attention_flash_fwd(const struct lt_attention_ops *ops, const struct lt_attention_block *block);
void lt_attention_flash_bwd(const struct lt_attention_ops *ops, const struct lt_attention_grad *grad);

#endif
