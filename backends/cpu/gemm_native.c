/* The project's own GEMM: packed panels of W in the second-level cache, A read where it lies.
 *
 * The product is cut into jobs of (rows of C) x (a few panels of columns); threads take jobs from a
 * counter.  A job walks k in blocks: it decodes its panels of op(W) for the block straight into the layout
 * of the micro-kernel, then passes all its rows of A over them.  So W is decoded once a pass (once per
 * group of rows where a narrow product is also cut by rows) and threads share nothing but the counter.
 * Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008, less the packing of A:
 * with eight rows or fewer a tile, broadcasts from the rows themselves were measured to be as fast. */
#include "backends/cpu/gemm_internal.h"

#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum {
    MAX_MR = 16, /* of any micro-kernel */
    MAX_NR = 64,
    DECODE_STEP = 16, /* elements: what decoders take at once */
    DECODE_ROWS = 8,  /* stored rows decoded at a time where a row is one k */
    A_ROWS = 96,      /* rows of a block of A, a multiple of every mr, */
    A_GAP = 16,       /* and the floats between them: no two rows in the same places of a cache */
    LINE = 64,        /* bytes of a cache line */
    LINE_FLOATS = LINE / sizeof(float),
    PAGE_FLOATS = 1024,
    UPDATE_K = 64,        /* k of an update whose panels stay beside those of the product */
    FEW_TILES = 4,        /* of rows: not worth packing more than one panel before using it */
    PACK_ROWS = 24,       /* packing an element costs about as much as this many rows of multiplying */
    SERIAL_WORK = 1 << 16 /* multiply-adds below which waking threads costs more than it gives */
};

/* GCC 12 drops the calls of a function that only prefetches unless it is inlined. */
#define FETCH static inline __attribute__((always_inline)) void

struct native {
    struct lt_gemm_provider base;
    const struct lt_cpu_kernels *kernels;
    const struct lt_gemm_kernel *f32, *bf16;
    int threads;
    float *workspace;
    size_t thread_floats; /* of each thread: panels, then scratch, then a block of A */
    size_t scratch_offset, a_offset, update_offset;
    atomic_llong next_job;
};

/* C[m, n] (or Cᵀ, for the twisted form of a tall product) from A[m, k] and B[k, n]. */
struct product {
    const struct lt_gemm_kernel *kernel;
    bool bf16;
    const float *a;
    int64_t lda;
    bool a_k_major; /* A is stored [k, m] */
    struct lt_gemm_operand b;
    float *c;
    int64_t ldc;
    bool c_twisted; /* element (i, j) of the product is stored at c[j*ldc + i] */
    bool accumulate;
    const float *bias;
    int64_t m, n, k;              /* k of the factors as stored */
    const struct product *update; /* k at most UPDATE_K; or NULL */
};

/* A block of k. */
struct k_block {
    int64_t first, count;     /* of the factors as stored */
    int64_t elements, padded; /* of the micro-kernel: floats or pairs; with the zeros up to its k_step */
};

struct grid {
    int64_t m_parts, n_parts; /* jobs = m_parts * n_parts */
};

struct job {
    const struct native *g;
    const struct product *p;
    int64_t m0, m1, n0, n1;
    float *panels, *scratch, *a_block;
    float *update_panels;
    const struct job *update; /* the same rows and columns of the product's update, packed; or NULL */
};

/* ---- packing ----------------------------------------------------------------------------------------- */

static struct k_block k_block_at(const struct product *p, int64_t first)
{
    const int64_t each = p->kernel->pairs ? 2 : 1;
    struct k_block kb = {.first = first, .count = lt_min_i64(p->kernel->kc * each, p->k - first)};
    kb.elements = lt_div_up(kb.count, each);
    kb.padded = (int64_t)lt_align_up((size_t)kb.elements, (size_t)p->kernel->k_step);
    return kb;
}

