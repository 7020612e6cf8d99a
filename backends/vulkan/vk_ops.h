/* The op layer of the Vulkan backend: one function an op, which records the dispatches of its shaders. */
#ifndef LT_VULKAN_VK_OPS_H
#define LT_VULKAN_VK_OPS_H

#include "backends/vulkan/vk_record.h"
#include "core/backend/backend.h"
#include "core/graph/program.h"

/* A weight on the device.  `data` holds codes or elements as in struct lt_weight; a quantized weight's scales are
 * words of `meta`: the code table [16], then when nested nested_code [256], nested_offset and nested_absmax,
 * then absmax (f32, or bytes when nested); INT8 has its row scales only. */
struct lt_device_weight {
    enum lt_weight_format format;
    bool transposed, nested, view; /* view: data is somebody else's buffer */
    int64_t rows, cols;            /* logical */
    int32_t blocksize;
    uint32_t nested_absmax_at, absmax_at; /* words of meta */
    struct lt_vk_ref data, meta;
    bool streamed; /* its buffers come and go: lt_vk_weight_rebind() */
    bool in_use;   /* programs may have been submitted that read it */
};

struct lt_vk_call {
    struct lt_vk_recorder *rec;
    const struct lt_node *node;
    const struct lt_capacity *capacity;
    struct lt_vk_ref in[LT_MAX_IN], out[LT_MAX_OUT]; /* buffer NULL: absent, or a weight */
    const struct lt_device_weight *weight[LT_MAX_IN];
    int64_t in_rows[LT_MAX_IN], in_cols[LT_MAX_IN], out_rows[LT_MAX_OUT],
        out_cols[LT_MAX_OUT]; /* at capacity */
    enum lt_vk_rows in_kind[LT_MAX_IN], out_kind[LT_MAX_OUT];
    struct lt_vk_ref workspace;
    uint32_t site; /* of the random stream */
    bool training;
};

typedef void (*lt_vk_op_fn)(const struct lt_vk_call *c);
extern const lt_vk_op_fn lt_vk_op_table[LT_OP_COUNT]; /* NULL: not on this device */

/* Bytes of workspace that this op wants at capacity. */
size_t lt_vk_op_workspace(const struct lt_program *p, const struct lt_node *n);

/* ---- for op functions ---- */

/* Row r of the value at in[k] or out[k], for a dispatch whose rows are that value's. */
static inline struct lt_vk_arg lt_vk_in_rows(const struct lt_vk_call *c, int k)
{
    return (struct lt_vk_arg){c->in[k], LT_VK_READ, (size_t)c->in_cols[k] * sizeof(float)};
}
static inline struct lt_vk_arg lt_vk_out_rows(const struct lt_vk_call *c, int k, enum lt_vk_access access)
{
    return (struct lt_vk_arg){c->out[k], access, (size_t)c->out_cols[k] * sizeof(float)};
}
/* The whole of a value, the same for every row. */
static inline struct lt_vk_arg lt_vk_whole(struct lt_vk_ref ref, enum lt_vk_access access)
{
    return (struct lt_vk_arg){ref, access, 0};
}

/* Of the ops in vk_ops_linear.c; 0 for others. */
size_t lt_vk_linear_workspace(const struct lt_program *p, const struct lt_node *n);
/* Of grad_norm over n elements. */
size_t lt_vk_grad_norm_workspace(int64_t n);
/* Of attention_bwd. */
size_t lt_vk_attention_bwd_workspace(int64_t tokens, int64_t heads);
/* Of cross_entropy. */
size_t lt_vk_cross_entropy_workspace(const struct lt_program *p, const struct lt_node *n);

/* clang-format off */
#define LT_VK_OPS(X) \
    X(act) X(act_bwd) X(add) X(dropout) X(linear) X(linear_dx) X(linear_dw) X(lora) X(lora_bwd) X(embed) \
    X(embed_dw) X(rmsnorm) X(rmsnorm_bwd) X(layernorm) X(layernorm_bwd) X(bias_db) X(rope) X(split) X(concat) \
    X(kv_store) X(gather_rows) X(scatter_rows) X(glu) X(glu_bwd) \
    X(grad_norm) X(adamw) X(adamw8) X(sgd) X(lion) \
    X(attention) X(attention_bwd) \
    X(cross_entropy)
/* clang-format on */
#define LT_DECLARE(name) void lt_vk_op_##name(const struct lt_vk_call *c);
LT_VK_OPS(LT_DECLARE)
#undef LT_DECLARE

#endif
