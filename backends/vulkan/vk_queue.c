#include "backends/vulkan/vk_queue.h"

#include <string.h>

#include "core/base/checked.h"

/* A submission ends above this much estimated work: a quarter of a second at 0.4 Tflop/s, far from the two seconds
 * after which a display driver resets a GPU. */
static const uint64_t submission_work = 100u * 1000000000ull;
enum {
    STAGING_ALIGN = 64,
    INLINE_BYTES = 65536,                       /* the most that vkCmdUpdateBuffer takes */
    SHARE = LT_VK_STAGING / 2 / LT_VK_IN_FLIGHT /* of the staging buffer, for a submission */
};

void lt_vk_full_barrier(struct lt_vk_device *d, VkCommandBuffer commands)
{
    const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    const VkMemoryBarrier barrier = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                         VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT};
    d->api.CmdPipelineBarrier(commands, stages, stages, 0, 1, &barrier, 0, NULL, 0, NULL);
}

enum lt_status lt_vk_queue_open(struct lt_vk_queue *q, struct lt_vk_device *d, struct lt_vk_memory *m,
                                struct lt_error *err)
{
    memset(q, 0, sizeof *q);
    q->device = d;
    q->memory = m;
    const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                          .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                          .queueFamilyIndex = d->queue_family};
    LT_TRY(lt_vk_check(d->api.CreateCommandPool(d->device, &pool, NULL, &q->pool), "creating a command pool",
                       err));
    for (int i = 0; i < LT_VK_IN_FLIGHT; i++) {
        const VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        const VkSemaphoreCreateInfo semaphore = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO};
        LT_TRY(lt_vk_check(d->api.CreateFence(d->device, &fence, NULL, &q->slots[i].fence),
                           "creating a fence", err));
        LT_TRY(lt_vk_check(d->api.CreateSemaphore(d->device, &semaphore, NULL, &q->slots[i].uploaded),
                           "creating a semaphore", err));
    }
    return lt_vk_upload_open(&q->upload, d, m, err);
}

void lt_vk_queue_close(struct lt_vk_queue *q)
{
    struct lt_vk_device *d = q->device;
    if (!d || !d->device)
        return;
    d->api.DeviceWaitIdle(d->device);
    lt_vk_upload_close(&q->upload);
    for (int i = 0; i < LT_VK_IN_FLIGHT; i++) {
        if (q->slots[i].fence)
            d->api.DestroyFence(d->device, q->slots[i].fence, NULL);
        if (q->slots[i].uploaded)
            d->api.DestroySemaphore(d->device, q->slots[i].uploaded, NULL);
    }
    if (q->pool)
        d->api.DestroyCommandPool(d->device, q->pool, NULL);
    memset(q, 0, sizeof *q);
}

/* ---- submissions ---- */

static enum lt_status failed_at(const struct lt_vk_queue *q, VkResult result, const char *doing,
                                struct lt_error *err)
{
    enum lt_status status = lt_vk_check(result, doing, err);
    if (status != LT_OK && q->device->debug && q->op)
        return lt_fail_prefix(err, status, "op %s", q->op);
    return status;
}

/* What the submission read goes where it was wanted. */
static enum lt_status slot_wait(struct lt_vk_queue *q, struct lt_vk_slot *s, struct lt_error *err)
{
    struct lt_vk_device *d = q->device;
    uint32_t fetches = s->fetch_count;
    bool busy = s->busy;
    s->taken = s->fetch_count = 0;
    s->staged = 0;
    s->busy = false;
    if (!busy)
        return LT_OK;
    LT_TRY(failed_at(q, d->api.WaitForFences(d->device, 1, &s->fence, VK_TRUE, UINT64_MAX),
                     "waiting for the device", err));
    for (uint32_t i = 0; i < fetches; i++)
        memcpy(s->fetches[i].to, s->fetches[i].from, s->fetches[i].n);
    return lt_vk_check(d->api.ResetFences(d->device, 1, &s->fence), "resetting a fence", err);
}

/* Ends the small commands and puts them behind what is pending. */
static enum lt_status close_commands(struct lt_vk_queue *q, struct lt_error *err)
{
    if (!q->open)
        return LT_OK;
    VkCommandBuffer commands = q->open;
    q->open = NULL;
    q->pending[q->pending_count++] = commands;
    return lt_vk_check(q->device->api.EndCommandBuffer(commands), "writing commands", err);
}

