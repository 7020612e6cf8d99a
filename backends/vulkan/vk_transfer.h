/* Uploads on the queue that only copies (struct lt_vk_device, `transfer`): while the device takes one half of the staging
 * buffer, the host fills the other. */
#ifndef LT_VULKAN_VK_TRANSFER_H
#define LT_VULKAN_VK_TRANSFER_H

#include "backends/vulkan/vk_queue.h"

enum { LT_VK_TRANSFERS = 2 };

struct lt_vk_transfer {
    struct lt_vk_device *device;
    VkCommandPool pool;
    VkCommandBuffer commands[LT_VK_TRANSFERS];
    VkFence fences[LT_VK_TRANSFERS];
    bool busy[LT_VK_TRANSFERS];
};

/* Does nothing on a device without such a queue. */
enum lt_status lt_vk_transfer_open(struct lt_vk_transfer *t, struct lt_vk_device *d, struct lt_error *err)
    LT_MUST_USE;
void lt_vk_transfer_close(struct lt_vk_transfer *t); /* a zeroed one is accepted */
/* n bytes to a buffer, by q where there is no other queue or little to copy.  Nothing submitted before may still use the
 * buffer; what is submitted to q afterwards sees the bytes. */
enum lt_status lt_vk_transfer_write(struct lt_vk_transfer *t, struct lt_vk_queue *q, struct lt_buffer *b,
                                    size_t offset, const void *src, size_t n, struct lt_error *err)
    LT_MUST_USE;

#endif
