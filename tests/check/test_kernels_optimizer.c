/* 8-bit AdamW, SGD and Lion: every instruction set gives the bits of the portable kernels, and those follow their
 * formulas.  `--bench` times the same calls. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "quant/dynamic_map.h"
#include "tests/support/kernel_check.h"

enum { ZERO_CODE = 127 }; /* of the signed map */

struct problem {
    const struct lt_cpu_kernels *k;
    float *p, *m, *g, *m_absmax, *v_absmax;
    uint8_t *m_codes, *v_codes;
    int64_t n, blocks;
    struct lt_optimizer_args args;
};

/* Gradients: of ordinary size, with broken numbers among them, so small that their squares are subnormal or 0, so large
 * that a square is just finite, all 0. */
enum regime { PLAIN, BROKEN, TINY, HUGE_ONES, ZEROS, REGIMES };

/* n bytes that end at the guard. */
static uint8_t *bytes(int64_t n)
{
    int64_t floats = (n + 3) / 4;
    return (uint8_t *)lt_check_floats(floats) + (floats * 4 - n);
}

static void fill_gradients(struct problem *o, enum regime regime)
{
    static const double size[REGIMES] = {1.0, 1.0, 1e-21, 1e18, 0.0};
    for (int64_t i = 0; i < o->n; i++)
        o->g[i] =
            (float)(size[regime] * lt_check_uniform(-1.0, 1.0) * pow(10.0, lt_check_uniform(-3.0, 0.0)));
    if (regime == BROKEN)
        lt_check_sprinkle(o->g, o->n, true);
}

static struct problem make(const struct lt_cpu_kernels *k, int64_t n, enum regime regime)
{
    struct problem o = {.k = k, .n = n, .blocks = (n + LT_OPTIM_BLOCK - 1) / LT_OPTIM_BLOCK};
    o.args = (struct lt_optimizer_args){2e-4, 0.9, 0.999, 1e-8, 0.01, 0.271, 0.0547, 0.7f};
    lt_check_seed(5 + (uint64_t)regime);
    o.p = lt_check_floats(n);
    o.m = lt_check_floats(n);
    o.g = lt_check_floats(n);
    o.m_absmax = lt_check_floats(o.blocks);
    o.v_absmax = lt_check_floats(o.blocks);
    o.m_codes = bytes(n);
    o.v_codes = bytes(n);
    lt_check_fill(o.p, n, -1.0, 1.0);
    lt_check_fill(o.m, n, -1.0, 1.0);
    fill_gradients(&o, regime);
    for (int64_t i = 0; i < n; i++) {
        o.m_codes[i] = (uint8_t)lt_check_random();
        o.v_codes[i] = (uint8_t)lt_check_random();
    }
    for (int64_t b = 0; b < o.blocks; b++) { /* a fresh block, the smallest numbers, an ordinary one */
        float size = b % 3 == 0 ? 0.0f : b % 3 == 1 ? 1e-40f : 0.01f;
        o.m_absmax[b] = regime == PLAIN ? 0.01f : size;
        o.v_absmax[b] = regime == PLAIN ? 1e-4f : size * size;
    }
    return o;
}

static void run_adamw8(void *context)
{
    struct problem *o = context;
    o->k->adamw8(o->p, o->m_codes, o->m_absmax, o->v_codes, o->v_absmax, o->g, o->n, &o->args);
}

static void run_sgd(void *context)
{
    struct problem *o = context;
    o->k->sgd(o->p, o->g, o->n, &o->args);
}

static void run_lion(void *context)
{
    struct problem *o = context;
    o->k->lion(o->p, o->m, o->g, o->n, &o->args);
}

/* ---- the same bits ---- */

static void check_same(const char *what, const struct problem *got, const struct problem *want)
{
    lt_check_same(what, got->k->isa, got->p, want->p, got->n);
    lt_check_same(what, got->k->isa, got->m, want->m, got->n);
    lt_check_same(what, got->k->isa, got->m_absmax, want->m_absmax, got->blocks);
    lt_check_same(what, got->k->isa, got->v_absmax, want->v_absmax, got->blocks);
    assert_memory_equal(got->m_codes, want->m_codes, (size_t)got->n);
    assert_memory_equal(got->v_codes, want->v_codes, (size_t)got->n);
}

