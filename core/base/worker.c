#include "core/base/worker.h"

#include <pthread.h>
#include <signal.h>

#include "core/base/alloc.h"
#include "core/base/thread_internal.h"

int lt_thread_start(pthread_t *thread, void *(*run)(void *user), void *user)
{
    sigset_t all, before;
    sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error)
        return error;
    error = pthread_create(thread, NULL, run, user);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

struct lt_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t submitted, finished;
    struct lt_job *first, *last; /* under lock, as all below and the worker's part of the jobs */
    bool stop;
};

static void run_job(struct lt_worker *w, struct lt_job *job)
{
    struct lt_error err = {0};
    pthread_mutex_unlock(&w->lock);
    enum lt_status status = job->run(job->user, &err);
    pthread_mutex_lock(&w->lock);
    job->status = status;
    job->err = err;
    job->pending = false;
    pthread_cond_broadcast(&w->finished);
}

static void *worker_main(void *user)
{
    struct lt_worker *w = user;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct lt_job *job = w->first;
        if (job) {
            w->first = job->next;
            run_job(w, job);
        } else if (w->stop) {
            break;
        } else {
            pthread_cond_wait(&w->submitted, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum lt_status lt_worker_create(struct lt_worker **worker, struct lt_error *err)
{
    *worker = NULL;
    struct lt_worker *w = lt_alloc_zero(1, sizeof *w);
    if (!w)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while starting a helper thread");
    int error = pthread_mutex_init(&w->lock, NULL);
    if (error)
        goto fail_memory;
    error = pthread_cond_init(&w->submitted, NULL);
    if (error)
        goto fail_lock;
    error = pthread_cond_init(&w->finished, NULL);
    if (error)
        goto fail_submitted;
    error = lt_thread_start(&w->thread, worker_main, w);
    if (error)
        goto fail_finished;
    *worker = w;
    return LT_OK;

fail_finished:
    pthread_cond_destroy(&w->finished);
fail_submitted:
    pthread_cond_destroy(&w->submitted);
fail_lock:
    pthread_mutex_destroy(&w->lock);
fail_memory:
    lt_free(w);
    return lt_fail_errno(err, error, "cannot start a helper thread");
}

void lt_worker_destroy(struct lt_worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->submitted);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->finished);
    pthread_cond_destroy(&w->submitted);
    pthread_mutex_destroy(&w->lock);
    lt_free(w);
}

void lt_worker_submit(struct lt_worker *w, struct lt_job *job)
{
    pthread_mutex_lock(&w->lock);
    job->pending = true;
    job->next = NULL;
    if (w->first)
        w->last->next = job;
    else
        w->first = job;
    w->last = job;
    pthread_cond_signal(&w->submitted);
    pthread_mutex_unlock(&w->lock);
}

enum lt_status lt_worker_wait(struct lt_worker *w, struct lt_job *job, struct lt_error *err)
{
    pthread_mutex_lock(&w->lock);
    while (job->pending)
        pthread_cond_wait(&w->finished, &w->lock);
    enum lt_status status = job->status;
    if (status != LT_OK && err)
        *err = job->err;
    pthread_mutex_unlock(&w->lock);
    return status;
}
