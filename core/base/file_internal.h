/* Shared by the file_*.c files of this folder. */
#ifndef LT_BASE_FILE_INTERNAL_H
#define LT_BASE_FILE_INTERNAL_H

#include <stddef.h>

#include "core/base/status.h"

/* Creates a new empty file named "<path>.tmp-<pid>-<counter>" (O_EXCL, write-only).
 * *temp_path: lt_free. */
enum lt_status lt_file_temp_create(const char *path, char **temp_path, int *fd, struct lt_error *err)
    LT_MUST_USE;

/* "<path>.<tag>-<pid>-<counter>", a new counter each time (lt_free); NULL when memory is short. */
char *lt_file_sibling_name(const char *path, const char *tag) LT_MUST_USE;

/* The path without trailing slashes (lt_free); "/" stays.  NULL when memory is short. */
char *lt_path_strip(const char *path) LT_MUST_USE;

/* Writes all n bytes; path is for the message only. */
enum lt_status lt_file_write_all(int fd, const void *bytes, size_t n, const char *path, struct lt_error *err)
    LT_MUST_USE;

/* Makes a rename, creation or removal of path durable: fsync of the folder that holds it. */
enum lt_status lt_file_sync_parent(const char *path, struct lt_error *err) LT_MUST_USE;

#endif
