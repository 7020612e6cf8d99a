/* Graphs: the static op list of one model segment (embedding, one layer, head), built once, planned at a
 * capacity, run every step.
 *
 * A graph is in SSA form: every value is produced by one node or is extern.  Extern values are the graph's
 * parameters: at run time a binding says where each lies, so that one program serves every layer and every
 * micro-batch.  Builders stick on failure: after an allocation failed every call returns LT_NO_VALUE and
 * lt_graph_status() tells. */
#ifndef LT_GRAPH_GRAPH_H
#define LT_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/backend/op_attr.h"
#include "core/base/status.h"
#include "core/tensor/dtype.h"

enum lt_op {
#define LT_OP(id, name, inplace_in, inplace_out, costly) LT_OP_##id,
#include "core/backend/ops.def"
#undef LT_OP
    LT_OP_COUNT
};

struct lt_op_info {
    const char *name;
    int inplace_in, inplace_out;
    bool costly;
};
extern const struct lt_op_info lt_op_info[LT_OP_COUNT];

enum { LT_NO_VALUE = -1, LT_MAX_IN = 9, LT_MAX_OUT = 5 };

/* How many rows a value has: a live count of the step, or a constant. */
enum lt_rows { LT_ROWS_TOKENS, LT_ROWS_LABELS, LT_ROWS_CACHE, LT_ROWS_FIXED };

enum lt_storage {
    LT_STORE_ARENA, /* lives within one run of the program, placed by the planner */
    LT_STORE_TAPE, /* written by the forward program, read by the backward program of the same (layer, micro-batch) */
    LT_STORE_EXTERN /* bound at run time */
};

enum lt_extern_kind {
    LT_EXT_INPUT,        /* index: enum lt_input */
    LT_EXT_TENSOR,       /* index: tensor of the segment (weight, vector) */
    LT_EXT_ADAPTER,      /* index: 2*tensor + (0: A, 1: B) */
    LT_EXT_GRAD,         /* gradient of tensor `index` of the segment */
    LT_EXT_ADAPTER_GRAD, /* index as LT_EXT_ADAPTER */
    LT_EXT_HIDDEN,       /* index: enum lt_hidden */
    LT_EXT_OUTPUT,       /* index: enum lt_output */
    LT_EXT_CACHE,        /* index 0: keys, 1: values of this layer */
    LT_EXT_OPTIM         /* index: enum lt_optim_value */
};

enum lt_input {
    LT_IN_IDS,
    LT_IN_POSITIONS,
    LT_IN_KV_BEGIN,
    LT_IN_KV_END,
    LT_IN_ROW_KEY,
    LT_IN_LABEL_ROWS,
    LT_IN_LABELS,
    LT_IN_CACHE_SLOTS,
    LT_IN_ROPE_TABLE,
    LT_IN_ROPE_TABLE_LOCAL,
    LT_IN_COUNT
};
enum lt_hidden { LT_HIDDEN_IN, LT_HIDDEN_OUT, LT_HIDDEN_DOUT, LT_HIDDEN_DIN, LT_HIDDEN_COUNT };
enum lt_output { LT_OUT_LOSS, LT_OUT_ARGMAX, LT_OUT_LOGITS, LT_OUT_COUNT };
enum lt_optim_value {
    LT_OPTIM_PARAM,
    LT_OPTIM_GRAD,
    LT_OPTIM_NORM,
    LT_OPTIM_M,
    LT_OPTIM_V,
    LT_OPTIM_M_CODES,
    LT_OPTIM_M_ABSMAX,
    LT_OPTIM_V_CODES,
    LT_OPTIM_V_ABSMAX,
    LT_OPTIM_COUNT
};

struct lt_value {
    enum lt_dtype
        dtype; /* LT_F32, LT_I32 (row keys too) or LT_U8 (optimizer codes); tensors: see the bound weight */
    enum lt_rows rows;
    int64_t fixed_rows; /* LT_ROWS_FIXED */
    int64_t cols;
    enum lt_storage storage;
    enum lt_extern_kind ext_kind;
    int ext_index;
    int64_t ext_offset; /* first element within the bound value (optimizer groups) */
    size_t offset;      /* ARENA and TAPE: bytes, set by the planner */
};

struct lt_op_attr {
    float scale;                               /* EMBED, LORA, ATTENTION */
    float eps;                                 /* norms */
    float dropout;                             /* probability; LORA, ATTENTION, DROPOUT */
    float softcap;                             /* ATTENTION, CROSS_ENTROPY; 0: none */
    int32_t heads, kv_heads, head_dim, rotary; /* ATTENTION, ROPE (heads = of that value) */
    int32_t window;                            /* ATTENTION; 0: none */
    int32_t chunk;                             /* CROSS_ENTROPY rows at a time */
    uint32_t site;                             /* random stream within the layer */
    enum lt_activation act;
    bool inverse, plus_one, transposed, decay;
    bool step;            /* LINEAR of a pass with a few rows: as fast as the weight is read */
    bool int8;            /* LINEAR with a weight of LLM.int8(): the integer product */
    float int8_threshold; /* of its outliers; 0: none */
    /* ATTENTION, ATTENTION_BWD: LT_F32, or LT_BF16: factors may be rounded, where a unit multiplies those faster.
     * LINEAR, LINEAR_DX.  LT_F32.  LT_BF16: both factors and the product are rounded to bf16, the sum is f32.  LT_F16: both
     * factors are rounded to f16, rows of the first one in units of their own power of two; sum and product are f32. */
    enum lt_dtype compute;
};

struct lt_node {
    enum lt_op op;
    int in[LT_MAX_IN], out[LT_MAX_OUT]; /* value numbers or LT_NO_VALUE */
    struct lt_op_attr attr;
};

struct lt_graph {
    struct lt_value *values;
    size_t value_count, value_cap;
    struct lt_node *nodes;
    size_t node_count, node_cap;
    bool failed;
};

void lt_graph_init(struct lt_graph *g);
void lt_graph_deinit(struct lt_graph *g);
enum lt_status lt_graph_status(const struct lt_graph *g, struct lt_error *err) LT_MUST_USE;

/* The value of that extern, created on first use with this shape. */
int lt_graph_extern(struct lt_graph *g, enum lt_extern_kind kind, int index, enum lt_dtype dtype,
                    enum lt_rows rows, int64_t fixed_rows, int64_t cols);
/* A new arena value with the rows of `like`. */
int lt_graph_value(struct lt_graph *g, int like, int64_t cols);
int lt_graph_value_rows(struct lt_graph *g, enum lt_rows rows, int64_t fixed_rows, int64_t cols,
                        enum lt_dtype dtype);
/* Appends a node; unused inputs and outputs are LT_NO_VALUE.  Returns it for filling in. */
struct lt_node *lt_graph_node(struct lt_graph *g, enum lt_op op);

/* Same ops, attributes, shapes and externs: one compiled program serves both. */
bool lt_graph_equal(const struct lt_graph *a, const struct lt_graph *b);

#endif
