/* LLM.int8() kernels of every instruction set: the bits of the portable ones, on awkward sizes and values, and nothing
 * written outside. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "core/base/alloc.h"

enum { MAX_ROWS = 9, MAX_COLS = 300, GUARD = 64 };

static uint32_t state = 12345;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* ---- products ---- */

static int8_t xs[MAX_ROWS * MAX_COLS], ws[MAX_ROWS * MAX_COLS];

static void check_dot(const struct lt_cpu_kernels *k, const struct lt_cpu_kernels *ref, int64_t m, int64_t n,
                      int64_t cols)
{
    enum { LD = MAX_ROWS + 3 };
    int32_t got[MAX_ROWS * LD], want[MAX_ROWS * LD];
    memset(got, 0x5a, sizeof got);
    memset(want, 0x5a, sizeof want);
    k->int8_dot(got, LD, xs, m, ws, n, cols);
    ref->int8_dot(want, LD, xs, m, ws, n, cols);
    assert_memory_equal(got, want, sizeof got);
}

static void dots(const struct lt_cpu_kernels *k, const struct lt_cpu_kernels *ref)
{
    static const int64_t widths[] = {1, 3, 8, 31, 32, 33, 63, 64, 65, 127, 128, 200, 300};
    for (int extreme = 0; extreme < 2; extreme++) {
        for (int i = 0; i < MAX_ROWS * MAX_COLS; i++) {
            xs[i] = (int8_t)(extreme ? (draw() & 1 ? 127 : -127) : (int)(draw() % 255) - 127);
            ws[i] = (int8_t)(extreme ? (draw() & 1 ? 127 : -128) : (int)(draw() % 256) - 128);
        }
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int64_t m = 1; m <= MAX_ROWS; m++)
                for (int64_t n = 1; n <= MAX_ROWS; n++)
                    check_dot(k, ref, m, n, widths[w]);
    }
}

/* ---- activations ---- */

static void check_row(const struct lt_cpu_kernels *k, const struct lt_cpu_kernels *ref, const float *x,
                      int64_t n, float threshold, const uint8_t *skip)
{
    int8_t got[MAX_COLS + GUARD], want[MAX_COLS + GUARD];
    float a, b;
    memset(got, 0x5a, sizeof got);
    memset(want, 0x5a, sizeof want);
    assert_int_equal(k->int8_quantize(got, &a, x, n, threshold, skip),
                     ref->int8_quantize(want, &b, x, n, threshold, skip));
    assert_memory_equal(got, want, sizeof got);
    assert_memory_equal(&a, &b, sizeof a);
}

static void rows(const struct lt_cpu_kernels *k, const struct lt_cpu_kernels *ref)
{
    static const float odd[] = {NAN,    INFINITY, -INFINITY, 65504.0f, 65520.0f,
                                -1e30f, 5.999f,   5.9995f,   6.0f,     0.0f};
    float x[MAX_COLS + 1];
    uint8_t skip[MAX_COLS];
    for (int64_t n = 1; n <= MAX_COLS; n += n < 40 ? 1 : 26)
        for (int kind = 0; kind < 6; kind++) {
            for (int64_t i = 0; i <= n; i++) {
                x[i] = kind == 0 ? 0.0f : ((float)(draw() % 20001) - 10000.0f) * (kind == 1 ? 1e-9f : 7e-4f);
                if (kind >= 3 && draw() % 8 == 0)
                    x[i] = odd[draw() % (sizeof odd / sizeof *odd)];
                if (i < n)
                    skip[i] = draw() % 5 == 0;
            }
            for (int t = 0; t < 2; t++) {
                check_row(k, ref, x, n, t ? 6.0f : 0.0f, NULL);
                check_row(k, ref, x + 1, n, t ? 6.0f : 0.0f, NULL); /* unaligned */
                check_row(k, ref, x, n, t ? 6.0f : 0.0f, skip);
            }
        }
}

static void all_sets(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels ref, k;
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    for (int isa = LT_CPU_AVX2; isa < LT_CPU_ISA_COUNT; isa++) {
        if (!lt_cpu_isa_available((enum lt_cpu_isa)isa))
            continue;
        lt_cpu_kernels_init(&k, (enum lt_cpu_isa)isa);
        dots(&k, &ref);
        rows(&k, &ref);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_sets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
