/* Atomic writer, append-only log, truncation, copy. */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/file_internal.h"
#include "core/base/strbuf.h"

enum { WRITE_BUFFER = 256 << 10, WRITE_CHUNK = 1 << 30, TEMP_NAME_TRIES = 100 };

static atomic_uint sibling_counter;

char *lt_file_sibling_name(const char *path, const char *tag)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    lt_strbuf_puts(&sb, path);
    lt_strbuf_printf(&sb, ".%s-%lld-%u", tag, (long long)getpid(), atomic_fetch_add(&sibling_counter, 1u));
    return lt_strbuf_take(&sb);
}

enum lt_status lt_file_temp_create(const char *path, char **temp_path, int *fd, struct lt_error *err)
{
    /* A name may be taken by the leftover of a killed process that had our number. */
    int error = EEXIST;
    for (int i = 0; i < TEMP_NAME_TRIES && error == EEXIST; i++) {
        char *name = lt_file_sibling_name(path, "tmp");
        if (!name)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating '%s'", path);
        int opened = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (opened >= 0) {
            *temp_path = name;
            *fd = opened;
            return LT_OK;
        }
        error = errno;
        lt_free(name);
    }
    return lt_fail_errno(err, error, "cannot create a temporary file for '%s'", path);
}

enum lt_status lt_file_write_all(int fd, const void *bytes, size_t n, const char *path, struct lt_error *err)
{
    const unsigned char *p = bytes;
    while (n > 0) {
        ssize_t put = write(fd, p, n < WRITE_CHUNK ? n : WRITE_CHUNK);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return lt_fail_errno(err, errno, "cannot write to '%s'", path);
        p += put;
        n -= (size_t)put;
    }
    return LT_OK;
}

enum lt_status lt_file_sync_parent(const char *path, struct lt_error *err)
{
    /* No memory of the heap: what path names has its name already, too late to fail for want of it. */
    char folder[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    const size_t length = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    if (length >= sizeof folder)
        return lt_fail_errno(err, ENAMETOOLONG, "cannot sync the folder of '%s'", path);
    if (slash) {
        memcpy(folder, path, length);
        folder[length] = '\0';
    }
    enum lt_status status = LT_OK;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        status = lt_fail_errno(err, errno, "cannot open the folder '%s'", folder);
    } else {
        /* Some file systems have nothing to sync in a folder and say EINVAL. */
        if (fsync(fd) != 0 && errno != EINVAL)
            status = lt_fail_errno(err, errno, "cannot sync the folder '%s'", folder);
        close(fd);
    }
    return status;
}

/* ---- atomic writer ---- */

enum lt_status lt_file_writer_open(struct lt_file_writer *w, const char *path, struct lt_error *err)
{
    *w = (struct lt_file_writer){.fd = -1};
    w->path = lt_strdup(path);
    w->buffer = lt_alloc(WRITE_BUFFER);
    enum lt_status status = w->path && w->buffer
                                ? lt_file_temp_create(path, &w->temp_path, &w->fd, err)
                                : lt_fail(err, LT_ERR_NOMEM, "out of memory while creating '%s'", path);
    if (status != LT_OK)
        lt_file_writer_abort(w);
    return status;
}

static enum lt_status writer_send(struct lt_file_writer *w, const void *bytes, size_t n, struct lt_error *err)
{
    enum lt_status status = lt_file_write_all(w->fd, bytes, n, w->path, err);
    if (status != LT_OK)
        w->failed = true;
    return status;
}

static enum lt_status writer_flush(struct lt_file_writer *w, struct lt_error *err)
{
    size_t n = w->buffered;
    w->buffered = 0;
    return writer_send(w, w->buffer, n, err);
}

enum lt_status lt_file_writer_put(struct lt_file_writer *w, const void *bytes, size_t n, struct lt_error *err)
{
    if (w->failed)
        return lt_fail(err, LT_ERR_IO, "an earlier write to '%s' failed", w->path);
    if (n == 0)
        return LT_OK;
    if (n > WRITE_BUFFER - w->buffered)
        LT_TRY(writer_flush(w, err));
    if (n >= WRITE_BUFFER) {
        LT_TRY(writer_send(w, bytes, n, err));
    } else {
        memcpy(w->buffer + w->buffered, bytes, n);
        w->buffered += n;
    }
    w->written += n;
    return LT_OK;
}

/* Flushes, syncs and closes the temporary file. */
static enum lt_status writer_finish(struct lt_file_writer *w, struct lt_error *err)
{
    LT_TRY(writer_flush(w, err));
    if (fsync(w->fd) != 0)
        return lt_fail_errno(err, errno, "cannot sync '%s' to the disk", w->path);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0)
        return lt_fail_errno(err, errno, "cannot close '%s'", w->path);
    return LT_OK;
}

