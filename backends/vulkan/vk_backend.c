#include "backends/vulkan/vk_backend.h"

#include <string.h>

#include "backends/vulkan/vk_internal.h"
#include "core/base/alloc.h"

const lt_vk_op_fn lt_vk_op_table[LT_OP_COUNT] = {
    [LT_OP_EMBED] = lt_vk_op_embed,
    [LT_OP_LINEAR] = lt_vk_op_linear,
    [LT_OP_LORA] = lt_vk_op_lora,
    [LT_OP_RMSNORM] = lt_vk_op_rmsnorm,
    [LT_OP_LAYERNORM] = lt_vk_op_layernorm,
    [LT_OP_ROPE] = lt_vk_op_rope,
    [LT_OP_SPLIT] = lt_vk_op_split,
    [LT_OP_CONCAT] = lt_vk_op_concat,
    [LT_OP_KV_STORE] = lt_vk_op_kv_store,
    [LT_OP_ACT] = lt_vk_op_act,
    [LT_OP_GLU] = lt_vk_op_glu,
    [LT_OP_ADD] = lt_vk_op_add,
    [LT_OP_DROPOUT] = lt_vk_op_dropout,
    [LT_OP_GATHER_ROWS] = lt_vk_op_gather_rows,
    [LT_OP_EMBED_DW] = lt_vk_op_embed_dw,
    [LT_OP_LINEAR_DX] = lt_vk_op_linear_dx,
    [LT_OP_LINEAR_DW] = lt_vk_op_linear_dw,
    [LT_OP_BIAS_DB] = lt_vk_op_bias_db,
    [LT_OP_LORA_BWD] = lt_vk_op_lora_bwd,
    [LT_OP_RMSNORM_BWD] = lt_vk_op_rmsnorm_bwd,
    [LT_OP_LAYERNORM_BWD] = lt_vk_op_layernorm_bwd,
    [LT_OP_ACT_BWD] = lt_vk_op_act_bwd,
    [LT_OP_GLU_BWD] = lt_vk_op_glu_bwd,
    [LT_OP_SCATTER_ROWS] = lt_vk_op_scatter_rows,
    [LT_OP_GRAD_NORM] = lt_vk_op_grad_norm,
    [LT_OP_ADAMW] = lt_vk_op_adamw,
    [LT_OP_ADAMW8] = lt_vk_op_adamw8,
    [LT_OP_SGD] = lt_vk_op_sgd,
    [LT_OP_LION] = lt_vk_op_lion,
    [LT_OP_ATTENTION] = lt_vk_op_attention,
    [LT_OP_ATTENTION_BWD] = lt_vk_op_attention_bwd,
    [LT_OP_CROSS_ENTROPY] = lt_vk_op_cross_entropy,
};

size_t lt_vk_op_workspace(const struct lt_program *p, const struct lt_node *n)
{
    if (n->op == LT_OP_GRAD_NORM)
        return lt_vk_grad_norm_workspace(p->graph.values[n->in[0]].cols);
    if (n->op == LT_OP_ATTENTION_BWD)
        return lt_vk_attention_bwd_workspace(p->capacity.tokens, n->attr.heads);
    if (n->op == LT_OP_CROSS_ENTROPY)
        return lt_vk_cross_entropy_workspace(p, n);
    return lt_vk_linear_workspace(p, n);
}

/* ---- buffers ---- */

static enum lt_status buffer_create(struct lt_backend *be, size_t size, struct lt_buffer **buf,
                                    struct lt_error *err)
{
    struct lt_vk *vk = lt_vk_of(be);
    LT_TRY(lt_vk_buffer_create(&vk->memory, size, buf, err));
    enum lt_status status = lt_vk_queue_zero(&vk->queue, *buf, 0, size, err);
    if (status != LT_OK) {
        lt_vk_buffer_destroy(&vk->memory, *buf);
        *buf = NULL;
    }
    return status;
}

static void buffer_destroy(struct lt_backend *be, struct lt_buffer *buf)
{
    struct lt_vk *vk = lt_vk_of(be);
    if (!buf)
        return;
    (void)!lt_vk_queue_wait(&vk->queue, NULL); /* nothing that uses it runs any more */
    lt_vk_buffer_destroy(&vk->memory, buf);
}

