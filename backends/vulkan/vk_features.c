#include "backends/vulkan/vk_features.h"

#include <stdlib.h>
#include <string.h>

static const char float16_name[] = VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME,
                  memory_model_name[] = VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME,
                  subgroup_size_name[] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME,
                  coopmat_name[] = LT_VK_COOPMAT_EXTENSION,
                  budget_name[] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;

bool lt_vk_switched_on(const char *name)
{
    const char *value = getenv(name);
    return value && *value && strcmp(value, "0") != 0;
}

/* ---- asking ---- */

struct extensions {
    VkExtensionProperties list[512];
    uint32_t count;
};

static bool has(const struct extensions *e, const char *name)
{
    for (uint32_t i = 0; i < e->count; i++)
        if (strcmp(e->list[i].extensionName, name) == 0)
            return true;
    return false;
}

/* f16 factors, f32 sums, fragments of 16 x 16 x 16 that a subgroup holds. */
static bool has_shape(const struct lt_vk_api *api, VkPhysicalDevice physical)
{
    struct lt_vk_coopmat_shape shapes[64];
    uint32_t count = 64;
    if (!api->GetCooperativeMatrixProperties)
        return false;
    for (uint32_t i = 0; i < count; i++)
        shapes[i] = (struct lt_vk_coopmat_shape){.sType = LT_VK_COOPMAT_SHAPE};
    VkResult result = api->GetCooperativeMatrixProperties(physical, &count, shapes);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < count; i++) {
        const struct lt_vk_coopmat_shape *s = &shapes[i];
        if (s->m == 16 && s->n == 16 && s->k == 16 && s->a == LT_VK_COMPONENT_F16 &&
            s->b == LT_VK_COMPONENT_F16 && s->c == LT_VK_COMPONENT_F32 && s->result == LT_VK_COMPONENT_F32 &&
            s->scope == LT_VK_SCOPE_SUBGROUP && !s->saturating)
            return true;
    }
    return false;
}

/* Workgroups of whole subgroups of 32, in which the fragments can be used. */
static bool has_subgroups(const struct lt_vk_api *api, VkPhysicalDevice physical)
{
    struct lt_vk_coopmat_properties coopmat = {.sType = LT_VK_COOPMAT_PROPERTIES};
    VkPhysicalDeviceSubgroupSizeControlProperties sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES, .pNext = &coopmat};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                     .pNext = &sizes};
    api->GetPhysicalDeviceProperties2(physical, &p);
    return (coopmat.stages & VK_SHADER_STAGE_COMPUTE_BIT) &&
           (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
           sizes.minSubgroupSize <= LT_VK_COOPMAT_SUBGROUP &&
           sizes.maxSubgroupSize >= LT_VK_COOPMAT_SUBGROUP &&
           sizes.maxComputeWorkgroupSubgroups >= LT_VK_COOPMAT_SUBGROUPS;
}

void lt_vk_features_read(const struct lt_vk_api *api, VkPhysicalDevice physical, struct lt_vk_features *f)
{
    struct extensions e = {.count = sizeof e.list / sizeof *e.list};
    struct lt_vk_coopmat_features coopmat = {.sType = LT_VK_COOPMAT_FEATURES};
    VkPhysicalDeviceSubgroupSizeControlFeatures sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES, .pNext = &coopmat};
    VkPhysicalDeviceVulkanMemoryModelFeatures model = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES, .pNext = &sizes};
    VkPhysicalDeviceShaderFloat16Int8Features float16 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                          .pNext = &float16};
    VkResult result = api->EnumerateDeviceExtensionProperties(physical, NULL, &e.count, e.list);
    memset(f, 0, sizeof *f);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE)
        return;
    f->budget = has(&e, budget_name) && !lt_vk_switched_on("LT_VK_NO_MEMORY_BUDGET");
    if (!has(&e, float16_name))
        return;
    bool whole = has(&e, coopmat_name) && has(&e, subgroup_size_name) && has(&e, memory_model_name);
    if (whole)
        float16.pNext = &model;
    api->GetPhysicalDeviceFeatures2(physical, &features);
    f->float16 = float16.shaderFloat16 && !lt_vk_switched_on("LT_VK_NO_FLOAT16");
    f->has_coopmat = whole && float16.shaderFloat16 && coopmat.matrix && sizes.subgroupSizeControl &&
                     sizes.computeFullSubgroups && model.vulkanMemoryModel && has_shape(api, physical) &&
                     has_subgroups(api, physical);
    f->coopmat = f->has_coopmat && f->float16 && lt_vk_switched_on("LT_VK_COOPMAT") &&
                 !lt_vk_switched_on("LT_VK_NO_COOPMAT");
}

/* ---- enabling ---- */

void lt_vk_features_enable(const struct lt_vk_features *f, struct lt_vk_enabled *e)
{
    memset(e, 0, sizeof *e);
    if (f->budget)
        e->extensions[e->extension_count++] = budget_name;
    if (f->float16) {
        e->extensions[e->extension_count++] = float16_name;
        e->float16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES;
        e->float16.shaderFloat16 = VK_TRUE;
        e->next = &e->float16;
    }
    if (f->coopmat) {
        e->extensions[e->extension_count++] = memory_model_name;
        e->extensions[e->extension_count++] = subgroup_size_name;
        e->extensions[e->extension_count++] = coopmat_name;
        e->memory_model.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES;
        e->memory_model.vulkanMemoryModel = VK_TRUE;
        e->subgroup_size.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES;
        e->subgroup_size.subgroupSizeControl = e->subgroup_size.computeFullSubgroups = VK_TRUE;
        e->coopmat.sType = LT_VK_COOPMAT_FEATURES;
        e->coopmat.matrix = VK_TRUE;
        e->float16.pNext = &e->memory_model;
        e->memory_model.pNext = &e->subgroup_size;
        e->subgroup_size.pNext = &e->coopmat;
    }
}

void lt_vk_features_describe(const struct lt_vk_features *f, struct lt_strbuf *out)
{
    if (f->float16)
        lt_strbuf_puts(out, ", f16 arithmetic");
    if (f->has_coopmat)
        lt_strbuf_puts(out, f->coopmat ? ", cooperative matrices"
                                       : ", cooperative matrices (LT_VK_COOPMAT=1 uses them)");
}
