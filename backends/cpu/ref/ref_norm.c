/* RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016), sums in double. */
#include "backends/cpu/ref/ref_kernels.h"

#include <math.h>

static inline float scale_at(const float *w, int64_t c, bool plus_one)
{
    return plus_one ? 1.0f + w[c] : w[c];
}

static void rmsnorm_fwd_ref(float *y, float *rstd, const float *x, const float *w, int64_t rows, int64_t cols,
                            float eps, bool plus_one)
{
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        double sum = 0.0;
        for (int64_t c = 0; c < cols; c++)
            sum += (double)x[c] * (double)x[c];
        float scale = (float)(1.0 / sqrt(sum / (double)cols + (double)eps));
        rstd[r] = scale;
        for (int64_t c = 0; c < cols; c++)
            y[c] = x[c] * scale * scale_at(w, c, plus_one);
    }
}

static void rmsnorm_bwd_ref(float *dx, const float *dy, const float *x, const float *w, const float *rstd,
                            int64_t rows, int64_t cols, bool plus_one)
{
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        double dot = 0.0, scale = (double)rstd[r];
        for (int64_t c = 0; c < cols; c++)
            dot += (double)(dy[c] * scale_at(w, c, plus_one)) * (double)x[c];
        float pull = (float)(scale * scale * (dot / (double)cols));
        for (int64_t c = 0; c < cols; c++)
            dx[c] = rstd[r] * (dy[c] * scale_at(w, c, plus_one) - x[c] * pull);
    }
}

static void rmsnorm_dw_ref(float *dw, const float *dy, const float *x, const float *rstd, int64_t rows,
                           int64_t cols, int64_t begin, int64_t end)
{
    for (int64_t c = begin; c < end; c++) {
        double sum = 0.0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)dy[r * cols + c] * (double)x[r * cols + c] * (double)rstd[r];
        dw[c] += (float)sum;
    }
}

static void layernorm_fwd_ref(float *y, float *mean, float *rstd, const float *x, const float *w,
                              const float *b, int64_t rows, int64_t cols, float eps)
{
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        double sum = 0.0, square_sum = 0.0;
        for (int64_t c = 0; c < cols; c++)
            sum += (double)x[c];
        double m = sum / (double)cols;
        for (int64_t c = 0; c < cols; c++)
            square_sum += ((double)x[c] - m) * ((double)x[c] - m);
        mean[r] = (float)m;
        rstd[r] = (float)(1.0 / sqrt(square_sum / (double)cols + (double)eps));
        for (int64_t c = 0; c < cols; c++)
            y[c] = (x[c] - mean[r]) * rstd[r] * w[c] + b[c];
    }
}

static void layernorm_bwd_ref(float *dx, const float *dy, const float *x, const float *w, const float *mean,
                              const float *rstd, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        double sum = 0.0, dot = 0.0;
        for (int64_t c = 0; c < cols; c++) {
            double g = (double)(dy[c] * w[c]);
            sum += g;
            dot += g * (double)((x[c] - mean[r]) * rstd[r]);
        }
        float g_mean = (float)(sum / (double)cols), gn_mean = (float)(dot / (double)cols);
        for (int64_t c = 0; c < cols; c++) {
            float normal = (x[c] - mean[r]) * rstd[r];
            dx[c] = rstd[r] * (dy[c] * w[c] - g_mean - normal * gn_mean);
        }
    }
}

static void layernorm_dw_ref(float *dw, float *db, const float *dy, const float *x, const float *mean,
                             const float *rstd, int64_t rows, int64_t cols, int64_t begin, int64_t end)
{
    for (int64_t c = begin; c < end; c++) {
        double w_sum = 0.0, b_sum = 0.0;
        for (int64_t r = 0; r < rows; r++) {
            double g = (double)dy[r * cols + c];
            w_sum += g * (double)((x[r * cols + c] - mean[r]) * rstd[r]);
            b_sum += g;
        }
        dw[c] += (float)w_sum;
        db[c] += (float)b_sum;
    }
}

void lt_norm_kernels_ref(struct lt_cpu_kernels *k)
{
    k->rmsnorm_fwd = rmsnorm_fwd_ref;
    k->rmsnorm_bwd = rmsnorm_bwd_ref;
    k->rmsnorm_dw = rmsnorm_dw_ref;
    k->layernorm_fwd = layernorm_fwd_ref;
    k->layernorm_bwd = layernorm_bwd_ref;
    k->layernorm_dw = layernorm_dw_ref;
}
