/* Instance, device and what it can do. */
#ifndef LT_VULKAN_VK_DEVICE_H
#define LT_VULKAN_VK_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/vulkan/vk_features.h"

enum { LT_VK_MAX_DEVICES = 16 };

/* Limits in force: the device's, lowered by the environment where a test asks for that. */
struct lt_vk_limits {
    uint64_t storage_range; /* bytes one binding may see; LT_VK_MAX_RANGE lowers it */
    uint32_t offset_align;  /* of a binding's offset, bytes */
    uint32_t shared_bytes;  /* of a workgroup; LT_VK_MAX_SHARED lowers it */
    uint32_t invocations;   /* of a workgroup */
    uint32_t groups[3];
    uint64_t allocation; /* largest single piece of device memory */
    uint32_t subgroup;   /* invocations of a subgroup; for people only, no shader relies on it */
};

struct lt_vk_device_info {
    char name[256];
    const char *type;   /* "discrete GPU", "integrated GPU", "virtual GPU", "CPU", "other" */
    uint32_t api;       /* VK_MAKE_VERSION */
    uint64_t memory;    /* bytes of the largest device-local heap */
    uint64_t available; /* of those, free for this process now (VK_EXT_memory_budget); 0: unknown */
    struct lt_vk_features features;
    struct lt_vk_limits limits;
    const char *unusable; /* why it cannot be used; NULL: it can */
};

struct lt_vk_device {
    struct lt_vk_api api;
    VkInstance instance;
    VkDebugUtilsMessengerEXT messenger;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    uint32_t queue_family;
    /* Of a family that only copies, beside the compute queue; NULL where there is none or LT_VK_NO_TRANSFER_QUEUE=1.
     * Buffers are then shared by both families. */
    VkQueue transfer;
    uint32_t transfer_family;
    VkPhysicalDeviceMemoryProperties memory;
    struct lt_vk_device_info info;
    bool debug;              /* LT_VK_DEBUG: one submission an op, waited for */
    bool validation;         /* LT_VK_VALIDATION: messages become errors */
    unsigned messages;       /* validation messages so far */
    char first_message[768]; /* the first of them */
};

/* The instance and the description of every device, best first as the driver lists them. */
enum lt_status lt_vk_instance_open(struct lt_vk_device *d, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_vk_enumerate(struct lt_vk_device *d, VkPhysicalDevice *devices,
                               struct lt_vk_device_info *infos, uint32_t *count, struct lt_error *err)
    LT_MUST_USE;
/* Opens device number `index`; LT_ERR_NOT_FOUND when there is none. */
enum lt_status lt_vk_device_open(struct lt_vk_device *d, int index, struct lt_error *err) LT_MUST_USE;
void lt_vk_device_close(struct lt_vk_device *d); /* a zeroed or half-open one is accepted */

/* Bytes of the device heap that this process may still use; 0: unknown. */
uint64_t lt_vk_device_available(const struct lt_vk_device *d);
/* LT_ERR_DEVICE with the first validation message when there was one. */
enum lt_status lt_vk_device_messages(const struct lt_vk_device *d, struct lt_error *err) LT_MUST_USE;

#endif
