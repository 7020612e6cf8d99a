#include "tests/support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/system.h"
#include "tests/support/device_kernels.h"
#include "tests/support/device_op.h"

enum { GUARD = 64, SKEW = 4, MAX_BUFFERS = 128 };

static struct {
    unsigned char *block;
    size_t bytes; /* of the floats */
} buffers[MAX_BUFFERS];
static int buffer_count;
static uint64_t state = 1;

int lt_check_isas(struct lt_cpu_kernels kernels[LT_CPU_ISA_COUNT])
{
    int n = 0;
    if (device_open()) {
        lt_device_kernels_init(&kernels[0]);
        return 1;
    }
    for (int isa = LT_CPU_REF + 1; isa < LT_CPU_ISA_COUNT; isa++)
        if (lt_cpu_isa_available((enum lt_cpu_isa)isa))
            lt_cpu_kernels_init(&kernels[n++], (enum lt_cpu_isa)isa);
    return n;
}

float *lt_check_floats(int64_t n)
{
    assert_true(buffer_count < MAX_BUFFERS);
    size_t bytes = (size_t)n * sizeof(float);
    unsigned char *block = lt_alloc(bytes + 2 * GUARD + SKEW);
    assert_non_null(block);
    memset(block, 0xa5, GUARD + SKEW);
    memset(block + GUARD + SKEW, 0xff, bytes); /* NaN: a forgotten element shows */
    memset(block + GUARD + SKEW + bytes, 0xa5, GUARD);
    buffers[buffer_count].block = block;
    buffers[buffer_count++].bytes = bytes;
    return (float *)(void *)(block + GUARD + SKEW);
}

void lt_check_release(void)
{
    while (buffer_count > 0) {
        buffer_count--;
        unsigned char *before = buffers[buffer_count].block;
        unsigned char *after = before + GUARD + SKEW + buffers[buffer_count].bytes;
        bool whole = true;
        for (int i = 0; i < GUARD; i++)
            whole = whole && before[SKEW + i] == 0xa5 && after[i] == 0xa5;
        lt_free(before);
        assert_true(whole);
    }
}

void lt_check_seed(uint64_t seed)
{
    state = seed * 0x9E3779B97F4A7C15u + 1;
}

/* The high half of a 64-bit linear congruential generator (Knuth's MMIX constants). */
uint32_t lt_check_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

double lt_check_uniform(double lo, double hi)
{
    return lo + (hi - lo) * (double)lt_check_random() * 0x1p-32;
}

void lt_check_fill(float *x, int64_t n, double lo, double hi)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)lt_check_uniform(lo, hi);
}

void lt_check_sprinkle(float *x, int64_t n, bool non_finite)
{
    const float special[] = {0.0f,   -0.0f,     1e-40f,   -1e-45f,   1e15f,
                             -1e15f, 0x1p-126f, INFINITY, -INFINITY, NAN};
    uint32_t count = non_finite ? 10 : 7;
    for (int64_t i = 0; i < n; i++)
        if (lt_check_random() % 16 == 0)
            x[i] = special[lt_check_random() % count];
}

static const char *name_of(enum lt_cpu_isa isa)
{
    return (int)isa == LT_CHECK_DEVICE ? "device" : lt_cpu_isa_name(isa);
}

static bool same_class(float a, float b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) && isnan(b);
    return isinf(a) || isinf(b) ? a == b : true;
}

void lt_check_close(const char *what, enum lt_cpu_isa isa, const float *got, const float *want,
                    const double *bound, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)want[i]);
        bool finite = isfinite(got[i]) && isfinite(want[i]);
        if (!same_class(got[i], want[i]) || (finite && !(error <= bound[i])))
            fail_msg("%s, %s: element %lld of %lld is %.9g, not %.9g; off by %.3g, allowed %.3g", what,
                     name_of(isa), (long long)i, (long long)n, (double)got[i], (double)want[i], error,
                     bound[i]);
    }
}

void lt_check_same(const char *what, enum lt_cpu_isa isa, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, sizeof *got) != 0 && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s, %s: element %lld of %lld is %a, not %a", what, name_of(isa), (long long)i,
                     (long long)n, (double)got[i], (double)want[i]);
}

void lt_check_bench(const char *name, enum lt_cpu_isa isa, void (*run)(void *context), void *context,
                    double work, const char *unit)
{
    double best = INFINITY, spent = 0.0;
    while (spent < 0.2) {
        double start = lt_clock_seconds();
        run(context);
        double took = lt_clock_seconds() - start;
        spent += took + 1e-9;
        best = took < best ? took : best;
    }
    printf("%-28s %-7s %9.2f %s\n", name, name_of(isa), work / best * 1e-9, unit);
}
