/* LLM.int8() against bitsandbytes: weights are in test_quant_golden; here activations, accumulators, outputs and what
 * training computes, with the kernels of every instruction set; the op and training on the device that LT_TEST_DEVICE
 * names. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "backends/cpu/cpu_ops.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "quant/int8.h"
#include "tests/support/device_kernels.h"
#include "tests/support/device_op.h"
#include "tests/support/fixtures.h"

enum { ROWS = 24, OUT = 96, IN = 128 };

static struct lt_safetensors st;
static float x[ROWS * IN];
static struct lt_weight weight;

static const void *bytes_of(const char *name, size_t bytes)
{
    const struct lt_st_tensor *t = lt_safetensors_find(&st, name);
    assert_non_null(t);
    assert_int_equal(t->bytes, bytes);
    return lt_safetensors_data(&st, t);
}

static void read_floats(float *dst, const char *name, size_t n)
{
    const struct lt_st_tensor *t = lt_safetensors_find(&st, name);
    assert_non_null(t);
    assert_int_equal(t->elements, n);
    assert_int_equal(lt_safetensors_read_f32(&st, t, dst, NULL), LT_OK);
}

static void open_golden(void)
{
    char path[1024];
    struct lt_error err = {0};
    if (!lt_fixture_path(path, sizeof path, "goldens/int8/int8.safetensors"))
        lt_test_skip_missing("goldens/int8/int8.safetensors");
    if (!st.tensors && lt_safetensors_open(&st, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    read_floats(x, "x", ROWS * IN);
    weight = (struct lt_weight){.format = LT_WEIGHT_INT8,
                                .rows = OUT,
                                .cols = IN,
                                .data = bytes_of("weight_codes", OUT * IN),
                                .absmax = bytes_of("weight_scale", OUT * sizeof(float))};
}

/* Relative to the largest output. */
static void close_to(const float *got, const char *name, double limit)
{
    static float want[ROWS * OUT];
    double largest = 0, worst = 0;
    read_floats(want, name, ROWS * OUT);
    for (size_t i = 0; i < ROWS * OUT; i++) {
        largest = fmax(largest, fabs((double)want[i]));
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
    }
    if (!(worst <= limit * largest))
        fail_msg("%s: %g of %g", name, worst, largest);
}

/* threshold: of the golden; its outlier columns are those of the whole batch. */
static void check_forward(const struct lt_cpu_kernels *k, const char *prefix, float threshold)
{
    static int8_t codes[ROWS * IN];
    static int32_t acc[ROWS * OUT];
    static float scale[ROWS], y[ROWS * OUT], dequantized[OUT * IN];
    char name[64];
    uint8_t skip[IN] = {0};
    if (threshold > 0) {
        const int64_t *columns = bytes_of("t6.outlier_columns", 3 * sizeof *columns);
        for (int i = 0; i < 3; i++)
            skip[columns[i]] = 1;
        for (int i = 0; i < ROWS * IN; i++)
            assert_true(!lt_int8_is_outlier(x[i], threshold) || skip[i % IN]);
    }
    for (int r = 0; r < ROWS; r++)
        k->int8_quantize(codes + r * IN, &scale[r], x + r * IN, IN, threshold, threshold > 0 ? skip : NULL);
    lt_snprintf(name, sizeof name, "%s.x_codes", prefix);
    assert_memory_equal(codes, bytes_of(name, sizeof codes), sizeof codes);
    lt_snprintf(name, sizeof name, "%s.x_scale", prefix);
    assert_memory_equal(scale, bytes_of(name, sizeof scale), sizeof scale);
    k->int8_dot(acc, OUT, codes, ROWS, weight.data, OUT, IN);
    lt_snprintf(name, sizeof name, "%s.accumulator", prefix);
    assert_memory_equal(acc, bytes_of(name, sizeof acc), sizeof acc);
    lt_int8_dequantize(dequantized, &weight, 0, OUT * IN);
    for (int i = 0; i < ROWS * OUT; i++) {
        y[i] = (float)acc[i] * (scale[i / OUT] * weight.absmax[i % OUT]) * (1.0f / 16129.0f);
        for (int c = 0; c < IN; c++)
            if (skip[c])
                y[i] += x[i / OUT * IN + c] * dequantized[i % OUT * IN + c];
    }
    lt_snprintf(name, sizeof name, "%s.y_f32", prefix);
    close_to(y, name, 2e-5);
    lt_snprintf(name, sizeof name, "%s.y_f16", prefix);
    close_to(y, name, 2e-3);
}

static void forward(void **state)
{
    (void)state;
    open_golden();
    for (int isa = LT_CPU_REF; isa < LT_CPU_ISA_COUNT; isa++) {
        struct lt_cpu_kernels k;
        if (!lt_cpu_isa_available((enum lt_cpu_isa)isa))
            continue;
        lt_cpu_kernels_init(&k, (enum lt_cpu_isa)isa);
        check_forward(&k, "t0", 0);
        check_forward(&k, "t6", 6);
    }
}

/* ---- the op ---- */

static enum lt_cpu_isa tested(void)
{
    return device_open() ? (enum lt_cpu_isa)LT_CHECK_DEVICE : LT_CPU_REF;
}

