/* A Vulkan loader for tests (LT_VK_LOADER=FILE): the real one, whose devices have more than they have.
 *   - a second queue family for transfers only, on the same queue;
 *   - VK_EXT_memory_budget, with LT_SHIM_BUDGET bytes of each heap free (default 1 GiB);
 *   - with LT_SHIM_COOPMAT=FILE cooperative matrices 16 x 16 x 16 by subgroups of 32: FILE, the same shader with the
 *     operations on fragments written out, takes the place of a shader that has them.
 * What is wrong above it (commands of one family on the other's queue, a buffer of both families that does not say so)
 * ends the program.  LT_SHIM_LOG=1 says on standard error what was used. */
#define VK_NO_PROTOTYPES
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/vulkan/vk_api.h"

enum {
    REAL_FAMILY = 0,
    TRANSFER_FAMILY = 1,
    MAX_POOLS = 64,
    MAX_COMMANDS = 65536,
    COOPMAT_CAPABILITY = 6022
};

/* The functions below it; one instance and one device at a time are enough for the programs. */
static struct {
    PFN_vkGetInstanceProcAddr get_instance;
    PFN_vkGetDeviceProcAddr get_device;
    VkInstance instance;
    VkDevice device;
    VkQueue queue;
    uint32_t real_families, transfer_family;
    VkCommandPool transfer_pools[MAX_POOLS];
    uint32_t pool_count;
    VkCommandBuffer transfer_commands[MAX_COMMANDS];
    uint32_t command_count;
    unsigned transfers, emulated;
} shim;

static int transfer_handle; /* its address is the transfer queue */
#define TRANSFER_QUEUE ((VkQueue)(void *)&transfer_handle)

static void die(const char *what)
{
    fprintf(stderr, "vulkan shim: ERROR: %s\n", what);
    _Exit(70);
}

static PFN_vkVoidFunction below(const char *name)
{
    PFN_vkVoidFunction fn = shim.get_instance(shim.instance, name);
    if (!fn)
        die(name);
    return fn;
}

static PFN_vkVoidFunction below_device(const char *name)
{
    PFN_vkVoidFunction fn = shim.get_device(shim.device, name);
    if (!fn)
        die(name);
    return fn;
}
#define BELOW(name) ((PFN_vk##name)below("vk" #name))
#define BELOW_DEVICE(name) ((PFN_vk##name)below_device("vk" #name))

static const char *coopmat_file(void)
{
    const char *file = getenv("LT_SHIM_COOPMAT");
    return file && *file ? file : NULL;
}

/* The link to the struct of this type in a chain, or NULL. */
static VkBaseOutStructure **find_link(const void *head, VkStructureType type)
{
    VkBaseOutStructure *s = (VkBaseOutStructure *)(uintptr_t)head;
    for (; s->pNext; s = s->pNext)
        if (s->pNext->sType == type)
            return &s->pNext;
    return NULL;
}

/* Takes it out of the chain while the real function runs. */
static VkBaseOutStructure *take(VkBaseOutStructure **link)
{
    VkBaseOutStructure *s = link ? *link : NULL;
    if (s)
        *link = s->pNext;
    return s;
}

static void give(VkBaseOutStructure **link, VkBaseOutStructure *s)
{
    if (s)
        *link = s;
}

/* ---- what devices say ---- */

static const char *const added_extensions[] = {VK_EXT_MEMORY_BUDGET_EXTENSION_NAME, LT_VK_COOPMAT_EXTENSION};

static uint32_t added_count(void)
{
    return coopmat_file() ? 2 : 1;
}

static VKAPI_ATTR VkResult VKAPI_CALL enumerate_extensions(VkPhysicalDevice physical, const char *layer,
                                                           uint32_t *count, VkExtensionProperties *list)
{
    uint32_t room = *count, more = layer ? 0 : added_count();
    VkResult result = BELOW(EnumerateDeviceExtensionProperties)(physical, layer, count, list);
    if (!list) {
        *count += more;
        return result;
    }
    for (uint32_t i = 0; i < more && result == VK_SUCCESS; i++) {
        if (*count == room)
            return VK_INCOMPLETE;
        VkExtensionProperties *e = &list[(*count)++];
        e->specVersion = 1;
        snprintf(e->extensionName, sizeof e->extensionName, "%s", added_extensions[i]);
    }
    return result;
}

