#include "backends/vulkan/vk_device.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "core/base/system.h"

/* ---- instance ---- */

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data, void *user)
{
    struct lt_vk_device *d = user;
    (void)severity;
    (void)types;
    if (d->messages++ == 0)
        lt_snprintf(d->first_message, sizeof d->first_message, "%s", data->pMessage);
    lt_log(LT_LOG_WARNING, "Vulkan validation: %s", data->pMessage);
    return VK_FALSE;
}

static bool has_layer(const struct lt_vk_api *api, const char *name)
{
    VkLayerProperties layers[64];
    uint32_t count = 64;
    VkResult result = api->EnumerateInstanceLayerProperties(&count, layers);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < count; i++)
        if (strcmp(layers[i].layerName, name) == 0)
            return true;
    return false;
}

static enum lt_status create_instance(struct lt_vk_device *d, struct lt_error *err)
{
    static const char *const layer = "VK_LAYER_KHRONOS_validation";
    static const char *const extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
    static const VkValidationFeatureEnableEXT checks[] = {
        VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    const VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                   .pApplicationName = "lora-train",
                                   .apiVersion = VK_API_VERSION_1_1};
    const VkDebugUtilsMessengerCreateInfoEXT messenger = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
        .pfnUserCallback = on_message,
        .pUserData = d};
    const VkValidationFeaturesEXT features = {.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
                                              .pNext = &messenger,
                                              .enabledValidationFeatureCount = 1,
                                              .pEnabledValidationFeatures = checks};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    if (d->validation) {
        if (!has_layer(&d->api, layer))
            return lt_fail(err, LT_ERR_NOT_FOUND,
                           "LT_VK_VALIDATION is set, but the Khronos validation layer is not installed");
        info.pNext = &features;
        info.enabledLayerCount = 1;
        info.ppEnabledLayerNames = &layer;
        info.enabledExtensionCount = 1;
        info.ppEnabledExtensionNames = extensions;
    }
    LT_TRY(lt_vk_check(d->api.CreateInstance(&info, NULL, &d->instance), "opening Vulkan", err));
    LT_TRY(lt_vk_api_instance(&d->api, d->instance, err));
    if (!d->validation)
        return LT_OK;
    return lt_vk_check(d->api.CreateDebugUtilsMessengerEXT(d->instance, &messenger, NULL, &d->messenger),
                       "turning on validation", err);
}

enum lt_status lt_vk_instance_open(struct lt_vk_device *d, struct lt_error *err)
{
    memset(d, 0, sizeof *d);
    d->debug = lt_vk_switched_on("LT_VK_DEBUG");
    d->validation = lt_vk_switched_on("LT_VK_VALIDATION");
    LT_TRY(lt_vk_api_open(&d->api, err));
    uint32_t version = 0;
    if (d->api.EnumerateInstanceVersion(&version) != VK_SUCCESS || version < VK_API_VERSION_1_1)
        return lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "the Vulkan loader of this machine is older than Vulkan 1.1: update it, or use --device cpu");
    return create_instance(d, err);
}

/* ---- what a device can do ---- */

static const char *type_name(VkPhysicalDeviceType type)
{
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return "discrete GPU";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return "integrated GPU";
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
        return "virtual GPU";
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return "CPU";
    default:
        return "other";
    }
}

/* A limit lowered by the environment, so that small devices can be tested on large ones. */
static uint64_t lowered(uint64_t limit, const char *name)
{
    long long wanted;
    const char *text = getenv(name);
    return text && lt_parse_i64(text, &wanted) && wanted > 0 && (uint64_t)wanted < limit ? (uint64_t)wanted
                                                                                         : limit;
}

static void read_memory(const struct lt_vk_api *api, VkPhysicalDevice physical, bool has_budget,
                        struct lt_vk_device_info *info, VkPhysicalDeviceMemoryProperties *memory)
{
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                           .pNext = has_budget ? &budget : NULL};
    api->GetPhysicalDeviceMemoryProperties2(physical, &p);
    info->memory = info->available = 0;
    for (uint32_t i = 0; i < p.memoryProperties.memoryHeapCount; i++) {
        const VkMemoryHeap *heap = &p.memoryProperties.memoryHeaps[i];
        if (!(heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) || heap->size <= info->memory)
            continue;
        info->memory = heap->size;
        if (has_budget && budget.heapBudget[i] > budget.heapUsage[i])
            info->available = budget.heapBudget[i] - budget.heapUsage[i];
    }
    if (memory)
        *memory = p.memoryProperties;
}

