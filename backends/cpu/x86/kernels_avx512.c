/* The AVX-512 rung of the kernel table.  Norms that move more bytes than they compute, rope, additions,
 * dropout and the optimizer stay with AVX2: they run at memory speed there. */
#include "backends/cpu/x86/x86_kernels.h"

#include "config.h"

void lt_cpu_kernels_avx512(struct lt_cpu_kernels *k)
{
    lt_act_kernels_avx512(k);
    lt_cross_entropy_kernels_avx512(k);
    lt_attention_kernels_avx512(k);
    lt_decode_kernels_avx512(k);
    lt_gemv_kernels_avx512(k);
#if LT_HAVE_AVX512BF16
    if (__builtin_cpu_supports("avx512vnni"))
        lt_int8_kernels_avx512bf16(k);
    if (k->isa >= LT_CPU_AVX512BF16) {
        lt_attention_kernels_avx512bf16(k);
        lt_gemv_kernels_avx512bf16(k);
    }
#endif
}
