/* The safetensors reader: hostile files are refused, real ones open. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "tests/support/fixtures.h"

static const char *temp_path(char buf[1024], const char *name)
{
    lt_snprintf(buf, 1024, "%s/%s", lt_test_temp_dir(), name);
    return buf;
}

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    struct lt_error err = {0};
    struct lt_file_appender a;
    if (lt_file_appender_open(&a, path, true, &err) != LT_OK ||
        lt_file_appender_put(&a, bytes, n, &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_file_appender_close(&a);
}

/* length bytes + header + `data_size` bytes 0, 1, 2, …; *size is the whole (lt_free). */
static unsigned char *make_file(size_t *size, uint64_t length, const char *header, size_t header_size,
                                size_t data_size)
{
    unsigned char *bytes = lt_alloc(8 + header_size + data_size);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> 8 * i & 0xff);
    memcpy(bytes + 8, header, header_size);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + header_size + i] = (unsigned char)i;
    *size = 8 + header_size + data_size;
    return bytes;
}

static enum lt_status open_bytes(struct lt_safetensors *st, const void *bytes, size_t n, struct lt_error *err)
{
    char path[1024];
    write_bytes(temp_path(path, "hostile.safetensors"), bytes, n);
    return lt_safetensors_open(st, path, err);
}

static enum lt_status open_header(struct lt_safetensors *st, const char *header, size_t data_size,
                                  struct lt_error *err)
{
    size_t size;
    unsigned char *bytes = make_file(&size, strlen(header), header, strlen(header), data_size);
    enum lt_status status = open_bytes(st, bytes, size, err);
    lt_free(bytes);
    return status;
}

static void assert_refused(struct lt_safetensors *st, enum lt_status status, const struct lt_error *err,
                           const char *part)
{
    assert_int_equal(status, LT_ERR_FORMAT);
    assert_non_null(strstr(err->message, "hostile.safetensors"));
    if (strstr(err->message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err->message, part);
    assert_null(st->tensors);
    assert_null(st->map.data);
}

static const struct {
    const char *header;
    size_t data_size;
    const char *message_part;
} bad_headers[] = {
    {" {}", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"{", 0, "not valid JSON"},
    {"{}}", 0, "not valid JSON"},
    {"{\"a\":1}", 0, "tensor a: its header entry is not an object"},
    {"{\"a\":{}}", 0, "tensor a: no dtype"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype \"F33\""},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype \"f32\""},
    {"{\"a\":{\"dtype\":\"F32\\u0000\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape entry"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "shape entry"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, "shape entry"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[null],\"data_offsets\":[0,4]}}", 4, "shape entry"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,4]}}", 4, "shape entry"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551617],\"data_offsets\":[0,4]}}", 4, "shape entry"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967297],\"data_offsets\":[0,4294967296]}}", 4,
     "64 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4, "overflows"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
     "more than 8 dimensions"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "whole number"},
    {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "whole number"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets must be"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets must be"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets must be"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "data_offsets must be"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, "data_offsets must be"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"0\":0,\"1\":4}}}", 4,
     "data_offsets must be"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "begins at 4 behind its end 0"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4,
     "only 4 data bytes; the file is incomplete"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,9223372036854775807]}}", 4,
     "incomplete"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
     "F32 need 8 bytes, but data_offsets span 4"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}}", 4, "need 0 bytes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, "need 4 bytes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3,
     "the file has 1 bytes behind that"},
    {"{}", 1, "the file has 1 bytes behind that"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "(a hole)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
     4, "tensor b: its data begins at file offset 116, but the tensor before it ends at 115 (a hole)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}",
     4, "tensor b: its data begins at file offset 114, but the tensor before it ends at 115 (an overlap)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     2, "(an overlap)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}",
     2, "(an overlap)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     2, "duplicate object key"},
    {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "not valid JSON"},
    {"{\"__metadata__\":[]}", 0, "__metadata__ must be an object, found an array"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ entry k must be a string"},
    {"{\"__metadata__\":{\"a\":\"b\",\"k\":null}}", 0, "found null"},
    {"{\"__metadata__\":{\"k\":\"v\"},\"__metadata__\":{\"k\":\"v\"}}", 0, "duplicate object key"},
};