static void read_limits(struct lt_vk_limits *l, const VkPhysicalDeviceLimits *have, uint64_t allocation,
                        uint32_t subgroup)
{
    l->storage_range = lowered(have->maxStorageBufferRange, "LT_VK_MAX_RANGE");
    l->offset_align = (uint32_t)have->minStorageBufferOffsetAlignment;
    l->shared_bytes = (uint32_t)lowered(have->maxComputeSharedMemorySize, "LT_VK_MAX_SHARED");
    l->invocations = have->maxComputeWorkGroupInvocations;
    memcpy(l->groups, have->maxComputeWorkGroupCount, sizeof l->groups);
    l->allocation = allocation;
    l->subgroup = subgroup;
}

/* The floor: Vulkan 1.1, 12 storage buffers a shader, groups of 256, 16 KiB of shared memory. */
static const char *why_unusable(const VkPhysicalDeviceProperties *p, const struct lt_vk_limits *l)
{
    if (p->apiVersion < VK_API_VERSION_1_1)
        return "it is older than Vulkan 1.1";
    if (p->limits.maxPerStageDescriptorStorageBuffers < 12)
        return "a shader may read fewer than 12 buffers";
    if (l->invocations < 256 || p->limits.maxComputeWorkGroupSize[0] < 256)
        return "its workgroups have fewer than 256 invocations";
    if (l->shared_bytes < 16384)
        return "its workgroups have less than 16 KiB of shared memory";
    if (l->offset_align > 256)
        return "its buffer offsets are coarser than 256 bytes";
    return NULL;
}

static void describe(const struct lt_vk_device *d, VkPhysicalDevice physical, struct lt_vk_device_info *info)
{
    VkPhysicalDeviceSubgroupProperties subgroup = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES};
    VkPhysicalDeviceMaintenance3Properties maintenance = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES, .pNext = &subgroup};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                     .pNext = &maintenance};
    memset(info, 0, sizeof *info);
    d->api.GetPhysicalDeviceProperties2(physical, &p);
    lt_snprintf(info->name, sizeof info->name, "%s", p.properties.deviceName);
    info->type = type_name(p.properties.deviceType);
    info->api = p.properties.apiVersion;
    lt_vk_features_read(&d->api, physical, &info->features);
    read_limits(&info->limits, &p.properties.limits, maintenance.maxMemoryAllocationSize,
                subgroup.subgroupSize);
    read_memory(&d->api, physical, info->features.budget, info, NULL);
    info->unusable = why_unusable(&p.properties, &info->limits);
}

enum lt_status lt_vk_enumerate(struct lt_vk_device *d, VkPhysicalDevice *devices,
                               struct lt_vk_device_info *infos, uint32_t *count, struct lt_error *err)
{
    *count = LT_VK_MAX_DEVICES;
    VkResult result = d->api.EnumeratePhysicalDevices(d->instance, count, devices);
    if (result != VK_INCOMPLETE)
        LT_TRY(lt_vk_check(result, "listing the Vulkan devices", err));
    for (uint32_t i = 0; i < *count; i++)
        describe(d, devices[i], &infos[i]);
    return LT_OK;
}

uint64_t lt_vk_device_available(const struct lt_vk_device *d)
{
    struct lt_vk_device_info now = d->info;
    if (!d->info.features.budget)
        return 0;
    read_memory(&d->api, d->physical, true, &now, NULL);
    return now.available;
}

/* ---- opening ---- */

