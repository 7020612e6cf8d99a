/* Folders, paths and questions to the file system. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "core/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/file_internal.h"
#include "core/base/strbuf.h"

enum { TREE_DEPTH_MAX = 64 }; /* every level holds a descriptor and a stack frame */

enum lt_file_kind lt_file_kind(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return LT_FILE_NONE;
    if (S_ISREG(st.st_mode))
        return LT_FILE_REGULAR;
    return S_ISDIR(st.st_mode) ? LT_FILE_DIRECTORY : LT_FILE_OTHER;
}

enum lt_status lt_file_size(const char *path, uint64_t *size, struct lt_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return lt_fail_errno(err, errno, "cannot examine '%s'", path);
    if (!S_ISREG(st.st_mode))
        return lt_fail(err, LT_ERR_IO, "'%s' is not a regular file, so it has no size", path);
    *size = (uint64_t)st.st_size;
    return LT_OK;
}

enum lt_status lt_file_stamp(const char *path, uint64_t *size, int64_t *modified, struct lt_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return lt_fail_errno(err, errno, "cannot examine '%s'", path);
    *size = (uint64_t)st.st_size;
    *modified = (int64_t)((uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec);
    return LT_OK;
}

char *lt_path_strip(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return lt_strndup(path, n);
}

static enum lt_status fail_nomem(struct lt_error *err, const char *path)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory while working on '%s'", path);
}

/* mkdir that accepts an existing folder (or a link to one). */
static enum lt_status make_folder(const char *path, struct lt_error *err)
{
    if (mkdir(path, 0777) == 0)
        return LT_OK;
    int error = errno;
    if (lt_file_kind(path) == LT_FILE_DIRECTORY) /* mkdir may also say EROFS or EACCES for these */
        return LT_OK;
    if (error == EEXIST)
        return lt_fail(err, LT_ERR_IO, "cannot create the folder '%s': a file of that name is in the way",
                       path);
    return lt_fail_errno(err, error, "cannot create the folder '%s'", path);
}

enum lt_status lt_dir_create(const char *path, struct lt_error *err)
{
    if (*path == '\0')
        return lt_fail(err, LT_ERR_INVALID, "the name of the folder to create is empty");
    char *partial = lt_strdup(path);
    if (!partial)
        return fail_nomem(err, path);
    enum lt_status status = LT_OK;
    for (char *p = partial + 1; *p && status == LT_OK; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        status = make_folder(partial, err);
        *p = '/';
    }
    if (status == LT_OK)
        status = make_folder(partial, err);
    lt_free(partial);
    return status;
}

enum lt_status lt_dir_check_writable(const char *path, struct lt_error *err)
{
    char *probe = lt_path_join(path, ".write-check");
    if (!probe)
        return fail_nomem(err, path);
    char *temp_path;
    int fd;
    enum lt_status status = lt_file_temp_create(probe, &temp_path, &fd, err);
    lt_free(probe);
    if (status != LT_OK)
        return lt_fail_prefix(err, status, "the folder '%s' is not writable", path);
    close(fd);
    if (unlink(temp_path) != 0)
        status = lt_fail_errno(err, errno, "cannot remove '%s'", temp_path);
    lt_free(temp_path);
    return status;
}

/* ---- listing ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void lt_dir_list_free(char **names, size_t count)
{
    if (!names)
        return;
    for (size_t i = 0; i < count; i++)
        lt_free(names[i]);
    lt_free(names);
}

/* Reads and sorts the names of an open folder; path is for the message only. */
static enum lt_status read_names(DIR *dir, const char *path, char ***names, size_t *count,
                                 struct lt_error *err)
{
    enum lt_status status;
    void *items = NULL;
    size_t capacity = 0, n = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry && errno != 0) {
            status = lt_fail_errno(err, errno, "cannot list the folder '%s'", path);
            goto fail;
        }
        if (!entry)
            break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *name = lt_reserve(&items, &capacity, n, sizeof(char *)) ? lt_strdup(entry->d_name) : NULL;
        if (!name) {
            status = fail_nomem(err, path);
            goto fail;
        }
        ((char **)items)[n++] = name;
    }
    if (n > 1)
        qsort(items, n, sizeof(char *), compare_names);
    *names = items;
    *count = n;
    return LT_OK;

fail:
    lt_dir_list_free(items, n);
    return status;
}

enum lt_status lt_dir_list(const char *path, char ***names, size_t *count, struct lt_error *err)
{
    *names = NULL;
    *count = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return lt_fail_errno(err, errno, "cannot open the folder '%s'", path);
    enum lt_status status = read_names(dir, path, names, count, err);
    closedir(dir);
    return status;
}

/* ---- removal ---- */

static enum lt_status remove_entry(int parent, const char *name, const char *path, int depth,
                                   struct lt_error *err);