static VKAPI_ATTR void VKAPI_CALL queue_families(VkPhysicalDevice physical, uint32_t *count,
                                                 VkQueueFamilyProperties *list)
{
    uint32_t room = *count;
    BELOW(GetPhysicalDeviceQueueFamilyProperties)(physical, count, list);
    shim.transfer_family = *count;
    if (!list)
        ++*count;
    else if (*count < room)
        list[(*count)++] = (VkQueueFamilyProperties){
            .queueFlags = VK_QUEUE_TRANSFER_BIT, .queueCount = 1, .minImageTransferGranularity = {1, 1, 1}};
}

static VKAPI_ATTR void VKAPI_CALL memory_properties(VkPhysicalDevice physical,
                                                    VkPhysicalDeviceMemoryProperties2 *p)
{
    VkBaseOutStructure **link = find_link(p, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT),
                       *s = take(link);
    BELOW(GetPhysicalDeviceMemoryProperties2)(physical, p);
    give(link, s);
    VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget = (void *)s;
    const char *wanted = getenv("LT_SHIM_BUDGET");
    for (uint32_t i = 0; budget && i < p->memoryProperties.memoryHeapCount; i++) {
        uint64_t free_bytes = wanted ? strtoull(wanted, NULL, 10) : 1ull << 30;
        budget->heapUsage[i] = 1ull << 28;
        budget->heapBudget[i] = budget->heapUsage[i] + free_bytes;
    }
}

static VKAPI_ATTR void VKAPI_CALL features(VkPhysicalDevice physical, VkPhysicalDeviceFeatures2 *f)
{
    VkBaseOutStructure **link = find_link(f, LT_VK_COOPMAT_FEATURES), *s = take(link);
    BELOW(GetPhysicalDeviceFeatures2)(physical, f);
    give(link, s);
    if (s)
        ((struct lt_vk_coopmat_features *)(void *)s)->matrix = VK_TRUE;
}

static VKAPI_ATTR void VKAPI_CALL properties(VkPhysicalDevice physical, VkPhysicalDeviceProperties2 *p)
{
    VkBaseOutStructure **link = find_link(p, LT_VK_COOPMAT_PROPERTIES), *s = take(link);
    BELOW(GetPhysicalDeviceProperties2)(physical, p);
    give(link, s);
    if (s)
        ((struct lt_vk_coopmat_properties *)(void *)s)->stages = VK_SHADER_STAGE_COMPUTE_BIT;
    VkBaseOutStructure **size =
        find_link(p, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES);
    if (s && size)
        ((VkPhysicalDeviceSubgroupSizeControlProperties *)(void *)*size)->maxSubgroupSize = 32;
}

static VKAPI_ATTR VkResult VKAPI_CALL coopmat_shapes(VkPhysicalDevice physical, uint32_t *count,
                                                     struct lt_vk_coopmat_shape *shapes)
{
    (void)physical;
    if (shapes && *count < 2)
        return VK_INCOMPLETE;
    *count = 2;
    for (uint32_t i = 0; shapes && i < 2; i++) { /* one that will not do, and one that will */
        shapes[i].m = shapes[i].n = 16;
        shapes[i].k = i == 0 ? 8 : 16;
        shapes[i].a = shapes[i].b = LT_VK_COMPONENT_F16;
        shapes[i].c = shapes[i].result = i == 0 ? LT_VK_COMPONENT_F16 : LT_VK_COMPONENT_F32;
        shapes[i].saturating = VK_FALSE;
        shapes[i].scope = LT_VK_SCOPE_SUBGROUP;
    }
    return VK_SUCCESS;
}

/* ---- the device ---- */

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                                    const VkAllocationCallbacks *alloc, VkDevice *device)
{
    VkDeviceCreateInfo real = *info;
    VkDeviceQueueCreateInfo queues[8];
    const char *names[64];
    real.pQueueCreateInfos = queues;
    real.queueCreateInfoCount = 0;
    for (uint32_t i = 0; i < info->queueCreateInfoCount; i++)
        if (info->pQueueCreateInfos[i].queueFamilyIndex != shim.transfer_family)
            queues[real.queueCreateInfoCount++] = info->pQueueCreateInfos[i];
    real.ppEnabledExtensionNames = names;
    real.enabledExtensionCount = 0;
    for (uint32_t i = 0; i < info->enabledExtensionCount; i++) {
        const char *name = info->ppEnabledExtensionNames[i];
        if (strcmp(name, added_extensions[0]) != 0 && strcmp(name, added_extensions[1]) != 0)
            names[real.enabledExtensionCount++] = name;
    }
    VkBaseOutStructure **link = find_link(&real, LT_VK_COOPMAT_FEATURES), *s = take(link);
    VkResult result = BELOW(CreateDevice)(physical, &real, alloc, device);
    give(link, s);
    shim.device = *device;
    return result;
}

