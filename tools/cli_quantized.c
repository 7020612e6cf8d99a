#include "tools/cli_quantized.h"

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/system.h"
#include "models/quantized_cache.h"
#include "tools/cli_term.h"

/* Files of the cache are no larger than what transformers writes. */
static const uint64_t SHARD_BYTES = 5000000000u;

void cli_print_progress(void *user, int done, int total)
{
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K%s %d/%d%s", (const char *)user, done, total,
                done == total ? "\r\033[K" : "");
}

uint64_t cli_weight_bytes(const char *folder)
{
    char **names;
    size_t count;
    uint64_t sum = 0, size;
    struct lt_error ignored;
    if (lt_dir_list(folder, &names, &count, &ignored) != LT_OK)
        return 0;
    for (size_t i = 0; i < count; i++) {
        char *path = strstr(names[i], ".safetensors") ? lt_path_join(folder, names[i]) : NULL;
        if (path && lt_file_size(path, &size, &ignored) == LT_OK)
            sum += size;
        lt_free(path);
    }
    lt_dir_list_free(names, count);
    return sum;
}

enum lt_status cli_quantized_folder(char **folder, const char *dir, const struct cli_model_options *o,
                                    const struct lt_load_options *load, struct lt_error *err)
{
    /* What is quantized while loading is in memory: nothing of it could be streamed. */
    bool streams = load->residency == LT_WEIGHTS_STREAM && strcmp(o->quantized_cache, "auto") == 0;
    bool on = strcmp(o->quantized_cache, "on") == 0 || streams;
    struct lt_error why;
    struct lt_quantized_cache_options opt = {
        .dir = o->cache_dir,
        .write = on,
        .quantize = {.load = *load,
                     .max_shard_bytes = SHARD_BYTES,
                     .progress = cli_print_progress,
                     .user = (void *)(uintptr_t) "quantizing into the cache"}};
    opt.quantize.load.residency = LT_WEIGHTS_MMAP;
    *folder = NULL;
    if (strcmp(o->quantized_cache, "off") == 0)
        return LT_OK;
    enum lt_status status = lt_quantized_cache_folder(folder, dir, &opt, &why);
    if (status != LT_OK && (on || status == LT_ERR_CANCELLED)) {
        *err = why;
        return status;
    }
    char size[32];
    if (*folder)
        lt_log(LT_LOG_INFO, "quantized weights from %s (%s)", *folder,
               cli_bytes(size, sizeof size, cli_weight_bytes(*folder)));
    return LT_OK;
}
