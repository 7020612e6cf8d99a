/* Event files: the bytes of the format reference, every record parsed back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "core/io/json.h"
#include "core/io/tfevents.h"
#include "tests/support/fixtures.h"

/* Both from reference/containers.md 7 and tables/vectors.json. */
static const char version_record[] =
    "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a32"
    "86bf577a";
static const char scalar_record[] =
    "200000000000000029eda950090000000000000040100a2a130a110a0a747261696e2f6c6f7373"
    "150000c03fb5a7a5f1";

static void make_folder_name(char buf[1024], const char *name)
{
    lt_snprintf(buf, 1024, "%s/%s", lt_test_temp_dir(), name);
}

/* The bytes of the only event file in dir (lt_free); its name in *name when asked for. */
static unsigned char *read_events(const char *dir, size_t *size, char *name, size_t name_size)
{
    struct lt_error err = {0};
    char **names, *bytes;
    size_t count;
    assert_int_equal(lt_dir_list(dir, &names, &count, &err), LT_OK);
    assert_int_equal(count, 1);
    char *path = lt_path_join(dir, names[0]);
    if (name != NULL)
        lt_snprintf(name, name_size, "%s", names[0]);
    assert_int_equal(lt_file_read(path, 1 << 20, &bytes, size, &err), LT_OK);
    lt_free(path);
    lt_dir_list_free(names, count);
    return (unsigned char *)bytes;
}

static void assert_hex(const unsigned char *bytes, size_t size, const char *hex)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    for (size_t i = 0; i < size; i++)
        lt_strbuf_printf(&sb, "%02x", bytes[i]);
    assert_string_equal(lt_strbuf_str(&sb), hex);
    lt_strbuf_deinit(&sb);
}

static void crc(void **state)
{
    (void)state;
    assert_int_equal(lt_crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(lt_crc32c("", 0), 0);
    static const unsigned char zero[32];
    assert_int_equal(lt_crc32c(zero, 32), 0x8a9136aau); /* RFC 3720 B.4 */
}

static void reference_bytes(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tfevents tb;
    char dir[1024], name[100];
    size_t size, first = strlen(version_record) / 2;

    make_folder_name(dir, "reference/deep");
    assert_int_equal(lt_tfevents_open(&tb, dir, 1.0, &err), LT_OK);
    assert_int_equal(lt_tfevents_scalar(&tb, "train/loss", 10, 1.5f, 2.0, &err), LT_OK);
    unsigned char *bytes = read_events(dir, &size, name, sizeof name); /* there before close */
    lt_tfevents_close(&tb);
    lt_tfevents_close(&tb);
    assert_string_equal(name, "events.out.tfevents.1.lora-train.0");
    assert_int_equal(size, first + strlen(scalar_record) / 2);
    assert_hex(bytes, first, version_record);
    assert_hex(bytes + first, size - first, scalar_record);
    lt_free(bytes);
}

static void vectors_agree(void **state)
{
    (void)state;
    static const char relative[] = "reference/tables/vectors.json";
    struct lt_error err = {0};
    char path[1024];
    json_t *v;
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    assert_int_equal(lt_json_load(&v, path, &err), LT_OK);
    const json_t *t = json_object_get(v, "tfrecord");
    assert_string_equal(json_string_value(json_object_get(t, "first_record_hex(wall_time=1.0,file_version)")),
                        version_record);
    assert_string_equal(
        json_string_value(json_object_get(t, "scalar_record_hex(wall_time=2.0,step=10,train/loss=1.5)")),
        scalar_record);
    json_decref(v);
}

/* ---- a small reader, so that lengths and varints of every size are checked ---- */

static uint64_t take_fixed(const unsigned char **p, int width)
{
    uint64_t v = 0;
    for (int i = 0; i < width; i++)
        v |= (uint64_t) * (*p)++ << 8 * i;
    return v;
}

static uint64_t take_varint(const unsigned char **p)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        unsigned char c = *(*p)++;
        v |= (uint64_t)(c & 0x7fu) << shift;
        if (c < 0x80)
            return v;
    }
}

static uint32_t masked(const unsigned char *p, size_t n)
{
    uint32_t c = lt_crc32c(p, n);
    return (uint32_t)((c >> 15 | (uint64_t)c << 17) + 0xa282ead8u);
}

