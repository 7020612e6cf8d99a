/* RMSNorm and LayerNorm for NEON.  Row sums run in up to 8 x 4 lanes that are added in a fixed order. */
#include "backends/cpu/arm/arm_kernels.h"

#include <math.h>

#include "backends/cpu/arm/vecmath_neon.h"

enum { SUMS = 8, STEP = 4 * SUMS };

static inline float32x4_t load_scale(const float *w, int64_t n, bool plus_one)
{
    float32x4_t v = lt_load_neon(w, n);
    return plus_one ? vaddq_f32(v, vdupq_n_f32(1.0f)) : v;
}

static inline void clear(float32x4_t s[SUMS])
{
    for (int j = 0; j < SUMS; j++)
        s[j] = vdupq_n_f32(0.0f);
}

static inline float sum8(const float32x4_t s[SUMS])
{
    float32x4_t a = vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3]));
    float32x4_t b = vaddq_f32(vaddq_f32(s[4], s[5]), vaddq_f32(s[6], s[7]));
    return vaddvq_f32(vaddq_f32(a, b));
}

/* sum of (x - shift)^2 */
static float square_sum(const float *x, int64_t n, float shift)
{
    const float32x4_t c = vdupq_n_f32(shift);
    float32x4_t s[SUMS];
    clear(s);
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP) {
#pragma GCC unroll 8
        for (int j = 0; j < SUMS; j++) {
            float32x4_t d = vsubq_f32(vld1q_f32(x + i + 4 * j), c);
            s[j] = vfmaq_f32(s[j], d, d);
        }
    }
    for (; i < n; i += 4) {
        float32x4_t d = vsubq_f32(lt_load_neon(x + i, n - i), c);
        if (n - i < 4) /* the lanes behind the row hold -shift */
            d = lt_and_neon(lt_lanes_neon(n - i), d);
        s[0] = vfmaq_f32(s[0], d, d);
    }
    return sum8(s);
}

static float plain_sum(const float *x, int64_t n)
{
    float32x4_t s[SUMS];
    clear(s);
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
#pragma GCC unroll 8
        for (int j = 0; j < SUMS; j++)
            s[j] = vaddq_f32(s[j], vld1q_f32(x + i + 4 * j));
    for (; i < n; i += 4)
        s[0] = vaddq_f32(s[0], lt_load_neon(x + i, n - i));
    return sum8(s);
}

static void rmsnorm_fwd_neon(float *y, float *rstd, const float *x, const float *w, int64_t rows,
                             int64_t cols, float eps, bool plus_one)
{
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        float scale = 1.0f / sqrtf(square_sum(x, cols, 0.0f) / (float)cols + eps);
        rstd[r] = scale;
        for (int64_t i = 0; i < cols; i += 4) {
            float32x4_t v = vmulq_n_f32(lt_load_neon(x + i, cols - i), scale);
            lt_store_neon(y + i, cols - i, vmulq_f32(v, load_scale(w + i, cols - i, plus_one)));
        }
    }
}

/* sum of dy * w' * x */
static float scaled_dot(const float *dy, const float *x, const float *w, int64_t n, bool plus_one)
{
    float32x4_t s[SUMS];
    clear(s);
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP) {
#pragma GCC unroll 8
        for (int j = 0; j < SUMS; j++) {
            float32x4_t g = vmulq_f32(vld1q_f32(dy + i + 4 * j), load_scale(w + i + 4 * j, 4, plus_one));
            s[j] = vfmaq_f32(s[j], g, vld1q_f32(x + i + 4 * j));
        }
    }
    for (; i < n; i += 4) {
        float32x4_t g = vmulq_f32(lt_load_neon(dy + i, n - i), load_scale(w + i, n - i, plus_one));
        s[0] = vfmaq_f32(s[0], g, lt_load_neon(x + i, n - i));
    }
    return sum8(s);
}

