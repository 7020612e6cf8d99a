/* RMSNorm and LayerNorm for AVX2.  Row sums run in 4 x 8 lanes that are added in a fixed order. */
#include "backends/cpu/x86/x86_kernels.h"

#include <math.h>

#include "backends/cpu/x86/vecmath_avx2.h"

static inline __m256 load_scale(const float *w, int64_t n, bool plus_one)
{
    __m256 v = lt_load_avx2(w, n);
    return plus_one ? _mm256_add_ps(v, _mm256_set1_ps(1.0f)) : v;
}

static float sum4(const __m256 s[4])
{
    return lt_sum_avx2(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
}

/* sum of (x - shift)^2 */
static float square_sum(const float *x, int64_t n, float shift)
{
    const __m256 c = _mm256_set1_ps(shift);
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256 d = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), c);
            s[j] = _mm256_fmadd_ps(d, d, s[j]);
        }
    }
    for (; i < n; i += 8) {
        __m256 d = _mm256_sub_ps(lt_load_avx2(x + i, n - i), c);
        if (n - i < 8) /* the lanes behind the row hold -shift */
            d = _mm256_and_ps(d, _mm256_castsi256_ps(lt_lanes_avx2(n - i)));
        s[0] = _mm256_fmadd_ps(d, d, s[0]);
    }
    return sum4(s);
}

static float plain_sum(const float *x, int64_t n)
{
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            s[j] = _mm256_add_ps(s[j], _mm256_loadu_ps(x + i + 8 * j));
    for (; i < n; i += 8)
        s[0] = _mm256_add_ps(s[0], lt_load_avx2(x + i, n - i));
    return sum4(s);
}

static void rmsnorm_fwd_avx2(float *y, float *rstd, const float *x, const float *w, int64_t rows,
                             int64_t cols, float eps, bool plus_one)
{
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        float scale = 1.0f / sqrtf(square_sum(x, cols, 0.0f) / (float)cols + eps);
        rstd[r] = scale;
        for (int64_t i = 0; i < cols; i += 8) {
            __m256 v = _mm256_mul_ps(lt_load_avx2(x + i, cols - i), _mm256_set1_ps(scale));
            lt_store_avx2(y + i, cols - i, _mm256_mul_ps(v, load_scale(w + i, cols - i, plus_one)));
        }
    }
}

static void rmsnorm_bwd_avx2(float *dx, const float *dy, const float *x, const float *w, const float *rstd,
                             int64_t rows, int64_t cols, bool plus_one)
{
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int64_t i = 0; i < cols; i += 8) {
            __m256 g = _mm256_mul_ps(lt_load_avx2(dy + i, cols - i), load_scale(w + i, cols - i, plus_one));
            s[i / 8 % 4] = _mm256_fmadd_ps(g, lt_load_avx2(x + i, cols - i), s[i / 8 % 4]);
        }
        float pull = rstd[r] * rstd[r] * (sum4(s) / (float)cols);
        for (int64_t i = 0; i < cols; i += 8) {
            __m256 g = _mm256_mul_ps(lt_load_avx2(dy + i, cols - i), load_scale(w + i, cols - i, plus_one));
            __m256 d = _mm256_fnmadd_ps(lt_load_avx2(x + i, cols - i), _mm256_set1_ps(pull), g);
            lt_store_avx2(dx + i, cols - i, _mm256_mul_ps(d, _mm256_set1_ps(rstd[r])));
        }
    }
}

