/* Samples the counted memory of the process from a thread of its own. */
#include "core/base/system.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "core/base/alloc.h"
#include "core/base/thread_internal.h"

struct lt_memory_sampler {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop; /* under lock */
    struct timespec interval;
    _Atomic uint64_t peak;
};

static void take_sample(struct lt_memory_sampler *s)
{
    struct lt_memory_stat stat;
    lt_memory_stat(&stat);
    uint64_t now = lt_memory_counted(&stat);
    uint64_t peak = atomic_load(&s->peak);
    while (now > peak && !atomic_compare_exchange_weak(&s->peak, &peak, now)) {
    }
}

/* Processor time of this thread. */
static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The interval from now, or ten times `took` seconds when that is longer. */
static struct timespec time_after(const struct timespec *interval, double took)
{
    struct timespec t, pause = *interval;
    double least = 10 * took;
    if (least > (double)pause.tv_sec + 1e-9 * (double)pause.tv_nsec) {
        pause.tv_sec = (time_t)least;
        pause.tv_nsec = (long)((least - floor(least)) * 1e9);
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += pause.tv_sec;
    t.tv_nsec += pause.tv_nsec;
    if (t.tv_nsec >= 1000000000L) {
        t.tv_nsec -= 1000000000L;
        t.tv_sec++;
    }
    return t;
}

static void *sampler_main(void *user)
{
    struct lt_memory_sampler *s = user;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        pthread_mutex_unlock(&s->lock);
        double start = thread_seconds();
        take_sample(s);
        double took = thread_seconds() - start;
        pthread_mutex_lock(&s->lock);
        struct timespec until = time_after(&s->interval, took);
        while (!s->stop && pthread_cond_timedwait(&s->wake, &s->lock, &until) == 0) {
        }
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* A condition variable that waits by the monotonic clock. */
static int init_condition(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);
    if (error)
        return error;
    error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (!error)
        error = pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
    return error;
}

enum lt_status lt_memory_sampler_create(struct lt_memory_sampler **sampler, double interval_seconds,
                                        struct lt_error *err)
{
    *sampler = NULL;
    if (!(interval_seconds > 0.0 && interval_seconds <= 86400.0))
        return lt_fail(err, LT_ERR_INVALID,
                       "the memory sampling interval must be above 0 and at most 86400 seconds");
    struct lt_memory_sampler *s = lt_alloc_zero(1, sizeof *s);
    if (!s)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while starting the memory sampler");
    double whole = floor(interval_seconds);
    s->interval.tv_sec = (time_t)whole;
    s->interval.tv_nsec = (long)((interval_seconds - whole) * 1e9);

    int error = pthread_mutex_init(&s->lock, NULL);
    if (error)
        goto fail_memory;
    error = init_condition(&s->wake);
    if (error)
        goto fail_lock;
    error = lt_thread_start(&s->thread, sampler_main, s);
    if (error)
        goto fail_condition;
    *sampler = s;
    return LT_OK;

fail_condition:
    pthread_cond_destroy(&s->wake);
fail_lock:
    pthread_mutex_destroy(&s->lock);
fail_memory:
    lt_free(s);
    return lt_fail_errno(err, error, "cannot start the memory sampler's thread");
}

uint64_t lt_memory_sampler_peak(struct lt_memory_sampler *sampler)
{
    take_sample(sampler);
    return atomic_load(&sampler->peak);
}

void lt_memory_sampler_destroy(struct lt_memory_sampler *sampler)
{
    if (!sampler)
        return;
    pthread_mutex_lock(&sampler->lock);
    sampler->stop = true;
    pthread_cond_signal(&sampler->wake);
    pthread_mutex_unlock(&sampler->lock);
    pthread_join(sampler->thread, NULL);
    pthread_cond_destroy(&sampler->wake);
    pthread_mutex_destroy(&sampler->lock);
    lt_free(sampler);
}
