/* Dropout for NEON: Philox4x32-10 (core/base/rng.h), four counters at a time. */
#include "backends/cpu/arm/arm_kernels.h"

#include "backends/cpu/arm/vecmath_neon.h"

enum { ROUNDS = 10, SPAN = 16 };

/* High and low halves of the products of all four lanes with m. */
static inline uint32x4_t multiply_high_low(uint32x4_t x, uint32_t m, uint32x4_t *low)
{
    uint32x4_t first = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(x), m));
    uint32x4_t second = vreinterpretq_u32_u64(vmull_high_n_u32(x, m));
    *low = vuzp1q_u32(first, second);
    return vuzp2q_u32(first, second);
}

/* Bits of SPAN columns, of which the first block of four is `block`. */
static inline void philox_span(uint32_t bits[SPAN], const struct lt_rng_site *site, uint32_t row_key,
                               uint32_t block)
{
    static const uint32_t ahead[4] = {0, 1, 2, 3};
    uint32x4_t x0 = vaddq_u32(vdupq_n_u32(block), vld1q_u32(ahead)), x1 = vdupq_n_u32(row_key);
    uint32x4_t x2 = vdupq_n_u32(0), x3 = vdupq_n_u32((uint32_t)site->step);
    uint32_t k0 = (uint32_t)site->seed ^ site->site, k1 = (uint32_t)(site->seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint32x4_t low0, low1;
        uint32x4_t high0 = multiply_high_low(x0, 0xD2511F53u, &low0);
        uint32x4_t high1 = multiply_high_low(x2, 0xCD9E8D57u, &low1);
        x0 = veorq_u32(veorq_u32(high1, x1), vdupq_n_u32(k0));
        x2 = veorq_u32(veorq_u32(high0, x3), vdupq_n_u32(k1));
        x1 = low1;
        x3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    /* Column 4b + i is word i of block b. */
    vst4q_u32(bits, ((uint32x4x4_t){{x0, x1, x2, x3}}));
}

/* y[i] = bits(row_key, column + i) >= threshold ? x[i] * scale : 0; column a multiple of 4; y may be x. */
static void dropout_span(float *y, const float *x, int64_t n, const struct lt_rng_site *site,
                         uint32_t row_key, uint32_t column, uint32_t threshold, float scale)
{
    const uint32x4_t limit = vdupq_n_u32(threshold);
    for (int64_t i = 0; i < n; i += SPAN) {
        uint32_t bits[SPAN];
        philox_span(bits, site, row_key, (column + (uint32_t)i) / 4);
        for (int64_t j = 0; j < SPAN && i + j < n; j += 4) {
            uint32x4_t keep = vcgeq_u32(vld1q_u32(bits + j), limit);
            float32x4_t v = vmulq_n_f32(lt_load_neon(x + i + j, n - i - j), scale);
            lt_store_neon(y + i + j, n - i - j, lt_and_neon(keep, v));
        }
    }
}

void lt_keep_row_neon(float *keep, int64_t n, const struct lt_rng_site *site, uint32_t row_key,
                      uint32_t column, uint32_t threshold, float scale)
{
    for (int64_t i = 0; i < n; i++)
        keep[i] = 1.0f;
    dropout_span(keep, keep, n, site, row_key, column, threshold, scale);
}

static void dropout_neon(float *y, const float *x, const uint32_t *row_key, int64_t rows, int64_t cols,
                         uint32_t threshold, float keep_scale, const struct lt_rng_site *site)
{
    for (int64_t r = 0; r < rows; r++)
        dropout_span(y + r * cols, x + r * cols, cols, site, row_key[r], 0, threshold, keep_scale);
}

void lt_dropout_kernels_neon(struct lt_cpu_kernels *k)
{
    k->dropout = dropout_neon;
}
