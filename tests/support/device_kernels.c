#include "tests/support/device_kernels.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "tests/support/device_op.h"
#include "tests/support/random_weight.h"

static struct device_op op_of(enum lt_op op, int64_t rows)
{
    return (struct device_op){.op = op,
                              .params = {.n_tokens = (int32_t)rows, .n_labels = 1, .loss_scale = 1}};
}

static void set_site(struct device_op *o, const struct lt_rng_site *site, uint32_t threshold)
{
    o->attr.dropout = (float)threshold * 0x1p-32f;
    o->attr.site = site->site;
    o->params.seed = site->seed;
    o->params.step = site->step;
    o->params.training = true;
}

static float *copy_of(const float *x, int64_t n)
{
    float *y = lt_must_alloc((size_t)n, sizeof *y);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

/* ---- norms ---- */

static void rmsnorm_fwd(float *y, float *rstd, const float *x, const float *w, int64_t rows, int64_t cols,
                        float eps, bool plus_one)
{
    struct device_op o = op_of(LT_OP_RMSNORM, rows);
    o.attr.eps = eps;
    o.attr.plus_one = plus_one;
    o.in[0] = device_f32(x, rows, cols);
    o.in[1] = device_fixed(w, 1, cols);
    o.out[0] = device_f32(y, rows, cols);
    o.out[1] = device_f32(rstd, rows, 1);
    device_run(&o);
}

static void rmsnorm_bwd(float *dx, const float *dy, const float *x, const float *w, const float *rstd,
                        int64_t rows, int64_t cols, bool plus_one)
{
    struct device_op o = op_of(LT_OP_RMSNORM_BWD, rows);
    o.attr.plus_one = plus_one;
    o.in[0] = device_f32(dy, rows, cols);
    o.in[1] = device_f32(x, rows, cols);
    o.in[2] = device_fixed(w, 1, cols);
    o.in[3] = device_f32(rstd, rows, 1);
    o.out[0] = device_f32(dx, rows, cols);
    device_run(&o);
}

/* Ops have no column range: the others get their old values back. */
static void keep_columns(float *kept, const float *whole, int64_t begin, int64_t end)
{
    memcpy(kept + begin, whole + begin, (size_t)(end - begin) * sizeof *kept);
}

static void rmsnorm_dw(float *dw, const float *dy, const float *x, const float *rstd, int64_t rows,
                       int64_t cols, int64_t begin, int64_t end)
{
    float *all = copy_of(dw, cols), *w = lt_must_alloc((size_t)cols, sizeof *w);
    struct device_op o = op_of(LT_OP_RMSNORM_BWD, rows);
    o.in[0] = device_f32(dy, rows, cols);
    o.in[1] = device_f32(x, rows, cols);
    o.in[2] = device_fixed(w, 1, cols);
    o.in[3] = device_f32(rstd, rows, 1);
    o.out[1] = device_fixed(all, 1, cols);
    device_run(&o);
    keep_columns(dw, all, begin, end);
    free(all);
    free(w);
}

static void layernorm_fwd(float *y, float *mean, float *rstd, const float *x, const float *w, const float *b,
                          int64_t rows, int64_t cols, float eps)
{
    struct device_op o = op_of(LT_OP_LAYERNORM, rows);
    o.attr.eps = eps;
    o.in[0] = device_f32(x, rows, cols);
    o.in[1] = device_fixed(w, 1, cols);
    o.in[2] = device_fixed(b, 1, cols);
    o.out[0] = device_f32(y, rows, cols);
    o.out[1] = device_f32(mean, rows, 1);
    o.out[2] = device_f32(rstd, rows, 1);
    device_run(&o);
}

static struct device_op layernorm_bwd_op(const float *dy, const float *x, const float *w, const float *mean,
                                         const float *rstd, int64_t rows, int64_t cols)
{
    struct device_op o = op_of(LT_OP_LAYERNORM_BWD, rows);
    o.in[0] = device_f32(dy, rows, cols);
    o.in[1] = device_f32(x, rows, cols);
    o.in[2] = device_fixed(w, 1, cols);
    o.in[3] = device_f32(mean, rows, 1);
    o.in[4] = device_f32(rstd, rows, 1);
    return o;
}

static void layernorm_bwd(float *dx, const float *dy, const float *x, const float *w, const float *mean,
                          const float *rstd, int64_t rows, int64_t cols)
{
    struct device_op o = layernorm_bwd_op(dy, x, w, mean, rstd, rows, cols);
    o.out[0] = device_f32(dx, rows, cols);
    device_run(&o);
}

static void layernorm_dw(float *dw, float *db, const float *dy, const float *x, const float *mean,
                         const float *rstd, int64_t rows, int64_t cols, int64_t begin, int64_t end)
{
    float *all_w = copy_of(dw, cols), *all_b = copy_of(db, cols), *w = lt_must_alloc((size_t)cols, sizeof *w);
    struct device_op o = layernorm_bwd_op(dy, x, w, mean, rstd, rows, cols);
    o.out[1] = device_fixed(all_w, 1, cols);
    o.out[2] = device_fixed(all_b, 1, cols);
    device_run(&o);
    keep_columns(dw, all_w, begin, end);
    keep_columns(db, all_b, begin, end);
    free(all_w);
    free(all_b);
    free(w);
}

/* ---- rope ---- */

static void rope(float *y, const float *x, const int32_t *positions, const float *table, int64_t rows,
                 int64_t heads, int64_t head_dim, int64_t rotary, bool inverse)
{
    struct device_op o = op_of(LT_OP_ROPE, rows);
    int64_t last = 0;
    for (int64_t r = 0; r < rows; r++)
        last = lt_max_i64(last, positions[r]);
    o.attr.heads = (int32_t)heads;
    o.attr.head_dim = (int32_t)head_dim;
    o.attr.rotary = (int32_t)rotary;
    o.attr.inverse = inverse;
    o.in[0] = device_f32(x, rows, heads * head_dim);
    o.in[1] = device_i32(positions, rows);
    o.in[2] = device_fixed(table, last + 1, rotary > 0 ? rotary : 1);
    o.out[0] = device_f32(y, rows, heads * head_dim);
    device_run(&o);
}

/* ---- elements: n as one row ---- */

static void act_fwd(float *y, const float *x, int64_t n, enum lt_activation act)
{
    struct device_op o = op_of(LT_OP_ACT, 1);
    o.attr.act = act;
    o.in[0] = device_f32(x, 1, n);
    o.out[0] = device_f32(y, 1, n);
    device_run(&o);
}

static void act_bwd(float *dx, const float *dy, const float *x, int64_t n, enum lt_activation act)
{
    struct device_op o = op_of(LT_OP_ACT_BWD, 1);
    o.attr.act = act;
    o.in[0] = device_f32(dy, 1, n);
    o.in[1] = device_f32(x, 1, n);
    o.out[0] = device_f32(dx, 1, n);
    device_run(&o);
}

static void glu_fwd(float *y, const float *gate, const float *up, int64_t n, enum lt_activation act)
{
    struct device_op o = op_of(LT_OP_GLU, 1);
    o.attr.act = act;
    o.in[0] = device_f32(gate, 1, n);
    o.in[1] = device_f32(up, 1, n);
    o.out[0] = device_f32(y, 1, n);
    device_run(&o);
}

static void glu_bwd(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n,
                    enum lt_activation act)
{
    struct device_op o = op_of(LT_OP_GLU_BWD, 1);
    o.attr.act = act;
    o.in[0] = device_f32(dy, 1, n);
    o.in[1] = device_f32(gate, 1, n);
    o.in[2] = device_f32(up, 1, n);
    o.out[0] = device_f32(dgate, 1, n);
    o.out[1] = device_f32(dup, 1, n);
    device_run(&o);
}

static void add(float *y, const float *a, const float *b, int64_t n)
{
    struct device_op o = op_of(LT_OP_ADD, 1);
    o.in[0] = device_f32(a, 1, n);
    o.in[1] = device_f32(b, 1, n);
    o.out[0] = device_f32(y, 1, n);
    device_run(&o);
}

/* The bias of a linear layer whose weight is the identity would test the product; a product with 0 terms is none: the
 * sum of two rows does. */
static void add_bias(float *y, const float *bias, int64_t rows, int64_t cols, int64_t ldy)
{
    for (int64_t r = 0; r < rows; r++)
        add(y + r * ldy, y + r * ldy, bias, cols);
}

static void column_sums(float *sums, const float *x, int64_t rows, int64_t cols, int64_t begin, int64_t end)
{
    float *all = copy_of(sums, cols);
    struct device_op o = op_of(LT_OP_BIAS_DB, rows);
    o.in[0] = device_f32(x, rows, cols);
    o.out[0] = device_fixed(all, 1, cols);
    device_run(&o);
    keep_columns(sums, all, begin, end);
    free(all);
}

/* keep_scale follows from the threshold. */
static void dropout(float *y, const float *x, const uint32_t *row_key, int64_t rows, int64_t cols,
                    uint32_t threshold, float keep_scale, const struct lt_rng_site *site)
{
    (void)keep_scale;
    struct device_op o = op_of(LT_OP_DROPOUT, rows);
    set_site(&o, site, threshold);
    o.in[0] = device_f32(x, rows, cols);
    o.in[1] = device_i32(row_key, rows);
    o.out[0] = device_f32(y, rows, cols);
    device_run(&o);
}

/* ---- loss: the logits are h Wᵀ with h = 1 and W = logits, so that dW is their gradient ---- */

static void cross_entropy_row(float *logits, int64_t vocab, int64_t label, float softcap, bool grad,
                              float grad_scale, float *loss, int32_t *argmax)
{
    const float one = 1.0f;
    const int32_t labels = (int32_t)label;
    const struct lt_weight w = {.format = LT_WEIGHT_F32, .rows = vocab, .cols = 1, .data = logits};
    float *scratch = lt_must_alloc((size_t)vocab, sizeof *scratch);
    float *dw = lt_must_alloc((size_t)vocab, sizeof *dw);
    struct device_op o = op_of(LT_OP_CROSS_ENTROPY, 1);
    o.attr.softcap = softcap;
    o.attr.chunk = 1;
    o.params.loss_scale = grad_scale;
    o.in[0] = device_f32(&one, 1, 1);
    o.in[1] = device_weight(&w);
    o.in[2] = device_i32(&labels, 1);
    o.out[0] = device_f32(loss, 1, 1);
    o.out[1] = device_i32(argmax, 1);
    if (grad)
        o.out[3] = device_fixed(dw, vocab, 1);
    o.out[4] = device_fixed(scratch, 1, vocab);
    device_run(&o);
    if (grad)
        memcpy(logits, dw, (size_t)vocab * sizeof *logits);
    free(scratch);
    free(dw);
}

/* ---- attention: strided blocks become dense arrays ---- */

static float *gather(const float *x, int64_t rows, int64_t cols, int64_t stride)
{
    float *y = lt_must_alloc((size_t)(rows * cols), sizeof *y);
    for (int64_t r = 0; r < rows; r++)
        memcpy(y + r * cols, x + r * stride, (size_t)cols * sizeof *y);
    return y;
}

static void scatter(float *y, float *x, int64_t rows, int64_t cols, int64_t stride)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(y + r * stride, x + r * cols, (size_t)cols * sizeof *y);
    free(x);
}

