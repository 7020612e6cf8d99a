/* Scratch pages in an unnamed file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/system.h"
#include "tests/support/fixtures.h"

enum { MIB = 1 << 20, SIZE = 16 * MIB + 123 };

static struct lt_error err;

static unsigned char pattern(size_t i)
{
    return (unsigned char)(i * 7 + i / 4096);
}

static uint64_t in_memory(void)
{
    struct lt_memory_stat stat;
    lt_memory_stat(&stat);
    return stat.file_dirty;
}

static size_t entries(const char *dir)
{
    char **names;
    size_t count;
    assert_int_equal(lt_dir_list(dir, &names, &count, &err), LT_OK);
    lt_dir_list_free(names, count);
    return count;
}

static void test_pages(void **state)
{
    (void)state;
    struct lt_file_scratch s;
    const char *dir = lt_test_temp_dir();
    size_t before = entries(dir);

    if (lt_file_scratch_open(&s, dir, SIZE, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(entries(dir), before); /* it has no name */
    assert_int_equal(s.size, SIZE);
    for (size_t i = 0; i < SIZE; i += 511)
        assert_int_equal(s.data[i], 0);
    if (!s.in_memory)
        assert_true(in_memory() > SIZE / 2);
    assert_int_equal(lt_file_scratch_release(&s, 0, SIZE, &err), LT_OK);
    for (size_t at = 0; at < SIZE; at += MIB) {
        size_t n = SIZE - at < MIB ? SIZE - at : MIB;
        assert_int_equal(lt_file_scratch_take(&s, at, n, &err), LT_OK);
        lt_file_scratch_prefetch(&s, at + n, n);
        for (size_t i = at; i < at + n; i++)
            s.data[i] = pattern(i);
        if (!s.in_memory) /* one piece, and the page it shares with the last */
            assert_true(in_memory() <= MIB + 8192);
        assert_int_equal(lt_file_scratch_release(&s, at, n, &err), LT_OK);
        if (!s.in_memory)
            assert_true(in_memory() <= 8192);
    }
    for (size_t i = 0; i < SIZE; i++)
        if (s.data[i] != pattern(i))
            fail_msg("byte %zu changed", i);

    /* Odd and outlying ranges. */
    s.data[5] = 1;
    s.data[SIZE - 1] = 2;
    assert_int_equal(lt_file_scratch_release(&s, 5, 1, &err), LT_OK);
    assert_int_equal(lt_file_scratch_release(&s, SIZE - 1, SIZE_MAX, &err), LT_OK);
    assert_int_equal(lt_file_scratch_release(&s, SIZE, 1, &err), LT_OK);
    assert_int_equal(lt_file_scratch_release(&s, 0, 0, &err), LT_OK);
    assert_int_equal(lt_file_scratch_take(&s, 0, SIZE_MAX, &err), LT_OK);
    assert_int_equal(lt_file_scratch_take(&s, SIZE, 1, &err), LT_OK);
    assert_int_equal(s.data[5], 1);
    assert_int_equal(s.data[SIZE - 1], 2);

    /* The file and the mapping are one. */
    unsigned char block[10000] = {9};
    assert_int_equal(lt_file_scratch_write(&s, "xyz", 3, 4095, &err), LT_OK);
    assert_memory_equal(s.data + 4095, "xyz", 3);
    s.data[4097] = 'w';
    assert_int_equal(lt_file_scratch_read(&s, block, sizeof block, 4094, &err), LT_OK);
    assert_memory_equal(block + 1, "xyw", 3);
    assert_int_equal(block[9999], pattern(4094 + 9999));
    assert_int_equal(lt_file_scratch_read(&s, block, 2, SIZE - 1, &err), LT_ERR_IO);
    lt_file_scratch_close(&s);
    lt_file_scratch_close(&s);
    assert_int_equal(in_memory(), 0);
}

static void test_failures(void **state)
{
    (void)state;
    struct lt_file_scratch s = {0};

    lt_file_scratch_close(&s); /* zeroed */
    assert_int_equal(lt_file_scratch_open(&s, lt_test_temp_dir(), 0, &err), LT_ERR_INVALID);
    assert_int_equal(lt_file_scratch_open(&s, "/nowhere/at/all", 4096, &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
    /* More than any disk has: an error now, not a signal later. */
    assert_int_equal(lt_file_scratch_open(&s, lt_test_temp_dir(), (size_t)1 << 55, &err), LT_ERR_IO);
    assert_null(s.data);
    for (int n = 1; n <= 3; n++) {
        lt_alloc_fail_at(n);
        assert_int_equal(lt_file_scratch_open(&s, lt_test_temp_dir(), 4096, &err), LT_ERR_NOMEM);
        lt_alloc_fail_at(0);
        lt_file_scratch_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pages), cmocka_unit_test(test_failures)};
    return cmocka_run_group_tests_name("scratch pages", tests, NULL, NULL);
}
