/* The compiled shaders. */
#ifndef LT_VULKAN_VK_SHADERS_H
#define LT_VULKAN_VK_SHADERS_H

#include <stddef.h>
#include <stdint.h>

enum lt_vk_shader {
#define LT_VK_SHADER(name) LT_VK_SHADER_##name,
#include "backends/vulkan/shaders.def"
#undef LT_VK_SHADER
    LT_VK_SHADER_COUNT
};

struct lt_vk_code {
    const char *name;
    const uint32_t *words; /* SPIR-V */
    size_t bytes;
};

const struct lt_vk_code *lt_vk_shader_code(enum lt_vk_shader shader);

#endif
