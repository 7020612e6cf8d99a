/* Matrix products of the CPU backend: C (+)= A · op(W) with W in any storage format.
 *
 * Contract of every provider: row m of C depends on row m of A, W, k, n and the ISA only: never on M,
 * the threads, tiling choices made at run time or what else is in the batch.  Products run in parallel
 * over independent outputs; sums over k have a fixed order.  No allocation: every buffer is the
 * workspace that the provider sized at creation. */
#ifndef LT_BACKENDS_CPU_GEMM_H
#define LT_BACKENDS_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/cpu/kernels.h"
#include "core/base/status.h"

enum lt_gemm_side {
    LT_GEMM_XWT, /* forward:  C[M, rows] (+)= A[M, cols] · Wᵀ, k = W.cols, n = W.rows */
    LT_GEMM_XW   /* backward: C[M, cols] (+)= A[M, rows] · W,  k = W.rows, n = W.cols */
};

/* C += A2 · op(W2) in f32 at the end of a product, while its tiles of C are at hand: the update of a LoRA adapter. */
struct lt_gemm_update {
    const float *a; /* [m, k2] */
    int64_t lda;
    const struct lt_weight *w; /* of the same side and n */
};

struct lt_gemm_args {
    enum lt_gemm_side side;
    int64_t m;
    const float *a;
    int64_t lda;
    const struct lt_weight *w; /* any format; w->transposed says how the bytes lie */
    float *c;
    int64_t ldc;
    bool accumulate; /* C += instead of C = */
    /* A, W and bias are rounded to bf16, the sum is f32, C is the sum rounded to bf16, as f32; not with accumulate. */
    bool bf16;
    const float *bias;                   /* [n] added once, or NULL */
    const struct lt_gemm_update *update; /* the bits of a second product with accumulate, or NULL */
};

/* C[M, N] (+)= Aᵀ · B for A[K, M], B[K, N], all f32: weight gradients; k runs over tokens in order, in blocks
 * whose size is fixed. */
struct lt_gemm_tn_args {
    int64_t m, n, k;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    bool accumulate;
};

struct lt_gemm_provider {
    const char *name; /* "openblas", "native", "ref" */
    void (*run)(struct lt_gemm_provider *p, const struct lt_gemm_args *args);
    void (*run_tn)(struct lt_gemm_provider *p, const struct lt_gemm_tn_args *args);
    void (*destroy)(struct lt_gemm_provider *p);
    bool bf16_unit;         /* bf16 products run on a unit of their own */
    size_t workspace_bytes; /* all threads together; a line of the memory plan */
};

/* threads: the number of OpenMP threads that run() will use. */
enum lt_status lt_gemm_openblas_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                       int threads, struct lt_error *err)
    LT_MUST_USE; /* LT_ERR_UNSUPPORTED when built without */
enum lt_status lt_gemm_native_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                     int threads, struct lt_error *err) LT_MUST_USE;
enum lt_status lt_gemm_ref_create(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                  int threads, struct lt_error *err)
    LT_MUST_USE; /* portable C, plain loops in the same k order */
/* LT_GEMM=openblas|native|ref in `request`, or NULL: the measured table's choice for this ISA. */
enum lt_status lt_gemm_create(struct lt_gemm_provider **p, const char *request,
                              const struct lt_cpu_kernels *kernels, int threads, struct lt_error *err)
    LT_MUST_USE;

#endif
