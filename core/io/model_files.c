#include "core/io/model_files.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

enum lt_status lt_model_file_copy(const char *from_dir, const char *to_dir, const char *name,
                                  struct lt_error *err)
{
    char *from = lt_path_join(from_dir, name), *to = lt_path_join(to_dir, name);
    enum lt_status status = LT_OK;

    if (!from || !to)
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while copying %s", to_dir, name);
    else if (strcmp(from, to) != 0 && lt_file_kind(from) != LT_FILE_NONE)
        status = lt_file_copy(from, to, err);
    lt_free(from);
    lt_free(to);
    return status;
}

enum lt_status lt_tokenizer_files_copy(const char *from_dir, const char *to_dir, struct lt_error *err)
{
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "chat_template.jinja",
                                        "vocab.json",
                                        "merges.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        LT_TRY(lt_model_file_copy(from_dir, to_dir, names[i], err));
    return LT_OK;
}