static void run_on_device(const float *in, int rows, float threshold, const float *bias, float *y)
{
    struct device_op o = {.op = LT_OP_LINEAR,
                          .attr = {.int8 = true, .int8_threshold = threshold},
                          .params = {.n_tokens = rows, .n_labels = 1}};
    o.in[0] = device_f32(in, rows, IN);
    o.in[1] = device_weight(&weight);
    if (bias)
        o.in[2] = device_fixed(bias, 1, OUT);
    o.out[0] = device_f32(y, rows, OUT);
    device_run(&o);
}

static void run_op(enum lt_cpu_isa isa, const float *in, int rows, float threshold, const float *bias,
                   float *y)
{
    static unsigned char workspace[64 << 10];
    if ((int)isa == LT_CHECK_DEVICE) {
        run_on_device(in, rows, threshold, bias, y);
        return;
    }
    struct lt_cpu cpu = {.threads = 2};
    struct lt_node node = {.op = LT_OP_LINEAR, .attr = {.int8 = true, .int8_threshold = threshold}};
    lt_cpu_kernels_init(&cpu.k, isa);
    assert_true(lt_cpu_linear_int8_workspace(rows, IN) <= sizeof workspace);
    struct lt_cpu_call c = {.cpu = &cpu, .node = &node, .workspace = workspace};
    c.in[0] = (void *)(uintptr_t)in;
    c.in[2] = (void *)(uintptr_t)bias;
    c.out[0] = y;
    c.weight[1] = &weight;
    c.in_rows[0] = c.out_rows[0] = rows;
    c.in_cols[0] = IN;
    c.out_cols[0] = OUT;
    lt_cpu_op_linear(&c);
}

static void op_without_outliers(void **state)
{
    (void)state;
    static float y[ROWS * OUT], shifted[ROWS * OUT], bias[OUT];
    open_golden();
    for (int i = 0; i < OUT; i++)
        bias[i] = (float)(i - 40);
    run_op(tested(), x, ROWS, 0, NULL, y);
    close_to(y, "t0.y_f32", 2e-5);
    run_op(tested(), x, ROWS, 0, bias, shifted);
    for (int i = 0; i < ROWS * OUT; i++)
        assert_true(shifted[i] == y[i] + bias[i % OUT]);
}

/* The engine's rule: a row's own outliers, whatever else is in the batch. */
static void op_by_row(void **state)
{
    (void)state;
    static float y[ROWS * OUT], alone[OUT], other[ROWS * OUT];
    int8_t codes[IN];
    float scale;
    int rows_with_outliers = 0;
    open_golden();
    run_op(tested(), x, ROWS, 6, NULL, y);
    for (int r = 0; r < ROWS; r++) {
        int64_t outliers = lt_int8_quantize_row(codes, &scale, x + r * IN, IN, 6, NULL);
        rows_with_outliers += outliers > 0;
        for (int j = 0; j < OUT; j++) {
            double want = 0, size = 0;
            const int8_t *w = (const int8_t *)weight.data + j * IN;
            for (int c = 0; c < IN; c++) {
                bool out = lt_int8_is_outlier(x[r * IN + c], 6);
                double a = out ? (double)x[r * IN + c] : codes[c] * (double)scale / 127;
                want += a * w[c] * (double)weight.absmax[j] / 127;
                size += fabs(a * w[c] * (double)weight.absmax[j] / 127);
            }
            assert_true(fabs((double)y[r * OUT + j] - want) <= 16 * 0x1p-24 * size);
        }
        run_op(tested(), x + r * IN, 1, 6, NULL, alone);
        assert_memory_equal(alone, y + r * OUT, sizeof alone);
    }
    assert_true(rows_with_outliers > 2);
    for (int isa = LT_CPU_REF; isa < LT_CPU_ISA_COUNT; isa++) {
        if (!lt_cpu_isa_available((enum lt_cpu_isa)isa))
            continue;
        run_op((enum lt_cpu_isa)isa, x, ROWS, 6, NULL, other);
        assert_memory_equal(other, y, sizeof y);
    }
}

/* ---- training: the decoded weight ---- */

static void training(void **state)
{
    (void)state;
    static float y[ROWS * OUT], dy[ROWS * OUT], dx[ROWS * IN], want[ROWS * IN];
    open_golden();
    read_floats(dy, "train.dy", ROWS * OUT);
    read_floats(want, "train.dx", ROWS * IN);
    struct lt_cpu_kernels k;
    struct lt_gemm_provider *p = device_open() ? lt_device_gemm_create() : NULL;
    enum lt_cpu_isa isa;
    assert_true(lt_cpu_isa_detect(&isa, NULL));
    lt_cpu_kernels_init(&k, isa);
    if (!p)
        assert_int_equal(lt_gemm_native_create(&p, &k, 1, NULL), LT_OK);
    struct lt_gemm_args forward_args = {
        .side = LT_GEMM_XWT, .m = ROWS, .a = x, .lda = IN, .w = &weight, .c = y, .ldc = OUT};
    struct lt_gemm_args backward_args = {
        .side = LT_GEMM_XW, .m = ROWS, .a = dy, .lda = OUT, .w = &weight, .c = dx, .ldc = IN};
    p->run(p, &forward_args);
    p->run(p, &backward_args);
    p->destroy(p);
    close_to(y, "train.y_f32", 1e-6);
    double largest = 0;
    for (int i = 0; i < ROWS * IN; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int i = 0; i < ROWS * IN; i++)
        assert_true(fabs((double)dx[i] - (double)want[i]) <= 1e-6 * largest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward),
        cmocka_unit_test(op_without_outliers),
        cmocka_unit_test(op_by_row),
        cmocka_unit_test(training),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_safetensors_close(&st);
    return failed;
}
