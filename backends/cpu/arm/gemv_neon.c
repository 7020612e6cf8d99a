/* One row of x times a stored weight, for NEON: the bits of ref_gemv.c.  Two rows of the weight side by side, so that what
 * is loaded of x serves both. */
#include "backends/cpu/arm/arm_kernels.h"

#include <arm_neon.h>

#include "core/tensor/dtype.h"
#include "quant/nf4.h"

enum {
    HALF = LT_GEMV_BLOCK / 2, /* bytes of a block of 4-bit codes */
    CHUNK = 64,               /* blocks whose scales are prepared at a time */
    PLAIN_LANES = 16
};

/* Eight lanes in the order of ref_gemv.c. */
struct lanes {
    float32x4_t low, high;
};

static inline float sum_lanes(struct lanes a)
{
    const float32x4_t s = vaddq_f32(a.low, a.high); /* 04 15 26 37 */
    const float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}

static inline void put(const struct lt_gemv *g, int64_t row, float v)
{
    g->y[row] = g->bias ? v + g->bias[row] : v;
}

/* ---- activations for 4-bit weights ---- */

/* Magnitudes order like their bits, NaN above all. */
static inline float block_max(const float *x)
{
    uint32x4_t max = vdupq_n_u32(0);
    for (int i = 0; i < LT_GEMV_BLOCK; i += 4)
        max = vmaxq_u32(max, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
    return vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(max))), 0);
}

/* To the nearest, NaN to the least. */
static inline int16x4_t round4(float32x4_t v)
{
    const uint32x4_t number = vceqq_f32(v, v);
    return vqmovn_s32(vbslq_s32(number, vcvtnq_s32_f32(v), vdupq_n_s32(INT32_MIN)));
}

/* Byte j of a block holds elements 2j and 2j + 1.  The bytes' order: 0 … 7, 16 … 23, 8 … 15, 24 … 31. */
static void gemv_quantize_neon(int16_t *codes, float *scale, const float *x, int64_t n)
{
    static const int place[4] = {0, 16, 8, 24};
    for (int64_t b = 0; b < n / LT_GEMV_BLOCK; b++, x += LT_GEMV_BLOCK, codes += LT_GEMV_BLOCK) {
        const float max = block_max(x);
        const float factor = max < LT_GEMV_TINY ? 0.0f : LT_GEMV_UNIT / max;
        scale[b] = max < LT_GEMV_TINY ? 0.0f : max * (1.0f / (LT_GEMV_UNIT * LT_GEMV_UNIT));
        for (int i = 0; i < 4; i++) {
            const float32x4x2_t u = vld2q_f32(x + 16 * i), v = vld2q_f32(x + 16 * i + 8);
            for (int odd = 0; odd < 2; odd++)
                vst1q_s16(codes + odd * HALF + place[i],
                          vcombine_s16(round4(vmulq_n_f32(u.val[odd], factor)),
                                       round4(vmulq_n_f32(v.val[odd], factor))));
        }
    }
}

/* ---- 4 bits ---- */

struct tables {
    uint8x16_t low, high; /* bytes of the 16-bit code table */
};

static struct tables split_table(const int16_t table[16])
{
    const uint8x16x2_t bytes = vld2q_u8((const uint8_t *)(const void *)table); /* little-endian */
    return (struct tables){bytes.val[0], bytes.val[1]};
}

/* Products of sixteen codes with x[0 … 7] and x[16 … 23], for a pairwise addition. */
struct sums {
    int32x4_t first, second;
};

static inline struct sums add_products(struct sums s, const struct tables *t, uint8x16_t index,
                                       const int16_t *x)
{
    const uint8x16_t low = vqtbl1q_u8(t->low, index), high = vqtbl1q_u8(t->high, index);
    const int16x8_t a = vreinterpretq_s16_u8(vzip1q_u8(low, high)), xa = vld1q_s16(x);
    const int16x8_t b = vreinterpretq_s16_u8(vzip2q_u8(low, high)), xb = vld1q_s16(x + 16);
    s.first = vmlal_s16(s.first, vget_low_s16(a), vget_low_s16(xa));
    s.second = vmlal_high_s16(s.second, a, xa);
    s.first = vmlal_s16(s.first, vget_low_s16(b), vget_low_s16(xb));
    s.second = vmlal_high_s16(s.second, b, xb);
    return s;
}

/* Four lanes: sixteen bytes of codes, elements 2j in the high halves. */
static inline float32x4_t half_block(float32x4_t acc, const struct tables *t, const uint8_t *p,
                                     const int16_t *x, float factor)
{
    const uint8x16_t v = vld1q_u8(p);
    struct sums s = {vdupq_n_s32(0), vdupq_n_s32(0)};
    s = add_products(s, t, vshrq_n_u8(v, 4), x);
    s = add_products(s, t, vandq_u8(v, vdupq_n_u8(15)), x + HALF);
    return vfmaq_n_f32(acc, vcvtq_f32_s32(vpaddq_s32(s.first, s.second)), factor);
}

static inline struct lanes add_block(struct lanes acc, const struct tables *t, const uint8_t *p,
                                     const int16_t *x, float factor)
{
    acc.low = half_block(acc.low, t, p, x, factor);
    acc.high = half_block(acc.high, t, p + 16, x + 8, factor);
    return acc;
}

