/* A product with an update (struct lt_gemm_update) has the bits of the product and another one that adds to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/support/gemm_amx_emulation.h"
#include "tests/support/random_weight.h"

#include "config.h"

static void check_update(struct lt_gemm_provider *p, enum lt_gemm_side side, bool bf16, int64_t rank)
{
    enum { M = 130, ROWS = 330, COLS = 705 };
    const bool forward = side == LT_GEMM_XWT;
    const int64_t k = forward ? COLS : ROWS, n = forward ? ROWS : COLS;
    struct lt_random_weight w = lt_random_weight_make(LT_WEIGHT_NF4, LT_LAYOUT_NESTED, ROWS, COLS);
    struct lt_random_weight w2 =
        lt_random_weight_make(LT_WEIGHT_F32, LT_LAYOUT_PLAIN, forward ? ROWS : rank, forward ? rank : COLS);
    float *a = lt_random_uniforms(M * k), *a2 = lt_random_uniforms(M * rank), *bias = lt_random_uniforms(n);
    float *want = lt_random_uniforms(M * n), *got = lt_random_uniforms(M * n);
    memcpy(got, want, sizeof(float) * (size_t)(M * n));
    const struct lt_gemm_update update = {.a = a2, .lda = rank, .w = &w2.w};
    struct lt_gemm_args args = {.side = side,
                                .m = M,
                                .a = a,
                                .lda = k,
                                .w = &w.w,
                                .c = want,
                                .ldc = n,
                                .accumulate = !bf16,
                                .bf16 = bf16,
                                .bias = bias,
                                .update = &update};
    const struct lt_gemm_args second = lt_gemm_update_args(&args);
    args.update = NULL;
    p->run(p, &args);
    p->run(p, &second);
    args.c = got;
    args.update = &update;
    p->run(p, &args);
    assert_memory_equal(got, want, sizeof(float) * (size_t)(M * n));
    lt_random_weight_free(&w);
    lt_random_weight_free(&w2);
    free(a);
    free(a2);
    free(bias);
    free(want);
    free(got);
}

/* Ranks up to 64 are packed beside the product's own panels, larger ones are a second product. */
static void check_provider(enum lt_status created, struct lt_gemm_provider *const *made)
{
    static const int64_t ranks[] = {1, 4, 16, 64, 65};
    assert_int_equal(created, LT_OK);
    struct lt_gemm_provider *p = *made;
    for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            check_update(p, LT_GEMM_XWT, bf16, ranks[i]);
            check_update(p, LT_GEMM_XW, bf16, ranks[i]);
        }
    p->destroy(p);
}

static void test_native(void **state)
{
    (void)state;
    struct lt_cpu_kernels kernels;
    struct lt_gemm_provider *p;
    struct lt_error err;
    for (int isa = LT_CPU_REF; isa <= LT_CPU_NEON; isa++) {
        if (!lt_cpu_isa_available((enum lt_cpu_isa)isa)) {
            print_message("SKIP: this processor has no %s\n", lt_cpu_isa_name((enum lt_cpu_isa)isa));
            continue;
        }
        lt_cpu_kernels_init(&kernels, (enum lt_cpu_isa)isa);
        check_provider(lt_gemm_native_create(&p, &kernels, 2, &err), &p);
    }
    lt_cpu_kernels_init(&kernels, LT_CPU_REF);
    check_provider(
        lt_gemm_native_create_with(&p, &kernels, &lt_gemm_kernel_ref, &lt_gemm_kernel_amx_emulated, 2, &err),
        &p);
}

static void test_others(void **state)
{
    (void)state;
    struct lt_cpu_kernels kernels;
    struct lt_gemm_provider *p;
    struct lt_error err;
    lt_cpu_kernels_init(&kernels, LT_CPU_REF);
    check_provider(lt_gemm_ref_create(&p, &kernels, 2, &err), &p);
    if (LT_HAVE_OPENBLAS)
        check_provider(lt_gemm_openblas_create(&p, &kernels, 2, &err), &p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_native), cmocka_unit_test(test_others)};
    return cmocka_run_group_tests_name("gemm update", tests, NULL, NULL);
}
