#include "backends/vulkan/vk_memory.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum {
    SMALLEST_BLOCK = 64 << 10,
    LARGEST_BLOCK = 16 << 20,
    BUFFER_ALIGN = 256, /* sizes and places in a block; covers every offset alignment that is usable */
    MAX_PIECES = 4096   /* buffers in one block */
};

/* One piece of device memory.  `used` is sorted by place. */
struct lt_vk_block {
    struct lt_vk_block *next;
    VkDeviceMemory memory;
    VkDeviceSize size;
    uint32_t type;
    bool shared; /* by buffers that are small beside it */
    struct lt_buffer **used;
    size_t count, cap;
};

static const VkBufferUsageFlags usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT |
                                        VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;

/* The first memory type with all `wanted` flags, or else with the `needed` ones. */
static bool find_type(const struct lt_vk_device *d, uint32_t allowed, VkMemoryPropertyFlags wanted,
                      VkMemoryPropertyFlags needed, uint32_t *type)
{
    const VkMemoryPropertyFlags flags[] = {wanted, needed};
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < d->memory.memoryTypeCount; i++)
            if ((allowed & (1u << i)) &&
                (d->memory.memoryTypes[i].propertyFlags & flags[pass]) == flags[pass]) {
                *type = i;
                return true;
            }
    return false;
}

/* ---- blocks ---- */

static enum lt_status block_create(struct lt_vk_memory *m, VkDeviceSize size, uint32_t type,
                                   struct lt_vk_block **out, struct lt_error *err)
{
    struct lt_vk_device *d = m->device;
    struct lt_vk_block *b = lt_alloc_zero(1, sizeof *b);
    if (!b)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating a device buffer");
    const VkMemoryAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = size, .memoryTypeIndex = type};
    VkResult result = size <= d->info.limits.allocation
                          ? d->api.AllocateMemory(d->device, &info, NULL, &b->memory)
                          : VK_ERROR_OUT_OF_DEVICE_MEMORY;
    if (result != VK_SUCCESS) {
        lt_free(b);
        if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY)
            return lt_vk_check(result, "allocating device memory", err);
        return lt_fail(
            err, LT_ERR_NOMEM,
            "%s has no %llu MB for one more buffer (%llu MB are held, its largest buffer is %llu MB): "
            "lower the micro-batch or the sequence length, or use a quantized base",
            d->info.name, (unsigned long long)(size >> 20), (unsigned long long)(m->allocated >> 20),
            (unsigned long long)(d->info.limits.allocation >> 20));
    }
    b->size = size;
    b->type = type;
    b->next = m->blocks;
    m->blocks = b;
    m->allocated += size;
    m->peak = m->allocated > m->peak ? m->allocated : m->peak;
    *out = b;
    return LT_OK;
}

static void block_destroy(struct lt_vk_memory *m, struct lt_vk_block *b)
{
    struct lt_vk_block **link = &m->blocks;
    while (*link != b)
        link = &(*link)->next;
    *link = b->next;
    m->device->api.FreeMemory(m->device->device, b->memory, NULL);
    m->allocated -= b->size;
    lt_free(b->used);
    lt_free(b);
}

/* The first gap of `bytes`; false: none, or no memory to note it. */
static bool block_place(struct lt_vk_block *b, struct lt_buffer *buffer, VkDeviceSize bytes)
{
    VkDeviceSize at = 0;
    size_t i = 0;
    while (i < b->count && b->used[i]->at - at < bytes) {
        at = b->used[i]->at + b->used[i]->bytes;
        i++;
    }
    if (b->size - at < bytes || b->count == MAX_PIECES ||
        !lt_reserve((void **)&b->used, &b->cap, b->count, sizeof *b->used))
        return false;
    memmove(b->used + i + 1, b->used + i, (b->count - i) * sizeof *b->used);
    b->used[i] = buffer;
    b->count++;
    buffer->block = b;
    buffer->at = at;
    buffer->bytes = bytes;
    return true;
}

static void block_remove(struct lt_vk_memory *m, struct lt_vk_block *b, const struct lt_buffer *buffer)
{
    size_t i = 0;
    while (b->used[i] != buffer)
        i++;
    b->count--;
    memmove(b->used + i, b->used + i + 1, (b->count - i) * sizeof *b->used);
    if (b->count == 0)
        block_destroy(m, b);
}

/* Blocks grow with what is held, so that their empty ends stay below a thirtieth of it. */
static VkDeviceSize block_size(uint64_t allocated)
{
    VkDeviceSize size = SMALLEST_BLOCK;
    while (size < LARGEST_BLOCK && size < allocated / 64)
        size *= 2;
    return size;
}

/* A buffer that is not small beside such a block gets one of its own size. */
static bool has_own_block(VkDeviceSize bytes, VkDeviceSize block)
{
    return bytes >= block / 4;
}

static enum lt_status find_place(struct lt_vk_memory *m, struct lt_buffer *buffer,
                                 const VkMemoryRequirements *need, struct lt_error *err)
{
    uint32_t type;
    VkDeviceSize align = need->alignment > BUFFER_ALIGN ? need->alignment : BUFFER_ALIGN;
    VkDeviceSize bytes = lt_align_up(need->size, align);
    if (align > BUFFER_ALIGN ||
        !find_type(m->device, need->memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
                   VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, &type))
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s has no memory for ordinary buffers",
                       m->device->info.name);
    for (struct lt_vk_block *b = m->blocks; b; b = b->next)
        if (b->shared && b->type == type && block_place(b, buffer, bytes))
            return LT_OK;
    struct lt_vk_block *b;
    VkDeviceSize block = block_size(m->allocated);
    bool own = has_own_block(bytes, block);
    LT_TRY(block_create(m, own ? bytes : block, type, &b, err));
    b->shared = !own;
    if (block_place(b, buffer, bytes))
        return LT_OK;
    block_destroy(m, b);
    return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating a device buffer");
}

