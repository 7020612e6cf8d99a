/* Optimizers against torch's AdamW and bitsandbytes' 8-bit AdamW: five steps on one tensor. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/registry.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "core/train/optimizer.h"
#include "tests/support/fixtures.h"

enum { ELEMENTS = 5050, FLAT = 5056, STEPS = 5, BLOCKS = 20 };

static struct lt_error err;

static void ok(enum lt_status status)
{
    if (status != LT_OK)
        fail_msg("%s: %s", lt_status_name(status), err.message);
}

/* ---- files ---- */

static void open_golden(struct lt_safetensors *st, const char *name)
{
    char relative[128], path[4096];
    lt_snprintf(relative, sizeof relative, "goldens/optim/%s", name);
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    ok(lt_safetensors_open(st, path, &err));
}

/* The tensor "<prefix>.<step>" of n elements. */
static void read_golden(void *dst, const struct lt_safetensors *st, const char *prefix, int step,
                        enum lt_dtype dtype, size_t n)
{
    char name[64];
    lt_snprintf(name, sizeof name, "%s.%d", prefix, step);
    const struct lt_st_tensor *t = lt_safetensors_find(st, name);
    if (!t)
        fail_msg("%s has no tensor %s", st->map.path, name);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->elements, n);
    memcpy(dst, lt_safetensors_data(st, t), t->bytes);
}

/* ---- a run ---- */

struct run {
    struct lt_backend *be;
    struct lt_optimizer *o;
    struct lt_buffer *params, *grads;
    struct lt_safetensors inputs, golden;
    struct lt_optimizer_tensor state[LT_OPTIMIZER_TENSORS];
};

static void open_run(struct run *r, const char *optim, const char *golden, const char *isa)
{
    const struct lt_backend_request request = {.device = lt_test_device(), .threads = 2, .isa = isa};
    const struct lt_optimizer_param param = {.elements = ELEMENTS, .decay = true};
    struct lt_optimizer_config config = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};
    float flat[FLAT] = {0};

    memset(r, 0, sizeof *r);
    open_golden(&r->inputs, "inputs.safetensors");
    open_golden(&r->golden, golden);
    ok(lt_optimizer_parse(&config, optim, &err));
    ok(lt_backend_create(&r->be, &request, &err));
    ok(lt_optimizer_create(&r->o, r->be, &config, &param, 1, FLAT, &err));
    ok(lt_optimizer_allocate(r->o, lt_test_temp_dir(), &err));
    (void)lt_optimizer_tensors(r->o, 0, r->state);
    ok(r->be->ops->buffer_create(r->be, sizeof flat, &r->params, &err));
    ok(r->be->ops->buffer_create(r->be, sizeof flat, &r->grads, &err));
    read_golden(flat, &r->inputs, "param", 0, LT_F32, ELEMENTS);
    ok(r->be->ops->buffer_write(r->be, r->params, 0, flat, sizeof flat, &err));
}

static void close_run(struct run *r)
{
    r->be->ops->buffer_destroy(r->be, r->params);
    r->be->ops->buffer_destroy(r->be, r->grads);
    lt_optimizer_destroy(r->o);
    lt_backend_destroy(r->be);
    lt_safetensors_close(&r->inputs);
    lt_safetensors_close(&r->golden);
}

/* Step t; the parameters after it. */
static void step(struct run *r, int t, float params[ELEMENTS])
{
    float grads[FLAT] = {0}, after[FLAT];
    double norm, sum = 0;

    read_golden(grads, &r->inputs, "grad", t, LT_F32, ELEMENTS);
    for (int i = 0; i < ELEMENTS; i++)
        sum += (double)grads[i] * (double)grads[i];
    ok(r->be->ops->buffer_write(r->be, r->grads, 0, grads, sizeof grads, &err));
    ok(lt_optimizer_step(r->o, r->params, r->grads, t, 1e-3, &err));
    ok(lt_optimizer_norm(r->o, &norm, &err));
    assert_true(fabs(norm - sqrt(sum)) <= 1e-6 * norm);
    ok(r->be->ops->buffer_read(r->be, r->params, 0, after, sizeof after, &err));
    for (int i = ELEMENTS; i < FLAT; i++)
        assert_true(after[i] == 0);
    memcpy(params, after, ELEMENTS * sizeof(float));
}

/* ---- AdamW ---- */

/* Relative to the largest number of the golden, as the goldens' limits are. */
static double gap(const float *got, const float *want, size_t n)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        worst = d <= worst ? worst : d; /* NaN is large */
        largest = fmax(largest, fabs((double)want[i]));
    }
    return worst / largest;
}

static void check_adamw(const char *optim, const char *isa)
{
    struct run r;
    float params[ELEMENTS], moment[ELEMENTS], want[ELEMENTS];
    double worst = 0;

    open_run(&r, optim, "adamw.safetensors", isa);
    for (int t = 1; t <= STEPS; t++) {
        step(&r, t, params);
        read_golden(want, &r.golden, "param", t, LT_F32, ELEMENTS);
        worst = fmax(worst, gap(params, want, ELEMENTS));
        for (int k = 0; k < 2; k++) {
            ok(lt_optimizer_read(r.o, r.state[k].offset, moment, sizeof moment, &err));
            read_golden(want, &r.golden, k == 0 ? "exp_avg" : "exp_avg_sq", t, LT_F32, ELEMENTS);
            worst = fmax(worst, gap(moment, want, ELEMENTS));
        }
    }
    print_message("%s, %s: %.2g\n", optim, isa ? isa : "best", worst);
    assert_true(worst <= 1e-6);
    close_run(&r);
}