static void set_attention(struct device_op *o, float scale, float softcap, int64_t window, int64_t head_dim,
                          int64_t heads)
{
    o->attr.scale = scale;
    o->attr.softcap = softcap;
    o->attr.window = (int32_t)window;
    o->attr.head_dim = (int32_t)head_dim;
    o->attr.heads = (int32_t)heads;
    o->attr.kv_heads = 1;
}

static void attention_fwd(const struct lt_attention_block *b)
{
    struct device_op o = op_of(LT_OP_ATTENTION, b->rows);
    int64_t keys = b->kv_begin + 1, rows = b->rows, dim = b->head_dim;
    int32_t *begin = lt_must_alloc((size_t)rows, sizeof *begin);
    for (int64_t r = 0; r < rows; r++) {
        begin[r] = (int32_t)b->kv_begin;
        keys = lt_max_i64(keys, b->kv_end[r]);
    }
    float *q = gather(b->q, rows, dim, b->ldq), *k = gather(b->k, keys, dim, b->ldkv),
          *v = gather(b->v, keys, dim, b->ldkv), *y = gather(b->o, rows, dim, b->ldo),
          *lse = gather(b->lse, rows, 1, b->ldlse);
    set_attention(&o, b->scale, b->softcap, b->window, dim, 1);
    o.in[0] = device_f32(q, rows, dim);
    o.in[1] = device_fixed(k, keys, dim);
    o.in[2] = device_fixed(v, keys, dim);
    o.in[3] = device_i32(begin, rows);
    o.in[4] = device_i32(b->kv_end, rows);
    if (b->drop_threshold) {
        set_site(&o, &b->site, b->drop_threshold);
        o.in[5] = device_i32(b->row_key, rows);
    }
    o.out[0] = device_f32(y, rows, dim);
    o.out[1] = device_f32(lse, rows, 1);
    device_run(&o);
    scatter(b->o, y, rows, dim, b->ldo);
    scatter(b->lse, lse, rows, 1, b->ldlse);
    free(q);
    free(k);
    free(v);
    free(begin);
}

