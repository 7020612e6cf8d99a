/* Status, checked arithmetic, allocation hook, strings, UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/file.h"
#include "core/base/status.h"
#include "core/base/strbuf.h"
#include "tests/support/fixtures.h"

/* ---- status ---- */

static void test_fail(void **state)
{
    (void)state;
    struct lt_error err;
    assert_int_equal(lt_fail(&err, LT_ERR_FORMAT, "tensor '%s': offset %zu", "wte", (size_t)SIZE_MAX),
                     LT_ERR_FORMAT);
    assert_int_equal(err.status, LT_ERR_FORMAT);
    assert_string_equal(err.message, "tensor 'wte': offset 18446744073709551615");
    assert_int_equal(lt_fail(NULL, LT_ERR_INVALID, "unused"), LT_ERR_INVALID);

    /* An argument may be the old message. */
    lt_fail(&err, LT_ERR_IO, "again: %s", err.message);
    assert_string_equal(err.message, "again: tensor 'wte': offset 18446744073709551615");
    assert_int_equal(lt_fail_prefix(&err, LT_ERR_IO, "%s:%d", "train.jsonl", 7), LT_ERR_IO);
    assert_string_equal(err.message, "train.jsonl:7: again: tensor 'wte': offset 18446744073709551615");
    assert_int_equal(lt_fail_prefix(NULL, LT_ERR_IO, "x"), LT_ERR_IO);
}

static void test_fail_truncates_at_character(void **state)
{
    (void)state;
    struct lt_error err;
    char text[2 * LT_ERROR_MESSAGE_MAX];
    /* Every phase of a run of four-byte characters against the end of the buffer. */
    for (size_t lead = 0; lead < 8; lead++) {
        memset(text, 'a', lead);
        size_t n = lead;
        while (n + 4 < sizeof text) {
            memcpy(text + n, "\xf0\x9d\x92\x9c", 4);
            n += 4;
        }
        text[n] = '\0';
        lt_fail(&err, LT_ERR_IO, "%s", text);
        size_t kept = strlen(err.message);
        assert_true(lt_utf8_valid(err.message, kept, NULL));
        assert_true(kept > LT_ERROR_MESSAGE_MAX - 1 - 4 && kept < LT_ERROR_MESSAGE_MAX);
        lt_fail_prefix(&err, LT_ERR_IO, "pre");
        kept = strlen(err.message);
        assert_true(lt_utf8_valid(err.message, kept, NULL));
        assert_true(kept > LT_ERROR_MESSAGE_MAX - 1 - 4 && kept < LT_ERROR_MESSAGE_MAX);
    }
    /* The reason survives a name that is too long. */
    assert_int_equal(lt_fail_errno(&err, ENOSPC, "cannot write '%s'", text), LT_ERR_IO);
    size_t kept = strlen(err.message);
    assert_true(lt_utf8_valid(err.message, kept, NULL));
    assert_string_equal(strrchr(err.message, ':'), ": No space left on device");
}

static void test_fail_errno(void **state)
{
    (void)state;
    struct lt_error err;
    assert_int_equal(lt_fail_errno(&err, ENOENT, "cannot open '%s'", "a"), LT_ERR_NOT_FOUND);
    assert_string_equal(err.message, "cannot open 'a': No such file or directory");
    assert_int_equal(lt_fail_errno(&err, EACCES, "x"), LT_ERR_IO);
    assert_int_equal(lt_fail_errno(NULL, ENOMEM, "x"), LT_ERR_NOMEM);
    for (int s = LT_OK; s <= LT_ERR_DEVICE + 1; s++)
        assert_true(strlen(lt_status_name((enum lt_status)s)) > 0);
}

/* ---- checked arithmetic ---- */

static void test_checked(void **state)
{
    (void)state;
    size_t s = 5;
    int64_t i = 5;
    assert_false(lt_mul_size(SIZE_MAX, 2, &s));
    assert_false(lt_add_size(SIZE_MAX, 1, &s));
    assert_int_equal(s, 5);
    assert_true(lt_mul_size(SIZE_MAX / 2, 2, &s) && s == SIZE_MAX - 1);
    assert_true(lt_add_size(SIZE_MAX - 1, 1, &s) && s == SIZE_MAX);
    assert_false(lt_mul_i64(INT64_MIN, -1, &i));
    assert_int_equal(i, 5);
    assert_true(lt_mul_i64(INT64_MIN / 2, 2, &i) && i == INT64_MIN);
    assert_int_equal(lt_align_up(0, 64), 0);
    assert_int_equal(lt_align_up(1, 64), 64);
    assert_int_equal(lt_align_up(64, 64), 64);
    assert_int_equal(lt_div_up(7, 4), 2);
    assert_int_equal(lt_div_up(8, 4), 2);
    assert_int_equal(lt_min_i64(-1, 2), -1);
    assert_int_equal(lt_max_i64(-1, 2), 2);
}

