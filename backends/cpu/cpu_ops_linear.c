/* Ops made of matrix products: linear layers, LoRA, the loss. */
#include <omp.h>
#include <string.h>

#include "backends/cpu/cpu_ops.h"
#include "backends/cpu/cpu_ops_random.h"

static void product_updated(const struct lt_cpu_call *c, enum lt_gemm_side side, int64_t m, const float *a,
                            const struct lt_weight *w, float *y, bool accumulate, const float *bias,
                            const struct lt_gemm_update *update)
{
    int64_t k = side == LT_GEMM_XWT ? w->cols : w->rows, n = side == LT_GEMM_XWT ? w->rows : w->cols;
    if (m == 0)
        return;
    struct lt_gemm_args args = {.side = side,
                                .m = m,
                                .a = a,
                                .lda = k,
                                .w = w,
                                .c = y,
                                .ldc = n,
                                .accumulate = accumulate,
                                .bf16 = c->node->attr.compute == LT_BF16,
                                .bias = bias,
                                .update = update};
    c->cpu->gemm->run(c->cpu->gemm, &args);
}

static void product(const struct lt_cpu_call *c, enum lt_gemm_side side, int64_t m, const float *a,
                    const struct lt_weight *w, float *y, bool accumulate, const float *bias)
{
    product_updated(c, side, m, a, w, y, accumulate, bias, NULL);
}

/* y[m,n] += a[k,m]ᵀ b[k,n] */
static void product_tn(const struct lt_cpu_call *c, int64_t m, int64_t n, int64_t k, const float *a,
                       const float *b, float *y)
{
    if (k == 0)
        return;
    struct lt_gemm_tn_args args = {
        .m = m, .n = n, .k = k, .a = a, .lda = m, .b = b, .ldb = n, .c = y, .ldc = n, .accumulate = true};
    c->cpu->gemm->run_tn(c->cpu->gemm, &args);
}

static struct lt_weight plain_weight(const float *data, int64_t rows, int64_t cols)
{
    return (struct lt_weight){.format = LT_WEIGHT_F32, .rows = rows, .cols = cols, .data = data};
}

/* y = x when they are different places. */
static void start_from(float *y, const float *x, int64_t n)
{
    if (y != x && n > 0)
        memcpy(y, x, (size_t)n * sizeof *y);
}

static void scale_all(const struct lt_cpu_call *c, float *y, int64_t n, float scale)
{
#pragma omp parallel for num_threads(lt_cpu_threads(c, n)) schedule(static)
    for (int64_t i = 0; i < n; i++)
        y[i] *= scale;
}

static void add_all(const struct lt_cpu_call *c, float *y, const float *x, int64_t n)
{
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(n, 64, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        c->cpu->k.add(y + b, y + b, x + b, e - b);
    }
}

static void drop_rows(const struct lt_cpu_call *c, float *y, const float *x, const uint32_t *key,
                      int64_t rows, int64_t cols, const struct lt_cpu_dropout *d)
{
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        c->cpu->k.dropout(y + b * cols, x + b * cols, key + b, e - b, cols, d->threshold, d->keep_scale,
                          &d->site);
    }
}

void lt_cpu_op_dropout(const struct lt_cpu_call *c)
{
    struct lt_cpu_dropout d = lt_cpu_dropout_of(c);
    if (d.threshold)
        drop_rows(c, c->out[0], c->in[0], c->in[1], c->in_rows[0], c->in_cols[0], &d);
    else
        start_from(c->out[0], c->in[0], c->in_rows[0] * c->in_cols[0]);
}

/* u = scale * drop(x) Aᵀ of a LORA. */
static const float *lora_down(const struct lt_cpu_call *c)
{
    int64_t rows = c->in_rows[0], k = c->in_cols[1], r = c->out_cols[1];
    const float *x = c->in[1];
    struct lt_weight a = plain_weight(c->in[2], r, k);
    struct lt_cpu_dropout d = lt_cpu_dropout_of(c);
    if (d.threshold) {
        drop_rows(c, c->out[2], x, c->in[4], rows, k, &d);
        x = c->out[2];
    }
    product(c, LT_GEMM_XWT, rows, x, &a, c->out[1], false, NULL);
    scale_all(c, c->out[1], rows * r, c->node->attr.scale);
    return c->out[1];
}

void lt_cpu_op_linear(const struct lt_cpu_call *c)
{
    if (c->node->attr.int8 && c->weight[1]->format == LT_WEIGHT_INT8) {
        lt_cpu_linear_int8(c);
        return;
    }
    if (lt_cpu_linear_step_possible(c)) {
        lt_cpu_linear_step(c);
        return;
    }
    struct lt_gemm_update update, *joined = NULL;
    struct lt_weight b;
    if (c->with) {
        b = plain_weight(c->with->in[3], c->with->out_cols[0], c->with->out_cols[1]);
        update = (struct lt_gemm_update){.a = lora_down(c->with), .lda = b.cols, .w = &b};
        joined = &update;
    }
    product_updated(c, LT_GEMM_XWT, c->in_rows[0], c->in[0], c->weight[1], c->out[0], false, c->in[2],
                    joined);
}

