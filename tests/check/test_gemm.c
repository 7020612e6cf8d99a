/* GEMM providers: values against a product in double precision, and the laws of the contract bit for bit.
 *
 * Tolerance.  A sum of k products in any order, fused or not, has an error of at most
 * gamma(k + 2) * (|c| + |bias| + sum |a w|) with gamma(n) = n u / (1 - n u), u = 2^-24 (Higham, "Accuracy and
 * Stability of Numerical Algorithms", 3.1); 2 are for the additions of C and the bias.  A bf16 product is exact in f32;
 * its rounded factors are taken as given, and the result is rounded once more, by 2^-8 of its size at most.  Units for
 * bf16 take subnormal numbers as 0: 2^-126 an addition.
 *
 * `test_gemm --bench [threads [name]]` measures instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/gemm.h"
#include "core/base/system.h"
#include "core/tensor/dtype.h"
#include "tests/support/device_kernels.h"
#include "tests/support/device_op.h"
#include "tests/support/fixtures.h"
#include "tests/support/gemm_amx_emulation.h"
#include "tests/support/gemm_bench.h"
#include "tests/support/random_weight.h"

#include "config.h"

/* ---- material ---------------------------------------------------------------------------------------- */

/* A matrix with guard values around it and between its rows. */
enum { GUARD = 24 };
static const uint32_t guard_bits = 0x7fdeadbe;

struct guarded {
    float *base, *x;
    int64_t rows, cols, ld;
};

static struct guarded make_guarded(int64_t rows, int64_t cols, int64_t gap)
{
    struct guarded g = {.rows = rows, .cols = cols, .ld = cols + gap};
    size_t n = (size_t)(rows * g.ld) + 2 * GUARD;
    g.base = lt_must_alloc(n, sizeof(float));
    g.x = g.base + GUARD;
    for (size_t i = 0; i < n; i++)
        memcpy(g.base + i, &guard_bits, sizeof guard_bits);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            g.x[i * g.ld + j] = lt_random_uniform();
    return g;
}

static void assert_guards(const struct guarded *g)
{
    for (int64_t i = -GUARD; i < g->rows * g->ld + GUARD; i++) {
        if (i >= 0 && i < g->rows * g->ld && i % g->ld < g->cols)
            continue;
        assert_memory_equal(g->x + i, &guard_bits, sizeof guard_bits);
    }
}

static void copy_into(struct guarded *dst, const struct guarded *src)
{
    for (int64_t i = 0; i < src->rows; i++)
        memcpy(dst->x + i * dst->ld, src->x + i * src->ld, (size_t)src->cols * sizeof(float));
}

static bool rows_equal(const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i++)
        if (memcmp(a + i * lda, b + i * ldb, (size_t)cols * sizeof(float)) != 0)
            return false;
    return true;
}

/* ---- what there is to test --------------------------------------------------------------------------- */

struct subject {
    const char *provider;
    enum lt_cpu_isa isa;
    bool amx_emulated; /* bf16 products by the AMX kernel on registers of plain memory */
};

static const struct subject all_subjects[] = {
    {"ref", LT_CPU_REF, false},     {"native", LT_CPU_REF, false},
#if defined(__aarch64__)
    {"native", LT_CPU_NEON, false}, {"native", LT_CPU_NEONBF16, false}, {"openblas", LT_CPU_NEON, false},
#else
    {"native", LT_CPU_AVX2, false}, {"native", LT_CPU_AVX512, false}, {"native", LT_CPU_AVX512BF16, false},
    {"native", LT_CPU_AMX, false},  {"native", LT_CPU_REF, true},     {"openblas", LT_CPU_AVX512, false},
#endif
    {"device", LT_CPU_REF, false},
};
enum { ALL_SUBJECTS = sizeof all_subjects / sizeof all_subjects[0] };

static bool is_device(const struct subject *s)
{
    return strcmp(s->provider, "device") == 0;
}

