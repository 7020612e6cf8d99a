/* Philox4x32-10 and the engine's use of it. */
#include "core/base/rng.h"

#include <assert.h>

enum { PHILOX_ROUNDS = 10, ROW_BLOCKS = 8 };

/* Multipliers and Weyl constants of the paper, section 4.3. */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

void lt_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * x0;
        uint64_t p1 = (uint64_t)PHILOX_M1 * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

static void site_key(uint32_t key[2], const struct lt_rng_site *site)
{
    key[0] = (uint32_t)site->seed ^ site->site;
    key[1] = (uint32_t)(site->seed >> 32);
}

static void site_counter(uint32_t counter[4], const struct lt_rng_site *site, uint64_t row, uint32_t block)
{
    counter[0] = block;
    counter[1] = (uint32_t)row;
    counter[2] = (uint32_t)(row >> 32);
    counter[3] = site->step;
}

uint32_t lt_rng_bits(const struct lt_rng_site *site, uint64_t row, uint32_t column)
{
    uint32_t key[2], counter[4], out[4];
    site_key(key, site);
    site_counter(counter, site, row, column >> 2);
    lt_philox(out, counter, key);
    return out[column & 3];
}

/* ROW_BLOCKS consecutive blocks with one lane a block, a shape that compilers turn into vectors. */
static void philox_blocks(uint32_t *out, const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t x0[ROW_BLOCKS], x1[ROW_BLOCKS], x2[ROW_BLOCKS], x3[ROW_BLOCKS];
    for (uint32_t i = 0; i < ROW_BLOCKS; i++) {
        x0[i] = counter[0] + i;
        x1[i] = counter[1];
        x2[i] = counter[2];
        x3[i] = counter[3];
    }
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        for (int i = 0; i < ROW_BLOCKS; i++) {
            uint64_t p0 = (uint64_t)PHILOX_M0 * x0[i];
            uint64_t p1 = (uint64_t)PHILOX_M1 * x2[i];
            x0[i] = (uint32_t)(p1 >> 32) ^ x1[i] ^ k0;
            x1[i] = (uint32_t)p1;
            x2[i] = (uint32_t)(p0 >> 32) ^ x3[i] ^ k1;
            x3[i] = (uint32_t)p0;
        }
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    for (int i = 0; i < ROW_BLOCKS; i++) {
        out[4 * i] = x0[i];
        out[4 * i + 1] = x1[i];
        out[4 * i + 2] = x2[i];
        out[4 * i + 3] = x3[i];
    }
}

void lt_rng_bits_row(uint32_t *out, size_t n, const struct lt_rng_site *site, uint64_t row, uint32_t column)
{
    assert((column & 3) == 0);
    uint32_t key[2], counter[4];
    site_key(key, site);
    site_counter(counter, site, row, column >> 2);
    for (; n >= 4 * ROW_BLOCKS; n -= 4 * ROW_BLOCKS) {
        philox_blocks(out, counter, key);
        counter[0] += ROW_BLOCKS;
        out += 4 * ROW_BLOCKS;
    }
    while (n > 0) {
        uint32_t block[4];
        lt_philox(block, counter, key);
        counter[0]++;
        size_t take = n < 4 ? n : 4;
        for (size_t i = 0; i < take; i++)
            out[i] = block[i];
        out += take;
        n -= take;
    }
}

uint32_t lt_dropout_threshold(double p)
{
    assert(p >= 0.0 && p < 1.0);
    return (uint32_t)(p * 0x1p32);
}