static void attention_bwd(const struct lt_attention_grad *a)
{
    struct device_op o = op_of(LT_OP_ATTENTION_BWD, a->rows);
    int64_t rows = a->rows, dim = a->head_dim, wide = dim * a->group;
    int32_t *begin = lt_must_alloc((size_t)rows, sizeof *begin),
            *end = lt_must_alloc((size_t)rows, sizeof *end);
    for (int64_t r = 0; r < rows; r++)
        end[r] = (int32_t)r + 1;
    float *in[] = {gather(a->d_o, rows, wide, a->ldo), gather(a->q, rows, wide, a->ldq),
                   gather(a->k, rows, dim, a->ldkv),   gather(a->v, rows, dim, a->ldkv),
                   gather(a->o, rows, wide, a->ldo),   gather(a->lse, rows, a->group, a->ldlse)};
    const int64_t cols[] = {wide, wide, dim, dim, wide, a->group};
    float *dq = gather(a->dq, rows, wide, a->ldq), *dk = gather(a->dk, rows, dim, a->ldkv),
          *dv = gather(a->dv, rows, dim, a->ldkv);
    set_attention(&o, a->scale, a->softcap, a->window, dim, a->group);
    for (int i = 0; i < 6; i++)
        o.in[i] = device_f32(in[i], rows, cols[i]);
    o.in[6] = device_i32(begin, rows);
    o.in[7] = device_i32(end, rows);
    if (a->drop_threshold) {
        set_site(&o, &a->site, a->drop_threshold);
        o.in[8] = device_i32(a->row_key, rows);
    }
    o.out[0] = device_f32(dq, rows, wide);
    o.out[1] = device_f32(dk, rows, dim);
    o.out[2] = device_f32(dv, rows, dim);
    device_run(&o);
    scatter(a->dq, dq, rows, wide, a->ldq);
    scatter(a->dk, dk, rows, dim, a->ldkv);
    scatter(a->dv, dv, rows, dim, a->ldkv);
    for (int i = 0; i < 6; i++)
        free(in[i]);
    free(begin);
    free(end);
}

