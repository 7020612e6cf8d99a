/* Matrix products: the native provider in f32 and in bf16, the OpenBLAS provider and OpenBLAS's own sgemm on f32. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"
#include "tools/bench_kernels.h"
#include "tools/bench_machine.h"

/* TN: the gradient of a trained weight; TN16: of a rank-16 lora_A.  Neither reads W. */
enum product { XWT, XW, TN, TN16, PRODUCT_COUNT };
static const char *const product_names[PRODUCT_COUNT] = {"x W'", "dy W", "dy' x", "v' x"};

enum { MAX_MATRICES = 16, LORA_RANK = 16 };

/* A matrix of the model, once for all that are equal. */
struct matrix {
    const char *module; /* of the first one */
    int64_t rows, cols;
};

/* All f32; x [tokens, in], y [tokens, out], c whatever is written, w one matrix in any format. */
struct buffers {
    float *x, *y, *c, *w;
    size_t x_bytes, y_bytes, c_bytes, w_bytes;
};

struct products {
    struct bench_kernels *b;
    struct matrix matrices[MAX_MATRICES];
    int matrix_count;
    struct buffers mem;
    json_t *list;
};

/* ---- set-up ---- */

static void list_matrices(struct products *p)
{
    const struct lt_model *m = p->b->s.model;
    for (int i = 0; i < m->tensor_count && p->matrix_count < MAX_MATRICES; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        bool known = t->kind != LT_TENSOR_LINEAR;
        for (int k = 0; k < p->matrix_count; k++)
            known = known || (p->matrices[k].rows == t->rows && p->matrices[k].cols == t->cols);
        const char *dot = strrchr(t->module, '.');
        if (!known)
            p->matrices[p->matrix_count++] =
                (struct matrix){.module = dot ? dot + 1 : t->module, .rows = t->rows, .cols = t->cols};
    }
}

static enum lt_status allocate(struct products *p, struct lt_error *err)
{
    struct buffers *mem = &p->mem;
    const struct lt_synthetic_options f32 = {
        .format = LT_WEIGHT_F32, .seed = p->b->s.synthetic.seed, .threads = p->b->s.threads};
    int64_t rows = 0, in = 0, out = 0, largest = 0;
    for (int i = 0; i < p->b->row_count_count; i++)
        rows = lt_max_i64(rows, p->b->row_counts[i]);
    for (int i = 0; i < p->matrix_count; i++) {
        in = lt_max_i64(in, p->matrices[i].cols);
        out = lt_max_i64(out, p->matrices[i].rows);
        largest = lt_max_i64(largest, p->matrices[i].rows * p->matrices[i].cols);
    }
    mem->x_bytes = lt_synthetic_weight_bytes(LT_WEIGHT_F32, rows, in, false);
    mem->y_bytes = lt_synthetic_weight_bytes(LT_WEIGHT_F32, rows, out, false);
    mem->w_bytes = lt_synthetic_weight_bytes(LT_WEIGHT_F32, 1, largest, false);
    mem->c_bytes = mem->w_bytes > mem->y_bytes ? mem->w_bytes : mem->y_bytes;
    mem->c_bytes = mem->c_bytes > mem->x_bytes ? mem->c_bytes : mem->x_bytes;
    mem->x = lt_alloc_pages(mem->x_bytes);
    mem->y = lt_alloc_pages(mem->y_bytes);
    mem->c = lt_alloc_pages(mem->c_bytes);
    mem->w = lt_alloc_pages(mem->w_bytes);
    if (!mem->x || !mem->y || !mem->c || !mem->w)
        return lt_fail(err, LT_ERR_NOMEM,
                       "out of memory for the matrices: %zu bytes are needed; use fewer --rows",
                       mem->x_bytes + mem->y_bytes + mem->c_bytes + mem->w_bytes);
    struct lt_weight ignored;
    lt_synthetic_weight(&ignored, mem->x, rows, in, &f32, 0);
    lt_synthetic_weight(&ignored, mem->y, rows, out, &f32, 1);
    return LT_OK;
}