static struct lt_gemm_provider *make_provider(const struct subject *s, int threads)
{
    static struct lt_cpu_kernels kernels[LT_CPU_ISA_COUNT];
    bool device = is_device(s); /* alone, when LT_TEST_DEVICE names one */
    if (device != (device_open() != NULL))
        return NULL;
    if (device)
        return lt_device_gemm_create();
    if (!LT_HAVE_OPENBLAS && strcmp(s->provider, "openblas") == 0)
        return NULL;
    enum lt_cpu_isa isa = s->isa;
    if (!lt_cpu_isa_available(isa)) {
        if (strcmp(s->provider, "native") == 0)
            return NULL;
        isa = LT_CPU_REF;
    }
    lt_cpu_kernels_init(&kernels[isa], isa);
    struct lt_gemm_provider *p;
    struct lt_error err;
    enum lt_status status = s->amx_emulated
                                ? lt_gemm_native_create_with(&p, &kernels[isa], lt_gemm_kernel_for(isa),
                                                             &lt_gemm_kernel_amx_emulated, threads, &err)
                                : lt_gemm_create(&p, s->provider, &kernels[isa], threads, &err);
    if (status != LT_OK)
        print_error("%s\n", err.message);
    assert_int_equal(status, LT_OK);
    assert_string_equal(p->name, s->provider);
    return p;
}

static const char *subject_name(const struct subject *s)
{
    static char name[64];
    snprintf(name, sizeof name, "%s/%s", s->provider,
             s->amx_emulated ? "amx emulated" : lt_cpu_isa_name(s->isa));
    return name;
}

/* ---- values ------------------------------------------------------------------------------------------ */

/* A factor as it is multiplied. */
static double factor(float x, bool bf16)
{
    return (double)(bf16 ? lt_bf16_to_f32(lt_f32_to_bf16(x)) : x);
}

/* The element and its error bound in double. */
static double exact(const float *a, int64_t step_a, const float *b, int64_t step_b, int64_t k, bool bf16,
                    double start, double *bound)
{
    double sum = start, magnitude = fabs(start), u = 0x1p-24;
    for (int64_t i = 0; i < k; i++) {
        double product = factor(a[i * step_a], bf16) * factor(b[i * step_b], bf16);
        sum += product;
        magnitude += fabs(product);
    }
    double n = (double)k + 2.0;
    *bound = n * u / (1.0 - n * u) * magnitude;
    if (bf16)
        *bound += 0x1p-8 * (fabs(sum) + *bound) + n * 0x1p-126;
    return sum;
}

static void check_product(struct lt_gemm_provider *p, const struct lt_random_weight *w,
                          enum lt_gemm_side side, int64_t m, bool accumulate, bool with_bias, bool bf16)
{
    bool forward = side == LT_GEMM_XWT;
    int64_t k = forward ? w->w.cols : w->w.rows, n = forward ? w->w.rows : w->w.cols, cols = w->w.cols;
    struct guarded a = make_guarded(m, k, 3), c = make_guarded(m, n, 5), before = make_guarded(m, n, 0);
    copy_into(&before, &c);
    float *bias = lt_random_uniforms(n);
    p->run(p, &(struct lt_gemm_args){.side = side,
                                     .m = m,
                                     .a = a.x,
                                     .lda = a.ld,
                                     .w = &w->w,
                                     .c = c.x,
                                     .ldc = c.ld,
                                     .accumulate = accumulate,
                                     .bf16 = bf16,
                                     .bias = with_bias ? bias : NULL});
    assert_guards(&a);
    assert_guards(&c);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double start = (accumulate ? (double)before.x[i * n + j] : 0.0) +
                           (with_bias ? factor(bias[j], bf16) : 0.0);
            double bound, want = exact(a.x + i * a.ld, 1, forward ? w->logical + j * cols : w->logical + j,
                                       forward ? 1 : cols, k, bf16, start, &bound);
            if (accumulate && with_bias) /* the two may cancel in `start` */
                bound += 0x1p-23 * (fabs((double)before.x[i * n + j]) + fabs((double)bias[j]));
            double got = (double)c.x[i * c.ld + j];
            if (!(fabs(got - want) <= bound)) {
                print_error("%s %s %s%s transposed %d m %lld n %lld k %lld at (%lld, %lld): %.9g, not %.9g\n",
                            p->name, lt_weight_format_name(w->w.format), forward ? "XWT" : "XW",
                            bf16 ? " bf16" : "", w->w.transposed, (long long)m, (long long)n, (long long)k,
                            (long long)i, (long long)j, got, want);
                fail();
            }
        }
    free(bias);
    free(a.base);
    free(c.base);
    free(before.base);
}

