/* What this process uses: /proc/self/status, and /proc/self/smaps for tracked file mappings. */
#include "core/base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/proc_internal.h"

/* ---- kernel text files ---- */

bool lt_proc_read(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t used = 0;
    bool ok = true;
    while (used + 1 < size) {
        ssize_t got = read(fd, buf + used, size - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            ok = got == 0;
            break;
        }
        used += (size_t)got;
    }
    buf[used] = '\0';
    close(fd);
    return ok;
}

uint64_t lt_proc_value(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, key, n) == 0 && (line[n] == ' ' || line[n] == '\t'))
            return strtoull(line + n, NULL, 10);
    }
    return 0;
}

/* ---- tracked file mappings ---- */

enum { TRACKED_MAX = 64 };

struct tracked_mapping {
    uintptr_t start, end; /* start == end: free entry */
};

static pthread_mutex_t tracked_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tracked_mapping tracked[TRACKED_MAX];
static size_t tracked_count;

bool lt_memory_track_file_mapping(const void *addr, size_t size)
{
    if (size == 0)
        return true;
    bool stored = false;
    pthread_mutex_lock(&tracked_lock);
    for (size_t i = 0; i < TRACKED_MAX && !stored; i++) {
        if (tracked[i].start != tracked[i].end)
            continue;
        tracked[i].start = (uintptr_t)addr;
        tracked[i].end = (uintptr_t)addr + size;
        tracked_count++;
        stored = true;
    }
    pthread_mutex_unlock(&tracked_lock);
    return stored;
}

void lt_memory_untrack_file_mapping(const void *addr)
{
    pthread_mutex_lock(&tracked_lock);
    for (size_t i = 0; i < TRACKED_MAX; i++) {
        if (tracked[i].start == (uintptr_t)addr && tracked[i].start != tracked[i].end) {
            tracked[i] = (struct tracked_mapping){0, 0};
            tracked_count--;
            break;
        }
    }
    pthread_mutex_unlock(&tracked_lock);
}

/* Copies the table, so that the lock is not held while the kernel walks page tables. */
static size_t tracked_copy(struct tracked_mapping copy[TRACKED_MAX])
{
    size_t n = 0;
    pthread_mutex_lock(&tracked_lock);
    for (size_t i = 0; i < TRACKED_MAX && tracked_count > 0; i++) {
        if (tracked[i].start != tracked[i].end)
            copy[n++] = tracked[i];
    }
    pthread_mutex_unlock(&tracked_lock);
    return n;
}

/* Whether an smaps header line ("start-end rw-s …", lower-case hex) is a writable shared mapping
 * that overlaps a tracked one.  Dirty pages of private mappings are anonymous: counted elsewhere. */
static bool header_is_tracked(const char *line, const struct tracked_mapping *maps, size_t count)
{
    char *end;
    uintptr_t start = (uintptr_t)strtoull(line, &end, 16);
    if (*end != '-')
        return false;
    uintptr_t stop = (uintptr_t)strtoull(end + 1, &end, 16);
    if (strlen(end) < 5 || end[2] != 'w' || end[4] != 's')
        return false;
    for (size_t i = 0; i < count; i++) {
        if (start < maps[i].end && maps[i].start < stop)
            return true;
    }
    return false;
}

struct smaps_scan {
    const struct tracked_mapping *maps;
    size_t count;
    bool inside; /* the last header was a tracked mapping */
    uint64_t kib;
};

static void smaps_line(struct smaps_scan *scan, const char *line)
{
    bool header = (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
    if (header)
        scan->inside = header_is_tracked(line, scan->maps, scan->count);
    else if (scan->inside)
        scan->kib += lt_proc_value(line, "Shared_Dirty:") + lt_proc_value(line, "Private_Dirty:");
}

static uint64_t tracked_dirty_bytes(void)
{
    struct tracked_mapping maps[TRACKED_MAX];
    struct smaps_scan scan = {.maps = maps, .count = tracked_copy(maps)};
    if (scan.count == 0)
        return 0;
    int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    char block[4096], line[128]; /* the rest of a longer line (a path) is not needed */
    size_t length = 0;
    for (;;) {
        ssize_t got = read(fd, block, sizeof block);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got; i++) {
            if (block[i] == '\n') {
                line[length] = '\0';
                smaps_line(&scan, line);
                length = 0;
            } else if (length + 1 < sizeof line) {
                line[length++] = block[i];
            }
        }
    }
    close(fd);
    return scan.kib * 1024;
}

void lt_memory_stat(struct lt_memory_stat *stat)
{
    *stat = (struct lt_memory_stat){0};
    char text[8192];
    if (!lt_proc_read("/proc/self/status", text, sizeof text))
        return;
    stat->rss_anon = lt_proc_value(text, "RssAnon:") * 1024;
    stat->rss_shmem = lt_proc_value(text, "RssShmem:") * 1024;
    stat->rss_file = lt_proc_value(text, "RssFile:") * 1024;
    stat->file_dirty = tracked_dirty_bytes();
}

uint64_t lt_memory_counted(const struct lt_memory_stat *stat)
{
    return stat->rss_anon + stat->rss_shmem + stat->file_dirty;
}
