/* safetensors files: hostile-input-proof reader over a map, and a writer in the reference order.
 * Layout: u64 little-endian header length n <= 100,000,000; n bytes JSON; tensor bytes to the end.
 * Checked on open: every rule of the reference reader (no holes, no overlaps, no trailing bytes,
 * sizes equal shape * dtype with overflow checks), and duplicate names. */
#ifndef LT_IO_SAFETENSORS_H
#define LT_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/file.h"
#include "core/base/status.h"
#include "core/tensor/dtype.h"

enum { LT_ST_MAX_DIMS = 8 };

struct lt_st_tensor {
    char *name;
    enum lt_dtype dtype;
    int ndim; /* 0: a scalar */
    int64_t shape[LT_ST_MAX_DIMS];
    uint64_t elements;
    size_t offset, bytes; /* in the file; may be unaligned in older files */
};

struct lt_safetensors {
    struct lt_file_map map;
    struct lt_st_tensor *tensors; /* sorted by name */
    size_t count;
    char **metadata; /* key, value, key, value … */
    size_t metadata_pairs;
};

enum lt_status lt_safetensors_open(struct lt_safetensors *st, const char *path, struct lt_error *err)
    LT_MUST_USE;
void lt_safetensors_close(struct lt_safetensors *st); /* zeroed ones are accepted */
/* NULL when there is none. */
const struct lt_st_tensor *lt_safetensors_find(const struct lt_safetensors *st, const char *name);
const char *lt_safetensors_metadata(const struct lt_safetensors *st, const char *key);
/* The tensor's bytes in the map; possibly unaligned. */
const void *lt_safetensors_data(const struct lt_safetensors *st, const struct lt_st_tensor *t);
/* All elements converted to f32 (dtypes F32, F16, BF16, F64; else LT_ERR_FORMAT naming the tensor). */
enum lt_status lt_safetensors_read_f32(const struct lt_safetensors *st, const struct lt_st_tensor *t,
                                       float *dst, struct lt_error *err) LT_MUST_USE;

/* ---- writer ----
 * Tensors are declared with their bytes borrowed until commit; the file is ordered as the reference
 * writer does (dtype descending, then name), header compact and padded to 8, metadata first.
 * A tensor may instead be produced by a callback, so that a big model is never held at once. */
typedef enum lt_status (*lt_st_produce_fn)(void *user, struct lt_file_writer *w, struct lt_error *err);

struct lt_st_writer;
enum lt_status lt_st_writer_create(struct lt_st_writer **writer, struct lt_error *err) LT_MUST_USE;
void lt_st_writer_destroy(struct lt_st_writer *writer);
enum lt_status lt_st_writer_metadata(struct lt_st_writer *writer, const char *key, const char *value,
                                     struct lt_error *err) LT_MUST_USE;
/* The name is copied; a duplicate name is LT_ERR_INVALID. */
enum lt_status lt_st_writer_add(struct lt_st_writer *writer, const char *name, enum lt_dtype dtype,
                                const int64_t *shape, int ndim, const void *data, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_st_writer_add_produced(struct lt_st_writer *writer, const char *name, enum lt_dtype dtype,
                                         const int64_t *shape, int ndim, lt_st_produce_fn produce, void *user,
                                         struct lt_error *err) LT_MUST_USE;
/* Writes the file atomically. */
enum lt_status lt_st_writer_save(struct lt_st_writer *writer, const char *path, struct lt_error *err)
    LT_MUST_USE;

#endif
