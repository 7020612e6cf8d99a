#include "backends/vulkan/vk_pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/base/worker.h"

enum { CACHE_MAX = 256 << 20, CACHE_HEADER = 32, MAX_THREADS = 8 };

/* ---- the cache file ---- */

/* vendor-device-uuid of the driver's header; the driver checks it as well, but a foreign file is not worth a call. */
static bool header_fits(const struct lt_vk_device *d, const unsigned char *data, size_t size)
{
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    uint32_t words[4];
    if (size < CACHE_HEADER)
        return false;
    memcpy(words, data, sizeof words);
    d->api.GetPhysicalDeviceProperties2(d->physical, &p);
    return words[0] == CACHE_HEADER && words[1] == VK_PIPELINE_CACHE_HEADER_VERSION_ONE &&
           words[2] == p.properties.vendorID && words[3] == p.properties.deviceID &&
           memcmp(data + 16, p.properties.pipelineCacheUUID, VK_UUID_SIZE) == 0;
}

/* NULL: no folder for it, or it is not wanted. */
static char *cache_path(const struct lt_vk_device *d)
{
    const char *off = getenv("LT_VK_NO_PIPELINE_CACHE"), *xdg = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    struct lt_strbuf path;
    if ((off && *off && strcmp(off, "0") != 0) || !((xdg && *xdg) || (home && *home)))
        return NULL;
    d->api.GetPhysicalDeviceProperties2(d->physical, &p);
    lt_strbuf_init(&path);
    lt_strbuf_printf(&path, "%s%s/lora-train/vulkan-%08x-%08x-%08x", xdg && *xdg ? xdg : home,
                     xdg && *xdg ? "" : "/.cache", p.properties.vendorID, p.properties.deviceID,
                     p.properties.driverVersion);
    return lt_strbuf_take(&path);
}

static enum lt_status open_cache(struct lt_vk_pipelines *p, struct lt_error *err)
{
    struct lt_vk_device *d = p->device;
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    char *data = NULL;
    size_t size = 0;
    p->cache_path = cache_path(d);
    if (p->cache_path && lt_file_kind(p->cache_path) == LT_FILE_REGULAR &&
        lt_file_read(p->cache_path, CACHE_MAX, &data, &size, NULL) == LT_OK &&
        header_fits(d, (const unsigned char *)data, size)) {
        info.initialDataSize = size;
        info.pInitialData = data;
    }
    VkResult result = d->api.CreatePipelineCache(d->device, &info, NULL, &p->cache);
    lt_free(data);
    return lt_vk_check(result, "creating the pipeline cache", err);
}

/* A cache that cannot be written costs time in the next run, nothing else. */
static void save_cache(struct lt_vk_pipelines *p)
{
    struct lt_vk_device *d = p->device;
    size_t size = 0;
    struct lt_error ignored;
    if (!p->cache_path || p->made == 0 ||
        d->api.GetPipelineCacheData(d->device, p->cache, &size, NULL) != VK_SUCCESS || size == 0)
        return;
    char *folder = lt_strdup(p->cache_path);
    void *data = lt_alloc(size);
    if (folder && data && d->api.GetPipelineCacheData(d->device, p->cache, &size, data) == VK_SUCCESS) {
        *strrchr(folder, '/') = 0;
        if (lt_dir_create(folder, &ignored) != LT_OK ||
            lt_file_write_atomic(p->cache_path, data, size, &ignored) != LT_OK)
            lt_log(LT_LOG_DEBUG, "the Vulkan pipeline cache was not kept: %s", ignored.message);
    }
    lt_free(folder);
    lt_free(data);
}

/* ---- layout ---- */

enum lt_status lt_vk_pipelines_open(struct lt_vk_pipelines *p, struct lt_vk_device *d, struct lt_error *err)
{
    VkDescriptorSetLayoutBinding bindings[LT_VK_BINDINGS];
    memset(p, 0, sizeof *p);
    p->device = d;
    for (uint32_t i = 0; i < LT_VK_BINDINGS; i++)
        bindings[i] = (VkDescriptorSetLayoutBinding){.binding = i,
                                                     .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                                     .descriptorCount = 1,
                                                     .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    const VkDescriptorSetLayoutCreateInfo set = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                                 .bindingCount = LT_VK_BINDINGS,
                                                 .pBindings = bindings};
    LT_TRY(lt_vk_check(d->api.CreateDescriptorSetLayout(d->device, &set, NULL, &p->set_layout),
                       "creating the descriptor layout", err));
    const VkPushConstantRange push = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = LT_VK_PUSH_BYTES};
    const VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                               .setLayoutCount = 1,
                                               .pSetLayouts = &p->set_layout,
                                               .pushConstantRangeCount = 1,
                                               .pPushConstantRanges = &push};
    LT_TRY(lt_vk_check(d->api.CreatePipelineLayout(d->device, &layout, NULL, &p->layout),
                       "creating the pipeline layout", err));
    return open_cache(p, err);
}

void lt_vk_pipelines_close(struct lt_vk_pipelines *p)
{
    struct lt_vk_device *d = p->device;
    if (!d || !d->device)
        return;
    if (p->cache) {
        save_cache(p);
        d->api.DestroyPipelineCache(d->device, p->cache, NULL);
    }
    for (size_t i = 0; i < p->count; i++)
        d->api.DestroyPipeline(d->device, p->items[i].handle, NULL);
    if (p->layout)
        d->api.DestroyPipelineLayout(d->device, p->layout, NULL);
    if (p->set_layout)
        d->api.DestroyDescriptorSetLayout(d->device, p->set_layout, NULL);
    lt_free(p->items);
    lt_free(p->cache_path);
    memset(p, 0, sizeof *p);
}

