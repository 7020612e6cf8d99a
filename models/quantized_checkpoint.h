/* Writing a checkpoint folder quantized, in the layout in which transformers saves bitsandbytes models
 * (quant/bnb_checkpoint.h). */
#ifndef LT_MODELS_QUANTIZED_CHECKPOINT_H
#define LT_MODELS_QUANTIZED_CHECKPOINT_H

#include <stdint.h>

#include "models/model_load.h"

struct lt_quantize_options {
    struct lt_load_options load;                       /* quant must be one of the quantized ones */
    uint64_t max_shard_bytes;                          /* a file with more than one tensor is no larger */
    void (*progress)(void *user, int done, int total); /* after each tensor; may be NULL */
    void *user;
};

/* Reads the checkpoint folder `from` tensor by tensor and writes folder `to`: linear layers other than the head
 * quantized to the bytes that lt_model_load() makes, everything else as it is; config.json with
 * quantization_config; copies of generation_config.json and the tokenizer's files.  In memory is one tensor at a time;
 * on the disk of `to` one file's worth of quantized tensors more than the result.
 * `to` must be absent or an empty folder.  It appears when complete: an error or a cancellation leaves nothing.
 * LT_ERR_INVALID: `to` is taken, or `from` is quantized already. */
enum lt_status lt_quantize_checkpoint(const char *from, const char *to, const struct lt_quantize_options *opt,
                                      struct lt_error *err) LT_MUST_USE;

#endif
