/* Cross entropy, optimizer and weight decoding kernels against the portable kernels, and the choice of the
 * instruction set.  `--bench` times the same calls. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/tensor/dtype.h"
#include "quant/dynamic_map.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "tests/support/device_kernels.h"
#include "tests/support/kernel_check.h"

/* ---- cross entropy ---- */

struct entropy {
    const struct lt_cpu_kernels *k;
    float *row, *work;
    int64_t vocab, label;
    float softcap, loss;
    bool grad;
    int32_t argmax;
};

static void run_entropy(void *context)
{
    struct entropy *e = context;
    memcpy(e->work, e->row, (size_t)e->vocab * sizeof *e->row);
    e->k->cross_entropy_row(e->work, e->vocab, e->label, e->softcap, e->grad, 0.25f, &e->loss, &e->argmax);
}

static double capped(const struct entropy *e, int64_t i)
{
    double z = (double)e->row[i], cap = (double)e->softcap;
    return cap != 0.0 ? cap * tanh(z / cap) : z;
}

/* Error of lse in roundings: each weight errs by its argument's rounding and a few of its own, and blocks of
 * f32 lanes add less than 16 (64 additions in a lane, their errors as a random walk of twice that width);
 * a soft cap errs by 4. */
static double lse_roundings(const struct entropy *e, double max, double lse)
{
    double sum = 16.0 + 4.0 * (double)e->softcap;
    for (int64_t i = 0; i < e->vocab; i++)
        sum += exp(capped(e, i) - lse) * fmin(max - capped(e, i), 1e3);
    return sum;
}

static void compare_entropy(const struct entropy *got, const struct entropy *want)
{
    const struct entropy *e = got;
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < e->vocab; i++)
        max = fmax(max, capped(e, i));
    for (int64_t i = 0; i < e->vocab; i++)
        sum += exp(capped(e, i) - max);
    double lse = max + log(sum), roundings = lse_roundings(e, max, lse);
    double loss_bound = LT_CHECK_ULP * (roundings + fabs(lse - capped(e, e->label)));
    lt_check_close("loss", e->k->isa, &got->loss, &want->loss, &loss_bound, 1);
    if (e->softcap == 0.0f)
        assert_int_equal(got->argmax, want->argmax);
    else /* saturated logits tie or not by a rounding */
        assert_true(max - capped(e, got->argmax) <= LT_CHECK_ULP * 8.0 * (double)e->softcap);
    if (!e->grad) {
        lt_check_same("logits", e->k->isa, got->work, e->row, e->vocab);
        return;
    }
    double *bound = lt_alloc_array((size_t)e->vocab, sizeof *bound);
    assert_non_null(bound);
    for (int64_t i = 0; i < e->vocab; i++) {
        double p = exp(capped(e, i) - lse);
        /* the label's share is p - 1; the slope of the cap, at most 1, errs by 8 */
        double size = p * (roundings + 8.0 + fmin(max - capped(e, i), 1e3)) + (i == e->label ? 8.0 : 0.0);
        bound[i] = 0.25 * (LT_CHECK_ULP * (size + (e->softcap != 0.0f ? 8.0 * p : 0.0)) + 0x1p-125);
    }
    lt_check_close("loss gradient", e->k->isa, got->work, want->work, bound, e->vocab);
    lt_free(bound);
}

static void check_entropy(struct entropy e)
{
    struct lt_cpu_kernels ref, isas[LT_CPU_ISA_COUNT];
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    int n = lt_check_isas(isas);
    struct entropy want = e;
    want.k = &ref;
    want.work = lt_check_floats(e.vocab);
    run_entropy(&want);
    for (int i = 0; i < n; i++) {
        float loss = NAN;
        for (int place = 0; place < 2; place++) {
            struct entropy got = e;
            got.k = &isas[i];
            got.work = lt_check_floats(e.vocab + place) + place;
            run_entropy(&got);
            compare_entropy(&got, &want);
            if (place > 0)
                lt_check_same("loss elsewhere", isas[i].isa, &got.loss, &loss, 1);
            loss = got.loss;
            got.grad = false;
            run_entropy(&got);
            lt_check_same("loss without gradient", isas[i].isa, &got.loss, &loss, 1);
        }
    }
}

