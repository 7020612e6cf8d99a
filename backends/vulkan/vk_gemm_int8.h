/* Linear layers of LLM.int8() outside training, with the bits of backends/cpu/cpu_ops_int8.c. */
#ifndef LT_VULKAN_VK_GEMM_INT8_H
#define LT_VULKAN_VK_GEMM_INT8_H

#include "backends/vulkan/vk_ops.h"

/* LINEAR with attr.int8 and an INT8 weight; needs lt_vk_gemm_int8_workspace(rows, cols of the weight) bytes. */
void lt_vk_gemm_int8(const struct lt_vk_call *c);
size_t lt_vk_gemm_int8_workspace(int64_t rows, int64_t cols);

#endif