/* ---- allocation ---- */

static void test_alloc_basics(void **state)
{
    (void)state;
    void *zero_size = lt_alloc(0);
    assert_non_null(zero_size);
    lt_free(zero_size);
    size_t big = SIZE_MAX / 2;
    assert_null(lt_alloc_array(big, 3));
    assert_null(lt_alloc_zero(3, big));
    unsigned char *z = lt_alloc_zero(10, 10);
    assert_non_null(z);
    for (int i = 0; i < 100; i++)
        assert_int_equal(z[i], 0);
    assert_null(lt_realloc_array(z, big, 3));
    z[99] = 1; /* still valid */
    lt_free(z);
    lt_free(NULL);

    char *copy = lt_strdup("abc");
    assert_string_equal(copy, "abc");
    lt_free(copy);
    copy = lt_strndup("abc", 2);
    assert_string_equal(copy, "ab");
    lt_free(copy);
    copy = lt_strndup("abc", SIZE_MAX);
    assert_string_equal(copy, "abc");
    lt_free(copy);

    unsigned char *pages = lt_alloc_pages(100000);
    assert_non_null(pages);
    assert_int_equal((uintptr_t)pages % 4096, 0);
    assert_int_equal(pages[0] | pages[99999], 0);
    pages[99999] = 7;
    lt_free_pages(pages, 100000);
    lt_free_pages(NULL, 5);
    pages = lt_alloc_pages(0);
    assert_non_null(pages);
    lt_free_pages(pages, 0);
}

static void test_alloc_hook(void **state)
{
    (void)state;
    /* Each kind is hit when its turn comes, and only then. */
    for (long turn = 1; turn <= 7; turn++) {
        lt_alloc_fail_at(turn);
        void *p[5] = {lt_alloc(8), lt_alloc_zero(1, 8), lt_alloc_array(1, 8), lt_strdup("x"),
                      lt_strndup("x", 1)};
        void *old = p[turn == 1 ? 1 : 0];
        void *grown = lt_realloc_array(old, 100, 8);
        void *pages = lt_alloc_pages(4096);
        assert_int_equal(lt_alloc_count(), 7);
        for (int i = 0; i < 5; i++)
            assert_true((p[i] == NULL) == (turn == i + 1));
        assert_true((grown == NULL) == (turn == 6));
        assert_true((pages == NULL) == (turn == 7));
        if (grown)
            p[turn == 1 ? 1 : 0] = grown;
        for (int i = 0; i < 5; i++)
            lt_free(p[i]);
        lt_free_pages(pages, 4096);
    }
    lt_alloc_fail_at(0);
    assert_int_equal(lt_alloc_count(), 0);
}

static void test_reserve(void **state)
{
    (void)state;
    void *items = NULL;
    size_t capacity = 0;
    for (size_t n = 0; n < 1000; n++) {
        assert_true(lt_reserve(&items, &capacity, n, sizeof(size_t)));
        assert_true(capacity > n);
        ((size_t *)items)[n] = n;
    }
    for (size_t n = 0; n < 1000; n++)
        assert_int_equal(((size_t *)items)[n], n);
    void *before = items;
    size_t old = capacity;
    assert_false(lt_reserve(&items, &capacity, SIZE_MAX, sizeof(size_t)));
    lt_alloc_fail_at(1);
    assert_false(lt_reserve(&items, &capacity, capacity, sizeof(size_t)));
    lt_alloc_fail_at(0);
    assert_true(items == before && capacity == old);
    lt_free(items);
}

/* ---- string buffer ---- */

