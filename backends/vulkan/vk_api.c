#include "backends/vulkan/vk_api.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/shared_library.h"

struct entry {
    const char *name;
    size_t at; /* of the pointer in struct lt_vk_api */
};

#define LT_VK_ENTRY(fn) {"vk" #fn, offsetof(struct lt_vk_api, fn)},
static const struct entry global_entries[] = {LT_VK_GLOBAL(LT_VK_ENTRY)};
static const struct entry instance_entries[] = {LT_VK_INSTANCE(LT_VK_ENTRY)};
static const struct entry device_entries[] = {LT_VK_DEVICE(LT_VK_ENTRY)};
#undef LT_VK_ENTRY

/* Device functions come from the device when it is given, else everything comes from the instance. */
static enum lt_status find_all(struct lt_vk_api *api, const struct entry *entries, size_t count,
                               VkInstance instance, VkDevice device, struct lt_error *err)
{
    for (size_t i = 0; i < count; i++) {
        PFN_vkVoidFunction fn = device ? api->GetDeviceProcAddr(device, entries[i].name)
                                       : api->GetInstanceProcAddr(instance, entries[i].name);
        if (!fn)
            return lt_fail(
                err, LT_ERR_UNSUPPORTED,
                "the Vulkan driver has no function %s: install a driver for Vulkan 1.1 or later, or "
                "use --device cpu",
                entries[i].name);
        memcpy((char *)api + entries[i].at, &fn, sizeof fn);
    }
    return LT_OK;
}

enum lt_status lt_vk_api_open(struct lt_vk_api *api, struct lt_error *err)
{
    struct lt_error why = {.message = "LT_VK_NO_LOADER is set"};
    const char *off = getenv("LT_VK_NO_LOADER"), *other = getenv("LT_VK_LOADER");
    const char *file = other && *other ? other : "libvulkan.so.1";
    if (!off || !*off || strcmp(off, "0") == 0)
        api->library = lt_library_open(file, &why);
    if (!api->library)
        return lt_fail(
            err, LT_ERR_NOT_FOUND,
            "no Vulkan on this machine (%s): install the Vulkan loader and the driver of the GPU, or "
            "use --device cpu",
            why.message);
    lt_library_fn fn = lt_library_symbol(api->library, "vkGetInstanceProcAddr");
    if (!fn)
        return lt_fail(err, LT_ERR_NOT_FOUND, "%s is not a Vulkan loader", file);
    memcpy(&api->GetInstanceProcAddr, &fn, sizeof fn);
    return find_all(api, global_entries, sizeof global_entries / sizeof *global_entries, NULL, NULL, err);
}

enum lt_status lt_vk_api_instance(struct lt_vk_api *api, VkInstance instance, struct lt_error *err)
{
    LT_TRY(find_all(api, instance_entries, sizeof instance_entries / sizeof *instance_entries, instance, NULL,
                    err));
    PFN_vkVoidFunction create = api->GetInstanceProcAddr(instance, "vkCreateDebugUtilsMessengerEXT");
    PFN_vkVoidFunction destroy = api->GetInstanceProcAddr(instance, "vkDestroyDebugUtilsMessengerEXT");
    memcpy(&api->CreateDebugUtilsMessengerEXT, &create, sizeof create);
    memcpy(&api->DestroyDebugUtilsMessengerEXT, &destroy, sizeof destroy);
    PFN_vkVoidFunction coopmat =
        api->GetInstanceProcAddr(instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    memcpy(&api->GetCooperativeMatrixProperties, &coopmat, sizeof coopmat);
    return LT_OK;
}

enum lt_status lt_vk_api_device(struct lt_vk_api *api, VkDevice device, struct lt_error *err)
{
    return find_all(api, device_entries, sizeof device_entries / sizeof *device_entries, NULL, device, err);
}

void lt_vk_api_close(struct lt_vk_api *api)
{
    lt_library_close(api->library);
    memset(api, 0, sizeof *api);
}

enum lt_status lt_vk_check(VkResult result, const char *doing, struct lt_error *err)
{
    switch (result) {
    case VK_SUCCESS:
        return LT_OK;
    case VK_ERROR_DEVICE_LOST:
        return lt_fail(
            err, LT_ERR_DEVICE,
            "the Vulkan device was lost while %s: its driver gave up (a watchdog or a fault); run again "
            "from the last checkpoint, with LT_VK_DEBUG=1 to learn which op it was",
            doing);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
        return lt_fail(
            err, LT_ERR_NOMEM,
            "out of device memory while %s: lower the micro-batch or the sequence length, or close other "
            "programs on this GPU",
            doing);
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while %s", doing);
    case VK_ERROR_TOO_MANY_OBJECTS:
        return lt_fail(err, LT_ERR_DEVICE, "the Vulkan driver allows no further allocations while %s", doing);
    default:
        return lt_fail(err, LT_ERR_DEVICE, "the Vulkan driver failed with error %d while %s", (int)result,
                       doing);
    }
}