static void adamw(void **state)
{
    (void)state;
    check_adamw("adamw_torch", NULL);
    check_adamw("adamw_torch", "ref");
    check_adamw("paged_adamw_32bit", NULL);
}

/* ---- 8-bit AdamW ---- */

/* How many codes differ; an element whose code does is `moved` from then on. */
static int compare_codes(struct run *r, int which, const char *name, int t, bool moved[ELEMENTS])
{
    uint8_t codes[ELEMENTS], want[ELEMENTS];
    int differ = 0;

    ok(lt_optimizer_read(r->o, r->state[which].offset, codes, sizeof codes, &err));
    read_golden(want, &r->golden, name, t, LT_U8, ELEMENTS);
    for (int i = 0; i < ELEMENTS; i++) {
        assert_true(abs(codes[i] - want[i]) <= 1);
        differ += codes[i] != want[i];
        moved[i] = moved[i] || codes[i] != want[i];
    }
    return differ;
}

static void compare_absmax(struct run *r, int which, const char *name, int t)
{
    float absmax[BLOCKS], want[BLOCKS];

    assert_true(r->state[which].absmax);
    assert_int_equal(r->state[which].elements, BLOCKS);
    ok(lt_optimizer_read(r->o, r->state[which].offset, absmax, sizeof absmax, &err));
    read_golden(want, &r->golden, name, t, LT_F32, BLOCKS);
    for (int b = 0; b < BLOCKS; b++)
        assert_true(fabs((double)absmax[b] - (double)want[b]) <= 1e-6 * (double)want[b]);
}

static void check_adamw8(const char *optim, const char *isa)
{
    struct run r;
    float params[ELEMENTS], want[ELEMENTS];
    bool moved[ELEMENTS] = {false};
    double worst = 0;
    int differ = 0;

    open_run(&r, optim, "adamw8bit-formula.safetensors", isa);
    assert_int_equal(lt_optimizer_tensors(r.o, 0, r.state), 4);
    for (int t = 1; t <= STEPS; t++) {
        step(&r, t, params);
        read_golden(want, &r.golden, "param", t, LT_F32, ELEMENTS);
        for (int i = 0; i < ELEMENTS; i++)
            if (!moved[i])
                worst = fmax(worst, fabs((double)params[i] - (double)want[i]));
        differ += compare_codes(&r, 0, "state1", t, moved);
        differ += compare_codes(&r, 1, "state2", t, moved);
        compare_absmax(&r, 2, "absmax1", t);
        compare_absmax(&r, 3, "absmax2", t);
    }
    print_message("%s, %s: parameters %.2g, %d of %d codes differ\n", optim, isa ? isa : "best", worst,
                  differ, 2 * STEPS * ELEMENTS);
    assert_true(worst <= 1e-6);
    assert_true(differ <= 2 * STEPS * ELEMENTS / 1000); /* only those at a midpoint */
    close_run(&r);
}

static void adamw8(void **state)
{
    (void)state;
    check_adamw8("adamw_8bit", NULL);
    check_adamw8("adamw_bnb_8bit", "ref");
    check_adamw8("paged_adamw_8bit", NULL);
}

/* ---- a step that is not taken ---- */

/* Parameters and state, one after the other. */
enum { IMAGE = FLAT * 4 + LT_OPTIMIZER_TENSORS * ELEMENTS * 4 };

static void take_image(struct run *r, int tensors, unsigned char image[IMAGE])
{
    memset(image, 0, IMAGE);
    ok(r->be->ops->buffer_read(r->be, r->params, 0, image, FLAT * sizeof(float), &err));
    for (int k = 0; k < tensors; k++)
        ok(lt_optimizer_read(r->o, r->state[k].offset, image + FLAT * 4 + k * ELEMENTS * 4,
                             r->state[k].elements * (lt_dtype_bits(r->state[k].dtype) / 8), &err));
}

/* Neither parameters nor moments change; the next good step does change them. */
static void check_untouched(const char *optim, float broken)
{
    struct run r;
    float params[ELEMENTS], grads[FLAT] = {0};
    double norm;
    static unsigned char before[IMAGE], after[IMAGE];

    open_run(&r, optim, "adamw.safetensors", NULL);
    int tensors = lt_optimizer_tensors(r.o, 0, r.state);
    step(&r, 1, params);
    take_image(&r, tensors, before);
    read_golden(grads, &r.inputs, "grad", 2, LT_F32, ELEMENTS);
    grads[4321] = broken;
    ok(r.be->ops->buffer_write(r.be, r.grads, 0, grads, sizeof grads, &err));
    ok(lt_optimizer_step(r.o, r.params, r.grads, 2, 1e-3, &err));
    assert_int_equal(lt_optimizer_norm(r.o, &norm, &err), LT_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "the gradient norm of step 2 is not a finite number"));
    take_image(&r, tensors, after);
    assert_memory_equal(before, after, IMAGE);
    step(&r, 2, params);
    take_image(&r, tensors, after);
    assert_memory_not_equal(before, after, IMAGE);
    close_run(&r);
}

static void broken_gradients(void **state)
{
    static const char *const optims[] = {"adamw_torch", "adamw_8bit", "sgd", "lion_32bit"};
    (void)state;
    for (size_t i = 0; i < sizeof optims / sizeof *optims; i++) {
        check_untouched(optims[i], NAN);
        check_untouched(optims[i], INFINITY);
        check_untouched(optims[i], -INFINITY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adamw), cmocka_unit_test(adamw8),
                                       cmocka_unit_test(broken_gradients)};
    return cmocka_run_group_tests_name("optimizer goldens", tests, NULL, NULL);
}