static void test_strbuf(void **state)
{
    (void)state;
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    assert_string_equal(lt_strbuf_str(&sb), "");
    char *empty = lt_strbuf_take(&sb);
    assert_string_equal(empty, "");
    lt_free(empty);

    lt_strbuf_puts(&sb, "ab");
    lt_strbuf_putc(&sb, 'c');
    lt_strbuf_put(&sb, "d\0e", 3);
    assert_int_equal(sb.len, 6);
    assert_memory_equal(lt_strbuf_str(&sb), "abcd\0e", 7);
    lt_strbuf_clear(&sb);
    assert_string_equal(lt_strbuf_str(&sb), "");

    /* Lengths around every growth, against a plain count. */
    char text[1200];
    for (size_t n = 0; n < sizeof text; n++) {
        memset(text, 'x', n);
        text[n] = '\0';
        struct lt_strbuf one;
        lt_strbuf_init(&one);
        lt_strbuf_printf(&one, "<%s>", text);
        assert_int_equal(one.len, n + 2);
        assert_int_equal(strlen(lt_strbuf_str(&one)), n + 2);
        assert_int_equal(one.data[n + 1], '>');
        lt_strbuf_deinit(&one);
    }
    lt_strbuf_puts(&sb, "kept");
    char *taken = lt_strbuf_take(&sb);
    assert_string_equal(taken, "kept");
    lt_free(taken);
    assert_null(sb.data);
    lt_strbuf_deinit(&sb);
}

static void test_strbuf_failure_sticks(void **state)
{
    (void)state;
    char filler[100];
    memset(filler, 'y', sizeof filler);
    for (long turn = 1; turn <= 2; turn++) {
        struct lt_strbuf sb;
        lt_strbuf_init(&sb);
        lt_alloc_fail_at(turn);
        lt_strbuf_puts(&sb, "first");
        lt_strbuf_put(&sb, filler, sizeof filler);
        lt_alloc_fail_at(0);
        assert_false(lt_strbuf_ok(&sb));
        lt_strbuf_puts(&sb, "later");
        lt_strbuf_printf(&sb, "%d", 5);
        lt_strbuf_put_double(&sb, 0.5);
        assert_int_equal(sb.len, turn == 1 ? 0 : 5);
        assert_null(lt_strbuf_str(&sb));
        if (turn == 1)
            assert_null(lt_strbuf_take(&sb));
        lt_strbuf_deinit(&sb);
    }
}

static void test_snprintf(void **state)
{
    (void)state;
    char buf[64];
    lt_snprintf(buf, sizeof buf, "%zu %lld", (size_t)SIZE_MAX, LLONG_MIN);
    assert_string_equal(buf, "18446744073709551615 -9223372036854775808");
    lt_snprintf(buf, sizeof buf, "%zd %llx %td %ju", (ptrdiff_t)-1, ULLONG_MAX, (ptrdiff_t)-3, UINTMAX_MAX);
    assert_string_equal(buf, "-1 ffffffffffffffff -3 18446744073709551615");
    lt_snprintf(buf, sizeof buf, "%.3s|%-4d|%04x|%5.2f|%c|%%", "abcdef", 7, 255u, 3.14159, 'q');
    assert_string_equal(buf, "abc|7   |00ff| 3.14|q|%");
    memset(buf, '#', sizeof buf);
    assert_int_equal(lt_snprintf(buf, 4, "%s", "abcdef"), 6);
    assert_memory_equal(buf, "abc\0#", 5);
    assert_int_equal(lt_snprintf(buf, 0, "%s", "abcdef"), 6);
    assert_int_equal(lt_snprintf(NULL, 0, "%d", 12), 2);
    assert_memory_equal(buf, "abc\0#", 5);
    assert_int_equal(lt_snprintf(buf, 1, "%d", 12), 2);
    assert_memory_equal(buf, "\0bc", 3);
}

/* ---- UTF-8 ---- */

static void test_utf8_exhaustive(void **state)
{
    (void)state;
    /* Every scalar value encodes to a valid sequence that is invalid when cut anywhere. */
    for (unsigned c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c <= 0xDFFF)
            continue;
        struct lt_strbuf sb;
        char room[8];
        sb = (struct lt_strbuf){.data = room, .cap = sizeof room};
        lt_strbuf_put_utf8(&sb, c);
        size_t expected = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        if (sb.len != expected || !lt_utf8_valid(room, sb.len, NULL))
            fail_msg("U+%04X", c);
        size_t bad = 9;
        for (size_t cut = 1; cut < sb.len; cut++) {
            if (lt_utf8_valid(room, cut, &bad) || bad != 0)
                fail_msg("U+%04X cut to %zu", c, cut);
        }
    }
    /* All two- and three-byte strings: exactly the sequences counted by the standard are valid. */
    size_t two = 0, three = 0;
    for (unsigned v = 0; v < 1u << 24; v++) {
        unsigned char b[3] = {(unsigned char)(v >> 16), (unsigned char)(v >> 8), (unsigned char)v};
        if (b[0] >= 0x80)
            three += lt_utf8_valid(b, 3, NULL) && !lt_utf8_valid(b, 2, NULL);
        if (b[0] >= 0x80 && b[2] == 0)
            two += lt_utf8_valid(b, 2, NULL);
    }
    assert_int_equal(two, 0x800 - 0x80);
    assert_int_equal(three, 0x10000 - 0x800 - 0x800);

    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    lt_strbuf_put_utf8(&sb, 0xD800);
    lt_strbuf_put_utf8(&sb, 0x110000);
    assert_string_equal(lt_strbuf_str(&sb), "\xef\xbf\xbd\xef\xbf\xbd");
    lt_strbuf_deinit(&sb);
}

