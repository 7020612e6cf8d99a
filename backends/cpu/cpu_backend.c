#include "backends/cpu/cpu_backend.h"

#include <omp.h>
#include <string.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"

const lt_cpu_op_fn lt_cpu_op_table[LT_OP_COUNT] = {
    [LT_OP_EMBED] = lt_cpu_op_embed,
    [LT_OP_LINEAR] = lt_cpu_op_linear,
    [LT_OP_LORA] = lt_cpu_op_lora,
    [LT_OP_RMSNORM] = lt_cpu_op_rmsnorm,
    [LT_OP_LAYERNORM] = lt_cpu_op_layernorm,
    [LT_OP_ROPE] = lt_cpu_op_rope,
    [LT_OP_SPLIT] = lt_cpu_op_split,
    [LT_OP_CONCAT] = lt_cpu_op_concat,
    [LT_OP_KV_STORE] = lt_cpu_op_kv_store,
    [LT_OP_ATTENTION] = lt_cpu_op_attention,
    [LT_OP_ACT] = lt_cpu_op_act,
    [LT_OP_GLU] = lt_cpu_op_glu,
    [LT_OP_ADD] = lt_cpu_op_add,
    [LT_OP_DROPOUT] = lt_cpu_op_dropout,
    [LT_OP_GATHER_ROWS] = lt_cpu_op_gather_rows,
    [LT_OP_CROSS_ENTROPY] = lt_cpu_op_cross_entropy,
    [LT_OP_EMBED_DW] = lt_cpu_op_embed_dw,
    [LT_OP_LINEAR_DX] = lt_cpu_op_linear_dx,
    [LT_OP_LINEAR_DW] = lt_cpu_op_linear_dw,
    [LT_OP_BIAS_DB] = lt_cpu_op_bias_db,
    [LT_OP_LORA_BWD] = lt_cpu_op_lora_bwd,
    [LT_OP_RMSNORM_BWD] = lt_cpu_op_rmsnorm_bwd,
    [LT_OP_LAYERNORM_BWD] = lt_cpu_op_layernorm_bwd,
    [LT_OP_ATTENTION_BWD] = lt_cpu_op_attention_bwd,
    [LT_OP_ACT_BWD] = lt_cpu_op_act_bwd,
    [LT_OP_GLU_BWD] = lt_cpu_op_glu_bwd,
    [LT_OP_SCATTER_ROWS] = lt_cpu_op_scatter_rows,
    [LT_OP_GRAD_NORM] = lt_cpu_op_grad_norm,
    [LT_OP_ADAMW] = lt_cpu_op_adamw,
    [LT_OP_ADAMW8] = lt_cpu_op_adamw8,
    [LT_OP_SGD] = lt_cpu_op_sgd,
    [LT_OP_LION] = lt_cpu_op_lion,
};

struct lt_compiled {
    const struct lt_program *program;
    size_t workspace;
    bool *joined; /* [nodes] node and the next one run as one product */
};

static void cpu_destroy(struct lt_backend *be)
{
    struct lt_cpu *cpu = (struct lt_cpu *)be;
    if (cpu->gemm)
        cpu->gemm->destroy(cpu->gemm);
    lt_free(cpu);
}

static enum lt_status cpu_buffer_create(struct lt_backend *be, size_t size, struct lt_buffer **out,
                                        struct lt_error *err)
{
    (void)be;
    *out = NULL;
    struct lt_buffer *b = lt_alloc_zero(1, sizeof *b);
    if (b) {
        b->size = size;
        b->data = lt_alloc_pages(size);
        if (b->data) {
            *out = b;
            return LT_OK;
        }
    }
    lt_free(b);
    return lt_fail(err, LT_ERR_NOMEM, "out of memory: could not get a buffer of %zu bytes", size);
}

static enum lt_status cpu_buffer_create_paged(struct lt_backend *be, size_t size, const char *dir,
                                              struct lt_buffer **out, struct lt_error *err)
{
    (void)be;
    *out = NULL;
    struct lt_buffer *b = lt_alloc_zero(1, sizeof *b);
    if (!b)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a paged buffer");
    enum lt_status status = lt_file_scratch_open(&b->pages, dir, size, err);
    if (status != LT_OK) {
        lt_free(b);
        return status;
    }
    b->data = b->pages.data;
    b->size = size;
    b->paged = true;
    *out = b;
    return LT_OK;
}

