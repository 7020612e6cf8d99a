/* Linear layers where a few tokens at a time come by, one an answer: the weight is streamed from memory once and
 * multiplied as it is stored.  The arithmetic is that of the gemv kernels (docs/numerics.md). */
#include <math.h>
#include <omp.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/checked.h"

enum {
    PIECE_BYTES =
        16384, /* of each of two rows' places: what a thread takes at a time, so that all finish together */
    LINE = 64  /* bytes: counters of different threads lie apart */
};

static bool is_4bit(const struct lt_weight *w)
{
    return w->format == LT_WEIGHT_NF4 || w->format == LT_WEIGHT_FP4;
}

static size_t codes_bytes(int64_t cols)
{
    return lt_align_up((size_t)cols, (size_t)2 * LT_GEMV_BLOCK) * sizeof(int16_t);
}

static size_t scales_bytes(int64_t cols)
{
    return lt_align_up((size_t)lt_div_up(cols, LT_GEMV_BLOCK) * sizeof(float), LINE);
}

size_t lt_cpu_linear_step_workspace(const struct lt_cpu *cpu, int64_t cols)
{
    return codes_bytes(cols) + scales_bytes(cols) + (size_t)cpu->threads * LINE;
}

bool lt_cpu_linear_step_possible(const struct lt_cpu_call *c)
{
    const struct lt_weight *w = c->weight[1];
    if (!c->node->attr.step || w->transposed || !c->cpu->k.gemv[w->format])
        return false;
    return !is_4bit(w) || (w->blocksize == LT_GEMV_BLOCK && w->cols % LT_GEMV_BLOCK == 0);
}

static void fill_table(struct lt_gemv *g)
{
    for (int i = 0; i < 16; i++)
        g->table[i] = (int16_t)lrintf(g->w->code[i] * LT_GEMV_UNIT);
}

/* Pieces of the weight's rows, in as many ranges as there are threads. */
struct pieces {
    int64_t pairs, each, count; /* rows with one half of all apart; of a piece; pieces */
    int threads;
    unsigned char *taken; /* LINE bytes a range: an int64_t, how many of its pieces are taken */
};

static int64_t *taken(const struct pieces *p, int range)
{
    return (int64_t *)(void *)(p->taken + (ptrdiff_t)range * LINE);
}

/* Reads its own range from the front to the end, then what is left of the others': a thread that goes on where it was
 * reads faster, and one that is held up leaves its work to others. */
static void run_ranges(const struct lt_cpu_call *c, const struct pieces *p, struct lt_gemv *g, int thread)
{
    for (int i = 0; i < p->threads; i++) {
        const int range = (thread + i) % p->threads;
        int64_t begin, end, piece, *next = taken(p, range);
        lt_cpu_share(p->count, 1, range, p->threads, &begin, &end);
        for (;;) {
#pragma omp atomic capture
            piece = (*next)++;
            if (begin + piece >= end)
                break;
            g->begin = (begin + piece) * p->each;
            g->end = lt_min_i64(g->begin + p->each, p->pairs);
            c->cpu->k.gemv[g->w->format](g);
        }
    }
}

static void run_rows(const struct lt_cpu_call *c, struct lt_gemv *g, struct pieces *p)
{
    const int64_t rows = g->w->rows;
    for (int i = 0; i < p->threads; i++)
        *taken(p, i) = 0;
    if (rows % 2) { /* the last one has no partner */
        g->apart = 0;
        g->begin = rows - 1;
        g->end = rows;
        c->cpu->k.gemv[g->w->format](g);
    }
    g->apart = p->pairs;
#pragma omp parallel num_threads(p->threads)
    {
        struct lt_gemv mine = *g;
        run_ranges(c, p, &mine, omp_get_thread_num());
    }
}

void lt_cpu_linear_step(const struct lt_cpu_call *c)
{
    const struct lt_weight *w = c->weight[1];
    int16_t *codes = (int16_t *)(void *)c->workspace;
    float *scales = (float *)(void *)(c->workspace + codes_bytes(w->cols));
    const int64_t row_bytes = (int64_t)lt_weight_data_bytes(w->format, 1, w->cols);
    struct pieces p = {.pairs = w->rows / 2,
                       .each = lt_max_i64(1, PIECE_BYTES / row_bytes),
                       .threads = lt_cpu_threads(c, w->rows * w->cols),
                       .taken = c->workspace + codes_bytes(w->cols) + scales_bytes(w->cols)};
    p.count = lt_div_up(p.pairs, p.each);
    struct lt_gemv g = {.w = w, .bias = c->in[2], .codes = codes, .scales = scales};
    if (is_4bit(w))
        fill_table(&g);
    for (int64_t row = 0; row < c->in_rows[0]; row++) {
        g.x = (const float *)c->in[0] + row * w->cols;
        g.y = (float *)c->out[0] + row * w->rows;
        if (is_4bit(w))
            c->cpu->k.gemv_quantize(codes, scales, g.x, w->cols);
        run_rows(c, &g, &p);
    }
}
