/* Attention primitives for AVX-512. */
#include "backends/cpu/x86/attention_tile_avx512.h"

#include <math.h>

#include "backends/cpu/x86/x86_kernels.h"

enum { TILE = LT_ATTENTION_TILE };

static inline __m512 step_avx512(__m512 acc, __m512 x, __m512 w)
{
    return _mm512_fmadd_ps(x, w, acc);
}

static void product(const struct lt_tile_product *p)
{
    attention_product_512(p, step_avx512);
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
            attention_transpose_16x16(r);
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
    return lt_exp_live_avx512(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ), x);
}

static inline __mmask16 visible_lanes(const struct lt_score_row *row, int64_t column)
{
    return (__mmask16)(lt_lanes_avx512(row->hi - column) & ~lt_lanes_avx512(row->lo - column));
}

static float inverse(float softcap)
{
    return softcap != 0.0f ? 1.0f / softcap : 0.0f;
}

/* The new maximum and what exponents are taken from: all scores -infinity, any finite number gives weights of 0. */
static float raise_max(float *max, __m512 top)
{
    const float m = lt_max_avx512(top);
    *max = m > *max ? m : *max;
    return *max == -INFINITY ? 0.0f : *max;
}

/* The factor for what was accumulated below the maximum before; exp(0) is 1. */
static float factor_before(float before, float reference)
{
    return before == reference ? 1.0f : _mm512_cvtss_f32(exp_weight(_mm512_set1_ps(before - reference)));
}

/* As lt_softmax_row_avx512() for a row that sees all columns, without softcap and dropout. */
static float softmax_whole_row(float *s, float scale, float *max, float *sum)
{
    const float max_before = *max;
    __m512 z[TILE / 16], top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < TILE / 16; i++) {
        z[i] = _mm512_mul_ps(_mm512_loadu_ps(s + 16L * i), _mm512_set1_ps(scale));
        top = _mm512_max_ps(z[i], top);
    }
    const float reference = raise_max(max, top);
#pragma GCC unroll 4
    for (int i = 0; i < TILE / 16; i++) {
        z[i] = exp_weight(_mm512_sub_ps(z[i], _mm512_set1_ps(reference)));
        total = _mm512_add_ps(total, z[i]);
        _mm512_storeu_ps(s + 16L * i, z[i]);
    }
    const float before = factor_before(max_before, reference);
    *sum = *sum * before + lt_sum_avx512(total);
    return before;
}

float lt_softmax_row_avx512(float *s, const struct lt_score_row *row, float *max, float *sum)
{
    const __m512 scale = _mm512_set1_ps(row->scale), none = _mm512_set1_ps(-INFINITY);
    const __m512 cap = _mm512_set1_ps(row->softcap), inverse_cap = _mm512_set1_ps(inverse(row->softcap));
    const int64_t from = row->lo / 16 * 16;
    const float max_before = *max;
    __m512 top = none;
    if (row->lo == 0 && row->hi == TILE && row->softcap == 0.0f && !row->keep)
        return softmax_whole_row(s, row->scale, max, sum);
    for (int64_t i = from; i < row->hi; i += 16) {
        __m512 z = _mm512_mul_ps(_mm512_loadu_ps(s + i), scale);
        if (row->softcap != 0.0f)
            z = _mm512_mul_ps(cap, lt_tanh_avx512(_mm512_mul_ps(z, inverse_cap)));
        z = _mm512_mask_mov_ps(none, visible_lanes(row, i), z);
        top = _mm512_max_ps(z, top);
        _mm512_storeu_ps(s + i, z);
    }
    const float reference = raise_max(max, top);
    __m512 total = _mm512_setzero_ps();
    for (int64_t i = from; i < row->hi; i += 16) {
        __m512 p = exp_weight(_mm512_sub_ps(_mm512_loadu_ps(s + i), _mm512_set1_ps(reference)));
        total = _mm512_add_ps(total, p);
        if (row->keep)
            p = _mm512_mul_ps(p, _mm512_loadu_ps(row->keep + i));
        _mm512_storeu_ps(s + i, p);
    }
    const float before = factor_before(max_before, reference);
    *sum = *sum * before + lt_sum_avx512(total);
    return before;
}

void lt_grad_row_avx512(float *s, float *dp, const struct lt_score_row *row, float lse, float delta)
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

void lt_scale_row_avx512(float *y, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 mask = lt_lanes_avx512(n - i);
        __m512 x = _mm512_maskz_loadu_ps(mask, y + i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(x, _mm512_set1_ps(factor)));
    }
}

float lt_dot_avx512(const float *a, const float *b, int64_t n)
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
                                            .softmax_row = lt_softmax_row_avx512,
                                            .grad_row = lt_grad_row_avx512,
                                            .scale_row = lt_scale_row_avx512,
                                            .dot = lt_dot_avx512,
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