static const int64_t value_shapes[][3] = {/* m, rows, cols */
                                          {1, 1, 1},     {2, 33, 1},    {1, 257, 65},  {3, 16, 385},
                                          {9, 49, 33},   {5, 64, 128},  {33, 257, 17}, {8, 48, 800},
                                          {17, 95, 400}, {65, 130, 257}};

static void test_values(void **state)
{
    const struct subject *s = *state;
    struct lt_gemm_provider *p = make_provider(s, 2);
    if (p == NULL)
        skip();
    for (size_t i = 0; i < sizeof value_shapes / sizeof value_shapes[0]; i++)
        for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++)
            for (int layout = 0; layout < LT_LAYOUT_COUNT; layout++) {
                if (!lt_random_weight_exists((enum lt_weight_format)format, (enum lt_random_layout)layout))
                    continue;
                const int64_t *shape = value_shapes[i];
                struct lt_random_weight w = lt_random_weight_make(
                    (enum lt_weight_format)format, (enum lt_random_layout)layout, shape[1], shape[2]);
                unsigned variant = (unsigned)(format + layout) + (unsigned)i;
                check_product(p, &w, LT_GEMM_XWT, shape[0], variant & 1, variant & 2, false);
                check_product(p, &w, LT_GEMM_XW, shape[0], variant & 2, variant & 1, false);
                check_product(p, &w, LT_GEMM_XWT, shape[0], false, variant & 1, true);
                /* A device's op with W has no bias; its adapter adds one behind the rounding. */
                check_product(p, &w, LT_GEMM_XW, shape[0], false, (variant & 2) && !is_device(s), true);
                lt_random_weight_free(&w);
            }
    p->destroy(p);
}

static const int64_t tn_shapes[][3] = {/* m, n, k */
                                       {1, 1, 1},      {16, 260, 70}, {260, 16, 70}, {33, 17, 513},
                                       {257, 130, 33}, {8, 48, 1},    {1, 100, 400}, {100, 1, 400},
                                       {64, 64, 1000}, {3, 530, 20}};

static void test_tn_values(void **state)
{
    struct lt_gemm_provider *p = make_provider(*state, 2);
    if (p == NULL)
        skip();
    for (size_t s = 0; s < 2 * sizeof tn_shapes / sizeof tn_shapes[0]; s++) {
        const int64_t m = tn_shapes[s / 2][0], n = tn_shapes[s / 2][1], k = tn_shapes[s / 2][2];
        const bool accumulate = s % 2 != 0;
        struct guarded a = make_guarded(k, m, 1), b = make_guarded(k, n, 7), c = make_guarded(m, n, 3);
        struct guarded before = make_guarded(m, n, 0);
        copy_into(&before, &c);
        p->run_tn(p, &(struct lt_gemm_tn_args){.m = m,
                                               .n = n,
                                               .k = k,
                                               .a = a.x,
                                               .lda = a.ld,
                                               .b = b.x,
                                               .ldb = b.ld,
                                               .c = c.x,
                                               .ldc = c.ld,
                                               .accumulate = accumulate});
        assert_guards(&a);
        assert_guards(&b);
        assert_guards(&c);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double bound, want = exact(a.x + i, a.ld, b.x + j, b.ld, k, false,
                                           accumulate ? (double)before.x[i * n + j] : 0.0, &bound);
                assert_true(fabs((double)c.x[i * c.ld + j] - want) <= bound);
            }
        free(a.base);
        free(b.base);
        free(c.base);
        free(before.base);
    }
    p->destroy(p);
}

/* ---- bits -------------------------------------------------------------------------------------------- */

static void run_rows(struct lt_gemm_provider *p, enum lt_gemm_side side, const struct lt_weight *w,
                     const float *a, int64_t lda, float *c, int64_t ldc, int64_t m, const float *bias,
                     bool bf16)
{
    p->run(p, &(struct lt_gemm_args){.side = side,
                                     .m = m,
                                     .a = a,
                                     .lda = lda,
                                     .w = w,
                                     .c = c,
                                     .ldc = ldc,
                                     .bf16 = bf16,
                                     .bias = bias});
}