static void rmsnorm_bwd_neon(float *dx, const float *dy, const float *x, const float *w, const float *rstd,
                             int64_t rows, int64_t cols, bool plus_one)
{
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        const float32x4_t pull =
            vdupq_n_f32(rstd[r] * rstd[r] * (scaled_dot(dy, x, w, cols, plus_one) / (float)cols));
        for (int64_t i = 0; i < cols; i += 4) {
            float32x4_t g = vmulq_f32(lt_load_neon(dy + i, cols - i), load_scale(w + i, cols - i, plus_one));
            float32x4_t d = vfmsq_f32(g, lt_load_neon(x + i, cols - i), pull);
            lt_store_neon(dx + i, cols - i, vmulq_n_f32(d, rstd[r]));
        }
    }
}

/* Columns [0, 4V) of the weight gradient, of which n are left. */
static inline __attribute__((always_inline)) void rmsnorm_dw_columns(float *dw, const float *dy,
                                                                     const float *x, const float *rstd,
                                                                     int64_t rows, int64_t cols, int64_t n,
                                                                     const int V)
{
    float32x4_t sum[SUMS];
#pragma GCC unroll 8
    for (int j = 0; j < V; j++)
        sum[j] = vdupq_n_f32(0.0f);
    for (int64_t r = 0; r < rows; r++, dy += cols, x += cols) {
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) {
            float32x4_t g = vmulq_n_f32(lt_load_neon(dy + 4 * j, n - 4 * j), rstd[r]);
            sum[j] = vfmaq_f32(sum[j], g, lt_load_neon(x + 4 * j, n - 4 * j));
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < V; j++)
        lt_store_neon(dw + 4 * j, n - 4 * j, vaddq_f32(lt_load_neon(dw + 4 * j, n - 4 * j), sum[j]));
}

static void rmsnorm_dw_neon(float *dw, const float *dy, const float *x, const float *rstd, int64_t rows,
                            int64_t cols, int64_t begin, int64_t end)
{
    int64_t c = begin;
    for (; c + STEP <= end; c += STEP)
        rmsnorm_dw_columns(dw + c, dy + c, x + c, rstd, rows, cols, STEP, SUMS);
    for (; c < end; c += 4)
        rmsnorm_dw_columns(dw + c, dy + c, x + c, rstd, rows, cols, end - c, 1);
}

static void layernorm_fwd_neon(float *y, float *mean, float *rstd, const float *x, const float *w,
                               const float *b, int64_t rows, int64_t cols, float eps)
{
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        float m = plain_sum(x, cols) / (float)cols;
        float scale = 1.0f / sqrtf(square_sum(x, cols, m) / (float)cols + eps);
        mean[r] = m;
        rstd[r] = scale;
        for (int64_t i = 0; i < cols; i += 4) {
            float32x4_t v = vsubq_f32(lt_load_neon(x + i, cols - i), vdupq_n_f32(m));
            v = vmulq_n_f32(v, scale);
            lt_store_neon(y + i, cols - i,
                          vfmaq_f32(lt_load_neon(b + i, cols - i), v, lt_load_neon(w + i, cols - i)));
        }
    }
}

/* g = dy * w and the normalised x of up to 4 columns. */
static inline float32x4_t layernorm_pair(const float *dy, const float *x, const float *w, int64_t n,
                                         float mean, float rstd, float32x4_t *normal)
{
    *normal = vmulq_n_f32(vsubq_f32(lt_load_neon(x, n), vdupq_n_f32(mean)), rstd);
    return vmulq_f32(lt_load_neon(dy, n), lt_load_neon(w, n));
}