void lt_cpu_op_linear_dx(const struct lt_cpu_call *c)
{
    const float *acc = c->with ? c->with->in[6] : c->in[2];
    struct lt_gemm_update update, *joined = NULL;
    struct lt_weight a;
    if (c->with) {
        a = plain_weight(c->with->in[3], c->with->in_cols[2], c->with->in_cols[1]);
        update = (struct lt_gemm_update){.a = c->with->out[1], .lda = a.rows, .w = &a};
        joined = &update;
    }
    if (acc)
        start_from(c->out[0], acc, c->out_rows[0] * c->out_cols[0]);
    product_updated(c, LT_GEMM_XW, c->in_rows[0], c->in[0], c->weight[1], c->out[0], acc != NULL, NULL,
                    joined);
}

void lt_cpu_op_linear_dw(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0], *x = c->in[1];
    int64_t n = c->in_cols[0], k = c->in_cols[1], tokens = c->in_rows[0];
    if (c->node->attr.transposed)
        product_tn(c, k, n, tokens, x, dy, c->out[0]);
    else
        product_tn(c, n, k, tokens, dy, x, c->out[0]);
}

void lt_cpu_op_bias_db(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0];
    float *db = c->out[0];
#pragma omp parallel num_threads(c->cpu->threads)
    {
        int64_t b, e;
        lt_cpu_share(c->in_cols[0], 64, omp_get_thread_num(), omp_get_num_threads(), &b, &e);
        c->cpu->k.column_sums(db, dy, c->in_rows[0], c->in_cols[0], b, e);
    }
}

void lt_cpu_op_lora(const struct lt_cpu_call *c)
{
    int64_t rows = c->in_rows[0], n = c->in_cols[0];
    struct lt_weight b = plain_weight(c->in[3], n, c->out_cols[1]);
    start_from(c->out[0], c->in[0], rows * n);
    product(c, LT_GEMM_XWT, rows, lora_down(c), &b, c->out[0], true, NULL);
}

void lt_cpu_op_lora_bwd(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0], *x = c->in[1], *u = c->in[2];
    int64_t rows = c->in_rows[0], n = c->in_cols[0], k = c->in_cols[1], r = c->in_cols[2];
    struct lt_weight a = plain_weight(c->in[3], r, k), b = plain_weight(c->in[4], n, r);
    float *dx = c->out[0], *v = c->out[1], *da = c->out[2], *db = c->out[3], *scratch = c->out[4];
    struct lt_cpu_dropout d = lt_cpu_dropout_of(c);
    product(c, LT_GEMM_XW, rows, dy, &b, v, false, NULL);
    scale_all(c, v, rows * r, c->node->attr.scale);
    product_tn(c, n, r, rows, dy, u, db);
    if (d.threshold) {
        drop_rows(c, scratch, x, c->in[5], rows, k, &d);
        x = scratch;
    }
    product_tn(c, r, k, rows, v, x, da);
    if (!dx)
        return;
    if (c->in[6])
        start_from(dx, c->in[6], rows * k);
    if (!d.threshold) {
        product(c, LT_GEMM_XW, rows, v, &a, dx, c->in[6] != NULL, NULL);
        return;
    }
    product(c, LT_GEMM_XW, rows, v, &a, scratch, false, NULL);
    drop_rows(c, scratch, scratch, c->in[5], rows, k, &d);
    if (c->in[6])
        add_all(c, dx, scratch, rows * k);
    else
        start_from(dx, scratch, rows * k);
}

void lt_cpu_op_cross_entropy(const struct lt_cpu_call *c)
{
    const float *h = c->in[0];
    const struct lt_weight *w = c->weight[1];
    const int32_t *labels = c->in[2];
    float *loss = c->out[0], *dh = c->out[2], *dw = c->out[3], *logits = c->out[4];
    int32_t *argmax = c->out[1];
    int64_t rows = c->in_rows[0], hidden = c->in_cols[0], vocab = w->rows, chunk = c->node->attr.chunk;
    bool grad = dh || dw;
    for (int64_t begin = 0; begin < rows; begin += chunk) {
        int64_t n = rows - begin < chunk ? rows - begin : chunk;
        product(c, LT_GEMM_XWT, n, h + begin * hidden, w, logits, false, NULL);
#pragma omp parallel for num_threads(lt_cpu_threads(c, n *vocab)) schedule(static)
        for (int64_t r = 0; r < n; r++)
            c->cpu->k.cross_entropy_row(logits + r * vocab, vocab, labels[begin + r], c->node->attr.softcap,
                                        grad, c->params->loss_scale, &loss[begin + r], &argmax[begin + r]);
        if (dh)
            product(c, LT_GEMM_XW, n, logits, w, dh + begin * hidden, false, NULL);
        if (dw)
            product_tn(c, vocab, hidden, n, logits, h + begin * hidden, dw);
    }
}
