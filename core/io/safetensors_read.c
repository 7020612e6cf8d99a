/* The reader: header to tensor list, and the proof that the tensors tile the data exactly. */
#include "core/io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/io/json.h"

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

static const char METADATA_KEY[] = "__metadata__";

/* ---- header values ---- */

static enum lt_status tensor_error(const struct lt_safetensors *st, const char *name, const char *what,
                                   struct lt_error *err)
{
    struct lt_json_excerpt shown;
    return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s: %s", st->map.path, lt_json_excerpt(&shown, name),
                   what);
}

static bool is_count(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) >= 0;
}

static enum lt_status read_shape(struct lt_safetensors *st, struct lt_st_tensor *t, const json_t *shape,
                                 struct lt_error *err)
{
    if (!json_is_array(shape))
        return tensor_error(st, t->name, "no shape (an array of integers) in the header", err);
    size_t ndim = json_array_size(shape);
    if (ndim > LT_ST_MAX_DIMS)
        return tensor_error(st, t->name, "more than 8 dimensions, which this program does not read", err);
    t->ndim = (int)ndim;
    t->elements = 1;
    for (size_t i = 0; i < ndim; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!is_count(v))
            return tensor_error(st, t->name, "a shape entry is not an integer from 0 to 2^63-1", err);
        t->shape[i] = json_integer_value(v);
        if (__builtin_mul_overflow(t->elements, (uint64_t)t->shape[i], &t->elements))
            return tensor_error(st, t->name, "its shape has more elements than fit in 64 bits", err);
    }
    return LT_OK;
}

/* Leaves the offsets relative to the data buffer in t->offset and t->bytes. */
static enum lt_status read_extent(struct lt_safetensors *st, struct lt_st_tensor *t, const json_t *offsets,
                                  size_t buffer_size, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    size_t bytes;

    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !is_count(json_array_get(offsets, 0)) ||
        !is_count(json_array_get(offsets, 1)))
        return tensor_error(st, t->name, "data_offsets must be two integers from 0 to 2^63-1", err);
    uint64_t begin = (uint64_t)json_integer_value(json_array_get(offsets, 0));
    uint64_t end = (uint64_t)json_integer_value(json_array_get(offsets, 1));
    lt_json_excerpt(&shown, t->name);
    if (begin > end)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s: its data begins at %llu behind its end %llu",
                       st->map.path, shown.text, (unsigned long long)begin, (unsigned long long)end);
    if (end > buffer_size)
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: tensor %s: its data ends at offset %llu of the data, but the file holds only %llu data "
            "bytes; the file is incomplete",
            st->map.path, shown.text, (unsigned long long)end, (unsigned long long)buffer_size);
    if (!lt_dtype_bytes(t->dtype, t->elements, &bytes))
        return tensor_error(st, t->name, "its size in bytes overflows or is not a whole number", err);
    if (bytes != end - begin)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor %s: shape and dtype %s need %llu bytes, but data_offsets span %llu",
                       st->map.path, shown.text, lt_dtype_name(t->dtype), (unsigned long long)bytes,
                       (unsigned long long)(end - begin));
    t->offset = (size_t)begin;
    t->bytes = bytes;
    return LT_OK;
}

static enum lt_status read_tensor(struct lt_safetensors *st, struct lt_st_tensor *t, const char *name,
                                  const json_t *info, size_t buffer_size, struct lt_error *err)
{
    struct lt_json_excerpt shown;

    if (!json_is_object(info))
        return tensor_error(st, name, "its header entry is not an object", err);
    const json_t *dtype = json_object_get(info, "dtype");
    if (!json_is_string(dtype))
        return tensor_error(st, name, "no dtype (a string) in the header", err);
    if (strlen(json_string_value(dtype)) != json_string_length(dtype) ||
        !lt_dtype_from_name(json_string_value(dtype), &t->dtype)) {
        lt_json_excerpt(&shown, name);
        struct lt_json_excerpt shown_dtype;
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s: unknown dtype \"%s\"", st->map.path, shown.text,
                       lt_json_excerpt(&shown_dtype, json_string_value(dtype)));
    }
    t->name = lt_strdup(name);
    if (t->name == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the tensor names", st->map.path);
    LT_TRY(read_shape(st, t, json_object_get(info, "shape"), err));
    return read_extent(st, t, json_object_get(info, "data_offsets"), buffer_size, err);
}