/* Asks for n stored elements of W from `first` on: runs lie apart, where the processor sees no pattern. */
FETCH fetch_run(const struct lt_weight *w, int64_t first, int64_t n)
{
    const uintptr_t begin = (uintptr_t)w->data + lt_weight_data_bytes(w->format, 1, first);
    const uintptr_t end = (uintptr_t)w->data + lt_weight_data_bytes(w->format, 1, first + n);
    for (uintptr_t at = begin / LINE * LINE; at < end; at += LINE)
        __builtin_prefetch((const void *)at);
}

/* n stored elements of W from `first` on as the micro-kernel multiplies them, in dst, which holds n floats. */
static void load_run(const struct job *job, float *dst, int64_t first, int64_t n)
{
    const struct product *p = job->p;
    const bool stored_bf16 = p->b.w != NULL && p->b.w->format == LT_WEIGHT_BF16;
    if (p->bf16 && p->kernel->pairs && stored_bf16) {
        unsigned char *bytes = (unsigned char *)dst;
        memcpy(bytes, (const uint16_t *)p->b.w->data + first, (size_t)n * 2);
        memset(bytes + n * 2, 0, (size_t)(n % 2) * 2);
        return;
    }
    p->b.decode(dst, p->b.w, first, n);
    if (p->bf16 && p->kernel->pairs)
        p->kernel->pair_row(dst, dst, n);
    else if (p->bf16 && !stored_bf16)
        job->g->kernels->round_bf16(dst, dst, n);
}

static int panel_width(const struct lt_gemm_kernel *kernel, int64_t cols)
{
    return cols >= kernel->nr ? kernel->nr : (int)lt_align_up((size_t)cols, (size_t)kernel->lanes);
}

/* The packed panel of column n, a multiple of nr. */
static float *panel_at(const struct job *job, int64_t n, int64_t kc)
{
    const int nr = job->p->kernel->nr;
    return job->panels + (n - job->n0) / nr * lt_gemm_panel_stride(kc, nr);
}

/* The zeros behind the last element of k. */
static void pad_panel(float *panel, int width, const struct k_block *kb)
{
    memset(panel + kb->elements * width, 0,
           (size_t)(kb->padded - kb->elements) * (size_t)width * sizeof *panel);
}

/* Stored rows are columns of op(B): groups of `lanes` are decoded side by side and transposed. */
static void pack_transposed(const struct job *job, const struct k_block *kb)
{
    const struct lt_gemm_kernel *kernel = job->p->kernel;
    const struct lt_gemm_operand *b = &job->p->b;
    for (int64_t n = job->n0; n < job->n1; n += kernel->nr) {
        float *panel = panel_at(job, n, kb->padded);
        int64_t cols = lt_min_i64(kernel->nr, job->n1 - n);
        int width = panel_width(kernel, cols);
        for (int64_t j = 0; j < cols; j += kernel->lanes) {
            int rows = (int)lt_min_i64(kernel->lanes, cols - j);
            int64_t first = (n + j) * b->ld + kb->first;
            const float *src = job->scratch;
            int64_t lds = kb->count;
            if (b->f32 != NULL) {
                src = b->f32 + first;
                lds = b->ld;
            } else {
                const int64_t next = lt_min_i64(kernel->lanes, job->n1 - n - j - rows);
                for (int r = 0; r < rows; r++) {
                    if (r < next)
                        fetch_run(b->w, first + (r + rows) * b->ld, kb->count);
                    load_run(job, job->scratch + r * lds, first + r * b->ld, kb->count);
                }
            }
            kernel->transpose(panel + j, width, src, lds, rows, kb->elements);
        }
        pad_panel(panel, width, kb);
    }
}

/* Two rows of k each become one of pairs, in place; returns how many. */
static int64_t pair_scratch(const struct job *job, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r += 2) {
        float *even = job->scratch + r * width;
        job->p->kernel->pair_rows(job->scratch + r / 2 * width, even, r + 1 < rows ? even + width : NULL,
                                  width);
    }
    return lt_div_up(rows, 2);
}

