/* The GEMM providers side by side with cblas_sgemm. */
#ifndef LT_TESTS_SUPPORT_GEMM_BENCH_H
#define LT_TESTS_SUPPORT_GEMM_BENCH_H

/* Prints a line a shape, of those whose name contains `only` (NULL: all); the instruction set is LT_CPU's
 * or the best. Returns an exit status. */
int lt_gemm_bench(int threads, const char *only);

#endif