static void test_same_bits(void **unused)
{
    (void)unused;
    const int64_t sizes[] = {1, 7, 8, 33, 255, 256, 257, 1024, 5050};
    const struct {
        const char *name;
        void (*run)(void *context);
    } kernels[] = {{"adamw8", run_adamw8}, {"sgd", run_sgd}, {"lion", run_lion}};
    struct lt_cpu_kernels ref, isas[LT_CPU_ISA_COUNT];
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    int n = lt_check_isas(isas);
    for (size_t kernel = 0; kernel < sizeof kernels / sizeof *kernels; kernel++)
        for (int regime = 0; regime < REGIMES; regime++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                struct problem want = make(&ref, sizes[s], (enum regime)regime);
                for (int step = 0; step < 3; step++)
                    kernels[kernel].run(&want);
                for (int i = 0; i < n; i++) {
                    struct problem got = make(&isas[i], sizes[s], (enum regime)regime);
                    for (int step = 0; step < 3; step++)
                        kernels[kernel].run(&got);
                    check_same(kernels[kernel].name, &got, &want);
                }
                lt_check_release();
            }
}

/* Blocks know nothing of each other. */
static void test_blocks_apart(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels all[LT_CPU_ISA_COUNT + 1];
    lt_cpu_kernels_init(&all[0], LT_CPU_REF);
    int n = 1 + lt_check_isas(all + 1);
    for (int i = 0; i < n; i++) {
        struct problem whole = make(&all[i], 1000, BROKEN), parts = make(&all[i], 1000, BROKEN);
        run_adamw8(&whole);
        for (int64_t b = parts.blocks - 1; b >= 0; b--) {
            int64_t at = b * LT_OPTIM_BLOCK, left = parts.n - at;
            all[i].adamw8(parts.p + at, parts.m_codes + at, parts.m_absmax + b, parts.v_codes + at,
                          parts.v_absmax + b, parts.g + at, left < LT_OPTIM_BLOCK ? left : LT_OPTIM_BLOCK,
                          &parts.args);
        }
        check_same("adamw8 by blocks", &parts, &whole);
        lt_check_release();
    }
}

/* ---- the formulas ---- */

/* The moments of element i before quantization, in double. */
static void exact_moments(const struct problem *o, int64_t i, double *m, double *v)
{
    const struct lt_optimizer_args *a = &o->args;
    int64_t b = i / LT_OPTIM_BLOCK;
    double g = (double)o->g[i] * (double)a->clip;
    *m = a->beta1 * (double)lt_dynamic_map_signed[o->m_codes[i]] * (double)o->m_absmax[b] +
         (1 - a->beta1) * g;
    *v = a->beta2 * (double)lt_dynamic_map_unsigned[o->v_codes[i]] * (double)o->v_absmax[b] +
         (1 - a->beta2) * g * g;
}

/* x lies no further from the code than half the gap to the code's farther neighbour, and some roundings. */
static void check_nearest(const float map[256], uint8_t code, double x, double absmax)
{
    double below = (double)map[code] - (double)map[code > 0 ? code - 1 : 0];
    double above = (double)map[code < 255 ? code + 1 : 255] - (double)map[code];
    double gap = (below > above ? below : above) * 0.5 + 8 * LT_CHECK_ULP;
    double lowest = (double)map[0] * absmax; /* there is no code of -1 */
    assert_true(fabs((double)map[code] * absmax - x) <= gap * absmax || x < lowest);
}

