/* Scratch pages: a shared mapping of an unlinked file, whose dirty pages are written back on demand. */
#define _GNU_SOURCE /* sync_file_range, madvise */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/vfs.h>
#endif

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/file_internal.h"
#include "core/base/system.h"

enum { LARGE_PAGE = 2 << 20 };

/* Files of these file systems are memory (linux/magic.h). */
static bool lives_in_memory(int fd)
{
#if defined(__linux__)
    enum { TMPFS = 0x01021994 };
    const unsigned long ramfs = 0x858458f6ul;
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && ((unsigned long)fs.f_type == TMPFS || (unsigned long)fs.f_type == ramfs);
#else
    (void)fd;
    return false;
#endif
}

/* A nameless file: it goes with the descriptor and the mapping, also when the process is killed. */
static enum lt_status create_file(const char *dir, int *fd, struct lt_error *err)
{
    enum lt_status status = LT_OK;
    char *name = NULL, *path = lt_path_join(dir, ".paged-state");
    if (path)
        name = lt_file_sibling_name(path, "tmp");
    lt_free(path);
    if (!name)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while making a file for paged memory", dir);
    *fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (*fd < 0)
        status = lt_fail_errno(err, errno, "cannot create '%s' for paged memory", name);
    else if (unlink(name) != 0)
        status = lt_fail_errno(err, errno, "cannot take back the name '%s'", name);
    lt_free(name);
    return status;
}

/* The file needs no durability: where there is a way to write pages back without the file system's journal and the
 * disk's cache taking part, it is used. */