/* ---- optimizers ---- */

static double sum_squares(const float *x, int64_t n)
{
    float norm = 0;
    struct device_op o = op_of(LT_OP_GRAD_NORM, 1);
    if (n == 0)
        return 0;
    o.in[0] = device_fixed(x, 1, n);
    o.out[0] = device_fixed(&norm, 1, 1);
    device_run(&o);
    return (double)norm * (double)norm;
}

/* The op clips by max_grad_norm / (norm + 1e-6). */
static struct device_op update(enum lt_op op, const float *g, int64_t n, const struct lt_optimizer_args *a,
                               float *norm)
{
    struct device_op o = op_of(op, 1);
    o.attr.decay = true;
    o.params.lr = a->lr;
    o.params.beta1 = a->beta1;
    o.params.beta2 = a->beta2;
    o.params.eps = a->eps;
    o.params.weight_decay = a->weight_decay;
    o.params.bias_correction1 = a->bias_correction1;
    o.params.sqrt_bias_correction2 = a->sqrt_bias_correction2;
    if (a->clip != 1.0f) {
        o.params.max_grad_norm = a->clip;
        *norm = 1.0f - 1e-6f;
    }
    o.in[0] = device_fixed(g, 1, n);
    o.in[1] = device_fixed(norm, 1, 1);
    return o;
}

