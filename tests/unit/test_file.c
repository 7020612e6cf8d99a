/* Maps, reads, atomic writes, logs, folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "tests/support/fixtures.h"

#define assert_ok(expr) assert_int_equal(expr, LT_OK)

static struct lt_error err;

/* A path in this test's own folder; valid until the fourth next call. */
static const char *at(const char *name)
{
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ & 3];
    lt_snprintf(path, sizeof paths[0], "%s/%s", lt_test_temp_dir(), name);
    return path;
}

static void check_content(const char *path, const void *expected, size_t n)
{
    char *data;
    size_t size;
    assert_ok(lt_file_read(path, 1 << 26, &data, &size, &err));
    assert_int_equal(size, n);
    assert_memory_equal(data, expected, n);
    assert_int_equal(data[size], '\0');
    lt_free(data);
}

static size_t entries(const char *folder)
{
    char **names;
    size_t count;
    assert_ok(lt_dir_list(folder, &names, &count, &err));
    lt_dir_list_free(names, count);
    return count;
}

static int fresh_folder(void **state)
{
    (void)state;
    if (lt_dir_remove_tree(at("t"), &err) != LT_OK)
        return -1;
    return lt_dir_create(at("t"), &err) == LT_OK ? 0 : -1;
}

/* 3 MiB and a bit of bytes that are no period of a page. */
static unsigned char *pattern(size_t *n)
{
    *n = (3u << 20) + 123;
    unsigned char *p = lt_alloc(*n);
    assert_non_null(p);
    for (size_t i = 0; i < *n; i++)
        p[i] = (unsigned char)(i * 7 + (i >> 8) * 13);
    return p;
}

/* ---- maps and reads ---- */

