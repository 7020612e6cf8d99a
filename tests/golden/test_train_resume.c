/* A resumed run is one never stopped, bit for bit; cancelling; any number of threads; full fine-tuning. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/io/json.h"
#include "tests/support/fixtures.h"
#include "tests/support/train_run.h"

static const char LLAMA[] = "goldens/llama-tiny";
static const char ADAPTER[] = "goldens/lora/adapter-init";

/* Stops the run after a step: from the progress line, or from the log line that precedes the evaluation. */
struct stop {
    int64_t after_step, after_log;
    int saved;
};

static void on_step(void *user, const struct lt_train_metrics *m)
{
    struct stop *s = user;
    assert_true(m->eta_seconds >= 0 && m->memory_bytes > 0);
    if (m->step == s->after_step)
        lt_cancel_request();
}

static void on_log(void *user, const struct lt_train_metrics *m)
{
    struct stop *s = user;
    if (m->step == s->after_log)
        lt_cancel_request();
}

static void on_saved(void *user, const char *path)
{
    struct stop *s = user;
    assert_int_equal(lt_file_kind(path), LT_FILE_DIRECTORY);
    s->saved++;
}

/* 12 steps of two micro-batches with dropout; logs every 2, evaluates every 6, saves every 4. */
static struct train_setup small_run(const char *output, struct stop *stop)
{
    struct train_setup s = {.model = LLAMA,
                            .adapter = ADAPTER,
                            .train = train_fixture("goldens/lora/batches.safetensors"),
                            .eval = train_temp("eval.safetensors"),
                            .eval_batch_size = 1,
                            .dropout = 0.25,
                            .config = train_recipe(12, 2, train_temp(output)),
                            .events = {.user = stop, .step = on_step, .log = on_log, .saved = on_saved}};
    s.config.logging_steps = 2;
    s.config.eval_strategy = LT_INTERVAL_STEPS;
    s.config.eval_steps = 0.5;
    s.config.save_strategy = LT_INTERVAL_STEPS;
    s.config.save_steps = 4;
    s.config.tokenizer_source = train_temp("tokenizer");
    return s;
}

/* An evaluation file of 3 rows, and a folder with one tokenizer file. */
static void write_inputs(void)
{
    enum { ROWS = 3, COLUMNS = 12 };
    struct lt_error err = {0};
    const int64_t shape[2] = {ROWS, COLUMNS};
    int64_t ids[ROWS * COLUMNS];
    struct lt_st_writer *w;

    for (int i = 0; i < ROWS * COLUMNS; i++)
        ids[i] = 3 + i * 7 % 300;
    train_ok(lt_st_writer_create(&w, &err), &err);
    train_ok(lt_st_writer_add(w, "input_ids", LT_I64, shape, 2, ids, &err), &err);
    train_ok(lt_st_writer_add(w, "labels", LT_I64, shape, 2, ids, &err), &err);
    train_ok(lt_st_writer_save(w, train_temp("eval.safetensors"), &err), &err);
    lt_st_writer_destroy(w);
    train_ok(lt_dir_create(train_temp("tokenizer"), &err), &err);
    train_ok(lt_file_write_atomic(train_temp("tokenizer/tokenizer.json"), "{}", 2, &err), &err);
}

static enum lt_status run_once(const struct train_setup *s, bool resume)
{
    struct lt_error err = {0};
    struct train_run run;

    lt_cancel_reset();
    train_run_open(&run, s);
    if (resume) {
        char *last;
        train_ok(lt_trainer_last_checkpoint(s->config.output_dir, &last, &err), &err);
        train_ok(lt_trainer_resume(run.trainer, last, &err), &err);
        lt_free(last);
    } else {
        train_run_start(&run, s);
    }
    enum lt_status status = lt_trainer_run(run.trainer, &err);
    if (status != LT_OK && status != LT_ERR_CANCELLED)
        fail_msg("%s", err.message);
    if (status == LT_OK)
        assert_int_equal(lt_trainer_step(run.trainer), lt_trainer_max_steps(run.trainer));
    train_run_close(&run);
    lt_cancel_reset();
    return status;
}

