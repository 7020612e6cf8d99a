#include "backends/vulkan/vk_record.h"

#include <stdarg.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"

enum { SETS_PER_POOL = 64 };

static const double piece_work =
    20e9; /* a command buffer ends above this much work, so that submissions can be cut */

/* The constants in front of every op's own: shaders/op.glsl. */
struct push_header {
    uint32_t offsets[3]; /* a byte a binding: what the binding's offset lacks, in bytes */
    uint32_t rows, row0, kind;
};

static void failed(struct lt_vk_recorder *r, enum lt_status status)
{
    if (r->status == LT_OK)
        r->status = status;
}

void lt_vk_refuse(struct lt_vk_recorder *r, const char *fmt, ...)
{
    char why[512];
    va_list args;
    if (r->status != LT_OK)
        return;
    va_start(args, fmt);
    lt_vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    r->status =
        lt_fail(&r->error, LT_ERR_UNSUPPORTED, "%s cannot run op %s: %s", r->device->info.name, r->op, why);
}

/* ---- command buffers ---- */

static void begin_piece(struct lt_vk_recorder *r)
{
    struct lt_vk_device *d = r->device;
    struct lt_vk_recording *rec = r->out;
    const VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                              .commandPool = r->queue->pool,
                                              .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                              .commandBufferCount = 1};
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                            .flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT};
    VkCommandBuffer commands;
    if (!lt_reserve((void **)&rec->pieces, &rec->cap, rec->count, sizeof *rec->pieces)) {
        failed(r, lt_fail(&r->error, LT_ERR_NOMEM, "out of memory while recording a program"));
        return;
    }
    enum lt_status status = lt_vk_check(d->api.AllocateCommandBuffers(d->device, &info, &commands),
                                        "creating a command buffer", &r->error);
    if (status == LT_OK) {
        rec->pieces[rec->count++] = (struct lt_vk_piece){.commands = commands};
        status = lt_vk_check(d->api.BeginCommandBuffer(commands, &begin), "recording a program", &r->error);
    }
    if (status != LT_OK) {
        failed(r, status);
        return;
    }
    r->commands = commands;
    r->work = 0;
    r->touched_count = 0;
    lt_vk_full_barrier(d, commands);
}

static void end_piece(struct lt_vk_recorder *r)
{
    if (!r->commands)
        return;
    struct lt_vk_piece *p = &r->out->pieces[r->out->count - 1];
    p->work = (uint64_t)r->work;
    p->op = r->op;
    failed(r, lt_vk_check(r->device->api.EndCommandBuffer(r->commands), "recording a program", &r->error));
    r->commands = NULL;
}

/* ---- descriptors ---- */

static bool new_pool(struct lt_vk_recorder *r)
{
    struct lt_vk_recording *rec = r->out;
    const VkDescriptorPoolSize size = {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                       .descriptorCount = SETS_PER_POOL * LT_VK_BINDINGS};
    const VkDescriptorPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                             .maxSets = SETS_PER_POOL,
                                             .poolSizeCount = 1,
                                             .pPoolSizes = &size};
    if (!lt_reserve((void **)&rec->pools, &rec->pool_cap, rec->pool_count, sizeof *rec->pools)) {
        failed(r, lt_fail(&r->error, LT_ERR_NOMEM, "out of memory while recording a program"));
        return false;
    }
    VkDescriptorPool pool;
    failed(r, lt_vk_check(r->device->api.CreateDescriptorPool(r->device->device, &info, NULL, &pool),
                          "creating descriptors", &r->error));
    if (r->status != LT_OK)
        return false;
    rec->pools[rec->pool_count++] = pool;
    r->sets_left = SETS_PER_POOL;
    return true;
}