static void test_cross_entropy(void **unused)
{
    (void)unused;
    const int64_t sizes[] = {1, 7, 33, 257, 1024, 5000, 128256};
    lt_check_seed(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int kind = 0; kind < 6; kind++) {
            struct entropy e = {.vocab = sizes[s], .label = lt_check_random() % sizes[s], .grad = true};
            e.row = lt_check_floats(e.vocab);
            lt_check_fill(e.row, e.vocab, kind == 1 ? -200.0 : -10.0, kind == 1 ? 200.0 : 10.0);
            e.softcap = kind >= 4 ? 6.0f : 0.0f;
            if (kind == 2) /* the label is nearly certain */
                e.row[e.label] = 40.0f;
            if (kind == 3) { /* a tie, and a first block of -infinity as in a masked vocabulary */
                for (int64_t i = 0; i < e.vocab / 2; i++)
                    e.row[i] = i == e.label ? 1.0f : -INFINITY;
                e.row[e.vocab - 1] = e.row[e.vocab / 2] = 11.0f;
            }
            e.grad = kind != 5;
            check_entropy(e);
            lt_check_release();
        }
    }
}

static void test_cross_entropy_broken(void **unused)
{
    (void)unused;
    struct lt_cpu_kernels isas[LT_CPU_ISA_COUNT + 1];
    int n = lt_check_isas(isas);
    lt_cpu_kernels_init(&isas[n++], LT_CPU_REF);
    enum { VOCAB = 2100 };
    const float broken[] = {NAN, INFINITY};
    for (int i = 0; i < n; i++) {
        for (int kind = 0; kind < 4; kind++) {
            struct entropy e = {.k = &isas[i], .vocab = VOCAB, .label = 5, .softcap = kind & 2 ? 9.0f : 0.0f};
            e.row = lt_check_floats(VOCAB);
            e.work = lt_check_floats(VOCAB);
            lt_check_fill(e.row, VOCAB, -1.0, 1.0);
            e.row[1033] = broken[kind & 1];
            e.grad = true;
            run_entropy(&e);
            bool finite = kind == 3; /* a cap tames infinity */
            assert_int_equal(!isfinite(e.loss), !finite);
            assert_int_equal(!isfinite(e.work[3]), !finite);
            assert_true(e.argmax >= 0 && e.argmax < VOCAB);
        }
        lt_check_release();
    }
}

/* ---- optimizer ---- */

struct optimizer {
    const struct lt_cpu_kernels *k;
    float *p, *m, *v, *g;
    int64_t n;
    struct lt_optimizer_args args;
};

static void run_adamw(void *context)
{
    struct optimizer *o = context;
    o->k->adamw(o->p, o->m, o->v, o->g, o->n, &o->args);
}

static volatile double sink;

static void run_sum_squares(void *context)
{
    struct optimizer *o = context;
    sink = o->k->sum_squares(o->g, o->n);
}

static struct optimizer make_optimizer(const struct lt_cpu_kernels *k, int64_t n)
{
    struct optimizer o = {.k = k, .n = n};
    o.args = (struct lt_optimizer_args){2e-4, 0.9, 0.999, 1e-8, 0.01, 0.271, 0.0547, 0.7f};
    float **arrays[] = {&o.p, &o.m, &o.v, &o.g};
    lt_check_seed(11);
    for (int i = 0; i < 4; i++) {
        *arrays[i] = lt_check_floats(n);
        lt_check_fill(*arrays[i], n, i == 2 ? 0.0 : -1.0, 1.0);
    }
    if (n > 4) /* a parameter that never had a gradient */
        o.m[2] = o.v[2] = o.g[2] = 0.0f;
    return o;
}

/* A device's division may err by 2.5 units in the last place, its root by 5. */
static void check_adamw(const struct optimizer *got, const struct optimizer *want,
                        const struct optimizer *before)
{
    enum { MOST = 10007 };
    static double bound[MOST];
    bool exact = (int)got->k->isa != LT_CHECK_DEVICE;
    for (int64_t i = 0; i < got->n && !exact; i++) {
        double p = (double)want->p[i], old = (double)before->p[i];
        double move = fabs(p - old) + fabs(old) * got->args.lr * got->args.weight_decay;
        bound[i] = LT_CHECK_ULP * (2.0 * fabs(p) + 20.0 * move);
    }
    lt_check_close("adamw p", got->k->isa, got->p, want->p, bound, got->n);
    lt_check_same("adamw m", got->k->isa, got->m, want->m, got->n);
    lt_check_same("adamw v", got->k->isa, got->v, want->v, got->n);
}