static void cpu_buffer_destroy(struct lt_backend *be, struct lt_buffer *b)
{
    (void)be;
    if (b && b->paged)
        lt_file_scratch_close(&b->pages);
    else if (b)
        lt_free_pages(b->data, b->size);
    lt_free(b);
}

static enum lt_status check_range(const struct lt_buffer *b, size_t offset, size_t n, struct lt_error *err)
{
    if (offset > b->size || n > b->size - offset)
        return lt_fail(err, LT_ERR_INVALID, "bytes %zu to %zu are outside a buffer of %zu", offset,
                       offset + n, b->size);
    return LT_OK;
}

static enum lt_status cpu_buffer_write(struct lt_backend *be, struct lt_buffer *b, size_t offset,
                                       const void *src, size_t n, struct lt_error *err)
{
    (void)be;
    LT_TRY(check_range(b, offset, n, err));
    if (b->paged)
        return lt_file_scratch_write(&b->pages, src, n, offset, err);
    memcpy(b->data + offset, src, n);
    return LT_OK;
}

static enum lt_status cpu_buffer_read(struct lt_backend *be, struct lt_buffer *b, size_t offset, void *dst,
                                      size_t n, struct lt_error *err)
{
    (void)be;
    LT_TRY(check_range(b, offset, n, err));
    if (b->paged)
        return lt_file_scratch_read(&b->pages, dst, n, offset, err);
    memcpy(dst, b->data + offset, n);
    return LT_OK;
}

static enum lt_status cpu_finish(struct lt_backend *be, struct lt_error *err)
{
    (void)be;
    (void)err;
    return LT_OK;
}

static enum lt_status cpu_buffer_zero(struct lt_backend *be, struct lt_buffer *b, size_t offset, size_t n,
                                      struct lt_error *err)
{
    (void)be;
    LT_TRY(check_range(b, offset, n, err));
    memset(b->data + offset, 0, n);
    return b->paged ? lt_file_scratch_release(&b->pages, offset, n, err) : LT_OK;
}

static void *cpu_buffer_host(struct lt_backend *be, struct lt_buffer *b)
{
    (void)be;
    return b->data;
}

static enum lt_status new_weight(const struct lt_weight *w, struct lt_device_weight **out,
                                 struct lt_error *err)
{
    *out = lt_alloc(sizeof **out);
    if (!*out)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding a weight");
    (*out)->w = *w;
    return LT_OK;
}

static enum lt_status cpu_weight_create(struct lt_backend *be, const struct lt_weight *w,
                                        struct lt_device_weight **out, struct lt_error *err)
{
    (void)be;
    return new_weight(w, out, err);
}

static enum lt_status cpu_weight_view(struct lt_backend *be, const struct lt_weight *shape,
                                      struct lt_buffer *buf, size_t offset, struct lt_device_weight **out,
                                      struct lt_error *err)
{
    (void)be;
    struct lt_weight w = *shape;
    LT_TRY(check_range(buf, offset, (size_t)(w.rows * w.cols) * sizeof(float), err));
    w.data = buf->data + offset;
    return new_weight(&w, out, err);
}

static enum lt_status cpu_weight_rebind(struct lt_backend *be, struct lt_device_weight *dw,
                                        const struct lt_weight *w, struct lt_error *err)
{
    (void)be;
    (void)err;
    dw->w = *w;
    return LT_OK;
}

static void cpu_weight_destroy(struct lt_backend *be, struct lt_device_weight *w)
{
    (void)be;
    lt_free(w);
}

static bool cpu_supports(struct lt_backend *be, const struct lt_program *p, const struct lt_node *n)
{
    (void)be;
    (void)p;
    return lt_cpu_op_table[n->op] != NULL && n->attr.compute != LT_F16;
}

static enum lt_status cpu_compile(struct lt_backend *be, const struct lt_program *p, struct lt_compiled **out,
                                  struct lt_error *err)
{
    struct lt_compiled *c = lt_alloc_zero(1, sizeof *c);
    if (!c)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling a program");
    c->program = p;
    c->joined = lt_alloc_zero(p->graph.node_count + 1, sizeof *c->joined);
    if (!c->joined) {
        lt_free(c);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling a program");
    }
    for (size_t i = 0; i < p->graph.node_count; i++) {
        c->joined[i] = lt_cpu_joins(p, i);
        size_t w = lt_cpu_op_workspace((const struct lt_cpu *)be, p, &p->graph.nodes[i]);
        if (w > c->workspace)
            c->workspace = w;
    }
    *out = c;
    return LT_OK;
}