static enum lt_status choose(struct lt_vk_device *d, int index, struct lt_error *err)
{
    VkPhysicalDevice devices[LT_VK_MAX_DEVICES];
    struct lt_vk_device_info infos[LT_VK_MAX_DEVICES];
    uint32_t count, chosen = (uint32_t)index;
    LT_TRY(lt_vk_enumerate(d, devices, infos, &count, err));
    if (chosen >= count)
        return lt_fail(err, LT_ERR_NOT_FOUND,
                       "there is no Vulkan device number %d: %u device%s found (--list-devices lists them)",
                       index, count, count == 1 ? " was" : "s were");
    d->physical = devices[chosen];
    d->info = infos[chosen];
    if (d->info.unusable)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "the Vulkan device %s cannot be used: %s", d->info.name,
                       d->info.unusable);
    read_memory(&d->api, d->physical, d->info.features.budget, &d->info, &d->memory);
    return LT_OK;
}

/* A family for compute only keeps a desktop responsive; else any that computes.  One that neither computes nor draws moves
 * data beside it. */
static enum lt_status choose_queues(struct lt_vk_device *d, bool *transfer, struct lt_error *err)
{
    VkQueueFamilyProperties families[32];
    uint32_t count = 32;
    bool found = false, draws = true;
    *transfer = false;
    d->api.GetPhysicalDeviceQueueFamilyProperties(d->physical, &count, families);
    for (uint32_t i = 0; i < count; i++) {
        VkQueueFlags flags = families[i].queueFlags;
        if (families[i].queueCount == 0)
            continue;
        if ((flags & VK_QUEUE_COMPUTE_BIT) && (!found || (draws && !(flags & VK_QUEUE_GRAPHICS_BIT)))) {
            d->queue_family = i;
            draws = flags & VK_QUEUE_GRAPHICS_BIT;
            found = true;
        }
        if ((flags & VK_QUEUE_TRANSFER_BIT) && !(flags & (VK_QUEUE_COMPUTE_BIT | VK_QUEUE_GRAPHICS_BIT)) &&
            !*transfer && !lt_vk_switched_on("LT_VK_NO_TRANSFER_QUEUE")) {
            d->transfer_family = i;
            *transfer = true;
        }
    }
    return found ? LT_OK : lt_fail(err, LT_ERR_UNSUPPORTED, "%s has no compute queue", d->info.name);
}

enum lt_status lt_vk_device_open(struct lt_vk_device *d, int index, struct lt_error *err)
{
    struct lt_vk_enabled enabled;
    bool transfer;
    const float priority = 1.0f;
    LT_TRY(lt_vk_instance_open(d, err));
    LT_TRY(choose(d, index, err));
    LT_TRY(choose_queues(d, &transfer, err));
    VkDeviceQueueCreateInfo queues[2] = {{.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                          .queueFamilyIndex = d->queue_family,
                                          .queueCount = 1,
                                          .pQueuePriorities = &priority}};
    queues[1] = queues[0];
    queues[1].queueFamilyIndex = d->transfer_family;
    lt_vk_features_enable(&d->info.features, &enabled);
    const VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                     .pNext = enabled.next,
                                     .queueCreateInfoCount = transfer ? 2 : 1,
                                     .pQueueCreateInfos = queues,
                                     .enabledExtensionCount = enabled.extension_count,
                                     .ppEnabledExtensionNames = enabled.extensions};
    LT_TRY(lt_vk_check(d->api.CreateDevice(d->physical, &info, NULL, &d->device), "opening the device", err));
    LT_TRY(lt_vk_api_device(&d->api, d->device, err));
    d->api.GetDeviceQueue(d->device, d->queue_family, 0, &d->queue);
    if (transfer)
        d->api.GetDeviceQueue(d->device, d->transfer_family, 0, &d->transfer);
    return LT_OK;
}

void lt_vk_device_close(struct lt_vk_device *d)
{
    if (d->device && d->api.DestroyDevice)
        d->api.DestroyDevice(d->device, NULL);
    if (d->messenger)
        d->api.DestroyDebugUtilsMessengerEXT(d->instance, d->messenger, NULL);
    if (d->instance && d->api.DestroyInstance)
        d->api.DestroyInstance(d->instance, NULL);
    lt_vk_api_close(&d->api);
    memset(d, 0, sizeof *d);
}

enum lt_status lt_vk_device_messages(const struct lt_vk_device *d, struct lt_error *err)
{
    if (d->messages == 0)
        return LT_OK;
    return lt_fail(err, LT_ERR_DEVICE, "%u Vulkan validation message%s; the first: %s", d->messages,
                   d->messages == 1 ? "" : "s", d->first_message);
}
