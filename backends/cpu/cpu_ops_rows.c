/* Ops that work row by row (or element by element): embedding, norms, rope, activations, copies. */
#include <omp.h>
#include <string.h>

#include "backends/cpu/cpu_ops.h"

/* Rows [*begin, *end) of `rows` for the calling thread of a parallel region. */
static void my_rows(int64_t rows, int64_t *begin, int64_t *end)
{
    lt_cpu_share(rows, 1, omp_get_thread_num(), omp_get_num_threads(), begin, end);
}

/* Elements in multiples of a cache line, so that vector bodies and tails do not depend on the split. */
static void my_elements(int64_t n, int64_t *begin, int64_t *end)
{
    lt_cpu_share(n, 64, omp_get_thread_num(), omp_get_num_threads(), begin, end);
}

void lt_cpu_op_embed(const struct lt_cpu_call *c)
{
    const int32_t *ids = c->in[0];
    const struct lt_weight *w = c->weight[1];
    float *y = c->out[0], scale = c->node->attr.scale;
    int64_t cols = c->out_cols[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->out_rows[0] * c->out_cols[0]))
    {
        int64_t begin, end;
        my_rows(c->out_rows[0], &begin, &end);
        for (int64_t r = begin; r < end; r++) {
            c->cpu->k.decode[w->format](y + r * cols, w, ids[r] * cols, cols);
            for (int64_t i = 0; scale != 1.0f && i < cols; i++)
                y[r * cols + i] *= scale;
        }
    }
}

void lt_cpu_op_embed_dw(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0];
    const int32_t *ids = c->in[1];
    float *dw = c->out[0], scale = c->node->attr.scale;
    int64_t rows = c->in_rows[0], cols = c->in_cols[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t begin, end;
        my_elements(cols, &begin, &end);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = begin; i < end; i++)
                dw[ids[r] * cols + i] += dy[r * cols + i] * scale;
    }
}

void lt_cpu_op_rmsnorm(const struct lt_cpu_call *c)
{
    const struct lt_op_attr *a = &c->node->attr;
    const float *x = c->in[0], *w = c->in[1];
    float *y = c->out[0], *rstd = c->out[1];
    int64_t cols = c->in_cols[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_rows(c->in_rows[0], &b, &e);
        c->cpu->k.rmsnorm_fwd(y + b * cols, rstd + b, x + b * cols, w, e - b, cols, a->eps, a->plus_one);
    }
}

void lt_cpu_op_rmsnorm_bwd(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0], *x = c->in[1], *w = c->in[2], *rstd = c->in[3];
    float *dx = c->out[0], *dw = c->out[1];
    int64_t rows = c->in_rows[0], cols = c->in_cols[0];
    bool plus_one = c->node->attr.plus_one;
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        if (dw) { /* before dx, which may overwrite dy */
            my_elements(cols, &b, &e);
            c->cpu->k.rmsnorm_dw(dw, dy, x, rstd, rows, cols, b, e);
        }
#pragma omp barrier
        my_rows(rows, &b, &e);
        if (dx)
            c->cpu->k.rmsnorm_bwd(dx + b * cols, dy + b * cols, x + b * cols, w, rstd + b, e - b, cols,
                                  plus_one);
    }
}

void lt_cpu_op_layernorm(const struct lt_cpu_call *c)
{
    const float *x = c->in[0], *w = c->in[1], *bias = c->in[2];
    float *y = c->out[0], *mean = c->out[1], *rstd = c->out[2];
    int64_t cols = c->in_cols[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_rows(c->in_rows[0], &b, &e);
        c->cpu->k.layernorm_fwd(y + b * cols, mean + b, rstd + b, x + b * cols, w, bias, e - b, cols,
                                c->node->attr.eps);
    }
}

void lt_cpu_op_layernorm_bwd(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0], *x = c->in[1], *w = c->in[2], *mean = c->in[3], *rstd = c->in[4];
    float *dx = c->out[0], *dw = c->out[1], *db = c->out[2];
    int64_t rows = c->in_rows[0], cols = c->in_cols[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_elements(cols, &b, &e);
        if (dw && db)
            c->cpu->k.layernorm_dw(dw, db, dy, x, mean, rstd, rows, cols, b, e);
        else if (db)
            c->cpu->k.column_sums(db, dy, rows, cols, b, e);
#pragma omp barrier
        my_rows(rows, &b, &e);
        if (dx)
            c->cpu->k.layernorm_bwd(dx + b * cols, dy + b * cols, x + b * cols, w, mean + b, rstd + b, e - b,
                                    cols);
    }
}

