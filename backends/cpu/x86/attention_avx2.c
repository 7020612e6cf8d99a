/* Attention primitives for AVX2. */
#include "backends/cpu/attention_flash.h"

#include <math.h>

#include "backends/cpu/x86/vecmath_avx2.h"
#include "backends/cpu/x86/x86_kernels.h"

enum { TILE = LT_ATTENTION_TILE };

/* R rows and V vectors of columns of a product.  R and V are constants at every call; with a mask V is 1.
 * Only loops with literal bounds does every compiler unroll soon enough to keep the sums in registers. */
static inline __attribute__((always_inline)) void product_panel(const struct lt_tile_product *p, int64_t row,
                                                                int64_t col, const int R, const int V,
                                                                const bool masked, __m256i mask)
{
    __m256 sum[8][2];
    float *c = p->c + row * p->ldc + col;
    const float *a = p->a + row * p->a_row, *b = p->b + col;
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2 && j < V; j++)
            sum[i][j] = !p->accumulate ? _mm256_setzero_ps()
                        : masked       ? _mm256_maskload_ps(c + i * p->ldc, mask)
                                       : _mm256_loadu_ps(c + i * p->ldc + 8 * j);
    for (int64_t k = 0; k < p->k; k++) {
        __m256 v[2];
#pragma GCC unroll 2
        for (int j = 0; j < 2 && j < V; j++)
            v[j] = masked ? _mm256_maskload_ps(b, mask) : _mm256_loadu_ps(b + 8 * j);
#pragma GCC unroll 8
        for (int i = 0; i < 8 && i < R; i++) {
            __m256 x = _mm256_broadcast_ss(a + i * p->a_row);
#pragma GCC unroll 2
            for (int j = 0; j < 2 && j < V; j++)
                sum[i][j] = _mm256_fmadd_ps(x, v[j], sum[i][j]);
        }
        a += p->a_col;
        b += p->ldb;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8 && i < R; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < 2 && j < V; j++) {
            if (masked)
                _mm256_maskstore_ps(c + i * p->ldc, mask, sum[i][j]);
            else
                _mm256_storeu_ps(c + i * p->ldc + 8 * j, sum[i][j]);
        }
    }
}

static void product(const struct lt_tile_product *p)
{
    const __m256i all = lt_lanes_avx2(8);
    int64_t col = 0;
    for (; col + 16 <= p->n; col += 16) {
        int64_t row = 0;
        for (; row + 4 <= p->rows; row += 4)
            product_panel(p, row, col, 4, 2, false, all);
        for (; row < p->rows; row++)
            product_panel(p, row, col, 1, 2, false, all);
    }
    for (; col < p->n; col += 8) {
        __m256i mask = lt_lanes_avx2(p->n - col < 8 ? p->n - col : 8);
        int64_t row = 0;
        for (; row + 8 <= p->rows; row += 8)
            product_panel(p, row, col, 8, 1, true, mask);
        for (; row < p->rows; row++)
            product_panel(p, row, col, 1, 1, true, mask);
    }
}

/* 8 rows r become 8 columns. */
static inline __attribute__((always_inline)) void transpose_8x8(__m256 r[8])
{
    __m256 t[8], u[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    /* u[4g + j]: in lane L, column 4L + j of rows 4g to 4g + 3. */
#pragma GCC unroll 2
    for (int g = 0; g < 8; g += 4) {
        u[g] = _mm256_shuffle_ps(t[g], t[g + 2], 0x44);
        u[g + 1] = _mm256_shuffle_ps(t[g], t[g + 2], 0xee);
        u[g + 2] = _mm256_shuffle_ps(t[g + 1], t[g + 3], 0x44);
        u[g + 3] = _mm256_shuffle_ps(t[g + 1], t[g + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
    }
}

static void transpose(float *dst, const float *src, int64_t ld, int64_t keys, int64_t depth)
{
    /* Whole groups of 16 keys, so that the products may read them. */
    for (int64_t key = 0; key < (keys + 15) / 16 * 16; key += 8) {
        for (int64_t d = 0; d < depth; d += 8) {
            __m256i mask = lt_lanes_avx2(depth - d < 8 ? depth - d : 8);
            __m256 r[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                r[i] = key + i < keys ? _mm256_maskload_ps(src + (key + i) * ld + d, mask)
                                      : _mm256_setzero_ps();
            transpose_8x8(r);
            float *out = dst + d * TILE + key;
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                if (d + i < depth)
                    _mm256_storeu_ps(out + i * TILE, r[i]);
        }
    }
}

/* Lanes of columns [column, column + 8) in [lo, hi). */
static inline __m256 visible_lanes(const struct lt_score_row *row, int64_t column)
{
    __m256i at =
        _mm256_add_epi32(_mm256_set1_epi32((int32_t)column), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)row->lo), at);
    __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)row->hi), at);
    return _mm256_castsi256_ps(_mm256_andnot_si256(before, inside));
}

static float inverse(float softcap)
{
    return softcap != 0.0f ? 1.0f / softcap : 0.0f;
}

