/* Opening a checkpoint folder: config.json, then one weight file or the shards of an index. */
#include "core/io/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

static const char INDEX_NAME[] = "model.safetensors.index.json";

static enum lt_status no_memory(const char *dir, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while opening the checkpoint", dir);
}

/* *path = dir/name (lt_free) and what is there. */
static enum lt_status look_up(char **path, enum lt_file_kind *kind, const char *dir, const char *name,
                              struct lt_error *err)
{
    *kind = LT_FILE_NONE;
    *path = lt_path_join(dir, name);
    if (*path == NULL)
        return no_memory(dir, err);
    *kind = lt_file_kind(*path);
    return LT_OK;
}

/* ---- config.json ---- */

static enum lt_status missing_config(const char *dir, struct lt_error *err)
{
    char *path;
    enum lt_file_kind kind;

    LT_TRY(look_up(&path, &kind, dir, "adapter_config.json", err));
    lt_free(path);
    if (kind == LT_FILE_REGULAR)
        return lt_fail(
            err, LT_ERR_NOT_FOUND,
            "%s: has adapter_config.json but no config.json: this is a PEFT adapter; give the folder of "
            "its base model",
            dir);
    return lt_fail(err, LT_ERR_NOT_FOUND,
                   "%s: no config.json; give the folder of a Hugging Face checkpoint (config.json, "
                   "model.safetensors, tokenizer.json)",
                   dir);
}

static enum lt_status open_config(struct lt_checkpoint *ck, struct lt_error *err)
{
    char *path;
    enum lt_file_kind kind;

    LT_TRY(look_up(&path, &kind, ck->dir, "config.json", err));
    enum lt_status status;
    if (kind != LT_FILE_REGULAR)
        status = missing_config(ck->dir, err);
    else
        status = lt_json_load(&ck->config, path, err);
    if (status == LT_OK && !json_is_object(ck->config))
        status = lt_fail(err, LT_ERR_FORMAT, "%s: must be a JSON object, found %s", path,
                         lt_json_type_name(ck->config));
    lt_free(path);
    return status;
}

/* ---- no safetensors weights ---- */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

static bool is_pickle(const char *name)
{
    static const char prefix[] = "pytorch_model";
    return (strncmp(name, prefix, sizeof prefix - 1) == 0 && has_suffix(name, ".bin")) ||
           has_suffix(name, ".pt") || has_suffix(name, ".pth");
}

static enum lt_status missing_weights(const char *dir, struct lt_error *err)
{
    char **names;
    size_t count;
    const char *pickle = NULL, *stray = NULL;
    struct lt_json_excerpt shown;
    enum lt_status status;

