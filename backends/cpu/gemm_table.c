/* Which micro-kernel and which provider an instruction set gets. */
#include "backends/cpu/gemm_internal.h"

#include <string.h>

#include "config.h"

const struct lt_gemm_kernel *lt_gemm_kernel_for(enum lt_cpu_isa isa)
{
#if LT_HAVE_AVX512
    if (isa >= LT_CPU_AVX512 && isa <= LT_CPU_AMX)
        return &lt_gemm_kernel_avx512;
#endif
#if LT_HAVE_AVX2
    if (isa >= LT_CPU_AVX2 && isa <= LT_CPU_AMX)
        return &lt_gemm_kernel_avx2;
#endif
#if LT_HAVE_NEON
    if (isa == LT_CPU_NEON || isa == LT_CPU_NEONBF16)
        return &lt_gemm_kernel_neon;
#endif
    (void)isa;
    return &lt_gemm_kernel_ref;
}

const struct lt_gemm_kernel *lt_gemm_bf16_kernel_for(enum lt_cpu_isa isa)
{
#if LT_HAVE_AMX
    if (isa == LT_CPU_AMX)
        return &lt_gemm_kernel_amx;
#endif
#if LT_HAVE_AVX512BF16
    if (isa == LT_CPU_AVX512BF16)
        return &lt_gemm_kernel_avx512bf16;
#endif
#if LT_HAVE_NEONBF16
    if (isa == LT_CPU_NEONBF16)
        return &lt_gemm_kernel_neonbf16;
#endif
    return lt_gemm_kernel_for(isa);
}

typedef enum lt_status (*gemm_create_fn)(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels,
                                         int threads, struct lt_error *err);

static const struct {
    const char *name;
    gemm_create_fn create;
} providers[] = {
    {"openblas", lt_gemm_openblas_create},
    {"native", lt_gemm_native_create},
    {"ref", lt_gemm_ref_create},
};

/* The choice, version 1 (another choice gives other bits, hence the number).
 *
 * Measured with tests/check/test_gemm --bench 1 on an AMD EPYC of the Zen 4 generation against Debian's
 * OpenBLAS 0.3.21 (OPENBLAS_CORETYPE=Haswell for AVX2), m = 512: median ratio to one plain cblas_sgemm of
 * the same shape on f32 weights.  [n, k] of the product below; dW is Aᵀ·B.
 *
 *                          f32              f32              NF4              NF4         dW
 *                       2048,2048        5632,2048        2048,2048        5632,2048   2048,2048
 *                       XWT    XW        XWT    XW        XWT    XW           XWT
 *   AVX-512  native     1.13   1.05      1.09   1.01      1.13   1.03         1.08        1.04
 *            openblas   0.88   0.89      0.86   0.89      0.90   0.88         0.90        0.82
 *   AVX2     native     1.00   0.92      0.99   0.94      0.99   0.90         0.98        1.02
 *            openblas   0.99   0.91      1.01   0.90      0.96   0.90         0.96        0.86
 *
 * bf16 products on AVX512-BF16: 1.7 to 1.9 of the native f32 product of the same shape and format (lora-bench
 * kernels); elsewhere 0.85 to 0.95 of it, the price of rounding.  AMX was not at hand.
 *
 * Where there is no micro-kernel (a processor with neither AVX2 nor NEON) OpenBLAS has kernels of its own for
 * the machine and the portable micro-kernel is no match, although OpenBLAS multiplies padded panels.  NEON was not
 * measured; it takes the native provider for its bits, which are those of the other native micro-kernels. */
static const char *choice(enum lt_cpu_isa isa)
{
    bool portable = lt_gemm_kernel_for(isa) == &lt_gemm_kernel_ref;
    return LT_HAVE_OPENBLAS && portable ? "openblas" : "native";
}

enum lt_status lt_gemm_create(struct lt_gemm_provider **p, const char *request,
                              const struct lt_cpu_kernels *kernels, int threads, struct lt_error *err)
{
    *p = NULL;
    const char *name = request != NULL ? request : choice(kernels->isa);
    for (size_t i = 0; i < sizeof providers / sizeof providers[0]; i++)
        if (strcmp(name, providers[i].name) == 0)
            return providers[i].create(p, kernels, threads, err);
    return lt_fail(err, LT_ERR_INVALID,
                   "gemm: no provider is called '%s'; LT_GEMM is openblas, native or ref", name);
}