/* ---- pipelines ---- */

static enum lt_status create(struct lt_vk_pipelines *p, const struct lt_vk_pipeline_key *key,
                             VkPipeline *handle, struct lt_error *err)
{
    struct lt_vk_device *d = p->device;
    const struct lt_vk_code *code = lt_vk_shader_code(key->shader);
    VkSpecializationMapEntry entries[LT_VK_MAX_SPEC];
    for (uint32_t i = 0; i < key->spec_count; i++)
        entries[i] = (VkSpecializationMapEntry){.constantID = i, .offset = 4 * i, .size = 4};
    const VkSpecializationInfo spec = {.mapEntryCount = key->spec_count,
                                       .pMapEntries = entries,
                                       .dataSize = 4 * key->spec_count,
                                       .pData = key->spec};
    const VkShaderModuleCreateInfo module = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = code->bytes, .pCode = code->words};
    const VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = LT_VK_COOPMAT_SUBGROUP};
    const bool fixed = key->shader == LT_VK_SHADER_gemm_coopmat;
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .pNext = fixed ? &subgroup : NULL,
                  .flags = fixed ? VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT : 0,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .pName = "main",
                  .pSpecializationInfo = &spec},
        .layout = p->layout};
    VkResult result = d->api.CreateShaderModule(d->device, &module, NULL, &info.stage.module);
    if (result == VK_SUCCESS) {
        result = d->api.CreateComputePipelines(d->device, p->cache, 1, &info, NULL, handle);
        d->api.DestroyShaderModule(d->device, info.stage.module, NULL);
    }
    enum lt_status status = lt_vk_check(result, "compiling a shader", err);
    return status == LT_OK ? LT_OK : lt_fail_prefix(err, status, "shader %s", code->name);
}

/* The pipeline of that key, which may not be compiled yet; NULL: out of memory. */
static struct lt_vk_pipeline *item_of(struct lt_vk_pipelines *p, const struct lt_vk_pipeline_key *key)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_vk_pipeline_key *have = &p->items[i].key;
        if (have->shader == key->shader && have->spec_count == key->spec_count &&
            memcmp(have->spec, key->spec, 4 * key->spec_count) == 0)
            return &p->items[i];
    }
    if (!lt_reserve((void **)&p->items, &p->cap, p->count, sizeof *p->items))
        return NULL;
    p->items[p->count] = (struct lt_vk_pipeline){.key = *key};
    return &p->items[p->count++];
}

enum lt_status lt_vk_pipeline_want(struct lt_vk_pipelines *p, const struct lt_vk_pipeline_key *key,
                                   struct lt_error *err)
{
    return item_of(p, key) ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling a shader");
}

enum lt_status lt_vk_pipeline_get(struct lt_vk_pipelines *p, const struct lt_vk_pipeline_key *key,
                                  VkPipeline *handle, struct lt_error *err)
{
    struct lt_vk_pipeline *item = item_of(p, key);
    if (!item)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling a shader");
    if (!item->handle) {
        LT_TRY(create(p, key, &item->handle, err));
        p->made++;
    }
    *handle = item->handle;
    return LT_OK;
}

/* ---- many at once ---- */

struct build {
    struct lt_job job;
    struct lt_vk_pipelines *pipelines;
    struct lt_vk_pipeline *item;
};

static enum lt_status run_build(void *user, struct lt_error *err)
{
    struct build *b = user;
    return create(b->pipelines, &b->item->key, &b->item->handle, err);
}

static size_t missing(struct lt_vk_pipelines *p, struct build *builds)
{
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++)
        if (!p->items[i].handle) {
            if (builds)
                builds[n] = (struct build){
                    .job = {.run = run_build, .user = &builds[n]}, .pipelines = p, .item = &p->items[i]};
            n++;
        }
    return n;
}

/* What a thread that cannot be had would have compiled is left to lt_vk_pipeline_get(). */
static enum lt_status build_all(struct build *builds, size_t n, struct lt_error *err)
{
    struct lt_worker *workers[MAX_THREADS] = {NULL};
    struct lt_error ignored;
    enum lt_status status = LT_OK;
    size_t threads = (size_t)lt_cpu_count() < MAX_THREADS ? (size_t)lt_cpu_count() : MAX_THREADS;
    for (size_t i = 0; i < threads && i < n; i++)
        if (lt_worker_create(&workers[i], &ignored) == LT_OK)
            for (size_t k = i; k < n; k += threads)
                lt_worker_submit(workers[i], &builds[k].job);
    for (size_t k = 0; k < n; k++) {
        struct lt_worker *w = workers[k % threads];
        enum lt_status done = w ? lt_worker_wait(w, &builds[k].job, status == LT_OK ? err : NULL) : LT_OK;
        status = status == LT_OK ? done : status;
    }
    for (size_t i = 0; i < threads; i++)
        lt_worker_destroy(workers[i]);
    return status;
}

enum lt_status lt_vk_pipelines_make(struct lt_vk_pipelines *p, struct lt_error *err)
{
    size_t n = missing(p, NULL);
    const struct lt_vk_device *d = p->device;
    if (n < 2 || d->validation || d->debug || lt_vk_switched_on("LT_VK_NO_PARALLEL_COMPILE"))
        return LT_OK;
    struct build *builds = lt_alloc_zero(n, sizeof *builds);
    if (!builds)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling shaders");
    missing(p, builds);
    enum lt_status status = build_all(builds, n, err);
    p->made += n;
    lt_free(builds);
    return status;
}
