/* A Hugging Face checkpoint folder seen as one set of named tensors: model.safetensors, or the shards
 * that model.safetensors.index.json lists. */
#ifndef LT_IO_CHECKPOINT_H
#define LT_IO_CHECKPOINT_H

#include "core/io/json.h"
#include "core/io/safetensors.h"

struct lt_checkpoint_tensor {
    const struct lt_safetensors *file;
    const struct lt_st_tensor *tensor;
};

struct lt_checkpoint {
    char *dir;
    json_t *config; /* config.json, an object */
    struct lt_safetensors *files;
    size_t file_count;
    struct lt_checkpoint_tensor *tensors; /* sorted by name over all files */
    size_t tensor_count;
};

/* Opens the folder.  model.safetensors is taken when it is there, else model.safetensors.index.json with
 * its shards (tensors that the index does not name are left out).  Errors say what to do: no folder, no
 * config.json, only pickled weights (pytorch_model*.bin, *.pt, *.pth: refused with the conversion to run),
 * an index that names a missing file or a file with a path separator, a tensor named by the index but
 * absent from its file. */
enum lt_status lt_checkpoint_open(struct lt_checkpoint *ck, const char *dir, struct lt_error *err)
    LT_MUST_USE;
void lt_checkpoint_close(struct lt_checkpoint *ck); /* zeroed ones are accepted */
/* false when absent. */
bool lt_checkpoint_find(const struct lt_checkpoint *ck, const char *name, struct lt_checkpoint_tensor *out);

/* Turns a --model argument into a folder path (lt_free): an existing folder is itself; "org/name" (or the
 * old one-part "gpt2") is looked up in the Hugging Face cache ($HF_HUB_CACHE, $HF_HOME/hub,
 * $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub:
 * models--org--name/refs/main → snapshots/<commit>).  Otherwise LT_ERR_NOT_FOUND with the download
 * command in the message. */
enum lt_status lt_checkpoint_resolve(char **dir, const char *model, struct lt_error *err) LT_MUST_USE;

#endif