static const char *path_in(const char *dir, const char *name)
{
    char relative[1024];
    lt_snprintf(relative, sizeof relative, "%s/%s", dir, name);
    return train_temp(relative);
}

/* ---- comparison ---- */

/* The log's lines without what a clock or the memory of the process decides. */
static char *stable_log(const char *dir)
{
    struct lt_error err = {0};
    char *text;
    size_t size;
    struct lt_strbuf out;

    train_ok(lt_file_read(path_in(dir, "train_log.jsonl"), 1 << 20, &text, &size, &err), &err);
    lt_strbuf_init(&out);
    for (char *line = text; *line; line = strchr(line, '\n') + 1) {
        json_t *o;
        train_ok(lt_json_parse(&o, line, (size_t)(strchr(line, '\n') - line), "log", &err), &err);
        json_object_del(o, "tokens_per_second");
        json_object_del(o, "peak_memory_bytes");
        char *kept = lt_json_dump(o, 0, true);
        lt_strbuf_puts(&out, kept);
        lt_strbuf_putc(&out, '\n');
        lt_free(kept);
        json_decref(o);
    }
    lt_free(text);
    char *result = lt_strbuf_take(&out);
    assert_non_null(result);
    return result;
}

static void assert_same_log(const char *a, const char *b)
{
    char *x = stable_log(a), *y = stable_log(b);
    assert_string_equal(x, y);
    lt_free(x);
    lt_free(y);
}

static json_t *load(const char *dir, const char *name)
{
    struct lt_error err = {0};
    json_t *o;
    train_ok(lt_json_load(&o, path_in(dir, name), &err), &err);
    return o;
}