static void two_rows_4bit(const struct lt_gemv *g, const struct tables *tables, int64_t first, int64_t second)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK;
    const uint8_t *p = (const uint8_t *)g->w->data + first * (g->w->cols / 2);
    const uint8_t *q = (const uint8_t *)g->w->data + second * (g->w->cols / 2);
    const int16_t *x = g->codes;
    const struct tables t = *tables;
    struct lanes a = {vdupq_n_f32(0), vdupq_n_f32(0)}, b = a;
    for (int64_t from = 0; from < blocks; from += CHUNK) {
        float fa[CHUNK], fb[CHUNK];
        const int64_t n = blocks - from < CHUNK ? blocks - from : CHUNK;
        lt_nf4_scales(fa, g->w, first * blocks + from, n);
        lt_nf4_scales(fb, g->w, second * blocks + from, n);
        for (int64_t i = 0; i < n; i++, p += HALF, q += HALF, x += LT_GEMV_BLOCK) {
            a = add_block(a, &t, p, x, g->scales[from + i] * fa[i]);
            b = add_block(b, &t, q, x, g->scales[from + i] * fb[i]);
        }
    }
    put(g, first, sum_lanes(a));
    put(g, second, sum_lanes(b));
}

static void gemv_4bit_neon(const struct lt_gemv *g)
{
    const struct tables t = split_table(g->table);
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows_4bit(g, &t, row, row + g->apart);
}

/* ---- f16, bf16 ---- */

static inline struct lanes load_bf16(const uint16_t *p)
{
    const uint16x8_t h = vld1q_u16(p);
    return (struct lanes){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                          vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
}

static inline struct lanes load_f16(const uint16_t *p)
{
    const float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p));
    return (struct lanes){vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}

static inline struct lanes load_f32(const float *p)
{
    return (struct lanes){vld1q_f32(p), vld1q_f32(p + 4)};
}

static inline struct lanes add_plain(struct lanes acc, struct lanes w, struct lanes x)
{
    return (struct lanes){vfmaq_f32(acc.low, w.low, x.low), vfmaq_f32(acc.high, w.high, x.high)};
}

/* The chains of columns 0 … 7 and 8 … 15 of every 16. */
struct chains {
    struct lanes low, high;
};

/* With the last columns, at w and x, fewer than PLAIN_LANES. */
static float finish_plain(struct chains c, const uint16_t *w, const float *x, enum lt_dtype dtype,
                          int64_t cols)
{
    if (cols > 0) {
        float wf[PLAIN_LANES] = {0}, xf[PLAIN_LANES] = {0};
        lt_convert_to_f32(wf, w, dtype, (size_t)cols);
        lt_convert_to_f32(xf, x, LT_F32, (size_t)cols);
        c.low = add_plain(c.low, load_f32(wf), load_f32(xf));
        c.high = add_plain(c.high, load_f32(wf + 8), load_f32(xf + 8));
    }
    return sum_lanes((struct lanes){vaddq_f32(c.low.low, c.high.low), vaddq_f32(c.low.high, c.high.high)});
}

static inline __attribute__((always_inline)) void two_rows_plain(const struct lt_gemv *g, int64_t first,
                                                                 int64_t second, enum lt_dtype dtype,
                                                                 struct lanes (*load)(const uint16_t *p))
{
    const int64_t cols = g->w->cols, whole = cols / PLAIN_LANES * PLAIN_LANES;
    const uint16_t *p = (const uint16_t *)g->w->data + first * cols;
    const uint16_t *q = (const uint16_t *)g->w->data + second * cols;
    const struct lanes zero = {vdupq_n_f32(0), vdupq_n_f32(0)};
    struct chains a = {zero, zero}, b = a;
    for (int64_t k = 0; k < whole; k += PLAIN_LANES) {
        const struct lanes low = load_f32(g->x + k), high = load_f32(g->x + k + 8);
        a.low = add_plain(a.low, load(p + k), low);
        a.high = add_plain(a.high, load(p + k + 8), high);
        b.low = add_plain(b.low, load(q + k), low);
        b.high = add_plain(b.high, load(q + k + 8), high);
    }
    put(g, first, finish_plain(a, p + whole, g->x + whole, dtype, cols - whole));
    put(g, second, finish_plain(b, q + whole, g->x + whole, dtype, cols - whole));
}

static void gemv_f16_neon(const struct lt_gemv *g)
{
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows_plain(g, row, row + g->apart, LT_F16, load_f16);
}

static void gemv_bf16_neon(const struct lt_gemv *g)
{
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows_plain(g, row, row + g->apart, LT_BF16, load_bf16);
}

void lt_gemv_kernels_neon(struct lt_cpu_kernels *k)
{
    k->gemv_quantize = gemv_quantize_neon;
    k->gemv[LT_WEIGHT_NF4] = gemv_4bit_neon;
    k->gemv[LT_WEIGHT_FP4] = gemv_4bit_neon;
    k->gemv[LT_WEIGHT_F16] = gemv_f16_neon;
    k->gemv[LT_WEIGHT_BF16] = gemv_bf16_neon;
}
