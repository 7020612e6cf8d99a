/* Linear layers where a few tokens at a time come by, one an answer: the weight is streamed from memory once and
 * multiplied as it is stored.  The arithmetic is that of the gemv kernels (docs/numerics.md). */
#include <math.h>
#include <omp.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/checked.h"

enum { PIECE_BYTES = 64 << 10 }; /* of a weight: what a thread takes at a time, so that all finish together */

static bool is_4bit(const struct lt_weight *w)
{
    return w->format == LT_WEIGHT_NF4 || w->format == LT_WEIGHT_FP4;
}

static size_t codes_bytes(int64_t cols)
{
    return lt_align_up((size_t)cols, (size_t)2 * LT_GEMV_BLOCK) * sizeof(int16_t);
}

size_t lt_cpu_linear_step_workspace(int64_t cols)
{
    return codes_bytes(cols) + (size_t)lt_div_up(cols, LT_GEMV_BLOCK) * sizeof(float);
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

void lt_cpu_linear_step(const struct lt_cpu_call *c)
{
    const struct lt_weight *w = c->weight[1];
    int16_t *codes = (int16_t *)(void *)c->workspace;
    float *scales = (float *)(void *)(c->workspace + codes_bytes(w->cols));
    const size_t row_bytes = lt_weight_data_bytes(w->format, 1, w->cols);
    const int64_t rows = lt_max_i64(1, PIECE_BYTES / (int64_t)row_bytes), pieces = lt_div_up(w->rows, rows);
    struct lt_gemv g = {.w = w, .bias = c->in[2], .codes = codes, .scales = scales};
    if (is_4bit(w))
        fill_table(&g);
    for (int64_t row = 0; row < c->in_rows[0]; row++) {
        g.x = (const float *)c->in[0] + row * w->cols;
        g.y = (float *)c->out[0] + row * w->rows;
        if (is_4bit(w))
            c->cpu->k.gemv_quantize(codes, scales, g.x, w->cols);
#pragma omp parallel for num_threads(lt_cpu_threads(c, w->rows * w->cols)) firstprivate(g) schedule(dynamic)
        for (int64_t piece = 0; piece < pieces; piece++) {
            g.begin = piece * rows;
            g.end = lt_min_i64(g.begin + rows, w->rows);
            c->cpu->k.gemv[w->format](&g);
        }
    }
}
