/* One row of x times a stored weight, as a processor reads it from memory: the meaning of the gemv kernels. */
#include <math.h>
#include <string.h>

#include "backends/cpu/ref/ref_kernels.h"
#include "quant/nf4.h"
#include "quant/weight_codec.h"

enum { LANES = 8, PLAIN_LANES = 16, HALF = LT_GEMV_BLOCK / 2 };

/* Both kernels sum their lanes so. */
static float sum_lanes(const float a[LANES])
{
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

static void put_rows(const struct lt_gemv *g, float (*dot)(const struct lt_gemv *g, int64_t row))
{
    for (int64_t i = 0; i < (g->apart ? 2 : 1); i++)
        for (int64_t row = g->begin + i * g->apart; row < g->end + i * g->apart; row++) {
            float v = dot(g, row);
            g->y[row] = g->bias ? v + g->bias[row] : v;
        }
}

/* ---- activations for 4-bit weights ---- */

/* Byte j of a block holds elements 2j and 2j + 1; its place in the order of codes. */
static int place_of(int j)
{
    return j % 16 / 8 * 16 + j / 16 * 8 + j % 8;
}

static int16_t nearest_int16(float v)
{
    return v == v ? (int16_t)lrintf(v) : INT16_MIN;
}

static void gemv_quantize_ref(int16_t *codes, float *scale, const float *x, int64_t n)
{
    for (int64_t b = 0; b < n / LT_GEMV_BLOCK; b++, x += LT_GEMV_BLOCK, codes += LT_GEMV_BLOCK) {
        float max = 0.0f;
        for (int i = 0; i < LT_GEMV_BLOCK; i++) {
            float size = fabsf(x[i]);
            max = size > max || size != size ? size : max; /* a NaN stays */
        }
        const float factor = max < LT_GEMV_TINY ? 0.0f : LT_GEMV_UNIT / max;
        scale[b] = max < LT_GEMV_TINY ? 0.0f : max * (1.0f / (LT_GEMV_UNIT * LT_GEMV_UNIT));
        for (int j = 0; j < HALF; j++) {
            codes[place_of(j)] = nearest_int16(x[2 * j] * factor);
            codes[HALF + place_of(j)] = nearest_int16(x[2 * j + 1] * factor);
        }
    }
}

/* ---- 4 bits ---- */

static float dot_4bit(const struct lt_gemv *g, int64_t row)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK;
    const uint8_t *packed = (const uint8_t *)g->w->data + row * g->w->cols / 2;
    float acc[LANES] = {0};
    for (int64_t b = 0; b < blocks; b++, packed += HALF) {
        const int16_t *x = g->codes + b * LT_GEMV_BLOCK;
        uint32_t sum[LANES] = {0}; /* codes of NaN would overflow; their scale is NaN */
        float scale;
        for (int j = 0; j < HALF; j++) {
            int lane = j / 16 * 4 + j % 8 / 2;
            sum[lane] += (uint32_t)(g->table[packed[j] >> 4] * x[place_of(j)]);
            sum[lane] += (uint32_t)(g->table[packed[j] & 15] * x[HALF + place_of(j)]);
        }
        lt_nf4_scales(&scale, g->w, row * blocks + b, 1);
        for (int l = 0; l < LANES; l++)
            acc[l] = fmaf((float)(int32_t)sum[l], g->scales[b] * scale, acc[l]);
    }
    return sum_lanes(acc);
}

static void gemv_4bit_ref(const struct lt_gemv *g)
{
    put_rows(g, dot_4bit);
}

/* ---- f16, bf16 ---- */

static float dot_plain(const struct lt_gemv *g, int64_t row)
{
    float acc[PLAIN_LANES] = {0}, part[PLAIN_LANES], half[LANES];
    for (int64_t k = 0; k < g->w->cols; k += PLAIN_LANES) {
        int64_t n = g->w->cols - k < PLAIN_LANES ? g->w->cols - k : PLAIN_LANES;
        lt_weight_codecs[g->w->format].decode(part, g->w, row * g->w->cols + k, n);
        for (int64_t l = 0; l < n; l++)
            acc[l] = fmaf(part[l], g->x[k + l], acc[l]);
    }
    for (int l = 0; l < LANES; l++)
        half[l] = acc[l] + acc[l + LANES];
    return sum_lanes(half);
}

static void gemv_plain_ref(const struct lt_gemv *g)
{
    put_rows(g, dot_plain);
}

void lt_gemv_kernels_ref(struct lt_cpu_kernels *k)
{
    k->gemv_quantize = gemv_quantize_ref;
    k->gemv[LT_WEIGHT_NF4] = gemv_4bit_ref;
    k->gemv[LT_WEIGHT_FP4] = gemv_4bit_ref;
    k->gemv[LT_WEIGHT_F16] = gemv_plain_ref;
    k->gemv[LT_WEIGHT_BF16] = gemv_plain_ref;
}
