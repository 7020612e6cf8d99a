/* Device memory: buffers sub-allocated from blocks, and one staging buffer that the host can address. */
#ifndef LT_VULKAN_VK_MEMORY_H
#define LT_VULKAN_VK_MEMORY_H

#include "backends/vulkan/vk_device.h"

struct lt_vk_block;

struct lt_buffer {
    VkBuffer handle;
    size_t size; /* as asked for; the device's is rounded up to 256 */
    uint64_t id; /* never used again, unlike the address */
    struct lt_vk_block *block;
    VkDeviceSize at, bytes; /* its place in the block */
};

struct lt_vk_memory {
    struct lt_vk_device *device;
    struct lt_vk_block *blocks;
    uint64_t next_id;
    uint64_t allocated; /* device-local bytes held */
    uint64_t used;      /* of those, by buffers */
    uint64_t peak;      /* highest `allocated` */
    struct lt_buffer staging;
    unsigned char *host; /* the staging buffer's memory */
};

enum { LT_VK_STAGING = 4 << 20 }; /* one half for the queue, one for uploads beside it */

enum lt_status lt_vk_memory_open(struct lt_vk_memory *m, struct lt_vk_device *d, struct lt_error *err)
    LT_MUST_USE;
void lt_vk_memory_close(struct lt_vk_memory *m); /* a zeroed one is accepted */
/* Contents are undefined.  LT_ERR_NOMEM names the sizes. */
enum lt_status lt_vk_buffer_create(struct lt_vk_memory *m, size_t size, struct lt_buffer **out,
                                   struct lt_error *err) LT_MUST_USE;
/* What `allocated` would be after the staging buffer and n buffers of these sizes in this order. */
enum lt_status lt_vk_memory_for(const size_t *sizes, size_t n, uint64_t *bytes, struct lt_error *err)
    LT_MUST_USE;
void lt_vk_buffer_destroy(struct lt_vk_memory *m, struct lt_buffer *b); /* NULL is accepted */

#endif
