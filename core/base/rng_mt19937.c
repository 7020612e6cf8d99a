/* MT19937 (Matsumoto and Nishimura, 1998) and the distributions of the torch CPU generator. */
#include "core/base/rng.h"

#include <assert.h>
#include <math.h>

enum { MT_N = 624, MT_M = 397, NORMAL_BLOCK = 16 };

void lt_mt19937_seed(struct lt_mt19937 *mt, uint64_t seed)
{
    mt->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < MT_N; i++) {
        uint32_t previous = mt->state[i - 1];
        mt->state[i] = 1812433253u * (previous ^ (previous >> 30)) + i;
    }
    mt->index = MT_N;
}

static uint32_t twist(uint32_t high, uint32_t low)
{
    uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (y >> 1) ^ ((low & 1u) ? 0x9908b0dfu : 0u);
}

static void next_state(struct lt_mt19937 *mt)
{
    uint32_t *s = mt->state;
    for (int i = 0; i < MT_N; i++) {
        int next = i + 1 < MT_N ? i + 1 : 0;
        int other = i + MT_M < MT_N ? i + MT_M : i + MT_M - MT_N;
        s[i] = s[other] ^ twist(s[i], s[next]);
    }
    mt->index = 0;
}

uint32_t lt_mt19937_next(struct lt_mt19937 *mt)
{
    if (mt->index >= MT_N)
        next_state(mt);
    uint32_t y = mt->state[mt->index++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    y ^= y >> 18;
    return y;
}

void lt_mt19937_randperm(struct lt_mt19937 *mt, int64_t *perm, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        perm[i] = i;
    for (int64_t i = 0; i < n - 1; i++) {
        int64_t j = i + (int64_t)lt_mt19937_next(mt) % (n - i);
        int64_t swapped = perm[i];
        perm[i] = perm[j];
        perm[j] = swapped;
    }
}

static float unit(struct lt_mt19937 *mt)
{
    return (float)(lt_mt19937_next(mt) & 0xffffffu) * 0x1p-24f;
}

void lt_mt19937_uniform(struct lt_mt19937 *mt, float *out, size_t n, float lo, float hi)
{
    for (size_t i = 0; i < n; i++)
        out[i] = fmaf(unit(mt), hi - lo, lo); /* torch rounds once */
}

/* Box-Muller on 16 uniforms in place.  Each function is evaluated in double and rounded to float
 * where torch has a float, which gives the same bytes whatever the C library's float functions do. */
static void normal_block(float x[NORMAL_BLOCK], float mean, float std)
{
    const float two_pi = 6.28318530717958647692f;
    for (int j = 0; j < NORMAL_BLOCK / 2; j++) {
        float u1 = 1.0f - x[j]; /* in (0,1]: the logarithm is finite */
        float u2 = x[j + NORMAL_BLOCK / 2];
        float log_u1 = (float)log((double)u1);
        float radius = sqrtf(-2.0f * log_u1);
        float theta = two_pi * u2;
        float c = (float)cos((double)theta);
        float s = (float)sin((double)theta);
        x[j] = fmaf(radius * c, std, mean);
        x[j + NORMAL_BLOCK / 2] = fmaf(radius * s, std, mean);
    }
}

void lt_mt19937_normal(struct lt_mt19937 *mt, float *out, size_t n, float mean, float std)
{
    assert(n >= NORMAL_BLOCK);
    for (size_t i = 0; i < n; i++)
        out[i] = unit(mt);
    size_t whole = n - n % NORMAL_BLOCK;
    for (size_t i = 0; i < whole; i += NORMAL_BLOCK)
        normal_block(out + i, mean, std);
    if (whole == n)
        return;
    /* A ragged end: the last 16 elements are drawn again, over some that were done already. */
    float *tail = out + n - NORMAL_BLOCK;
    for (int i = 0; i < NORMAL_BLOCK; i++)
        tail[i] = unit(mt);
    normal_block(tail, mean, std);
}
