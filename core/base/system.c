#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity, syscall */
#endif
#include "core/base/system.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "core/base/strbuf.h"

static double clock_read(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double lt_clock_seconds(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

double lt_wall_seconds(void)
{
    return clock_read(CLOCK_REALTIME);
}

bool lt_arm_has_bf16(void)
{
#if defined(__linux__) && defined(__aarch64__)
    /* Linux, Documentation/arch/arm64/elf_hwcaps.rst: HWCAP2_BF16. */
    return (getauxval(AT_HWCAP2) & (1ul << 14)) != 0;
#else
    return false;
#endif
}

bool lt_tiles_enable(void)
{
#if defined(__linux__) && defined(__x86_64__)
    /* Linux, Documentation/arch/x86/xstate.rst: state component 18 is the tile data. */
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

int lt_cpu_count(void)
{
    /* EINVAL: the kernel's set is larger than ours. */
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (!set)
            break;
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        int error = sched_getaffinity(0, size, set) == 0 ? 0 : errno;
        int count = error ? 0 : CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (count > 0)
            return count;
        if (error != EINVAL)
            break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

void lt_thread_yield(void)
{
    sched_yield();
}

/* Lock-free, hence fit for a signal handler. */
static atomic_int cancel_flag;

void lt_cancel_request(void)
{
    atomic_store(&cancel_flag, 1);
}

void lt_cancel_reset(void)
{
    atomic_store(&cancel_flag, 0);
}

bool lt_cancel_requested(void)
{
    return atomic_load_explicit(&cancel_flag, memory_order_relaxed) != 0;
}

/* Set once, before other threads log. */
static lt_log_fn log_fn;
static void *log_user;

void lt_log_set(lt_log_fn fn, void *user)
{
    log_fn = fn;
    log_user = user;
}

void lt_log(enum lt_log_level level, const char *fmt, ...)
{
    if (!log_fn)
        return;
    char message[2048];
    va_list args;
    va_start(args, fmt);
    lt_vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    log_fn(log_user, level, message);
}
