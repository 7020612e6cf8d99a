/* Which micro-kernel and which provider an instruction set gets. */
#include "backends/cpu/gemm_internal.h"

#include <string.h>

#include "config.h"

const struct lt_gemm_kernel *lt_gemm_kernel_for(enum lt_cpu_isa isa)
{
#if LT_HAVE_AVX512
    if (isa == LT_CPU_AVX512 || isa == LT_CPU_AMX)
        return &lt_gemm_kernel_avx512;
#endif
#if LT_HAVE_AVX2
    if (isa == LT_CPU_AVX2 || isa == LT_CPU_AVX512 || isa == LT_CPU_AMX)
        return &lt_gemm_kernel_avx2;
#endif
    (void)isa;
    return &lt_gemm_kernel_ref;
}

typedef enum lt_status (*gemm_create_fn)(struct lt_gemm_provider **p, const struct lt_cpu_kernels *kernels, int threads,
                                         struct lt_error *err);

static const struct {
    const char *name;
    gemm_create_fn create;
} providers[] = {
    {"openblas", lt_gemm_openblas_create},
    {"native", lt_gemm_native_create},
    {"ref", lt_gemm_ref_create},
};

/* The choice, version 1 (a change of it changes bits, hence the number).
 *
 * Where there is no micro-kernel (a processor without AVX2, NEON so far) OpenBLAS has kernels for the machine and wins
 * although it multiplies padded panels. */
static const char *choice(enum lt_cpu_isa isa)
{
    bool portable = lt_gemm_kernel_for(isa) == &lt_gemm_kernel_ref;
    return LT_HAVE_OPENBLAS && portable ? "openblas" : "native";
}

enum lt_status lt_gemm_create(struct lt_gemm_provider **p, const char *request, const struct lt_cpu_kernels *kernels,
                              int threads, struct lt_error *err)
{
    *p = NULL;
    const char *name = request != NULL ? request : choice(kernels->isa);
    for (size_t i = 0; i < sizeof providers / sizeof providers[0]; i++)
        if (strcmp(name, providers[i].name) == 0)
            return providers[i].create(p, kernels, threads, err);
    return lt_fail(err, LT_ERR_INVALID, "gemm: no provider is called '%s'; LT_GEMM is openblas, native or ref", name);
}
