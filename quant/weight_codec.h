/* One row of functions per storage format: how a stored weight becomes f32. */
#ifndef LT_QUANT_WEIGHT_CODEC_H
#define LT_QUANT_WEIGHT_CODEC_H

#include "core/tensor/weight.h"

struct lt_weight_codec {
    /* Flat stored elements [begin, begin+n) to f32. */
    void (*decode)(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);
};

/* Portable codecs, indexed by format; a backend may hold faster ones with the same bits. */
extern const struct lt_weight_codec lt_weight_codecs[LT_WEIGHT_FORMAT_COUNT];

#endif
