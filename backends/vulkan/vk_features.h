/* What a device can do beyond the floor.  Everything here is asked for, has an off-switch in the environment and is
 * enabled when the device is opened. */
#ifndef LT_VULKAN_VK_FEATURES_H
#define LT_VULKAN_VK_FEATURES_H

#include <stdbool.h>

#include "backends/vulkan/vk_api.h"
#include "core/base/strbuf.h"

enum { LT_VK_COOPMAT_SUBGROUP = 32, LT_VK_COOPMAT_SUBGROUPS = 8 }; /* invocations; at most, of a workgroup */

struct lt_vk_features {
    bool budget;  /* VK_EXT_memory_budget; LT_VK_NO_MEMORY_BUDGET=1: off */
    bool float16; /* f16 arithmetic in shaders; LT_VK_NO_FLOAT16=1: off */
    /* Cooperative matrices 16 x 16 x 16 of f16 with f32 sums, by subgroups of 32: offered, and used, which takes
     * LT_VK_COOPMAT=1.  LT_VK_NO_COOPMAT=1: off. */
    bool has_coopmat, coopmat;
};

/* The structs and names of vkCreateDevice; stays in place until that call. */
struct lt_vk_enabled {
    VkPhysicalDeviceShaderFloat16Int8Features float16;
    VkPhysicalDeviceVulkanMemoryModelFeatures memory_model;
    VkPhysicalDeviceSubgroupSizeControlFeatures subgroup_size;
    struct lt_vk_coopmat_features coopmat;
    const char *extensions[5];
    uint32_t extension_count;
    const void *next; /* the chain */
};

/* A switch of the environment: set, not empty, not "0". */
bool lt_vk_switched_on(const char *name);

void lt_vk_features_read(const struct lt_vk_api *api, VkPhysicalDevice physical, struct lt_vk_features *f);
void lt_vk_features_enable(const struct lt_vk_features *f, struct lt_vk_enabled *e);
/* "f16 arithmetic, cooperative matrices (LT_VK_COOPMAT=1 uses them)", or "". */
void lt_vk_features_describe(const struct lt_vk_features *f, struct lt_strbuf *out);

#endif
