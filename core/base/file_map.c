/* Read-only maps and whole-file reads. */
#define _DEFAULT_SOURCE /* madvise: glibc's posix_madvise ignores DONTNEED */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum { PREAD_CHUNK = 64 << 20, READ_FIRST_CAPACITY = 64 << 10 };

enum lt_status lt_file_map_open(struct lt_file_map *map, const char *path, struct lt_error *err)
{
    enum lt_status status = LT_OK;
    void *data = NULL;
    char *name = NULL;

    *map = (struct lt_file_map){.fd = -1};
    /* O_NONBLOCK: a FIFO is refused below instead of blocking here. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return lt_fail_errno(err, errno, "cannot open '%s' for reading", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        status = lt_fail_errno(err, errno, "cannot examine '%s'", path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        status = lt_fail(err, LT_ERR_IO, "'%s' is %s; a regular file is needed", path,
                         S_ISDIR(st.st_mode) ? "a folder" : "not a regular file");
        goto fail;
    }
    if ((uintmax_t)st.st_size > SIZE_MAX / 2) {
        status = lt_fail(err, LT_ERR_UNSUPPORTED, "'%s' has %lld bytes, too many to map on this machine",
                         path, (long long)st.st_size);
        goto fail;
    }
    size_t size = (size_t)st.st_size;
    name = lt_strdup(path);
    if (!name) {
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while opening '%s'", path);
        goto fail;
    }
    if (size > 0) {
        data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            status = lt_fail_errno(err, errno, "cannot map the %zu bytes of '%s'", size, path);
            goto fail;
        }
    }
    *map = (struct lt_file_map){.data = data, .size = size, .path = name, .fd = fd};
    return LT_OK;

fail:
    lt_free(name);
    close(fd);
    return status;
}

void lt_file_map_close(struct lt_file_map *map)
{
    if (map->path) { /* a zeroed map has fd 0, which is not ours */
        if (map->data)
            munmap((void *)(uintptr_t)map->data, map->size);
        close(map->fd);
        lt_free(map->path);
    }
    *map = (struct lt_file_map){.fd = -1};
}

enum lt_status lt_file_map_pread(const struct lt_file_map *map, void *dst, size_t n, size_t offset,
                                 struct lt_error *err)
{
    if (offset > map->size || n > map->size - offset)
        return lt_fail(err, LT_ERR_FORMAT, "'%s': %zu bytes at offset %zu are outside the file of %zu bytes",
                       map->path, n, offset, map->size);
    unsigned char *out = dst;
    while (n > 0) {
        size_t chunk = n < PREAD_CHUNK ? n : PREAD_CHUNK;
        ssize_t got = pread(map->fd, out, chunk, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lt_fail_errno(err, errno, "cannot read %zu bytes at offset %zu of '%s'", chunk, offset,
                                 map->path);
        if (got == 0)
            return lt_fail(err, LT_ERR_IO, "'%s' became shorter than %zu bytes while it was being read",
                           map->path, offset + 1);
        posix_fadvise(map->fd, (off_t)offset, (off_t)got, POSIX_FADV_DONTNEED);
        out += got;
        offset += (size_t)got;
        n -= (size_t)got;
    }
    return LT_OK;
}

/* Advises on the pages that hold [offset, offset+n), clamped to the file. */
static void advise(const struct lt_file_map *map, size_t offset, size_t n, int advice)
{
    if (!map->data || offset >= map->size || n == 0)
        return;
    if (n > map->size - offset)
        n = map->size - offset;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t start = offset & ~(page - 1);
    madvise((void *)(uintptr_t)(map->data + start), offset + n - start, advice);
}

void lt_file_map_prefetch(const struct lt_file_map *map, size_t offset, size_t n)
{
    advise(map, offset, n, MADV_WILLNEED);
}

void lt_file_map_release(const struct lt_file_map *map, size_t offset, size_t n)
{
    /* Pages shared with a neighbour are dropped too: read-only, they come back. */
    advise(map, offset, n, MADV_DONTNEED);
    if (map->data && offset < map->size)
        posix_fadvise(map->fd, (off_t)offset, (off_t)(n < map->size - offset ? n : map->size - offset),
                      POSIX_FADV_DONTNEED);
}

static enum lt_status fail_too_large(struct lt_error *err, const char *path, size_t max_size)
{
    return lt_fail(err, LT_ERR_FORMAT, "'%s' is larger than the %zu bytes allowed for this kind of file",
                   path, max_size);
}

enum lt_status lt_file_read(const char *path, size_t max_size, char **data, size_t *size,
                            struct lt_error *err)
{
    enum lt_status status = LT_OK;
    char *buffer = NULL;
    size_t used = 0;

    *data = NULL;
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lt_fail_errno(err, errno, "cannot open '%s' for reading", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        status = lt_fail_errno(err, errno, "cannot examine '%s'", path);
        goto done;
    }
    if (S_ISREG(st.st_mode) && (uintmax_t)st.st_size > max_size) {
        status = fail_too_large(err, path, max_size);
        goto done;
    }
    /* The size is a hint only: pipes and /proc files report none, and a file may grow.  Two bytes
     * more than expected: one for the NUL, one so that the end shows without another growth. */
    size_t capacity = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : READ_FIRST_CAPACITY;
    if (!lt_add_size(capacity, 2, &capacity) || !(buffer = lt_alloc(capacity))) {
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while reading '%s'", path);
        goto done;
    }
    for (;;) {
        if (used + 1 == capacity) {
            size_t grown;
            char *moved = lt_mul_size(capacity, 2, &grown) ? lt_realloc_array(buffer, grown, 1) : NULL;
            if (!moved) {
                status = lt_fail(err, LT_ERR_NOMEM, "out of memory after %zu bytes of '%s'", used, path);
                goto done;
            }
            buffer = moved;
            capacity = grown;
        }
        ssize_t got = read(fd, buffer + used, capacity - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            status = lt_fail_errno(err, errno, "cannot read '%s'", path);
            goto done;
        }
        if (got == 0)
            break;
        used += (size_t)got;
        if (used > max_size) {
            status = fail_too_large(err, path, max_size);
            goto done;
        }
    }
    buffer[used] = '\0';
    *data = buffer;
    *size = used;
    buffer = NULL;

done:
    lt_free(buffer);
    close(fd);
    return status;
}
