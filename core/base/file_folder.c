/* Folders that appear complete or not at all, and the lock that lets one process make them. */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/file_internal.h"
#include "core/base/system.h"

enum { TEMP_NAME_TRIES = 100, LOCK_POLL_NS = 50 * 1000 * 1000 };

static enum lt_status no_memory(const char *path, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating '%s'", path);
}

static enum lt_status create_parent(const char *path, struct lt_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return LT_OK;
    char *parent = lt_strndup(path, (size_t)(slash - path));
    enum lt_status status = parent ? lt_dir_create(parent, err) : no_memory(path, err);
    lt_free(parent);
    return status;
}

/* path without trailing slashes. */
static enum lt_status make_sibling(char **temp, const char *path, struct lt_error *err)
{
    int error = EEXIST;
    LT_TRY(create_parent(path, err));
    for (int i = 0; i < TEMP_NAME_TRIES && error == EEXIST; i++) {
        char *name = lt_file_sibling_name(path, "tmp");
        if (!name)
            return no_memory(path, err);
        if (mkdir(name, 0777) == 0) {
            *temp = name;
            return LT_OK;
        }
        error = errno;
        lt_free(name);
    }
    return lt_fail_errno(err, error, "cannot create a temporary folder for '%s'", path);
}

enum lt_status lt_dir_temp_create(char **temp, const char *path, struct lt_error *err)
{
    *temp = NULL;
    char *bare = lt_path_strip(path);
    enum lt_status status = bare ? make_sibling(temp, bare, err) : no_memory(path, err);
    lt_free(bare);
    return status;
}

enum lt_status lt_dir_publish(const char *temp, const char *path, bool *taken, struct lt_error *err)
{
    *taken = false;
    char *bare = lt_path_strip(path);
    if (!bare)
        return no_memory(path, err);
    enum lt_status status;
    if (rename(temp, bare) == 0)
        status = lt_file_sync_parent(bare, err);
    else if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) {
        *taken = true;
        status = LT_OK;
    } else {
        status = lt_fail_errno(err, errno, "cannot rename the finished temporary folder to '%s'", path);
    }
    lt_free(bare);
    return status;
}

/* ---- lock ---- */

enum lt_status lt_file_lock_take(struct lt_file_lock *lock, const char *path, struct lt_error *err)
{
    const struct timespec pause = {.tv_nsec = LOCK_POLL_NS};
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0)
        return lt_fail_errno(err, errno, "cannot create the lock file '%s'", path);
    while (fcntl(lock->fd, F_SETLK, &whole) != 0) {
        enum lt_status status = LT_OK;
        if (errno != EACCES && errno != EAGAIN && errno != EINTR)
            status = lt_fail_errno(err, errno, "cannot lock '%s'", path);
        else if (lt_cancel_requested())
            status = lt_fail(err, LT_ERR_CANCELLED, "waiting for '%s' was cancelled", path);
        if (status != LT_OK) {
            lt_file_lock_release(lock);
            return status;
        }
        nanosleep(&pause, NULL);
    }
    return LT_OK;
}

void lt_file_lock_release(struct lt_file_lock *lock)
{
    if (lock->fd >= 0)
        close(lock->fd);
    lock->fd = -1;
}
