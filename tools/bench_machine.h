/* What the machine can do, measured now: the yardsticks of lora-bench. */
#ifndef LT_TOOLS_BENCH_MACHINE_H
#define LT_TOOLS_BENCH_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

/* Seconds of the fastest of several calls: one to warm up, then at least one, and more until `budget`
 * seconds are spent. */
double bench_best_seconds(void (*run)(void *user), void *user, double budget);

/* C[m, n] = op(A) · op(B) of OpenBLAS itself, all f32; lda and ldb are those of the matrices as they lie. */
struct bench_sgemm {
    int64_t m, n, k;
    bool trans_a, trans_b;
    const float *a, *b;
    float *c;
    int64_t lda, ldb, ldc;
};
/* Floating-point operations a second of the fastest call, on that many of OpenBLAS's threads; 0 in a program built
 * without it. */
double bench_sgemm_rate(const struct bench_sgemm *g, int threads, double budget);
/* Once to warm up, then again and again for so many seconds: what it does on average, as a training step does. */
struct bench_sgemm_run {
    double flops, seconds; /* 0 in a program built without OpenBLAS */
};
void bench_sgemm_again(const struct bench_sgemm *g, int threads, double seconds, struct bench_sgemm_run *run);
/* Reads memory from front to back, in whole pieces of 32 KiB, and adds it up. */
struct bench_span {
    const void *data; /* aligned to 8 */
    size_t bytes;
};
uint64_t bench_read(const struct bench_span *spans, size_t count, int threads);
/* Bytes a second of the fastest of several such readings of memory far larger than the caches. */
enum lt_status bench_read_rate(int threads, double *bytes, struct lt_error *err) LT_MUST_USE;

#endif