static VKAPI_ATTR void VKAPI_CALL destroy_device(VkDevice device, const VkAllocationCallbacks *alloc)
{
    if (getenv("LT_SHIM_LOG"))
        fprintf(stderr, "vulkan shim: %u transfers, %u shaders with cooperative matrices\n", shim.transfers,
                shim.emulated);
    BELOW_DEVICE(DestroyDevice)(device, alloc);
    shim.pool_count = shim.command_count = shim.transfers = shim.emulated = 0;
}

static VKAPI_ATTR void VKAPI_CALL get_queue(VkDevice device, uint32_t family, uint32_t index, VkQueue *queue)
{
    if (family == shim.transfer_family) {
        *queue = TRANSFER_QUEUE;
        return;
    }
    BELOW_DEVICE(GetDeviceQueue)(device, family, index, queue);
    shim.queue = *queue;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_pool(VkDevice device, const VkCommandPoolCreateInfo *info,
                                                  const VkAllocationCallbacks *alloc, VkCommandPool *pool)
{
    VkCommandPoolCreateInfo real = *info;
    if (info->queueFamilyIndex == shim.transfer_family)
        real.queueFamilyIndex = REAL_FAMILY;
    VkResult result = BELOW_DEVICE(CreateCommandPool)(device, &real, alloc, pool);
    if (info->queueFamilyIndex == shim.transfer_family) {
        if (shim.pool_count == MAX_POOLS)
            die("too many command pools");
        shim.transfer_pools[shim.pool_count++] = *pool;
    }
    return result;
}

static VKAPI_ATTR VkResult VKAPI_CALL allocate_commands(VkDevice device,
                                                        const VkCommandBufferAllocateInfo *info,
                                                        VkCommandBuffer *commands)
{
    VkResult result = BELOW_DEVICE(AllocateCommandBuffers)(device, info, commands);
    for (uint32_t p = 0; p < shim.pool_count; p++)
        for (uint32_t i = 0; shim.transfer_pools[p] == info->commandPool && i < info->commandBufferCount;
             i++) {
            if (shim.command_count == MAX_COMMANDS)
                die("too many command buffers");
            shim.transfer_commands[shim.command_count++] = commands[i];
        }
    return result;
}

static int is_transfer(VkCommandBuffer commands)
{
    for (uint32_t i = 0; i < shim.command_count; i++)
        if (shim.transfer_commands[i] == commands)
            return 1;
    return 0;
}

static VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo *infos,
                                             VkFence fence)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t c = 0; c < infos[i].commandBufferCount; c++)
            if (is_transfer(infos[i].pCommandBuffers[c]) != (queue == TRANSFER_QUEUE))
                die("commands of one family on the queue of the other");
    shim.transfers += queue == TRANSFER_QUEUE;
    return BELOW_DEVICE(QueueSubmit)(queue == TRANSFER_QUEUE ? shim.queue : queue, count, infos, fence);
}

static VKAPI_ATTR VkResult VKAPI_CALL create_buffer(VkDevice device, const VkBufferCreateInfo *info,
                                                    const VkAllocationCallbacks *alloc, VkBuffer *buffer)
{
    VkBufferCreateInfo real = *info;
    if (info->sharingMode == VK_SHARING_MODE_CONCURRENT) {
        if (info->queueFamilyIndexCount < 2)
            die("a buffer of several families names fewer than two");
        real.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
        real.queueFamilyIndexCount = 0;
        real.pQueueFamilyIndices = NULL;
    } else if (shim.pool_count > 0) {
        die("a buffer that both families touch does not say so");
    }
    return BELOW_DEVICE(CreateBuffer)(device, &real, alloc, buffer);
}

/* ---- shaders ---- */