/* Empties the folder open as fd (taken). */
static enum lt_status remove_contents(int fd, const char *path, int depth, struct lt_error *err)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int error = errno;
        close(fd);
        return lt_fail_errno(err, error, "cannot open the folder '%s'", path);
    }
    /* All names first: what readdir returns while entries disappear is not specified. */
    char **names = NULL;
    size_t count = 0;
    enum lt_status status = read_names(dir, path, &names, &count, err);
    for (size_t i = 0; i < count && status == LT_OK; i++) {
        char *child = lt_path_join(path, names[i]);
        status = child ? remove_entry(dirfd(dir), names[i], child, depth, err) : fail_nomem(err, path);
        lt_free(child);
    }
    lt_dir_list_free(names, count);
    closedir(dir);
    return status;
}

/* Removes name in the folder `parent`; links are removed, not followed.  path is for messages. */
static enum lt_status remove_entry(int parent, const char *name, const char *path, int depth,
                                   struct lt_error *err)
{
    struct stat st;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? LT_OK : lt_fail_errno(err, errno, "cannot examine '%s'", path);
    int flags = 0;
    if (S_ISDIR(st.st_mode)) {
        if (depth == TREE_DEPTH_MAX)
            return lt_fail(err, LT_ERR_IO, "cannot remove '%s': folders are nested deeper than %d levels",
                           path, (int)TREE_DEPTH_MAX);
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return lt_fail_errno(err, errno, "cannot open the folder '%s'", path);
        LT_TRY(remove_contents(fd, path, depth + 1, err));
        flags = AT_REMOVEDIR;
    }
    if (unlinkat(parent, name, flags) != 0 && errno != ENOENT)
        return lt_fail_errno(err, errno, "cannot remove '%s'", path);
    return LT_OK;
}

enum lt_status lt_dir_remove_tree(const char *path, struct lt_error *err)
{
    char *stripped = lt_path_strip(path); /* "link/" would follow the link */
    if (!stripped)
        return fail_nomem(err, path);
    enum lt_status status;
    if (strcmp(stripped, "") == 0 || strcmp(stripped, "/") == 0)
        status = lt_fail(err, LT_ERR_INVALID, "refusing to remove the folder '%s'", path);
    else
        status = remove_entry(AT_FDCWD, stripped, stripped, 0, err);
    lt_free(stripped);
    return status;
}

/* ---- replacing and paths ---- */

/* Both names without trailing slashes. */
static enum lt_status replace_folder(const char *from, const char *to, struct lt_error *err)
{
    struct stat st;
    char *aside = NULL;
    if (lstat(to, &st) == 0) {
        aside = lt_file_sibling_name(to, "old");
        if (!aside)
            return fail_nomem(err, to);
        if (rename(to, aside) != 0) {
            enum lt_status status = lt_fail_errno(err, errno, "cannot move the old '%s' aside", to);
            lt_free(aside);
            return status;
        }
    }
    enum lt_status status;
    if (rename(from, to) != 0) {
        status = lt_fail_errno(err, errno, "cannot rename '%s' to '%s'", from, to);
        if (aside && rename(aside, to) != 0)
            status = lt_fail_prefix(err, status, "the old '%s' is now '%s'", to, aside);
        lt_free(aside);
        return status;
    }
    status = lt_file_sync_parent(to, err);
    if (status == LT_OK && aside)
        status = lt_dir_remove_tree(aside, err);
    lt_free(aside);
    return status;
}

enum lt_status lt_dir_replace(const char *from, const char *to, struct lt_error *err)
{
    char *source = lt_path_strip(from);
    char *target = lt_path_strip(to);
    enum lt_status status;
    if (!source || !target)
        status = fail_nomem(err, to);
    else if (lt_file_kind(source) != LT_FILE_DIRECTORY) /* before the old target is touched */
        status =
            lt_fail(err, LT_ERR_NOT_FOUND, "there is no folder '%s' to put in the place of '%s'", from, to);
    else
        status = replace_folder(source, target, err);
    lt_free(source);
    lt_free(target);
    return status;
}

char *lt_path_join(const char *a, const char *b)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    lt_strbuf_puts(&sb, a);
    if (sb.len > 0 && a[sb.len - 1] != '/')
        lt_strbuf_putc(&sb, '/');
    lt_strbuf_puts(&sb, b);
    return lt_strbuf_take(&sb);
}

enum lt_status lt_path_resolve(char **resolved, const char *path, struct lt_error *err)
{
    char *whole = realpath(path, NULL); /* libc's memory */
    if (!whole)
        return lt_fail_errno(err, errno, "cannot resolve '%s'", path);
    *resolved = lt_strdup(whole);
    free(whole);
    return *resolved ? LT_OK : fail_nomem(err, path);
}

const char *lt_path_basename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
