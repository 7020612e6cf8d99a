/* What the GEMM providers share: the micro-kernel table and the way a weight is read as an operand.
 *
 * Arithmetic of the native and ref providers: element (m, n) is one chain of fused multiply-adds over k,
 *     s = (accumulate ? C : 0) + bias;  s = fma(a[k], w[k], s) for k = 0 … K-1
 * A chain can be cut anywhere and continued from the f32 in C, so block sizes, tiles, threads and vector
 * width never show in the result.
 *
 * With args->bf16 a, w and bias are rounded first and the end of the chain is rounded to bf16.  Micro-kernels for
 * units that multiply pairs of bf16 sum in the order of their instruction instead: fixed, but another. */
#ifndef LT_BACKENDS_CPU_GEMM_INTERNAL_H
#define LT_BACKENDS_CPU_GEMM_INTERNAL_H

#include "backends/cpu/gemm.h"

/* One micro-tile: C[rows, cols] = (load ? C : 0) + bias, then += A[rows, k] · B[k, cols]. */
struct lt_gemm_tile {
    const float *a; /* row i at a + i*lda, k contiguous; of a kernel for pairs: pairs */
    int64_t lda;
    const float *b; /* row p at b + p*ldb; readable up to cols rounded up to whole vectors */
    int64_t ldb;
    float *c;
    int64_t ldc;
    const float *next_c; /* the tile that comes next: same shape and ldc, a prefetch hint only */
    const float *bias;   /* [cols] or NULL */
    int64_t k;           /* >= 1 */
    int rows, cols;      /* 1 … mr, 1 … nr */
    bool load;
};

struct lt_gemm_kernel {
    int mr, nr; /* largest micro-tile */
    int lanes;  /* floats in a vector; nr is a multiple */
    /* An element of A and of the panels is not a float but a pair of bf16, the even k in its low half.  k, kc and k_step
     * count pairs then, and `transpose` and `panels_copy` move pairs. */
    bool pairs;
    int k_step; /* k of a tile is a multiple, filled up with zeros; divides kc */
    /* Blocks that travel with the kernel: kc · panels · nr floats of packed W are to stay in the
     * second-level cache while every row of A passes by.  kc: a multiple of 64, the usual block of scales. */
    int kc, panels;
    void (*tile)(const struct lt_gemm_tile *tile);
    /* dst[c*ldd + r] = src[r*lds + c] for r < rows, 0 for rows <= r < lanes; rows <= lanes. */
    void (*transpose)(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols);
    /* src[rows, cols] to rows k0 … k0+rows-1 of panels of nr columns and kc rows: panel j holds [kc][w]
     * with w = nr, in the last panel the remaining columns rounded up to lanes, padded with 0. */
    void (*panels_copy)(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds, int64_t rows,
                        int64_t cols);
    /* Of a kernel for pairs.  dst[i] = round(src[2i]), round(src[2i+1]) for i < (n+1)/2, an odd last one with 0; dst may
     * be src. */
    void (*pair_row)(float *dst, const float *src, int64_t n);
    /* dst[i] = round(even[i]), round(odd[i]); odd NULL: 0; dst may be even. */
    void (*pair_rows)(float *dst, const float *even, const float *odd, int64_t n);
    /* Around the tiles of a thread, or NULL. */
    void (*enter)(void);
    void (*leave)(void);
};

/* Floats from one packed panel to the next.  The gap keeps panels from starting in the same places of the
 * caches. */
enum { LT_GEMM_PANEL_GAP = 80 };

static inline int64_t lt_gemm_panel_stride(int64_t kc, int64_t nr)
{
    return kc * nr + LT_GEMM_PANEL_GAP;
}

extern const struct lt_gemm_kernel lt_gemm_kernel_ref;
extern const struct lt_gemm_kernel lt_gemm_kernel_avx2;
extern const struct lt_gemm_kernel lt_gemm_kernel_avx512;
extern const struct lt_gemm_kernel lt_gemm_kernel_avx512bf16;
extern const struct lt_gemm_kernel lt_gemm_kernel_amx;
extern const struct lt_gemm_kernel lt_gemm_kernel_neon;
extern const struct lt_gemm_kernel lt_gemm_kernel_neonbf16;

/* The micro-kernel of an instruction set: the portable one where there is no better. */
const struct lt_gemm_kernel *lt_gemm_kernel_for(enum lt_cpu_isa isa);
/* Of its bf16 products: one for pairs where there is a unit for them, else that of f32. */
const struct lt_gemm_kernel *lt_gemm_bf16_kernel_for(enum lt_cpu_isa isa);

/* The native provider with micro-kernels of the caller's choice; bf16 is f32 or one for pairs. */
enum lt_status lt_gemm_native_create_with(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                          const struct lt_gemm_kernel *f32, const struct lt_gemm_kernel *bf16,
                                          int threads, struct lt_error *err) LT_MUST_USE;

/* args->update as a product of its own. */
static inline struct lt_gemm_args lt_gemm_update_args(const struct lt_gemm_args *args)
{
    return (struct lt_gemm_args){.side = args->side,
                                 .m = args->m,
                                 .a = args->update->a,
                                 .lda = args->update->lda,
                                 .w = args->update->w,
                                 .c = args->c,
                                 .ldc = args->ldc,
                                 .accumulate = true};
}

/* op(W) of a product as a matrix [k, n], and how it lies in memory. */
struct lt_gemm_operand {
    const struct lt_weight *w;
    const float *f32; /* the elements where they need neither decoding nor rounding, else NULL */
    void (*decode)(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);
    int64_t k, n, ld; /* ld: stored elements in a stored row */
    bool k_major;     /* a stored row is one k and all n; else one n and all k */
};

static inline struct lt_gemm_operand lt_gemm_operand_view(const struct lt_gemm_args *args,
                                                          const struct lt_cpu_kernels *kernels)
{
    const struct lt_weight *w = args->w;
    bool forward = args->side == LT_GEMM_XWT;
    return (struct lt_gemm_operand){
        .w = w,
        .f32 = w->format == LT_WEIGHT_F32 && !args->bf16 ? w->data : NULL,
        .decode = kernels->decode[w->format],
        .k = forward ? w->cols : w->rows,
        .n = forward ? w->rows : w->cols,
        .ld = w->transposed ? w->rows : w->cols,
        .k_major = forward == w->transposed,
    };
}

#endif