void lt_cpu_op_rope(const struct lt_cpu_call *c)
{
    const struct lt_op_attr *a = &c->node->attr;
    const float *x = c->in[0], *table = c->in[2];
    const int32_t *positions = c->in[1];
    float *y = c->out[0];
    int64_t cols = c->in_cols[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_rows(c->in_rows[0], &b, &e);
        c->cpu->k.rope(y + b * cols, x + b * cols, positions + b, table, e - b, a->heads, a->head_dim,
                       a->rotary, a->inverse);
    }
}

/* Copies column blocks between one wide matrix and up to three narrow ones. */
static void move_columns(const struct lt_cpu_call *c, bool split)
{
    int64_t wide_cols = split ? c->in_cols[0] : c->out_cols[0];
    int64_t rows = split ? c->in_rows[0] : c->out_rows[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, rows *wide_cols))
    {
        int64_t b, e, at = 0;
        my_rows(rows, &b, &e);
        for (int k = 0; k < 3; k++) {
            int64_t cols = split ? c->out_cols[k] : c->in_cols[k];
            for (int64_t r = b; cols > 0 && r < e; r++) {
                float *wide = (split ? (float *)c->in[0] : (float *)c->out[0]) + r * wide_cols + at;
                float *narrow = (split ? (float *)c->out[k] : (float *)c->in[k]) + r * cols;
                memcpy(split ? narrow : wide, split ? wide : narrow, (size_t)cols * sizeof(float));
            }
            at += cols;
        }
    }
}

void lt_cpu_op_split(const struct lt_cpu_call *c)
{
    move_columns(c, true);
}

void lt_cpu_op_concat(const struct lt_cpu_call *c)
{
    move_columns(c, false);
}

void lt_cpu_op_kv_store(const struct lt_cpu_call *c)
{
    const float *k = c->in[0], *v = c->in[1];
    const int32_t *slots = c->in[2];
    float *kc = c->out[0], *vc = c->out[1];
    int64_t cols = c->in_cols[0];
    for (int64_t r = 0; r < c->in_rows[0]; r++) {
        memcpy(kc + slots[r] * cols, k + r * cols, (size_t)cols * sizeof(float));
        memcpy(vc + slots[r] * cols, v + r * cols, (size_t)cols * sizeof(float));
    }
}

void lt_cpu_op_act(const struct lt_cpu_call *c)
{
    const float *x = c->in[0];
    float *y = c->out[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_elements(c->in_rows[0] * c->in_cols[0], &b, &e);
        c->cpu->k.act_fwd(y + b, x + b, e - b, c->node->attr.act);
    }
}

void lt_cpu_op_act_bwd(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0], *x = c->in[1];
    float *dx = c->out[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_elements(c->in_rows[0] * c->in_cols[0], &b, &e);
        c->cpu->k.act_bwd(dx + b, dy + b, x + b, e - b, c->node->attr.act);
    }
}

void lt_cpu_op_glu(const struct lt_cpu_call *c)
{
    const float *gate = c->in[0], *up = c->in[1];
    float *y = c->out[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_elements(c->in_rows[0] * c->in_cols[0], &b, &e);
        c->cpu->k.glu_fwd(y + b, gate + b, up + b, e - b, c->node->attr.act);
    }
}

void lt_cpu_op_glu_bwd(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0], *gate = c->in[1], *up = c->in[2];
    float *dgate = c->out[0], *dup = c->out[1];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_elements(c->in_rows[0] * c->in_cols[0], &b, &e);
        c->cpu->k.glu_bwd(dgate + b, dup + b, dy + b, gate + b, up + b, e - b, c->node->attr.act);
    }
}

void lt_cpu_op_add(const struct lt_cpu_call *c)
{
    const float *x = c->in[0], *z = c->in[1];
    float *y = c->out[0];
#pragma omp parallel num_threads(lt_cpu_threads(c, c->in_rows[0] * c->in_cols[0]))
    {
        int64_t b, e;
        my_elements(c->in_rows[0] * c->in_cols[0], &b, &e);
        c->cpu->k.add(y + b, x + b, z + b, e - b);
    }
}

void lt_cpu_op_gather_rows(const struct lt_cpu_call *c)
{
    const float *x = c->in[0];
    const int32_t *index = c->in[1];
    float *y = c->out[0];
    int64_t cols = c->in_cols[0];
    for (int64_t r = 0; r < c->out_rows[0]; r++)
        memcpy(y + r * cols, x + index[r] * cols, (size_t)cols * sizeof(float));
}

void lt_cpu_op_scatter_rows(const struct lt_cpu_call *c)
{
    const float *dy = c->in[0];
    const int32_t *index = c->in[1];
    float *dx = c->out[0];
    int64_t cols = c->in_cols[0];
    memset(dx, 0, (size_t)(c->out_rows[0] * cols) * sizeof(float));
    for (int64_t r = 0; r < c->in_rows[0]; r++)
        memcpy(dx + index[r] * cols, dy + r * cols, (size_t)cols * sizeof(float));
}