/* Binds the buffers; the low bits of their offsets go into the header. */
static bool bind(struct lt_vk_recorder *r, const struct lt_vk_dispatch *d, struct push_header *h)
{
    const struct lt_vk_limits *limits = &r->device->info.limits;
    VkDescriptorBufferInfo buffers[LT_VK_BINDINGS];
    VkWriteDescriptorSet writes[LT_VK_BINDINGS];
    VkDescriptorSet set;
    if (r->sets_left == 0 && !new_pool(r))
        return false;
    const VkDescriptorSetAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                              .descriptorPool = r->out->pools[r->out->pool_count - 1],
                                              .descriptorSetCount = 1,
                                              .pSetLayouts = &r->pipelines->set_layout};
    failed(r, lt_vk_check(r->device->api.AllocateDescriptorSets(r->device->device, &info, &set),
                          "allocating descriptors", &r->error));
    if (r->status != LT_OK)
        return false;
    r->sets_left--;
    for (uint32_t i = 0; i < LT_VK_BINDINGS; i++) {
        struct lt_vk_ref ref = {r->step, 0, sizeof(struct lt_vk_step)}; /* also where an op has none */
        if (i > 0 && d->args[i - 1].ref.buffer)
            ref = d->args[i - 1].ref;
        size_t low = ref.offset % limits->offset_align;
        h->offsets[i / 4] |= (uint32_t)low << (8 * (i % 4));
        buffers[i] = (VkDescriptorBufferInfo){.buffer = ref.buffer->handle,
                                              .offset = ref.offset - low,
                                              .range = lt_align_up(ref.size + low, 4)};
        writes[i] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                           .dstSet = set,
                                           .dstBinding = i,
                                           .descriptorCount = 1,
                                           .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                           .pBufferInfo = &buffers[i]};
        if (buffers[i].range > limits->storage_range) {
            lt_vk_refuse(
                r,
                "a shader can see %llu bytes of a buffer, and %llu are needed at once; use a smaller "
                "micro-batch or --device cpu",
                (unsigned long long)limits->storage_range, (unsigned long long)buffers[i].range);
            return false;
        }
    }
    r->device->api.UpdateDescriptorSets(r->device->device, LT_VK_BINDINGS, writes, 0, NULL);
    r->device->api.CmdBindDescriptorSets(r->commands, VK_PIPELINE_BIND_POINT_COMPUTE, r->pipelines->layout, 0,
                                         1, &set, 0, NULL);
    return true;
}

/* ---- hazards ---- */

static bool conflicts(const struct lt_vk_recorder *r, const struct lt_vk_arg *a)
{
    for (size_t i = 0; i < r->touched_count; i++) {
        const struct lt_vk_touched *t = &r->touched[i];
        if (t->buffer == a->ref.buffer->id && (t->written || (a->access & LT_VK_WRITE)) &&
            a->ref.offset < t->end && t->begin < a->ref.offset + a->ref.size)
            return true;
    }
    return false;
}

static void order(struct lt_vk_recorder *r, const struct lt_vk_dispatch *d)
{
    bool wait = r->touched_count + LT_VK_ARGS > sizeof r->touched / sizeof *r->touched;
    for (int i = 0; i < LT_VK_ARGS && !wait; i++)
        wait = d->args[i].ref.buffer && conflicts(r, &d->args[i]);
    if (wait) {
        const VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                         .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT,
                                         .dstAccessMask = VK_ACCESS_SHADER_READ_BIT |
                                                          VK_ACCESS_SHADER_WRITE_BIT};
        r->device->api.CmdPipelineBarrier(r->commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                                          VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier, 0, NULL, 0,
                                          NULL);
        r->touched_count = 0;
    }
    for (int i = 0; i < LT_VK_ARGS; i++) {
        const struct lt_vk_arg *a = &d->args[i];
        if (a->ref.buffer)
            r->touched[r->touched_count++] = (struct lt_vk_touched){a->ref.buffer->id, a->ref.offset,
                                                                    a->ref.offset + a->ref.size,
                                                                    (a->access & LT_VK_WRITE) != 0};
    }
}

/* ---- dispatch ---- */