/* Stored rows are rows of op(B). */
static void pack_straight(const struct job *job, const struct k_block *kb)
{
    const struct product *p = job->p;
    const struct lt_gemm_kernel *kernel = p->kernel;
    const struct lt_gemm_operand *b = &p->b;
    const int64_t cols = job->n1 - job->n0;
    if (b->f32 != NULL) {
        kernel->panels_copy(job->panels, kb->padded, 0, b->f32 + kb->first * b->ld + job->n0, b->ld,
                            kb->count, cols);
        return;
    }
    /* From and to whole groups of columns, which decoders are fastest at. */
    const int64_t skip = job->n0 % DECODE_STEP;
    const int64_t end = lt_min_i64((int64_t)lt_align_up((size_t)job->n1, DECODE_STEP), b->ld);
    const int64_t width = end - (job->n0 - skip);
    for (int64_t k = 0; k < kb->count; k += DECODE_ROWS) {
        int64_t rows = lt_min_i64(DECODE_ROWS, kb->count - k), at = k;
        for (int64_t r = 0; r < rows; r++) {
            if (k + r + DECODE_ROWS < kb->count)
                fetch_run(b->w, (kb->first + k + r + DECODE_ROWS) * b->ld + job->n0 - skip, width);
            b->decode(job->scratch + r * width, b->w, (kb->first + k + r) * b->ld + job->n0 - skip, width);
        }
        if (kernel->pairs) {
            rows = pair_scratch(job, rows, width);
            at = k / 2;
        } else if (p->bf16 && b->w->format != LT_WEIGHT_BF16) {
            job->g->kernels->round_bf16(job->scratch, job->scratch, rows * width);
        }
        kernel->panels_copy(job->panels, kb->padded, at, job->scratch + skip, width, rows, cols);
    }
    for (int64_t n = job->n0; n < job->n1 && kb->padded > kb->elements; n += kernel->nr)
        pad_panel(panel_at(job, n, kb->padded), panel_width(kernel, lt_min_i64(kernel->nr, job->n1 - n)), kb);
}

/* Rows m0 … of a k-major A as rows: block[m][k]. */
static void pack_a_transposed(const struct job *job, int64_t m0, int64_t rows, const struct k_block *kb)
{
    const struct lt_gemm_kernel *kernel = job->p->kernel;
    const int64_t lanes = kernel->lanes, lda = job->p->lda, kc = kb->count;
    for (int64_t k = 0; k < kc; k += lanes) {
        const float *src = job->p->a + (kb->first + k) * lda + m0;
        /* The tokens after these; strides over a page are not foreseen by the processor. */
        for (int64_t token = lanes; token < 2 * lanes && k + token < kc; token++)
            for (int64_t m = 0; m < rows; m += LINE_FLOATS)
                __builtin_prefetch(src + token * lda + m);
        kernel->transpose(job->a_block + k, kernel->kc + A_GAP, src, lda, (int)lt_min_i64(lanes, kc - k),
                          rows);
    }
}

/* Rows m0 … of A rounded to bf16. */
static void pack_a_rounded(const struct job *job, int64_t m0, int64_t rows, const struct k_block *kb)
{
    const struct lt_gemm_kernel *kernel = job->p->kernel;
    for (int64_t r = 0; r < rows; r++) {
        const float *src = job->p->a + (m0 + r) * job->p->lda + kb->first;
        float *dst = job->a_block + r * (kernel->kc + A_GAP);
        if (kernel->pairs)
            kernel->pair_row(dst, src, kb->count);
        else
            job->g->kernels->round_bf16(dst, src, kb->count);
        memset(dst + kb->elements, 0, (size_t)(kb->padded - kb->elements) * sizeof *dst);
    }
}

/* ---- one job ----------------------------------------------------------------------------------------- */