static void bad_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_headers / sizeof bad_headers[0]; i++) {
        struct lt_error err = {0};
        struct lt_safetensors st;
        enum lt_status status = open_header(&st, bad_headers[i].header, bad_headers[i].data_size, &err);
        if (status == LT_OK)
            fail_msg("accepted: %s", bad_headers[i].header);
        assert_refused(&st, status, &err, bad_headers[i].message_part);
    }
}

static void bad_lengths_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        const char *header;
        const char *message_part;
    } cases[] = {
        {0, "", "does not begin with '{'"},
        {0, "{}", "does not begin with '{'"},
        {3, "{}", "the header of 3 bytes is longer than the file of 10"},
        {100000000, "{}", "longer than the file"},
        {100000001, "{}", "above the limit of 100000000"},
        {UINT64_MAX, "{}", "header length 18446744073709551615"},
        {UINT64_MAX - 7, "{}", "above the limit"},
        {1, "{}", "not valid JSON"},
        {4, "{\"\xff\"", "not valid UTF-8 at file offset 10"},
        {3, "{}\xc3", "not valid UTF-8 at file offset 10"},
        {4, "{}\0\0", "NUL"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lt_error err = {0};
        struct lt_safetensors st;
        size_t size, header_size = cases[i].length == 4 ? 4 : strlen(cases[i].header);
        unsigned char *bytes = make_file(&size, cases[i].length, cases[i].header, header_size, 0);
        assert_refused(&st, open_bytes(&st, bytes, size, &err), &err, cases[i].message_part);
        lt_free(bytes);
    }
    for (size_t n = 0; n < 8; n++) {
        struct lt_error err = {0};
        struct lt_safetensors st;
        assert_refused(&st, open_bytes(&st, "\2\0\0\0\0\0\0\0", n, &err), &err, "too few");
    }
}