/* The sums of g and of g times the normalised x over a row. */
static void layernorm_sums(const float *dy, const float *x, const float *w, int64_t n, float mean, float rstd,
                           float *sum, float *dot)
{
    enum { PAIRS = 4 };
    float32x4_t s[PAIRS], d[PAIRS], normal;
    for (int j = 0; j < PAIRS; j++)
        s[j] = d[j] = vdupq_n_f32(0.0f);
    int64_t i = 0;
    for (; i + 4 * PAIRS <= n; i += 4 * PAIRS) {
#pragma GCC unroll 4
        for (int j = 0; j < PAIRS; j++) {
            int64_t at = i + 4 * j;
            float32x4_t g = layernorm_pair(dy + at, x + at, w + at, 4, mean, rstd, &normal);
            s[j] = vaddq_f32(s[j], g);
            d[j] = vfmaq_f32(d[j], g, normal);
        }
    }
    for (; i < n; i += 4) {
        float32x4_t g = layernorm_pair(dy + i, x + i, w + i, n - i, mean, rstd, &normal);
        s[0] = vaddq_f32(s[0], g);
        d[0] = vfmaq_f32(d[0], g, normal);
    }
    *sum = vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
    *dot = vaddvq_f32(vaddq_f32(vaddq_f32(d[0], d[1]), vaddq_f32(d[2], d[3])));
}

static void layernorm_bwd_neon(float *dx, const float *dy, const float *x, const float *w, const float *mean,
                               const float *rstd, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        float sum, dot;
        layernorm_sums(dy, x, w, cols, mean[r], rstd[r], &sum, &dot);
        const float32x4_t g_mean = vdupq_n_f32(sum / (float)cols), gn_mean = vdupq_n_f32(dot / (float)cols);
        for (int64_t i = 0; i < cols; i += 4) {
            float32x4_t normal;
            float32x4_t g = layernorm_pair(dy + i, x + i, w + i, cols - i, mean[r], rstd[r], &normal);
            float32x4_t d = vfmsq_f32(vsubq_f32(g, g_mean), normal, gn_mean);
            lt_store_neon(dx + i, cols - i, vmulq_n_f32(d, rstd[r]));
        }
    }
}

static inline __attribute__((always_inline)) void layernorm_dw_columns(float *dw, float *db, const float *dy,
                                                                       const float *x, const float *mean,
                                                                       const float *rstd, int64_t rows,
                                                                       int64_t cols, int64_t n, const int V)
{
    float32x4_t w_sum[SUMS], b_sum[SUMS];
#pragma GCC unroll 8
    for (int j = 0; j < V; j++)
        w_sum[j] = b_sum[j] = vdupq_n_f32(0.0f);
    for (int64_t r = 0; r < rows; r++, dy += cols, x += cols) {
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) {
            float32x4_t g = lt_load_neon(dy + 4 * j, n - 4 * j);
            float32x4_t v = vsubq_f32(lt_load_neon(x + 4 * j, n - 4 * j), vdupq_n_f32(mean[r]));
            w_sum[j] = vfmaq_f32(w_sum[j], g, vmulq_n_f32(v, rstd[r]));
            b_sum[j] = vaddq_f32(b_sum[j], g);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) {
        int64_t left = n - 4 * j;
        lt_store_neon(dw + 4 * j, left, vaddq_f32(lt_load_neon(dw + 4 * j, left), w_sum[j]));
        lt_store_neon(db + 4 * j, left, vaddq_f32(lt_load_neon(db + 4 * j, left), b_sum[j]));
    }
}

static void layernorm_dw_neon(float *dw, float *db, const float *dy, const float *x, const float *mean,
                              const float *rstd, int64_t rows, int64_t cols, int64_t begin, int64_t end)
{
    int64_t c = begin;
    for (; c + STEP <= end; c += STEP)
        layernorm_dw_columns(dw + c, db + c, dy + c, x + c, mean, rstd, rows, cols, STEP, SUMS);
    for (; c < end; c += 4)
        layernorm_dw_columns(dw + c, db + c, dy + c, x + c, mean, rstd, rows, cols, end - c, 1);
}

void lt_norm_kernels_neon(struct lt_cpu_kernels *k)
{
    k->rmsnorm_fwd = rmsnorm_fwd_neon;
    k->rmsnorm_bwd = rmsnorm_bwd_neon;
    k->rmsnorm_dw = rmsnorm_dw_neon;
    k->layernorm_fwd = layernorm_fwd_neon;
    k->layernorm_bwd = layernorm_bwd_neon;
    k->layernorm_dw = layernorm_dw_neon;
}
