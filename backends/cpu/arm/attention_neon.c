/* Attention primitives for NEON. */
#include "backends/cpu/attention_flash.h"

#include <math.h>

#include "backends/cpu/arm/arm_kernels.h"
#include "backends/cpu/arm/vecmath_neon.h"

enum { TILE = LT_ATTENTION_TILE };

/* R rows and V vectors of columns of a product, of which n columns are left.  R and V are constants at every call; V
 * is 1 where n < 4.  Only loops with literal bounds does every compiler unroll soon enough to keep the sums in
 * registers. */
static inline __attribute__((always_inline)) void product_panel(const struct lt_tile_product *p, int64_t row,
                                                                int64_t col, int64_t n, const int R,
                                                                const int V)
{
    float32x4_t sum[8][4];
    float *c = p->c + row * p->ldc + col;
    const float *a = p->a + row * p->a_row, *b = p->b + col;
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            sum[i][j] = p->accumulate ? lt_load_neon(c + i * p->ldc + 4 * j, n) : vdupq_n_f32(0.0f);
    for (int64_t k = 0; k < p->k; k++) {
        float32x4_t v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            v[j] = lt_load_neon(b + 4 * j, n);
#pragma GCC unroll 8
        for (int i = 0; i < 8 && i < R; i++) {
            float x = a[i * p->a_row];
#pragma GCC unroll 4
            for (int j = 0; j < 4 && j < V; j++)
                sum[i][j] = vfmaq_n_f32(sum[i][j], v[j], x);
        }
        a += p->a_col;
        b += p->ldb;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            lt_store_neon(c + i * p->ldc + 4 * j, n, sum[i][j]);
}

static void product(const struct lt_tile_product *p)
{
    int64_t col = 0;
    for (; col + 16 <= p->n; col += 16) {
        int64_t row = 0;
        for (; row + 4 <= p->rows; row += 4)
            product_panel(p, row, col, 4, 4, 4);
        for (; row < p->rows; row++)
            product_panel(p, row, col, 4, 1, 4);
    }
    for (; col < p->n; col += 4) {
        int64_t row = 0;
        for (; row + 8 <= p->rows; row += 8)
            product_panel(p, row, col, p->n - col, 8, 1);
        for (; row < p->rows; row++)
            product_panel(p, row, col, p->n - col, 1, 1);
    }
}

/* 4 rows r become 4 columns. */
static inline void transpose_4x4(float32x4_t r[4])
{
    float64x2_t t0 = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1]));
    float64x2_t t1 = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    float64x2_t t2 = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3]));
    float64x2_t t3 = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(t0, t2));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(t1, t3));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(t0, t2));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(t1, t3));
}

static void transpose(float *dst, const float *src, int64_t ld, int64_t keys, int64_t depth)
{
    /* Whole groups of 16 keys, so that the products may read them. */
    for (int64_t key = 0; key < (keys + 15) / 16 * 16; key += 4) {
        for (int64_t d = 0; d < depth; d += 4) {
            float32x4_t r[4];
            for (int i = 0; i < 4; i++)
                r[i] = key + i < keys ? lt_load_neon(src + (key + i) * ld + d, depth - d) : vdupq_n_f32(0.0f);
            transpose_4x4(r);
            for (int i = 0; i < 4 && d + i < depth; i++)
                vst1q_f32(dst + (d + i) * TILE + key, r[i]);
        }
    }
}

/* Lanes of columns [column, column + 4) in [lo, hi). */
static inline uint32x4_t visible_lanes(const struct lt_score_row *row, int64_t column)
{
    static const int32_t ahead[4] = {0, 1, 2, 3};
    int32x4_t at = vaddq_s32(vdupq_n_s32((int32_t)column), vld1q_s32(ahead));
    return vandq_u32(vcgeq_s32(at, vdupq_n_s32((int32_t)row->lo)),
                     vcltq_s32(at, vdupq_n_s32((int32_t)row->hi)));
}

static float inverse(float softcap)
{
    return softcap != 0.0f ? 1.0f / softcap : 0.0f;
}