static void test_optimizer(void **unused)
{
    (void)unused;
    const int64_t sizes[] = {1, 7, 33, 257, 4096, 10007};
    struct lt_cpu_kernels ref, isas[LT_CPU_ISA_COUNT];
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    int n = lt_check_isas(isas);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct optimizer want = make_optimizer(&ref, sizes[s]), before = make_optimizer(&ref, sizes[s]);
        double want_sum = ref.sum_squares(want.g, want.n);
        run_adamw(&want);
        for (int i = 0; i < n; i++) {
            struct optimizer got = make_optimizer(&isas[i], sizes[s]);
            /* at most n / 16 additions in a lane; of a device this is the square of its f32 norm, whose root may err
             * by 3 roundings more */
            double bound = want_sum * 0x1p-53 * (16.0 + (double)sizes[s] / 16.0);
            if ((int)isas[i].isa == LT_CHECK_DEVICE)
                bound = want_sum * LT_CHECK_ULP * (1.0 + 2.0 * 4.0);
            assert_true(fabs(isas[i].sum_squares(got.g, got.n) - want_sum) <= bound);
            run_adamw(&got);
            check_adamw(&got, &want, &before);
        }
        lt_check_release();
    }
}

/* ---- decoding ---- */

enum { WEIGHT_ROWS = 5, WEIGHT_COLS = 1003, WEIGHTS = WEIGHT_ROWS * WEIGHT_COLS };

struct stored {
    struct lt_weight w;
    uint16_t half[65536];
    uint8_t packed[WEIGHTS / 2 + 1], absmax_codes[WEIGHTS];
    int8_t int8[WEIGHTS];
    float plain[WEIGHTS], absmax[WEIGHTS], nested_absmax[WEIGHTS];
};

static void store(struct stored *s, enum lt_weight_format format, int32_t blocksize, bool nested)
{
    struct lt_weight *w = &s->w;
    *w = (struct lt_weight){.format = format, .rows = WEIGHT_ROWS, .cols = WEIGHT_COLS, .data = s->plain};
    lt_check_seed(23);
    lt_check_fill(s->plain, WEIGHTS, -0.7, 0.7);
    if (format == LT_WEIGHT_F16 || format == LT_WEIGHT_BF16) {
        for (uint32_t i = 0; i < 65536; i++) /* every value there is */
            s->half[i] = (uint16_t)i;
        w->rows = 64;
        w->cols = 1024;
        w->data = s->half;
    } else if (format == LT_WEIGHT_INT8) {
        lt_int8_quantize(s->int8, s->absmax, s->plain, WEIGHT_ROWS, WEIGHT_COLS);
        w->data = s->int8;
        w->absmax = s->absmax;
    } else if (format != LT_WEIGHT_F32) {
        (format == LT_WEIGHT_NF4 ? lt_nf4_quantize : lt_fp4_quantize)(s->packed, s->absmax, s->plain, WEIGHTS,
                                                                      blocksize);
        w->data = s->packed;
        w->blocksize = blocksize;
        w->code = format == LT_WEIGHT_NF4 ? lt_nf4_code : lt_fp4_code;
        w->absmax = s->absmax;
        if (nested) {
            w->absmax = NULL;
            w->absmax_codes = s->absmax_codes;
            w->nested_absmax = s->nested_absmax;
            w->nested_code = lt_dynamic_map_signed;
            lt_double_quantize(s->absmax_codes, s->nested_absmax, &w->nested_offset, s->absmax,
                               lt_quant_blocks(WEIGHTS, blocksize));
        }
    }
}

static void check_decode(const struct stored *s, int64_t begin, int64_t n)
{
    struct lt_cpu_kernels ref, isas[LT_CPU_ISA_COUNT];
    lt_cpu_kernels_init(&ref, LT_CPU_REF);
    int count = lt_check_isas(isas);
    float *want = lt_check_floats(n);
    ref.decode[s->w.format](want, &s->w, begin, n);
    for (int i = 0; i < count; i++) {
        float *got = lt_check_floats(n);
        isas[i].decode[s->w.format](got, &s->w, begin, n);
        lt_check_same(lt_weight_format_name(s->w.format), isas[i].isa, got, want, n);
    }
    lt_check_release();
}

static void test_decode(void **unused)
{
    (void)unused;
    static struct stored s;
    const int32_t blocksizes[] = {32, 64, 128, 4096};
    for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++) {
        for (int kind = 0; kind < 8; kind++) {
            if (kind > 0 && format != LT_WEIGHT_NF4 && format != LT_WEIGHT_FP4)
                continue;
            store(&s, (enum lt_weight_format)format, blocksizes[kind / 2], kind % 2 != 0);
            int64_t all = s.w.rows * s.w.cols;
            check_decode(&s, 0, all);
            const int64_t starts[] = {0, 1, 2, 63, 64, 65, 130, 1002, 1003, 4090};
            const int64_t lengths[] = {0, 1, 2, 7, 16, 33, 64, 257, 900};
            for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
                for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++)
                    check_decode(&s, starts[i], lt_min_i64(lengths[j], all - starts[i]));
        }
    }
}