static void release(struct products *p)
{
    const struct buffers *mem = &p->mem;
    void *const parts[] = {mem->x, mem->y, mem->c, mem->w};
    const size_t sizes[] = {mem->x_bytes, mem->y_bytes, mem->c_bytes, mem->w_bytes};
    for (int i = 0; i < 4; i++)
        if (parts[i])
            lt_free_pages(parts[i], sizes[i]);
}

/* ---- one product ---- */

static struct bench_sgemm describe(const struct products *p, enum product kind, const struct matrix *m,
                                   int64_t rows)
{
    const struct buffers *mem = &p->mem;
    int64_t out = kind == TN16 ? LORA_RANK : m->rows, in = m->cols;
    if (kind == XWT)
        return (struct bench_sgemm){.m = rows,
                                    .n = out,
                                    .k = in,
                                    .trans_b = true,
                                    .a = mem->x,
                                    .b = mem->w,
                                    .c = mem->c,
                                    .lda = in,
                                    .ldb = in,
                                    .ldc = out};
    if (kind == XW)
        return (struct bench_sgemm){.m = rows,
                                    .n = in,
                                    .k = out,
                                    .a = mem->y,
                                    .b = mem->w,
                                    .c = mem->c,
                                    .lda = out,
                                    .ldb = in,
                                    .ldc = in};
    return (struct bench_sgemm){.m = out,
                                .n = in,
                                .k = rows,
                                .trans_a = true,
                                .a = mem->y,
                                .b = mem->x,
                                .c = mem->c,
                                .lda = out,
                                .ldb = in,
                                .ldc = in};
}

struct call {
    struct lt_gemm_provider *provider;
    struct lt_gemm_args args;
    struct lt_gemm_tn_args tn;
};

static void run_weight_product(void *user)
{
    struct call *c = user;
    c->provider->run(c->provider, &c->args);
}

static void run_tn_product(void *user)
{
    struct call *c = user;
    c->provider->run_tn(c->provider, &c->tn);
}

/* FLOP/s, 0 without the provider or such a product. */
static double provider_rate(struct lt_gemm_provider *provider, enum product kind, const struct bench_sgemm *g,
                            const struct lt_weight *w, bool bf16, double budget)
{
    if (!provider || (bf16 && !w))
        return 0;
    struct call c = {.provider = provider,
                     .args = {.side = kind == XWT ? LT_GEMM_XWT : LT_GEMM_XW,
                              .m = g->m,
                              .a = g->a,
                              .lda = g->lda,
                              .w = w,
                              .c = g->c,
                              .ldc = g->ldc,
                              .bf16 = bf16},
                     .tn = {.m = g->m,
                            .n = g->n,
                            .k = g->k,
                            .a = g->a,
                            .lda = g->lda,
                            .b = g->b,
                            .ldb = g->ldb,
                            .c = g->c,
                            .ldc = g->ldc}};
    double flops = 2.0 * (double)g->m * (double)g->n * (double)g->k;
    return flops / bench_best_seconds(w ? run_weight_product : run_tn_product, &c, budget);
}

static void put_rate(char text[16], double rate)
{
    if (rate > 0)
        lt_snprintf(text, 16, "%.1f", 1e-9 * rate);
    else
        lt_snprintf(text, 16, "-");
}