/* As kernel->tile on a stored Cᵀ, through a small copy. */
static void tile_twisted(const struct lt_gemm_kernel *kernel, struct lt_gemm_tile *t)
{
    float copy[MAX_MR * MAX_NR];
    float *c = t->c;
    const int64_t ldc = t->ldc;
    if (t->load)
        for (int j = 0; j < t->cols; j++)
            for (int i = 0; i < t->rows; i++)
                copy[i * MAX_NR + j] = c[j * ldc + i];
    t->c = copy;
    t->next_c = copy;
    t->ldc = MAX_NR;
    kernel->tile(t);
    for (int j = 0; j < t->cols; j++)
        for (int i = 0; i < t->rows; i++)
            c[j * ldc + i] = copy[i * MAX_NR + j];
}

/* Rows m … m+rows of A, at `a`, over columns n … of panel n, one block of k. */
static void multiply_tile(const struct job *job, const float *a, int64_t lda, int64_t m, int64_t rows,
                          int64_t n, const struct k_block *kb, bool packed)
{
    const struct product *p = job->p;
    const struct lt_gemm_kernel *kernel = p->kernel;
    const int64_t cols = lt_min_i64(kernel->nr, job->n1 - n);
    float rounded_bias[MAX_NR];
    struct lt_gemm_tile t = {
        .a = a,
        .lda = lda,
        .b = packed ? panel_at(job, n, kb->padded) : p->b.f32 + kb->first * p->b.ld + n,
        .ldb = packed ? panel_width(kernel, cols) : p->b.ld,
        .c = p->c_twisted ? p->c + n * p->ldc + m : p->c + m * p->ldc + n,
        .ldc = p->ldc,
        .bias = p->bias != NULL && kb->first == 0 ? p->bias + n : NULL,
        .k = kb->padded,
        .rows = (int)rows,
        .cols = (int)cols,
        .load = p->accumulate || kb->first > 0,
    };
    if (p->c_twisted) {
        tile_twisted(kernel, &t);
        return;
    }
    if (p->bf16 && t.bias != NULL) {
        job->g->kernels->round_bf16(rounded_bias, t.bias, cols);
        t.bias = rounded_bias;
    }
    t.next_c = n + kernel->nr < job->n1 ? t.c + kernel->nr
                                        : p->c + lt_min_i64(m + kernel->mr, p->m - 1) * p->ldc + job->n0;
    kernel->tile(&t);
}

/* Asks for part `part` of `parts` of the lines of `rows` rows of A. */
FETCH fetch_rows(const float *a, int64_t lda, int64_t rows, int64_t floats, int64_t part, int64_t parts)
{
    const int64_t lines = lt_div_up(floats, LINE_FLOATS);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t line = lines * part / parts; line < lines * (part + 1) / parts; line++)
            __builtin_prefetch(a + r * lda + line * LINE_FLOATS, 0, 2);
}

/* Rows m0 … m1 of A, at `a`, over the job's columns of one block of k. */
static void multiply_rows(const struct job *job, const float *a, int64_t lda, int64_t m0, int64_t m1,
                          const struct k_block *kb, bool packed);

static void update_rows(const struct job *job, int64_t m0, int64_t m1)
{
    const struct product *p = job->p;
    const struct k_block kb = k_block_at(p, 0);
    multiply_rows(job, p->a + m0 * p->lda, p->lda, m0, m1, &kb, true);
}