static enum lt_status read_metadata(struct lt_safetensors *st, json_t *metadata, struct lt_error *err)
{
    struct lt_json_excerpt shown;

    if (json_is_null(metadata))
        return LT_OK;
    if (!json_is_object(metadata))
        return lt_fail(err, LT_ERR_FORMAT, "%s: __metadata__ must be an object, found %s", st->map.path,
                       lt_json_type_name(metadata));
    st->metadata = lt_alloc_zero(json_object_size(metadata), 2 * sizeof *st->metadata);
    if (st->metadata == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the metadata", st->map.path);
    for (void *it = json_object_iter(metadata); it != NULL; it = json_object_iter_next(metadata, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *value = json_object_iter_value(it);
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: __metadata__ entry %s must be a string without U+0000, found %s",
                           st->map.path, lt_json_excerpt(&shown, key), lt_json_type_name(value));
        char **pair = st->metadata + 2 * st->metadata_pairs++;
        pair[0] = lt_strdup(key);
        pair[1] = lt_strdup(json_string_value(value));
        if (pair[0] == NULL || pair[1] == NULL)
            return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the metadata", st->map.path);
    }
    return LT_OK;
}

static enum lt_status read_entries(struct lt_safetensors *st, json_t *header, size_t buffer_size,
                                   struct lt_error *err)
{
    st->tensors = lt_alloc_zero(json_object_size(header), sizeof *st->tensors);
    if (st->tensors == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the tensor list", st->map.path);
    for (void *it = json_object_iter(header); it != NULL; it = json_object_iter_next(header, it)) {
        const char *name = json_object_iter_key(it);
        if (strcmp(name, METADATA_KEY) == 0)
            LT_TRY(read_metadata(st, json_object_iter_value(it), err));
        else
            LT_TRY(read_tensor(st, &st->tensors[st->count++], name, json_object_iter_value(it), buffer_size,
                               err));
    }
    return LT_OK;
}

/* ---- layout ---- */

static int compare_extents(const void *a, const void *b)
{
    const struct lt_st_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    const struct lt_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The tensors must cover the data buffer exactly.  Turns offsets into file offsets, sorts by name. */
static enum lt_status check_layout(struct lt_safetensors *st, size_t buffer_offset, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    size_t end = 0, buffer_size = st->map.size - buffer_offset;

    qsort(st->tensors, st->count, sizeof *st->tensors, compare_extents);
    for (size_t i = 0; i < st->count; i++) {
        struct lt_st_tensor *t = &st->tensors[i];
        if (t->offset != end)
            return lt_fail(
                err, LT_ERR_FORMAT,
                "%s: tensor %s: its data begins at file offset %llu, but the tensor before it ends at "
                "%llu (%s)",
                st->map.path, lt_json_excerpt(&shown, t->name),
                (unsigned long long)(t->offset + buffer_offset), (unsigned long long)(end + buffer_offset),
                t->offset > end ? "a hole" : "an overlap");
        end += t->bytes;
        t->offset += buffer_offset;
    }
    if (end != buffer_size)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the tensors end at file offset %llu, but the file has %llu bytes behind that",
                       st->map.path, (unsigned long long)(end + buffer_offset),
                       (unsigned long long)(buffer_size - end));
    qsort(st->tensors, st->count, sizeof *st->tensors, compare_names);
    return LT_OK;
}

static enum lt_status header_length(const struct lt_safetensors *st, size_t *length, struct lt_error *err)
{
    uint64_t n = 0;