static void cpu_compiled_destroy(struct lt_backend *be, struct lt_compiled *c)
{
    (void)be;
    if (c)
        lt_free(c->joined);
    lt_free(c);
}

static size_t cpu_workspace_bytes(struct lt_backend *be, const struct lt_compiled *c)
{
    (void)be;
    return c->workspace;
}

static int64_t live_rows(const struct lt_value *v, const struct lt_capacity *cap,
                         const struct lt_step_params *params)
{
    if (v->rows == LT_ROWS_TOKENS)
        return params->n_tokens;
    return v->rows == LT_ROWS_LABELS ? params->n_labels : lt_value_capacity_rows(v, cap);
}

static size_t extern_offset(const struct lt_value *v)
{
    return (size_t)v->ext_offset * (lt_dtype_bits(v->dtype) / 8);
}

static void *resolve(const struct lt_run *run, const struct lt_value *v, int number)
{
    if (v->storage == LT_STORE_ARENA)
        return run->arena->data + v->offset;
    if (v->storage == LT_STORE_TAPE)
        return run->tape->data + run->tape_offset + v->offset;
    const struct lt_binding *b = &run->bindings[number];
    return b->weight ? NULL : b->buffer->data + b->offset + extern_offset(v);
}

static void fill_call(struct lt_cpu_call *c, const struct lt_program *p, const struct lt_node *n,
                      const struct lt_run *run)
{
    c->node = n;
    for (int k = 0; k < LT_MAX_IN; k++) {
        c->in[k] = NULL;
        c->weight[k] = NULL;
        c->in_rows[k] = c->in_cols[k] = 0;
        if (n->in[k] < 0)
            continue;
        const struct lt_value *v = &p->graph.values[n->in[k]];
        c->in[k] = resolve(run, v, n->in[k]);
        if (v->storage == LT_STORE_EXTERN && run->bindings[n->in[k]].weight)
            c->weight[k] = &run->bindings[n->in[k]].weight->w;
        c->in_rows[k] = live_rows(v, &p->capacity, &run->params);
        c->in_cols[k] = v->cols;
    }
    for (int k = 0; k < LT_MAX_OUT; k++) {
        c->out[k] = NULL;
        c->out_rows[k] = c->out_cols[k] = 0;
        if (n->out[k] < 0)
            continue;
        const struct lt_value *v = &p->graph.values[n->out[k]];
        c->out[k] = resolve(run, v, n->out[k]);
        c->out_rows[k] = live_rows(v, &p->capacity, &run->params);
        c->out_cols[k] = v->cols;
    }
}

/* Node i, alone or as its part of a joined pair. */
static void run_node(struct lt_cpu_call *c, const struct lt_compiled *code, size_t i,
                     const struct lt_run *run)
{
    const struct lt_program *p = code->program;
    const struct lt_node *n = &p->graph.nodes[i];
    const bool first = code->joined[i], second = i > 0 && code->joined[i - 1];
    struct lt_cpu_call other = *c;
    fill_call(c, p, n, run);
    c->with = NULL;
    if (second && n->op == LT_OP_LORA)
        return; /* LINEAR has done it */
    if (first && n->op == LT_OP_LORA_BWD)
        c->out[0] = NULL; /* LINEAR_DX will do it */
    if (first && n->op == LT_OP_LINEAR) {
        fill_call(&other, p, n + 1, run);
        c->with = &other;
    }
    if (second && n->op == LT_OP_LINEAR_DX) {
        fill_call(&other, p, n - 1, run);
        c->with = &other;
    }
    lt_cpu_op_table[n->op](c);
}

/* The pages of paged buffers that node number i writes. */
enum page_move { PAGES_PREFETCH, PAGES_TAKE, PAGES_RELEASE };

static enum lt_status move_pages(const struct lt_program *p, size_t i, const struct lt_run *run,
                                 enum page_move move, struct lt_error *err)
{
    for (int k = 0; i < p->graph.node_count && k < LT_MAX_OUT; k++) {
        int number = p->graph.nodes[i].out[k];
        const struct lt_value *v = number >= 0 ? &p->graph.values[number] : NULL;
        const struct lt_binding *b = v && v->storage == LT_STORE_EXTERN ? &run->bindings[number] : NULL;
        if (!b || !b->buffer || !b->buffer->paged)
            continue;
        size_t at = b->offset + extern_offset(v), n = lt_value_bytes(v, &p->capacity);
        if (move == PAGES_PREFETCH)
            lt_file_scratch_prefetch(&b->buffer->pages, at, n);
        else
            LT_TRY(move == PAGES_TAKE ? lt_file_scratch_take(&b->buffer->pages, at, n, err)
                                      : lt_file_scratch_release(&b->buffer->pages, at, n, err));
    }
    return LT_OK;
}

