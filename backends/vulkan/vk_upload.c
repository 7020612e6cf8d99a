#include "backends/vulkan/vk_upload.h"

#include <string.h>

#include "core/base/checked.h"

enum { STAGING_ALIGN = 64, SHARE = LT_VK_STAGING / 2 / LT_VK_UPLOADS };

enum lt_status lt_vk_upload_open(struct lt_vk_upload *u, struct lt_vk_device *d, struct lt_vk_memory *m,
                                 struct lt_error *err)
{
    memset(u, 0, sizeof *u);
    u->device = d;
    u->memory = m;
    const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                          .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                          .queueFamilyIndex = d->transfer ? d->transfer_family
                                                                          : d->queue_family};
    LT_TRY(lt_vk_check(d->api.CreateCommandPool(d->device, &pool, NULL, &u->pool), "creating a command pool",
                       err));
    const VkCommandBufferAllocateInfo commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                  .commandPool = u->pool,
                                                  .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                  .commandBufferCount = 1};
    const VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    for (int i = 0; i < LT_VK_UPLOADS; i++) {
        LT_TRY(lt_vk_check(d->api.CreateFence(d->device, &fence, NULL, &u->slots[i].fence),
                           "creating a fence", err));
        LT_TRY(lt_vk_check(d->api.AllocateCommandBuffers(d->device, &commands, &u->slots[i].commands),
                           "creating a command buffer", err));
    }
    return LT_OK;
}

void lt_vk_upload_close(struct lt_vk_upload *u)
{
    struct lt_vk_device *d = u->device;
    for (int i = 0; d && i < LT_VK_UPLOADS; i++)
        if (u->slots[i].fence)
            d->api.DestroyFence(d->device, u->slots[i].fence, NULL);
    if (u->pool)
        d->api.DestroyCommandPool(d->device, u->pool, NULL);
    memset(u, 0, sizeof *u);
}

/* The slot's share of the staging buffer is free. */
static enum lt_status slot_wait(struct lt_vk_upload *u, struct lt_vk_upload_slot *s, struct lt_error *err)
{
    struct lt_vk_device *d = u->device;
    bool busy = s->busy;
    s->busy = false;
    s->staged = 0;
    if (!busy)
        return LT_OK;
    LT_TRY(lt_vk_check(d->api.WaitForFences(d->device, 1, &s->fence, VK_TRUE, UINT64_MAX),
                       "waiting for an upload", err));
    return lt_vk_check(d->api.ResetFences(d->device, 1, &s->fence), "resetting a fence", err);
}

/* What was written to the open commands, or nothing, with a semaphore or without. */
static enum lt_status submit(struct lt_vk_upload *u, const VkSemaphore *done, struct lt_error *err)
{
    struct lt_vk_device *d = u->device;
    struct lt_vk_upload_slot *s = &u->slots[u->slot];
    const VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                               .commandBufferCount = u->open ? 1 : 0,
                               .pCommandBuffers = &s->commands,
                               .signalSemaphoreCount = done ? 1 : 0,
                               .pSignalSemaphores = done};
    if (u->open)
        LT_TRY(lt_vk_check(d->api.EndCommandBuffer(s->commands), "writing commands", err));
    LT_TRY(lt_vk_check(d->api.QueueSubmit(d->transfer ? d->transfer : d->queue, 1, &info,
                                          u->open ? s->fence : VK_NULL_HANDLE),
                       "submitting an upload to the device", err));
    u->submissions++;
    if (!u->open)
        return LT_OK;
    s->busy = true;
    u->open = false;
    u->slot = (u->slot + 1) % LT_VK_UPLOADS;
    return LT_OK;
}

static enum lt_status begin(struct lt_vk_upload *u, struct lt_error *err)
{
    struct lt_vk_upload_slot *s = &u->slots[u->slot];
    const VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                           .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    LT_TRY(slot_wait(u, s, err));
    LT_TRY(lt_vk_check(u->device->api.BeginCommandBuffer(s->commands, &info), "writing commands", err));
    u->open = true;
    return LT_OK;
}

enum lt_status lt_vk_upload_write(struct lt_vk_upload *u, struct lt_buffer *b, size_t offset, const void *src,
                                  size_t n, struct lt_error *err)
{
    const unsigned char *from = src;
    u->unflushed = u->unflushed || n > 0;
    u->bytes += n;
    for (size_t done = 0, piece; done < n; done += piece) {
        if (u->open && u->slots[u->slot].staged == SHARE)
            LT_TRY(submit(u, NULL, err));
        if (!u->open)
            LT_TRY(begin(u, err));
        struct lt_vk_upload_slot *s = &u->slots[u->slot];
        size_t at = LT_VK_STAGING / 2 + u->slot * (size_t)SHARE + s->staged;
        piece = n - done < SHARE - s->staged ? n - done : SHARE - s->staged;
        const VkBufferCopy region = {.srcOffset = at, .dstOffset = offset + done, .size = piece};
        memcpy(u->memory->host + at, from + done, piece);
        u->device->api.CmdCopyBuffer(s->commands, u->memory->staging.handle, b->handle, 1, &region);
        s->staged += lt_align_up(piece, STAGING_ALIGN);
    }
    return LT_OK;
}

enum lt_status lt_vk_upload_flush(struct lt_vk_upload *u, VkSemaphore done, struct lt_error *err)
{
    u->unflushed = false;
    return submit(u, &done, err);
}