static void test_formula(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels ref;
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    struct problem before = make(&ref, 1000, PLAIN), o = make(&ref, 1000, PLAIN);
    const struct lt_optimizer_args *a = &o.args;
    run_adamw8(&o);
    double m_largest = 0, v_largest = 0;
    for (int64_t i = 0; i < o.n; i++) {
        double m, v;
        exact_moments(&before, i, &m, &v);
        double move = a->lr * a->sqrt_bias_correction2 / a->bias_correction1 * m /
                      (sqrt(v) + a->sqrt_bias_correction2 * a->eps);
        double want = ((double)before.p[i] - move) * (1 - a->lr * a->weight_decay);
        double magnitude = fabs((double)before.p[i]) + fabs(move);
        /* 4 roundings of p itself, 12 of what leads to the move; m may cancel. */
        double lost = 4 * LT_CHECK_ULP * (double)before.m_absmax[i / LT_OPTIM_BLOCK] / (fabs(m) + 1e-30);
        assert_true(fabs((double)o.p[i] - want) <=
                    magnitude * 4 * LT_CHECK_ULP + fabs(move) * (12 * LT_CHECK_ULP + lost));

        int64_t b = i / LT_OPTIM_BLOCK;
        check_nearest(lt_dynamic_map_signed, o.m_codes[i], m, (double)o.m_absmax[b]);
        check_nearest(lt_dynamic_map_unsigned, o.v_codes[i], v, (double)o.v_absmax[b]);
        m_largest = fmax(i % LT_OPTIM_BLOCK == 0 ? 0 : m_largest, fabs(m));
        v_largest = fmax(i % LT_OPTIM_BLOCK == 0 ? 0 : v_largest, v);
        if (i + 1 == o.n || (i + 1) % LT_OPTIM_BLOCK == 0) {
            assert_true(fabs((double)o.m_absmax[b] - m_largest) <= 4 * LT_CHECK_ULP * m_largest);
            assert_true(fabs((double)o.v_absmax[b] - v_largest) <= 6 * LT_CHECK_ULP * v_largest);
        }
    }
    lt_check_release();
}

/* Next to a large number small ones round to the code of 0, which counts as positive: -1e-9 is kept as the smallest
 * negative code.  Zeros have no sign. */
static void test_sign_is_kept(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels all[LT_CPU_ISA_COUNT + 1];
    lt_cpu_kernels_init(&all[0], LT_CPU_REF);
    int n = 1 + lt_check_isas(all + 1);
    for (int i = 0; i < n; i++) {
        struct problem o = make(&all[i], 16, ZEROS);
        memset(o.m_codes, 0, 16);
        memset(o.v_codes, 0, 16);
        o.g[0] = 1.0f;
        o.g[1] = -1e-9f;
        o.g[2] = 1e-9f;
        o.g[3] = -1.0f;
        o.g[4] = -0.0f;
        run_adamw8(&o);
        assert_int_equal(o.m_codes[0], 255);
        assert_int_equal(o.m_codes[1], ZERO_CODE - 1);
        assert_int_equal(o.m_codes[2], ZERO_CODE);
        assert_int_equal(o.m_codes[3], 0);
        assert_int_equal(o.m_codes[4], ZERO_CODE);
        lt_check_release();
    }
}

/* A gradient that is no number, or has no square, stops nothing but its own element. */
static void test_broken_gradients(void **unused)
{
    (void)unused;
    const float broken[] = {NAN, INFINITY, -INFINITY, 1e30f};
    struct lt_cpu_kernels all[LT_CPU_ISA_COUNT + 1];
    lt_cpu_kernels_init(&all[0], LT_CPU_REF);
    int n = 1 + lt_check_isas(all + 1);
    for (int i = 0; i < n; i++) {
        struct problem before = make(&all[i], 300, PLAIN), clean = make(&all[i], 300, PLAIN),
                       o = make(&all[i], 300, PLAIN);
        for (int64_t k = 0; k < 4; k++)
            o.g[11 + 13 * k] = broken[k];
        run_adamw8(&clean);
        run_adamw8(&o);
        for (int64_t k = 0; k < o.n; k++) {
            bool hit = k >= 11 && k <= 50 && (k - 11) % 13 == 0;
            assert_true(o.p[k] == (hit ? before.p[k] : clean.p[k]));
            assert_true(isfinite(o.p[k]));
            if (hit) {
                assert_int_equal(o.m_codes[k], ZERO_CODE);
                assert_int_equal(o.v_codes[k], 0);
            }
        }
        assert_true(isfinite(o.m_absmax[0]) && isfinite(o.v_absmax[0]));
        lt_check_release();
    }
}