/* ---- buffers ---- */

static enum lt_status make_handle(struct lt_vk_device *d, size_t bytes, VkBuffer *handle,
                                  VkMemoryRequirements *need, struct lt_error *err)
{
    const uint32_t families[] = {d->queue_family, d->transfer_family};
    VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes, .usage = usage};
    if (d->transfer) {
        info.sharingMode = VK_SHARING_MODE_CONCURRENT;
        info.queueFamilyIndexCount = 2;
        info.pQueueFamilyIndices = families;
    }
    LT_TRY(lt_vk_check(d->api.CreateBuffer(d->device, &info, NULL, handle), "creating a buffer", err));
    d->api.GetBufferMemoryRequirements(d->device, *handle, need);
    return LT_OK;
}

enum lt_status lt_vk_buffer_create(struct lt_vk_memory *m, size_t size, struct lt_buffer **out,
                                   struct lt_error *err)
{
    struct lt_vk_device *d = m->device;
    VkMemoryRequirements need;
    *out = NULL;
    struct lt_buffer *b = lt_alloc_zero(1, sizeof *b);
    if (!b)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating a device buffer");
    b->size = size;
    b->id = ++m->next_id;
    enum lt_status status =
        make_handle(d, lt_align_up(size > 0 ? size : 1, BUFFER_ALIGN), &b->handle, &need, err);
    if (status == LT_OK)
        status = find_place(m, b, &need, err);
    if (status == LT_OK) {
        m->used += b->bytes;
        status = lt_vk_check(d->api.BindBufferMemory(d->device, b->handle, b->block->memory, b->at),
                             "binding device memory", err);
    }
    if (status != LT_OK) {
        lt_vk_buffer_destroy(m, b);
        return status;
    }
    *out = b;
    return LT_OK;
}

void lt_vk_buffer_destroy(struct lt_vk_memory *m, struct lt_buffer *b)
{
    if (!b)
        return;
    if (b->handle)
        m->device->api.DestroyBuffer(m->device->device, b->handle, NULL);
    if (b->block) {
        m->used -= b->bytes;
        block_remove(m, b->block, b);
    }
    lt_free(b);
}

/* ---- planning ---- */

/* A shared block that will be made: nothing leaves it, so that its gap is its end. */
struct planned_block {
    VkDeviceSize left;
    size_t count;
};

/* The newest block with room, as find_place() goes through them. */
static bool plan_place(struct planned_block *blocks, size_t count, VkDeviceSize bytes)
{
    for (size_t i = count; i-- > 0;)
        if (blocks[i].left >= bytes && blocks[i].count < MAX_PIECES) {
            blocks[i].left -= bytes;
            blocks[i].count++;
            return true;
        }
    return false;
}

enum lt_status lt_vk_memory_for(const size_t *sizes, size_t n, uint64_t *allocated, struct lt_error *err)
{
    struct planned_block *blocks = NULL;
    size_t count = 0, cap = 0;
    *allocated = LT_VK_STAGING;
    for (size_t i = 0; i < n; i++) {
        VkDeviceSize bytes = lt_align_up(sizes[i], BUFFER_ALIGN), block = block_size(*allocated);
        if (plan_place(blocks, count, bytes))
            continue;
        if (has_own_block(bytes, block)) {
            *allocated += bytes;
            continue;
        }
        if (!lt_reserve((void **)&blocks, &cap, count, sizeof *blocks)) {
            lt_free(blocks);
            return lt_fail(err, LT_ERR_NOMEM, "out of memory while planning the device's memory");
        }
        blocks[count++] = (struct planned_block){.left = block - bytes, .count = 1};
        *allocated += block;
    }
    lt_free(blocks);
    return LT_OK;
}

/* ---- staging ---- */

static enum lt_status open_staging(struct lt_vk_memory *m, struct lt_error *err)
{
    const VkMemoryPropertyFlags needed = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                         VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    struct lt_vk_device *d = m->device;
    VkMemoryRequirements need;
    uint32_t type;
    void *host;
    LT_TRY(make_handle(d, LT_VK_STAGING, &m->staging.handle, &need, err));
    if (!find_type(d, need.memoryTypeBits, needed | VK_MEMORY_PROPERTY_HOST_CACHED_BIT, needed, &type))
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s has no memory that the host can address", d->info.name);
    m->staging.size = LT_VK_STAGING;
    LT_TRY(block_create(m, need.size, type, &m->staging.block, err));
    LT_TRY(lt_vk_check(d->api.BindBufferMemory(d->device, m->staging.handle, m->staging.block->memory, 0),
                       "binding the staging buffer", err));
    LT_TRY(lt_vk_check(d->api.MapMemory(d->device, m->staging.block->memory, 0, VK_WHOLE_SIZE, 0, &host),
                       "mapping the staging buffer", err));
    m->host = host;
    return LT_OK;
}

enum lt_status lt_vk_memory_open(struct lt_vk_memory *m, struct lt_vk_device *d, struct lt_error *err)
{
    memset(m, 0, sizeof *m);
    m->device = d;
    return open_staging(m, err);
}

void lt_vk_memory_close(struct lt_vk_memory *m)
{
    if (m->staging.handle)
        m->device->api.DestroyBuffer(m->device->device, m->staging.handle, NULL);
    if (m->staging.block)
        block_destroy(m, m->staging.block);
    memset(m, 0, sizeof *m);
}
