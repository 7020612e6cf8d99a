/* Random numbers.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) for everything
 * the engine draws: counter-based, keyed by (seed, step, site, row, column), so a mask is recomputed
 * instead of stored and does not depend on threads, batches or packing.
 *
 * MT19937 in the form that the torch CPU generator uses it, for data order and LoRA initialisation
 * equal to transformers and PEFT (64-bit seeds are truncated to 32 bits). */
#ifndef LT_BASE_RNG_H
#define LT_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* One Philox4x32-10 block: out = bijection(counter, key). */
void lt_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* Identifies a stream of the engine: where in the model and when. */
struct lt_rng_site {
    uint64_t seed;
    uint32_t step; /* optimizer step */
    uint32_t site; /* fixed id of the op instance (layer, module, use) */
};

/* 32 random bits for (site, row, column).  `row` identifies a token independent of its place in a
 * batch.  Column c uses lane c & 3 of the block with counter (c >> 2, row lo, row hi, step), key
 * (seed lo ^ site, seed hi). */
uint32_t lt_rng_bits(const struct lt_rng_site *site, uint64_t row, uint32_t column);
/* Fills bits of columns [column, column+n), column a multiple of 4: the same values, faster. */
void lt_rng_bits_row(uint32_t *out, size_t n, const struct lt_rng_site *site, uint64_t row, uint32_t column);

/* The keep threshold for a dropout probability p in [0,1): keep when bits >= threshold. */
uint32_t lt_dropout_threshold(double p);

/* Uniform float in [0,1): bits >> 8 scaled by 2^-24. */
static inline float lt_bits_to_unit(uint32_t bits)
{
    return (float)(bits >> 8) * 0x1p-24f;
}

/* ---- torch-compatible generator ---- */
struct lt_mt19937 {
    uint32_t state[624];
    int index;
};

void lt_mt19937_seed(struct lt_mt19937 *mt, uint64_t seed); /* uses the low 32 bits */
uint32_t lt_mt19937_next(struct lt_mt19937 *mt);
/* torch.randperm(n) on the CPU: perm[0..n). */
void lt_mt19937_randperm(struct lt_mt19937 *mt, int64_t *perm, int64_t n);
/* torch.Tensor.uniform_(lo, hi), float32, memory order. */
void lt_mt19937_uniform(struct lt_mt19937 *mt, float *out, size_t n, float lo, float hi);
/* torch.Tensor.normal_(mean, std), float32, n >= 16 (the vectorised Box-Muller path). */
void lt_mt19937_normal(struct lt_mt19937 *mt, float *out, size_t n, float mean, float std);

#endif