/* State that was never touched, without a gradient: only weight decay moves. */
static void test_zero_block(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels all[LT_CPU_ISA_COUNT + 1];
    lt_cpu_kernels_init(&all[0], LT_CPU_REF);
    int n = 1 + lt_check_isas(all + 1);
    for (int i = 0; i < n; i++) {
        struct problem before = make(&all[i], 256, ZEROS), o = make(&all[i], 256, ZEROS);
        memset(o.m_codes, 0, 256);
        memset(o.v_codes, 0, 256);
        run_adamw8(&o);
        const float keep = (float)(1.0 - o.args.lr * o.args.weight_decay);
        for (int64_t k = 0; k < o.n; k++) {
            assert_true(o.p[k] == before.p[k] * keep);
            assert_int_equal(o.m_codes[k], ZERO_CODE);
            assert_int_equal(o.v_codes[k], 0);
        }
        assert_true(o.m_absmax[0] == 0.0f && o.v_absmax[0] == 0.0f);
        lt_check_release();
    }
}

static void test_sgd_and_lion(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels ref;
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    struct problem before = make(&ref, 300, PLAIN), sgd = make(&ref, 300, PLAIN),
                   lion = make(&ref, 300, PLAIN);
    const struct lt_optimizer_args *a = &sgd.args;
    before.m[3] = lion.m[3] = before.g[3] = lion.g[3] = 0.0f; /* no direction: no move */
    before.m[4] = lion.m[4] = 1.0f;                           /* the old direction outweighs the gradient */
    before.g[4] = lion.g[4] = -1.0f;
    run_sgd(&sgd);
    run_lion(&lion);
    for (int64_t i = 0; i < before.n; i++) {
        double p = (double)before.p[i], g = (double)(sgd.g[i] * a->clip), m = (double)before.m[i];
        double want = p - a->lr * (g + a->weight_decay * p);
        assert_true(fabs((double)sgd.p[i] - want) <= 4 * LT_CHECK_ULP * (fabs(p) + fabs(g)));
        g = (double)(lion.g[i] * a->clip);
        double direction = a->beta1 * m + (1 - a->beta1) * g;
        want = p * (1 - a->lr * a->weight_decay) - a->lr * (direction > 0 ? 1 : direction < 0 ? -1 : 0);
        assert_true(fabs((double)lion.p[i] - want) <= 4 * LT_CHECK_ULP * (fabs(p) + a->lr));
        assert_true(fabs((double)lion.m[i] - (a->beta2 * m + (1 - a->beta2) * g)) <=
                    4 * LT_CHECK_ULP * (fabs(m) + fabs(g)));
    }
    lt_check_release();
}

/* ---- speed ---- */

static void bench_isa(const struct lt_cpu_kernels *k)
{
    const double n = 1 << 20;
    struct problem o = make(k, 1 << 20, PLAIN);
    lt_check_bench("adamw8", k->isa, run_adamw8, &o, n, "Gelements/s");
    lt_check_bench("sgd", k->isa, run_sgd, &o, 12.0 * n, "GB/s");
    lt_check_bench("lion", k->isa, run_lion, &o, 20.0 * n, "GB/s");
    lt_check_release();
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
        lt_cpu_kernels_init(&isas[0], LT_CPU_REF);
        int n = 1 + lt_check_isas(isas + 1);
        for (int i = 0; i < n; i++)
            bench_isa(&isas[i]);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),        cmocka_unit_test(test_blocks_apart),
        cmocka_unit_test(test_formula),          cmocka_unit_test(test_sign_is_kept),
        cmocka_unit_test(test_broken_gradients), cmocka_unit_test(test_zero_block),
        cmocka_unit_test(test_sgd_and_lion),
    };
    return cmocka_run_group_tests_name("optimizer kernels", tests, NULL, NULL);
}
