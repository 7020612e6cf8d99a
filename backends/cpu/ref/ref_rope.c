/* Rotary position embedding (Su et al. 2021), half-split pairs as in Hugging Face models. */
#include "backends/cpu/ref/ref_kernels.h"

static void rope_ref(float *y, const float *x, const int32_t *positions, const float *table, int64_t rows,
                     int64_t heads, int64_t head_dim, int64_t rotary, bool inverse)
{
    int64_t half = rotary / 2;
    for (int64_t r = 0; r < rows; r++) {
        const float *cosines = table + (int64_t)positions[r] * rotary, *sines = cosines + half;
        for (int64_t h = 0; h < heads; h++, x += head_dim, y += head_dim) {
            for (int64_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half];
                float cosine = cosines[i], sine = inverse ? -sines[i] : sines[i];
                y[i] = a * cosine - b * sine;
                y[i + half] = b * cosine + a * sine;
            }
            for (int64_t i = rotary; i < head_dim; i++)
                y[i] = x[i];
        }
    }
}

void lt_rope_kernels_ref(struct lt_cpu_kernels *k)
{
    k->rope = rope_ref;
}
