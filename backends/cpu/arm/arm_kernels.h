/* What each translation unit of the NEON rung puts into the kernel table. */
#ifndef LT_CPU_ARM_KERNELS_H
#define LT_CPU_ARM_KERNELS_H

#include "backends/cpu/kernels.h"

void lt_norm_kernels_neon(struct lt_cpu_kernels *k);
void lt_rope_kernels_neon(struct lt_cpu_kernels *k);
void lt_act_kernels_neon(struct lt_cpu_kernels *k);
void lt_elementwise_kernels_neon(struct lt_cpu_kernels *k);
void lt_dropout_kernels_neon(struct lt_cpu_kernels *k);
void lt_cross_entropy_kernels_neon(struct lt_cpu_kernels *k);
void lt_attention_kernels_neon(struct lt_cpu_kernels *k);
void lt_optimizer_kernels_neon(struct lt_cpu_kernels *k);
void lt_decode_kernels_neon(struct lt_cpu_kernels *k);
void lt_int8_kernels_neon(struct lt_cpu_kernels *k);
void lt_gemv_kernels_neon(struct lt_cpu_kernels *k);

/* The factors of dropout: bits(row_key, column + i) >= threshold ? scale : 0; column a multiple of 4. */
void lt_keep_row_neon(float *keep, int64_t n, const struct lt_rng_site *site, uint32_t row_key,
                      uint32_t column, uint32_t threshold, float scale);

#endif
