#include "quant/weight_codec.h"

#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/plain.h"

const struct lt_weight_codec lt_weight_codecs[LT_WEIGHT_FORMAT_COUNT] = {
    [LT_WEIGHT_F32] = {.decode = lt_plain_decode},   [LT_WEIGHT_F16] = {.decode = lt_plain_decode},
    [LT_WEIGHT_BF16] = {.decode = lt_plain_decode},  [LT_WEIGHT_NF4] = {.decode = lt_nf4_dequantize},
    [LT_WEIGHT_FP4] = {.decode = lt_nf4_dequantize}, [LT_WEIGHT_INT8] = {.decode = lt_int8_dequantize},
};