static enum lt_status submit(struct lt_vk_queue *q, struct lt_error *err)
{
    LT_TRY(close_commands(q, err));
    if (q->pending_count == 0)
        return LT_OK;
    struct lt_vk_slot *s = &q->slots[q->slot];
    const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    const VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                               .waitSemaphoreCount = q->upload.unflushed ? 1 : 0,
                               .pWaitSemaphores = &s->uploaded,
                               .pWaitDstStageMask = &stages,
                               .commandBufferCount = q->pending_count,
                               .pCommandBuffers = q->pending};
    q->pending_count = 0;
    q->work = 0;
    s->number = ++q->counters.submissions;
    if (q->upload.unflushed)
        LT_TRY(lt_vk_upload_flush(&q->upload, s->uploaded, err));
    LT_TRY(failed_at(q, q->device->api.QueueSubmit(q->device->queue, 1, &info, s->fence),
                     "submitting work to the device", err));
    s->busy = true;
    q->slot = (q->slot + 1) % LT_VK_IN_FLIGHT;
    return slot_wait(q, &q->slots[q->slot], err);
}

enum lt_status lt_vk_queue_submit(struct lt_vk_queue *q, uint64_t *number, struct lt_error *err)
{
    LT_TRY(submit(q, err));
    *number = q->counters.submissions;
    return LT_OK;
}

enum lt_status lt_vk_queue_wait_for(struct lt_vk_queue *q, uint64_t number, struct lt_error *err)
{
    for (uint32_t i = 0; i < LT_VK_IN_FLIGHT; i++) {
        struct lt_vk_slot *s = &q->slots[(q->slot + i) % LT_VK_IN_FLIGHT];
        if (s->busy && s->number <= number)
            LT_TRY(slot_wait(q, s, err));
    }
    return LT_OK;
}

enum lt_status lt_vk_queue_wait(struct lt_vk_queue *q, struct lt_error *err)
{
    enum lt_status status = submit(q, err);
    bool busy = false;
    for (uint32_t i = 0; i < LT_VK_IN_FLIGHT; i++) {
        struct lt_vk_slot *s = &q->slots[(q->slot + i) % LT_VK_IN_FLIGHT];
        busy = busy || s->busy;
        enum lt_status done = slot_wait(q, s, status == LT_OK ? err : NULL);
        status = status == LT_OK ? done : status;
    }
    q->counters.waits += busy;
    return status == LT_OK ? lt_vk_device_messages(q->device, err) : status;
}

enum lt_status lt_vk_queue_append(struct lt_vk_queue *q, VkCommandBuffer commands, uint64_t work,
                                  const char *op, struct lt_error *err)
{
    if (q->pending_count + 2 >= LT_VK_PENDING || q->work + work > submission_work)
        LT_TRY(submit(q, err));
    LT_TRY(close_commands(q, err));
    q->pending[q->pending_count++] = commands;
    q->work += work;
    q->op = op;
    return q->device->debug ? lt_vk_queue_wait(q, err) : LT_OK;
}

/* ---- small commands ---- */

/* The command buffer being written; everything before it is visible to what is written next. */
static enum lt_status open_commands(struct lt_vk_queue *q, struct lt_error *err)
{
    struct lt_vk_device *d = q->device;
    if (!q->open) {
        if (q->pending_count + 2 >= LT_VK_PENDING)
            LT_TRY(submit(q, err));
        struct lt_vk_slot *s = &q->slots[q->slot];
        const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                                .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
        if (s->taken == s->made) {
            const VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                      .commandPool = q->pool,
                                                      .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                      .commandBufferCount = 1};
            LT_TRY(lt_vk_check(d->api.AllocateCommandBuffers(d->device, &info, &s->commands[s->made]),
                               "creating a command buffer", err));
            s->made++;
        }
        VkCommandBuffer commands = s->commands[s->taken++];
        LT_TRY(lt_vk_check(d->api.BeginCommandBuffer(commands, &begin), "writing commands", err));
        q->open = commands;
    }
    lt_vk_full_barrier(d, q->open);
    return LT_OK;
}

