#include "tests/support/gemm_bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backends/cpu/gemm.h"
#include "core/base/system.h"
#include "tests/support/random_weight.h"

#include "config.h"

#if LT_HAVE_OPENBLAS
#include <cblas.h>
#endif

enum bench_kind { BENCH_XWT, BENCH_XW, BENCH_TN };

struct bench {
    const char *what;
    enum bench_kind kind;
    int64_t m, n, k; /* of the product */
    enum lt_weight_format format;
};

static const struct bench benches[] = {
    {"f32", BENCH_XWT, 512, 2048, 2048, LT_WEIGHT_F32},
    {"f32", BENCH_XW, 512, 2048, 2048, LT_WEIGHT_F32},
    {"f32", BENCH_XWT, 512, 5632, 2048, LT_WEIGHT_F32},
    {"f32", BENCH_XW, 512, 2048, 5632, LT_WEIGHT_F32},
    {"f32", BENCH_XWT, 512, 2048, 5632, LT_WEIGHT_F32},
    {"f32", BENCH_XW, 512, 5632, 2048, LT_WEIGHT_F32},
    {"nf4", BENCH_XWT, 512, 2048, 2048, LT_WEIGHT_NF4},
    {"nf4", BENCH_XW, 512, 2048, 2048, LT_WEIGHT_NF4},
    {"nf4", BENCH_XWT, 512, 5632, 2048, LT_WEIGHT_NF4},
    {"nf4", BENCH_XW, 512, 2048, 5632, LT_WEIGHT_NF4},
    {"bf16", BENCH_XWT, 512, 2048, 2048, LT_WEIGHT_BF16},
    {"int8", BENCH_XWT, 512, 2048, 2048, LT_WEIGHT_INT8},
    {"x·At", BENCH_XWT, 512, 16, 2048, LT_WEIGHT_F32},
    {"u·Bt", BENCH_XWT, 512, 2048, 16, LT_WEIGHT_F32},
    {"dy·B", BENCH_XW, 512, 16, 2048, LT_WEIGHT_F32},
    {"v·A", BENCH_XW, 512, 2048, 16, LT_WEIGHT_F32},
    {"dA", BENCH_TN, 16, 2048, 512, LT_WEIGHT_F32},
    {"dB", BENCH_TN, 2048, 16, 512, LT_WEIGHT_F32},
    {"dA long", BENCH_TN, 16, 5632, 2048, LT_WEIGHT_F32},
    {"dB long", BENCH_TN, 5632, 16, 2048, LT_WEIGHT_F32},
    {"dW", BENCH_TN, 2048, 2048, 512, LT_WEIGHT_F32},
    {"f32 m=1", BENCH_XWT, 1, 2048, 2048, LT_WEIGHT_F32},
    {"nf4 m=1", BENCH_XWT, 1, 2048, 2048, LT_WEIGHT_NF4},
    {"nf4 m=8", BENCH_XWT, 8, 2048, 2048, LT_WEIGHT_NF4},
    {"nf4 m=64", BENCH_XWT, 64, 2048, 2048, LT_WEIGHT_NF4},
    {"head", BENCH_XWT, 128, 32000, 2048, LT_WEIGHT_BF16},
};

struct bench_data {
    const struct bench *b;
    struct lt_random_weight w;
    float *a, *f32, *c;
};

static void bench_provider(struct lt_gemm_provider *p, const struct bench_data *d)
{
    const struct bench *b = d->b;
    if (b->kind == BENCH_TN)
        p->run_tn(p, &(struct lt_gemm_tn_args){.m = b->m,
                                               .n = b->n,
                                               .k = b->k,
                                               .a = d->a,
                                               .lda = b->m,
                                               .b = d->f32,
                                               .ldb = b->n,
                                               .c = d->c,
                                               .ldc = b->n});
    else
        p->run(p, &(struct lt_gemm_args){.side = b->kind == BENCH_XWT ? LT_GEMM_XWT : LT_GEMM_XW,
                                         .m = b->m,
                                         .a = d->a,
                                         .lda = b->k,
                                         .w = &d->w.w,
                                         .c = d->c,
                                         .ldc = b->n});
}

#if LT_HAVE_OPENBLAS
static void bench_cblas(const struct bench_data *d)
{
    const struct bench *b = d->b;
    bool tn = b->kind == BENCH_TN, xwt = b->kind == BENCH_XWT;
    cblas_sgemm(CblasRowMajor, tn ? CblasTrans : CblasNoTrans, xwt ? CblasTrans : CblasNoTrans, (int)b->m,
                (int)b->n, (int)b->k, 1.0F, d->a, (int)(tn ? b->m : b->k), d->f32, (int)(xwt ? b->k : b->n),
                0.0F, d->c, (int)b->n);
}
#endif