static void dispatch_one(struct lt_vk_recorder *r, const struct lt_vk_dispatch *d)
{
    unsigned char push[LT_VK_PUSH_BYTES] = {0};
    struct push_header h = {.rows = (uint32_t)d->rows, .row0 = (uint32_t)d->row0, .kind = (uint32_t)d->kind};
    uint32_t groups[3] = {d->groups[0], d->groups[1], d->groups[2]};
    VkPipeline pipeline;
    if (d->rows_per_group > 0)
        groups[0] = (uint32_t)lt_min_i64(lt_div_up(d->rows, d->rows_per_group), LT_VK_MAX_GROUPS);
    for (int i = 0; i < 3; i++)
        if (groups[i] == 0)
            groups[i] = 1;
    if (groups[0] > r->device->info.limits.groups[0] || groups[1] > r->device->info.limits.groups[1] ||
        groups[2] > r->device->info.limits.groups[2]) {
        lt_vk_refuse(r, "it needs %u x %u x %u workgroups", groups[0], groups[1], groups[2]);
        return;
    }
    if (r->looking) {
        failed(r, lt_vk_pipeline_want(r->pipelines, &d->key, &r->error));
        return;
    }
    failed(r, lt_vk_pipeline_get(r->pipelines, &d->key, &pipeline, &r->error));
    if (r->status == LT_OK && r->commands && r->work + d->work > piece_work)
        end_piece(r);
    if (r->status == LT_OK && !r->commands)
        begin_piece(r);
    if (r->status != LT_OK)
        return;
    order(r, d);
    if (!bind(r, d, &h))
        return;
    memcpy(push, &h, sizeof h);
    memcpy(push + sizeof h, d->push, d->push_bytes);
    const struct lt_vk_api *api = &r->device->api;
    api->CmdBindPipeline(r->commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    api->CmdPushConstants(r->commands, r->pipelines->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, LT_VK_PUSH_BYTES,
                          push);
    api->CmdDispatch(r->commands, groups[0], groups[1], groups[2]);
    r->work += d->work;
    r->out->dispatches++;
    if (r->device->debug)
        end_piece(r);
}

/* Rows that every row-wise buffer shows within one binding, and no more than are wanted. */
static int64_t rows_at_once(const struct lt_vk_recorder *r, const struct lt_vk_dispatch *d)
{
    const struct lt_vk_limits *limits = &r->device->info.limits;
    int64_t rows = d->max_rows > 0 ? lt_min_i64(d->rows, d->max_rows) : d->rows;
    for (int i = 0; i < LT_VK_ARGS; i++)
        if (d->args[i].ref.buffer && d->args[i].row_bytes > 0)
            rows = lt_min_i64(
                rows, (int64_t)((limits->storage_range - limits->offset_align) / d->args[i].row_bytes));
    return rows;
}

/* Rows [row, row + rows) of a buffer, whose last row may be short. */
static struct lt_vk_ref rows_of(const struct lt_vk_arg *a, int64_t row, int64_t rows)
{
    size_t begin = (size_t)row * a->row_bytes, size = (size_t)rows * a->row_bytes;
    return lt_vk_slice(a->ref, begin, size < a->ref.size - begin ? size : a->ref.size - begin);
}

void lt_vk_dispatch(struct lt_vk_recorder *r, const struct lt_vk_dispatch *d)
{
    if (r->status != LT_OK || d->rows == 0)
        return;
    int64_t step = rows_at_once(r, d);
    if (step == 0) {
        lt_vk_refuse(r, "a row is larger than the %llu bytes of a buffer that a shader can see",
                     (unsigned long long)r->device->info.limits.storage_range);
        return;
    }
    for (int64_t row = 0; row < d->rows && r->status == LT_OK; row += step) {
        struct lt_vk_dispatch part = *d;
        part.rows = lt_min_i64(step, d->rows - row);
        part.row0 = d->row0 + row;
        part.work = d->work * (double)part.rows / (double)d->rows;
        for (int i = 0; i < LT_VK_ARGS; i++)
            if (part.args[i].ref.buffer && part.args[i].row_bytes > 0)
                part.args[i].ref = rows_of(&d->args[i], row, part.rows);
        dispatch_one(r, &part);
    }
}

enum lt_status lt_vk_record_end(struct lt_vk_recorder *r, struct lt_error *err)
{
    end_piece(r);
    if (r->status == LT_OK)
        return LT_OK;
    lt_vk_recording_release(r->queue, r->out);
    if (err)
        *err = r->error;
    return r->status;
}

void lt_vk_recording_release(struct lt_vk_queue *q, struct lt_vk_recording *rec)
{
    struct lt_vk_device *d = q->device;
    for (size_t i = 0; i < rec->count; i++)
        d->api.FreeCommandBuffers(d->device, q->pool, 1, &rec->pieces[i].commands);
    for (size_t i = 0; i < rec->pool_count; i++)
        d->api.DestroyDescriptorPool(d->device, rec->pools[i], NULL);
    lt_free(rec->pieces);
    lt_free(rec->pools);
    memset(rec, 0, sizeof *rec);
}