static int write_back(int fd, size_t begin, size_t n)
{
#if defined(SYNC_FILE_RANGE_WRITE)
    int rc;
    do
        rc =
            sync_file_range(fd, (off_t)begin, (off_t)n,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    while (rc != 0 && errno == EINTR);
    if (rc == 0 || errno == EIO || errno == ENOSPC)
        return rc;
#endif
    return fdatasync(fd);
}

static enum lt_status put(int fd, const void *src, size_t n, size_t offset, struct lt_error *err)
{
    const unsigned char *from = src;
    size_t begin = offset, all = n;
    while (n > 0) {
        ssize_t done = pwrite(fd, from, n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return lt_fail_errno(err, errno, "cannot write %zu bytes of paged memory to its file", all);
        from += done;
        offset += (size_t)done;
        n -= (size_t)done;
    }
    if (write_back(fd, begin, all) != 0)
        return lt_fail_errno(err, errno, "cannot write %zu bytes of paged memory to its file", all);
    return LT_OK;
}

/* Writes zeros: without its place on the disk, a write to the mapping would end in SIGBUS on a full one. */
static enum lt_status reserve(int fd, const char *dir, size_t size, struct lt_error *err)
{
    enum { PIECE = 1 << 20 };
    enum lt_status status = LT_OK;
    struct statvfs fs;
    if (fstatvfs(fd, &fs) == 0 && fs.f_frsize > 0 && size / fs.f_frsize > fs.f_bavail)
        return lt_fail_errno(err, ENOSPC, "cannot reserve %zu bytes for paged memory in '%s'", size, dir);
    void *zeros = lt_alloc_zero(1, PIECE);
    if (!zeros)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reserving paged memory", dir);
    for (size_t at = 0; at < size && status == LT_OK; at += PIECE)
        status = put(fd, zeros, size - at < PIECE ? size - at : PIECE, at, err);
    lt_free(zeros);
    return status == LT_OK ? LT_OK
                           : lt_fail_prefix(err, status, "cannot reserve %zu bytes in '%s'", size, dir);
}

static enum lt_status make_file(struct lt_file_scratch *s, const char *dir, struct lt_error *err)
{
    LT_TRY(create_file(dir, &s->fd, err));
    LT_TRY(reserve(s->fd, dir, s->size, err));
    s->in_memory = lives_in_memory(s->fd);
    if (s->in_memory)
        lt_log(
            LT_LOG_WARNING,
            "'%s' lies on a file system in memory: paged memory saves nothing there; use a folder on a disk",
            dir);
    return LT_OK;
}

static enum lt_status map_file(struct lt_file_scratch *s, const char *dir, struct lt_error *err)
{
    void *p = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (p == MAP_FAILED)
        return lt_fail_errno(err, errno, "cannot map %zu bytes of paged memory in '%s'", s->size, dir);
    s->data = p;
    if (!s->in_memory && !lt_memory_track_file_mapping(s->data, s->size))
        return lt_fail(err, LT_ERR_UNSUPPORTED, "'%s': more paged mappings than this program can account for",
                       dir);
    return LT_OK;
}

static enum lt_status open_scratch(struct lt_file_scratch *s, const char *dir, size_t size, bool mapped,
                                   struct lt_error *err)
{
    *s = (struct lt_file_scratch){.size = size, .fd = -1};
    if (size == 0 || size > SIZE_MAX / 2)
        return lt_fail(err, LT_ERR_INVALID, "'%s': %zu bytes of paged memory are not possible", dir, size);
    enum lt_status status = make_file(s, dir, err);
    if (status == LT_OK && mapped)
        status = map_file(s, dir, err);
    if (status != LT_OK)
        lt_file_scratch_close(s);
    return status;
}

enum lt_status lt_file_scratch_open(struct lt_file_scratch *s, const char *dir, size_t size,
                                    struct lt_error *err)
{
    return open_scratch(s, dir, size, true, err);
}

enum lt_status lt_file_scratch_open_unmapped(struct lt_file_scratch *s, const char *dir, size_t size,
                                             struct lt_error *err)
{
    return open_scratch(s, dir, size, false, err);
}

void lt_file_scratch_close(struct lt_file_scratch *s)
{
    if (s->size > 0) { /* a zeroed one has fd 0, which is not ours */
        if (s->data) {
            lt_memory_untrack_file_mapping(s->data);
            munmap(s->data, s->size);
        }
        if (s->fd >= 0)
            close(s->fd);
    }
    *s = (struct lt_file_scratch){.fd = -1};
}

/* [*begin, *end): the pages that hold the range, clamped to the mapping.  False when there are none. */
static bool whole_pages(const struct lt_file_scratch *s, size_t offset, size_t n, size_t *begin, size_t *end)
{
    if (s->in_memory || offset >= s->size || n == 0)
        return false;
    *begin = offset & ~((size_t)sysconf(_SC_PAGESIZE) - 1);
    *end = n < s->size - offset ? offset + n : s->size;
    return true;
}

enum lt_status lt_file_scratch_take(struct lt_file_scratch *s, size_t offset, size_t n, struct lt_error *err)
{
    size_t begin, end;
    if (!whole_pages(s, offset, n, &begin, &end))
        return LT_OK;
#if defined(__linux__)
    enum { POPULATE_WRITE = 23 }; /* MADV_POPULATE_WRITE: Linux 5.14; an older one says EINVAL */
    int rc;
    do
        rc = madvise(s->data + begin, end - begin, POPULATE_WRITE);
    while (rc != 0 && (errno == EINTR || errno == EAGAIN));
    if (rc != 0 && errno == EFAULT)
        return lt_fail(err, LT_ERR_IO, "cannot read %zu bytes of paged memory from its file, or write them",
                       end - begin);
    if (rc != 0 && errno != EINVAL)
        return lt_fail_errno(err, errno, "cannot bring %zu bytes of paged memory into memory", end - begin);
#endif
    return LT_OK;
}

void lt_file_scratch_prefetch(const struct lt_file_scratch *s, size_t offset, size_t n)
{
    size_t begin, end;
    if (whole_pages(s, offset, n, &begin, &end))
        madvise(s->data + begin, end - begin, MADV_WILLNEED);
}

enum lt_status lt_file_scratch_release(struct lt_file_scratch *s, size_t offset, size_t n,
                                       struct lt_error *err)
{
    size_t begin, end;
    if (!whole_pages(s, offset, n, &begin, &end))
        return LT_OK;
    if (write_back(s->fd, begin, end - begin) != 0)
        return lt_fail_errno(err, errno, "cannot write %zu bytes of paged memory to its file", end - begin);
    /* One access may have brought in all of a large page of the cache, more than was asked for. */
    begin &= ~(size_t)(LARGE_PAGE - 1);
    end = lt_align_up(end, LARGE_PAGE);
    madvise(s->data + begin, (end < s->size ? end : s->size) - begin, MADV_DONTNEED);
    return LT_OK;
}

enum lt_status lt_file_scratch_read(const struct lt_file_scratch *s, void *dst, size_t n, size_t offset,
                                    struct lt_error *err)
{
    unsigned char *to = dst;
    while (n > 0) {
        ssize_t got = pread(s->fd, to, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lt_fail_errno(err, errno, "cannot read %zu bytes of paged memory from its file", n);
        if (got == 0)
            return lt_fail(err, LT_ERR_IO, "the file of paged memory ends at %zu bytes", offset);
        to += got;
        offset += (size_t)got;
        n -= (size_t)got;
    }
    return LT_OK;
}

enum lt_status lt_file_scratch_write(struct lt_file_scratch *s, const void *src, size_t n, size_t offset,
                                     struct lt_error *err)
{
    return put(s->fd, src, n, offset, err);
}