/* Rows alone, in other company, at other places and by other numbers of threads have the same bits. */
static void check_invariance(const struct subject *s, enum lt_weight_format format,
                             enum lt_random_layout layout, int64_t rows, int64_t cols, bool bf16)
{
    enum { M = 512 };
    static const int64_t counts[] = {1, 2, 5, 64, 511, 512}, starts[] = {0, 1, 3, 130, 440, 507, 511};
    struct lt_random_weight w = lt_random_weight_make(format, layout, rows, cols);
    for (int side = LT_GEMM_XWT; side <= LT_GEMM_XW; side++) {
        int64_t k = side == LT_GEMM_XWT ? cols : rows, n = side == LT_GEMM_XWT ? rows : cols;
        float *a = lt_random_uniforms(M * k), *bias = lt_random_uniforms(n), *all = lt_random_uniforms(M * n),
              *some = lt_random_uniforms(M * n);
        struct lt_gemm_provider *p = make_provider(s, 1);
        run_rows(p, (enum lt_gemm_side)side, &w.w, a, k, all, n, M, bias, bf16);
        p->destroy(p);
        for (int threads = 1; threads <= (is_device(s) ? 1 : 3); threads++) { /* a device has none */
            p = make_provider(s, threads);
            for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
                for (size_t j = 0; j < sizeof starts / sizeof starts[0]; j++) {
                    if (starts[j] + counts[i] > M || (counts[i] > 64 && starts[j] > 1))
                        continue;
                    run_rows(p, (enum lt_gemm_side)side, &w.w, a + starts[j] * k, k, some, n, counts[i], bias,
                             bf16);
                    if (!rows_equal(some, n, all + starts[j] * n, n, counts[i], n)) {
                        print_error("%s: %lld rows from %lld, side %d, %d threads: other bits\n",
                                    subject_name(s), (long long)counts[i], (long long)starts[j], side,
                                    threads);
                        fail();
                    }
                }
            p->destroy(p);
        }
        free(a);
        free(bias);
        free(all);
        free(some);
    }
    lt_random_weight_free(&w);
}

static void test_invariance(void **state)
{
    const struct subject *s = *state;
    struct lt_gemm_provider *p = make_provider(s, 1);
    if (p == NULL)
        skip();
    p->destroy(p);
    /* fmaf may be a library call. */
    bool slow = strcmp(s->provider, "ref") == 0 || s->isa == LT_CPU_REF || lt_test_emulated();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        check_invariance(s, LT_WEIGHT_NF4, LT_LAYOUT_NESTED, slow ? 50 : 330, slow ? 70 : 450, bf16);
        if (slow)
            continue;
        check_invariance(s, LT_WEIGHT_F32, LT_LAYOUT_PLAIN, 560, 800, bf16);
        check_invariance(s, LT_WEIGHT_BF16, LT_LAYOUT_TRANSPOSED, 100, 420, bf16);
        check_invariance(s, LT_WEIGHT_F32, LT_LAYOUT_PLAIN, 16, 700, bf16);
    }
}

static void test_tn_invariance(void **state)
{
    static const int64_t shapes[][3] = {{16, 700, 450}, {700, 16, 450}, {300, 270, 100}};
    struct lt_gemm_provider *first = make_provider(*state, 1);
    if (first == NULL)
        skip();
    first->destroy(first);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        float *a = lt_random_uniforms(k * m), *b = lt_random_uniforms(k * n), *c[3];
        for (int threads = 1; threads <= 3; threads++) {
            struct lt_gemm_provider *p = make_provider(*state, threads);
            c[threads - 1] = lt_random_uniforms(m * n);
            p->run_tn(p, &(struct lt_gemm_tn_args){.m = m,
                                                   .n = n,
                                                   .k = k,
                                                   .a = a,
                                                   .lda = m,
                                                   .b = b,
                                                   .ldb = n,
                                                   .c = c[threads - 1],
                                                   .ldc = n});
            p->destroy(p);
            assert_memory_equal(c[threads - 1], c[0], (size_t)(m * n) * sizeof(float));
        }
        for (int j = 0; j < 3; j++)
            free(c[j]);
        free(a);
        free(b);
    }
}

/* Does it compute the plain chain?  OpenBLAS does not, nor do units for bf16. */
static bool has_chain(const struct subject *s, bool bf16)
{
    bool unit = s->amx_emulated || s->isa == LT_CPU_AVX512BF16 || s->isa == LT_CPU_AMX ||
                s->isa == LT_CPU_NEONBF16;
    return strcmp(s->provider, "openblas") != 0 && !(bf16 && unit);
}

