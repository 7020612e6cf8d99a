/* The Vulkan functions in use, found at run time: the program starts without a Vulkan loader. */
#ifndef LT_VULKAN_VK_API_H
#define LT_VULKAN_VK_API_H

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan.h>

#include "core/base/status.h"

/* clang-format off */
#define LT_VK_GLOBAL(X) \
    X(CreateInstance) X(EnumerateInstanceVersion) X(EnumerateInstanceLayerProperties) \
    X(EnumerateInstanceExtensionProperties)
#define LT_VK_INSTANCE(X) \
    X(DestroyInstance) X(EnumeratePhysicalDevices) X(GetPhysicalDeviceProperties2) X(GetPhysicalDeviceFeatures2) \
    X(GetPhysicalDeviceMemoryProperties2) X(GetPhysicalDeviceQueueFamilyProperties) \
    X(EnumerateDeviceExtensionProperties) X(CreateDevice) X(GetDeviceProcAddr)
#define LT_VK_DEVICE(X) \
    X(DestroyDevice) X(GetDeviceQueue) X(DeviceWaitIdle) X(QueueSubmit) \
    X(CreateBuffer) X(DestroyBuffer) X(GetBufferMemoryRequirements) X(BindBufferMemory) \
    X(AllocateMemory) X(FreeMemory) X(MapMemory) X(UnmapMemory) \
    X(CreateFence) X(DestroyFence) X(ResetFences) X(WaitForFences) X(GetFenceStatus) \
    X(CreateSemaphore) X(DestroySemaphore) \
    X(CreateCommandPool) X(DestroyCommandPool) X(ResetCommandPool) \
    X(AllocateCommandBuffers) X(FreeCommandBuffers) X(BeginCommandBuffer) X(EndCommandBuffer) \
    X(CreateShaderModule) X(DestroyShaderModule) X(CreateDescriptorSetLayout) X(DestroyDescriptorSetLayout) \
    X(CreatePipelineLayout) X(DestroyPipelineLayout) X(CreateComputePipelines) X(DestroyPipeline) \
    X(CreatePipelineCache) X(DestroyPipelineCache) X(GetPipelineCacheData) \
    X(CreateDescriptorPool) X(DestroyDescriptorPool) X(AllocateDescriptorSets) X(UpdateDescriptorSets) \
    X(CmdBindPipeline) X(CmdBindDescriptorSets) X(CmdPushConstants) X(CmdDispatch) X(CmdPipelineBarrier) \
    X(CmdCopyBuffer) X(CmdUpdateBuffer) X(CmdFillBuffer)
/* clang-format on */

/* ---- VK_KHR_cooperative_matrix, as registered; older headers lack it ---- */

#define LT_VK_COOPMAT_EXTENSION "VK_KHR_cooperative_matrix"
#define LT_VK_COOPMAT_FEATURES ((VkStructureType)1000506000)
#define LT_VK_COOPMAT_SHAPE ((VkStructureType)1000506001)
#define LT_VK_COOPMAT_PROPERTIES ((VkStructureType)1000506002)
enum { LT_VK_COMPONENT_F16 = 0, LT_VK_COMPONENT_F32 = 1, LT_VK_SCOPE_SUBGROUP = 3 };

/* VkPhysicalDeviceCooperativeMatrixFeaturesKHR */
struct lt_vk_coopmat_features {
    VkStructureType sType;
    void *pNext;
    VkBool32 matrix, robust;
};

/* VkCooperativeMatrixPropertiesKHR */
struct lt_vk_coopmat_shape {
    VkStructureType sType;
    void *pNext;
    uint32_t m, n, k;
    int32_t a, b, c, result; /* components */
    VkBool32 saturating;
    int32_t scope;
};

/* VkPhysicalDeviceCooperativeMatrixPropertiesKHR */
struct lt_vk_coopmat_properties {
    VkStructureType sType;
    void *pNext;
    VkShaderStageFlags stages;
};

/* vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR */
typedef VkResult(VKAPI_PTR *lt_vk_get_coopmat_fn)(VkPhysicalDevice physical, uint32_t *count,
                                                  struct lt_vk_coopmat_shape *shapes);

struct lt_vk_api {
    void *library;
    PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
    /* VK_EXT_debug_utils; NULL without it */
    PFN_vkCreateDebugUtilsMessengerEXT CreateDebugUtilsMessengerEXT;
    PFN_vkDestroyDebugUtilsMessengerEXT DestroyDebugUtilsMessengerEXT;
    lt_vk_get_coopmat_fn GetCooperativeMatrixProperties; /* VK_KHR_cooperative_matrix; NULL without it */
#define LT_VK_POINTER(name) PFN_vk##name name;
    LT_VK_GLOBAL(LT_VK_POINTER)
    LT_VK_INSTANCE(LT_VK_POINTER)
    LT_VK_DEVICE(LT_VK_POINTER)
#undef LT_VK_POINTER
};

/* Opens the loader (libvulkan.so.1, or the file LT_VK_LOADER) and finds the functions that need no instance.  LT_ERR_NOT_FOUND: this machine
 * has none.  api must be zeroed; lt_vk_api_close accepts a half-filled one. */
enum lt_status lt_vk_api_open(struct lt_vk_api *api, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_vk_api_instance(struct lt_vk_api *api, VkInstance instance, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_vk_api_device(struct lt_vk_api *api, VkDevice device, struct lt_error *err) LT_MUST_USE;
void lt_vk_api_close(struct lt_vk_api *api);

/* A failed call as an error with one sentence; VK_SUCCESS is LT_OK.  `doing`: "submitting work to the device". */
enum lt_status lt_vk_check(VkResult result, const char *doing, struct lt_error *err) LT_MUST_USE;

#endif
