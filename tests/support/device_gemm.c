#include "tests/support/device_kernels.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/device_op.h"
#include "tests/support/random_weight.h"

/* rows x cols of x as a dense array. */
static float *dense(const float *x, int64_t rows, int64_t cols, int64_t stride)
{
    float *y = lt_must_alloc((size_t)(rows * cols), sizeof *y);
    for (int64_t r = 0; r < rows; r++)
        memcpy(y + r * cols, x + r * stride, (size_t)cols * sizeof *y);
    return y;
}

static void put_back(float *x, float *y, int64_t rows, int64_t cols, int64_t stride)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(x + r * stride, y + r * cols, (size_t)cols * sizeof *x);
    free(y);
}

/* LINEAR has a bias and nothing to start from, LINEAR_DX the other way round: what an op lacks is added here. */
static void run(struct lt_gemm_provider *p, const struct lt_gemm_args *g)
{
    (void)p;
    bool forward = g->side == LT_GEMM_XWT;
    int64_t k = forward ? g->w->cols : g->w->rows, n = forward ? g->w->rows : g->w->cols;
    float *a = dense(g->a, g->m, k, g->lda), *c = dense(g->c, g->m, n, g->ldc),
          *before = dense(g->c, g->m, n, g->ldc);
    struct device_op o = {.op = forward ? LT_OP_LINEAR : LT_OP_LINEAR_DX,
                          .params = {.n_tokens = (int32_t)g->m}};
    o.attr.compute = g->bf16 ? LT_BF16 : LT_F32;
    o.in[0] = device_f32(a, g->m, k);
    o.in[1] = device_weight(g->w);
    if (forward && g->bias)
        o.in[2] = device_fixed(g->bias, 1, n);
    if (!forward && g->accumulate)
        o.in[2] = device_f32(c, g->m, n);
    o.out[0] = device_f32(c, g->m, n);
    device_run(&o);
    for (int64_t i = 0; i < g->m * n; i++) {
        if (forward && g->accumulate)
            c[i] += before[i];
        if (!forward && g->bias)
            c[i] += g->bias[i % n];
    }
    put_back(g->c, c, g->m, n, g->ldc);
    free(before);
    free(a);
}

static void run_tn(struct lt_gemm_provider *p, const struct lt_gemm_tn_args *g)
{
    (void)p;
    float *a = dense(g->a, g->k, g->m, g->lda), *b = dense(g->b, g->k, g->n, g->ldb),
          *c = dense(g->c, g->m, g->n, g->ldc);
    if (!g->accumulate)
        memset(c, 0, (size_t)(g->m * g->n) * sizeof *c);
    struct device_op o = {.op = LT_OP_LINEAR_DW, .params = {.n_tokens = (int32_t)g->k}};
    o.in[0] = device_f32(a, g->k, g->m);
    o.in[1] = device_f32(b, g->k, g->n);
    o.out[0] = device_fixed(c, g->m, g->n);
    device_run(&o);
    put_back(g->c, c, g->m, g->n, g->ldc);
    free(a);
    free(b);
}

static void destroy(struct lt_gemm_provider *p)
{
    (void)p;
}

struct lt_gemm_provider *lt_device_gemm_create(void)
{
    static struct lt_gemm_provider provider = {
        .name = "device", .run = run, .run_tn = run_tn, .destroy = destroy};
    return &provider;
}
