#include "backends/cpu/ref/ref_kernels.h"

#include "quant/weight_codec.h"

void lt_cpu_kernels_ref(struct lt_cpu_kernels *k)
{
    lt_norm_kernels_ref(k);
    lt_rope_kernels_ref(k);
    lt_act_kernels_ref(k);
    lt_elementwise_kernels_ref(k);
    lt_cross_entropy_kernels_ref(k);
    lt_attention_kernels_ref(k);
    lt_gemv_kernels_ref(k);
    lt_int8_kernels_ref(k);
    lt_optimizer_kernels_ref(k);
    for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++)
        k->decode[format] = lt_weight_codecs[format].decode;
}