static void adamw(float *p, float *m, float *v, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    float norm = 0;
    struct device_op o = update(LT_OP_ADAMW, g, n, a, &norm);
    o.out[0] = device_fixed(p, 1, n);
    o.out[1] = device_fixed(m, 1, n);
    o.out[2] = device_fixed(v, 1, n);
    device_run(&o);
}

static struct device_array bytes(uint8_t *data, int64_t n)
{
    return (struct device_array){.data = data, .dtype = LT_U8, .rows = 1, .cols = n, .fixed = true};
}

static void adamw8(float *p, uint8_t *m_codes, float *m_absmax, uint8_t *v_codes, float *v_absmax,
                   const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    float norm = 0;
    int64_t blocks = lt_div_up(n, LT_OPTIM_BLOCK);
    struct device_op o = update(LT_OP_ADAMW8, g, n, a, &norm);
    o.out[0] = device_fixed(p, 1, n);
    o.out[1] = bytes(m_codes, n);
    o.out[2] = device_fixed(m_absmax, 1, blocks);
    o.out[3] = bytes(v_codes, n);
    o.out[4] = device_fixed(v_absmax, 1, blocks);
    device_run(&o);
}

static void sgd(float *p, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    float norm = 0;
    struct device_op o = update(LT_OP_SGD, g, n, a, &norm);
    o.out[0] = device_fixed(p, 1, n);
    device_run(&o);
}

static void lion(float *p, float *m, const float *g, int64_t n, const struct lt_optimizer_args *a)
{
    float norm = 0;
    struct device_op o = update(LT_OP_LION, g, n, a, &norm);
    o.out[0] = device_fixed(p, 1, n);
    o.out[1] = device_fixed(m, 1, n);
    device_run(&o);
}

/* ---- weights: rows of an embedding ---- */

static void decode(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    struct lt_weight plain = *w;
    if (w->transposed) { /* its stored rows */
        plain.transposed = false;
        plain.rows = w->cols;
        plain.cols = w->rows;
    }
    int64_t first = begin / plain.cols, rows = n > 0 ? (begin + n - 1) / plain.cols - first + 1 : 0;
    if (n == 0)
        return;
    int32_t *ids = lt_must_alloc((size_t)rows, sizeof *ids);
    float *y = lt_must_alloc((size_t)(rows * plain.cols), sizeof *y);
    for (int64_t r = 0; r < rows; r++)
        ids[r] = (int32_t)(first + r);
    struct device_op o = op_of(LT_OP_EMBED, rows);
    o.attr.scale = 1;
    o.in[0] = device_i32(ids, rows);
    o.in[1] = device_weight(&plain);
    o.out[0] = device_f32(y, rows, plain.cols);
    device_run(&o);
    memcpy(dst, y + begin - first * plain.cols, (size_t)n * sizeof *dst);
    free(ids);
    free(y);
}

void lt_device_kernels_init(struct lt_cpu_kernels *k)
{
    lt_cpu_kernels_init(k, LT_CPU_REF); /* for what is no op of its own */
    k->isa = (enum lt_cpu_isa)LT_CHECK_DEVICE;
    k->rmsnorm_fwd = rmsnorm_fwd;
    k->rmsnorm_bwd = rmsnorm_bwd;
    k->rmsnorm_dw = rmsnorm_dw;
    k->layernorm_fwd = layernorm_fwd;
    k->layernorm_bwd = layernorm_bwd;
    k->layernorm_dw = layernorm_dw;
    k->rope = rope;
    k->act_fwd = act_fwd;
    k->act_bwd = act_bwd;
    k->glu_fwd = glu_fwd;
    k->glu_bwd = glu_bwd;
    k->add = add;
    k->add_bias = add_bias;
    k->column_sums = column_sums;
    k->dropout = dropout;
    k->cross_entropy_row = cross_entropy_row;
    k->attention_fwd = attention_fwd;
    k->attention_bwd = attention_bwd;
    k->sum_squares = sum_squares;
    k->adamw = adamw;
    k->adamw8 = adamw8;
    k->sgd = sgd;
    k->lion = lion;
    for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++)
        k->decode[format] = decode;
}