static enum lt_status cpu_run(struct lt_backend *be, const struct lt_compiled *code, const struct lt_run *run,
                              struct lt_error *err)
{
    const struct lt_program *p = code->program;
    if (run->params.n_tokens > p->capacity.tokens || run->params.n_labels > p->capacity.labels)
        return lt_fail(err, LT_ERR_INVALID,
                       "a batch of %d tokens and %d labels is above the planned %lld and %lld",
                       run->params.n_tokens, run->params.n_labels, (long long)p->capacity.tokens,
                       (long long)p->capacity.labels);
    struct lt_cpu_call c = {.cpu = (const struct lt_cpu *)be,
                            .capacity = &p->capacity,
                            .params = &run->params,
                            .workspace = run->workspace ? run->workspace->data : NULL};
    struct lt_op_time *times = be->op_times;
    for (size_t i = 0; i < p->graph.node_count; i++) {
        enum lt_op op = p->graph.nodes[i].op;
        double start = times ? lt_clock_seconds() : 0;
        LT_TRY(move_pages(p, i, run, PAGES_TAKE, err));
        LT_TRY(move_pages(p, i + 1, run, PAGES_PREFETCH, err));
        run_node(&c, code, i, run);
        if (times) {
            times[op].seconds += lt_clock_seconds() - start;
            times[op].calls++;
        }
        LT_TRY(move_pages(p, i, run, PAGES_RELEASE, err));
    }
    return LT_OK;
}

static const struct lt_backend_ops cpu_ops = {
    .destroy = cpu_destroy,
    .buffer_create = cpu_buffer_create,
    .buffer_create_paged = cpu_buffer_create_paged,
    .buffer_destroy = cpu_buffer_destroy,
    .buffer_write = cpu_buffer_write,
    .buffer_read = cpu_buffer_read,
    .buffer_read_later = cpu_buffer_read,
    .finish = cpu_finish,
    .buffer_zero = cpu_buffer_zero,
    .buffer_host = cpu_buffer_host,
    .weight_create = cpu_weight_create,
    .weight_view = cpu_weight_view,
    .weight_rebind = cpu_weight_rebind,
    .weight_destroy = cpu_weight_destroy,
    .supports = cpu_supports,
    .compile = cpu_compile,
    .compiled_destroy = cpu_compiled_destroy,
    .workspace_bytes = cpu_workspace_bytes,
    .run = cpu_run,
};

enum lt_status lt_cpu_backend_create(struct lt_backend **be, int threads, const char *isa, const char *gemm,
                                     struct lt_error *err)
{
    *be = NULL;
    enum lt_cpu_isa level;
    if (!lt_cpu_isa_detect(&level, isa))
        return lt_fail(err, LT_ERR_INVALID,
                       "LT_CPU=%s is not an instruction set of this processor: "
                       "use ref, avx2, avx512, avx512bf16, amx, neon or neonbf16",
                       isa);
    struct lt_cpu *cpu = lt_alloc_zero(1, sizeof *cpu);
    if (!cpu)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the CPU backend");
    cpu->base.ops = &cpu_ops;
    cpu->base.name = "cpu";
    cpu->threads = threads > 0 ? threads : lt_cpu_count();
    omp_set_dynamic(0);
    lt_cpu_kernels_init(&cpu->k, level);
    enum lt_status status = lt_gemm_create(&cpu->gemm, gemm, &cpu->k, cpu->threads, err);
    if (status != LT_OK) {
        cpu_destroy(&cpu->base);
        return status;
    }
    cpu->base.bf16_unit = cpu->gemm->bf16_unit;
    cpu->base.fixed_bytes = cpu->gemm->workspace_bytes;
    lt_snprintf(cpu->base.description, sizeof cpu->base.description, "CPU, %s, %s GEMM, %d thread%s",
                lt_cpu_isa_name(level), cpu->gemm->name, cpu->threads, cpu->threads == 1 ? "" : "s");
    *be = &cpu->base;
    return LT_OK;
}