static enum lt_status check_range(const struct lt_buffer *b, size_t offset, size_t n, struct lt_error *err)
{
    if (offset > b->size || n > b->size - offset)
        return lt_fail(err, LT_ERR_INVALID, "bytes %zu to %zu are outside a buffer of %zu", offset,
                       offset + n, b->size);
    return LT_OK;
}

/* Opens commands with room in the staging buffer for *n of `wanted` bytes, at *at. */
static enum lt_status take_staging(struct lt_vk_queue *q, size_t wanted, size_t *at, size_t *n,
                                   struct lt_error *err)
{
    LT_TRY(open_commands(q, err));
    struct lt_vk_slot *s = &q->slots[q->slot];
    if (s->staged == SHARE || s->fetch_count == LT_VK_FETCHES) {
        LT_TRY(submit(q, err));
        LT_TRY(open_commands(q, err));
        s = &q->slots[q->slot];
    }
    *at = q->slot * (size_t)SHARE + s->staged;
    *n = wanted < SHARE - s->staged ? wanted : SHARE - s->staged;
    s->staged += lt_align_up(*n, STAGING_ALIGN);
    return LT_OK;
}

static void copy(struct lt_vk_queue *q, VkBuffer from, size_t from_at, VkBuffer to, size_t to_at, size_t n)
{
    const VkBufferCopy region = {.srcOffset = from_at, .dstOffset = to_at, .size = n};
    q->device->api.CmdCopyBuffer(q->open, from, to, 1, &region);
}

enum lt_status lt_vk_queue_write(struct lt_vk_queue *q, struct lt_buffer *b, size_t offset, const void *src,
                                 size_t n, struct lt_error *err)
{
    LT_TRY(check_range(b, offset, n, err));
    q->counters.bytes_up += n;
    if (n <= INLINE_BYTES && n % 4 == 0 && offset % 4 == 0) {
        LT_TRY(n > 0 ? open_commands(q, err) : LT_OK);
        if (n > 0)
            q->device->api.CmdUpdateBuffer(q->open, b->handle, offset, n, src);
        return LT_OK;
    }
    const unsigned char *from = src;
    for (size_t done = 0, at, piece; done < n; done += piece) {
        LT_TRY(take_staging(q, n - done, &at, &piece, err));
        memcpy(q->memory->host + at, from + done, piece);
        copy(q, q->memory->staging.handle, at, b->handle, offset + done, piece);
    }
    return LT_OK;
}

static void barrier_to_host(struct lt_vk_queue *q)
{
    const VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                     .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                                     .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    q->device->api.CmdPipelineBarrier(q->open, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0,
                                      1, &barrier, 0, NULL, 0, NULL);
}

enum lt_status lt_vk_queue_read(struct lt_vk_queue *q, struct lt_buffer *b, size_t offset, void *dst,
                                size_t n, struct lt_error *err)
{
    LT_TRY(check_range(b, offset, n, err));
    q->counters.bytes_down += n;
    unsigned char *to = dst;
    for (size_t done = 0, at, piece; done < n; done += piece) {
        LT_TRY(take_staging(q, n - done, &at, &piece, err));
        copy(q, b->handle, offset + done, q->memory->staging.handle, at, piece);
        barrier_to_host(q);
        struct lt_vk_slot *s = &q->slots[q->slot];
        s->fetches[s->fetch_count++] = (struct lt_vk_fetch){q->memory->host + at, to + done, piece};
    }
    return LT_OK;
}

enum lt_status lt_vk_queue_zero(struct lt_vk_queue *q, struct lt_buffer *b, size_t offset, size_t n,
                                struct lt_error *err)
{
    LT_TRY(check_range(b, offset, n, err));
    if (n == 0)
        return LT_OK;
    size_t end = offset + n == b->size ? lt_align_up(b->size, 4) : offset + n;
    if (offset % 4 != 0 || end % 4 != 0)
        return lt_fail(err, LT_ERR_INVALID, "bytes %zu to %zu of a device buffer are not whole words", offset,
                       end);
    LT_TRY(open_commands(q, err));
    q->device->api.CmdFillBuffer(q->open, b->handle, offset, end - offset, 0);
    return LT_OK;
}
