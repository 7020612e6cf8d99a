/* Rotary position embedding for NEON. */
#include "backends/cpu/arm/arm_kernels.h"

#include <string.h>

#include "backends/cpu/arm/vecmath_neon.h"

/* Rotates the pairs (a[i], b[i]) of one head by the angles with cosines c and sines s, or by the negative angles. */
static void rotate_pairs(float *ya, float *yb, const float *a, const float *b, const float *c, const float *s,
                         int64_t n, bool inverse)
{
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t u = lt_load_neon(a + i, n - i), v = lt_load_neon(b + i, n - i);
        float32x4_t cosine = lt_load_neon(c + i, n - i), sine = lt_load_neon(s + i, n - i);
        sine = inverse ? vnegq_f32(sine) : sine;
        float32x4_t first = vfmsq_f32(vmulq_f32(u, cosine), v, sine);
        float32x4_t second = vfmaq_f32(vmulq_f32(v, cosine), u, sine);
        lt_store_neon(ya + i, n - i, first);
        lt_store_neon(yb + i, n - i, second);
    }
}

static void rope_neon(float *y, const float *x, const int32_t *positions, const float *table, int64_t rows,
                      int64_t heads, int64_t head_dim, int64_t rotary, bool inverse)
{
    int64_t half = rotary / 2;
    for (int64_t r = 0; r < rows; r++) {
        const float *cosines = table + (int64_t)positions[r] * rotary, *sines = cosines + half;
        for (int64_t h = 0; h < heads; h++, x += head_dim, y += head_dim) {
            rotate_pairs(y, y + half, x, x + half, cosines, sines, half, inverse);
            if (y != x && rotary < head_dim)
                memcpy(y + rotary, x + rotary, (size_t)(head_dim - rotary) * sizeof *y);
        }
    }
}

void lt_rope_kernels_neon(struct lt_cpu_kernels *k)
{
    k->rope = rope_neon;
}
