#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/worker.h"

enum { JOBS = 100 };

struct record {
    int number, *count, *order;
};

static enum lt_status note(void *user, struct lt_error *err)
{
    struct record *r = user;
    r->order[(*r->count)++] = r->number;
    if (r->number % 7 == 3)
        return lt_fail(err, LT_ERR_IO, "job %d failed", r->number);
    return LT_OK;
}

/* Jobs run in order, each once; a status belongs to its job and stays until the job is submitted again. */
static void test_order(void **state)
{
    (void)state;
    struct lt_worker *w;
    struct lt_error err;
    struct lt_job jobs[JOBS] = {0};
    struct record records[JOBS];
    int order[2 * JOBS], count = 0;
    assert_int_equal(lt_worker_create(&w, &err), LT_OK);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < JOBS; i++) {
            records[i] = (struct record){i, &count, order};
            jobs[i].run = note;
            jobs[i].user = &records[i];
            lt_worker_submit(w, &jobs[i]);
        }
        for (int i = JOBS - 1; i >= 0; i--)
            for (int again = 0; again < 2; again++) {
                memset(&err, 0, sizeof err);
                assert_int_equal(lt_worker_wait(w, &jobs[i], &err), i % 7 == 3 ? LT_ERR_IO : LT_OK);
                assert_int_equal(strncmp(err.message, "job ", 4) == 0, i % 7 == 3);
            }
    }
    assert_int_equal(count, 2 * JOBS);
    for (int i = 0; i < 2 * JOBS; i++)
        assert_int_equal(order[i], i % JOBS);
    lt_worker_destroy(w);
}

static void test_never_submitted(void **state)
{
    (void)state;
    struct lt_worker *w;
    struct lt_job job = {0};
    assert_int_equal(lt_worker_create(&w, NULL), LT_OK);
    assert_int_equal(lt_worker_wait(w, &job, NULL), LT_OK);
    lt_worker_destroy(w);
    lt_worker_destroy(NULL);
}

static void test_destroy_finishes(void **state)
{
    (void)state;
    struct lt_worker *w;
    struct lt_job jobs[JOBS] = {0};
    struct record records[JOBS];
    int order[JOBS], count = 0;
    assert_int_equal(lt_worker_create(&w, NULL), LT_OK);
    for (int i = 0; i < JOBS; i++) {
        records[i] = (struct record){i, &count, order};
        jobs[i].run = note;
        jobs[i].user = &records[i];
        lt_worker_submit(w, &jobs[i]);
    }
    lt_worker_destroy(w);
    assert_int_equal(count, JOBS);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct lt_worker *w;
    struct lt_error err;
    lt_alloc_fail_at(1);
    assert_int_equal(lt_worker_create(&w, &err), LT_ERR_NOMEM);
    lt_alloc_fail_at(0);
    assert_null(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_never_submitted),
        cmocka_unit_test(test_destroy_finishes),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