static enum lt_status buffer_write(struct lt_backend *be, struct lt_buffer *buf, size_t offset,
                                   const void *src, size_t n, struct lt_error *err)
{
    return lt_vk_queue_write(&lt_vk_of(be)->queue, buf, offset, src, n, err);
}

static enum lt_status buffer_read_later(struct lt_backend *be, struct lt_buffer *buf, size_t offset,
                                        void *dst, size_t n, struct lt_error *err)
{
    return lt_vk_queue_read(&lt_vk_of(be)->queue, buf, offset, dst, n, err);
}

static enum lt_status finish(struct lt_backend *be, struct lt_error *err)
{
    return lt_vk_queue_wait(&lt_vk_of(be)->queue, err);
}

static enum lt_status buffer_read(struct lt_backend *be, struct lt_buffer *buf, size_t offset, void *dst,
                                  size_t n, struct lt_error *err)
{
    LT_TRY(buffer_read_later(be, buf, offset, dst, n, err));
    return finish(be, err);
}

static enum lt_status buffer_zero(struct lt_backend *be, struct lt_buffer *buf, size_t offset, size_t n,
                                  struct lt_error *err)
{
    return lt_vk_queue_zero(&lt_vk_of(be)->queue, buf, offset, n, err);
}

static void *buffer_host(struct lt_backend *be, struct lt_buffer *buf)
{
    (void)be;
    (void)buf;
    return NULL;
}

static bool supports(struct lt_backend *be, const struct lt_program *p, const struct lt_node *n)
{
    (void)be;
    (void)p;
    return lt_vk_op_table[n->op] != NULL;
}

/* ---- the backend ---- */

static void destroy(struct lt_backend *be)
{
    struct lt_vk *vk = lt_vk_of(be);
    (void)!lt_vk_queue_wait(&vk->queue, NULL);
    lt_vk_queue_close(&vk->queue);
    lt_vk_pipelines_close(&vk->pipelines);
    lt_vk_weight_slots_destroy(vk);
    lt_vk_buffer_destroy(&vk->memory, vk->step);
    lt_vk_memory_close(&vk->memory);
    lt_vk_device_close(&vk->device);
    lt_free(vk);
}

static void counters(struct lt_backend *be, struct lt_device_counters *out)
{
    const struct lt_vk *vk = lt_vk_of(be);
    const struct lt_vk_counters *c = &vk->queue.counters;
    *out = (struct lt_device_counters){.submissions = c->submissions + vk->queue.upload.submissions,
                                       .dispatches = c->dispatches,
                                       .waits = c->waits,
                                       .bytes_up = c->bytes_up + vk->queue.upload.bytes,
                                       .bytes_down = c->bytes_down,
                                       .allocated = vk->memory.allocated,
                                       .peak = vk->memory.peak,
                                       .available = lt_vk_device_available(&vk->device)};
}

static enum lt_status memory_for(struct lt_backend *be, const size_t *sizes, size_t n, uint64_t *bytes,
                                 struct lt_error *err)
{
    (void)be;
    size_t *all = lt_alloc_array(n + 1, sizeof *all);
    if (!all)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while planning the device's memory");
    all[0] = sizeof(struct lt_vk_step);
    memcpy(all + 1, sizes, n * sizeof *all);
    enum lt_status status = lt_vk_memory_for(all, n + 1, bytes, err);
    lt_free(all);
    return status;
}

static const struct lt_backend_ops vulkan_ops = {
    .destroy = destroy,
    .buffer_create = buffer_create,
    .buffer_destroy = buffer_destroy,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_read_later = buffer_read_later,
    .finish = finish,
    .buffer_zero = buffer_zero,
    .buffer_host = buffer_host,
    .weight_create = lt_vk_weight_create,
    .weight_view = lt_vk_weight_view,
    .weight_rebind = lt_vk_weight_rebind,
    .weight_destroy = lt_vk_weight_destroy,
    .supports = supports,
    .compile = lt_vk_compile,
    .compiled_destroy = lt_vk_compiled_destroy,
    .workspace_bytes = lt_vk_workspace_bytes,
    .run = lt_vk_run,
    .counters = counters,
    .weight_sizes = lt_vk_weight_sizes,
    .memory_for = memory_for,
};

