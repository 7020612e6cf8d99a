/* The AVX2 rung of the kernel table. */
#include "backends/cpu/x86/x86_kernels.h"

void lt_cpu_kernels_avx2(struct lt_cpu_kernels *k)
{
    lt_norm_kernels_avx2(k);
    lt_rope_kernels_avx2(k);
    lt_act_kernels_avx2(k);
    lt_elementwise_kernels_avx2(k);
    lt_dropout_kernels_avx2(k);
    lt_cross_entropy_kernels_avx2(k);
    lt_attention_kernels_avx2(k);
    lt_optimizer_kernels_avx2(k);
    lt_decode_kernels_avx2(k);
    lt_int8_kernels_avx2(k);
    lt_gemv_kernels_avx2(k);
}
