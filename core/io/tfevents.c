#include "core/io/tfevents.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"

enum {
    MAX_EVENT = LT_TFEVENTS_MAX_TAG +
                64, /* tag, three lengths of at most 2 bytes, 9 + 11 + 5 bytes of values */
    MAX_SAME_SECOND = 1000,
    /* protobuf wire tags: field number << 3 | wire type */
    EVENT_WALL_TIME = 1 << 3 | 1,
    EVENT_STEP = 2 << 3 | 0,
    EVENT_FILE_VERSION = 3 << 3 | 2,
    EVENT_SUMMARY = 5 << 3 | 2,
    SUMMARY_VALUE = 1 << 3 | 2,
    VALUE_TAG = 1 << 3 | 2,
    VALUE_SIMPLE = 2 << 3 | 5
};

uint32_t lt_crc32c(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    uint32_t crc = 0xffffffffu;

    /* Bit by bit: the records have some fifty bytes, and a few are written per step. */
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1u)));
    }
    return ~crc;
}

struct bytes {
    unsigned char data[MAX_EVENT];
    size_t len;
};

static void put_fixed(struct bytes *b, uint64_t v, int width)
{
    for (int i = 0; i < width; i++)
        b->data[b->len++] = (unsigned char)(v >> 8 * i & 0xff);
}

static void put_varint(struct bytes *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        b->data[b->len++] = (unsigned char)(v & 0x7f) | 0x80u;
    b->data[b->len++] = (unsigned char)v;
}

static void put_chunk(struct bytes *b, unsigned char tag, const void *data, size_t n)
{
    put_varint(b, tag);
    put_varint(b, n);
    memcpy(b->data + b->len, data, n);
    b->len += n;
}

static void put_wall_time(struct bytes *b, double wall_time)
{
    uint64_t bits;
    memcpy(&bits, &wall_time, sizeof bits);
    put_varint(b, EVENT_WALL_TIME);
    put_fixed(b, bits, 8);
}

static uint32_t masked_crc(const unsigned char *data, size_t n)
{
    uint32_t crc = lt_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* One record in one write, so that a reader never sees half of one. */
static enum lt_status append_record(struct lt_tfevents *tb, const struct bytes *event, struct lt_error *err)
{
    unsigned char record[MAX_EVENT + 16];
    struct bytes frame = {.len = 0};

    put_fixed(&frame, event->len, 8);
    put_fixed(&frame, masked_crc(frame.data, 8), 4);
    put_fixed(&frame, masked_crc(event->data, event->len), 4);
    memcpy(record, frame.data, 12);
    memcpy(record + 12, event->data, event->len);
    memcpy(record + 12 + event->len, frame.data + 12, 4);
    return lt_file_appender_put(&tb->file, record, event->len + 16, err);
}

/* dir/events.out.tfevents.<seconds>.lora-train.<counter>, a name not in use (lt_free). */
static enum lt_status choose_name(char **path, const char *dir, double wall_time, struct lt_error *err)
{
    long long seconds = wall_time >= 0 && wall_time < 1e15 ? (long long)wall_time : 0;

    for (int counter = 0; counter < MAX_SAME_SECOND; counter++) {
        char name[80];
        lt_snprintf(name, sizeof name, "events.out.tfevents.%lld.lora-train.%d", seconds, counter);
        *path = lt_path_join(dir, name);
        if (*path == NULL)
            return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for an event file", dir);
        if (lt_file_kind(*path) == LT_FILE_NONE)
            return LT_OK;
        lt_free(*path);
    }
    *path = NULL;
    return lt_fail(err, LT_ERR_IO, "%s: holds %d event files of this very second; give another folder", dir,
                   MAX_SAME_SECOND);
}

enum lt_status lt_tfevents_open(struct lt_tfevents *tb, const char *dir, double wall_time,
                                struct lt_error *err)
{
    static const char version[] = "brain.Event:2";
    struct bytes event = {.len = 0};
    char *path;

    memset(tb, 0, sizeof *tb);
    LT_TRY(lt_dir_create(dir, err));
    LT_TRY(choose_name(&path, dir, wall_time, err));
    enum lt_status status = lt_file_appender_open(&tb->file, path, true, err);
    lt_free(path);
    LT_TRY(status);
    put_wall_time(&event, wall_time);
    put_chunk(&event, EVENT_FILE_VERSION, version, sizeof version - 1);
    status = append_record(tb, &event, err);
    if (status != LT_OK)
        lt_tfevents_close(tb);
    return status;
}

enum lt_status lt_tfevents_scalar(struct lt_tfevents *tb, const char *tag, int64_t step, float value,
                                  double wall_time, struct lt_error *err)
{
    struct bytes inner = {.len = 0}, summary = {.len = 0}, event = {.len = 0};
    size_t tag_len = strlen(tag);
    uint32_t value_bits;

    if (tag_len > LT_TFEVENTS_MAX_TAG || !lt_utf8_valid(tag, tag_len, NULL))
        return lt_fail(err, LT_ERR_INVALID,
                       "a TensorBoard tag must be UTF-8 of at most %d bytes, found %d bytes",
                       LT_TFEVENTS_MAX_TAG, (int)lt_min_i64((int64_t)tag_len, INT32_MAX));
    memcpy(&value_bits, &value, sizeof value_bits);
    put_chunk(&inner, VALUE_TAG, tag, tag_len);
    put_varint(&inner, VALUE_SIMPLE);
    put_fixed(&inner, value_bits, 4);
    put_chunk(&summary, SUMMARY_VALUE, inner.data, inner.len);
    put_wall_time(&event, wall_time);
    if (step != 0) { /* proto3 leaves zero out */
        put_varint(&event, EVENT_STEP);
        put_varint(&event, (uint64_t)step);
    }
    put_chunk(&event, EVENT_SUMMARY, summary.data, summary.len);
    return append_record(tb, &event, err);
}

void lt_tfevents_close(struct lt_tfevents *tb)
{
    lt_file_appender_close(&tb->file);
    memset(tb, 0, sizeof *tb);
}
