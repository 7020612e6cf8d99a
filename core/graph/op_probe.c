#include "core/graph/op_probe.h"

#include <string.h>

#include "core/base/checked.h"
#include "core/graph/program.h"

enum {
    TOKENS = 2,
    LABELS = 1,
    WIDE = 64,
    HALF = WIDE / 2,
    RANK = 8,
    CACHE = 4,
    OPERANDS = LT_MAX_IN + LT_MAX_OUT
};

/* An operand is a letter; '-' is absent. */
static const struct operand {
    char letter;
    enum lt_rows rows;
    int64_t fixed, cols;
    enum lt_dtype dtype;
} operands[] = {
    {'x', LT_ROWS_TOKENS, 0, WIDE, LT_F32},   {'y', LT_ROWS_TOKENS, 0, HALF, LT_F32},
    {'u', LT_ROWS_TOKENS, 0, RANK, LT_F32},   {'s', LT_ROWS_TOKENS, 0, 1, LT_F32},
    {'i', LT_ROWS_TOKENS, 0, 1, LT_I32},      {'p', LT_ROWS_TOKENS, 0, 1, LT_I32}, /* 1, 2, … */
    {'h', LT_ROWS_LABELS, 0, WIDE, LT_F32},   {'n', LT_ROWS_LABELS, 0, 1, LT_F32},
    {'k', LT_ROWS_LABELS, 0, 1, LT_I32},      {'W', LT_ROWS_FIXED, WIDE, WIDE, LT_F32}, /* the weight */
    {'M', LT_ROWS_FIXED, WIDE, WIDE, LT_F32}, {'A', LT_ROWS_FIXED, RANK, WIDE, LT_F32},
    {'B', LT_ROWS_FIXED, WIDE, RANK, LT_F32}, {'v', LT_ROWS_FIXED, 1, WIDE, LT_F32},
    {'e', LT_ROWS_FIXED, 1, 1, LT_F32},       {'c', LT_ROWS_FIXED, 1, WIDE, LT_U8},
    {'R', LT_ROWS_FIXED, CACHE, WIDE, LT_F32}};

/* As the comments of ops.def say. */
static const struct {
    const char *in, *out;
} signatures[LT_OP_COUNT] = {
    [LT_OP_EMBED] = {"iW", "x"},
    [LT_OP_LINEAR] = {"xWv", "x"},
    [LT_OP_LORA] = {"xxAB", "xu"},
    [LT_OP_RMSNORM] = {"xv", "xs"},
    [LT_OP_LAYERNORM] = {"xvv", "xss"},
    [LT_OP_ROPE] = {"xiR", "x"},
    [LT_OP_SPLIT] = {"x", "yy"},
    [LT_OP_CONCAT] = {"yy", "x"},
    [LT_OP_KV_STORE] = {"xxi", "RR"},
    [LT_OP_ATTENTION] = {"xxxip", "xs"},
    [LT_OP_ACT] = {"x", "x"},
    [LT_OP_GLU] = {"xx", "x"},
    [LT_OP_ADD] = {"xx", "x"},
    [LT_OP_DROPOUT] = {"xi", "x"},
    [LT_OP_GATHER_ROWS] = {"xk", "h"},
    [LT_OP_CROSS_ENTROPY] = {"hWk", "nkh-v"},
    [LT_OP_EMBED_DW] = {"xi", "M"},
    [LT_OP_LINEAR_DX] = {"xW", "x"},
    [LT_OP_LINEAR_DW] = {"xx", "M"},
    [LT_OP_BIAS_DB] = {"x", "v"},
    [LT_OP_LORA_BWD] = {"xxuAB", "xuAB"},
    [LT_OP_RMSNORM_BWD] = {"xxvs", "xv"},
    [LT_OP_LAYERNORM_BWD] = {"xxvss", "xvv"},
    [LT_OP_ATTENTION_BWD] = {"xxxxxsip", "xxx"},
    [LT_OP_ACT_BWD] = {"xx", "x"},
    [LT_OP_GLU_BWD] = {"xxx", "xx"},
    [LT_OP_SCATTER_ROWS] = {"hk", "x"},
    [LT_OP_GRAD_NORM] = {"v", "e"},
    [LT_OP_ADAMW] = {"ve", "vvv"},
    [LT_OP_ADAMW8] = {"ve", "vcece"},
    [LT_OP_SGD] = {"ve", "v"},
    [LT_OP_LION] = {"ve", "vv"},
};

