/* Attention row by row: the plain form of what attention_flash.h does in tiles.  Dot products in double. */
#include "backends/cpu/ref/ref_kernels.h"

#include <math.h>
#include <string.h>

#include "backends/cpu/attention_turns.h"
#include "core/base/checked.h"
#include "core/tensor/dtype.h"

/* A factor of a product. */
static float factor(float x, bool bf16)
{
    return bf16 ? lt_bf16_to_f32(lt_f32_to_bf16(x)) : x;
}

static double dot(const float *a, const float *b, int64_t n, bool bf16)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)factor(a[i], bf16) * (double)factor(b[i], bf16);
    return sum;
}

static void add_scaled(float *y, float a, const float *x, int64_t n, bool bf16)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += factor(a, bf16) * factor(x[i], bf16);
}

/* The score of a raw product, and with slope its derivative. */
static float score(float product, float scale, float softcap, float *slope)
{
    float z = product * scale;
    *slope = scale;
    if (softcap == 0.0f)
        return z;
    float t = tanhf(z / softcap);
    *slope = scale * (1.0f - t * t);
    return softcap * t;
}

static float keep_factor(const struct lt_rng_site *site, uint32_t row_key, int64_t column, uint32_t threshold,
                         float scale)
{
    if (threshold == 0)
        return 1.0f;
    return lt_rng_bits(site, row_key, (uint32_t)column) >= threshold ? scale : 0.0f;
}

/* Tiles of keys as in the fast kernels: the running maximum moves once a tile. */
static void attend_row(const struct lt_attention_block *b, int64_t row, bool bf16)
{
    enum { TILE = 64 };
    float s[TILE], slope, max = -INFINITY;
    double sum = 0.0;
    const float *q = b->q + row * b->ldq;
    float *o = b->o + row * b->ldo;
    int64_t end = b->kv_end[row];
    int64_t begin = b->window > 0 ? lt_max_i64(b->kv_begin, end - b->window) : b->kv_begin;
    memset(o, 0, (size_t)b->head_dim * sizeof *o);
    for (int64_t tile = begin; tile < end; tile += TILE) {
        int64_t n = lt_min_i64(TILE, end - tile);
        float new_max = max;
        for (int64_t i = 0; i < n; i++) {
            float product = (float)dot(q, b->k + (tile + i) * b->ldkv, b->head_dim, bf16);
            s[i] = score(product, b->scale, b->softcap, &slope);
            new_max = s[i] > new_max ? s[i] : new_max;
        }
        float reference = new_max == -INFINITY ? 0.0f : new_max;
        float before = expf(max - reference);
        sum *= (double)before;
        for (int64_t d = 0; d < b->head_dim; d++)
            o[d] *= before;
        for (int64_t i = 0; i < n; i++) {
            float p = expf(s[i] - reference);
            sum += (double)p;
            p *= keep_factor(&b->site, b->row_key ? b->row_key[row] : 0, tile + i - b->kv_begin,
                             b->drop_threshold, b->drop_scale);
            add_scaled(o, p, b->v + (tile + i) * b->ldkv, b->head_dim, bf16);
        }
        max = new_max;
    }
    for (int64_t d = 0; end > begin && d < b->head_dim; d++)
        o[d] /= (float)sum;
    b->lse[row * b->ldlse] = end > begin ? (float)((double)max + log(sum)) : -INFINITY;
}

static void attention_fwd_ref(const struct lt_attention_block *block)
{
    for (int64_t row = 0; row < block->rows; row++)
        attend_row(block, row, false);
}

static void attention_fwd_bf16_ref(const struct lt_attention_block *block)
{
    for (int64_t row = 0; row < block->rows; row++)
        attend_row(block, row, true);
}

/* One query row of head `head` of the group against the call's keys. */
static void gradient_row(const struct lt_attention_grad *a, int64_t head, int64_t row, bool bf16)
{
    struct lt_rng_site site = a->site;
    site.site += (uint32_t)head;
    const float *q = a->q + row * a->ldq + head * a->head_dim;
    const float *d_o = a->d_o + row * a->ldo + head * a->head_dim;
    float *dq = a->dq + row * a->ldq + head * a->head_dim;
    float lse = a->lse[row * a->ldlse + head];
    double delta = dot(d_o, a->o + row * a->ldo + head * a->head_dim, a->head_dim, false);
    int64_t begin = a->window > 0 ? lt_max_i64(a->key_begin, row + 1 - a->window) : a->key_begin;
    for (int64_t j = begin; j <= row && j < a->key_end; j++) {
        const float *k = a->k + j * a->ldkv, *v = a->v + j * a->ldkv;
        float slope, s = score((float)dot(q, k, a->head_dim, bf16), a->scale, a->softcap, &slope);
        float p = expf(s - lse);
        float keep =
            keep_factor(&site, a->row_key ? a->row_key[row] : 0, j, a->drop_threshold, a->drop_scale);
        double dp = dot(d_o, v, a->head_dim, bf16) * (double)keep;
        float ds = (float)((double)p * (dp - delta)) * slope;
        add_scaled(a->dv + j * a->ldkv, p * keep, d_o, a->head_dim, bf16);
        add_scaled(a->dk + j * a->ldkv, ds, q, a->head_dim, bf16);
        add_scaled(dq, ds, k, a->head_dim, bf16);
    }
}

static void gradient_rows(const struct lt_attention_grad *a, int64_t head, int64_t begin, int64_t end,
                          bool bf16)
{
    bool first = lt_attention_turn_take(a, head, begin);
    for (int64_t row = begin; row < end; row++) {
        if (first)
            memset(a->dq + row * a->ldq + head * a->head_dim, 0, (size_t)a->head_dim * sizeof(float));
        gradient_row(a, head, row, bf16);
    }
    lt_attention_turn_pass(a, head, begin);
}

static void gradients(const struct lt_attention_grad *a, bool bf16)
{
    enum { TILE = LT_ATTENTION_TILE };
    size_t bytes = (size_t)a->head_dim * sizeof(float);
    for (int64_t key = a->key_begin; key < a->key_end; key++) {
        memset(a->dk + key * a->ldkv, 0, bytes);
        memset(a->dv + key * a->ldkv, 0, bytes);
    }
    for (int64_t head = 0; head < a->group; head++)
        for (int64_t row = a->key_begin; row < lt_attention_last_row(a, a->key_end); row += TILE)
            gradient_rows(a, head, row, lt_min_i64(row + TILE, a->rows), bf16);
}

static void attention_bwd_ref(const struct lt_attention_grad *grad)
{
    gradients(grad, false);
}

static void attention_bwd_bf16_ref(const struct lt_attention_grad *grad)
{
    gradients(grad, true);
}

void lt_attention_kernels_ref(struct lt_cpu_kernels *k)
{
    k->attention_fwd = attention_fwd_ref;
    k->attention_bwd = attention_bwd_ref;
    k->attention_fwd_bf16 = attention_fwd_bf16_ref;
    k->attention_bwd_bf16 = attention_bwd_bf16_ref;
}
