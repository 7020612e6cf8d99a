/* Clock, processors, cancellation, log, memory measurement. */
#define _DEFAULT_SOURCE /* madvise */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "tests/support/fixtures.h"

enum { MIB = 1 << 20, BLOCK = 32 * MIB };

/* What the kernel's per-thread counters may lag behind, and what the test itself allocates. */
enum { SLACK = 4 * MIB };

/* Thread sanitizer keeps shadow memory for every page: nothing above can be bounded then. */
#if defined(__SANITIZE_THREAD__)
#define SHADOWED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHADOWED 1
#endif
#endif
#ifndef SHADOWED
#define SHADOWED 0
#endif

static void test_clock_and_processors(void **state)
{
    (void)state;
    double a = lt_clock_seconds();
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
    double b = lt_clock_seconds();
    assert_true(b - a >= 0.02 && b - a < 10.0);
    assert_true(lt_wall_seconds() > 1.6e9); /* after 2020 */
    assert_true(lt_cpu_count() >= 1);
    assert_true(lt_cpu_count() <= sysconf(_SC_NPROCESSORS_CONF));
}

static void test_cancel(void **state)
{
    (void)state;
    assert_false(lt_cancel_requested());
    lt_cancel_request();
    assert_true(lt_cancel_requested());
    lt_cancel_reset();
    assert_false(lt_cancel_requested());
}

static void keep_message(void *user, enum lt_log_level level, const char *message)
{
    lt_snprintf(user, 64, "%d %s", (int)level, message);
}

static void test_log(void **state)
{
    (void)state;
    char last[64] = "";
    lt_log(LT_LOG_WARNING, "dropped");
    lt_log_set(keep_message, last);
    lt_log(LT_LOG_WARNING, "row %d", 3);
    assert_string_equal(last, "2 row 3");
    lt_log_set(NULL, NULL);
    lt_log(LT_LOG_WARNING, "dropped");
    assert_string_equal(last, "2 row 3");
}

static void test_memory_of_pages(void **state)
{
    (void)state;
    struct lt_memory_stat before, mapped, touched, released;
    if (SHADOWED)
        lt_test_skip_missing("memory without a sanitizer's shadow");
    lt_memory_stat(&before);
    assert_true(before.rss_anon > 0 && before.rss_file > 0);
    assert_true(before.file_dirty == 0);
    unsigned char *p = lt_alloc_pages(BLOCK);
    assert_non_null(p);
    lt_memory_stat(&mapped);
    memset(p, 1, BLOCK);
    lt_memory_stat(&touched);
    lt_free_pages(p, BLOCK);
    lt_memory_stat(&released);
    assert_true(lt_memory_counted(&mapped) < lt_memory_counted(&before) + SLACK);
    assert_true(lt_memory_counted(&touched) + SLACK > lt_memory_counted(&before) + BLOCK);
    assert_true(lt_memory_counted(&touched) < lt_memory_counted(&before) + BLOCK + SLACK);
    assert_true(lt_memory_counted(&released) < lt_memory_counted(&before) + SLACK);
}

static void test_sampler_sees_a_peak(void **state)
{
    (void)state;
    struct lt_error err;
    struct lt_memory_sampler *sampler = NULL;
    assert_int_equal(lt_memory_sampler_create(&sampler, 0.0, &err), LT_ERR_INVALID);
    assert_null(sampler);
    lt_memory_sampler_destroy(sampler);
    lt_alloc_fail_at(1);
    assert_int_equal(lt_memory_sampler_create(&sampler, 0.001, &err), LT_ERR_NOMEM);
    lt_alloc_fail_at(0);

    assert_int_equal(lt_memory_sampler_create(&sampler, 0.001, &err), LT_OK);
    uint64_t before = lt_memory_sampler_peak(sampler);
    unsigned char *p = lt_alloc_pages(BLOCK);
    assert_non_null(p);
    memset(p, 1, BLOCK);
    /* Seen by the thread, without a call of ours: wait for it, a loaded machine may take a while. */
    struct timespec pause = {.tv_nsec = 500000000};
    nanosleep(&pause, NULL);
    lt_free_pages(p, BLOCK);
    uint64_t peak = lt_memory_sampler_peak(sampler);
    assert_true(peak + SLACK > before + BLOCK);
    lt_memory_sampler_destroy(sampler);

    /* A long interval does not delay the end. */
    double start = lt_clock_seconds();
    assert_int_equal(lt_memory_sampler_create(&sampler, 3600.0, &err), LT_OK);
    lt_memory_sampler_destroy(sampler);
    assert_true(lt_clock_seconds() - start < 60.0);
}

static void test_tracked_mapping(void **state)
{
    (void)state;
    char path[1024];
    lt_snprintf(path, sizeof path, "%s/dirty", lt_test_temp_dir());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    const size_t size = 8 * MIB;
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    struct lt_memory_stat stat;
    memset(p, 1, size / 2);
    lt_memory_stat(&stat);
    assert_true(stat.file_dirty == 0); /* not tracked: not looked for */
    assert_true(lt_memory_track_file_mapping(p, size));
    memset(p, 2, size / 2);
    lt_memory_stat(&stat);
    assert_true(stat.file_dirty >= size / 2 && stat.file_dirty <= size / 2 + SLACK);
    assert_int_equal(msync(p, size, MS_SYNC), 0);
    lt_memory_untrack_file_mapping(p + 1); /* unknown */
    lt_memory_untrack_file_mapping(p);
    memset(p, 3, size / 2);
    lt_memory_stat(&stat);
    assert_true(stat.file_dirty == 0);

    /* A read-only or private mapping is never counted, tracked or not. */
    unsigned char *q = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_true(q != MAP_FAILED);
    memset(q, 4, size);
    assert_true(lt_memory_track_file_mapping(q, size));
    lt_memory_stat(&stat);
    assert_true(stat.file_dirty == 0);
    lt_memory_untrack_file_mapping(q);
    munmap(q, size);
    munmap(p, size);
    close(fd);

    static char places[65];
    for (int i = 0; i < 64; i++)
        assert_true(lt_memory_track_file_mapping(&places[i], 1));
    assert_false(lt_memory_track_file_mapping(&places[64], 1));
    for (int i = 0; i < 65; i++)
        lt_memory_untrack_file_mapping(&places[i]);
    assert_true(lt_memory_track_file_mapping(&places[64], 1));
    lt_memory_untrack_file_mapping(&places[64]);
}

static void test_available(void **state)
{
    (void)state;
    uint64_t available = lt_memory_available();
    uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(available > 16 * MIB && available <= total);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock_and_processors),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_memory_of_pages),
        cmocka_unit_test(test_sampler_sees_a_peak),
        cmocka_unit_test(test_tracked_mapping),
        cmocka_unit_test(test_available),
    };
    return cmocka_run_group_tests_name("system", tests, NULL, NULL);
}