static void multiply_rows(const struct job *job, const float *a, int64_t lda, int64_t m0, int64_t m1,
                          const struct k_block *kb, bool packed)
{
    const struct product *p = job->p;
    const struct lt_gemm_kernel *kernel = p->kernel;
    const bool last = kb->first + kb->count == p->k;
    const int64_t panels = lt_div_up(job->n1 - job->n0, kernel->nr);
    for (int64_t m = m0; m < m1; m += kernel->mr) {
        const int64_t rows = lt_min_i64(kernel->mr, m1 - m), next = lt_min_i64(kernel->mr, m1 - m - rows);
        const float *tile = a + (m - m0) * lda;
        for (int64_t panel = 0; panel < panels; panel++) {
            /* The first panel would wait for rows that come from memory; a share of them beside each panel before. */
            if (panels > 1)
                fetch_rows(tile + rows * lda, lda, next, kb->elements, panel, panels);
            multiply_tile(job, tile, lda, m, rows, job->n0 + panel * kernel->nr, kb, packed);
        }
        for (int64_t r = m; last && p->bf16 && r < m + rows; r++) {
            float *c = p->c + r * p->ldc + job->n0;
            job->g->kernels->round_bf16(c, c, job->n1 - job->n0);
        }
        if (last && job->update != NULL)
            update_rows(job->update, m, m + rows);
    }
}

/* A few rows do not pay for a copy of f32 rows that lie in whole cache lines as the micro-kernel wants them. */
static bool in_place(const struct product *p, int64_t rows)
{
    return p->b.f32 != NULL && p->b.k_major && rows <= 2 * p->kernel->mr && p->kernel->nr % LINE_FLOATS == 0;
}

static void pack_w(const struct job *job, const struct k_block *kb)
{
    if (job->p->b.k_major)
        pack_straight(job, kb);
    else
        pack_transposed(job, kb);
}

static void run_job(struct job *job)
{
    const struct product *p = job->p;
    const struct lt_gemm_kernel *kernel = p->kernel;
    const bool packed = !in_place(p, job->m1 - job->m0) || (job->n1 - job->n0) % kernel->lanes != 0;
    struct job update = *job;
    job->update = NULL;
    if (p->update != NULL) {
        update.p = p->update;
        update.panels = job->update_panels;
        update.update = NULL;
        const struct k_block kb = k_block_at(p->update, 0);
        pack_w(&update, &kb);
        job->update = &update;
    }
    for (int64_t k = 0; k < p->k;) {
        const struct k_block kb = k_block_at(p, k);
        k += kb.count;
        if (packed)
            pack_w(job, &kb);
        if (!p->a_k_major && !p->bf16) {
            multiply_rows(job, p->a + job->m0 * p->lda + kb.first, p->lda, job->m0, job->m1, &kb, packed);
            continue;
        }
        for (int64_t m = job->m0; m < job->m1; m += A_ROWS) {
            int64_t rows = lt_min_i64(A_ROWS, job->m1 - m);
            if (p->a_k_major)
                pack_a_transposed(job, m, rows, &kb);
            else
                pack_a_rounded(job, m, rows, &kb);
            multiply_rows(job, job->a_block, kernel->kc + A_GAP, m, m + rows, &kb, packed);
        }
    }
}

/* ---- threads ----------------------------------------------------------------------------------------- */

/* How to cut the product so that the threads finish together.  Columns are cut down to what a job's panels
 * hold; rows only where that makes fewer jobs than threads, because each group of rows packs its columns
 * again. */
static struct grid choose_grid(const struct native *g, const struct product *p)
{
    const struct lt_gemm_kernel *kernel = p->kernel;
    const int64_t tiles = lt_div_up(p->m, kernel->mr), panels = lt_div_up(p->n, kernel->nr);
    /* Without many rows to pass over them, panels are best used one by one, right after packing, unless
     * packing them together reads longer runs. */
    const bool one_by_one = tiles <= FEW_TILES && (!p->b.k_major || in_place(p, p->m));
    const int64_t threads = g->threads, fewest = one_by_one ? panels : lt_div_up(panels, kernel->panels);
    struct grid best = {1, fewest};
    double best_cost = -1.0;
    for (int64_t m_parts = 1; m_parts <= lt_min_i64(tiles, 2 * threads); m_parts++) {
        /* The fewest column parts, the fewest that keep every thread busy to the end, the most. */
        int64_t even = lt_div_up(fewest * m_parts, threads) * threads;
        int64_t candidates[3] = {fewest, lt_min_i64(lt_div_up(even, m_parts), panels), panels};
        for (int i = 0; i < 3; i++) {
            double rounds = (double)lt_div_up(candidates[i] * m_parts, threads);
            double rows = (double)(tiles * kernel->mr) / (double)m_parts + PACK_ROWS;
            double cost = rounds * rows * (double)panels / (double)candidates[i];
            if (best_cost < 0.0 || cost < best_cost) {
                best_cost = cost;
                best = (struct grid){m_parts, candidates[i]};
            }
        }
    }
    return best;
}