enum { CONTESTANTS = 3, ROUNDS_MAX = 400 };

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One thread is timed by the processor time of the process, which a busy machine disturbs less. */
static double seconds_now(int threads)
{
    return threads == 1 ? (double)clock() / CLOCKS_PER_SEC : lt_clock_seconds();
}

/* p NULL: cblas_sgemm. */
static double run_contestant(struct lt_gemm_provider *p, const struct bench_data *d, int threads)
{
#if LT_HAVE_OPENBLAS
    openblas_set_num_threads(p == NULL ? threads : 1);
#endif
    double t = seconds_now(threads);
    if (p != NULL)
        bench_provider(p, d);
#if LT_HAVE_OPENBLAS
    else
        bench_cblas(d);
#endif
    return fmax(seconds_now(threads) - t, 1e-6);
}

/* Contestants take turns.  The rate is that of the best round; the ratio to cblas_sgemm is the median over
 * the rounds, so that what else the machine does hits both sides of it. */
static void bench_one(const struct bench *b, const struct lt_cpu_kernels *kernels, int threads,
                      double seconds)
{
    static const char *names[CONTESTANTS] = {"sgemm", "native", "openblas"};
    static double times[CONTESTANTS][ROUNDS_MAX];
    struct lt_gemm_provider *p[CONTESTANTS] = {NULL};
    const bool forward = b->kind != BENCH_XW;
    struct bench_data d = {.b = b};
    d.w = lt_random_weight_make(b->format, LT_LAYOUT_PLAIN, forward ? b->n : b->k, forward ? b->k : b->n);
    d.f32 = d.w.logical;
    d.a = lt_random_uniforms(b->m * b->k);
    d.c = lt_random_uniforms(b->m * b->n);
    for (int i = 1; i < CONTESTANTS; i++)
        if (lt_gemm_create(&p[i], names[i], kernels, threads, NULL) != LT_OK)
            p[i] = NULL;

    int rounds = 0;
    for (double begin = lt_clock_seconds(); rounds < ROUNDS_MAX; rounds++) {
        if (rounds >= 4 && lt_clock_seconds() - begin > seconds)
            break;
        for (int i = 0; i < CONTESTANTS; i++)
            if (p[i] != NULL || (i == 0 && LT_HAVE_OPENBLAS))
                times[i][rounds] = run_contestant(p[i], &d, threads);
    }
    printf("%-9s %-3s m %4d n %5d k %4d", b->what,
           b->kind == BENCH_XWT  ? "XWT"
           : b->kind == BENCH_XW ? "XW"
                                 : "TN",
           (int)b->m, (int)b->n, (int)b->k);
    for (int i = 0; i < CONTESTANTS; i++) {
        if (p[i] == NULL && (i > 0 || !LT_HAVE_OPENBLAS))
            continue;
        double best = times[i][0], ratios[ROUNDS_MAX] = {0.0};
        for (int r = 0; r < rounds; r++) {
            best = fmin(best, times[i][r]);
            ratios[r] = times[0][r] / times[i][r];
        }
        qsort(ratios, (size_t)rounds, sizeof ratios[0], compare_doubles);
        printf("   %s %6.1f", names[i], 2e-9 * (double)b->m * (double)b->n * (double)b->k / best);
        if (i > 0) {
            printf(" (%.2f)", ratios[rounds / 2]);
            p[i]->destroy(p[i]);
        }
    }
    printf("\n");
    fflush(stdout);
    free(d.a);
    free(d.c);
    lt_random_weight_free(&d.w);
}

int lt_gemm_bench(int threads, const char *only)
{
    enum lt_cpu_isa isa;
    if (!lt_cpu_isa_detect(&isa, getenv("LT_CPU"))) {
        fputs("test_gemm: LT_CPU is not a variant of this processor\n", stderr);
        return 1;
    }
    struct lt_cpu_kernels kernels;
    lt_cpu_kernels_init(&kernels, isa);
    printf("best GFLOP/s, %s, %d threads; (median ratio to cblas_sgemm on the decoded weight)\n",
           lt_cpu_isa_name(isa), threads);
    for (size_t i = 0; i < sizeof benches / sizeof benches[0]; i++)
        if (only == NULL || strstr(benches[i].what, only) != NULL)
            bench_one(&benches[i], &kernels, threads, 2.0);
    return 0;
}
