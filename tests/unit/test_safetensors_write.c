/* The safetensors writer: the reference writer's bytes, order, streaming, refusals. */
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

static void add_all(struct lt_st_writer *w, const struct lt_safetensors *st)
{
    struct lt_error err = {0};
    for (size_t i = 0; i < st->metadata_pairs; i++)
        if (lt_st_writer_metadata(w, st->metadata[2 * i], st->metadata[2 * i + 1], &err) != LT_OK)
            fail_msg("%s", err.message);
    for (size_t i = 0; i < st->count; i++) {
        const struct lt_st_tensor *t = &st->tensors[i];
        if (lt_st_writer_add(w, t->name, t->dtype, t->shape, t->ndim, lt_safetensors_data(st, t), &err) !=
            LT_OK)
            fail_msg("%s", err.message);
    }
}

/* Rewrites a file from its own tensors; the bytes must be those of the reference writer. */
static void assert_rewritten_equal(const char *path)
{
    struct lt_error err = {0};
    struct lt_safetensors st;
    struct lt_st_writer *w;
    char copy[1024];
    char *bytes;
    size_t size;

    if (lt_safetensors_open(&st, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(lt_st_writer_create(&w, &err), LT_OK);
    add_all(w, &st);
    assert_int_equal(lt_st_writer_save(w, temp_path(copy, "copy.safetensors"), &err), LT_OK);
    lt_st_writer_destroy(w);
    assert_int_equal(lt_file_read(copy, 1 << 30, &bytes, &size, &err), LT_OK);
    if (size != st.map.size || memcmp(bytes, st.map.data, size) != 0)
        fail_msg("%s: rewritten differently", path);
    lt_free(bytes);
    lt_safetensors_close(&st);
}

static void rewritten_goldens_are_identical(void **state)
{
    (void)state;
    static const char *const files[] = {
        "goldens/lora/adapter/adapter_model.safetensors",
        "goldens/llama-tiny/model.safetensors",
        "goldens/llama-tiny/inputs.safetensors",
        "goldens/archs/smollm2/model.safetensors",
        "goldens/int8/int8.safetensors",
        "goldens/qlora/checkpoint-bnb-4bit/model.safetensors",
        "goldens/qlora/quantized.safetensors",
        "goldens/optim/adamw8bit-bnb-cpu.safetensors",
        "goldens/dora/adapter/adapter_model.safetensors",
        "goldens/gpt2-tiny/model.safetensors",
        "goldens/archs/llama31/model-00002-of-00003.safetensors",
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[1024];
        if (!lt_fixture_path(path, sizeof path, files[i]))
            lt_test_skip_missing(files[i]);
        assert_rewritten_equal(path);
    }
}

/* The list of the format reference, first in the file to last. */
static void dtypes_in_reference_order(void **state)
{
    (void)state;
    static const char *const order[] = {"U64",         "I64",     "F64",     "C64",     "F32", "U32",
                                        "I32",         "BF16",    "F16",     "U16",     "I16", "F8_E5M2FNUZ",
                                        "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8",  "U8",
                                        "F6_E3M2",     "F6_E2M3", "F4",      "BOOL"};
    static const unsigned char zero[32];
    static const int64_t shape[] = {4};
    struct lt_error err = {0};
    struct lt_safetensors st;
    struct lt_st_writer *w;
    char path[1024];
    size_t count = sizeof order / sizeof order[0], offset = 0;

    assert_int_equal(count, LT_DTYPE_COUNT);
    assert_int_equal(lt_st_writer_create(&w, &err), LT_OK);
    for (size_t i = 0; i < count; i++) { /* two of each, declared in another order */
        enum lt_dtype dtype;
        char name[40];
        size_t at = i * 7 % count;
        assert_true(lt_dtype_from_name(order[at], &dtype));
        lt_snprintf(name, sizeof name, "%s.b", order[at]);
        assert_int_equal(lt_st_writer_add(w, name, dtype, shape, 1, zero, &err), LT_OK);
        lt_snprintf(name, sizeof name, "%s.a", order[at]);
        assert_int_equal(lt_st_writer_add(w, name, dtype, shape, 1, zero, &err), LT_OK);
    }
    assert_int_equal(lt_st_writer_save(w, temp_path(path, "order.safetensors"), &err), LT_OK);
    lt_st_writer_destroy(w);
    assert_int_equal(lt_safetensors_open(&st, path, &err), LT_OK);
    for (size_t i = 0; i < 2 * count; i++) {
        char name[40];
        lt_snprintf(name, sizeof name, "%s.%c", order[i / 2], i % 2 == 0 ? 'a' : 'b');
        const struct lt_st_tensor *t = lt_safetensors_find(&st, name);
        assert_non_null(t);
        if (i == 0)
            offset = t->offset;
        assert_int_equal(t->offset, offset);
        offset += t->bytes;
    }
    lt_safetensors_close(&st);
}

static void header_bytes(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_st_writer *w;
    char path[1024], *bytes;
    size_t size;
    static const unsigned char data[] = {1, 2, 3};
    static const int64_t shape[] = {3};

    assert_int_equal(lt_st_writer_create(&w, &err), LT_OK);
    assert_int_equal(lt_st_writer_save(w, temp_path(path, "header.safetensors"), &err), LT_OK);
    assert_int_equal(lt_file_read(path, 100, &bytes, &size, &err), LT_OK);
    assert_int_equal(size, 16);
    assert_memory_equal(bytes, "\10\0\0\0\0\0\0\0{}      ", 16);
    lt_free(bytes);
    assert_int_equal(lt_st_writer_metadata(w, "z", "\"", &err), LT_OK);
    assert_int_equal(lt_st_writer_metadata(w, "a", "\xc3\xa9\x01", &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "n\\", LT_U8, shape, 1, data, &err), LT_OK);
    assert_int_equal(lt_st_writer_save(w, path, &err), LT_OK);
    lt_st_writer_destroy(w);
    assert_int_equal(lt_file_read(path, 200, &bytes, &size, &err), LT_OK);
    static const char expected[] =
        "\140\0\0\0\0\0\0\0{\"__metadata__\":{\"a\":\"\xc3\xa9\\u0001\",\"z\":\"\\\"\"},"
        "\"n\\\\\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}\1\2\3";
    assert_int_equal(size, sizeof expected - 1);
    assert_memory_equal(bytes, expected, size);
    lt_free(bytes);
}

struct producer {
    size_t chunks; /* of 1000 bytes */
    enum lt_status status;
};

static enum lt_status produce(void *user, struct lt_file_writer *w, struct lt_error *err)
{
    const struct producer *p = user;
    unsigned char chunk[1000];
    for (size_t i = 0; i < p->chunks; i++) {
        memset(chunk, (int)i, sizeof chunk);
        LT_TRY(lt_file_writer_put(w, chunk, sizeof chunk, err));
    }
    return p->status == LT_OK ? LT_OK : lt_fail(err, p->status, "the producer failed");
}

static enum lt_status save_produced(const char *path, struct producer p, struct lt_error *err)
{
    static const int64_t shape[] = {500, 1000};
    static const unsigned char tail[] = {7, 8, 9};
    static const int64_t tail_shape[] = {3};
    struct lt_st_writer *w;
    enum lt_status status = lt_st_writer_create(&w, err);
    if (status == LT_OK)
        status = lt_st_writer_add(w, "tail", LT_U8, tail_shape, 1, tail, err);
    if (status == LT_OK)
        status = lt_st_writer_add_produced(w, "big", LT_U8, shape, 2, produce, &p, err);
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

static void produced_tensors(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_safetensors st;
    char dir[1024], path[1100];
    char **names;
    size_t count;

    assert_int_equal(lt_dir_create(temp_path(dir, "produced"), &err), LT_OK);
    lt_snprintf(path, sizeof path, "%s/big.safetensors", dir);
    assert_int_equal(save_produced(path, (struct producer){.chunks = 499}, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "tensor big: 499000 bytes were produced where 500000 were declared"));
    assert_int_equal(save_produced(path, (struct producer){.chunks = 501}, &err), LT_ERR_INVALID);
    assert_int_equal(save_produced(path, (struct producer){.chunks = 3, .status = LT_ERR_CANCELLED}, &err),
                     LT_ERR_CANCELLED);
    assert_int_equal(lt_dir_list(dir, &names, &count, &err), LT_OK);
    assert_int_equal(count, 0); /* neither the file nor a temporary one */
    lt_dir_list_free(names, count);

    assert_int_equal(save_produced(path, (struct producer){.chunks = 500}, &err), LT_OK);
    assert_int_equal(lt_safetensors_open(&st, path, &err), LT_OK);
    const unsigned char *big = lt_safetensors_data(&st, lt_safetensors_find(&st, "big"));
    for (size_t i = 0; i < 500000; i++)
        if (big[i] != (unsigned char)(i / 1000))
            fail_msg("byte %zu is wrong", i);
    assert_memory_equal(lt_safetensors_data(&st, lt_safetensors_find(&st, "tail")), "\7\10\11", 3);
    lt_safetensors_close(&st);
}

static void writer_refusals(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_st_writer *w;
    char path[1024];
    static const int64_t one[] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, negative[] = {2, -1}, three[] = {3},
                         huge[] = {INT64_MAX, 3}, wide[] = {INT64_MAX};

    assert_int_equal(lt_st_writer_create(&w, &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "a", LT_U8, one, 1, "x", &err), LT_OK);
    assert_int_equal(lt_st_writer_add(w, "a", LT_F32, one, 1, "xxxx", &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "tensor a is given twice"));
    assert_int_equal(lt_st_writer_add(w, "__metadata__", LT_U8, one, 1, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "\xff", LT_U8, one, 1, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "b", LT_U8, negative, 2, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "b", LT_U8, huge, 2, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "b", LT_U8, one, 9, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "b", LT_U8, one, -1, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "b", LT_F64, wide, 1, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_add(w, "b", LT_F4, three, 1, "x", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_metadata(w, "k", "v", &err), LT_OK);
    assert_int_equal(lt_st_writer_metadata(w, "k", "w", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_metadata(w, "l", "\xc3", &err), LT_ERR_INVALID);
    assert_int_equal(lt_st_writer_save(w, temp_path(path, "no/such/folder.safetensors"), &err),
                     LT_ERR_NOT_FOUND);
    assert_int_equal(lt_st_writer_add(w, "b", LT_U8, wide, 1, "x", &err), LT_OK);
    assert_int_equal(lt_st_writer_save(w, temp_path(path, "huge.safetensors"), &err), LT_ERR_INVALID);
    lt_st_writer_destroy(w);
    lt_st_writer_destroy(NULL);
}

static void many_tensors(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    struct lt_error err = {0};
    struct lt_safetensors st;
    struct lt_st_writer *w;
    char path[1024], name[80];
    static const int64_t shape[] = {1};
    static int32_t values[COUNT];

    assert_int_equal(lt_st_writer_create(&w, &err), LT_OK);
    for (int i = 0; i < COUNT; i++) {
        values[i] = i * 7919 % COUNT;
        lt_snprintf(name, sizeof name, "base_model.model.model.layers.%d.weight", values[i]);
        assert_int_equal(lt_st_writer_add(w, name, LT_I32, shape, 1, &values[i], &err), LT_OK);
    }
    assert_int_equal(lt_st_writer_save(w, temp_path(path, "many.safetensors"), &err), LT_OK);
    lt_st_writer_destroy(w);
    assert_int_equal(lt_safetensors_open(&st, path, &err), LT_OK);
    assert_int_equal(st.count, COUNT);
    for (int32_t i = 0; i < COUNT; i++) {
        int32_t value;
        lt_snprintf(name, sizeof name, "base_model.model.model.layers.%d.weight", i);
        memcpy(&value, lt_safetensors_data(&st, lt_safetensors_find(&st, name)), sizeof value);
        assert_int_equal(value, i);
    }
    lt_safetensors_close(&st);
}

static enum lt_status write_sample(const char *path, struct lt_error *err)
{
    static const int64_t shape[] = {1};
    struct lt_st_writer *w;

    LT_TRY(lt_st_writer_create(&w, err));
    enum lt_status status = lt_st_writer_metadata(w, "format", "pt", err);
    for (char c = 'a'; status == LT_OK && c <= 'z'; c++) {
        char name[2] = {c, '\0'};
        status = lt_st_writer_add(w, name, LT_U8, shape, 1, "x", err);
    }
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

/* A failed save leaves the old file whole and no temporary one. */
static void failing_memory(void **state)
{
    (void)state;
    struct lt_error err = {0};
    char dir[1024], path[1100], **names;
    size_t count;
    long n = 0, used;

    assert_int_equal(lt_dir_create(temp_path(dir, "memory"), &err), LT_OK);
    lt_snprintf(path, sizeof path, "%s/a.safetensors", dir);
    assert_int_equal(lt_file_write_atomic(path, "old", 3, &err), LT_OK);
    do {
        struct lt_safetensors st;
        lt_alloc_fail_at(++n);
        enum lt_status status = write_sample(path, &err);
        used = lt_alloc_count();
        lt_alloc_fail_at(0);
        assert_int_equal(status, used >= n ? LT_ERR_NOMEM : LT_OK);
        assert_int_equal(lt_dir_list(dir, &names, &count, &err), LT_OK);
        assert_int_equal(count, 1);
        lt_dir_list_free(names, count);
        if (lt_safetensors_open(&st, path, &err) == LT_OK)
            assert_int_equal(st.count, 26);
        else
            assert_true(status != LT_OK);
        lt_safetensors_close(&st);
    } while (used >= n);
    assert_true(n > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rewritten_goldens_are_identical),
        cmocka_unit_test(dtypes_in_reference_order),
        cmocka_unit_test(header_bytes),
        cmocka_unit_test(produced_tensors),
        cmocka_unit_test(writer_refusals),
        cmocka_unit_test(many_tensors),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests_name("safetensors_write", tests, NULL, NULL);
}