/* ---- choice of the instruction set ---- */

static void test_isa(void **unused)
{
    (void)unused;
    const char *const names[] = {"ref", "avx2", "avx512", "avx512bf16", "amx", "neon", "neonbf16"};
    enum lt_cpu_isa best, isa;
    assert_true(lt_cpu_isa_detect(&best, NULL));
    assert_true(lt_cpu_isa_available(best));
    for (int i = 0; i < LT_CPU_ISA_COUNT; i++) {
        assert_string_equal(lt_cpu_isa_name((enum lt_cpu_isa)i), names[i]);
        assert_int_equal(lt_cpu_isa_detect(&isa, names[i]), lt_cpu_isa_available((enum lt_cpu_isa)i));
    }
    assert_false(lt_cpu_isa_detect(&isa, "sse2"));
    assert_false(lt_cpu_isa_detect(&isa, ""));
    assert_true(lt_cpu_isa_detect(&isa, "ref"));
    assert_int_equal(isa, LT_CPU_REF);
    /* Every rung leaves a whole table; products of one row are for some formats only, attention in bf16 for units. */
    for (int i = 0; i < LT_CPU_ISA_COUNT; i++) {
        if (!lt_cpu_isa_available((enum lt_cpu_isa)i))
            continue;
        struct lt_cpu_kernels k;
        lt_cpu_kernels_init(&k, (enum lt_cpu_isa)i);
        assert_int_equal(k.isa, i);
        unsigned char bytes[sizeof k - offsetof(struct lt_cpu_kernels, rmsnorm_fwd)];
        memcpy(bytes, &k.rmsnorm_fwd, sizeof bytes);
        for (size_t at = 0; at < sizeof bytes; at += sizeof(void *)) {
            void *entry;
            memcpy(&entry, bytes + at, sizeof entry);
            const size_t place = offsetof(struct lt_cpu_kernels, rmsnorm_fwd) + at;
            const bool optional = (place >= offsetof(struct lt_cpu_kernels, gemv) &&
                                   place < offsetof(struct lt_cpu_kernels, gemv_quantize)) ||
                                  place == offsetof(struct lt_cpu_kernels, attention_fwd_bf16) ||
                                  place == offsetof(struct lt_cpu_kernels, attention_bwd_bf16);
            assert_true(entry != NULL || optional);
        }
    }
}

/* ---- speed ---- */

struct timed_decode {
    const struct lt_cpu_kernels *k;
    const struct stored *s;
    float *to;
};

static void run_decode(void *context)
{
    struct timed_decode *t = context;
    t->k->decode[t->s->w.format](t->to, &t->s->w, 0, 4096);
}

static void bench_isa(const struct lt_cpu_kernels *k)
{
    static struct stored s;
    struct entropy e = {.k = k, .vocab = 128256, .label = 7, .grad = true};
    e.row = lt_check_floats(e.vocab);
    e.work = lt_check_floats(e.vocab);
    lt_check_fill(e.row, e.vocab, -10.0, 10.0);
    lt_check_bench("cross_entropy_row", k->isa, run_entropy, &e, 128256.0, "Glogits/s");
    e.softcap = 30.0f;
    lt_check_bench("cross_entropy_row capped", k->isa, run_entropy, &e, 128256.0, "Glogits/s");
    struct optimizer o = make_optimizer(k, 1 << 20);
    lt_check_bench("adamw", k->isa, run_adamw, &o, 28.0 * (1 << 20), "GB/s");
    lt_check_bench("sum_squares", k->isa, run_sum_squares, &o, 4.0 * (1 << 20), "GB/s");
    for (int format = 0; format < LT_WEIGHT_FORMAT_COUNT; format++) {
        store(&s, (enum lt_weight_format)format, 64, true);
        struct timed_decode d = {k, &s, lt_check_floats(4096)};
        char name[64] = "decode ";
        strcat(name, lt_weight_format_name((enum lt_weight_format)format));
        lt_check_bench(name, k->isa, run_decode, &d, 4096.0, "Gelements/s");
    }
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
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_cross_entropy_broken),
        cmocka_unit_test(test_optimizer),     cmocka_unit_test(test_decode),
        cmocka_unit_test(test_isa),
    };
    return cmocka_run_group_tests_name("data kernels", tests, NULL, NULL);
}
