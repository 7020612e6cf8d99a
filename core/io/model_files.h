/* The small files beside the weights of a checkpoint folder, copied where a model is written. */
#ifndef LT_IO_MODEL_FILES_H
#define LT_IO_MODEL_FILES_H

#include "core/base/status.h"

/* Copies from_dir/name into to_dir; an absent file and a folder copied onto itself are fine. */
enum lt_status lt_model_file_copy(const char *from_dir, const char *to_dir, const char *name,
                                  struct lt_error *err) LT_MUST_USE;
/* Those of the tokenizer's files that there are: its model, its settings, the chat template. */
enum lt_status lt_tokenizer_files_copy(const char *from_dir, const char *to_dir, struct lt_error *err)
    LT_MUST_USE;

#endif
