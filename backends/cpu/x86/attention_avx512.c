/* Attention primitives for AVX-512. */
#include "backends/cpu/attention_flash.h"

#include <math.h>

#include "backends/cpu/x86/vecmath_avx512.h"
#include "backends/cpu/x86/x86_kernels.h"

enum { TILE = LT_ATTENTION_TILE };

/* R rows and V vectors of columns of a product.  R and V are constants at every call; with a mask V is 1.
 * Only loops with literal bounds does every compiler unroll soon enough to keep the sums in registers. */
static inline __attribute__((always_inline)) void product_panel(const struct lt_tile_product *p, int64_t row,
                                                                int64_t col, const int R, const int V,
                                                                const bool masked, __mmask16 mask)
{
    __m512 sum[8][4];
    float *c = p->c + row * p->ldc + col;
    const float *a = p->a + row * p->a_row, *b = p->b + col;
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            sum[i][j] = !p->accumulate ? _mm512_setzero_ps()
                        : masked       ? _mm512_maskz_loadu_ps(mask, c + i * p->ldc)
                                       : _mm512_loadu_ps(c + i * p->ldc + 16 * j);
    for (int64_t k = 0; k < p->k; k++) {
        __m512 v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++)
            v[j] = masked ? _mm512_maskz_loadu_ps(mask, b) : _mm512_loadu_ps(b + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < 8 && i < R; i++) {
            __m512 x = _mm512_set1_ps(a[i * p->a_row]);
#pragma GCC unroll 4
            for (int j = 0; j < 4 && j < V; j++)
                sum[i][j] = _mm512_fmadd_ps(x, v[j], sum[i][j]);
        }
        a += p->a_col;
        b += p->ldb;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < 4 && j < V; j++) {
            if (masked)
                _mm512_mask_storeu_ps(c + i * p->ldc, mask, sum[i][j]);
            else
                _mm512_storeu_ps(c + i * p->ldc + 16 * j, sum[i][j]);
        }
    }
}

static void product(const struct lt_tile_product *p)
{
    int64_t col = 0;
    for (; col + 64 <= p->n; col += 64) {
        int64_t row = 0;
        for (; row + 4 <= p->rows; row += 4)
            product_panel(p, row, col, 4, 4, false, 0);
        for (; row < p->rows; row++)
            product_panel(p, row, col, 1, 4, false, 0);
    }
    for (; col < p->n; col += 16) {
        __mmask16 mask = lt_lanes_avx512(p->n - col);
        int64_t row = 0;
        for (; row + 8 <= p->rows; row += 8)
            product_panel(p, row, col, 8, 1, true, mask);
        for (; row < p->rows; row++)
            product_panel(p, row, col, 1, 1, true, mask);
    }
}

