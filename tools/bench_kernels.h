/* The parts of lora-bench kernels. */
#ifndef LT_TOOLS_BENCH_KERNELS_H
#define LT_TOOLS_BENCH_KERNELS_H

#include "backends/cpu/gemm.h"
#include "tools/bench_session.h"

struct bench_kernels {
    struct bench_session s;
    struct lt_cpu_kernels k;
    struct lt_gemm_provider *native, *openblas; /* openblas NULL in a program built without it */
    double budget;                              /* seconds for one measurement */
    const int64_t *row_counts;
    int row_count_count;
    int64_t seq;
};

/* Every distinct matrix of the model x formats (f32, bf16 and nf4, or that of --quant) x row counts,
 * providers side by side. */
enum lt_status bench_products(struct bench_kernels *b, struct lt_error *err) LT_MUST_USE;
/* Stored elements to f32, format by format, on all threads. */
enum lt_status bench_decoding(struct bench_kernels *b, struct lt_error *err) LT_MUST_USE;
/* One sequence with the model's heads, forward and backward. */
enum lt_status bench_attention(struct bench_kernels *b, struct lt_error *err) LT_MUST_USE;

#endif