/* Columns [0, 8V) of the weight gradient, of which n are left. */
static inline __attribute__((always_inline)) void rmsnorm_dw_columns(float *dw, const float *dy,
                                                                     const float *x, const float *rstd,
                                                                     int64_t rows, int64_t cols, int64_t n,
                                                                     const int V)
{
    __m256 sum[4];
#pragma GCC unroll 4
    for (int j = 0; j < V; j++)
        sum[j] = _mm256_setzero_ps();
    for (int64_t r = 0; r < rows; r++, dy += cols, x += cols) {
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) {
            __m256 g = _mm256_mul_ps(lt_load_avx2(dy + 8 * j, n - 8 * j), _mm256_set1_ps(rstd[r]));
            sum[j] = _mm256_fmadd_ps(g, lt_load_avx2(x + 8 * j, n - 8 * j), sum[j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < V; j++)
        lt_store_avx2(dw + 8 * j, n - 8 * j, _mm256_add_ps(lt_load_avx2(dw + 8 * j, n - 8 * j), sum[j]));
}

static void rmsnorm_dw_avx2(float *dw, const float *dy, const float *x, const float *rstd, int64_t rows,
                            int64_t cols, int64_t begin, int64_t end)
{
    int64_t c = begin;
    for (; c + 32 <= end; c += 32)
        rmsnorm_dw_columns(dw + c, dy + c, x + c, rstd, rows, cols, 32, 4);
    for (; c < end; c += 8)
        rmsnorm_dw_columns(dw + c, dy + c, x + c, rstd, rows, cols, end - c, 1);
}

static void layernorm_fwd_avx2(float *y, float *mean, float *rstd, const float *x, const float *w,
                               const float *b, int64_t rows, int64_t cols, float eps)
{
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        float m = plain_sum(x, cols) / (float)cols;
        float scale = 1.0f / sqrtf(square_sum(x, cols, m) / (float)cols + eps);
        mean[r] = m;
        rstd[r] = scale;
        for (int64_t i = 0; i < cols; i += 8) {
            __m256 v = _mm256_sub_ps(lt_load_avx2(x + i, cols - i), _mm256_set1_ps(m));
            v = _mm256_mul_ps(v, _mm256_set1_ps(scale));
            lt_store_avx2(y + i, cols - i,
                          _mm256_fmadd_ps(v, lt_load_avx2(w + i, cols - i), lt_load_avx2(b + i, cols - i)));
        }
    }
}

static void layernorm_bwd_avx2(float *dx, const float *dy, const float *x, const float *w, const float *mean,
                               const float *rstd, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        const __m256 m = _mm256_set1_ps(mean[r]), scale = _mm256_set1_ps(rstd[r]);
        __m256 sum = _mm256_setzero_ps(), dot = _mm256_setzero_ps();
        for (int64_t i = 0; i < cols; i += 8) {
            __m256 g = _mm256_mul_ps(lt_load_avx2(dy + i, cols - i), lt_load_avx2(w + i, cols - i));
            __m256 n = _mm256_mul_ps(_mm256_sub_ps(lt_load_avx2(x + i, cols - i), m), scale);
            sum = _mm256_add_ps(sum, g);
            dot = _mm256_fmadd_ps(g, n, dot);
        }
        const __m256 g_mean = _mm256_set1_ps(lt_sum_avx2(sum) / (float)cols);
        const __m256 gn_mean = _mm256_set1_ps(lt_sum_avx2(dot) / (float)cols);
        for (int64_t i = 0; i < cols; i += 8) {
            __m256 g = _mm256_mul_ps(lt_load_avx2(dy + i, cols - i), lt_load_avx2(w + i, cols - i));
            __m256 n = _mm256_mul_ps(_mm256_sub_ps(lt_load_avx2(x + i, cols - i), m), scale);
            __m256 d = _mm256_fnmadd_ps(n, gn_mean, _mm256_sub_ps(g, g_mean));
            lt_store_avx2(dx + i, cols - i, _mm256_mul_ps(d, scale));
        }
    }
}

static inline __attribute__((always_inline)) void layernorm_dw_columns(float *dw, float *db, const float *dy,
                                                                       const float *x, const float *mean,
                                                                       const float *rstd, int64_t rows,
                                                                       int64_t cols, int64_t n, const int V)
{
    __m256 w_sum[4], b_sum[4];
#pragma GCC unroll 4
    for (int j = 0; j < V; j++)
        w_sum[j] = b_sum[j] = _mm256_setzero_ps();
    for (int64_t r = 0; r < rows; r++, dy += cols, x += cols) {
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) {
            __m256 g = lt_load_avx2(dy + 8 * j, n - 8 * j);
            __m256 v = _mm256_sub_ps(lt_load_avx2(x + 8 * j, n - 8 * j), _mm256_set1_ps(mean[r]));
            w_sum[j] = _mm256_fmadd_ps(g, _mm256_mul_ps(v, _mm256_set1_ps(rstd[r])), w_sum[j]);
            b_sum[j] = _mm256_add_ps(b_sum[j], g);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) {
        int64_t left = n - 8 * j;
        lt_store_avx2(dw + 8 * j, left, _mm256_add_ps(lt_load_avx2(dw + 8 * j, left), w_sum[j]));
        lt_store_avx2(db + 8 * j, left, _mm256_add_ps(lt_load_avx2(db + 8 * j, left), b_sum[j]));
    }
}

static void layernorm_dw_avx2(float *dw, float *db, const float *dy, const float *x, const float *mean,
                              const float *rstd, int64_t rows, int64_t cols, int64_t begin, int64_t end)
{
    int64_t c = begin;
    for (; c + 32 <= end; c += 32)
        layernorm_dw_columns(dw + c, db + c, dy + c, x + c, mean, rstd, rows, cols, 32, 4);
    for (; c < end; c += 8)
        layernorm_dw_columns(dw + c, db + c, dy + c, x + c, mean, rstd, rows, cols, end - c, 1);
}

void lt_norm_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->rmsnorm_fwd = rmsnorm_fwd_avx2;
    k->rmsnorm_bwd = rmsnorm_bwd_avx2;
    k->rmsnorm_dw = rmsnorm_dw_avx2;
    k->layernorm_fwd = layernorm_fwd_avx2;
    k->layernorm_bwd = layernorm_bwd_avx2;
    k->layernorm_dw = layernorm_dw_avx2;
}
