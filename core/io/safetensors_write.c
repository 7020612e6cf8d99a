/* The writer: byte for byte what the reference implementation writes. */
#include "core/io/safetensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"
#include "core/io/json.h"

enum { LENGTH_BYTES = 8, HEADER_ALIGNMENT = 8, MAX_HEADER_BYTES = 100000000 };

struct entry {
    char *name;
    uint64_t hash; /* of the name: keeps the search for duplicates cheap */
    enum lt_dtype dtype;
    int ndim;
    int64_t shape[LT_ST_MAX_DIMS];
    size_t bytes;
    const void *data;
    lt_st_produce_fn produce; /* NULL: the bytes are at data */
    void *user;
};

struct pair {
    char *key, *value;
};

struct lt_st_writer {
    struct entry *entries;
    size_t count, capacity;
    struct pair *metadata;
    size_t pairs, pair_capacity;
};

/* Position of each dtype in the file; the reference writer puts wide element types first, so that every
 * tensor is aligned to its elements. */
static const unsigned char dtype_rank[LT_DTYPE_COUNT] = {
    [LT_U64] = 0,      [LT_I64] = 1,          [LT_F64] = 2,          [LT_C64] = 3,      [LT_F32] = 4,
    [LT_U32] = 5,      [LT_I32] = 6,          [LT_BF16] = 7,         [LT_F16] = 8,      [LT_U16] = 9,
    [LT_I16] = 10,     [LT_F8_E5M2FNUZ] = 11, [LT_F8_E4M3FNUZ] = 12, [LT_F8_E8M0] = 13, [LT_F8_E4M3] = 14,
    [LT_F8_E5M2] = 15, [LT_I8] = 16,          [LT_U8] = 17,          [LT_F6_E3M2] = 18, [LT_F6_E2M3] = 19,
    [LT_F4] = 20,      [LT_BOOL] = 21,
};

enum lt_status lt_st_writer_create(struct lt_st_writer **writer, struct lt_error *err)
{
    *writer = lt_alloc_zero(1, sizeof **writer);
    if (*writer == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a safetensors writer");
    return LT_OK;
}

void lt_st_writer_destroy(struct lt_st_writer *writer)
{
    if (writer == NULL)
        return;
    for (size_t i = 0; i < writer->count; i++)
        lt_free(writer->entries[i].name);
    lt_free(writer->entries);
    for (size_t i = 0; i < writer->pairs; i++) {
        lt_free(writer->metadata[i].key);
        lt_free(writer->metadata[i].value);
    }
    lt_free(writer->metadata);
    lt_free(writer);
}

/* ---- declaring ---- */

static uint64_t hash_name(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

static enum lt_status check_utf8(const char *text, const char *role, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    if (lt_utf8_valid(text, strlen(text), NULL))
        return LT_OK;
    return lt_fail(err, LT_ERR_INVALID, "safetensors: the %s %s is not valid UTF-8", role,
                   lt_json_excerpt(&shown, text));
}

enum lt_status lt_st_writer_metadata(struct lt_st_writer *writer, const char *key, const char *value,
                                     struct lt_error *err)
{
    LT_TRY(check_utf8(key, "metadata key", err));
    LT_TRY(check_utf8(value, "metadata value", err));
    for (size_t i = 0; i < writer->pairs; i++)
        if (strcmp(writer->metadata[i].key, key) == 0)
            return lt_fail(err, LT_ERR_INVALID, "safetensors: the metadata key %s is given twice", key);
    struct pair p = {.key = lt_strdup(key), .value = lt_strdup(value)};
    if (p.key == NULL || p.value == NULL ||
        !lt_reserve((void **)&writer->metadata, &writer->pair_capacity, writer->pairs, sizeof p)) {
        lt_free(p.key);
        lt_free(p.value);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the safetensors metadata");
    }
    writer->metadata[writer->pairs++] = p;
    return LT_OK;
}

static enum lt_status set_shape(struct entry *e, const char *name, const int64_t *shape, int ndim,
                                struct lt_error *err)
{
    uint64_t elements = 1;

    if (ndim < 0 || ndim > LT_ST_MAX_DIMS)
        return lt_fail(err, LT_ERR_INVALID,
                       "safetensors: tensor %s has %d dimensions; 0 to %d can be written", name, ndim,
                       LT_ST_MAX_DIMS);
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(elements, (uint64_t)shape[i], &elements))
            return lt_fail(err, LT_ERR_INVALID, "safetensors: tensor %s has a negative or too large shape",
                           name);
        e->shape[i] = shape[i];
    }
    e->ndim = ndim;
    if (!lt_dtype_bytes(e->dtype, elements, &e->bytes))
        return lt_fail(err, LT_ERR_INVALID,
                       "safetensors: tensor %s: its size in bytes overflows or is not a whole number", name);
    return LT_OK;
}

static enum lt_status add_entry(struct lt_st_writer *writer, struct entry e, const char *name,
                                const int64_t *shape, int ndim, struct lt_error *err)
{
    LT_TRY(check_utf8(name, "tensor name", err));
    if (strcmp(name, "__metadata__") == 0)
        return lt_fail(err, LT_ERR_INVALID, "safetensors: a tensor cannot be called __metadata__");
    LT_TRY(set_shape(&e, name, shape, ndim, err));
    e.hash = hash_name(name);
    for (size_t i = 0; i < writer->count; i++)
        if (writer->entries[i].hash == e.hash && strcmp(writer->entries[i].name, name) == 0)
            return lt_fail(err, LT_ERR_INVALID, "safetensors: tensor %s is given twice", name);
    e.name = lt_strdup(name);
    if (e.name == NULL ||
        !lt_reserve((void **)&writer->entries, &writer->capacity, writer->count, sizeof e)) {
        lt_free(e.name);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the list of safetensors tensors");
    }
    writer->entries[writer->count++] = e;
    return LT_OK;
}

