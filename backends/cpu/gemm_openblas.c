/* GEMM by OpenBLAS, made independent of M and of the threads.
 *
 * The bits of a row of cblas_sgemm change with M, with the width of the matrix and with OpenBLAS's
 * threads.  So it is called with shapes that are a function of k and n alone: PANEL_ROWS rows of A (the
 * last panel padded with zero rows), TILE_COLS columns of W (the last tile rounded up to COL_STEP),
 * BLOCK_K of k.  Threads are ours: OpenBLAS is set to one and called from inside the parallel region, each
 * thread on its own tiles. */
#include "backends/cpu/gemm_internal.h"

#include "config.h"

#if LT_HAVE_OPENBLAS

#include <cblas.h>
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum {
    PANEL_ROWS = 256,
    TILE_COLS = 256,
    COL_STEP = 16,
    BLOCK_K = 384,
    TN_TILE = 256,
    SERIAL_WORK = 1 << 16 /* multiply-adds below which waking threads costs more than it gives */
};

struct openblas {
    struct lt_gemm_provider base;
    const struct lt_cpu_kernels *kernels;
    int threads;
    float *workspace;
    size_t workspace_size; /* of which base.workspace_bytes is more by what OpenBLAS packs */
    atomic_llong next_job;
};

/* A thread's own buffers. */
struct scratch {
    float w[TILE_COLS * BLOCK_K];
    float a[PANEL_ROWS * BLOCK_K];
    float c[PANEL_ROWS * TILE_COLS];
};

/* ---- C (+)= A · op(W) -------------------------------------------------------------------------------- */

/* A tile of op(W), stored as W lies: [width][kc] or, k-major, [kc][width]; columns n1 … are zero. */
static const float *load_tile(const struct openblas *g, float *tile, const struct lt_gemm_args *args,
                              const struct lt_gemm_operand *b, int64_t n0, int64_t cols, int64_t width,
                              int64_t k0, int64_t kc, int64_t *ld)
{
    if (b->f32 != NULL && cols == width) {
        *ld = b->ld;
        return b->f32 + (b->k_major ? k0 * b->ld + n0 : n0 * b->ld + k0);
    }
    *ld = b->k_major ? width : kc;
    if (b->k_major) {
        for (int64_t k = 0; k < kc; k++) {
            b->decode(tile + k * width, b->w, (k0 + k) * b->ld + n0, cols);
            memset(tile + k * width + cols, 0, (size_t)(width - cols) * sizeof(float));
        }
    } else {
        for (int64_t n = 0; n < cols; n++)
            b->decode(tile + n * kc, b->w, (n0 + n) * b->ld + k0, kc);
        memset(tile + cols * kc, 0, (size_t)((width - cols) * kc) * sizeof(float));
    }
    if (args->bf16)
        g->kernels->round_bf16(tile, tile, kc * width);
    return tile;
}

static void copy_rows(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(dst + i * ldd, src + i * lds, (size_t)cols * sizeof(float));
}

/* Rows [m0, m0 + rows) of C, columns [n0, n0 + cols), one k block; rows <= PANEL_ROWS. */
static void multiply_panel(const struct openblas *g, struct scratch *own, const struct lt_gemm_args *args,
                           const struct lt_gemm_operand *b, const float *tile, int64_t ld_tile, int64_t m0,
                           int64_t rows, int64_t n0, int64_t cols, int64_t width, int64_t k0, int64_t kc)
{
    const float *a = args->a + m0 * args->lda + k0;
    float *c = args->c + m0 * args->ldc + n0;
    int64_t lda = args->lda, ldc = args->ldc;
    const bool load = args->accumulate || k0 > 0;
    const bool padded_c = rows < PANEL_ROWS || cols < width;
    if (rows < PANEL_ROWS || args->bf16) {
        copy_rows(own->a, kc, a, lda, rows, kc);
        memset(own->a + rows * kc, 0, (size_t)((PANEL_ROWS - rows) * kc) * sizeof(float));
        if (args->bf16)
            g->kernels->round_bf16(own->a, own->a, rows * kc);
        a = own->a;
        lda = kc;
    }
    if (padded_c) {
        if (load) {
            memset(own->c, 0, sizeof own->c);
            copy_rows(own->c, width, c, ldc, rows, cols);
        }
        c = own->c;
        ldc = width;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, b->k_major ? CblasNoTrans : CblasTrans, PANEL_ROWS, (int)width,
                (int)kc, 1.0F, a, (int)lda, tile, (int)ld_tile, load ? 1.0F : 0.0F, c, (int)ldc);
    if (padded_c)
        copy_rows(args->c + m0 * args->ldc + n0, args->ldc, own->c, width, rows, cols);
}

/* What is left when the sums over k are in C: the bias, and with bf16 the rounding. */
static void finish_row(const struct openblas *g, const struct lt_gemm_args *args, float *c, int64_t n0,
                       int64_t cols)
{
    for (int64_t n = 0; args->bias != NULL && n < cols; n++) {
        float bias = args->bias[n0 + n];
        if (args->bf16)
            g->kernels->round_bf16(&bias, &bias, 1);
        c[n] += bias;
    }
    if (args->bf16)
        g->kernels->round_bf16(c, c, cols);
}