/* ---- the vocabulary ---- */

static const struct {
    const char *name;
    enum lt_weight_format format;
    bool nested;
} forms[LT_FORM_COUNT] = {
    [LT_FORM_F32] = {"f32", LT_WEIGHT_F32, false},
    [LT_FORM_F16] = {"f16", LT_WEIGHT_F16, false},
    [LT_FORM_BF16] = {"bf16", LT_WEIGHT_BF16, false},
    [LT_FORM_NF4] = {"nf4", LT_WEIGHT_NF4, false},
    [LT_FORM_NF4_DOUBLE] = {"nf4+double", LT_WEIGHT_NF4, true},
    [LT_FORM_FP4] = {"fp4", LT_WEIGHT_FP4, false},
    [LT_FORM_FP4_DOUBLE] = {"fp4+double", LT_WEIGHT_FP4, true},
    [LT_FORM_INT8] = {"int8", LT_WEIGHT_INT8, false},
};

const char *lt_weight_form_name(enum lt_weight_form form)
{
    return forms[form].name;
}

const char *lt_product_kind_name(enum lt_product_kind kind)
{
    static const char *const names[LT_PRODUCT_COUNT] = {"f32", "bf16", "f16", "int8"};
    return names[kind];
}

bool lt_op_reads_weight(enum lt_op op)
{
    return strchr(signatures[op].in, 'W') != NULL;
}

bool lt_op_variant_exists(enum lt_op op, enum lt_product_kind kind, enum lt_weight_form form)
{
    if (kind == LT_PRODUCT_INT8)
        return op == LT_OP_LINEAR && form == LT_FORM_INT8;
    return kind == LT_PRODUCT_F32 || op == LT_OP_LINEAR || op == LT_OP_LINEAR_DX;
}

/* ---- one op ---- */

/* Zeros, which every format can be. */
static struct lt_weight weight_of(enum lt_weight_form form)
{
    static const float zeros[WIDE * WIDE];
    static const uint8_t zero_codes[WIDE];
    struct lt_weight w = {.format = forms[form].format, .rows = WIDE, .cols = WIDE, .data = zeros};
    if (!lt_weight_is_quantized(&w))
        return w;
    w.blocksize = 64;
    w.code = zeros;
    if (forms[form].nested) {
        w.absmax_codes = zero_codes;
        w.nested_absmax = w.nested_code = zeros;
    } else {
        w.absmax = zeros;
    }
    return w;
}

static struct lt_op_attr attributes(enum lt_product_kind kind)
{
    static const enum lt_dtype compute[LT_PRODUCT_COUNT] = {LT_F32, LT_BF16, LT_F16, LT_F32};
    return (struct lt_op_attr){.scale = 1,
                               .eps = 1e-5f,
                               .heads = 1,
                               .kv_heads = 1,
                               .head_dim = WIDE,
                               .rotary = WIDE,
                               .chunk = LABELS,
                               .int8 = kind == LT_PRODUCT_INT8,
                               .int8_threshold = kind == LT_PRODUCT_INT8 ? 6.0f : 0.0f,
                               .compute = compute[kind]};
}

struct probe {
    struct lt_backend *be;
    struct lt_program program;
    struct lt_binding bindings[OPERANDS];
    struct lt_compiled *code;
    struct lt_buffer *workspace;
};

static int add_operand(struct lt_graph *g, char letter)
{
    const struct operand *o = operands;
    if (letter == '-')
        return LT_NO_VALUE;
    while (o->letter != letter)
        o++;
    int id = lt_graph_value_rows(g, o->rows, o->fixed, o->cols, o->dtype);
    if (id >= 0) {
        g->values[id].storage = LT_STORE_EXTERN;
        g->values[id].ext_kind = LT_EXT_OPTIM;
        g->values[id].ext_index = id;
    }
    return id;
}

