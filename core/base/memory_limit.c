/* What the machine can still give: /proc/meminfo, bounded by the control groups we are in. */
#include "core/base/system.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/proc_internal.h"
#include "core/base/strbuf.h"

/* The names of the same things in the two versions of the cgroup interface. */
struct cgroup_version {
    const char *root;
    const char *limit, *usage;
    const char *inactive_file, *active_file; /* keys of memory.stat */
};

static const struct cgroup_version cgroup_v2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file",
};
static const struct cgroup_version cgroup_v1 = {
    "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    "total_inactive_file",   "total_active_file",
};

enum { CGROUP_PATH_MAX = 1024 };

static bool read_group_file(const struct cgroup_version *v, const char *group, const char *file, char *buf,
                            size_t size)
{
    char path[CGROUP_PATH_MAX + 128];
    lt_snprintf(path, sizeof path, "%s%s/%s", v->root, group, file);
    return lt_proc_read(path, buf, size);
}

/* Bytes that one group still allows; UINT64_MAX without a limit. */
static uint64_t group_room(const struct cgroup_version *v, const char *group)
{
    char text[8192];
    if (!read_group_file(v, group, v->limit, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return UINT64_MAX; /* no such file, or "max" */
    uint64_t limit = strtoull(text, NULL, 10);
    if (!read_group_file(v, group, v->usage, text, sizeof text))
        return UINT64_MAX;
    uint64_t usage = strtoull(text, NULL, 10);
    if (read_group_file(v, group, "memory.stat", text, sizeof text)) {
        /* Cached file pages are given up under pressure. */
        uint64_t cache = lt_proc_value(text, v->inactive_file) + lt_proc_value(text, v->active_file);
        usage -= cache < usage ? cache : usage;
    }
    return limit > usage ? limit - usage : 0;
}

/* The least room of the group and its ancestors.  Inside a container the path may not exist below
 * the mounted root; the walk then ends at the root, which is our own group. */
static uint64_t groups_room(const struct cgroup_version *v, char *group)
{
    uint64_t room = UINT64_MAX;
    for (;;) {
        uint64_t here = group_room(v, group);
        if (here < room)
            room = here;
        char *slash = strrchr(group, '/');
        if (!slash)
            return room;
        *slash = '\0';
    }
}

/* Copies the group path from the line of /proc/self/cgroup that starts with or contains `mark`. */
static bool find_group(const char *text, const char *mark, char group[CGROUP_PATH_MAX])
{
    const char *found = strstr(text, mark);
    if (!found)
        return false;
    found += strlen(mark);
    size_t n = strcspn(found, "\n");
    while (n > 0 && found[n - 1] == '/')
        n--;
    if (n >= CGROUP_PATH_MAX)
        return false;
    memcpy(group, found, n);
    group[n] = '\0';
    return true;
}

static uint64_t cgroup_room(void)
{
    char text[8192], group[CGROUP_PATH_MAX];
    if (!lt_proc_read("/proc/self/cgroup", text, sizeof text))
        return UINT64_MAX;
    uint64_t room = UINT64_MAX;
    if (find_group(text, ":memory:", group))
        room = groups_room(&cgroup_v1, group);
    if (find_group(text, "0::", group)) {
        uint64_t other = groups_room(&cgroup_v2, group);
        if (other < room)
            room = other;
    }
    return room;
}

uint64_t lt_memory_available(void)
{
    char text[8192];
    if (!lt_proc_read("/proc/meminfo", text, sizeof text))
        return 0;
    uint64_t available = lt_proc_value(text, "MemAvailable:") * 1024;
    uint64_t room = cgroup_room();
    return room < available ? room : available;
}
