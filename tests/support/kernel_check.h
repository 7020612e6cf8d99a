/* What the kernel tests share: buffers with guards, inputs, comparison with a bound, timing. */
#ifndef LT_TESTS_KERNEL_CHECK_H
#define LT_TESTS_KERNEL_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/cpu/kernels.h"

/* Half the distance from 1 to the next float: the relative error of one rounding. */
#define LT_CHECK_ULP 0x1p-24

/* The rungs to test: every available ISA but ref, or the device that LT_TEST_DEVICE names.  Returns how many. */
int lt_check_isas(struct lt_cpu_kernels kernels[LT_CPU_ISA_COUNT]);

/* n floats on an odd 4-byte boundary with guard bytes on both sides, filled with a signalling pattern;
 * lt_check_release() fails the test when a guard has changed.  At most 128 at a time. */
float *lt_check_floats(int64_t n);
void lt_check_release(void);

/* Deterministic inputs. */
void lt_check_seed(uint64_t seed);
uint32_t lt_check_random(void);
double lt_check_uniform(double lo, double hi);
void lt_check_fill(float *x, int64_t n, double lo, double hi);
/* Sprinkles numbers that break careless code: +-0, subnormals, +-1e15, and with non_finite also +-infinity,
 * NaN.  About one element in 16. */
void lt_check_sprinkle(float *x, int64_t n, bool non_finite);

/* Same class (NaN, infinity of one sign, finite), and finite ones apart by at most bound[i] (0: same value).
 * Fails the test with the place otherwise. */
void lt_check_close(const char *what, enum lt_cpu_isa isa, const float *got, const float *want,
                    const double *bound, int64_t n);
/* The same bytes, except that NaNs are equal to each other. */
void lt_check_same(const char *what, enum lt_cpu_isa isa, const float *got, const float *want, int64_t n);

/* Calls run(context) for about a fifth of a second and prints `work` per call as 1e9 units a second. */
void lt_check_bench(const char *name, enum lt_cpu_isa isa, void (*run)(void *context), void *context,
                    double work, const char *unit);

#endif