static void run_job(const struct openblas *g, struct scratch *own, const struct lt_gemm_args *args,
                    const struct lt_gemm_operand *b, int64_t m0, int64_t m1, int64_t n0, int64_t cols)
{
    const int64_t width = (int64_t)lt_align_up((size_t)cols, COL_STEP);
    for (int64_t k0 = 0; k0 < b->k; k0 += BLOCK_K) {
        int64_t kc = lt_min_i64(BLOCK_K, b->k - k0), ld;
        const float *tile = load_tile(g, own->w, args, b, n0, cols, width, k0, kc, &ld);
        for (int64_t m = m0; m < m1; m += PANEL_ROWS)
            multiply_panel(g, own, args, b, tile, ld, m, lt_min_i64(PANEL_ROWS, m1 - m), n0, cols, width, k0,
                           kc);
    }
    for (int64_t m = m0; m < m1; m++)
        finish_row(g, args, args->c + m * args->ldc + n0, n0, cols);
}

static void openblas_run(struct lt_gemm_provider *provider, const struct lt_gemm_args *args)
{
    struct openblas *g = (struct openblas *)provider;
    const struct lt_gemm_operand b = lt_gemm_operand_view(args, g->kernels);
    const int64_t tiles = lt_div_up(b.n, TILE_COLS), panels = lt_div_up(args->m, PANEL_ROWS);
    /* Rows are cut too when the column tiles alone would leave threads idle. */
    const int64_t m_parts = lt_min_i64(panels, lt_div_up(g->threads, tiles));
    const bool serial = args->m * b.n <= SERIAL_WORK / b.k;
    atomic_store_explicit(&g->next_job, 0, memory_order_relaxed);
#pragma omp parallel num_threads(g->threads) if (!serial && g->threads > 1)
    {
        struct scratch *own = (struct scratch *)g->workspace + omp_get_thread_num();
        for (;;) {
            int64_t next = atomic_fetch_add_explicit(&g->next_job, 1, memory_order_relaxed);
            if (next >= tiles * m_parts)
                break;
            int64_t part = next % m_parts, n0 = next / m_parts * TILE_COLS;
            run_job(g, own, args, &b, panels * part / m_parts * PANEL_ROWS,
                    lt_min_i64(panels * (part + 1) / m_parts * PANEL_ROWS, args->m), n0,
                    lt_min_i64(TILE_COLS, b.n - n0));
        }
    }
    if (args->update != NULL) {
        const struct lt_gemm_args update = lt_gemm_update_args(args);
        openblas_run(provider, &update);
    }
}

/* ---- C (+)= Aᵀ · B ----------------------------------------------------------------------------------- */

static void openblas_run_tn(struct lt_gemm_provider *provider, const struct lt_gemm_tn_args *args)
{
    const struct openblas *g = (const struct openblas *)provider;
    const int64_t m_tiles = lt_div_up(args->m, TN_TILE), n_tiles = lt_div_up(args->n, TN_TILE);
#pragma omp parallel for num_threads(g->threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < m_tiles * n_tiles; i++) {
        int64_t m0 = i % m_tiles * TN_TILE, n0 = i / m_tiles * TN_TILE;
        int64_t rows = lt_min_i64(TN_TILE, args->m - m0), cols = lt_min_i64(TN_TILE, args->n - n0);
        for (int64_t k0 = 0; k0 < args->k; k0 += BLOCK_K)
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)cols,
                        (int)lt_min_i64(BLOCK_K, args->k - k0), 1.0F, args->a + k0 * args->lda + m0,
                        (int)args->lda, args->b + k0 * args->ldb + n0, (int)args->ldb,
                        args->accumulate || k0 > 0 ? 1.0F : 0.0F, args->c + m0 * args->ldc + n0,
                        (int)args->ldc);
    }
}

/* ---- provider ---------------------------------------------------------------------------------------- */

static void openblas_destroy(struct lt_gemm_provider *provider)
{
    struct openblas *g = (struct openblas *)provider;
    if (g == NULL)
        return;
    if (g->workspace != NULL)
        lt_free_pages(g->workspace, g->workspace_size);
    lt_free(g);
}

enum lt_status lt_gemm_openblas_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                       int threads, struct lt_error *err)
{
    *p = NULL;
    if (threads < 1)
        return lt_fail(err, LT_ERR_INVALID, "gemm: %d threads were asked for; at least 1 is needed", threads);
    struct openblas *g = lt_alloc_zero(1, sizeof *g);
    if (g == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "gemm: out of memory for the OpenBLAS provider");
    const size_t packed = (size_t)(PANEL_ROWS + TILE_COLS) * BLOCK_K * sizeof(float);
    g->kernels = kernels;
    g->threads = threads;
    g->workspace_size = (size_t)threads * sizeof(struct scratch);
    g->base = (struct lt_gemm_provider){
        .name = "openblas",
        .run = openblas_run,
        .run_tn = openblas_run_tn,
        .destroy = openblas_destroy,
        .workspace_bytes = g->workspace_size + (size_t)threads * packed,
    };
    g->workspace = lt_alloc_pages(g->workspace_size);
    if (g->workspace == NULL) {
        size_t bytes = g->workspace_size;
        openblas_destroy(&g->base);
        return lt_fail(err, LT_ERR_NOMEM, "gemm: out of memory for %zu bytes of workspace", bytes);
    }
    openblas_set_num_threads(1);
    *p = &g->base;
    return LT_OK;
}

#else

enum lt_status lt_gemm_openblas_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                       int threads, struct lt_error *err)
{
    (void)kernels;
    (void)threads;
    *p = NULL;
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "gemm: this program was built without OpenBLAS; use LT_GEMM=native");
}

#endif
