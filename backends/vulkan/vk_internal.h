/* The parts of the Vulkan backend in one object. */
#ifndef LT_VULKAN_VK_INTERNAL_H
#define LT_VULKAN_VK_INTERNAL_H

#include "backends/vulkan/vk_ops.h"
#include "backends/vulkan/vk_transfer.h"

/* Buffers that streamed weights hold in turn. */
struct lt_vk_weight_slot {
    struct lt_buffer *data, *meta; /* meta NULL: none */
    struct lt_device_weight *holder;
    uint64_t bound; /* runs at that time */
    uint64_t order; /* when it was bound */
};

struct lt_vk {
    struct lt_backend base;
    struct lt_vk_device device;
    struct lt_vk_memory memory;
    struct lt_vk_queue queue;
    struct lt_vk_transfer transfer;
    struct lt_vk_pipelines pipelines;
    struct lt_buffer *step; /* struct lt_vk_step, for every shader */
    struct lt_vk_step now;  /* what it holds */
    bool step_known;
    struct lt_vk_weight_slot *slots;
    size_t slot_count, slot_cap;
    uint64_t runs, binds; /* so far */
};

static inline struct lt_vk *lt_vk_of(struct lt_backend *be)
{
    return (struct lt_vk *)be;
}

/* vk_run.c */
enum lt_status lt_vk_compile(struct lt_backend *be, const struct lt_program *p, struct lt_compiled **c,
                             struct lt_error *err) LT_MUST_USE;
void lt_vk_compiled_destroy(struct lt_backend *be, struct lt_compiled *c);
size_t lt_vk_workspace_bytes(struct lt_backend *be, const struct lt_compiled *c);
enum lt_status lt_vk_run(struct lt_backend *be, const struct lt_compiled *c, const struct lt_run *run,
                         struct lt_error *err) LT_MUST_USE;

/* vk_weight.c */
enum lt_status lt_vk_weight_create(struct lt_backend *be, const struct lt_weight *w,
                                   struct lt_device_weight **out, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_vk_weight_view(struct lt_backend *be, const struct lt_weight *shape, struct lt_buffer *buf,
                                 size_t offset, struct lt_device_weight **out, struct lt_error *err)
    LT_MUST_USE;
/* A weight made without pointers has no memory of its own: it takes over the buffers of an equal one that was bound
 * before the last program ran, so that streaming needs the memory of one layer. */
enum lt_status lt_vk_weight_rebind(struct lt_backend *be, struct lt_device_weight *d,
                                   const struct lt_weight *w, struct lt_error *err) LT_MUST_USE;
void lt_vk_weight_slots_destroy(struct lt_vk *vk);
void lt_vk_weight_destroy(struct lt_backend *be, struct lt_device_weight *w);

#endif