/* The native provider computes the same chain on every instruction set, and so does ref. */
static void check_same_bits(int number, int64_t m, const struct lt_weight *w, enum lt_gemm_side side,
                            bool bf16)
{
    int64_t k = side == LT_GEMM_XWT ? w->cols : w->rows, n = side == LT_GEMM_XWT ? w->rows : w->cols;
    size_t size = (size_t)(m * n) * sizeof(float);
    float *a = lt_random_uniforms(m * k), *bias = lt_random_uniforms(n), *c0 = lt_random_uniforms(m * n),
          *want = NULL;
    for (size_t s = 0; s < ALL_SUBJECTS; s++) {
        struct lt_gemm_provider *p = has_chain(&all_subjects[s], bf16) ? make_provider(&all_subjects[s], 2)
                                                                       : NULL;
        if (p == NULL)
            continue;
        float *got = lt_must_alloc((size_t)(m * n), sizeof *got);
        memcpy(got, c0, size);
        p->run(p, &(struct lt_gemm_args){.side = side,
                                         .m = m,
                                         .a = a,
                                         .lda = k,
                                         .w = w,
                                         .c = got,
                                         .ldc = n,
                                         .accumulate = number % 2 == 0 && !bf16,
                                         .bf16 = bf16,
                                         .bias = number % 3 == 0 ? bias : NULL});
        p->destroy(p);
        if (want == NULL) {
            want = got;
            continue;
        }
        if (memcmp(want, got, size) != 0)
            print_error("%s, case %d side %d bf16 %d\n", subject_name(&all_subjects[s]), number, side, bf16);
        assert_memory_equal(want, got, size);
        free(got);
    }
    free(want);
    free(a);
    free(bias);
    free(c0);
}

static void test_same_bits(void **state)
{
    (void)state;
    static const struct {
        int64_t m, rows, cols;
        enum lt_weight_format format;
        enum lt_random_layout layout;
    } cases[] = {
        {1, 100, 300, LT_WEIGHT_NF4, LT_LAYOUT_NESTED},     {9, 65, 513, LT_WEIGHT_INT8, LT_LAYOUT_PLAIN},
        {50, 33, 129, LT_WEIGHT_F16, LT_LAYOUT_TRANSPOSED}, {23, 16, 900, LT_WEIGHT_F32, LT_LAYOUT_PLAIN},
        {40, 130, 16, LT_WEIGHT_F32, LT_LAYOUT_TRANSPOSED}, {6, 257, 257, LT_WEIGHT_FP4, LT_LAYOUT_PLAIN},
        {70, 90, 530, LT_WEIGHT_BF16, LT_LAYOUT_PLAIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lt_random_weight w =
            lt_random_weight_make(cases[i].format, cases[i].layout, cases[i].rows, cases[i].cols);
        for (int side = LT_GEMM_XWT; side <= LT_GEMM_XW; side++)
            for (int bf16 = 0; bf16 < 2; bf16++)
                check_same_bits((int)i, cases[i].m, &w.w, (enum lt_gemm_side)side, bf16);
        lt_random_weight_free(&w);
    }
}

static void test_same_bits_tn(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{16, 130, 70}, {130, 16, 500}, {50, 49, 33}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        float *a = lt_random_uniforms(k * m), *b = lt_random_uniforms(k * n), *c0 = lt_random_uniforms(m * n),
              *want = NULL;
        for (size_t s = 0; s < ALL_SUBJECTS; s++) {
            struct lt_gemm_provider *p =
                has_chain(&all_subjects[s], false) ? make_provider(&all_subjects[s], 2) : NULL;
            if (p == NULL)
                continue;
            float *got = lt_must_alloc((size_t)(m * n), sizeof *got);
            memcpy(got, c0, (size_t)(m * n) * sizeof *got);
            p->run_tn(p, &(struct lt_gemm_tn_args){.m = m,
                                                   .n = n,
                                                   .k = k,
                                                   .a = a,
                                                   .lda = m,
                                                   .b = b,
                                                   .ldb = n,
                                                   .c = got,
                                                   .ldc = n,
                                                   .accumulate = true});
            p->destroy(p);
            if (want == NULL)
                want = got;
            else {
                assert_memory_equal(want, got, (size_t)(m * n) * sizeof *got);
                free(got);
            }
        }
        free(want);
        free(a);
        free(b);
        free(c0);
    }
}

/* ---- values that are no numbers ---------------------------------------------------------------------- */

/* A NaN or infinity reaches exactly the elements it has a part in, a zero on the other side
 * notwithstanding. */