    LT_TRY(lt_dir_list(dir, &names, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (is_pickle(names[i]) && pickle == NULL)
            pickle = names[i];
        if (has_suffix(names[i], ".safetensors") && stray == NULL)
            stray = names[i];
    }
    if (stray != NULL)
        status =
            lt_fail(err, LT_ERR_NOT_FOUND,
                    "%s: has %s, but neither model.safetensors nor %s that lists the shards; the download is "
                    "incomplete",
                    dir, lt_json_excerpt(&shown, stray), INDEX_NAME);
    else if (pickle != NULL)
        status =
            lt_fail(err, LT_ERR_UNSUPPORTED,
                    "%s: the weights are pickled (%s), and a pickle can run any program; convert them once "
                    "with: python3 -c 'from transformers import AutoModelForCausalLM as M; "
                    "M.from_pretrained(\"%s\", torch_dtype=\"auto\").save_pretrained(\"NEW-FOLDER\")'",
                    dir, lt_json_excerpt(&shown, pickle), dir);
    else
        status = lt_fail(err, LT_ERR_NOT_FOUND, "%s: no weights: neither model.safetensors nor %s", dir,
                         INDEX_NAME);
    lt_dir_list_free(names, count);
    return status;
}

/* ---- weights ---- */

static enum lt_status reserve_files(struct lt_checkpoint *ck, size_t files, struct lt_error *err)
{
    ck->files = lt_alloc_zero(files, sizeof *ck->files);
    return ck->files != NULL ? LT_OK : no_memory(ck->dir, err);
}

static enum lt_status reserve_tensors(struct lt_checkpoint *ck, size_t tensors, struct lt_error *err)
{
    ck->tensors = lt_alloc_zero(tensors, sizeof *ck->tensors);
    return ck->tensors != NULL ? LT_OK : no_memory(ck->dir, err);
}

static enum lt_status open_single(struct lt_checkpoint *ck, const char *path, struct lt_error *err)
{
    LT_TRY(reserve_files(ck, 1, err));
    LT_TRY(lt_safetensors_open(&ck->files[0], path, err));
    ck->file_count = 1;
    LT_TRY(reserve_tensors(ck, ck->files[0].count, err));
    for (size_t i = 0; i < ck->files[0].count; i++)
        ck->tensors[ck->tensor_count++] =
            (struct lt_checkpoint_tensor){.file = &ck->files[0], .tensor = &ck->files[0].tensors[i]};
    return LT_OK;
}

/* One line of the index while the shards are opened; both borrowed from the JSON. */
struct index_line {
    const char *tensor, *file;
};

static int compare_lines(const void *a, const void *b)
{
    const struct index_line *x = a, *y = b;
    int order = strcmp(x->file, y->file);
    return order != 0 ? order : strcmp(x->tensor, y->tensor);
}

static bool is_plain_name(const json_t *v)
{
    if (!json_is_string(v))
        return false;
    const char *s = json_string_value(v);
    return strlen(s) == json_string_length(v) && strpbrk(s, "/\\") == NULL && has_suffix(s, ".safetensors");
}

static enum lt_status read_lines(struct index_line *lines, json_t *weight_map, const char *path,
                                 struct lt_error *err)
{
    struct lt_json_excerpt shown;
    size_t n = 0;

    for (void *it = json_object_iter(weight_map); it != NULL;
         it = json_object_iter_next(weight_map, it), n++) {
        const json_t *file = json_object_iter_value(it);
        lines[n] = (struct index_line){.tensor = json_object_iter_key(it), .file = json_string_value(file)};
        if (!is_plain_name(file))
            return lt_fail(
                err, LT_ERR_FORMAT,
                "%s: the file of tensor %s must be the plain name of a .safetensors file in the same folder",
                path, lt_json_excerpt(&shown, lines[n].tensor));
    }
    qsort(lines, n, sizeof *lines, compare_lines);
    return LT_OK;
}

static enum lt_status open_shard(struct lt_checkpoint *ck, const char *name, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    char *path;
    enum lt_file_kind kind;
    enum lt_status status;

    LT_TRY(look_up(&path, &kind, ck->dir, name, err));
    if (kind != LT_FILE_REGULAR)
        status = lt_fail(err, LT_ERR_NOT_FOUND,
                         "%s: %s lists %s, which is missing; the download is incomplete", ck->dir, INDEX_NAME,
                         lt_json_excerpt(&shown, name));
    else
        status = lt_safetensors_open(&ck->files[ck->file_count], path, err);
    if (status == LT_OK)
        ck->file_count++;
    lt_free(path);
    return status;
}

static int compare_tensors(const void *a, const void *b)
{
    const struct lt_checkpoint_tensor *x = a, *y = b;
    return strcmp(x->tensor->name, y->tensor->name);
}

/* Lines are sorted by file, so that each shard is opened when its first line comes up. */
static enum lt_status open_shards(struct lt_checkpoint *ck, const struct index_line *lines, size_t count,
                                  struct lt_error *err)
{
    struct lt_json_excerpt shown, shown_file;
    size_t files = 0;

