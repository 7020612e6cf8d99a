/* Learning rates against transformers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/io/json.h"
#include "core/train/schedule.h"
#include "tests/support/fixtures.h"

static enum lt_schedule_kind kind_of(const char *name)
{
    enum lt_schedule_kind kind;
    assert_int_equal(lt_schedule_kind_parse(&kind, name, NULL), LT_OK);
    return kind;
}

/* A handful of double operations on numbers of at most the base rate, and one cosine. */
static void check_rate(const struct lt_schedule *s, int64_t t, double expected)
{
    double got = lt_schedule_lr(s, t);
    if (!(fabs(got - expected) <= 8 * 0x1p-53 * s->base_lr))
        fail_msg("%s, step %lld: %.17g in place of %.17g", lt_schedule_kind_name(s->kind), (long long)t, got,
                 expected);
}

static double kwarg(const json_t *kwargs, const char *key)
{
    return json_number_value(json_object_get(kwargs, key));
}

static void test_recorded_schedules(void **state)
{
    (void)state;
    char path[4096];
    json_t *all;
    if (!lt_fixture_path(path, sizeof path, "goldens/dataset-order/schedules.json"))
        lt_test_skip_missing("goldens/dataset-order/schedules.json");
    assert_int_equal(lt_json_load(&all, path, NULL), LT_OK);
    assert_int_equal(json_array_size(all), 12);
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *o = json_array_get(all, i), *values = json_object_get(o, "values");
        const json_t *kwargs = json_object_get(o, "kwargs");
        struct lt_schedule s = {
            .kind = kind_of(json_string_value(json_object_get(o, "type"))),
            .base_lr = kwarg(o, "lr"),
            .total_steps = json_integer_value(json_object_get(o, "total")),
            .warmup_steps = json_integer_value(json_object_get(o, "warmup")),
            .num_cycles = kwarg(kwargs, "num_cycles"),
            .power = kwarg(kwargs, "power"),
            .lr_end = kwarg(kwargs, "lr_end"),
        };
        assert_int_equal(lt_schedule_check(&s, NULL), LT_OK);
        assert_int_equal(json_array_size(values), s.total_steps + 1);
        for (size_t t = 0; t < json_array_size(values); t++)
            check_rate(&s, (int64_t)t, json_number_value(json_array_get(values, t)));
    }
    json_decref(all);
}

/* transformers' multipliers with 3 steps of warm-up, 10 in all, t = 0 … 10. */
static const struct {
    const char *name;
    double min_lr_rate;
    double values[11];
} table[] = {
    {"linear",
     0,
     {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.8571428571428571, 0.7142857142857143,
      0.5714285714285714, 0.42857142857142855, 0.2857142857142857, 0.14285714285714285, 0.0}},
    {"cosine",
     0,
     {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.9504844339512095, 0.8117449009293668,
      0.6112604669781572, 0.38873953302184283, 0.18825509907063326, 0.04951556604879048, 0.0}},
    {"cosine_with_min_lr",
     0.1,
     {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.9554359905560885, 0.8305704108364301,
      0.6501344202803414, 0.44986557971965857, 0.26942958916356996, 0.14456400944391146, 0.1}},
    {"constant_with_warmup", 0, {0.0, 1 / 3.0, 2 / 3.0, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"constant", 0, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    /* timescale = warm-up: sqrt(3 / t) */
    {"inverse_sqrt",
     0,
     {0.0, 1 / 3.0, 2 / 3.0, 1.0, 0.8660254037844387, 0.7745966692414834, 0.7071067811865476,
      0.6546536707079771, 0.6123724356957946, 0.5773502691896258, 0.5477225575051661}},
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int t = 0; t <= 10; t++)
            check_rate(&(struct lt_schedule){.kind = kind_of(table[i].name),
                                             .warmup_steps = 3,
                                             .total_steps = 10,
                                             .base_lr = 1,
                                             .min_lr_rate = table[i].min_lr_rate},
                       t, table[i].values[t]);
}

/* What the formulas say at the edges: no warm-up, nothing but warm-up, behind the end. */
static void test_edges(void **state)
{
    (void)state;
    struct lt_schedule s = {.kind = LT_SCHEDULE_LINEAR, .base_lr = 2, .total_steps = 4};
    check_rate(&s, 0, 2);
    check_rate(&s, 5, 0);
    s.warmup_steps = 4;
    check_rate(&s, 3, 1.5);
    check_rate(&s, 4, 0);
    s.kind = LT_SCHEDULE_POLYNOMIAL;
    check_rate(&s, 4, 1e-7);
    s.warmup_steps = 0;
    s.power = 2;
    s.lr_end = 0.5;
    check_rate(&s, 1, 1.5 * 0.75 * 0.75 + 0.5);
    check_rate(&s, 9, 0.5);
    s.kind = LT_SCHEDULE_INVERSE_SQRT;
    check_rate(&s, 10000, 2 / sqrt(2.0));
    s.kind = LT_SCHEDULE_COSINE_WITH_RESTARTS;
    s.num_cycles = 2;
    check_rate(&s, 1, 1);
    check_rate(&s, 2, 2);
    check_rate(&s, 4, 0);
    s.total_steps = s.warmup_steps = 0;
    s.kind = LT_SCHEDULE_COSINE;
    assert_true(isfinite(lt_schedule_lr(&s, 0)));
}

static void test_names(void **state)
{
    (void)state;
    struct lt_error err;
    enum lt_schedule_kind kind = LT_SCHEDULE_CONSTANT;
    for (int i = 0; i < LT_SCHEDULE_KIND_COUNT; i++) {
        assert_int_equal(lt_schedule_kind_parse(&kind, lt_schedule_kind_name((enum lt_schedule_kind)i), &err),
                         LT_OK);
        assert_int_equal(kind, i);
    }
    assert_int_equal(lt_schedule_kind_parse(&kind, "Linear", &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "cosine_with_restarts"));
}

static void test_check(void **state)
{
    (void)state;
    static const struct lt_schedule wrong[] = {
        {.kind = LT_SCHEDULE_LINEAR, .base_lr = -1},
        {.kind = LT_SCHEDULE_LINEAR, .base_lr = NAN},
        {.kind = LT_SCHEDULE_LINEAR, .base_lr = INFINITY},
        {.kind = LT_SCHEDULE_LINEAR, .base_lr = 1, .warmup_steps = -1},
        {.kind = LT_SCHEDULE_LINEAR, .base_lr = 1, .total_steps = -1},
        {.kind = LT_SCHEDULE_COSINE, .base_lr = 1, .num_cycles = NAN},
        {.kind = LT_SCHEDULE_POLYNOMIAL, .base_lr = 1e-7},
        {.kind = LT_SCHEDULE_POLYNOMIAL, .base_lr = 1, .lr_end = 2},
        {.kind = LT_SCHEDULE_COSINE_WITH_MIN_LR, .base_lr = 1, .min_lr_rate = 1.5},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct lt_error err = {0};
        assert_int_equal(lt_schedule_check(&wrong[i], &err), LT_ERR_INVALID);
        assert_true(err.message[0]);
    }
    assert_int_equal(lt_schedule_check(&(struct lt_schedule){.kind = LT_SCHEDULE_CONSTANT}, NULL), LT_OK);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_schedules),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