static void test_utf8_offsets(void **state)
{
    (void)state;
    char text[40];
    for (size_t at = 0; at < 30; at++) { /* across the eight-byte steps */
        memset(text, 'a', sizeof text);
        text[at] = (char)0xff;
        size_t bad = 99;
        assert_false(lt_utf8_valid(text, sizeof text, &bad));
        assert_int_equal(bad, at);
        memcpy(text + at, "\xe2\x82\xac", 3);
        assert_true(lt_utf8_valid(text, sizeof text, NULL));
    }
    assert_true(lt_utf8_valid("", 0, NULL));
    assert_true(lt_utf8_valid("a\0b", 3, NULL));
}

/* Reads hex digit pairs up to ':' or the end; returns their count. */
static size_t read_hex(const char **p, unsigned char *out, size_t max)
{
    size_t n = 0;
    while (**p && **p != ':') {
        if (**p == ' ') {
            (*p)++;
            continue;
        }
        char pair[3] = {(*p)[0], (*p)[1], '\0'};
        assert_true(n < max && pair[1] != '\0');
        out[n++] = (unsigned char)strtoul(pair, NULL, 16);
        *p += 2;
    }
    if (**p == ':')
        (*p)++;
    return n;
}

/* One line of the test file, "num:kind:…" (comments excluded).  True when it held a case. */
static bool check_utf8_line(const char *line)
{
    unsigned char bytes[256], replaced[256];
    const char *p = strchr(line, ':');
    if (!p)
        return false;
    do
        p++;
    while (*p == ' ');
    size_t bad = 0;
    if (strncmp(p, "valid:", 6) == 0) {
        assert_true(lt_utf8_valid(p + 6, strlen(p + 6), NULL));
    } else if (strncmp(p, "valid hex:", 10) == 0) {
        p += 10;
        size_t n = read_hex(&p, bytes, sizeof bytes);
        if (!lt_utf8_valid(bytes, n, NULL))
            fail_msg("%s", line);
    } else if (strncmp(p, "invalid hex:", 12) == 0) {
        p += 12;
        size_t n = read_hex(&p, bytes, sizeof bytes);
        if (lt_utf8_valid(bytes, n, &bad))
            fail_msg("%s", line);
        /* Replacing decoders put U+FFFD just where the first bad byte is. */
        p = strchr(p, ':') + 1;
        size_t m = read_hex(&p, replaced, sizeof replaced);
        assert_true(bad + 3 <= m);
        assert_memory_equal(replaced, bytes, bad);
        assert_memory_equal(replaced + bad, "\xef\xbf\xbd", 3);
    } else {
        fail_msg("unknown line '%s'", line);
    }
    return true;
}

static void test_utf8_suite(void **state)
{
    (void)state;
    static const char name[] = "data/flenniken+utf8tests/utf8tests.txt";
    char path[1024];
    if (!lt_fixture_path(path, sizeof path, name))
        lt_test_skip_missing(name);
    char *text;
    size_t size, cases = 0;
    struct lt_error err;
    if (lt_file_read(path, 1 << 20, &text, &size, &err) != LT_OK)
        fail_msg("%s", err.message);
    for (char *line = text, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        if (*line && *line != '#')
            cases += check_utf8_line(line);
    }
    lt_free(text);
    assert_true(cases > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_fail_truncates_at_character),
        cmocka_unit_test(test_fail_errno),
        cmocka_unit_test(test_checked),
        cmocka_unit_test(test_alloc_basics),
        cmocka_unit_test(test_alloc_hook),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_strbuf),
        cmocka_unit_test(test_strbuf_failure_sticks),
        cmocka_unit_test(test_snprintf),
        cmocka_unit_test(test_utf8_exhaustive),
        cmocka_unit_test(test_utf8_offsets),
        cmocka_unit_test(test_utf8_suite),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
