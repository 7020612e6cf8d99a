#include "backends/vulkan/vk_shaders.h"

#include "obj/shaders.inc" /* written by the Makefile */

static const struct lt_vk_code shaders[LT_VK_SHADER_COUNT] = {
#define LT_VK_SHADER(name) [LT_VK_SHADER_##name] = {#name, name##_words, sizeof name##_words},
#include "backends/vulkan/shaders.def"
#undef LT_VK_SHADER
};

const struct lt_vk_code *lt_vk_shader_code(enum lt_vk_shader shader)
{
    return &shaders[shader];
}