static void assert_same_run(const char *a, const char *b)
{
    static const char *const names[] = {
        "adapter_model.safetensors", "checkpoint-12/adapter_model.safetensors",
        "checkpoint-12/optimizer.safetensors", "checkpoint-12/adapter_config.json",
        "checkpoint-12/lora_train_state.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        train_assert_same_file(train_temp(a), train_temp(b), names[i]);
    assert_same_log(a, b);
    json_t *x = load(a, "checkpoint-12/trainer_state.json"), *y = load(b, "checkpoint-12/trainer_state.json");
    assert_int_equal(json_array_size(json_object_get(x, "log_history")),
                     8); /* 6 of training, 2 evaluations */
    assert_int_equal(json_array_size(json_object_get(y, "log_history")), 8);
    json_decref(x);
    json_decref(y);
}

/* ---- tests ---- */

/* The run that all others are compared with. */
static int reference_run(void **state)
{
    (void)state;
    struct stop none = {0};

    write_inputs();
    struct train_setup s = small_run("whole", &none);
    assert_int_equal(run_once(&s, false), LT_OK);
    assert_int_equal(none.saved, 4); /* steps 4, 8, 12 and the result */
    return 0;
}

static void files_of_a_run(void **state)
{
    (void)state;
    static const char *const names[] = {"adapter_config.json",
                                        "tokenizer.json",
                                        "runs",
                                        "checkpoint-4/tokenizer.json",
                                        "checkpoint-4/adapter_config.json",
                                        "checkpoint-8/optimizer.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_not_equal(lt_file_kind(path_in("whole", names[i])), LT_FILE_NONE);
    json_t *s = load("whole", "trainer_state.json");
    const json_t *history = json_object_get(s, "log_history");
    assert_int_equal(json_integer_value(json_object_get(s, "global_step")), 12);
    assert_int_equal(json_integer_value(json_object_get(s, "eval_steps")), 6);
    assert_int_equal(json_integer_value(json_object_get(s, "train_batch_size")), 4);
    assert_true(json_real_value(json_object_get(s, "epoch")) == 24.0 / 100.0);
    assert_int_equal(json_array_size(history), 9);
    assert_true(json_is_real(json_object_get(json_array_get(history, 8), "train_loss")));
    json_decref(s);
}

static void cancelled_and_resumed(void **state)
{
    (void)state;
    struct stop at6 = {.after_step = 6}, none = {0};
    struct train_setup s = small_run("stopped", &at6);

    assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
    assert_int_equal(lt_file_kind(path_in("stopped", "checkpoint-6")), LT_FILE_DIRECTORY);
    assert_int_equal(lt_file_kind(path_in("stopped", "adapter_model.safetensors")), LT_FILE_NONE);
    s.events.user = &none;
    s.threads = 2;
    assert_int_equal(run_once(&s, true), LT_OK);
    static const char *const names[] = {"adapter_model.safetensors", "checkpoint-12/optimizer.safetensors"};
    for (size_t i = 0; i < 2; i++)
        train_assert_same_file(train_temp("whole"), train_temp("stopped"), names[i]);
    assert_same_log("whole", "stopped");
}

static void cancelled_in_the_evaluation(void **state)
{
    (void)state;
    struct stop at6 = {.after_log = 6}, none = {0};
    struct train_setup s = small_run("in-eval", &at6);

    assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
    json_t *o = load("in-eval", "checkpoint-6/lora_train_state.json");
    assert_true(json_is_true(json_object_get(o, "evaluation_due")));
    json_decref(o);
    s.events.user = &none;
    assert_int_equal(run_once(&s, true), LT_OK);
    assert_same_run("whole", "in-eval");
}

/* A run that was killed: lines and checkpoints of later steps are there, a line is cut. */
static void killed_and_resumed(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct stop at10 = {.after_step = 10}, none = {0};
    struct train_setup s = small_run("killed", &at10);
    struct lt_file_appender a;

    assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
    train_ok(lt_dir_remove_tree(path_in("killed", "checkpoint-10"), &err), &err);
    train_ok(lt_file_appender_open(&a, path_in("killed", "train_log.jsonl"), false, &err), &err);
    train_ok(lt_file_appender_put(&a, "{\"step\": 11, \"lo", 15, &err), &err);
    lt_file_appender_close(&a);
    s.events.user = &none;
    assert_int_equal(run_once(&s, true), LT_OK); /* from checkpoint-8 */
    assert_same_run("whole", "killed");
}

static void cancelled_before_the_first_step(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct stop none = {0};
    struct train_run run;
    struct train_setup s = small_run("at-once", &none);

    train_run_open(&run, &s);
    train_run_start(&run, &s);
    lt_cancel_request();
    assert_int_equal(lt_trainer_run(run.trainer, &err), LT_ERR_CANCELLED);
    assert_non_null(strstr(err.message, "checkpoint-0"));
    train_run_close(&run);
    char *first = lt_path_join(train_fixture(ADAPTER), "adapter_model.safetensors");
    assert_true(train_file_difference(path_in("at-once", "checkpoint-0/adapter_model.safetensors"), first) ==
                0);
    lt_free(first);
    assert_int_equal(run_once(&s, true), LT_OK);
    assert_same_run("whole", "at-once");
}

static void rotation_and_other_threads(void **state)
{
    (void)state;
    struct stop none = {0};
    struct train_setup s = small_run("two-threads", &none);

    s.threads = 2;
    s.config.save_total_limit = 1;
    assert_int_equal(run_once(&s, false), LT_OK);
    assert_int_equal(lt_file_kind(path_in("two-threads", "checkpoint-8")), LT_FILE_NONE);
    train_assert_same_file(train_temp("whole"), train_temp("two-threads"), "adapter_model.safetensors");
    train_assert_same_file(train_temp("whole"), train_temp("two-threads"),
                           "checkpoint-12/optimizer.safetensors");
    assert_same_log("whole", "two-threads");
}

static void refused_resume(void **state)
{
    (void)state;
    static const char *const words[] = {
        "seed", "learning_rate", "scaling_and_dropout", "gradient_accumulation", "max_steps", "train_rows"};
    struct stop none = {0};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        struct lt_error err = {0};
        struct train_run run;
        struct train_setup s = small_run("refused", &none);
        s.config.seed += i == 0;
        s.config.learning_rate *= i == 1 ? 2 : 1;
        s.dropout = i == 2 ? 0 : s.dropout;
        s.config.accumulation = i == 3 ? 1 : 2;
        s.config.max_steps = i == 4 ? 13 : 12;
        s.train = i == 5 ? s.eval : s.train;
        s.batch_size = 1;
        train_run_open(&run, &s);
        assert_int_equal(lt_trainer_resume(run.trainer, path_in("whole", "checkpoint-8"), &err),
                         LT_ERR_INVALID);
        if (!strstr(err.message, words[i]))
            fail_msg("%s: %s", words[i], err.message);
        train_run_close(&run);
    }
}

/* With a constant rate the number of steps may grow. */
static void longer_run(void **state)
{
    (void)state;
    struct stop none = {0};
    struct train_setup s = small_run("longer", &none);

    s.config.schedule.kind = LT_SCHEDULE_CONSTANT;
    s.config.max_steps = 8;
    assert_int_equal(run_once(&s, false), LT_OK);
    s.config.max_steps = 12;
    assert_int_equal(run_once(&s, true), LT_OK);
    s.config.output_dir = train_temp("at-a-stretch");
    assert_int_equal(run_once(&s, false), LT_OK);
    train_assert_same_file(train_temp("longer"), train_temp("at-a-stretch"), "adapter_model.safetensors");
}

/* ---- other optimizers ---- */

/* 8-bit state for every tensor, f32 state where there is no such; without dropout's and evaluation's share of time. */
static struct train_setup optimizer_run(const char *output, const char *optim, struct stop *stop)
{
    struct lt_error err = {0};
    struct train_setup s = small_run(output, stop);

    train_ok(lt_optimizer_parse(&s.config.optimizer, optim, &err), &err);
    s.config.optimizer.min_8bit_size =
        200; /* of this adapter's tensors some have more elements, some fewer */
    s.config.save_strategy = s.config.eval_strategy = LT_INTERVAL_NO;
    s.config.max_steps = 8;
    return s;
}

static void assert_state_names(const char *dir, const char *optim)
{
    struct lt_error err = {0};
    struct lt_safetensors st;
    size_t codes = 0, absmax = 0, floats = 0;

    train_ok(lt_safetensors_open(&st, path_in(dir, "checkpoint-3/optimizer.safetensors"), &err), &err);
    for (size_t i = 0; i < st.count; i++) {
        const char *name = st.tensors[i].name;
        absmax += strncmp(name, "absmax", 6) == 0;
        codes += st.tensors[i].dtype == LT_U8 && strncmp(name, "state", 5) == 0;
        floats += st.tensors[i].dtype == LT_F32 &&
                  (strncmp(name, "state", 5) == 0 || strncmp(name, "exp_avg", 7) == 0);
    }
    bool eight = strstr(optim, "8bit") != NULL;
    assert_int_equal(st.count, codes + absmax + floats);
    assert_int_equal(codes, absmax);
    assert_int_equal(codes > 0, eight);
    assert_int_equal(floats > 0, strcmp(optim, "sgd") != 0);
    lt_safetensors_close(&st);
}

static void resumed_optimizers(void **state)
{
    (void)state;
    static const char *const optims[] = {"adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd",
                                         "lion_32bit"};

    for (size_t i = 0; i < sizeof optims / sizeof *optims; i++) {
        char whole[64], parts[64];
        struct stop none = {0}, at3 = {.after_step = 3};
        lt_snprintf(whole, sizeof whole, "whole-%s", optims[i]);
        lt_snprintf(parts, sizeof parts, "parts-%s", optims[i]);
        struct train_setup s = optimizer_run(whole, optims[i], &none);
        assert_int_equal(run_once(&s, false), LT_OK);
        s = optimizer_run(parts, optims[i], &at3);
        assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
        assert_state_names(parts, optims[i]);
        s.events.user = &none;
        s.threads = 2;
        assert_int_equal(run_once(&s, true), LT_OK);
        train_assert_same_file(train_temp(whole), train_temp(parts), "adapter_model.safetensors");
        assert_same_log(whole, parts);
    }
    train_assert_same_file(train_temp("whole-adamw_8bit"), train_temp("whole-paged_adamw_8bit"),
                           "adapter_model.safetensors");
}

/* Paged or not may change on the way, the kind not. */
static void resumed_with_another_optimizer(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct stop none = {0}, at3 = {.after_step = 3};
    struct train_run run;
    struct train_setup s = optimizer_run("to-pages", "adamw_8bit", &at3);

    assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
    s = optimizer_run("to-pages", "lion_32bit", &none);
    train_run_open(&run, &s);
    assert_int_equal(lt_trainer_resume(run.trainer, path_in("to-pages", "checkpoint-3"), &err),
                     LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "optim"));
    assert_non_null(strstr(err.message, "lion_32bit"));
    train_run_close(&run);
    s = optimizer_run("to-pages", "paged_adamw_8bit", &none);
    assert_int_equal(run_once(&s, true), LT_OK);
    train_assert_same_file(train_temp("whole-adamw_8bit"), train_temp("to-pages"),
                           "adapter_model.safetensors");
}