/* Mixed dtypes, a scalar, an empty tensor, metadata, an escaped name, odd header length. */
static const char valid_header[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\\u00e9\"},"
    "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
    "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"more\":[1,{}]},"
    "\"e\":{\"dtype\":\"I64\",\"shape\":[3,0],\"data_offsets\":[16,16]},"
    "\"q\\\"\\n\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[16,19]}}  ";
enum { VALID_DATA = 19 };

static void check_valid(const struct lt_safetensors *st)
{
    assert_int_equal(st->count, 4);
    assert_string_equal(st->tensors[0].name, "e");
    assert_string_equal(st->tensors[1].name, "q\"\n");
    assert_string_equal(st->tensors[2].name, "s");
    const struct lt_st_tensor *w = lt_safetensors_find(st, "w");
    assert_non_null(w);
    assert_int_equal(w->dtype, LT_BF16);
    assert_int_equal(w->ndim, 2);
    assert_int_equal(w->shape[0], 2);
    assert_int_equal(w->shape[1], 3);
    assert_int_equal(w->elements, 6);
    assert_int_equal(w->bytes, 12);
    assert_int_equal(((const unsigned char *)lt_safetensors_data(st, w))[0], 4);
    assert_int_equal(lt_safetensors_find(st, "s")->ndim, 0);
    assert_int_equal(lt_safetensors_find(st, "s")->elements, 1);
    assert_int_equal(lt_safetensors_find(st, "e")->elements, 0);
    assert_int_equal(lt_safetensors_find(st, "q\"\n")->bytes, 3);
    assert_null(lt_safetensors_find(st, "W"));
    assert_null(lt_safetensors_find(st, ""));
    assert_string_equal(lt_safetensors_metadata(st, "format"), "pt");
    assert_string_equal(lt_safetensors_metadata(st, "k"), "\xc3\xa9");
    assert_null(lt_safetensors_metadata(st, "v"));
}

static void valid_files_open(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_safetensors st;

    assert_int_equal(strlen(valid_header) % 2, 1); /* the data is unaligned */
    assert_int_equal(open_header(&st, valid_header, VALID_DATA, &err), LT_OK);
    check_valid(&st);
    lt_safetensors_close(&st);
    lt_safetensors_close(&st);

    static const char *const empty[] = {"{}", "{}      ", "{ }\n", "{\"__metadata__\":null}",
                                        "{\"__metadata__\":{}}"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        assert_int_equal(open_header(&st, empty[i], 0, &err), LT_OK);
        assert_int_equal(st.count, 0);
        assert_null(lt_safetensors_find(&st, "a"));
        assert_null(lt_safetensors_metadata(&st, "a"));
        lt_safetensors_close(&st);
    }
    assert_int_equal(
        open_header(&st,
                    "{\"a\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}",
                    0, &err),
        LT_OK);
    assert_int_equal(st.tensors[0].elements, 0);
    lt_safetensors_close(&st);
}

/* Every file that is cut short is incomplete, wherever the cut is. */
static void truncations_are_refused(void **state)
{
    (void)state;
    size_t size;
    unsigned char *bytes =
        make_file(&size, strlen(valid_header), valid_header, strlen(valid_header), VALID_DATA);
    for (size_t n = 0; n < size; n++) {
        struct lt_error err = {0};
        struct lt_safetensors st;
        assert_refused(&st, open_bytes(&st, bytes, n, &err), &err, n < 8 ? "too few" : "incomplete");
    }
    lt_free(bytes);
}

/* A damaged file is refused or is another valid file; in either case nothing outside it is touched. */
static void corruptions_are_harmless(void **state)
{
    (void)state;
    static const unsigned char masks[] = {0x01, 0x02, 0x10, 0x20, 0x80, 0xff};
    size_t size, header_end = 8 + strlen(valid_header), refused = 0, opened = 0;
    unsigned char *bytes =
        make_file(&size, strlen(valid_header), valid_header, strlen(valid_header), VALID_DATA);

    for (size_t i = 0; i < header_end; i++) {
        for (size_t m = 0; m < sizeof masks; m++) {
            struct lt_error err = {0};
            struct lt_safetensors st;
            bytes[i] ^= masks[m];
            enum lt_status status = open_bytes(&st, bytes, size, &err);
            bytes[i] ^= masks[m];
            if (status != LT_OK) {
                assert_refused(&st, status, &err, ": ");
                refused++;
                continue;
            }
            size_t total = 0;
            for (size_t t = 0; t < st.count; t++) {
                assert_true(st.tensors[t].offset >= header_end);
                assert_true(st.tensors[t].offset + st.tensors[t].bytes <= size);
                total += st.tensors[t].bytes;
            }
            assert_int_equal(total, VALID_DATA);
            lt_safetensors_close(&st);
            opened++;
        }
    }
    assert_true(refused > 1000 && opened > 50); /* names and metadata may change freely */
    lt_free(bytes);
}

static void absent_file(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_safetensors st;
    char path[1024];
    assert_int_equal(lt_safetensors_open(&st, temp_path(path, "absent.safetensors"), &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "absent.safetensors"));
    assert_int_not_equal(lt_safetensors_open(&st, lt_test_temp_dir(), &err), LT_OK);
}

static void read_as_f32(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_safetensors st;
    struct lt_st_writer *w;
    char path[1024];
    static const float f32[] = {1.0f, -0.5f, 3.25f};
    static const double f64[] = {1.0, -0.5, 3.25};
    static const uint16_t f16[] = {0x3c00, 0xb800, 0x4280}, bf16[] = {0x3f80, 0xbf00, 0x4050};
    static const int64_t i64[] = {1, 2, 3}, shape[] = {3}, none[] = {2, 0};

    assert_int_equal(lt_st_writer_create(&w, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "f32", LT_F32, shape, 1, f32, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "f64", LT_F64, shape, 1, f64, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "f16", LT_F16, shape, 1, f16, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "bf16", LT_BF16, shape, 1, bf16, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "i64", LT_I64, shape, 1, i64, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "none", LT_F32, none, 2, NULL, &err), LT_OK);
    assert_int_equal(lt_st_writer_save(w, temp_path(path, "kinds.safetensors"), &err), LT_OK);
    lt_st_writer_destroy(w);
    assert_int_equal(lt_safetensors_open(&st, path, &err), LT_OK);
    static const char *const names[] = {"f32", "f64", "f16", "bf16"};
    for (size_t i = 0; i < 4; i++) {
        float got[3] = {0};
        assert_int_equal(lt_safetensors_read_f32(&st, lt_safetensors_find(&st, names[i]), got, &err), LT_OK);
        assert_memory_equal(got, f32, sizeof f32);
    }
    assert_int_equal(lt_safetensors_read_f32(&st, lt_safetensors_find(&st, "none"), NULL, &err), LT_OK);
    float unused[3];
    assert_int_equal(lt_safetensors_read_f32(&st, lt_safetensors_find(&st, "i64"), unused, &err),
                     LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "tensor i64: has dtype I64"));
    lt_safetensors_close(&st);
}

