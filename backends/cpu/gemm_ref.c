/* The plainest GEMM: every element its own chain over k, in the arithmetic of gemm_internal.h. */
#include "backends/cpu/gemm_internal.h"

#include <math.h>
#include <omp.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/tensor/dtype.h"

enum { CHUNK = 1024 /* decoded elements a thread holds */ };

struct ref {
    struct lt_gemm_provider base;
    const struct lt_cpu_kernels *kernels;
    int threads;
    float *workspace; /* [threads][CHUNK] */
};

static float rounded(float x)
{
    return lt_bf16_to_f32(lt_f32_to_bf16(x));
}

/* n stored elements from `first` on as they are multiplied. */
static void load(const struct lt_gemm_args *args, const struct lt_gemm_operand *b, float *chunk,
                 int64_t first, int64_t n)
{
    b->decode(chunk, b->w, first, n);
    for (int64_t i = 0; args->bf16 && i < n; i++)
        chunk[i] = rounded(chunk[i]);
}

/* What the chains start from. */
static void start(const struct lt_gemm_args *args, int64_t n0, int64_t n1)
{
    for (int64_t m = 0; m < args->m; m++)
        for (int64_t n = n0; n < n1; n++) {
            float *c = args->c + m * args->ldc + n;
            if (!args->accumulate)
                *c = 0.0F;
            if (args->bias != NULL)
                *c += args->bf16 ? rounded(args->bias[n]) : args->bias[n];
        }
}

static void finish(const struct lt_gemm_args *args, int64_t n0, int64_t n1)
{
    for (int64_t m = 0; args->bf16 && m < args->m; m++)
        for (int64_t n = n0; n < n1; n++)
            args->c[m * args->ldc + n] = rounded(args->c[m * args->ldc + n]);
}

/* Column n, from a stored row that holds all its k. */
static void column(const struct lt_gemm_args *args, const struct lt_gemm_operand *b, int64_t n, float *chunk)
{
    for (int64_t k0 = 0; k0 < b->k; k0 += CHUNK) {
        int64_t kc = lt_min_i64(CHUNK, b->k - k0);
        load(args, b, chunk, n * b->ld + k0, kc);
        for (int64_t m = 0; m < args->m; m++) {
            const float *a = args->a + m * args->lda + k0;
            float s = args->c[m * args->ldc + n];
            for (int64_t k = 0; k < kc; k++)
                s = fmaf(args->bf16 ? rounded(a[k]) : a[k], chunk[k], s);
            args->c[m * args->ldc + n] = s;
        }
    }
}

/* Columns n0 … n1 (CHUNK at most), from stored rows that hold all n of one k. */
static void columns(const struct lt_gemm_args *args, const struct lt_gemm_operand *b, int64_t n0, int64_t n1,
                    float *chunk)
{
    for (int64_t k = 0; k < b->k; k++) {
        load(args, b, chunk, k * b->ld + n0, n1 - n0);
        for (int64_t m = 0; m < args->m; m++) {
            float a = args->a[m * args->lda + k];
            if (args->bf16)
                a = rounded(a);
            float *c = args->c + m * args->ldc;
            for (int64_t n = n0; n < n1; n++)
                c[n] = fmaf(a, chunk[n - n0], c[n]);
        }
    }
}

static void ref_run(struct lt_gemm_provider *provider, const struct lt_gemm_args *args)
{
    const struct ref *g = (const struct ref *)provider;
    const struct lt_gemm_operand b = lt_gemm_operand_view(args, g->kernels);
    const int64_t step = 64;
#pragma omp parallel for num_threads(g->threads) schedule(static)
    for (int64_t n0 = 0; n0 < b.n; n0 += step) {
        float *chunk = g->workspace + (size_t)omp_get_thread_num() * CHUNK;
        int64_t n1 = lt_min_i64(n0 + step, b.n);
        start(args, n0, n1);
        if (b.k_major)
            columns(args, &b, n0, n1, chunk);
        else
            for (int64_t n = n0; n < n1; n++)
                column(args, &b, n, chunk);
        finish(args, n0, n1);
    }
    if (args->update != NULL) {
        const struct lt_gemm_args update = lt_gemm_update_args(args);
        ref_run(provider, &update);
    }
}

static void ref_run_tn(struct lt_gemm_provider *provider, const struct lt_gemm_tn_args *args)
{
    const struct ref *g = (const struct ref *)provider;
    const int64_t elements = args->m * args->n;
#pragma omp parallel for num_threads(g->threads) schedule(static)
    for (int64_t i = 0; i < elements; i++) {
        int64_t m = i / args->n, n = i % args->n;
        float *c = args->c + m * args->ldc + n;
        float s = args->accumulate ? *c : 0.0F;
        for (int64_t k = 0; k < args->k; k++)
            s = fmaf(args->a[k * args->lda + m], args->b[k * args->ldb + n], s);
        *c = s;
    }
}

static void ref_destroy(struct lt_gemm_provider *provider)
{
    struct ref *g = (struct ref *)provider;
    if (g == NULL)
        return;
    lt_free(g->workspace);
    lt_free(g);
}

enum lt_status lt_gemm_ref_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                  int threads, struct lt_error *err)
{
    *p = NULL;
    if (threads < 1)
        return lt_fail(err, LT_ERR_INVALID, "gemm: %d threads were asked for; at least 1 is needed", threads);
    struct ref *g = lt_alloc_zero(1, sizeof *g);
    if (g == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "gemm: out of memory for the ref provider");
    g->kernels = kernels;
    g->threads = threads;
    g->base = (struct lt_gemm_provider){
        .name = "ref",
        .run = ref_run,
        .run_tn = ref_run_tn,
        .destroy = ref_destroy,
        .workspace_bytes = (size_t)threads * CHUNK * sizeof(float),
    };
    g->workspace = lt_alloc_array((size_t)threads * CHUNK, sizeof(float));
    if (g->workspace == NULL) {
        ref_destroy(&g->base);
        return lt_fail(err, LT_ERR_NOMEM, "gemm: out of memory for the ref provider");
    }
    *p = &g->base;
    return LT_OK;
}
