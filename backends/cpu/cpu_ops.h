/* The op layer of the CPU backend: one function per op, which splits the work over threads and calls the
 * kernel table or the GEMM provider. */
#ifndef LT_BACKENDS_CPU_CPU_OPS_H
#define LT_BACKENDS_CPU_CPU_OPS_H

#include "backends/cpu/gemm.h"
#include "backends/cpu/kernels.h"
#include "core/backend/backend.h"
#include "core/base/file.h"
#include "core/graph/program.h"

struct lt_buffer {
    unsigned char *data;
    size_t size;
    bool paged;
    struct lt_file_scratch pages; /* of a paged buffer: what data points to */
};

struct lt_device_weight {
    struct lt_weight w;
};

struct lt_cpu {
    struct lt_backend base;
    struct lt_cpu_kernels k;
    struct lt_gemm_provider *gemm;
    int threads;
};

/* One op about to run: everything resolved to pointers and live row counts. */
struct lt_cpu_call {
    const struct lt_cpu *cpu;
    const struct lt_node *node;
    const struct lt_capacity *capacity;
    const struct lt_step_params *params;
    void *in[LT_MAX_IN], *out[LT_MAX_OUT];     /* NULL where absent */
    const struct lt_weight *weight[LT_MAX_IN]; /* set for inputs bound to a weight */
    int64_t in_rows[LT_MAX_IN], in_cols[LT_MAX_IN], out_rows[LT_MAX_OUT], out_cols[LT_MAX_OUT];
    unsigned char *workspace;
    /* The neighbour that this op does its part of (lt_cpu_joins), or NULL.  Of LINEAR: the LORA behind it; of LINEAR_DX:
     * the LORA_BWD before it, which has left dx out. */
    const struct lt_cpu_call *with;
};

typedef void (*lt_cpu_op_fn)(const struct lt_cpu_call *c);
extern const lt_cpu_op_fn lt_cpu_op_table[LT_OP_COUNT];

/* Are node i and the next one the product with a weight and the update by its LoRA adapter, forward or backward, of
 * the same result, which nobody else reads in between?  They run as one product then, over C once. */
bool lt_cpu_joins(const struct lt_program *p, size_t i);

/* Bytes of workspace that this op wants at capacity. */
size_t lt_cpu_op_workspace(const struct lt_cpu *cpu, const struct lt_program *p, const struct lt_node *n);

/* LINEAR with attr.step, where the weight has a kernel for it */
bool lt_cpu_linear_step_possible(const struct lt_cpu_call *c);
void lt_cpu_linear_step(const struct lt_cpu_call *c);
size_t lt_cpu_linear_step_workspace(const struct lt_cpu *cpu, int64_t cols);
/* LINEAR with an int8 weight and attr.int8 */
void lt_cpu_linear_int8(const struct lt_cpu_call *c);
size_t lt_cpu_linear_int8_workspace(int64_t rows, int64_t cols);
size_t lt_cpu_grad_norm_workspace(int64_t n); /* of GRAD_NORM over n elements */

/* Threads for an op over n elements: waking the others costs more than a small op. */
static inline int lt_cpu_threads(const struct lt_cpu_call *c, int64_t n)
{
    return n < 16384 ? 1 : c->cpu->threads;
}

/* Thread `t` of `threads` gets [*begin, *end) of n, in multiples of `grain`. */
static inline void lt_cpu_share(int64_t n, int64_t grain, int t, int threads, int64_t *begin, int64_t *end)
{
    int64_t grains = (n + grain - 1) / grain;
    *begin = grains * t / threads * grain;
    *end = grains * (t + 1) / threads * grain;
    if (*begin > n)
        *begin = n;
    if (*end > n)
        *end = n;
}

/* clang-format off */
#define LT_CPU_OPS(X) \
    X(embed) X(linear) X(lora) X(rmsnorm) X(layernorm) X(rope) X(split) X(concat) X(kv_store) \
    X(attention) X(act) X(glu) X(add) X(dropout) X(gather_rows) X(cross_entropy) X(embed_dw) \
    X(linear_dx) X(linear_dw) X(bias_db) X(lora_bwd) X(rmsnorm_bwd) X(layernorm_bwd) X(attention_bwd) \
    X(act_bwd) X(glu_bwd) X(scatter_rows) X(grad_norm) X(adamw) X(adamw8) X(sgd) X(lion)
/* clang-format on */
#define LT_DECLARE(name) void lt_cpu_op_##name(const struct lt_cpu_call *c);
LT_CPU_OPS(LT_DECLARE)
#undef LT_DECLARE

#endif