/* A NaN in the file would reach a block of parameters much later. */
static void broken_state(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct stop none = {0}, at3 = {.after_step = 3};
    struct train_run run;
    struct lt_safetensors st;
    struct train_setup s = optimizer_run("broken-state", "adamw_8bit", &at3);
    const char *path = path_in("broken-state", "checkpoint-3/optimizer.safetensors");
    char *text;
    size_t size, at = 0;

    assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
    train_ok(lt_safetensors_open(&st, path, &err), &err);
    for (size_t i = 0; i < st.count && at == 0; i++)
        if (strncmp(st.tensors[i].name, "absmax2.", 8) == 0)
            at = st.tensors[i].offset;
    lt_safetensors_close(&st);
    train_ok(lt_file_read(path, 1 << 26, &text, &size, &err), &err);
    assert_true(at > 0 && at + 4 <= size);
    memset(text + at, 0xff, 4);
    train_ok(lt_file_write_atomic(path, text, size, &err), &err);
    lt_free(text);
    s.events.user = &none;
    train_run_open(&run, &s);
    assert_int_equal(lt_trainer_resume(run.trainer, path_in("broken-state", "checkpoint-3"), &err),
                     LT_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "absmax2."));
    train_run_close(&run);
}

static void count_allocations(void *user, const struct lt_train_metrics *m)
{
    long *at = user;
    at[m->step] = lt_alloc_count();
}