enum lt_status lt_st_writer_add(struct lt_st_writer *writer, const char *name, enum lt_dtype dtype,
                                const int64_t *shape, int ndim, const void *data, struct lt_error *err)
{
    struct entry e = {.dtype = dtype, .data = data};
    return add_entry(writer, e, name, shape, ndim, err);
}

enum lt_status lt_st_writer_add_produced(struct lt_st_writer *writer, const char *name, enum lt_dtype dtype,
                                         const int64_t *shape, int ndim, lt_st_produce_fn produce, void *user,
                                         struct lt_error *err)
{
    assert(produce != NULL);
    struct entry e = {.dtype = dtype, .produce = produce, .user = user};
    return add_entry(writer, e, name, shape, ndim, err);
}

/* ---- writing ---- */

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->dtype != y->dtype)
        return dtype_rank[x->dtype] < dtype_rank[y->dtype] ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static void put_text(struct lt_strbuf *sb, const char *text)
{
    lt_json_put_string(sb, text, strlen(text));
}

static void put_metadata(struct lt_strbuf *sb, const struct lt_st_writer *writer)
{
    lt_strbuf_puts(sb, "\"__metadata__\":{");
    for (size_t i = 0; i < writer->pairs; i++) {
        if (i > 0)
            lt_strbuf_putc(sb, ',');
        put_text(sb, writer->metadata[i].key);
        lt_strbuf_putc(sb, ':');
        put_text(sb, writer->metadata[i].value);
    }
    lt_strbuf_putc(sb, '}');
}

static void put_entry(struct lt_strbuf *sb, const struct entry *e, size_t begin)
{
    put_text(sb, e->name);
    lt_strbuf_printf(sb, ":{\"dtype\":\"%s\",\"shape\":[", lt_dtype_name(e->dtype));
    for (int i = 0; i < e->ndim; i++)
        lt_strbuf_printf(sb, i > 0 ? ",%lld" : "%lld", (long long)e->shape[i]);
    lt_strbuf_printf(sb, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                     (unsigned long long)(begin + e->bytes));
}

/* The eight length bytes and the padded JSON; entries are in file order. */
static enum lt_status put_header(struct lt_strbuf *sb, const struct lt_st_writer *writer, const char *path,
                                 struct lt_error *err)
{
    size_t begin = 0;

    lt_strbuf_put(sb, "\0\0\0\0\0\0\0\0", LENGTH_BYTES);
    lt_strbuf_putc(sb, '{');
    if (writer->pairs > 0)
        put_metadata(sb, writer);
    for (size_t i = 0; i < writer->count; i++) {
        size_t end;
        if (!lt_add_size(begin, writer->entries[i].bytes, &end) || end > INT64_MAX)
            return lt_fail(err, LT_ERR_INVALID, "%s: the tensors are larger than any file can be", path);
        if (i > 0 || writer->pairs > 0)
            lt_strbuf_putc(sb, ',');
        put_entry(sb, &writer->entries[i], begin);
        begin = end;
    }
    lt_strbuf_putc(sb, '}');
    while (lt_strbuf_ok(sb) && sb->len % HEADER_ALIGNMENT != 0)
        lt_strbuf_putc(sb, ' ');
    if (!lt_strbuf_ok(sb))
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the safetensors header", path);
    size_t n = sb->len - LENGTH_BYTES;
    if (n > MAX_HEADER_BYTES)
        return lt_fail(err, LT_ERR_INVALID, "%s: the safetensors header is longer than 100000000 bytes",
                       path);
    for (int i = 0; i < LENGTH_BYTES; i++)
        sb->data[i] = (char)(n >> 8 * i & 0xff);
    return LT_OK;
}

static enum lt_status put_data(struct lt_file_writer *w, const struct entry *e, struct lt_error *err)
{
    if (e->produce == NULL)
        return lt_file_writer_put(w, e->data, e->bytes, err);
    size_t before = w->written;
    LT_TRY(e->produce(e->user, w, err));
    if (w->written - before != e->bytes)
        return lt_fail(err, LT_ERR_INVALID,
                       "%s: tensor %s: %llu bytes were produced where %llu were declared", w->path, e->name,
                       (unsigned long long)(w->written - before), (unsigned long long)e->bytes);
    return LT_OK;
}

enum lt_status lt_st_writer_save(struct lt_st_writer *writer, const char *path, struct lt_error *err)
{
    struct lt_file_writer w = {0};
    struct lt_strbuf header;

    if (writer->count > 0)
        qsort(writer->entries, writer->count, sizeof *writer->entries, compare_entries);
    if (writer->pairs > 0)
        qsort(writer->metadata, writer->pairs, sizeof *writer->metadata, compare_pairs);
    lt_strbuf_init(&header);
    enum lt_status status = put_header(&header, writer, path, err);
    if (status != LT_OK)
        goto done;
    status = lt_file_writer_open(&w, path, err);
    if (status != LT_OK)
        goto done;
    status = lt_file_writer_put(&w, header.data, header.len, err);
    for (size_t i = 0; status == LT_OK && i < writer->count; i++)
        status = put_data(&w, &writer->entries[i], err);
    if (status == LT_OK)
        status = lt_file_writer_commit(&w, err);
    lt_file_writer_abort(&w);
done:
    lt_strbuf_deinit(&header);
    return status;
}