/* w NULL: a product without a weight; sgemm: the rate of OpenBLAS's own on f32. */
static void measure_product(struct products *p, enum product kind, const struct matrix *m,
                            const struct lt_weight *w, int64_t rows, double sgemm)
{
    const struct bench_sgemm g = describe(p, kind, m, rows);
    const char *format = lt_weight_format_name(w ? w->format : LT_WEIGHT_F32);
    double native = provider_rate(p->b->native, kind, &g, w, false, p->b->budget);
    double bf16 = provider_rate(p->b->native, kind, &g, w, true, p->b->budget);
    double openblas = provider_rate(p->b->openblas, kind, &g, w, false, p->b->budget);
    double best = openblas > sgemm ? openblas : sgemm;
    char shape[48], text[4][16];
    lt_snprintf(shape, sizeof shape, "%s %lldx%lld", m->module, (long long)m->rows, (long long)m->cols);
    put_rate(text[0], native);
    put_rate(text[1], openblas);
    put_rate(text[2], sgemm);
    put_rate(text[3], bf16);
    printf("  %-22s %-5s %-4s %6lld %9s %9s %9s", shape, product_names[kind], format, (long long)rows,
           text[0], text[1], text[2]);
    if (best > 0)
        printf(" %6.2f", native / best);
    else
        printf(" %6s", "-");
    printf(" %9s", text[3]);
    if (bf16 > 0)
        printf(" %6.2f", bf16 / native);
    printf("\n");
    fflush(stdout);
    json_array_append_new(p->list, json_pack("{s:s, s:I, s:I, s:s, s:s, s:I, s:o, s:o, s:o, s:o}", "matrix",
                                             m->module, "out", (json_int_t)m->rows, "in", (json_int_t)m->cols,
                                             "product", product_names[kind], "format", format, "rows",
                                             (json_int_t)rows, "native", bench_json_rate(native), "openblas",
                                             bench_json_rate(openblas), "sgemm_f32", bench_json_rate(sgemm),
                                             "native_bf16", bench_json_rate(bf16)));
}

/* ---- one matrix ---- */

static enum lt_status check_cancelled(struct lt_error *err)
{
    return lt_cancel_requested() ? lt_fail(err, LT_ERR_CANCELLED, "stopped") : LT_OK;
}

static void make_weight(struct products *p, struct lt_weight *w, const struct matrix *m,
                        enum lt_weight_format format)
{
    struct lt_synthetic_options synthetic = p->b->s.synthetic;
    synthetic.format = format;
    lt_synthetic_weight(w, p->mem.w, m->rows, m->cols, &synthetic, 2);
}

static bool wanted(const struct products *p, enum lt_weight_format format)
{
    if (p->b->s.options->quant)
        return format == p->b->s.synthetic.format;
    return format == LT_WEIGHT_F32 || format == LT_WEIGHT_BF16 || format == LT_WEIGHT_NF4;
}

static enum lt_status measure_row_count(struct products *p, const struct matrix *m, int64_t rows,
                                        struct lt_error *err)
{
    struct lt_weight w;
    double sgemm[PRODUCT_COUNT];
    make_weight(p, &w, m, LT_WEIGHT_F32);
    for (int kind = 0; kind < PRODUCT_COUNT; kind++) {
        const struct bench_sgemm g = describe(p, (enum product)kind, m, rows);
        sgemm[kind] = bench_sgemm_rate(&g, p->b->s.threads, p->b->budget);
    }
    for (int f = 0; f < LT_WEIGHT_FORMAT_COUNT; f++) {
        if (!wanted(p, (enum lt_weight_format)f))
            continue;
        make_weight(p, &w, m, (enum lt_weight_format)f);
        for (int kind = 0; kind < (f == LT_WEIGHT_F32 ? PRODUCT_COUNT : TN); kind++) {
            LT_TRY(check_cancelled(err));
            measure_product(p, (enum product)kind, m, kind < TN ? &w : NULL, rows, sgemm[kind]);
        }
    }
    return LT_OK;
}

enum lt_status bench_products(struct bench_kernels *b, struct lt_error *err)
{
    struct products p = {.b = b, .list = json_array()};
    list_matrices(&p);
    enum lt_status status = allocate(&p, err);
    if (status == LT_OK)
        printf(
            "\nMatrix products, GFLOP/s; ratios: native to the better of the two after it, bf16 to native\n"
            "  %-22s %-5s %-4s %6s %9s %9s %9s %6s %9s %6s\n",
            "matrix", "", "W", "tokens", "native", "openblas", "sgemm", "ratio", "bf16", "ratio");
    for (int i = 0; i < p.matrix_count && status == LT_OK; i++)
        for (int r = 0; r < b->row_count_count && status == LT_OK; r++)
            status = measure_row_count(&p, &p.matrices[i], b->row_counts[r], err);
    bench_session_add(&b->s, json_pack("{s:o}", "products", p.list));
    release(&p);
    return status;
}
