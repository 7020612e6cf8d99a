/* Compute pipelines, compiled for the first recording that uses them, several at a time, and kept in a cache file between runs.  All share one layout: 12 storage
 * buffers and 128 bytes of push constants. */
#ifndef LT_VULKAN_VK_PIPELINE_H
#define LT_VULKAN_VK_PIPELINE_H

#include "backends/vulkan/vk_device.h"
#include "backends/vulkan/vk_shaders.h"

enum { LT_VK_BINDINGS = 12, LT_VK_PUSH_BYTES = 128, LT_VK_MAX_SPEC = 10 };

struct lt_vk_pipeline_key {
    enum lt_vk_shader shader;
    uint32_t spec_count;
    uint32_t spec[LT_VK_MAX_SPEC]; /* values of the constants 0, 1, … */
};

struct lt_vk_pipeline {
    struct lt_vk_pipeline_key key;
    VkPipeline handle; /* NULL: wanted, not compiled yet */
};

struct lt_vk_pipelines {
    struct lt_vk_device *device;
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout layout;
    VkPipelineCache cache;
    char *cache_path; /* NULL: not kept */
    struct lt_vk_pipeline *items;
    size_t count, cap, made; /* made: since the cache file was read */
};

/* The cache file lies in $XDG_CACHE_HOME/lora-train, else $HOME/.cache/lora-train; LT_VK_NO_PIPELINE_CACHE: nowhere. */
enum lt_status lt_vk_pipelines_open(struct lt_vk_pipelines *p, struct lt_vk_device *d, struct lt_error *err)
    LT_MUST_USE;
void lt_vk_pipelines_close(struct lt_vk_pipelines *p); /* writes the cache file; a zeroed one is accepted */
enum lt_status lt_vk_pipeline_get(struct lt_vk_pipelines *p, const struct lt_vk_pipeline_key *key,
                                  VkPipeline *handle, struct lt_error *err) LT_MUST_USE;
/* Notes one that will be asked for; make compiles what was noted on several threads (LT_VK_NO_PARALLEL_COMPILE=1, or
 * under validation: get compiles each when it is asked for). */
enum lt_status lt_vk_pipeline_want(struct lt_vk_pipelines *p, const struct lt_vk_pipeline_key *key,
                                   struct lt_error *err) LT_MUST_USE;
enum lt_status lt_vk_pipelines_make(struct lt_vk_pipelines *p, struct lt_error *err) LT_MUST_USE;

#endif