static enum lt_status open_parts(struct lt_vk *vk, int index, struct lt_error *err)
{
    LT_TRY(lt_vk_device_open(&vk->device, index, err));
    LT_TRY(lt_vk_memory_open(&vk->memory, &vk->device, err));
    LT_TRY(lt_vk_queue_open(&vk->queue, &vk->device, &vk->memory, err));
    LT_TRY(lt_vk_pipelines_open(&vk->pipelines, &vk->device, err));
    LT_TRY(lt_vk_buffer_create(&vk->memory, sizeof(struct lt_vk_step), &vk->step, err));
    return lt_vk_device_messages(&vk->device, err);
}

enum lt_status lt_vulkan_backend_create(struct lt_backend **be, int index, struct lt_error *err)
{
    *be = NULL;
    struct lt_vk *vk = lt_alloc_zero(1, sizeof *vk);
    if (!vk)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the Vulkan backend");
    vk->base.ops = &vulkan_ops;
    vk->base.name = "vulkan";
    vk->base.f16 = true;
    vk->queue.device = &vk->device;
    enum lt_status status = open_parts(vk, index, err);
    if (status != LT_OK) {
        destroy(&vk->base);
        return status;
    }
    const struct lt_vk_device_info *info = &vk->device.info;
    vk->base.fixed_bytes = LT_VK_STAGING;
    lt_snprintf(vk->base.description, sizeof vk->base.description, "Vulkan %u.%u, %.160s (%s), %llu MB",
                VK_VERSION_MAJOR(info->api), VK_VERSION_MINOR(info->api), info->name, info->type,
                (unsigned long long)(info->memory >> 20));
    *be = &vk->base;
    return LT_OK;
}

/* "all of them" or the exceptions. */
static void list_ops(struct lt_strbuf *out)
{
    int missing = 0;
    for (int op = 0; op < LT_OP_COUNT; op++)
        missing += lt_vk_op_table[op] == NULL;
    lt_strbuf_printf(out, "vulkan    runs %d of %d ops", LT_OP_COUNT - missing, (int)LT_OP_COUNT);
    for (int op = 0; op < LT_OP_COUNT; op++)
        if (!lt_vk_op_table[op])
            lt_strbuf_printf(out, "%s %s", missing-- > 0 ? ", not" : "", lt_op_info[op].name);
    lt_strbuf_puts(out, "; weights");
    for (int f = 0; f < LT_WEIGHT_FORMAT_COUNT; f++)
        lt_strbuf_printf(out, " %s", lt_weight_format_name((enum lt_weight_format)f));
    lt_strbuf_putc(out, '\n');
}

static void list(struct lt_vk_device *d, struct lt_strbuf *out)
{
    VkPhysicalDevice devices[LT_VK_MAX_DEVICES];
    struct lt_vk_device_info infos[LT_VK_MAX_DEVICES];
    struct lt_error err;
    uint32_t count = 0;
    if (lt_vk_instance_open(d, &err) != LT_OK || lt_vk_enumerate(d, devices, infos, &count, &err) != LT_OK) {
        lt_strbuf_printf(out, "vulkan    none: %s\n", err.message);
        return;
    }
    if (count == 0)
        lt_strbuf_puts(out, "vulkan    none: no driver offers a device\n");
    for (uint32_t i = 0; i < count; i++) {
        const struct lt_vk_device_info *info = &infos[i];
        const struct lt_vk_limits *l = &info->limits;
        lt_strbuf_printf(out, "vulkan:%u  %s (%s), Vulkan %u.%u, %llu MB", i, info->name, info->type,
                         VK_VERSION_MAJOR(info->api), VK_VERSION_MINOR(info->api),
                         (unsigned long long)(info->memory >> 20));
        if (info->features.budget)
            lt_strbuf_printf(out, " (%llu MB free)", (unsigned long long)(info->available >> 20));
        lt_strbuf_printf(out, ", bindings to %llu MB, %u KB shared, subgroups of %u",
                         (unsigned long long)(l->storage_range >> 20), l->shared_bytes >> 10, l->subgroup);
        lt_vk_features_describe(&info->features, out);
        lt_strbuf_printf(out, "%s%s\n", info->unusable ? "; unusable: " : "",
                         info->unusable ? info->unusable : "");
    }
}

void lt_vulkan_list_devices(struct lt_strbuf *out)
{
    struct lt_vk_device d;
    list(&d, out);
    lt_vk_device_close(&d);
    list_ops(out);
}
