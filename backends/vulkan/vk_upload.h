/* Uploads beside the computation: on the transfer queue where the device has one, else on the queue that computes.  What
 * they write is seen by what is submitted after the flush; that nothing still reads it is the caller's business. */
#ifndef LT_VULKAN_VK_UPLOAD_H
#define LT_VULKAN_VK_UPLOAD_H

#include "backends/vulkan/vk_memory.h"

enum { LT_VK_UPLOADS = 4 }; /* submissions in flight */

struct lt_vk_upload_slot {
    VkFence fence;
    VkCommandBuffer commands;
    size_t staged; /* bytes of its share of the staging buffer in use */
    bool busy;
};

struct lt_vk_upload {
    struct lt_vk_device *device;
    struct lt_vk_memory *memory;
    VkCommandPool pool;
    struct lt_vk_upload_slot slots[LT_VK_UPLOADS];
    uint32_t slot;        /* being filled */
    bool open, unflushed; /* commands are being written; something was written since the last flush */
    uint64_t submissions, bytes;
};

enum lt_status lt_vk_upload_open(struct lt_vk_upload *u, struct lt_vk_device *d, struct lt_vk_memory *m,
                                 struct lt_error *err) LT_MUST_USE;
void lt_vk_upload_close(struct lt_vk_upload *u); /* the device is idle; a zeroed one is accepted */
/* Copies src before it returns; waits for an earlier upload when all of the staging buffer is on its way. */
enum lt_status lt_vk_upload_write(struct lt_vk_upload *u, struct lt_buffer *b, size_t offset, const void *src,
                                  size_t n, struct lt_error *err) LT_MUST_USE;
/* Submits all; the semaphore, which is not signaled, will be when it is done.  Only when u->unflushed. */
enum lt_status lt_vk_upload_flush(struct lt_vk_upload *u, VkSemaphore done, struct lt_error *err) LT_MUST_USE;

#endif
