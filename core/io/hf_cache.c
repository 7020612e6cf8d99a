/* lt_checkpoint_resolve: a model name to a folder in the Hugging Face cache. */
#include "core/io/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"

enum {
    MAX_REPO_ID = 192, /* the hub allows 96 for either part */
    MAX_REF_BYTES = 256
};

static enum lt_status no_memory(const char *model, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory while looking for the model %s", model);
}

static bool is_id_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

/* "name" or "org/name", as the hub's own rule: no part begins with '.' or '-', no ".." and no "--". */
static bool is_repo_id(const char *s)
{
    bool part_begins = true;
    int slashes = 0;

    for (size_t i = 0; s[i] != '\0'; i++) {
        if (i >= MAX_REPO_ID)
            return false;
        if (s[i] == '/') {
            if (part_begins || ++slashes > 1)
                return false;
            part_begins = true;
            continue;
        }
        if (!is_id_char(s[i]) || (part_begins && (s[i] == '.' || s[i] == '-')))
            return false;
        if ((s[i] == '.' || s[i] == '-') && s[i] == s[i + 1])
            return false;
        part_begins = false;
    }
    return !part_begins;
}

static bool is_commit(const char *s)
{
    if (s[0] == '\0' || s[0] == '.')
        return false;
    for (; *s != '\0'; s++)
        if (!is_id_char(*s))
            return false;
    return true;
}

/* An environment variable; empty counts as unset. */
static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Appends the cache folder; false when the environment names none. */
static bool put_cache_folder(struct lt_strbuf *sb)
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"HF_HUB_CACHE", ""},
        {"HF_HOME", "/hub"},
        {"XDG_CACHE_HOME", "/huggingface/hub"},
        {"HOME", "/.cache/huggingface/hub"},
    };

    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *value = variable(places[i].variable);
        if (value == NULL)
            continue;
        lt_strbuf_puts(sb, value);
        lt_strbuf_puts(sb, places[i].below);
        return true;
    }
    return false;
}

static void put_repo_folder(struct lt_strbuf *sb, const char *id)
{
    lt_strbuf_puts(sb, "/models--");
    for (; *id != '\0'; id++) {
        if (*id == '/')
            lt_strbuf_puts(sb, "--");
        else
            lt_strbuf_putc(sb, *id);
    }
}

static enum lt_status not_cached(const char *id, const char *why, struct lt_error *err)
{
    return lt_fail(
        err, LT_ERR_NOT_FOUND,
        "%s: neither a folder nor a model in the Hugging Face cache (%s); download it with: hf download %s "
        "(older installations: huggingface-cli download %s)",
        id, why, id, id);
}

/* The commit that refs/main of the repository folder `repo` names (lt_free). */
static enum lt_status read_commit(char **commit, const char *repo, const char *id, struct lt_error *err)
{
    char *path = lt_path_join(repo, "refs/main");
    size_t size;

    *commit = NULL;
    if (path == NULL)
        return no_memory(id, err);
    enum lt_status status;
    if (lt_file_kind(path) != LT_FILE_REGULAR)
        status = not_cached(id, path, err);
    else
        status = lt_file_read(path, MAX_REF_BYTES, commit, &size, err);
    if (status == LT_OK) {
        (*commit)[strcspn(*commit, " \r\n")] = '\0';
        if (!is_commit(*commit)) {
            status =
                lt_fail(err, LT_ERR_FORMAT, "%s: does not hold a commit id; download the model again", path);
            lt_free(*commit);
            *commit = NULL;
        }
    }
    lt_free(path);
    return status;
}

/* repo is models--org--name in the cache. */
static enum lt_status find_snapshot(char **dir, struct lt_strbuf *repo, const char *id, struct lt_error *err)
{
    char *commit;

    if (!lt_strbuf_ok(repo))
        return no_memory(id, err);
    if (lt_file_kind(lt_strbuf_str(repo)) != LT_FILE_DIRECTORY)
        return not_cached(id, lt_strbuf_str(repo), err);
    LT_TRY(read_commit(&commit, lt_strbuf_str(repo), id, err));
    lt_strbuf_puts(repo, "/snapshots/");
    lt_strbuf_puts(repo, commit);
    lt_free(commit);
    if (!lt_strbuf_ok(repo))
        return no_memory(id, err);
    if (lt_file_kind(lt_strbuf_str(repo)) != LT_FILE_DIRECTORY)
        return not_cached(id, lt_strbuf_str(repo), err);
    *dir = lt_strbuf_take(repo);
    return *dir != NULL ? LT_OK : no_memory(id, err);
}

enum lt_status lt_checkpoint_resolve(char **dir, const char *model, struct lt_error *err)
{
    struct lt_strbuf repo;
    enum lt_file_kind kind = lt_file_kind(model);

    *dir = NULL;
    if (kind == LT_FILE_DIRECTORY) {
        *dir = lt_strdup(model);
        return *dir != NULL ? LT_OK : no_memory(model, err);
    }
    if (kind != LT_FILE_NONE)
        return lt_fail(err, LT_ERR_INVALID,
                       "%s: is a file; give the checkpoint's folder or a name as org/name", model);
    if (!is_repo_id(model))
        return lt_fail(
            err, LT_ERR_NOT_FOUND,
            "%s: there is no such folder, and it is no model name either (org/name, as in: hf download "
            "org/name or huggingface-cli download org/name)",
            model);
    lt_strbuf_init(&repo);
    enum lt_status status;
    if (put_cache_folder(&repo)) {
        put_repo_folder(&repo, model);
        status = find_snapshot(dir, &repo, model, err);
    } else {
        status = not_cached(model, "no cache: HOME, HF_HOME and HF_HUB_CACHE are unset", err);
    }
    lt_strbuf_deinit(&repo);
    return status;
}
