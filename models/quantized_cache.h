/* The cache of quantized weights: checkpoint folders that lt_quantize_checkpoint() wrote, one for each source and way of
 * quantizing.  A folder is named by a hash of the source's path, of the names, sizes and times of its files and of
 * the options, so that a changed source is another folder; what is there is complete. */
#ifndef LT_MODELS_QUANTIZED_CACHE_H
#define LT_MODELS_QUANTIZED_CACHE_H

#include "models/quantized_checkpoint.h"

struct lt_quantized_cache_options {
    const char
        *dir;   /* of the cache; NULL: $LORA_TRAIN_CACHE, $XDG_CACHE_HOME/lora-train, ~/.cache/lora-train */
    bool write; /* quantize into the cache what is not there */
    struct lt_quantize_options quantize;
};

/* *folder: the checkpoint folder to load in the place of model_dir (lt_free), or NULL: load and quantize model_dir, which
 * is not in the cache, or has nothing to quantize.  Written by one process at a time; the others wait for it. */
enum lt_status lt_quantized_cache_folder(char **folder, const char *model_dir,
                                         const struct lt_quantized_cache_options *opt, struct lt_error *err)
    LT_MUST_USE;

#endif
