/* What is chosen for a memory limit, from plans made up here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "tools/train_memory.h"

#define GIB (UINT64_C(1) << 30)

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"4096", 4096},      {"8G", 8 * GIB}, {"8GiB", 8 * GIB},  {"8gb", 8 * GIB}, {"1.5G", 3 * GIB / 2},
        {"800M", 800 << 20}, {"64k", 65536},  {"2T", 2048 * GIB}, {".5G", GIB / 2}, {"100B", 100},
    };
    static const char *const bad[] = {
        "",  "G",   "8X",  "8GG",   "-1",        "1e9G",
        "0", "8 G", "nan", "8Gib2", "99999999T", "0.0000000000000000000000000000000000000001"};
    struct lt_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t bytes = 0;
        assert_int_equal(train_memory_size(&bytes, good[i].text, &err), LT_OK);
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t bytes;
        assert_int_equal(train_memory_size(&bytes, bad[i], &err), LT_ERR_INVALID);
        assert_non_null(strstr(err.message, "is no size"));
    }
}

/* MiB of a model: 1000 of weights, 400 kept activations, 200 boundaries, 100 optimizer state, 50 of the rest. */
struct made_up {
    int plans;
    uint64_t mapped; /* MiB */
    uint64_t device; /* MiB that a device has for weights, kept activations and boundaries; 0: no device */
};

static enum lt_status plan(void *user, const struct train_memory *m, struct lt_plan *p, uint64_t *mapped,
                           struct lt_error *err)
{
    struct made_up *u = user;
    uint64_t group = m->layer_major ? 4 : 1;
    (void)err;
    u->plans++;
    lt_plan_add(p, "rest", 50 << 20, true);
    lt_plan_add(p, "weights", (uint64_t)(m->weights == LT_WEIGHTS_RESIDENT ? 1000 : 0) << 20, true);
    lt_plan_add(p, "streamed", (uint64_t)(m->weights == LT_WEIGHTS_STREAM ? 20 : 0) << 20, true);
    lt_plan_add(p, "kept", (m->recompute == LT_RECOMPUTE_FULL ? 0 : group * 400) << 20, true);
    lt_plan_add(p, "boundaries", (m->boundaries_in_file ? 10 : group * 200) << 20, true);
    lt_plan_add(p, "state", (uint64_t)(m->paged_optimizer ? 1 : 100) << 20, true);
    *mapped = (m->weights == LT_WEIGHTS_MMAP ? u->mapped : 0) << 20;
    if (u->device > 0) {
        p->device = (uint64_t)(m->weights == LT_WEIGHTS_STREAM ? 10 : 1000) << 20;
        p->device += (m->recompute == LT_RECOMPUTE_FULL ? 0 : group * 400) << 20;
        p->device += group * 200 << 20;
        p->device_available = u->device << 20;
    }
    return LT_OK;
}

static const struct train_memory_case model = {
    .options = {.weights = "auto",
                .order = "auto",
                .boundaries = "auto",
                .recompute = LT_RECOMPUTE_SELECTIVE},
    .layer_major_possible = true,
    .mappable = true,
    .streamable = true,
    .advice = "take less",
    .accumulation = 4,
    .plan = plan,
};

static enum lt_status choose(const struct train_memory_case *c, const char *limit, struct made_up *u,
                             struct train_memory *m, struct lt_error *err)
{
    struct train_memory_case own = *c;
    struct lt_plan p;
    char text[256];
    own.options.limit = limit;
    own.user = u;
    return train_memory_choose(&own, m, &p, text, sizeof text, err);
}

/* The mapped weights of the last rows are more than any machine has: they would be read in every step. */
static void test_ladder(void **state)
{
    (void)state;
    static const struct {
        const char *limit;
        struct train_memory m;
        uint64_t mapped;
    } rows[] = {
        {"1750M", {LT_WEIGHTS_RESIDENT, .recompute = LT_RECOMPUTE_SELECTIVE}, 1000},
        {"1749M", {LT_WEIGHTS_MMAP, .recompute = LT_RECOMPUTE_SELECTIVE}, 1000},
        {"749M", {LT_WEIGHTS_MMAP, .recompute = LT_RECOMPUTE_FULL}, 1000},
        {"349M", {LT_WEIGHTS_STREAM, true, true, false, LT_RECOMPUTE_FULL}, 1000},
        {"179M", {LT_WEIGHTS_MMAP, false, true, false, LT_RECOMPUTE_FULL}, 1000},
        {"159M", {LT_WEIGHTS_MMAP, false, true, true, LT_RECOMPUTE_FULL}, 1000},
        {"1349M", {LT_WEIGHTS_STREAM, true, false, false, LT_RECOMPUTE_FULL}, UINT64_C(1) << 30},
        {"900M", {LT_WEIGHTS_STREAM, true, true, false, LT_RECOMPUTE_FULL}, UINT64_C(1) << 30},
        {"81M", {LT_WEIGHTS_STREAM, false, true, true, LT_RECOMPUTE_FULL}, UINT64_C(1) << 30},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct made_up u = {.mapped = rows[i].mapped};
        struct train_memory m;
        struct lt_error err;
        assert_int_equal(choose(&model, rows[i].limit, &u, &m, &err), LT_OK);
        assert_int_equal(m.weights, rows[i].m.weights);
        assert_int_equal(m.recompute, rows[i].m.recompute);
        assert_int_equal(m.layer_major, rows[i].m.layer_major);
        assert_int_equal(m.boundaries_in_file, rows[i].m.boundaries_in_file);
        assert_int_equal(m.paged_optimizer, rows[i].m.paged_optimizer);
    }
}

