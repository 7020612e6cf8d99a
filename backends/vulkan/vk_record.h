/* Recording: dispatches with their buffers become command buffers that can be submitted again and again.  The live
 * counts of a step, learning rate, seed and loss scale are read from a small buffer (struct lt_vk_step), so a recording
 * stays valid from step to step; groups are dispatched for the capacity and leave early above the live count.
 *
 * Errors stick in the recorder, so that op functions need not check every call. */
#ifndef LT_VULKAN_VK_RECORD_H
#define LT_VULKAN_VK_RECORD_H

#include <stddef.h>

#include "backends/vulkan/vk_pipeline.h"
#include "backends/vulkan/vk_queue.h"

/* Bytes [offset, offset + size) of a buffer; absent when buffer is NULL. */
struct lt_vk_ref {
    struct lt_buffer *buffer;
    size_t offset, size;
};

static inline struct lt_vk_ref lt_vk_slice(struct lt_vk_ref r, size_t offset, size_t size)
{
    return (struct lt_vk_ref){r.buffer, r.offset + offset, size};
}

enum lt_vk_access { LT_VK_READ = 1, LT_VK_WRITE = 2, LT_VK_READ_WRITE = 3 };

/* One buffer of a dispatch.  row_bytes > 0: row r of the dispatch lies at ref.offset + r * row_bytes, and a dispatch
 * too large for one binding is cut into several by rows (a shader that needs the number of a row adds pc.row0); the last row
 * may be short. */
struct lt_vk_arg {
    struct lt_vk_ref ref;
    enum lt_vk_access access;
    size_t row_bytes;
};

/* What the rows of a dispatch are: the shader leaves rows above the live count alone. */
enum lt_vk_rows { LT_VK_ROWS_FIXED, LT_VK_ROWS_TOKENS, LT_VK_ROWS_LABELS };

enum { LT_VK_ARGS = LT_VK_BINDINGS - 1, LT_VK_OP_PUSH = LT_VK_PUSH_BYTES - 24, LT_VK_MAX_GROUPS = 16384 };

/* args[i] is binding 1 + i of the shader; binding 0 is the step.  The pushed constants follow the common ones of
 * shaders/op.glsl. */
struct lt_vk_dispatch {
    struct lt_vk_pipeline_key key;
    struct lt_vk_arg args[LT_VK_ARGS];
    const void *push;
    size_t push_bytes;
    int64_t rows; /* at capacity */
    enum lt_vk_rows kind;
    int64_t row0;     /* number of the first row, against which the live count is held */
    int64_t max_rows; /* of one dispatch, where all rows would take too long for one; 0: all */
    /* Groups along x: one for so many rows, at most LT_VK_MAX_GROUPS, over which the shader strides.  0: `groups`
     * says it. */
    int64_t rows_per_group;
    uint32_t groups[3]; /* y and z always */
    double work;        /* operations, an estimate */
};

/* Read by every shader: shaders/op.glsl declares the same. */
struct lt_vk_step {
    uint32_t n_tokens, n_labels;
    float loss_scale, max_grad_norm;
    uint32_t seed_lo, seed_hi, step;
    /* optimizers, each rounded once from double */
    float lr, weight_decay, keep;      /* keep = 1 - lr * weight_decay */
    float beta1, rest1, beta2, rest2;  /* rest = 1 - beta */
    float adamw_step, correction, eps; /* lr / bias_correction1, sqrt_bias_correction2 */
    float adamw8_step, adamw8_eps;     /* lr * sqrt_bias_correction2 / bias_correction1, … * eps */
};

/* One command buffer of a recording. */
struct lt_vk_piece {
    VkCommandBuffer commands;
    uint64_t work;
    const char *op; /* the last one in it */
};

struct lt_vk_recording {
    struct lt_vk_piece *pieces;
    size_t count, cap;
    VkDescriptorPool *pools;
    size_t pool_count, pool_cap;
    uint32_t dispatches;
};

struct lt_vk_touched {
    uint64_t buffer;
    size_t begin, end;
    bool written;
};

struct lt_vk_recorder {
    struct lt_vk_device *device;
    struct lt_vk_pipelines *pipelines;
    struct lt_vk_queue *queue;
    struct lt_buffer *step;
    struct lt_vk_recording *out;
    const char *op; /* being recorded */
    bool looking;   /* nothing is recorded: pipelines are noted (lt_vk_pipeline_want) */
    enum lt_status status;
    struct lt_error error;
    VkCommandBuffer commands;         /* being written, or NULL */
    double work;                      /* in it */
    uint32_t sets_left;               /* in the newest pool */
    struct lt_vk_touched touched[64]; /* since the last barrier */
    size_t touched_count;
};

void lt_vk_dispatch(struct lt_vk_recorder *r, const struct lt_vk_dispatch *d);
/* The op cannot be run on this device: one sentence. */
void lt_vk_refuse(struct lt_vk_recorder *r, const char *fmt, ...) LT_PRINTF(2, 3);
/* Ends the recording; on failure it is released. */
enum lt_status lt_vk_record_end(struct lt_vk_recorder *r, struct lt_error *err) LT_MUST_USE;
void lt_vk_recording_release(struct lt_vk_queue *q, struct lt_vk_recording *rec);

#endif
