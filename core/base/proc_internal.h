/* Reading the kernel's text files without allocating: shared by the memory_*.c files. */
#ifndef LT_BASE_PROC_INTERNAL_H
#define LT_BASE_PROC_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads the file into buf, NUL-terminated, cut at size-1 bytes.  False when it cannot be read. */
bool lt_proc_read(const char *path, char *buf, size_t size);

/* The number after `key` at the start of a line ("RssAnon:", "inactive_file"); 0 when absent. */
uint64_t lt_proc_value(const char *text, const char *key);

#endif
