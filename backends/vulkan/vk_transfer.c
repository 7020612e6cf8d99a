#include "backends/vulkan/vk_transfer.h"

#include <string.h>

enum { SMALL = 256 << 10, HALF = LT_VK_STAGING / LT_VK_TRANSFERS };

enum lt_status lt_vk_transfer_open(struct lt_vk_transfer *t, struct lt_vk_device *d, struct lt_error *err)
{
    memset(t, 0, sizeof *t);
    t->device = d;
    if (!d->transfer)
        return LT_OK;
    const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                          .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                          .queueFamilyIndex = d->transfer_family};
    LT_TRY(lt_vk_check(d->api.CreateCommandPool(d->device, &pool, NULL, &t->pool), "creating a command pool",
                       err));
    const VkCommandBufferAllocateInfo commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                  .commandPool = t->pool,
                                                  .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                  .commandBufferCount = LT_VK_TRANSFERS};
    LT_TRY(lt_vk_check(d->api.AllocateCommandBuffers(d->device, &commands, t->commands),
                       "creating a command buffer", err));
    for (int i = 0; i < LT_VK_TRANSFERS; i++) {
        const VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        LT_TRY(
            lt_vk_check(d->api.CreateFence(d->device, &fence, NULL, &t->fences[i]), "creating a fence", err));
    }
    return LT_OK;
}

void lt_vk_transfer_close(struct lt_vk_transfer *t)
{
    struct lt_vk_device *d = t->device;
    if (!d || !d->device)
        return;
    d->api.DeviceWaitIdle(d->device);
    for (int i = 0; i < LT_VK_TRANSFERS; i++)
        if (t->fences[i])
            d->api.DestroyFence(d->device, t->fences[i], NULL);
    if (t->pool)
        d->api.DestroyCommandPool(d->device, t->pool, NULL);
    memset(t, 0, sizeof *t);
}

static enum lt_status wait(struct lt_vk_transfer *t, int i, struct lt_error *err)
{
    struct lt_vk_device *d = t->device;
    if (!t->busy[i])
        return LT_OK;
    t->busy[i] = false;
    LT_TRY(lt_vk_check(d->api.WaitForFences(d->device, 1, &t->fences[i], VK_TRUE, UINT64_MAX),
                       "waiting for a copy to the device", err));
    return lt_vk_check(d->api.ResetFences(d->device, 1, &t->fences[i]), "resetting a fence", err);
}

/* The fence makes the bytes available; the barrier in front of every command buffer of the other queue (vk_queue.h)
 * makes them visible there. */
static enum lt_status submit(struct lt_vk_transfer *t, int i, VkBuffer from, VkBuffer to,
                             const VkBufferCopy *region, struct lt_error *err)
{
    struct lt_vk_device *d = t->device;
    VkCommandBuffer commands = t->commands[i];
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                            .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    const VkSubmitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &commands};
    LT_TRY(lt_vk_check(d->api.BeginCommandBuffer(commands, &begin), "writing commands", err));
    d->api.CmdCopyBuffer(commands, from, to, 1, region);
    LT_TRY(lt_vk_check(d->api.EndCommandBuffer(commands), "writing commands", err));
    LT_TRY(
        lt_vk_check(d->api.QueueSubmit(d->transfer, 1, &info, t->fences[i]), "copying to the device", err));
    t->busy[i] = true;
    return LT_OK;
}

static enum lt_status copy(struct lt_vk_transfer *t, struct lt_vk_queue *q, struct lt_buffer *b,
                           size_t offset, const unsigned char *src, size_t n, struct lt_error *err)
{
    int i = 0;
    for (size_t done = 0; done < n; done += HALF, i = (i + 1) % LT_VK_TRANSFERS) {
        size_t piece = n - done < HALF ? n - done : HALF, at = (size_t)i * HALF;
        const VkBufferCopy region = {.srcOffset = at, .dstOffset = offset + done, .size = piece};
        LT_TRY(wait(t, i, err));
        memcpy(q->memory->host + at, src + done, piece);
        LT_TRY(submit(t, i, q->memory->staging.handle, b->handle, &region, err));
    }
    return LT_OK;
}

enum lt_status lt_vk_transfer_write(struct lt_vk_transfer *t, struct lt_vk_queue *q, struct lt_buffer *b,
                                    size_t offset, const void *src, size_t n, struct lt_error *err)
{
    if (!t->pool || n < SMALL || offset > b->size || n > b->size - offset)
        return lt_vk_queue_write(q, b, offset, src, n, err);
    LT_TRY(lt_vk_queue_wait(q, err)); /* the staging buffer is free */
    enum lt_status status = copy(t, q, b, offset, src, n, err);
    for (int i = 0; i < LT_VK_TRANSFERS; i++) {
        enum lt_status done = wait(t, i, status == LT_OK ? err : NULL);
        status = status == LT_OK ? done : status;
    }
    q->counters.bytes_up += n;
    return status;
}