static void test_nan(void **state)
{
    enum { M = 11, N = 70, K = 50 };
    struct lt_gemm_provider *p = make_provider(*state, 2);
    if (p == NULL)
        skip();
    for (int i = 0; i < 8; i++) {
        const bool in_weight = i % 4 < 2, bf16 = i >= 4;
        struct lt_random_weight w = lt_random_weight_make(LT_WEIGHT_F32, LT_LAYOUT_PLAIN, N, K);
        float *a = lt_random_uniforms(M * K), *c = lt_random_uniforms(M * N), *wx = w.data;
        float bad = i % 2 == 0 ? NAN : INFINITY;
        for (int j = 0; j < M; j++)
            a[j * K + 7] = 0.0F;
        for (int j = 0; j < N; j++)
            wx[j * K + 9] = 0.0F;
        if (in_weight)
            wx[69 * K + 7] = bad; /* column 69, times zeros */
        else
            a[10 * K + 9] = bad; /* row 10, times zeros */
        run_rows(p, LT_GEMM_XWT, &w.w, a, K, c, N, M, NULL, bf16);
        for (int r = 0; r < M; r++)
            for (int n = 0; n < N; n++)
                assert_int_equal(isnan(c[r * N + n]) != 0, in_weight ? n == 69 : r == 10);
        free(a);
        free(c);
        lt_random_weight_free(&w);
    }
    p->destroy(p);
}

/* ---- creation ---------------------------------------------------------------------------------------- */

static void test_create(void **state)
{
    (void)state;
    struct lt_cpu_kernels kernels;
    struct lt_gemm_provider *p;
    struct lt_error err;
    lt_cpu_kernels_init(&kernels, LT_CPU_REF);
    assert_int_equal(lt_gemm_create(&p, "mkl", &kernels, 1, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "mkl"));
    assert_null(p);
    assert_int_equal(lt_gemm_create(&p, "native", &kernels, 0, &err), LT_ERR_INVALID);
    assert_int_equal(lt_gemm_create(&p, "ref", &kernels, 0, &err), LT_ERR_INVALID);
    assert_int_equal(lt_gemm_openblas_create(&p, &kernels, 0, &err),
                     LT_HAVE_OPENBLAS ? LT_ERR_INVALID : LT_ERR_UNSUPPORTED);
    for (int isa = LT_CPU_REF; isa <= LT_CPU_AMX; isa++) {
        if (!lt_cpu_isa_available((enum lt_cpu_isa)isa))
            continue;
        lt_cpu_kernels_init(&kernels, (enum lt_cpu_isa)isa);
        assert_int_equal(lt_gemm_create(&p, NULL, &kernels, 1, &err), LT_OK);
        size_t one = p->workspace_bytes;
        p->destroy(p);
        assert_int_equal(lt_gemm_create(&p, NULL, &kernels, 3, &err), LT_OK);
        assert_int_equal(p->workspace_bytes, 3 * one);
        assert_true(one <= 4u << 20);
        p->destroy(p);
    }
}

/* ---- main -------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return lt_gemm_bench(argc > 2 ? atoi(argv[2]) : lt_cpu_count(), argc > 3 ? argv[3] : NULL);

    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } per_subject[] = {{"values", test_values},
                       {"tn values", test_tn_values},
                       {"invariance", test_invariance},
                       {"tn invariance", test_tn_invariance},
                       {"nan", test_nan}};
    enum { PER_SUBJECT = sizeof per_subject / sizeof per_subject[0] };
    static char names[ALL_SUBJECTS * PER_SUBJECT][96];
    struct CMUnitTest tests[ALL_SUBJECTS * PER_SUBJECT + 3] = {
        cmocka_unit_test(test_create), cmocka_unit_test(test_same_bits), cmocka_unit_test(test_same_bits_tn)};
    for (size_t s = 0; s < ALL_SUBJECTS; s++)
        for (size_t i = 0; i < PER_SUBJECT; i++) {
            size_t at = s * PER_SUBJECT + i;
            snprintf(names[at], sizeof names[at], "%s %s", subject_name(&all_subjects[s]),
                     per_subject[i].name);
            tests[at + 3] = (struct CMUnitTest){.name = names[at],
                                                .test_func = per_subject[i].function,
                                                .initial_state = (void *)(uintptr_t)&all_subjects[s]};
        }
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
