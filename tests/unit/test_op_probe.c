/* Probing a backend: every op of the vocabulary, what a backend refuses, what fails on the way. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "backends/registry.h"
#include "core/base/alloc.h"
#include "core/graph/op_probe.h"

static struct lt_backend *cpu;

static int open_cpu(void **state)
{
    const struct lt_backend_request request = {.device = "cpu", .threads = 1, .isa = "ref", .gemm = "native"};
    (void)state;
    return lt_backend_create(&cpu, &request, NULL) == LT_OK ? 0 : -1;
}

static int close_cpu(void **state)
{
    (void)state;
    lt_backend_destroy(cpu);
    return 0;
}

static bool probe(enum lt_op op, enum lt_product_kind kind, enum lt_weight_form form, bool try_it)
{
    struct lt_error err = {0};
    bool supported = false;
    if (lt_op_probe(cpu, op, kind, form, try_it, &supported, &err) != LT_OK)
        fail_msg("%s: %s", lt_op_info[op].name, err.message);
    return supported;
}

static void every_op_runs(void **state)
{
    (void)state;
    for (int op = 0; op < LT_OP_COUNT; op++)
        for (int kind = 0; kind < LT_PRODUCT_COUNT; kind++)
            for (int form = 0; form < LT_FORM_COUNT; form++) {
                if (!lt_op_variant_exists((enum lt_op)op, (enum lt_product_kind)kind,
                                          (enum lt_weight_form)form))
                    continue;
                for (int try_it = 0; try_it < 2; try_it++)
                    assert_int_equal(
                        probe((enum lt_op)op, (enum lt_product_kind)kind, (enum lt_weight_form)form, try_it),
                        kind != LT_PRODUCT_F16);
            }
}

static void the_vocabulary(void **state)
{
    (void)state;
    assert_true(lt_op_reads_weight(LT_OP_EMBED) && lt_op_reads_weight(LT_OP_CROSS_ENTROPY));
    assert_false(lt_op_reads_weight(LT_OP_LORA));
    assert_false(lt_op_variant_exists(LT_OP_ADD, LT_PRODUCT_BF16, LT_FORM_F32));
    assert_false(lt_op_variant_exists(LT_OP_LINEAR, LT_PRODUCT_INT8, LT_FORM_NF4));
    assert_false(lt_op_variant_exists(LT_OP_LINEAR_DX, LT_PRODUCT_INT8, LT_FORM_INT8));
    assert_string_equal(lt_weight_form_name(LT_FORM_NF4_DOUBLE), "nf4+double");
}

static enum lt_status refuse(struct lt_backend *be, const struct lt_compiled *c, const struct lt_run *run,
                             struct lt_error *err)
{
    (void)be;
    (void)c;
    (void)run;
    return lt_fail(err, LT_ERR_UNSUPPORTED, "not this one");
}

static enum lt_status break_down(struct lt_backend *be, const struct lt_compiled *c, const struct lt_run *run,
                                 struct lt_error *err)
{
    (void)be;
    (void)c;
    (void)run;
    return lt_fail(err, LT_ERR_DEVICE, "the device was lost");
}

/* What a backend says it supports and then refuses is "no"; any other error is one. */
static void a_backend_that_promises_too_much(void **state)
{
    const struct lt_backend_ops *real = cpu->ops;
    struct lt_backend_ops ops = *real;
    struct lt_error err = {0};
    bool supported = true;
    (void)state;
    cpu->ops = &ops;
    ops.run = refuse;
    bool says = probe(LT_OP_ADD, LT_PRODUCT_F32, LT_FORM_F32, false),
         runs = probe(LT_OP_ADD, LT_PRODUCT_F32, LT_FORM_F32, true);
    ops.run = break_down;
    enum lt_status status = lt_op_probe(cpu, LT_OP_ADD, LT_PRODUCT_F32, LT_FORM_F32, true, &supported, &err);
    cpu->ops = real;
    assert_true(says && !runs && !supported);
    assert_int_equal(status, LT_ERR_DEVICE);
    assert_string_equal(err.message, "the device was lost");
}

/* The n-th allocation fails, for every n. */
static void without_memory(void **state)
{
    (void)state;
    int n = 0;
    for (;;) {
        struct lt_error err = {0};
        bool supported;
        lt_alloc_fail_at(++n);
        enum lt_status status =
            lt_op_probe(cpu, LT_OP_LINEAR, LT_PRODUCT_INT8, LT_FORM_INT8, true, &supported, &err);
        lt_alloc_fail_at(0);
        if (status == LT_OK)
            break;
        assert_int_equal(status, LT_ERR_NOMEM);
        assert_true(strlen(err.message) > 0 && n < 1000);
    }
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_runs),
        cmocka_unit_test(the_vocabulary),
        cmocka_unit_test(a_backend_that_promises_too_much),
        cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
