/* Files: read-only maps, bounded reads, atomic writes, directories.  POSIX stays behind this header. */
#ifndef LT_BASE_FILE_H
#define LT_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

/* ---- read-only map ---- */
struct lt_file_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
    char *path;
    int fd; /* kept open for lt_file_map_pread */
};

enum lt_status lt_file_map_open(struct lt_file_map *map, const char *path, struct lt_error *err) LT_MUST_USE;
void lt_file_map_close(struct lt_file_map *map); /* zeroed or closed maps are accepted */
/* Reads exactly n bytes at offset into dst without touching the mapping (resident loading);
 * afterwards the kernel is told that those cached pages are not needed again. */
enum lt_status lt_file_map_pread(const struct lt_file_map *map, void *dst, size_t n, size_t offset,
                                 struct lt_error *err) LT_MUST_USE;
/* Hints: will be read soon / is not needed any more, neither in this process nor in the page cache.  Never fails. */
void lt_file_map_prefetch(const struct lt_file_map *map, size_t offset, size_t n);
void lt_file_map_release(const struct lt_file_map *map, size_t offset, size_t n);

/* ---- scratch pages: memory that is kept in a file and given back piece by piece ---- */
struct lt_file_scratch {
    unsigned char *data; /* writable, zero-filled at first */
    size_t size;
    int fd;
    bool in_memory; /* the folder's file system keeps its files in memory: nothing can be given back */
};

/* An unnamed file of size > 0 bytes in dir, its place on the disk reserved.  Its pages in memory count in
 * lt_memory_stat(). */
enum lt_status lt_file_scratch_open(struct lt_file_scratch *s, const char *dir, size_t size,
                                    struct lt_error *err) LT_MUST_USE;
/* The same without a mapping: data is NULL, and only read() and write() work.  Nothing of it counts as memory. */
enum lt_status lt_file_scratch_open_unmapped(struct lt_file_scratch *s, const char *dir, size_t size,
                                             struct lt_error *err) LT_MUST_USE;
void lt_file_scratch_close(struct lt_file_scratch *s); /* zeroed or closed ones are accepted */
/* Brings [offset, offset+n), clamped to size, into memory for writing.  Not needed before an access, which does that page
 * by page and ends the process where the disk fails. */
enum lt_status lt_file_scratch_take(struct lt_file_scratch *s, size_t offset, size_t n, struct lt_error *err)
    LT_MUST_USE;
/* Hint: take() comes soon.  Never fails. */
void lt_file_scratch_prefetch(const struct lt_file_scratch *s, size_t offset, size_t n);
/* Writes the pages that hold [offset, offset+n), clamped to size, to the file and takes them out of memory; the next
 * access brings them back. */
enum lt_status lt_file_scratch_release(struct lt_file_scratch *s, size_t offset, size_t n,
                                       struct lt_error *err) LT_MUST_USE;
/* n bytes at offset, within size, from and to the file: nothing stays in memory. */
enum lt_status lt_file_scratch_read(const struct lt_file_scratch *s, void *dst, size_t n, size_t offset,
                                    struct lt_error *err) LT_MUST_USE;
enum lt_status lt_file_scratch_write(struct lt_file_scratch *s, const void *src, size_t n, size_t offset,
                                     struct lt_error *err) LT_MUST_USE;

/* Reads a whole file (NUL added behind *size bytes; lt_free).  Files above max_size are refused. */
enum lt_status lt_file_read(const char *path, size_t max_size, char **data, size_t *size,
                            struct lt_error *err) LT_MUST_USE;

/* ---- atomic writer: temporary name in the same folder, fsync, rename ---- */
struct lt_file_writer {
    int fd;
    char *path;      /* final name */
    char *temp_path; /* name while writing */
    unsigned char *buffer;
    size_t buffered, written;
    bool failed;
};