enum lt_status lt_file_writer_commit(struct lt_file_writer *w, struct lt_error *err)
{
    enum lt_status status = w->failed ? lt_fail(err, LT_ERR_IO, "an earlier write to '%s' failed", w->path)
                                      : writer_finish(w, err);
    if (status == LT_OK && rename(w->temp_path, w->path) != 0)
        status = lt_fail_errno(err, errno, "cannot rename the finished temporary file to '%s'", w->path);
    if (status == LT_OK) {
        lt_free(w->temp_path); /* gone under this name: nothing to remove */
        w->temp_path = NULL;
        status = lt_file_sync_parent(w->path, err);
    }
    lt_file_writer_abort(w);
    return status;
}

void lt_file_writer_abort(struct lt_file_writer *w)
{
    if (w->temp_path) {
        if (w->fd >= 0)
            close(w->fd);
        unlink(w->temp_path);
    }
    lt_free(w->temp_path);
    lt_free(w->path);
    lt_free(w->buffer);
    *w = (struct lt_file_writer){.fd = -1};
}

enum lt_status lt_file_write_atomic(const char *path, const void *bytes, size_t n, struct lt_error *err)
{
    struct lt_file_writer w;
    LT_TRY(lt_file_writer_open(&w, path, err));
    enum lt_status status = lt_file_writer_put(&w, bytes, n, err);
    if (status == LT_OK)
        return lt_file_writer_commit(&w, err);
    lt_file_writer_abort(&w);
    return status;
}

/* Sends everything readable from fd to the writer. */
static enum lt_status copy_bytes(struct lt_file_writer *w, int fd, const char *from, char *buffer,
                                 size_t size, struct lt_error *err)
{
    for (;;) {
        ssize_t got = read(fd, buffer, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lt_fail_errno(err, errno, "cannot read '%s'", from);
        if (got == 0)
            return LT_OK;
        LT_TRY(lt_file_writer_put(w, buffer, (size_t)got, err));
    }
}

enum lt_status lt_file_copy(const char *from, const char *to, struct lt_error *err)
{
    struct lt_file_writer w = {.fd = -1};
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lt_fail_errno(err, errno, "cannot open '%s' for reading", from);
    enum lt_status status;
    char *buffer = lt_alloc(WRITE_BUFFER);
    if (!buffer)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while copying '%s'", from);
    else
        status = lt_file_writer_open(&w, to, err);
    if (status == LT_OK)
        status = copy_bytes(&w, fd, from, buffer, WRITE_BUFFER, err);
    if (status == LT_OK)
        status = lt_file_writer_commit(&w, err);
    lt_file_writer_abort(&w);
    lt_free(buffer);
    close(fd);
    return status;
}

/* ---- append-only log file ---- */

enum lt_status lt_file_appender_open(struct lt_file_appender *a, const char *path, bool truncate,
                                     struct lt_error *err)
{
    *a = (struct lt_file_appender){.fd = -1};
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (truncate ? O_TRUNC : 0), 0666);
    if (fd < 0)
        return lt_fail_errno(err, errno, "cannot open '%s' for appending", path);
    char *name = lt_strdup(path);
    if (!name) {
        close(fd);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while opening '%s'", path);
    }
    a->fd = fd;
    a->path = name;
    return LT_OK;
}

enum lt_status lt_file_appender_put(struct lt_file_appender *a, const void *bytes, size_t n,
                                    struct lt_error *err)
{
    return lt_file_write_all(a->fd, bytes, n, a->path, err);
}

void lt_file_appender_close(struct lt_file_appender *a)
{
    if (a->path) /* a zeroed appender has fd 0, which is not ours */
        close(a->fd);
    lt_free(a->path);
    *a = (struct lt_file_appender){.fd = -1};
}

enum lt_status lt_file_truncate(const char *path, uint64_t size, struct lt_error *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return lt_fail_errno(err, errno, "cannot open '%s' for writing", path);
    enum lt_status status = LT_OK;
    struct stat st;
    if (fstat(fd, &st) != 0)
        status = lt_fail_errno(err, errno, "cannot examine '%s'", path);
    else if (size > (uint64_t)st.st_size) /* ftruncate would fill up with NUL bytes */
        status = lt_fail(err, LT_ERR_FORMAT, "'%s' has %lld bytes, fewer than the %llu that are to be kept",
                         path, (long long)st.st_size, (unsigned long long)size);
    else if (ftruncate(fd, (off_t)size) != 0 || fsync(fd) != 0)
        status = lt_fail_errno(err, errno, "cannot cut '%s' to %llu bytes", path, (unsigned long long)size);
    close(fd);
    return status;
}