static void public_files_open(void **state)
{
    (void)state;
    static const struct {
        const char *path, *tensor;
        enum lt_dtype dtype;
    } files[] = {
        {"data/huggingface+swift-transformers/Tests/ModelsTests/Resources/tensor-1d-int32.safetensors",
         "embedding", LT_I32},
        {"data/huggingface+swift-transformers/Tests/ModelsTests/Resources/tensor-2d-float64.safetensors",
         "embedding", LT_F64},
        {"data/huggingface+swift-transformers/Tests/ModelsTests/Resources/tensor-3d-float32.safetensors",
         "embedding", LT_F32},
        {"data/huggingface+swift-transformers/Tests/ModelsTests/Resources/tensor-4d-float32.safetensors",
         "embedding", LT_F32},
        {"data/PCfVW+anamnesis/tests/fixtures/safetensors_reference/awq.safetensors",
         "model.layers.0.qweight", LT_I32},
        {"data/PCfVW+anamnesis/tests/fixtures/safetensors_reference/bnb_nf4.safetensors",
         "model.layers.0.weight", LT_U8},
        {"data/PCfVW+anamnesis/tests/fixtures/safetensors_reference/fp8.safetensors", "model.layers.0.weight",
         LT_F8_E4M3},
        {"data/PCfVW+anamnesis/tests/fixtures/safetensors_reference/gptq.safetensors", "model.layers.0.g_idx",
         LT_I32},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct lt_error err = {0};
        struct lt_safetensors st;
        char path[1024];
        if (!lt_fixture_path(path, sizeof path, files[i].path))
            lt_test_skip_missing(files[i].path);
        if (lt_safetensors_open(&st, path, &err) != LT_OK)
            fail_msg("%s", err.message);
        const struct lt_st_tensor *t = lt_safetensors_find(&st, files[i].tensor);
        assert_non_null(t);
        assert_int_equal(t->dtype, files[i].dtype);
        lt_safetensors_close(&st);
    }
}

/* Five stray bytes behind the last tensor; the reference reader refuses it too. */
static void public_file_with_trailing_bytes(void **state)
{
    (void)state;
    static const char relative[] = "data/las7+weight-inspect/tests/fixtures/tiny.safetensors";
    struct lt_error err = {0};
    struct lt_safetensors st;
    char path[1024];
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    assert_int_equal(lt_safetensors_open(&st, path, &err), LT_ERR_FORMAT);
    assert_non_null(
        strstr(err.message, "the tensors end at file offset 32851, but the file has 5 bytes behind"));
}

static void failing_memory(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_safetensors st;
    char path[1024];
    size_t size;
    unsigned char *bytes =
        make_file(&size, strlen(valid_header), valid_header, strlen(valid_header), VALID_DATA);
    long n = 0, used;

    write_bytes(temp_path(path, "memory.safetensors"), bytes, size);
    lt_free(bytes);
    do {
        lt_alloc_fail_at(++n);
        enum lt_status status = lt_safetensors_open(&st, path, &err);
        used = lt_alloc_count();
        lt_alloc_fail_at(0);
        assert_int_equal(status, used >= n ? LT_ERR_NOMEM : LT_OK);
        if (status == LT_OK)
            check_valid(&st);
        lt_safetensors_close(&st);
    } while (used >= n);
    assert_true(n > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(bad_lengths_are_refused),
        cmocka_unit_test(valid_files_open),
        cmocka_unit_test(truncations_are_refused),
        cmocka_unit_test(corruptions_are_harmless),
        cmocka_unit_test(absent_file),
        cmocka_unit_test(read_as_f32),
        cmocka_unit_test(public_files_open),
        cmocka_unit_test(public_file_with_trailing_bytes),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
