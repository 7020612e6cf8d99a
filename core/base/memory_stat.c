/* What this process uses: /proc/self/status, and /proc/self/pagemap for tracked file mappings. */
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

/* Bits of an entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SHARED \
    (UINT64_C(1) << 61) /* a page of a file or of shared memory; a private copy is anonymous */

/* Pages of [start, end) in memory that belong to a file.  Counted instead of the dirty ones, which only smaps tells,
 * by walking all memory of the process: tens of milliseconds for each GB. */
static uint64_t resident_file_pages(int pagemap, uintptr_t start, uintptr_t end, size_t page)
{
    uint64_t entries[2048], count = 0;
    uintptr_t at = start / page, last = (end + page - 1) / page;
    while (at < last) {
        size_t want = last - at < sizeof entries / sizeof *entries ? last - at
                                                                   : sizeof entries / sizeof *entries;
        ssize_t got = pread(pagemap, entries, want * sizeof *entries, (off_t)(at * sizeof *entries));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < (ssize_t)sizeof *entries)
            break;
        for (size_t i = 0; i < (size_t)got / sizeof *entries; i++)
            count += (entries[i] & PAGEMAP_PRESENT) && (entries[i] & PAGEMAP_SHARED);
        at += (size_t)got / sizeof *entries;
    }
    return count;
}

static uint64_t tracked_bytes(void)
{
    struct tracked_mapping maps[TRACKED_MAX];
    size_t count = tracked_copy(maps), page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t pages = 0;
    if (count == 0)
        return 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        pages += resident_file_pages(pagemap, maps[i].start, maps[i].end, page);
    close(pagemap);
    return pages * page;
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
    stat->file_dirty = tracked_bytes();
}

uint64_t lt_memory_counted(const struct lt_memory_stat *stat)
{
    return stat->rss_anon + stat->rss_shmem + stat->file_dirty;
}
