/* The NEON rung of the kernel table. */
#include "backends/cpu/arm/arm_kernels.h"

void lt_cpu_kernels_neon(struct lt_cpu_kernels *k)
{
    lt_norm_kernels_neon(k);
    lt_rope_kernels_neon(k);
    lt_act_kernels_neon(k);
    lt_elementwise_kernels_neon(k);
    lt_dropout_kernels_neon(k);
    lt_cross_entropy_kernels_neon(k);
    lt_attention_kernels_neon(k);
    lt_optimizer_kernels_neon(k);
    lt_decode_kernels_neon(k);
    lt_int8_kernels_neon(k);
    lt_gemv_kernels_neon(k);
}