/* Does a module declare the capability?  Capabilities come first: opcode 17, two words. */
static int has_coopmat(const VkShaderModuleCreateInfo *info)
{
    for (size_t i = 5; i + 1 < info->codeSize / 4 && info->pCode[i] == (2u << 16 | 17); i += 2)
        if (info->pCode[i + 1] == COOPMAT_CAPABILITY)
            return 1;
    return 0;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_module(VkDevice device, const VkShaderModuleCreateInfo *info,
                                                    const VkAllocationCallbacks *alloc,
                                                    VkShaderModule *module)
{
    static uint32_t words[1 << 18];
    VkShaderModuleCreateInfo real = *info;
    if (has_coopmat(info)) {
        FILE *f = coopmat_file() ? fopen(coopmat_file(), "rb") : NULL;
        if (!f)
            die("a shader with cooperative matrices, and no LT_SHIM_COOPMAT in its place");
        real.codeSize = fread(words, 1, sizeof words, f);
        real.pCode = words;
        fclose(f);
        shim.emulated++;
    }
    return BELOW_DEVICE(CreateShaderModule)(device, &real, alloc, module);
}

/* Subgroups of 32 are the emulation's own. */
static VKAPI_ATTR VkResult VKAPI_CALL create_pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                                       const VkComputePipelineCreateInfo *infos,
                                                       const VkAllocationCallbacks *alloc,
                                                       VkPipeline *pipelines)
{
    for (uint32_t i = 0; i < count; i++) {
        VkComputePipelineCreateInfo real = infos[i];
        real.stage.pNext = NULL;
        real.stage.flags = 0;
        VkResult result = BELOW_DEVICE(CreateComputePipelines)(device, cache, 1, &real, alloc, &pipelines[i]);
        if (result != VK_SUCCESS)
            return result;
    }
    return VK_SUCCESS;
}

/* ---- finding functions ---- */

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info,
                                                      const VkAllocationCallbacks *alloc,
                                                      VkInstance *instance)
{
    VkResult result = BELOW(CreateInstance)(info, alloc, instance);
    if (result == VK_SUCCESS) {
        shim.instance = *instance;
        shim.get_device = BELOW(GetDeviceProcAddr);
    }
    return result;
}

static VKAPI_ATTR void VKAPI_CALL destroy_instance(VkInstance instance, const VkAllocationCallbacks *alloc)
{
    BELOW(DestroyInstance)(instance, alloc);
    shim.instance = NULL;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device_proc(VkDevice device, const char *name);

#define OWN(name, fn)                      \
    {                                      \
        "vk" #name, (PFN_vkVoidFunction)fn \
    }
static const struct own {
    const char *name;
    PFN_vkVoidFunction fn;
} own[] = {
    OWN(CreateInstance, create_instance),
    OWN(DestroyInstance, destroy_instance),
    OWN(GetDeviceProcAddr, get_device_proc),
    OWN(EnumerateDeviceExtensionProperties, enumerate_extensions),
    OWN(GetPhysicalDeviceQueueFamilyProperties, queue_families),
    OWN(GetPhysicalDeviceMemoryProperties2, memory_properties),
    OWN(GetPhysicalDeviceFeatures2, features),
    OWN(GetPhysicalDeviceProperties2, properties),
    OWN(GetPhysicalDeviceCooperativeMatrixPropertiesKHR, coopmat_shapes),
    OWN(CreateDevice, create_device),
    OWN(DestroyDevice, destroy_device),
    OWN(GetDeviceQueue, get_queue),
    OWN(CreateCommandPool, create_pool),
    OWN(AllocateCommandBuffers, allocate_commands),
    OWN(QueueSubmit, submit),
    OWN(CreateBuffer, create_buffer),
    OWN(CreateShaderModule, create_module),
    OWN(CreateComputePipelines, create_pipelines),
};

static PFN_vkVoidFunction own_function(const char *name)
{
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(own[i].name, name) == 0)
            return own[i].fn;
    return NULL;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device_proc(VkDevice device, const char *name)
{
    PFN_vkVoidFunction fn = own_function(name);
    return fn ? fn : shim.get_device(device, name);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name);
VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name)
{
    if (!shim.get_instance) {
        void *library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL), *fn = NULL;
        if (library)
            fn = dlsym(library, "vkGetInstanceProcAddr");
        if (!fn)
            return NULL;
        memcpy(&shim.get_instance, &fn, sizeof fn);
    }
    PFN_vkVoidFunction fn = own_function(name);
    return fn ? fn : shim.get_instance(instance, name);
}