    *length = 0;
    if (st->map.size < LENGTH_BYTES)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %llu bytes are too few for a safetensors file", st->map.path,
                       (unsigned long long)st->map.size);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        n = n << 8 | st->map.data[i];
    if (n > MAX_HEADER_BYTES)
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: header length %llu at offset 0 is above the limit of 100000000; not a safetensors file?",
            st->map.path, (unsigned long long)n);
    if (n > st->map.size - LENGTH_BYTES)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the header of %llu bytes is longer than the file of %llu; the file is incomplete",
                       st->map.path, (unsigned long long)n, (unsigned long long)st->map.size);
    if (n == 0 || st->map.data[LENGTH_BYTES] != '{')
        return lt_fail(err, LT_ERR_FORMAT, "%s: the header at offset 8 does not begin with '{'",
                       st->map.path);
    *length = (size_t)n;
    return LT_OK;
}

static enum lt_status read_file(struct lt_safetensors *st, struct lt_error *err)
{
    size_t length, bad;
    json_t *header;

    LT_TRY(header_length(st, &length, err));
    const char *text = (const char *)st->map.data + LENGTH_BYTES;
    if (!lt_utf8_valid(text, length, &bad))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the header is not valid UTF-8 at file offset %llu",
                       st->map.path, (unsigned long long)(bad + LENGTH_BYTES));
    enum lt_status status = lt_json_parse(&header, text, length, "header", err);
    if (status != LT_OK)
        return lt_fail_prefix(err, status, "%s", st->map.path);
    size_t buffer_offset = LENGTH_BYTES + length;
    status = read_entries(st, header, st->map.size - buffer_offset, err);
    json_decref(header);
    LT_TRY(status);
    return check_layout(st, buffer_offset, err);
}

/* ---- interface ---- */

enum lt_status lt_safetensors_open(struct lt_safetensors *st, const char *path, struct lt_error *err)
{
    memset(st, 0, sizeof *st);
    LT_TRY(lt_file_map_open(&st->map, path, err));
    enum lt_status status = read_file(st, err);
    if (status != LT_OK)
        lt_safetensors_close(st);
    return status;
}

void lt_safetensors_close(struct lt_safetensors *st)
{
    for (size_t i = 0; i < st->count; i++)
        lt_free(st->tensors[i].name);
    lt_free(st->tensors);
    for (size_t i = 0; i < 2 * st->metadata_pairs; i++)
        lt_free(st->metadata[i]);
    lt_free(st->metadata);
    lt_file_map_close(&st->map);
    memset(st, 0, sizeof *st);
}

static int compare_name_to_tensor(const void *key, const void *element)
{
    return strcmp(key, ((const struct lt_st_tensor *)element)->name);
}

const struct lt_st_tensor *lt_safetensors_find(const struct lt_safetensors *st, const char *name)
{
    if (st->count == 0)
        return NULL;
    return bsearch(name, st->tensors, st->count, sizeof *st->tensors, compare_name_to_tensor);
}

const char *lt_safetensors_metadata(const struct lt_safetensors *st, const char *key)
{
    for (size_t i = 0; i < st->metadata_pairs; i++)
        if (strcmp(st->metadata[2 * i], key) == 0)
            return st->metadata[2 * i + 1];
    return NULL;
}

const void *lt_safetensors_data(const struct lt_safetensors *st, const struct lt_st_tensor *t)
{
    return st->map.data + t->offset;
}

enum lt_status lt_safetensors_read_f32(const struct lt_safetensors *st, const struct lt_st_tensor *t,
                                       float *dst, struct lt_error *err)
{
    if (t->dtype != LT_F32 && t->dtype != LT_F16 && t->dtype != LT_BF16 && t->dtype != LT_F64)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: tensor %s: has dtype %s where F32, F16, BF16 or F64 is needed", st->map.path,
                       t->name, lt_dtype_name(t->dtype));
    if (t->elements > 0)
        lt_convert_to_f32(dst, lt_safetensors_data(st, t), t->dtype, (size_t)t->elements);
    return LT_OK;
}