static void work(struct native *g, const struct product *p, struct grid grid, int thread)
{
    const struct lt_gemm_kernel *kernel = p->kernel;
    const int64_t tiles = lt_div_up(p->m, kernel->mr), panels = lt_div_up(p->n, kernel->nr);
    float *own = g->workspace + (size_t)thread * g->thread_floats;
    struct job job = {.g = g,
                      .p = p,
                      .panels = own,
                      .scratch = own + g->scratch_offset,
                      .a_block = own + g->a_offset,
                      .update_panels = own + g->update_offset};
    if (kernel->enter != NULL)
        kernel->enter();
    for (;;) {
        int64_t next = atomic_fetch_add_explicit(&g->next_job, 1, memory_order_relaxed);
        if (next >= grid.m_parts * grid.n_parts)
            break;
        int64_t i = next % grid.m_parts, j = next / grid.m_parts;
        job.m0 = tiles * i / grid.m_parts * kernel->mr;
        job.m1 = lt_min_i64(tiles * (i + 1) / grid.m_parts * kernel->mr, p->m);
        job.n0 = panels * j / grid.n_parts * kernel->nr;
        job.n1 = lt_min_i64(panels * (j + 1) / grid.n_parts * kernel->nr, p->n);
        run_job(&job);
    }
    if (kernel->leave != NULL)
        kernel->leave();
}

static void multiply(struct native *g, const struct product *p)
{
    const struct grid grid = choose_grid(g, p);
    const bool serial = p->m * p->n <= SERIAL_WORK / p->k;
    atomic_store_explicit(&g->next_job, 0, memory_order_relaxed);
#pragma omp parallel num_threads(g->threads) if (!serial && g->threads > 1)
    work(g, p, grid, omp_get_thread_num());
}

/* ---- provider ---------------------------------------------------------------------------------------- */

static struct product product_of(const struct native *g, const struct lt_gemm_args *args)
{
    struct product p = {
        .kernel = args->bf16 ? g->bf16 : g->f32,
        .bf16 = args->bf16,
        .a = args->a,
        .lda = args->lda,
        .b = lt_gemm_operand_view(args, g->kernels),
        .c = args->c,
        .ldc = args->ldc,
        .accumulate = args->accumulate,
        .bias = args->bias,
        .m = args->m,
    };
    p.n = p.b.n;
    p.k = p.b.k;
    return p;
}

static void native_run(struct lt_gemm_provider *provider, const struct lt_gemm_args *args)
{
    struct native *g = (struct native *)provider;
    struct product p = product_of(g, args), update;
    if (args->update == NULL) {
        multiply(g, &p);
        return;
    }
    const struct lt_gemm_args second = lt_gemm_update_args(args);
    update = product_of(g, &second);
    if (update.k <= UPDATE_K)
        p.update = &update;
    multiply(g, &p);
    if (p.update == NULL)
        multiply(g, &update);
}

