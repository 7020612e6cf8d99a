/* Work for the device in order: small commands written on the way and recorded command buffers, cut into bounded
 * submissions.  Everything is ordered by barriers at the start of each command buffer. */
#ifndef LT_VULKAN_VK_QUEUE_H
#define LT_VULKAN_VK_QUEUE_H

#include "backends/vulkan/vk_upload.h"

enum { LT_VK_IN_FLIGHT = 4, LT_VK_PENDING = 64, LT_VK_FETCHES = 32 };

/* Since the backend was made. */
struct lt_vk_counters {
    uint64_t submissions, dispatches, bytes_up, bytes_down, waits;
};

/* Bytes of the staging buffer that go to the host when a submission is done. */
struct lt_vk_fetch {
    const unsigned char *from;
    void *to;
    size_t n;
};

/* One submission: its fence, the command buffers for the small commands in it, and its share of the staging buffer. */
struct lt_vk_slot {
    VkFence fence;
    VkSemaphore uploaded; /* what was uploaded before it, when it waits for that */
    uint64_t number;      /* of the submission */
    VkCommandBuffer commands[LT_VK_PENDING];
    uint32_t made, taken; /* command buffers of its own */
    size_t staged;        /* bytes of its share in use */
    struct lt_vk_fetch fetches[LT_VK_FETCHES];
    uint32_t fetch_count;
    bool busy;
};

struct lt_vk_queue {
    struct lt_vk_device *device;
    struct lt_vk_memory *memory;
    VkCommandPool pool;
    struct lt_vk_slot slots[LT_VK_IN_FLIGHT];
    uint32_t slot; /* being filled */
    VkCommandBuffer pending[LT_VK_PENDING];
    uint32_t pending_count;
    VkCommandBuffer open; /* small commands being written, or NULL */
    uint64_t work;        /* estimated operations among the pending */
    const char *op;       /* what was enqueued last, for errors */
    struct lt_vk_counters counters;
    struct lt_vk_upload upload; /* every submission sees what was uploaded before it */
};

enum lt_status lt_vk_queue_open(struct lt_vk_queue *q, struct lt_vk_device *d, struct lt_vk_memory *m,
                                struct lt_error *err) LT_MUST_USE;
void lt_vk_queue_close(struct lt_vk_queue *q); /* waits first; a zeroed one is accepted */

/* Appends a recorded command buffer; `work` in operations. */
enum lt_status lt_vk_queue_append(struct lt_vk_queue *q, VkCommandBuffer commands, uint64_t work,
                                  const char *op, struct lt_error *err) LT_MUST_USE;
/* Counted when there was something to wait for. */
enum lt_status lt_vk_queue_wait(struct lt_vk_queue *q, struct lt_error *err) LT_MUST_USE;
/* Submits what was appended; *number: of the last submission. */
enum lt_status lt_vk_queue_submit(struct lt_vk_queue *q, uint64_t *number, struct lt_error *err) LT_MUST_USE;
/* Waits for that submission and those before it, while later ones go on. */
enum lt_status lt_vk_queue_wait_for(struct lt_vk_queue *q, uint64_t number, struct lt_error *err) LT_MUST_USE;

/* Ordered with everything appended.  Write copies src before it returns.  What is read is in dst after the next
 * lt_vk_queue_wait(), or before; after a failure of that nothing is on its way any more. */
enum lt_status lt_vk_queue_write(struct lt_vk_queue *q, struct lt_buffer *b, size_t offset, const void *src,
                                 size_t n, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_vk_queue_read(struct lt_vk_queue *q, struct lt_buffer *b, size_t offset, void *dst,
                                size_t n, struct lt_error *err) LT_MUST_USE;
/* offset and n in multiples of 4, or up to the end of the buffer. */
enum lt_status lt_vk_queue_zero(struct lt_vk_queue *q, struct lt_buffer *b, size_t offset, size_t n,
                                struct lt_error *err) LT_MUST_USE;

/* Between everything before and everything after, in transfers and shaders. */
void lt_vk_full_barrier(struct lt_vk_device *d, VkCommandBuffer commands);

#endif
