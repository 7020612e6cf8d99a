/* A helper thread that runs jobs one after another, in the order they came: reading ahead, writing behind. */
#ifndef LT_BASE_WORKER_H
#define LT_BASE_WORKER_H

#include <stdbool.h>

#include "core/base/status.h"

/* The caller's; stays in place while it is submitted.  Zeroed: never submitted. */
struct lt_job {
    enum lt_status (*run)(void *user, struct lt_error *err); /* on the helper thread */
    void *user;
    /* the worker's: */
    bool pending;
    enum lt_status status;
    struct lt_error err;
    struct lt_job *next;
};

struct lt_worker;
enum lt_status lt_worker_create(struct lt_worker **worker, struct lt_error *err) LT_MUST_USE;
void lt_worker_destroy(struct lt_worker *worker); /* finishes what was submitted; NULL is accepted */
/* The job must not be pending.  Allocates nothing. */
void lt_worker_submit(struct lt_worker *worker, struct lt_job *job);
/* Until the job is done: its status and error.  LT_OK at once for one that was never submitted. */
enum lt_status lt_worker_wait(struct lt_worker *worker, struct lt_job *job, struct lt_error *err) LT_MUST_USE;

#endif