static void native_run_tn(struct lt_gemm_provider *provider, const struct lt_gemm_tn_args *args)
{
    /* The larger output dimension becomes the columns: they are copied into panels, rows are transposed. */
    const bool twist = args->m > args->n;
    struct native *g = (struct native *)provider;
    struct product p = {
        .kernel = g->f32,
        .a = twist ? args->b : args->a,
        .lda = twist ? args->ldb : args->lda,
        .a_k_major = true,
        .b = {.f32 = twist ? args->a : args->b, .ld = twist ? args->lda : args->ldb, .k_major = true},
        .c = args->c,
        .ldc = args->ldc,
        .c_twisted = twist,
        .accumulate = args->accumulate,
        .m = twist ? args->n : args->m,
        .n = twist ? args->m : args->n,
        .k = args->k,
    };
    multiply(g, &p);
}

static void native_destroy(struct lt_gemm_provider *provider)
{
    struct native *g = (struct native *)provider;
    if (g == NULL)
        return;
    if (g->workspace != NULL)
        lt_free_pages(g->workspace, g->base.workspace_bytes);
    lt_free(g);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Makes the places of a thread's workspace hold what this micro-kernel needs. */
static void need_workspace(struct native *g, const struct lt_gemm_kernel *kernel, size_t *scratch, size_t *a)
{
    const size_t kc = (size_t)kernel->kc, columns = (size_t)(kernel->panels * kernel->nr);
    const size_t panels = (size_t)kernel->panels * (size_t)lt_gemm_panel_stride(kernel->kc, kernel->nr);
    const size_t transposing = (size_t)kernel->lanes * kc * (kernel->pairs ? 2 : 1),
                 copying = DECODE_ROWS * (columns + 2 * DECODE_STEP);
    g->scratch_offset = larger(g->scratch_offset, panels);
    *scratch = larger(*scratch, larger(transposing, copying));
    *a = larger(*a, A_ROWS * (kc + A_GAP));
}

enum lt_status lt_gemm_native_create_with(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                          const struct lt_gemm_kernel *f32, const struct lt_gemm_kernel *bf16,
                                          int threads, struct lt_error *err)
{
    *p = NULL;
    if (threads < 1)
        return lt_fail(err, LT_ERR_INVALID, "gemm: %d threads were asked for; at least 1 is needed", threads);
    struct native *g = lt_alloc_zero(1, sizeof *g);
    if (g == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "gemm: out of memory for the native provider");
    g->kernels = kernels;
    g->f32 = f32;
    g->bf16 = bf16;
    g->threads = threads;
    size_t scratch = 0, a = 0;
    need_workspace(g, f32, &scratch, &a);
    need_workspace(g, bf16, &scratch, &a);
    g->a_offset = g->scratch_offset + scratch;
    g->update_offset = g->a_offset + a;
    const size_t columns = larger((size_t)(f32->panels * f32->nr), (size_t)(bf16->panels * bf16->nr));
    const size_t update = (columns / (size_t)f32->nr + 1) * (size_t)lt_gemm_panel_stride(UPDATE_K, f32->nr);
    /* Whole pages, so that no two threads write to one. */
    g->thread_floats = lt_align_up(g->update_offset + update, PAGE_FLOATS);
    g->base = (struct lt_gemm_provider){
        .name = "native",
        .run = native_run,
        .run_tn = native_run_tn,
        .destroy = native_destroy,
        .bf16_unit = bf16->pairs,
        .workspace_bytes = (size_t)threads * g->thread_floats * sizeof(float),
    };
    g->workspace = lt_alloc_pages(g->base.workspace_bytes);
    if (g->workspace == NULL) {
        size_t bytes = g->base.workspace_bytes;
        native_destroy(&g->base);
        return lt_fail(err, LT_ERR_NOMEM, "gemm: out of memory for %zu bytes of workspace", bytes);
    }
    *p = &g->base;
    return LT_OK;
}

enum lt_status lt_gemm_native_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                     int threads, struct lt_error *err)
{
    return lt_gemm_native_create_with(p, kernels, lt_gemm_kernel_for(kernels->isa),
                                      lt_gemm_bf16_kernel_for(kernels->isa), threads, err);
}