static enum lt_status plan(struct probe *p, enum lt_op op, enum lt_product_kind kind, struct lt_error *err)
{
    struct lt_graph g;
    const struct lt_capacity capacity = {TOKENS, LABELS, CACHE};
    int in[LT_MAX_IN] = {0}, out[LT_MAX_OUT] = {0};
    size_t in_count = strlen(signatures[op].in), out_count = strlen(signatures[op].out);
    lt_graph_init(&g);
    for (size_t i = 0; i < in_count; i++)
        in[i] = add_operand(&g, signatures[op].in[i]);
    for (size_t i = 0; i < out_count; i++)
        out[i] = add_operand(&g, signatures[op].out[i]);
    struct lt_node *n = lt_graph_node(&g, op);
    n->attr = attributes(kind);
    memcpy(n->in, in, in_count * sizeof *in);
    memcpy(n->out, out, out_count * sizeof *out);
    enum lt_status status = lt_graph_status(&g, err);
    if (status == LT_OK)
        status = lt_program_plan(&p->program, &g, &capacity, err);
    lt_graph_deinit(&g);
    return status;
}

static enum lt_status bind_buffer(struct probe *p, int id, bool counting, struct lt_error *err)
{
    static const int32_t counts[TOKENS] = {1, 2};
    const struct lt_value *v = &p->program.graph.values[id];
    struct lt_binding *b = &p->bindings[id];
    LT_TRY(p->be->ops->buffer_create(p->be, lt_value_bytes(v, &p->program.capacity), &b->buffer, err));
    return counting ? p->be->ops->buffer_write(p->be, b->buffer, 0, counts, sizeof counts, err) : LT_OK;
}

static enum lt_status bind(struct probe *p, enum lt_op op, enum lt_weight_form form, struct lt_error *err)
{
    const struct lt_weight weight = weight_of(form);
    const struct lt_node *n = &p->program.graph.nodes[0];
    for (size_t i = 0; signatures[op].in[i]; i++) {
        char letter = signatures[op].in[i];
        if (letter == 'W')
            LT_TRY(p->be->ops->weight_create(p->be, &weight, &p->bindings[n->in[i]].weight, err));
        else
            LT_TRY(bind_buffer(p, n->in[i], letter == 'p', err));
    }
    for (size_t i = 0; signatures[op].out[i]; i++)
        if (n->out[i] >= 0)
            LT_TRY(bind_buffer(p, n->out[i], false, err));
    return LT_OK;
}

static enum lt_status run(struct probe *p, enum lt_op op, enum lt_weight_form form, struct lt_error *err)
{
    const struct lt_backend_ops *ops = p->be->ops;
    LT_TRY(ops->compile(p->be, &p->program, &p->code, err));
    if (ops->workspace_bytes(p->be, p->code) > 0)
        LT_TRY(ops->buffer_create(p->be, ops->workspace_bytes(p->be, p->code), &p->workspace, err));
    LT_TRY(bind(p, op, form, err));
    const struct lt_run args = {.bindings = p->bindings,
                                .workspace = p->workspace,
                                .params = {.n_tokens = TOKENS, .n_labels = LABELS, .loss_scale = 1}};
    LT_TRY(ops->run(p->be, p->code, &args, err));
    return ops->finish(p->be, err);
}

static void release(struct probe *p)
{
    const struct lt_backend_ops *ops = p->be->ops;
    if (p->code)
        ops->compiled_destroy(p->be, p->code);
    ops->buffer_destroy(p->be, p->workspace);
    for (int i = 0; i < OPERANDS; i++) {
        ops->weight_destroy(p->be, p->bindings[i].weight);
        ops->buffer_destroy(p->be, p->bindings[i].buffer);
    }
    lt_program_deinit(&p->program);
}

enum lt_status lt_op_probe(struct lt_backend *be, enum lt_op op, enum lt_product_kind kind,
                           enum lt_weight_form form, bool try_it, bool *supported, struct lt_error *err)
{
    struct probe p = {.be = be};
    struct lt_error why = {0};
    enum lt_status status = LT_OK;
    *supported = false;
    LT_TRY(plan(&p, op, kind, err));
    bool told = be->ops->supports(be, &p.program, &p.program.graph.nodes[0]);
    if (told && try_it)
        status = run(&p, op, form, &why);
    release(&p);
    *supported = told && status == LT_OK;
    if (status == LT_OK || status == LT_ERR_UNSUPPORTED)
        return LT_OK;
    return lt_fail(err, status, "%s", why.message);
}
