#include "models/quantized_cache.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"

enum { FORMAT = 1 }; /* part of the key: another layout or rounding makes old folders unused */

static enum lt_status no_memory(const char *dir, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while looking for its quantized weights", dir);
}

/* ---- the folder's name ---- */

/* Two FNV-1a hashes from different starts. */
struct key {
    uint64_t a, b;
};

static void feed(struct key *k, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++) {
        k->a = (k->a ^ p[i]) * 0x100000001b3u;
        k->b = (k->b ^ p[i]) * 0x100000001b3u;
    }
}

static void feed_text(struct key *k, const char *text)
{
    feed(k, text, strlen(text) + 1);
}

static void feed_i64(struct key *k, int64_t v)
{
    feed(k, &v, sizeof v);
}

static enum lt_status feed_files(struct key *k, const char *dir, struct lt_error *err)
{
    char **names;
    size_t count;
    LT_TRY(lt_dir_list(dir, &names, &count, err));
    enum lt_status status = LT_OK;
    for (size_t i = 0; i < count && status == LT_OK; i++) {
        uint64_t size = 0;
        int64_t modified = 0;
        char *path = lt_path_join(dir, names[i]);
        if (!path)
            status = no_memory(dir, err);
        else if (lt_file_kind(path) == LT_FILE_REGULAR) {
            status = lt_file_stamp(path, &size, &modified, err);
            feed_text(k, names[i]);
            feed_i64(k, (int64_t)size);
            feed_i64(k, modified);
        }
        lt_free(path);
    }
    lt_dir_list_free(names, count);
    return status;
}

static const char *quant_name(const struct lt_load_options *load)
{
    if (load->quant == LT_LOAD_INT8)
        return "int8";
    return load->quant == LT_LOAD_FP4 ? "fp4" : "nf4";
}

/* Appends "/name-nf4-double-0123…" for the model in the folder `source`, a resolved path. */
static enum lt_status put_name(struct lt_strbuf *sb, const char *source, const struct lt_load_options *load,
                               struct lt_error *err)
{
    struct key k = {0xcbf29ce484222325u, 0x84222325cbf29ce4u};
    feed_i64(&k, FORMAT);
    feed_text(&k, source);
    feed_text(&k, quant_name(load));
    feed_i64(&k, load->double_quant);
    feed(&k, &load->int8_threshold, sizeof load->int8_threshold);
    LT_TRY(feed_files(&k, source, err));
    lt_strbuf_printf(sb, "/%s-%s%s-%016llx%016llx", lt_path_basename(source), quant_name(load),
                     load->double_quant ? "-double" : "", (unsigned long long)k.a, (unsigned long long)k.b);
    return LT_OK;
}

static enum lt_status put_cache_dir(struct lt_strbuf *sb, const char *dir, struct lt_error *err)
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"LORA_TRAIN_CACHE", ""},
        {"XDG_CACHE_HOME", "/lora-train"},
        {"HOME", "/.cache/lora-train"},
    };
    if (dir && *dir) {
        lt_strbuf_puts(sb, dir);
        return LT_OK;
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);
        if (!value || !*value)
            continue;
        lt_strbuf_puts(sb, value);
        lt_strbuf_puts(sb, places[i].below);
        return LT_OK;
    }
    return lt_fail(err, LT_ERR_INVALID,
                   "no folder for quantized weights: HOME is unset; name one with --cache-dir");
}

/* ---- writing ---- */

/* What a killed process left: its temporary folders begin with the folder's name.  The lock is held. */
static void remove_leftovers(const char *folder)
{
    char **names;
    size_t count, n = strlen(lt_path_basename(folder));
    struct lt_error ignored;
    char *parent = lt_strndup(folder, (size_t)(lt_path_basename(folder) - folder));
    if (parent && lt_dir_list(parent, &names, &count, &ignored) == LT_OK) {
        for (size_t i = 0; i < count; i++) {
            char *path = strncmp(names[i], lt_path_basename(folder), n) == 0 &&
                                 strncmp(names[i] + n, ".tmp-", 5) == 0
                             ? lt_path_join(parent, names[i])
                             : NULL;
            if (path && lt_dir_remove_tree(path, &ignored) != LT_OK)
                lt_log(LT_LOG_WARNING, "%s", ignored.message);
            lt_free(path);
        }
        lt_dir_list_free(names, count);
    }
    lt_free(parent);
}

