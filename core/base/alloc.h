/* Heap memory with a fault-injection hook, so that the tests can make the n-th allocation fail. */
#ifndef LT_BASE_ALLOC_H
#define LT_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/status.h"

/* All return NULL on failure or when count*size overflows; a zero size gives a valid pointer. */
void *lt_alloc(size_t size) LT_MUST_USE;
void *lt_alloc_zero(size_t count, size_t size) LT_MUST_USE;
void *lt_alloc_array(size_t count, size_t size) LT_MUST_USE;
/* On failure the old block stays valid. */
void *lt_realloc_array(void *p, size_t count, size_t size) LT_MUST_USE;
char *lt_strdup(const char *s) LT_MUST_USE;
char *lt_strndup(const char *s, size_t n) LT_MUST_USE;
void lt_free(void *p); /* NULL is accepted */

/* Large page-aligned blocks straight from the kernel (zero-filled, returned to it at once by
 * lt_free_pages).  Their pages count in memory only once touched. */
void *lt_alloc_pages(size_t size) LT_MUST_USE;
void lt_free_pages(void *p, size_t size);

/* Grows *items (element size `size`) so that one more fits: the usual doubling vector.
 * *capacity is in elements.  Returns false, changing nothing, when memory is short. */
bool lt_reserve(void **items, size_t *capacity, size_t count, size_t size) LT_MUST_USE;

/* Test hook: the n-th allocation from now (1 = the next) fails; 0 turns it off.
 * lt_alloc_count() counts allocations since the last call of lt_alloc_fail_at(). */
void lt_alloc_fail_at(long n);
long lt_alloc_count(void);

#endif