/* Checks one scalar record and returns what follows it. */
static const unsigned char *check_scalar(const unsigned char *p, const char *tag, int64_t step, float value,
                                         double wall_time)
{
    const unsigned char *head = p;
    uint64_t length = take_fixed(&p, 8);
    assert_int_equal(take_fixed(&p, 4), masked(head, 8));
    const unsigned char *end = p + length;
    const unsigned char *crc_at = end;
    assert_int_equal(take_fixed(&crc_at, 4), masked(p, (size_t)length));
    assert_int_equal(take_varint(&p), 0x09);
    uint64_t wall_bits = take_fixed(&p, 8);
    assert_memory_equal(&wall_bits, &wall_time, 8);
    if (step != 0) {
        assert_int_equal(take_varint(&p), 0x10);
        assert_true((int64_t)take_varint(&p) == step);
    }
    assert_int_equal(take_varint(&p), 0x2a);
    uint64_t summary = take_varint(&p);
    assert_ptr_equal(p + summary, end);
    assert_int_equal(take_varint(&p), 0x0a);
    uint64_t inner = take_varint(&p);
    assert_ptr_equal(p + inner, end);
    assert_int_equal(take_varint(&p), 0x0a);
    uint64_t tag_size = take_varint(&p);
    assert_int_equal(tag_size, strlen(tag));
    assert_memory_equal(p, tag, tag_size);
    p += tag_size;
    assert_int_equal(take_varint(&p), 0x15);
    uint32_t value_bits = (uint32_t)take_fixed(&p, 4);
    assert_memory_equal(&value_bits, &value, 4);
    assert_ptr_equal(p, end);
    return crc_at;
}

static void records_parse_back(void **state)
{
    (void)state;
    char longest[LT_TFEVENTS_MAX_TAG + 2];
    memset(longest, 'x', sizeof longest);
    longest[LT_TFEVENTS_MAX_TAG] = '\0';
    const struct {
        const char *tag;
        int64_t step;
        float value;
        double wall_time;
    } cases[] = {
        {"eval/loss", 0, 0.0f, 1753000000.25},
        {"", 127, -1.0f, 0.0},
        {"train/gr\xc3\xb6\xc3\x9f"
         "e",
         128, INFINITY, 1.0},
        {"a", INT64_MAX, 3e-45f, 1e300},
        {"a", -1, NAN, -1.0},
        {longest, INT64_MIN, 1.0f, 2.0},
    };
    struct lt_error err = {0};
    struct lt_tfevents tb;
    char dir[1024];
    size_t size;

    make_folder_name(dir, "parse");
    assert_int_equal(lt_tfevents_open(&tb, dir, 1.0, &err), LT_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(
            lt_tfevents_scalar(&tb, cases[i].tag, cases[i].step, cases[i].value, cases[i].wall_time, &err),
            LT_OK);
    longest[LT_TFEVENTS_MAX_TAG] = 'x';
    longest[LT_TFEVENTS_MAX_TAG + 1] = '\0';
    assert_int_equal(lt_tfevents_scalar(&tb, longest, 1, 1.0f, 1.0, &err), LT_ERR_INVALID);
    assert_int_equal(lt_tfevents_scalar(&tb, "\xff", 1, 1.0f, 1.0, &err), LT_ERR_INVALID);
    longest[LT_TFEVENTS_MAX_TAG] = '\0';
    lt_tfevents_close(&tb);
    unsigned char *bytes = read_events(dir, &size, NULL, 0);
    const unsigned char *p = bytes + strlen(version_record) / 2;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        p = check_scalar(p, cases[i].tag, cases[i].step, cases[i].value, cases[i].wall_time);
    assert_ptr_equal(p, bytes + size);
    lt_free(bytes);
}

static void every_run_has_its_file(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tfevents first, second;
    char dir[1024];
    char **names;
    size_t count;

    make_folder_name(dir, "runs");
    assert_int_equal(lt_tfevents_open(&first, dir, 1753000000.9, &err), LT_OK);
    assert_int_equal(lt_tfevents_open(&second, dir, 1753000000.1, &err), LT_OK);
    lt_tfevents_close(&first);
    lt_tfevents_close(&second);
    assert_int_equal(lt_dir_list(dir, &names, &count, &err), LT_OK);
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "events.out.tfevents.1753000000.lora-train.0");
    assert_string_equal(names[1], "events.out.tfevents.1753000000.lora-train.1");
    lt_dir_list_free(names, count);

    char *file = lt_path_join(dir, "events.out.tfevents.1753000000.lora-train.0");
    assert_int_equal(lt_tfevents_open(&first, file, 1.0, &err), LT_ERR_IO); /* a file is in the way */
    assert_null(first.file.path);
    lt_free(file);
}

static void failing_memory(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tfevents tb;
    char dir[1024];
    long n = 0, used;

    make_folder_name(dir, "memory");
    do {
        assert_int_equal(lt_dir_remove_tree(dir, &err), LT_OK);
        lt_alloc_fail_at(++n);
        enum lt_status status = lt_tfevents_open(&tb, dir, 1.0, &err);
        used = lt_alloc_count();
        lt_alloc_fail_at(1);
        if (status == LT_OK && lt_tfevents_scalar(&tb, "train/loss", 1, 1.0f, 1.0, &err) != LT_OK)
            fail_msg("%s", err.message);
        assert_int_equal(lt_alloc_count(), 0); /* a step allocates nothing */
        lt_alloc_fail_at(0);
        assert_int_equal(status, used >= n ? LT_ERR_NOMEM : LT_OK);
        lt_tfevents_close(&tb);
    } while (used >= n);
    assert_true(n > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc),
        cmocka_unit_test(reference_bytes),
        cmocka_unit_test(vectors_agree),
        cmocka_unit_test(records_parse_back),
        cmocka_unit_test(every_run_has_its_file),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests_name("tfevents", tests, NULL, NULL);
}