static float softmax_row(float *s, const struct lt_score_row *row, float *max, float *sum)
{
    const __m256 scale = _mm256_set1_ps(row->scale), none = _mm256_set1_ps(-INFINITY);
    const __m256 cap = _mm256_set1_ps(row->softcap), inverse_cap = _mm256_set1_ps(inverse(row->softcap));
    int64_t from = row->lo / 8 * 8;
    __m256 top = none;
    for (int64_t i = from; i < row->hi; i += 8) {
        __m256 z = _mm256_mul_ps(_mm256_loadu_ps(s + i), scale);
        if (row->softcap != 0.0f)
            z = _mm256_mul_ps(cap, lt_tanh_avx2(_mm256_mul_ps(z, inverse_cap)));
        z = _mm256_blendv_ps(none, z, visible_lanes(row, i));
        top = _mm256_max_ps(z, top);
        _mm256_storeu_ps(s + i, z);
    }
    float new_max = lt_max_avx2(top);
    new_max = new_max > *max ? new_max : *max;
    /* All scores -infinity: any finite reference gives weights of 0. */
    float reference = new_max == -INFINITY ? 0.0f : new_max;
    __m256 total = _mm256_setzero_ps();
    for (int64_t i = from; i < row->hi; i += 8) {
        __m256 p = lt_exp_weight_avx2(_mm256_sub_ps(_mm256_loadu_ps(s + i), _mm256_set1_ps(reference)));
        total = _mm256_add_ps(total, p);
        if (row->keep)
            p = _mm256_mul_ps(p, _mm256_loadu_ps(row->keep + i));
        _mm256_storeu_ps(s + i, p);
    }
    float before = _mm256_cvtss_f32(lt_exp_weight_avx2(_mm256_set1_ps(*max - reference)));
    *sum = *sum * before + lt_sum_avx2(total);
    *max = new_max;
    return before;
}

static void grad_row(float *s, float *dp, const struct lt_score_row *row, float lse, float delta)
{
    const __m256 scale = _mm256_set1_ps(row->scale), one = _mm256_set1_ps(1.0f);
    const __m256 cap = _mm256_set1_ps(row->softcap), inverse_cap = _mm256_set1_ps(inverse(row->softcap));
    for (int64_t i = 0; i < TILE; i += 8) {
        __m256 visible = visible_lanes(row, i);
        if (_mm256_movemask_ps(visible) == 0) {
            _mm256_storeu_ps(s + i, _mm256_setzero_ps());
            _mm256_storeu_ps(dp + i, _mm256_setzero_ps());
            continue;
        }
        __m256 z = _mm256_mul_ps(_mm256_loadu_ps(s + i), scale), slope = scale;
        if (row->softcap != 0.0f) {
            __m256 t = lt_tanh_avx2(_mm256_mul_ps(z, inverse_cap));
            z = _mm256_mul_ps(cap, t);
            slope = _mm256_mul_ps(scale, _mm256_fnmadd_ps(t, t, one));
        }
        __m256 p = lt_exp_weight_avx2(_mm256_sub_ps(z, _mm256_set1_ps(lse)));
        __m256 d = _mm256_loadu_ps(dp + i), kept = p;
        if (row->keep) {
            __m256 keep = _mm256_loadu_ps(row->keep + i);
            kept = _mm256_mul_ps(p, keep);
            d = _mm256_mul_ps(d, keep);
        }
        d = _mm256_mul_ps(_mm256_mul_ps(p, _mm256_sub_ps(d, _mm256_set1_ps(delta))), slope);
        _mm256_storeu_ps(s + i, _mm256_and_ps(visible, kept));
        _mm256_storeu_ps(dp + i, _mm256_and_ps(visible, d));
    }
}

static void scale_row(float *y, float factor, int64_t n)
{
    const __m256 f = _mm256_set1_ps(factor);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(y + i), f));
    if (i < n) {
        __m256i mask = lt_lanes_avx2(n - i);
        _mm256_maskstore_ps(y + i, mask, _mm256_mul_ps(_mm256_maskload_ps(y + i, mask), f));
    }
}

static float dot(const float *a, const float *b, int64_t n)
{
    __m256 sum = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        sum = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), sum);
    if (i < n) {
        __m256i mask = lt_lanes_avx2(n - i);
        sum = _mm256_fmadd_ps(_mm256_maskload_ps(a + i, mask), _mm256_maskload_ps(b + i, mask), sum);
    }
    return lt_sum_avx2(sum);
}

static const struct lt_attention_ops ops = {.product = product,
                                            .transpose = transpose,
                                            .softmax_row = softmax_row,
                                            .grad_row = grad_row,
                                            .scale_row = scale_row,
                                            .dot = dot,
                                            .keep_row = lt_keep_row_avx2};

static void attention_fwd_avx2(const struct lt_attention_block *block)
{
    lt_attention_flash_fwd(&ops, block);
}

static void attention_bwd_avx2(const struct lt_attention_grad *grad)
{
    lt_attention_flash_bwd(&ops, grad);
}

void lt_attention_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->attention_fwd = attention_fwd_avx2;
    k->attention_bwd = attention_bwd_avx2;
    k->attention_fwd_bf16 = NULL;
    k->attention_bwd_bf16 = NULL;
}