enum lt_status lt_file_writer_open(struct lt_file_writer *w, const char *path, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_file_writer_put(struct lt_file_writer *w, const void *bytes, size_t n, struct lt_error *err)
    LT_MUST_USE;
/* Flush, fsync, rename over path, fsync the folder. */
enum lt_status lt_file_writer_commit(struct lt_file_writer *w, struct lt_error *err) LT_MUST_USE;
/* Removes the temporary file; harmless after commit and on a zeroed writer. */
void lt_file_writer_abort(struct lt_file_writer *w);
/* All of the above for one buffer. */
enum lt_status lt_file_write_atomic(const char *path, const void *bytes, size_t n, struct lt_error *err)
    LT_MUST_USE;

/* ---- append-only log file (JSONL, event files): every put is written through ---- */
struct lt_file_appender {
    int fd;
    char *path;
};
enum lt_status lt_file_appender_open(struct lt_file_appender *a, const char *path, bool truncate,
                                     struct lt_error *err) LT_MUST_USE;
enum lt_status lt_file_appender_put(struct lt_file_appender *a, const void *bytes, size_t n,
                                    struct lt_error *err) LT_MUST_USE;
void lt_file_appender_close(struct lt_file_appender *a);
/* Cuts the file to size bytes (resume drops the lines written after the checkpoint). */
enum lt_status lt_file_truncate(const char *path, uint64_t size, struct lt_error *err) LT_MUST_USE;

/* ---- atomic folder: a temporary name beside it, rename ---- */
/* Creates an empty folder "<path>.tmp-<pid>-<counter>", and the folders above it (*temp: lt_free). */
enum lt_status lt_dir_temp_create(char **temp, const char *path, struct lt_error *err) LT_MUST_USE;
/* Renames temp to path, where there may be nothing or an empty folder.  *taken: something else is there, so nothing was
 * renamed; then LT_OK. */
enum lt_status lt_dir_publish(const char *temp, const char *path, bool *taken, struct lt_error *err)
    LT_MUST_USE;

/* ---- lock: one process at a time ---- */
struct lt_file_lock {
    int fd;
};
/* Waits for the lock on the file, which is created when absent and stays; LT_ERR_CANCELLED when cancelled meanwhile.
 * The end of the process releases it. */
enum lt_status lt_file_lock_take(struct lt_file_lock *lock, const char *path, struct lt_error *err)
    LT_MUST_USE;
void lt_file_lock_release(struct lt_file_lock *lock);

/* ---- file system ---- */
enum lt_file_kind { LT_FILE_NONE, LT_FILE_REGULAR, LT_FILE_DIRECTORY, LT_FILE_OTHER };
enum lt_file_kind lt_file_kind(const char *path);
enum lt_status lt_file_size(const char *path, uint64_t *size, struct lt_error *err) LT_MUST_USE;
/* The same and when it was last written, nanoseconds since 1970: together they tell a changed file. */
enum lt_status lt_file_stamp(const char *path, uint64_t *size, int64_t *modified, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_dir_create(const char *path, struct lt_error *err)
    LT_MUST_USE; /* with parents; existing is fine */
/* Proves that a file can be created in the folder (creates and removes one). */
enum lt_status lt_dir_check_writable(const char *path, struct lt_error *err) LT_MUST_USE;
/* Names in the folder except . and .., sorted by bytes; lt_dir_list_free. */
enum lt_status lt_dir_list(const char *path, char ***names, size_t *count, struct lt_error *err) LT_MUST_USE;
void lt_dir_list_free(char **names, size_t count);
enum lt_status lt_dir_remove_tree(const char *path, struct lt_error *err)
    LT_MUST_USE; /* absent is fine; never follows links */
/* Renames a folder into place; an existing target is moved aside first and removed after. */
enum lt_status lt_dir_replace(const char *from, const char *to, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_file_copy(const char *from, const char *to, struct lt_error *err) LT_MUST_USE; /* atomic */
/* The path without links and dots (lt_free). */
enum lt_status lt_path_resolve(char **resolved, const char *path, struct lt_error *err) LT_MUST_USE;
/* a/b (lt_free); NULL when memory is short. */
char *lt_path_join(const char *a, const char *b) LT_MUST_USE;
const char *lt_path_basename(const char *path); /* points into path */

#endif