    for (size_t i = 0; i < count; i++)
        files += i == 0 || strcmp(lines[i].file, lines[i - 1].file) != 0;
    LT_TRY(reserve_files(ck, files, err));
    LT_TRY(reserve_tensors(ck, count, err));
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || strcmp(lines[i].file, lines[i - 1].file) != 0)
            LT_TRY(open_shard(ck, lines[i].file, err));
        const struct lt_safetensors *file = &ck->files[ck->file_count - 1];
        const struct lt_st_tensor *tensor = lt_safetensors_find(file, lines[i].tensor);
        if (tensor == NULL)
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s puts tensor %s in %s, but that file does not have it",
                           ck->dir, INDEX_NAME, lt_json_excerpt(&shown, lines[i].tensor),
                           lt_json_excerpt(&shown_file, lines[i].file));
        ck->tensors[ck->tensor_count++] = (struct lt_checkpoint_tensor){.file = file, .tensor = tensor};
    }
    qsort(ck->tensors, ck->tensor_count, sizeof *ck->tensors, compare_tensors);
    return LT_OK;
}

static enum lt_status open_index(struct lt_checkpoint *ck, const char *path, struct lt_error *err)
{
    struct index_line *lines = NULL;
    json_t *index;

    LT_TRY(lt_json_load(&index, path, err));
    json_t *weight_map = json_object_get(index, "weight_map");
    size_t count = json_object_size(weight_map);
    enum lt_status status;
    if (count == 0) {
        status =
            lt_fail(err, LT_ERR_FORMAT, "%s: weight_map must be an object with at least one tensor", path);
        goto done;
    }
    lines = lt_alloc_array(count, sizeof *lines);
    if (lines == NULL) {
        status = no_memory(ck->dir, err);
        goto done;
    }
    status = read_lines(lines, weight_map, path, err);
    if (status == LT_OK)
        status = open_shards(ck, lines, count, err);
done:
    lt_free(lines);
    json_decref(index);
    return status;
}

static enum lt_status open_weights(struct lt_checkpoint *ck, struct lt_error *err)
{
    char *path;
    enum lt_file_kind kind;
    enum lt_status status;

    LT_TRY(look_up(&path, &kind, ck->dir, "model.safetensors", err));
    if (kind == LT_FILE_REGULAR) {
        status = open_single(ck, path, err);
        lt_free(path);
        return status;
    }
    lt_free(path);
    LT_TRY(look_up(&path, &kind, ck->dir, INDEX_NAME, err));
    status = kind == LT_FILE_REGULAR ? open_index(ck, path, err) : missing_weights(ck->dir, err);
    lt_free(path);
    return status;
}

/* ---- interface ---- */

enum lt_status lt_checkpoint_open(struct lt_checkpoint *ck, const char *dir, struct lt_error *err)
{
    memset(ck, 0, sizeof *ck);
    enum lt_file_kind kind = lt_file_kind(dir);
    if (kind == LT_FILE_NONE)
        return lt_fail(err, LT_ERR_NOT_FOUND, "%s: there is no such folder", dir);
    if (kind != LT_FILE_DIRECTORY)
        return lt_fail(err, LT_ERR_INVALID, "%s: is a file; give the checkpoint's folder", dir);
    ck->dir = lt_strdup(dir);
    enum lt_status status = ck->dir != NULL ? open_config(ck, err) : no_memory(dir, err);
    if (status == LT_OK)
        status = open_weights(ck, err);
    if (status != LT_OK)
        lt_checkpoint_close(ck);
    return status;
}

void lt_checkpoint_close(struct lt_checkpoint *ck)
{
    for (size_t i = 0; i < ck->file_count; i++)
        lt_safetensors_close(&ck->files[i]);
    lt_free(ck->files);
    lt_free(ck->tensors);
    json_decref(ck->config);
    lt_free(ck->dir);
    memset(ck, 0, sizeof *ck);
}

static int compare_name_to_tensor(const void *key, const void *element)
{
    return strcmp(key, ((const struct lt_checkpoint_tensor *)element)->tensor->name);
}

bool lt_checkpoint_find(const struct lt_checkpoint *ck, const char *name, struct lt_checkpoint_tensor *out)
{
    if (ck->tensor_count == 0)
        return false;
    const struct lt_checkpoint_tensor *hit =
        bsearch(name, ck->tensors, ck->tensor_count, sizeof *ck->tensors, compare_name_to_tensor);
    if (hit != NULL)
        *out = *hit;
    return hit != NULL;
}