static void test_map(void **state)
{
    (void)state;
    size_t n;
    unsigned char *bytes = pattern(&n);
    unsigned char *copy = lt_alloc(n);
    assert_non_null(copy);
    assert_ok(lt_file_write_atomic(at("t/big"), bytes, n, &err));
    struct lt_file_map map;
    assert_ok(lt_file_map_open(&map, at("t/big"), &err));
    assert_int_equal(map.size, n);
    assert_string_equal(map.path, at("t/big"));
    assert_memory_equal(map.data, bytes, n);
    lt_file_map_prefetch(&map, 5, n);
    lt_file_map_release(&map, 0, n);
    lt_file_map_release(&map, 5000, 10000);
    lt_file_map_release(&map, n + 1, 10);
    lt_file_map_release(&map, 1, SIZE_MAX);
    assert_memory_equal(map.data, bytes, n); /* comes back */

    assert_ok(lt_file_map_pread(&map, copy, n, 0, &err));
    assert_memory_equal(copy, bytes, n);
    assert_ok(lt_file_map_pread(&map, copy, 10, n - 10, &err));
    assert_memory_equal(copy, bytes + n - 10, 10);
    assert_ok(lt_file_map_pread(&map, copy, 0, n, &err));
    assert_int_equal(lt_file_map_pread(&map, copy, 11, n - 10, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_file_map_pread(&map, copy, 1, n, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_file_map_pread(&map, copy, SIZE_MAX, 2, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_file_map_pread(&map, copy, 2, SIZE_MAX, &err), LT_ERR_FORMAT);

    /* A file cut behind our back is an error, not a short result. */
    assert_ok(lt_file_truncate(at("t/big"), n - 100, &err));
    assert_int_equal(lt_file_map_pread(&map, copy, 150, n - 150, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, at("t/big")));
    lt_file_map_close(&map);
    lt_file_map_close(&map);
    lt_free(copy);
    lt_free(bytes);
}

static void test_map_odd_files(void **state)
{
    (void)state;
    struct lt_file_map map = {0};
    int spare = open("/dev/null", O_RDONLY); /* takes 0 when standard input is closed */
    lt_file_map_close(&map);                 /* must not close descriptor 0 */
    lt_file_map_close(&map);
    assert_true(fcntl(0, F_GETFD) != -1);
    close(spare);

    assert_ok(lt_file_write_atomic(at("t/empty"), "", 0, &err));
    assert_ok(lt_file_map_open(&map, at("t/empty"), &err));
    assert_int_equal(map.size, 0);
    assert_null(map.data);
    lt_file_map_prefetch(&map, 0, 1);
    lt_file_map_close(&map);
    assert_int_equal(lt_file_map_open(&map, at("t/none"), &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, at("t/none")));
    assert_int_equal(lt_file_map_open(&map, at("t"), &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "a folder"));
    assert_int_equal(mkfifo(at("t/fifo"), 0600), 0);
    assert_int_equal(lt_file_map_open(&map, at("t/fifo"), &err), LT_ERR_IO);
    lt_file_map_close(&map);
    assert_int_equal(lt_file_map_open(&map, at("t/none"), NULL), LT_ERR_NOT_FOUND);
}

static void test_read(void **state)
{
    (void)state;
    char *data;
    size_t size;
    assert_ok(lt_file_write_atomic(at("t/five"), "12345", 5, &err));
    check_content(at("t/five"), "12345", 5);
    assert_ok(lt_file_read(at("t/five"), 5, &data, &size, &err));
    lt_free(data);
    assert_int_equal(lt_file_read(at("t/five"), 4, &data, &size, &err), LT_ERR_FORMAT);
    assert_null(data);
    assert_ok(lt_file_write_atomic(at("t/nothing"), NULL, 0, &err));
    check_content(at("t/nothing"), "", 0);
    assert_int_equal(lt_file_read(at("t/none"), 4, &data, &size, &err), LT_ERR_NOT_FOUND);
    assert_int_equal(lt_file_read(at("t"), 4000, &data, &size, &err), LT_ERR_IO);
    /* No size in advance, and the limit holds all the same. */
    assert_ok(lt_file_read("/proc/self/status", 1 << 20, &data, &size, &err));
    assert_true(size > 100 && strlen(data) == size);
    lt_free(data);
    assert_int_equal(lt_file_read("/dev/zero", 1 << 20, &data, &size, &err), LT_ERR_FORMAT);
}

/* ---- atomic writes ---- */

static void test_writer(void **state)
{
    (void)state;
    size_t n;
    unsigned char *bytes = pattern(&n);
    struct lt_file_writer w;
    assert_ok(lt_file_write_atomic(at("t/f"), "old", 3, &err));
    assert_ok(lt_file_writer_open(&w, at("t/f"), &err));
    size_t pos = 0;
    for (size_t i = 0; pos < n; i++) { /* small, buffer-sized and larger pieces */
        size_t piece = i % 3 == 0 ? 1000 : i % 3 == 1 ? 262144 : 300001;
        if (piece > n - pos)
            piece = n - pos;
        assert_ok(lt_file_writer_put(&w, bytes + pos, piece, &err));
        pos += piece;
        assert_int_equal(w.written, pos);
    }
    check_content(at("t/f"), "old", 3);
    assert_int_equal(entries(at("t")), 2);
    /* The temporary name is a sibling of the final one. */
    assert_int_equal(strncmp(w.temp_path, at("t/f.tmp-"), strlen(at("t/f.tmp-"))), 0);
    assert_ok(lt_file_writer_commit(&w, &err));
    lt_file_writer_abort(&w);
    check_content(at("t/f"), bytes, n);
    assert_int_equal(entries(at("t")), 1);
    lt_free(bytes);
}

static void test_writer_abort(void **state)
{
    (void)state;
    struct lt_file_writer w = {0};
    lt_file_writer_abort(&w);
    assert_ok(lt_file_write_atomic(at("t/f"), "old", 3, &err));
    assert_ok(lt_file_writer_open(&w, at("t/f"), &err));
    assert_ok(lt_file_writer_put(&w, "new", 3, &err));
    lt_file_writer_abort(&w);
    lt_file_writer_abort(&w);
    check_content(at("t/f"), "old", 3);
    assert_int_equal(entries(at("t")), 1);
    assert_int_equal(lt_file_writer_open(&w, at("t/none/f"), &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, at("t/none/f")));
    lt_file_writer_abort(&w);
}

/* Two writers on one name do not disturb each other; the last commit stays. */
static void test_two_writers(void **state)
{
    (void)state;
    struct lt_file_writer a, b;
    assert_ok(lt_file_writer_open(&a, at("t/f"), &err));
    assert_ok(lt_file_writer_open(&b, at("t/f"), &err));
    assert_ok(lt_file_writer_put(&a, "aaa", 3, &err));
    assert_ok(lt_file_writer_put(&b, "bb", 2, &err));
    assert_ok(lt_file_writer_commit(&b, &err));
    check_content(at("t/f"), "bb", 2);
    assert_ok(lt_file_writer_commit(&a, &err));
    check_content(at("t/f"), "aaa", 3);
    assert_int_equal(entries(at("t")), 1);
}

/* The kernel refuses writes beyond 100 kB: as a full disk, without needing one. */
static void limit_file_size(bool on)
{
    static struct rlimit before;
    if (on) {
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit small = {.rlim_cur = 100000, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    } else {
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    }
}

static void test_failed_write(void **state)
{
    (void)state;
    size_t n;
    unsigned char *bytes = pattern(&n);
    struct lt_file_writer w;
    assert_ok(lt_file_write_atomic(at("t/f"), "old", 3, &err));

    limit_file_size(true);
    enum lt_status whole = lt_file_write_atomic(at("t/f"), bytes, n, &err);
    bool named = strstr(err.message, at("t/f")) && strstr(err.message, "File too large");
    /* In pieces below the buffer's size the failure shows at commit … */
    assert_ok(lt_file_writer_open(&w, at("t/f"), &err));
    enum lt_status buffered = lt_file_writer_put(&w, bytes, 200000, &err);
    enum lt_status commit = lt_file_writer_commit(&w, &err);
    /* … or at a later put; then every further call refuses. */
    assert_ok(lt_file_writer_open(&w, at("t/f"), &err));
    enum lt_status first = lt_file_writer_put(&w, bytes, 300000, &err);
    enum lt_status second = lt_file_writer_put(&w, "x", 1, &err);
    enum lt_status last = lt_file_writer_commit(&w, &err);
    limit_file_size(false);

    assert_int_equal(whole, LT_ERR_IO);
    assert_true(named);
    assert_int_equal(buffered, LT_OK);
    assert_int_equal(commit, LT_ERR_IO);
    assert_int_equal(first, LT_ERR_IO);
    assert_int_equal(second, LT_ERR_IO);
    assert_int_equal(last, LT_ERR_IO);
    check_content(at("t/f"), "old", 3);
    assert_int_equal(entries(at("t")), 1);
    lt_free(bytes);
}

static void test_failed_rename(void **state)
{
    (void)state;
    assert_ok(lt_dir_create(at("t/target/inside"), &err));
    assert_int_equal(lt_file_write_atomic(at("t/target"), "x", 1, &err), LT_ERR_IO);
    assert_int_equal(entries(at("t")), 1);
    assert_int_equal(lt_file_kind(at("t/target/inside")), LT_FILE_DIRECTORY);
}

static void test_writer_out_of_memory(void **state)
{
    (void)state;
    assert_ok(lt_file_write_atomic(at("t/f"), "old", 3, &err));
    long turn = 1;
    enum lt_status status = LT_ERR_NOMEM;
    for (; status != LT_OK && turn < 50; turn++) {
        lt_alloc_fail_at(turn);
        status = lt_file_write_atomic(at("t/f"), "new", 3, &err);
        lt_alloc_fail_at(0);
        if (status != LT_OK)
            assert_int_equal(status, LT_ERR_NOMEM);
        assert_int_equal(entries(at("t")), 1);
    }
    assert_int_equal(status, LT_OK);
    assert_true(turn > 4); /* path, buffer, temporary name and folder at least */
    check_content(at("t/f"), "new", 3);
}

static void test_copy(void **state)
{
    (void)state;
    size_t n;
    unsigned char *bytes = pattern(&n);
    assert_ok(lt_file_write_atomic(at("t/a"), bytes, n, &err));
    assert_ok(lt_file_write_atomic(at("t/b"), "old", 3, &err));
    assert_ok(lt_file_copy(at("t/a"), at("t/b"), &err));
    check_content(at("t/b"), bytes, n);
    assert_int_equal(lt_file_copy(at("t/none"), at("t/b"), &err), LT_ERR_NOT_FOUND);
    assert_int_equal(lt_file_copy(at("t"), at("t/b"), &err), LT_ERR_IO); /* a folder */
    limit_file_size(true);
    enum lt_status status = lt_file_copy(at("t/a"), at("t/c"), &err);
    limit_file_size(false);
    assert_int_equal(status, LT_ERR_IO);
    check_content(at("t/b"), bytes, n);
    assert_int_equal(entries(at("t")), 2);
    lt_free(bytes);
}

/* ---- log ---- */

static void test_appender(void **state)
{
    (void)state;
    struct lt_file_appender a = {0};
    lt_file_appender_close(&a);
    assert_ok(lt_file_appender_open(&a, at("t/log"), false, &err));
    assert_ok(lt_file_appender_put(&a, "one\n", 4, &err));
    check_content(at("t/log"), "one\n", 4); /* at once */
    lt_file_appender_close(&a);
    assert_ok(lt_file_appender_open(&a, at("t/log"), false, &err));
    assert_ok(lt_file_appender_put(&a, "two\n", 4, &err));
    /* Cut while open: the next line follows the cut. */
    assert_ok(lt_file_truncate(at("t/log"), 4, &err));
    assert_ok(lt_file_appender_put(&a, "TWO\n", 4, &err));
    check_content(at("t/log"), "one\nTWO\n", 8);
    lt_file_appender_close(&a);
    assert_int_equal(lt_file_truncate(at("t/log"), 9, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_file_truncate(at("t/none"), 0, &err), LT_ERR_NOT_FOUND);
    check_content(at("t/log"), "one\nTWO\n", 8);
    assert_ok(lt_file_appender_open(&a, at("t/log"), true, &err));
    lt_file_appender_close(&a);
    check_content(at("t/log"), "", 0);
    assert_int_equal(lt_file_appender_open(&a, at("t/none/log"), true, &err), LT_ERR_NOT_FOUND);
    lt_file_appender_close(&a);
}

/* ---- folders ---- */

static void test_kind_and_size(void **state)
{
    (void)state;
    uint64_t size = 0;
    assert_ok(lt_file_write_atomic(at("t/f"), "12345", 5, &err));
    assert_int_equal(lt_file_kind(at("t/f")), LT_FILE_REGULAR);
    assert_int_equal(lt_file_kind(at("t")), LT_FILE_DIRECTORY);
    assert_int_equal(lt_file_kind(at("t/none")), LT_FILE_NONE);
    assert_int_equal(lt_file_kind("/dev/null"), LT_FILE_OTHER);
    assert_ok(lt_file_size(at("t/f"), &size, &err));
    assert_int_equal(size, 5);
    assert_int_equal(lt_file_size(at("t"), &size, &err), LT_ERR_IO);
    assert_int_equal(lt_file_size(at("t/none"), &size, &err), LT_ERR_NOT_FOUND);
}

static void test_dir_create(void **state)
{
    (void)state;
    assert_ok(lt_dir_create(at("t/a/b//c/"), &err));
    assert_ok(lt_dir_create(at("t/a/b/c"), &err));
    assert_int_equal(lt_file_kind(at("t/a/b/c")), LT_FILE_DIRECTORY);
    assert_ok(lt_dir_create("/", &err));
    assert_ok(lt_file_write_atomic(at("t/f"), "x", 1, &err));
    assert_int_equal(lt_dir_create(at("t/f"), &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "in the way"));
    assert_int_equal(lt_dir_create(at("t/f/g"), &err), LT_ERR_IO);
    assert_int_equal(lt_dir_create("", &err), LT_ERR_INVALID);
    assert_ok(lt_dir_check_writable(at("t/a"), &err));
    assert_int_equal(entries(at("t/a")), 1);
    assert_int_equal(lt_dir_check_writable(at("t/none"), &err), LT_ERR_NOT_FOUND);
    assert_int_equal(lt_dir_check_writable(at("t/f"), &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "is not writable"));
}

static void test_dir_list(void **state)
{
    (void)state;
    static const char *const sorted[] = {".hidden", "A", "a", "b10", "b2", "\xc3\xa4"};
    static const char *const made[] = {"b2", "\xc3\xa4", "a", ".hidden", "b10", "A"};
    char name[64];
    for (size_t i = 0; i < 6; i++) {
        lt_snprintf(name, sizeof name, "t/%s", made[i]);
        assert_ok(lt_file_write_atomic(at(name), "", 0, &err));
    }
    char **names;
    size_t count;
    assert_ok(lt_dir_list(at("t"), &names, &count, &err));
    assert_int_equal(count, 6);
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(names[i], sorted[i]);
    lt_dir_list_free(names, count);
    assert_int_equal(lt_dir_list(at("t/none"), &names, &count, &err), LT_ERR_NOT_FOUND);
    lt_dir_list_free(names, count);
    for (long turn = 1; turn <= 7; turn++) { /* the vector and six names */
        lt_alloc_fail_at(turn);
        enum lt_status status = lt_dir_list(at("t"), &names, &count, &err);
        lt_alloc_fail_at(0);
        assert_int_equal(status, LT_ERR_NOMEM);
    }
}

static void test_remove_tree(void **state)
{
    (void)state;
    assert_ok(lt_dir_create(at("t/keep"), &err));
    assert_ok(lt_file_write_atomic(at("t/keep/f"), "x", 1, &err));
    assert_ok(lt_dir_create(at("t/tree/a/b"), &err));
    assert_ok(lt_file_write_atomic(at("t/tree/a/f"), "x", 1, &err));
    assert_int_equal(symlink(at("t/keep"), at("t/tree/a/link")), 0);
    assert_int_equal(symlink("nowhere", at("t/tree/dangling")), 0);
    assert_ok(lt_dir_remove_tree(at("t/tree/"), &err));
    assert_int_equal(lt_file_kind(at("t/tree")), LT_FILE_NONE);
    check_content(at("t/keep/f"), "x", 1);

    assert_int_equal(symlink(at("t/keep"), at("t/link")), 0);
    assert_ok(lt_dir_remove_tree(at("t/link/"), &err)); /* the link, not what it leads to */
    assert_int_equal(lt_file_kind(at("t/link")), LT_FILE_NONE);
    check_content(at("t/keep/f"), "x", 1);

    assert_ok(lt_dir_remove_tree(at("t/none"), &err));
    assert_int_equal(lt_dir_remove_tree("/", &err), LT_ERR_INVALID);
    assert_int_equal(lt_dir_remove_tree("", &err), LT_ERR_INVALID);

    char deep[1024] = "t/deep";
    for (int i = 0; i < 70; i++)
        strcat(deep, "/d");
    assert_ok(lt_dir_create(at(deep), &err));
    assert_int_equal(lt_dir_remove_tree(at("t/deep"), &err), LT_ERR_IO);
    for (size_t n = strlen(deep); n > 6; n -= 2) {
        deep[n] = '\0';
        assert_int_equal(rmdir(at(deep)), 0);
    }
}

static void test_replace(void **state)
{
    (void)state;
    assert_ok(lt_dir_create(at("t/new"), &err));
    assert_ok(lt_file_write_atomic(at("t/new/f"), "1", 1, &err));
    assert_ok(lt_dir_replace(at("t/new"), at("t/ck/"), &err));
    check_content(at("t/ck/f"), "1", 1);
    assert_int_equal(entries(at("t")), 1);

    assert_ok(lt_dir_create(at("t/new"), &err));
    assert_ok(lt_file_write_atomic(at("t/new/g"), "2", 1, &err));
    assert_ok(lt_dir_replace(at("t/new/"), at("t/ck"), &err));
    check_content(at("t/ck/g"), "2", 1);
    assert_int_equal(lt_file_kind(at("t/ck/f")), LT_FILE_NONE);
    assert_int_equal(entries(at("t")), 1);

    assert_int_equal(lt_dir_replace(at("t/none"), at("t/ck"), &err), LT_ERR_NOT_FOUND);
    check_content(at("t/ck/g"), "2", 1);
    /* A folder cannot move into itself: the old target is put back. */
    assert_ok(lt_dir_create(at("t/ck/sub"), &err));
    assert_int_equal(lt_dir_replace(at("t/ck"), at("t/ck/sub"), &err), LT_ERR_IO);
    check_content(at("t/ck/g"), "2", 1);
    assert_int_equal(lt_file_kind(at("t/ck/sub")), LT_FILE_DIRECTORY);
    assert_int_equal(entries(at("t")), 1);
    assert_int_equal(entries(at("t/ck")), 2);
}

static void test_paths(void **state)
{
    (void)state;
    static const char *const cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"},
                                           {"/", "b", "/b"},  {"a", "", "a/"},    {".", "x/y", "./x/y"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *joined = lt_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(joined, cases[i][2]);
        lt_free(joined);
    }
    lt_alloc_fail_at(1);
    char *none = lt_path_join("a", "b");
    lt_alloc_fail_at(0);
    assert_null(none);
    assert_string_equal(lt_path_basename("/a/b.c"), "b.c");
    assert_string_equal(lt_path_basename("b.c"), "b.c");
    assert_string_equal(lt_path_basename("a/"), "");
}

#define FILE_TEST(fn) cmocka_unit_test_setup(fn, fresh_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(test_map),          FILE_TEST(test_map_odd_files), FILE_TEST(test_read),
        FILE_TEST(test_writer),       FILE_TEST(test_writer_abort),  FILE_TEST(test_two_writers),
        FILE_TEST(test_failed_write), FILE_TEST(test_failed_rename), FILE_TEST(test_writer_out_of_memory),
        FILE_TEST(test_copy),         FILE_TEST(test_appender),      FILE_TEST(test_kind_and_size),
        FILE_TEST(test_dir_create),   FILE_TEST(test_dir_list),      FILE_TEST(test_remove_tree),
        FILE_TEST(test_replace),      FILE_TEST(test_paths),
    };
    return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