/* 16 rows r become 16 columns. */
static inline __attribute__((always_inline)) void transpose_16x16(__m512 r[16])
{
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    /* u[4g + j]: in lane L, column 4L + j of rows 4g to 4g + 3. */
    __m512 u[16];
#pragma GCC unroll 4
    for (int g = 0; g < 16; g += 4) {
        for (int h = 0; h < 2; h++) {
            __m512d x = _mm512_castps_pd(t[g + h]), y = _mm512_castps_pd(t[g + 2 + h]);
            u[g + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            u[g + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512 even_top = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88);
        __m512 odd_top = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
        __m512 even_bottom = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
        __m512 odd_bottom = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
        r[j] = _mm512_shuffle_f32x4(even_top, even_bottom, 0x88);
        r[4 + j] = _mm512_shuffle_f32x4(odd_top, odd_bottom, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(even_top, even_bottom, 0xdd);
        r[12 + j] = _mm512_shuffle_f32x4(odd_top, odd_bottom, 0xdd);
    }
}

static void transpose(float *dst, const float *src, int64_t ld, int64_t keys, int64_t depth)
{
    for (int64_t key = 0; key < keys; key += 16) {
        for (int64_t d = 0; d < depth; d += 16) {
            __mmask16 mask = lt_lanes_avx512(depth - d);
            __m512 r[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                r[i] = key + i < keys ? _mm512_maskz_loadu_ps(mask, src + (key + i) * ld + d)
                                      : _mm512_setzero_ps();
            transpose_16x16(r);
            float *out = dst + d * TILE + key;
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                if (d + i < depth)
                    _mm512_storeu_ps(out + i * TILE, r[i]);
        }
    }
}

/* exp(x) for x <= 88; results below the smallest normal number are 0, so that no subnormal reaches a product. */
static inline __m512 exp_weight(__m512 x)
{
    return lt_exp_avx512(_mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_LT_OQ),
                                            _mm512_set1_ps(-INFINITY)));
}

static inline __mmask16 visible_lanes(const struct lt_score_row *row, int64_t column)
{
    return (__mmask16)(lt_lanes_avx512(row->hi - column) & ~lt_lanes_avx512(row->lo - column));
}

static float inverse(float softcap)
{
    return softcap != 0.0f ? 1.0f / softcap : 0.0f;
}

static float softmax_row(float *s, const struct lt_score_row *row, float *max, float *sum)
{
    const __m512 scale = _mm512_set1_ps(row->scale), none = _mm512_set1_ps(-INFINITY);
    const __m512 cap = _mm512_set1_ps(row->softcap), inverse_cap = _mm512_set1_ps(inverse(row->softcap));
    int64_t from = row->lo / 16 * 16;
    __m512 top = none;
    for (int64_t i = from; i < row->hi; i += 16) {
        __m512 z = _mm512_mul_ps(_mm512_loadu_ps(s + i), scale);
        if (row->softcap != 0.0f)
            z = _mm512_mul_ps(cap, lt_tanh_avx512(_mm512_mul_ps(z, inverse_cap)));
        z = _mm512_mask_mov_ps(none, visible_lanes(row, i), z);
        top = _mm512_max_ps(z, top);
        _mm512_storeu_ps(s + i, z);
    }
    float new_max = lt_max_avx512(top);
    new_max = new_max > *max ? new_max : *max;
    /* All scores -infinity: any finite reference gives weights of 0. */
    float reference = new_max == -INFINITY ? 0.0f : new_max;
    __m512 total = _mm512_setzero_ps();
    for (int64_t i = from; i < row->hi; i += 16) {
        __m512 p = exp_weight(_mm512_sub_ps(_mm512_loadu_ps(s + i), _mm512_set1_ps(reference)));
        total = _mm512_add_ps(total, p);
        if (row->keep)
            p = _mm512_mul_ps(p, _mm512_loadu_ps(row->keep + i));
        _mm512_storeu_ps(s + i, p);
    }
    float before = _mm512_cvtss_f32(exp_weight(_mm512_set1_ps(*max - reference)));
    *sum = *sum * before + lt_sum_avx512(total);
    *max = new_max;
    return before;
}

static void grad_row(float *s, float *dp, const struct lt_score_row *row, float lse, float delta)
{
    const __m512 scale = _mm512_set1_ps(row->scale), one = _mm512_set1_ps(1.0f);
    const __m512 cap = _mm512_set1_ps(row->softcap), inverse_cap = _mm512_set1_ps(inverse(row->softcap));
    for (int64_t i = 0; i < TILE; i += 16) {
        __mmask16 visible = visible_lanes(row, i);
        if (visible == 0) {
            _mm512_storeu_ps(s + i, _mm512_setzero_ps());
            _mm512_storeu_ps(dp + i, _mm512_setzero_ps());
            continue;
        }
        __m512 z = _mm512_mul_ps(_mm512_loadu_ps(s + i), scale), slope = scale;
        if (row->softcap != 0.0f) {
            __m512 t = lt_tanh_avx512(_mm512_mul_ps(z, inverse_cap));
            z = _mm512_mul_ps(cap, t);
            slope = _mm512_mul_ps(scale, _mm512_fnmadd_ps(t, t, one));
        }
        __m512 p = exp_weight(_mm512_sub_ps(z, _mm512_set1_ps(lse)));
        __m512 d = _mm512_loadu_ps(dp + i), kept = p;
        if (row->keep) {
            __m512 keep = _mm512_loadu_ps(row->keep + i);
            kept = _mm512_mul_ps(p, keep);
            d = _mm512_mul_ps(d, keep);
        }
        d = _mm512_mul_ps(_mm512_mul_ps(p, _mm512_sub_ps(d, _mm512_set1_ps(delta))), slope);
        _mm512_storeu_ps(s + i, _mm512_maskz_mov_ps(visible, kept));
        _mm512_storeu_ps(dp + i, _mm512_maskz_mov_ps(visible, d));
    }
}

static void scale_row(float *y, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 mask = lt_lanes_avx512(n - i);
        __m512 x = _mm512_maskz_loadu_ps(mask, y + i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(x, _mm512_set1_ps(factor)));
    }
}

static float dot(const float *a, const float *b, int64_t n)
{
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 mask = lt_lanes_avx512(n - i);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i), sum);
    }
    return lt_sum_avx512(sum);
}

static const struct lt_attention_ops ops = {.product = product,
                                            .transpose = transpose,
                                            .softmax_row = softmax_row,
                                            .grad_row = grad_row,
                                            .scale_row = scale_row,
                                            .dot = dot,
                                            .keep_row = lt_keep_row_avx2};

static void attention_fwd_avx512(const struct lt_attention_block *block)
{
    lt_attention_flash_fwd(&ops, block);
}

static void attention_bwd_avx512(const struct lt_attention_grad *grad)
{
    lt_attention_flash_bwd(&ops, grad);
}

void lt_attention_kernels_avx512(struct lt_cpu_kernels *k)
{
    k->attention_fwd = attention_fwd_avx512;
    k->attention_bwd = attention_bwd_avx512;
}
