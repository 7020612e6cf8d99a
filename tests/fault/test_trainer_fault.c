/* The trainer with every single allocation failing once: a status, no leak, and the next try succeeds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/train/trainer_internal.h"
#include "tests/support/fixtures.h"
#include "tests/support/train_run.h"

enum { ATTEMPTS_MAX = 20000 };

static struct train_setup tiny_run(const char *output)
{
    return (struct train_setup){.model = "goldens/llama-tiny",
                                .adapter = "goldens/lora/adapter-init",
                                .train = train_fixture("goldens/lora/batches.safetensors"),
                                .eval = train_fixture("goldens/lora/batches.safetensors"),
                                .config = train_recipe(2, 1, train_temp(output))};
}

/* Calls act until it succeeds, the n-th allocation failing in the n-th call. */
static void sweep(enum lt_status (*act)(struct train_run *r, struct lt_error *err), struct train_run *r)
{
    int n = 0;

    for (;;) {
        struct lt_error err = {0};
        lt_alloc_fail_at(++n);
        enum lt_status status = act(r, &err);
        lt_alloc_fail_at(0);
        if (status == LT_OK)
            break;
        if (status != LT_ERR_NOMEM)
            fail_msg("allocation %d: %s: %s", n, lt_status_name(status), err.message);
        assert_true(strlen(err.message) > 0);
        assert_true(n < ATTEMPTS_MAX);
    }
    print_message("%d allocations\n", n - 1);
    assert_true(n > 1);
}

static enum lt_status create(struct train_run *r, struct lt_error *err)
{
    struct train_setup s = tiny_run("unused");
    struct lt_trainer *t;

    s.config.lora = &r->lora;
    enum lt_status status =
        lt_trainer_create(&t, &s.config, r->model, &r->params, r->backend, r->train, r->eval, NULL, err);
    assert_true((status == LT_OK) == (t != NULL));
    lt_trainer_destroy(t);
    return status;
}

/* Paged 8-bit state, and f32 state of tensors with fewer elements. */
static struct train_setup paged_run(const char *output)
{
    struct train_setup s = tiny_run(output);
    s.config.optimizer.kind = LT_OPTIMIZER_ADAMW_8BIT;
    s.config.optimizer.paged = true;
    s.config.optimizer.min_8bit_size = 200;
    return s;
}

static enum lt_status save(struct train_run *r, struct lt_error *err)
{
    return lt_trainer_save_checkpoint(r->trainer, err);
}

static enum lt_status dump(struct train_run *r, struct lt_error *err)
{
    return lt_trainer_dump_step(r->trainer, train_temp("dump.safetensors"), err);
}

static void creation_and_files(void **state)
{
    (void)state;
    struct train_run run;
    struct train_setup s = tiny_run("fault");

    train_run_open(&run, &s);
    sweep(create, &run);
    train_run_start(&run, &s);
    sweep(save, &run);
    sweep(dump, &run);
    train_run_close(&run);
}

static void resume(const struct train_setup *s)
{
    char *last;
    struct lt_error err = {0};
    enum lt_status status;

    train_ok(lt_trainer_last_checkpoint(s->config.output_dir, &last, &err), &err);
    int n = 0;
    do {
        struct train_run run;
        train_run_open(&run, s);
        lt_alloc_fail_at(++n);
        status = lt_trainer_resume(run.trainer, last, &err);
        lt_alloc_fail_at(0);
        if (status != LT_OK && status != LT_ERR_NOMEM)
            fail_msg("allocation %d: %s: %s", n, lt_status_name(status), err.message);
        train_run_close(&run);
    } while (status != LT_OK && n < ATTEMPTS_MAX);
    print_message("%d allocations\n", n - 1);
    lt_free(last);
}

static void resumption(void **state)
{
    (void)state;
    struct train_setup s = tiny_run("fault");
    resume(&s);
}

/* Weights and layer boundaries in files, with their threads. */
static void streamed(void **state)
{
    (void)state;
    struct train_setup s = tiny_run("fault");
    s.residency = LT_WEIGHTS_STREAM;
    s.config.boundaries_in_file = true;
    resume(&s);
}

static void paged_state(void **state)
{
    (void)state;
    struct train_run run;
    struct train_setup s = paged_run("paged");

    train_run_open(&run, &s);
    train_run_start(&run, &s);
    sweep(save, &run);
    train_run_close(&run);
    resume(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(creation_and_files), cmocka_unit_test(resumption),
                                       cmocka_unit_test(streamed), cmocka_unit_test(paged_state)};
    return cmocka_run_group_tests_name("trainer without memory", tests, NULL, NULL);
}