static enum lt_status write_locked(const char *folder, const char *lock_path, const char *source,
                                   const struct lt_quantize_options *opt, struct lt_error *err)
{
    struct lt_file_lock lock;
    LT_TRY(lt_file_lock_take(&lock, lock_path, err));
    enum lt_status status = LT_OK;
    if (lt_file_kind(folder) != LT_FILE_DIRECTORY) { /* else another process was faster */
        remove_leftovers(folder);
        status = lt_quantize_checkpoint(source, folder, opt, err);
    }
    lt_file_lock_release(&lock);
    return status;
}

static enum lt_status write_folder(const char *folder, const char *source,
                                   const struct lt_quantize_options *opt, struct lt_error *err)
{
    struct lt_strbuf lock_path;
    char *parent = lt_strndup(folder, (size_t)(lt_path_basename(folder) - folder));
    lt_strbuf_init(&lock_path);
    lt_strbuf_printf(&lock_path, "%s.lock", folder);
    enum lt_status status = parent && lt_strbuf_ok(&lock_path) ? lt_dir_create(parent, err)
                                                               : no_memory(source, err);
    if (status == LT_OK)
        status = write_locked(folder, lt_strbuf_str(&lock_path), source, opt, err);
    lt_strbuf_deinit(&lock_path);
    lt_free(parent);
    return status;
}

/* ---- interface ---- */

static enum lt_status has_something(bool *yes, const char *model_dir, struct lt_error *err)
{
    json_t *config = NULL;
    char *path = lt_path_join(model_dir, "config.json");
    *yes = false;
    if (!path)
        return no_memory(model_dir, err);
    enum lt_status status = LT_OK;
    if (lt_file_kind(path) == LT_FILE_REGULAR) /* the checkpoint's own opening says what is wrong otherwise */
        status = lt_json_load(&config, path, err);
    const json_t *quantized = json_object_get(config, "quantization_config");
    *yes = json_is_object(config) && (!quantized || json_is_null(quantized));
    json_decref(config);
    lt_free(path);
    return status;
}

static enum lt_status find_or_write(struct lt_strbuf *folder, const char *model_dir, bool *there,
                                    const struct lt_quantized_cache_options *opt, struct lt_error *err)
{
    char *source = NULL;
    LT_TRY(put_cache_dir(folder, opt->dir, err));
    LT_TRY(lt_path_resolve(&source, model_dir, err));
    enum lt_status status = put_name(folder, source, &opt->quantize.load, err);
    if (status == LT_OK && !lt_strbuf_ok(folder))
        status = no_memory(model_dir, err);
    *there = status == LT_OK && lt_file_kind(lt_strbuf_str(folder)) == LT_FILE_DIRECTORY;
    if (status == LT_OK && !*there && opt->write) {
        status = write_folder(lt_strbuf_str(folder), source, &opt->quantize, err);
        *there = status == LT_OK;
    }
    lt_free(source);
    return status;
}

enum lt_status lt_quantized_cache_folder(char **folder, const char *model_dir,
                                         const struct lt_quantized_cache_options *opt, struct lt_error *err)
{
    struct lt_strbuf path;
    bool useful, there = false;
    *folder = NULL;
    LT_TRY(has_something(&useful, model_dir, err));
    if (!useful)
        return LT_OK;
    lt_strbuf_init(&path);
    enum lt_status status = find_or_write(&path, model_dir, &there, opt, err);
    if (status == LT_OK && there) {
        *folder = lt_strbuf_take(&path);
        if (!*folder)
            status = no_memory(model_dir, err);
    }
    lt_strbuf_deinit(&path);
    return status;
}
