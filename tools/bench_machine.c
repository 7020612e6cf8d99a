#include "tools/bench_machine.h"

#include "config.h"
#include "core/base/alloc.h"
#include "core/base/system.h"

#if LT_HAVE_OPENBLAS
#include <cblas.h>
#endif

double bench_best_seconds(void (*run)(void *user), void *user, double budget)
{
    double best = 0, spent = 0;
    run(user);
    for (int i = 0; i == 0 || (spent < budget && !lt_cancel_requested()); i++) {
        double start = lt_clock_seconds();
        run(user);
        double took = lt_clock_seconds() - start;
        spent += took;
        best = i == 0 || took < best ? took : best;
    }
    return best > 0 ? best : 1e-9;
}

/* ---- OpenBLAS ---- */

#if LT_HAVE_OPENBLAS

static void run_sgemm(void *user)
{
    const struct bench_sgemm *g = user;
    cblas_sgemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans, g->trans_b ? CblasTrans : CblasNoTrans,
                (blasint)g->m, (blasint)g->n, (blasint)g->k, 1.0F, g->a, (blasint)g->lda, g->b,
                (blasint)g->ldb, 0.0F, g->c, (blasint)g->ldc);
}

static void set_threads(int threads)
{
    openblas_set_num_threads(threads);
}

#else

static void run_sgemm(void *user)
{
    (void)user;
}

static void set_threads(int threads)
{
    (void)threads;
}

#endif

static double sgemm_flops(const struct bench_sgemm *g)
{
    return LT_HAVE_OPENBLAS ? 2.0 * (double)g->m * (double)g->n * (double)g->k : 0;
}

/* The provider of the CPU backend keeps OpenBLAS at one thread. */
double bench_sgemm_rate(const struct bench_sgemm *g, int threads, double budget)
{
    struct bench_sgemm copy = *g;
    if (!LT_HAVE_OPENBLAS)
        return 0;
    set_threads(threads);
    double seconds = bench_best_seconds(run_sgemm, &copy, budget);
    set_threads(1);
    return sgemm_flops(g) / seconds;
}

void bench_sgemm_again(const struct bench_sgemm *g, int threads, double seconds, struct bench_sgemm_run *run)
{
    struct bench_sgemm copy = *g;
    *run = (struct bench_sgemm_run){0};
    if (!LT_HAVE_OPENBLAS)
        return;
    set_threads(threads);
    run_sgemm(&copy);
    double start = lt_clock_seconds();
    do {
        run_sgemm(&copy);
        run->flops += sgemm_flops(g);
        run->seconds = lt_clock_seconds() - start;
    } while (run->seconds < seconds && !lt_cancel_requested());
    set_threads(1);
}

/* ---- memory ---- */

/* Sums in variables: an array of them would be stored and loaded again for every line, at half the memory's speed. */
static uint64_t sum_words(const uint64_t *w, int n)
{
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    for (int i = 0; i < n; i += 8) {
        a += w[i];
        b += w[i + 1];
        c += w[i + 2];
        d += w[i + 3];
        e += w[i + 4];
        f += w[i + 5];
        g += w[i + 6];
        h += w[i + 7];
    }
    return a + b + c + d + e + f + g + h;
}

enum { BLOCK_WORDS = 4096 };

uint64_t bench_read(const struct bench_span *spans, size_t count, int threads)
{
    uint64_t sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    for (size_t i = 0; i < count; i++) {
        const uint64_t *words = spans[i].data;
        const int64_t blocks = (int64_t)(spans[i].bytes / sizeof *words / BLOCK_WORDS);
#pragma omp for schedule(static) nowait
        for (int64_t block = 0; block < blocks; block++)
            sum += sum_words(words + block * BLOCK_WORDS, BLOCK_WORDS);
    }
    return sum;
}

struct read_job {
    struct bench_span span;
    int threads;
    uint64_t sum;
};

static void run_read(void *user)
{
    struct read_job *job = user;
    job->sum += bench_read(&job->span, 1, job->threads);
}

enum lt_status bench_read_rate(int threads, double *bytes, struct lt_error *err)
{
    const size_t size = (size_t)512 << 20;
    uint64_t *words = lt_alloc_pages(size);
    if (!words)
        return lt_fail(err, LT_ERR_NOMEM,
                       "out of memory for measuring the memory's speed: %zu bytes are needed", size);
        /* Written, for pages never written to are all the same one. */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < (int64_t)(size / sizeof *words); i++)
        words[i] = (uint64_t)i;
    struct read_job job = {.span = {words, size}, .threads = threads};
    *bytes = (double)size / bench_best_seconds(run_read, &job, 0.3);
    bool right = job.sum != 0; /* the sum is used, so the reads are made */
    lt_free_pages(words, size);
    return right ? LT_OK
                 : lt_fail(err, LT_ERR_NUMERIC, "the memory read back something else than was written");
}