static void test_nothing_fits(void **state)
{
    (void)state;
    struct made_up u = {.mapped = 1000};
    struct train_memory m;
    struct lt_error err;
    assert_int_equal(choose(&model, "60M", &u, &m, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "60.0 MiB is too little"));
    assert_non_null(strstr(err.message, "'rest' takes 50.0 MiB; take less"));
}

/* What is set stays, and is planned once. */
static void test_settings_stay(void **state)
{
    (void)state;
    struct train_memory_case c = model;
    struct made_up u = {.mapped = 1000};
    struct train_memory m;
    struct lt_error err;
    c.options = (struct train_memory_options){.weights = "mmap",
                                              .order = "micro-batch",
                                              .boundaries = "memory",
                                              .recompute = LT_RECOMPUTE_NONE,
                                              .keep_recompute = true,
                                              .keep_optim = true};
    assert_int_equal(choose(&c, "100M", &u, &m, &err), LT_ERR_INVALID);
    assert_int_equal(u.plans, 1);
    assert_int_equal(m.weights, LT_WEIGHTS_MMAP);
    assert_int_equal(m.recompute, LT_RECOMPUTE_NONE);
    assert_false(m.layer_major || m.boundaries_in_file || m.paged_optimizer);
    c.streamable = false;
    c.options.weights = "stream";
    assert_int_equal(choose(&c, "8G", &u, &m, &err), LT_ERR_INVALID);
    assert_string_equal(err.message, "--weights stream: take less");
}

/* Without a limit only the place of the weights is chosen. */
static void test_default_limit(void **state)
{
    (void)state;
    struct made_up u = {.mapped = UINT64_C(1) << 30};
    struct train_memory_case c = model;
    struct train_memory m;
    struct lt_error err;
    c.accumulation = 1;
    assert_int_equal(choose(&c, NULL, &u, &m, &err), LT_OK);
    assert_int_equal(m.recompute, LT_RECOMPUTE_SELECTIVE);
    assert_false(m.boundaries_in_file || m.paged_optimizer);
    assert_true(u.plans <= 3);
}

/* A device that tells how little it has makes layers be computed twice, then weights be streamed; what fits nowhere is
 * planned as small as it can be. */
static void test_device(void **state)
{
    (void)state;
    static const struct {
        uint64_t device;
        struct train_memory m;
    } rows[] = {
        {1600, {LT_WEIGHTS_RESIDENT, .recompute = LT_RECOMPUTE_SELECTIVE}},
        {1599, {LT_WEIGHTS_RESIDENT, .recompute = LT_RECOMPUTE_FULL}},
        {1199, {LT_WEIGHTS_STREAM, .layer_major = true, .recompute = LT_RECOMPUTE_FULL}},
        {809, {LT_WEIGHTS_STREAM, .recompute = LT_RECOMPUTE_SELECTIVE}},
        {609, {LT_WEIGHTS_STREAM, .recompute = LT_RECOMPUTE_FULL}},
        {100, {LT_WEIGHTS_STREAM, .recompute = LT_RECOMPUTE_FULL}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct made_up u = {.mapped = 1000, .device = rows[i].device};
        struct train_memory m;
        struct lt_error err;
        assert_int_equal(choose(&model, NULL, &u, &m, &err), LT_OK);
        assert_int_equal(m.weights, rows[i].m.weights);
        assert_int_equal(m.recompute, rows[i].m.recompute);
        assert_int_equal(m.layer_major, rows[i].m.layer_major);
        assert_false(m.boundaries_in_file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_ladder),
        cmocka_unit_test(test_nothing_fits),  cmocka_unit_test(test_settings_stay),
        cmocka_unit_test(test_default_limit), cmocka_unit_test(test_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
