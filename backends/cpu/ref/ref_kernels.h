/* What each file of the portable rung puts into the kernel table.  These kernels are the meaning of the
 * table: every faster one is tested against them. */
#ifndef LT_CPU_REF_KERNELS_H
#define LT_CPU_REF_KERNELS_H

#include "backends/cpu/kernels.h"

void lt_norm_kernels_ref(struct lt_cpu_kernels *k);
void lt_rope_kernels_ref(struct lt_cpu_kernels *k);
void lt_act_kernels_ref(struct lt_cpu_kernels *k);
void lt_elementwise_kernels_ref(struct lt_cpu_kernels *k);
void lt_cross_entropy_kernels_ref(struct lt_cpu_kernels *k);
void lt_attention_kernels_ref(struct lt_cpu_kernels *k);
void lt_gemv_kernels_ref(struct lt_cpu_kernels *k);
void lt_int8_kernels_ref(struct lt_cpu_kernels *k);
void lt_optimizer_kernels_ref(struct lt_cpu_kernels *k);

#endif