static float softmax_row(float *s, const struct lt_score_row *row, float *max, float *sum)
{
    const float32x4_t none = vdupq_n_f32(-INFINITY);
    const float inverse_cap = inverse(row->softcap);
    int64_t from = row->lo / 4 * 4;
    float32x4_t top = none;
    for (int64_t i = from; i < row->hi; i += 4) {
        float32x4_t z = vmulq_n_f32(vld1q_f32(s + i), row->scale);
        if (row->softcap != 0.0f)
            z = vmulq_n_f32(lt_tanh_neon(vmulq_n_f32(z, inverse_cap)), row->softcap);
        z = vbslq_f32(visible_lanes(row, i), z, none);
        top = vmaxnmq_f32(z, top); /* NaN does not count */
        vst1q_f32(s + i, z);
    }
    float new_max = vmaxnmvq_f32(top);
    new_max = new_max > *max ? new_max : *max;
    /* All scores -infinity: any finite reference gives weights of 0. */
    float reference = new_max == -INFINITY ? 0.0f : new_max;
    float32x4_t total = vdupq_n_f32(0.0f);
    for (int64_t i = from; i < row->hi; i += 4) {
        float32x4_t p = lt_exp_weight_neon(vsubq_f32(vld1q_f32(s + i), vdupq_n_f32(reference)));
        total = vaddq_f32(total, p);
        if (row->keep)
            p = vmulq_f32(p, vld1q_f32(row->keep + i));
        vst1q_f32(s + i, p);
    }
    float before = vgetq_lane_f32(lt_exp_weight_neon(vdupq_n_f32(*max - reference)), 0);
    *sum = *sum * before + vaddvq_f32(total);
    *max = new_max;
    return before;
}

static void grad_row(float *s, float *dp, const struct lt_score_row *row, float lse, float delta)
{
    const float inverse_cap = inverse(row->softcap);
    for (int64_t i = 0; i < TILE; i += 4) {
        uint32x4_t visible = visible_lanes(row, i);
        if (i + 4 <= row->lo || i >= row->hi) {
            vst1q_f32(s + i, vdupq_n_f32(0.0f));
            vst1q_f32(dp + i, vdupq_n_f32(0.0f));
            continue;
        }
        float32x4_t z = vmulq_n_f32(vld1q_f32(s + i), row->scale), slope = vdupq_n_f32(row->scale);
        if (row->softcap != 0.0f) {
            float32x4_t t = lt_tanh_neon(vmulq_n_f32(z, inverse_cap));
            z = vmulq_n_f32(t, row->softcap);
            slope = vmulq_f32(slope, vfmsq_f32(vdupq_n_f32(1.0f), t, t));
        }
        float32x4_t p = lt_exp_weight_neon(vsubq_f32(z, vdupq_n_f32(lse)));
        float32x4_t d = vld1q_f32(dp + i), kept = p;
        if (row->keep) {
            float32x4_t keep = vld1q_f32(row->keep + i);
            kept = vmulq_f32(p, keep);
            d = vmulq_f32(d, keep);
        }
        d = vmulq_f32(vmulq_f32(p, vsubq_f32(d, vdupq_n_f32(delta))), slope);
        vst1q_f32(s + i, lt_and_neon(visible, kept));
        vst1q_f32(dp + i, lt_and_neon(visible, d));
    }
}

static void scale_row(float *y, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4)
        lt_store_neon(y + i, n - i, vmulq_n_f32(lt_load_neon(y + i, n - i), factor));
}

static float dot(const float *a, const float *b, int64_t n)
{
    float32x4_t even = vdupq_n_f32(0.0f), odd = even;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        even = vfmaq_f32(even, vld1q_f32(a + i), vld1q_f32(b + i));
        odd = vfmaq_f32(odd, vld1q_f32(a + i + 4), vld1q_f32(b + i + 4));
    }
    for (; i < n; i += 4)
        even = vfmaq_f32(even, lt_load_neon(a + i, n - i), lt_load_neon(b + i, n - i));
    return vaddvq_f32(vaddq_f32(even, odd));
}

static const struct lt_attention_ops ops = {.product = product,
                                            .transpose = transpose,
                                            .softmax_row = softmax_row,
                                            .grad_row = grad_row,
                                            .scale_row = scale_row,
                                            .dot = dot,
                                            .keep_row = lt_keep_row_neon};

static void attention_fwd_neon(const struct lt_attention_block *block)
{
    lt_attention_flash_fwd(&ops, block);
}

static void attention_bwd_neon(const struct lt_attention_grad *grad)
{
    lt_attention_flash_bwd(&ops, grad);
}

void lt_attention_kernels_neon(struct lt_cpu_kernels *k)
{
    k->attention_fwd = attention_fwd_neon;
    k->attention_bwd = attention_bwd_neon;
    k->attention_fwd_bf16 = NULL;
    k->attention_bwd_bf16 = NULL;
}