/* Also nothing where an epoch ends and the order of the next one begins. */
static void no_allocation_in_a_step(void **state)
{
    (void)state;
    long at[7] = {0};
    struct stop none = {0};
    struct train_setup s = small_run("steps", &none);

    s.train = s.eval;
    s.batch_size = 1;
    s.config.max_steps = 6;
    s.config.logging_strategy = s.config.eval_strategy = s.config.save_strategy = LT_INTERVAL_NO;
    s.events = (struct lt_trainer_events){.user = at, .step = count_allocations};
    assert_int_equal(run_once(&s, false), LT_OK);
    for (int i = 3; i <= 6; i++)
        assert_int_equal(at[i], at[2]);
}

/* ---- full fine-tuning of a bf16 checkpoint with a tied head ---- */

static void full_fine_tuning(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct stop at2 = {.after_step = 2}, none = {0};
    struct lt_safetensors source, result, checkpoint;
    struct train_setup s = {.model = "goldens/archs/smollm2",
                            .train = train_temp("full.safetensors"),
                            .batch_size = 2,
                            .config = train_recipe(4, 1, train_temp("full")),
                            .events = {.user = &none, .step = on_step, .saved = on_saved}};
    const int64_t shape[2] = {8, 16};
    int64_t ids[8 * 16];
    struct lt_st_writer *w;

    for (int i = 0; i < 8 * 16; i++)
        ids[i] = 3 + i * 5 % 120;
    train_ok(lt_st_writer_create(&w, &err), &err);
    train_ok(lt_st_writer_add(w, "input_ids", LT_I64, shape, 2, ids, &err), &err);
    train_ok(lt_st_writer_add(w, "labels", LT_I64, shape, 2, ids, &err), &err);
    train_ok(lt_st_writer_save(w, s.train, &err), &err);
    lt_st_writer_destroy(w);
    s.config.save_strategy = LT_INTERVAL_STEPS;
    s.config.save_steps = 2;
    s.config.warmup_steps = 1;

    assert_int_equal(run_once(&s, false), LT_OK);
    s.config.output_dir = train_temp("full-stopped");
    s.events.user = &at2;
    assert_int_equal(run_once(&s, false), LT_ERR_CANCELLED);
    s.events.user = &none;
    assert_int_equal(run_once(&s, true), LT_OK);
    train_assert_same_file(train_temp("full"), train_temp("full-stopped"), "model.safetensors");
    train_assert_same_file(train_temp("full"), train_temp("full-stopped"), "checkpoint-4/model.safetensors");
    train_assert_same_file(train_temp("full"), train_temp("full-stopped"),
                           "checkpoint-4/optimizer.safetensors");
    train_assert_same_file(train_temp("full"), train_fixture("goldens/archs/smollm2"), "config.json");

    char *path = lt_path_join(train_fixture("goldens/archs/smollm2"), "model.safetensors");
    train_ok(lt_safetensors_open(&source, path, &err), &err);
    train_ok(lt_safetensors_open(&result, path_in("full", "model.safetensors"), &err), &err);
    train_ok(lt_safetensors_open(&checkpoint, path_in("full", "checkpoint-4/model.safetensors"), &err), &err);
    assert_int_equal(result.count, source.count);
    assert_int_equal(checkpoint.count, source.count);
    for (size_t i = 0; i < source.count; i++) {
        assert_string_equal(result.tensors[i].name, source.tensors[i].name);
        assert_int_equal(result.tensors[i].dtype, LT_BF16);
        assert_int_equal(checkpoint.tensors[i].dtype, LT_F32);
        assert_int_equal(result.tensors[i].elements, source.tensors[i].elements);
    }
    double moved = train_file_difference(path_in("full", "model.safetensors"), path);
    assert_true(moved > 1e-4 && moved < 0.1);
    lt_free(path);
    lt_safetensors_close(&source);
    lt_safetensors_close(&result);
    lt_safetensors_close(&checkpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_a_run),
        cmocka_unit_test(cancelled_and_resumed),
        cmocka_unit_test(cancelled_in_the_evaluation),
        cmocka_unit_test(killed_and_resumed),
        cmocka_unit_test(cancelled_before_the_first_step),
        cmocka_unit_test(rotation_and_other_threads),
        cmocka_unit_test(refused_resume),
        cmocka_unit_test(longer_run),
        cmocka_unit_test(resumed_optimizers),
        cmocka_unit_test(resumed_with_another_optimizer),
        cmocka_unit_test(broken_state),
        cmocka_unit_test(no_allocation_in_a_step),
        cmocka_unit_test(full_fine_tuning),
    };
    return cmocka_run_group_tests_name("training resumed", tests, reference_run, NULL);
}
