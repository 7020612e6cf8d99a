/* What of the trainer needs no model: counting steps, log files, trainer_state.json, rotation, identity. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/train/trainer_internal.h"
#include "tests/support/fixtures.h"

static void ok(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s: %s", lt_status_name(status), err->message);
}

static char *temp(const char *name)
{
    char *path = lt_path_join(lt_test_temp_dir(), name);
    assert_non_null(path);
    return path;
}

/* ---- steps ---- */

static struct lt_trainer_config three_epochs(void)
{
    return (struct lt_trainer_config){.num_train_epochs = 3,
                                      .accumulation = 4,
                                      .logging_strategy = LT_INTERVAL_STEPS,
                                      .logging_steps = 10,
                                      .save_strategy = LT_INTERVAL_STEPS,
                                      .save_steps = 500};
}

static struct lt_train_plan plan_of(const struct lt_trainer_config *c, int64_t batches)
{
    struct lt_error err = {0};
    struct lt_train_plan p;
    ok(lt_train_plan_steps(&p, c, batches, &err), &err);
    return p;
}

static void steps_and_epochs(void **state)
{
    (void)state;
    struct lt_trainer_config c = three_epochs();
    struct lt_train_plan p = plan_of(&c, 10); /* windows of 4, 4 and 2 micro-batches */

    assert_int_equal(p.steps_per_epoch, 3);
    assert_int_equal(p.max_steps, 9);
    assert_true(lt_train_epoch(&p, 4, 0) == 0);
    assert_true(lt_train_epoch(&p, 4, 1) == 0.4);
    assert_true(lt_train_epoch(&p, 4, 3) == 1);
    assert_true(lt_train_epoch(&p, 4, 5) == 1.8);
    c.num_train_epochs = 0.5;
    assert_int_equal(plan_of(&c, 10).max_steps, 2); /* ceil(1.5) */
    c.max_steps = 7;
    assert_int_equal(plan_of(&c, 10).max_steps, 7);
    assert_int_equal(plan_of(&c, 1).steps_per_epoch, 1); /* fewer micro-batches than a window */
}

static void warm_up(void **state)
{
    (void)state;
    struct lt_trainer_config c = three_epochs();

    c.max_steps = 101;
    assert_int_equal(plan_of(&c, 10).warmup_steps, 0);
    c.warmup_ratio = 0.03;
    assert_int_equal(plan_of(&c, 10).warmup_steps, 4); /* ceil(3.03) */
    c.warmup_steps = 0.5;
    assert_int_equal(plan_of(&c, 10).warmup_steps, 51);
    c.warmup_steps = 7.9;
    assert_int_equal(plan_of(&c, 10).warmup_steps, 7);
}

static void intervals(void **state)
{
    (void)state;
    struct lt_trainer_config c = three_epochs();

    c.max_steps = 25;
    c.eval_strategy = LT_INTERVAL_STEPS;
    c.save_steps = 0.1;
    c.logging_first_step = true;
    struct lt_train_plan p = plan_of(&c, 40); /* epochs end at 10, 20 and with the run */
    assert_int_equal(p.logging_steps, 10);
    assert_int_equal(p.eval_steps, 10); /* as logging */
    assert_int_equal(p.save_steps, 3);  /* ceil(2.5) */
    int64_t logs = 0, evals = 0, saves = 0;
    for (int64_t step = 1; step <= 25; step++) {
        logs += lt_train_log_due(&p, &c, step) ? step : 0;
        evals += lt_train_eval_due(&p, &c, step) ? step : 0;
        saves += lt_train_save_due(&p, &c, step) ? step : 0;
    }
    assert_int_equal(logs, 1 + 10 + 20);
    assert_int_equal(evals, 10 + 20);
    assert_int_equal(saves, 3 + 6 + 9 + 12 + 15 + 18 + 21 + 24 + 25); /* and the last step */
    c.logging_strategy = c.save_strategy = LT_INTERVAL_EPOCH;
    c.logging_first_step = false;
    c.eval_strategy = LT_INTERVAL_NO;
    p = plan_of(&c, 40);
    assert_int_equal(p.save_steps, 0);
    for (int64_t step = 1; step <= 25; step++) {
        bool end = step == 10 || step == 20 || step == 25;
        assert_int_equal(lt_train_log_due(&p, &c, step), end);
        assert_int_equal(lt_train_save_due(&p, &c, step), end);
        assert_false(lt_train_eval_due(&p, &c, step));
    }
}

static void assert_refused(const struct lt_trainer_config *c, const char *word)
{
    struct lt_error err = {0};
    struct lt_train_plan p;

    assert_int_equal(lt_train_plan_steps(&p, c, 10, &err), LT_ERR_INVALID);
    if (!strstr(err.message, word))
        fail_msg("no %s in: %s", word, err.message);
}

static void refused_numbers(void **state)
{
    (void)state;
    const double bad_steps[] = {0, -1, 2.5, NAN, INFINITY, 1e10};
    const double bad_epochs[] = {0, -2, NAN, INFINITY, 1e300};
    struct lt_trainer_config c;

    for (size_t i = 0; i < sizeof bad_steps / sizeof *bad_steps; i++) {
        c = three_epochs();
        c.logging_steps = bad_steps[i];
        assert_refused(&c, "logging_steps");
        c = three_epochs();
        c.save_steps = bad_steps[i];
        assert_refused(&c, "save_steps");
    }
    for (size_t i = 0; i < sizeof bad_epochs / sizeof *bad_epochs; i++) {
        c = three_epochs();
        c.num_train_epochs = bad_epochs[i];
        assert_refused(&c, i == 4 ? "steps" : "num_train_epochs");
    }
    c = three_epochs();
    c.warmup_ratio = 1.5;
    assert_refused(&c, "warmup_ratio");
    c = three_epochs();
    c.warmup_steps = NAN;
    assert_refused(&c, "warmup_steps");
    c = three_epochs();
    c.accumulation = 0;
    assert_refused(&c, "gradient_accumulation_steps");
    c = three_epochs();
    c.save_total_limit = -1;
    assert_refused(&c, "save_total_limit");
    c = three_epochs();
    c.max_steps = INT64_C(1) << 40;
    assert_refused(&c, "steps");
}

static void plan_lines(void **state)
{
    (void)state;
    struct lt_plan p = {0};
    lt_plan_add(&p, "weights", 1000, false);
    lt_plan_add(&p, "arena", 70, true);
    lt_plan_add(&p, "gradients", 7, true);
    assert_int_equal(p.count, 3);
    assert_int_equal(p.peak, 77);
}

/* ---- log files ---- */

static struct lt_train_metrics metrics(int64_t step)
{
    return (struct lt_train_metrics){.step = step,
                                     .epoch = (double)step / 8,
                                     .loss = 2.5,
                                     .grad_norm = 1,
                                     .learning_rate = 1e-5,
                                     .tokens = 100 * step,
                                     .tokens_per_second = 12.25,
                                     .peak_memory_bytes = 4096};
}

static char *read_text(const char *dir, const char *name)
{
    struct lt_error err = {0};
    char *path = lt_path_join(dir, name), *text;
    size_t size;
    ok(lt_file_read(path, 1 << 20, &text, &size, &err), &err);
    lt_free(path);
    return text;
}

static const char rows[] =
    "{\"step\": 1, \"epoch\": 0.125, \"loss\": 2.5, \"grad_norm\": 1.0, \"learning_rate\": 1e-05, \"tokens\": 100, "
    "\"tokens_per_second\": 12.25, \"peak_memory_bytes\": 4096}\n"
    "{\"step\": 2, \"epoch\": 0.25, \"loss\": 2.5, \"grad_norm\": 1.0, \"learning_rate\": 1e-05, \"tokens\": 200, "
    "\"tokens_per_second\": 12.25, \"peak_memory_bytes\": 4096}\n"
    "{\"step\": 2, \"epoch\": 0.25, \"eval_loss\": 3.0, \"eval_perplexity\": null, \"eval_token_accuracy\": 0.5}\n";

static void write_log(const char *dir, int64_t steps)
{
    struct lt_error err = {0};
    struct lt_train_log log;
    const struct lt_eval_metrics eval = {.step = steps,
                                         .epoch = (double)steps / 8,
                                         .eval_loss = 3,
                                         .perplexity = INFINITY,
                                         .token_accuracy = 0.5,
                                         .runtime = 2,
                                         .examples = 10,
                                         .batches = 5};

    ok(lt_train_log_init(&log, &err), &err);
    ok(lt_train_log_open(&log, dir, -1, false, &err), &err);
    for (int64_t step = 1; step <= steps; step++) {
        struct lt_train_metrics m = metrics(step);
        ok(lt_train_log_step(&log, &m, &err), &err);
    }
    ok(lt_train_log_eval(&log, &eval, &err), &err);
    assert_int_equal(json_array_size(log.history), steps + 1);
    const json_t *last = json_array_get(log.history, (size_t)steps);
    assert_true(json_real_value(json_object_get(last, "eval_samples_per_second")) == 5);
    assert_true(json_real_value(json_object_get(last, "eval_steps_per_second")) == 2.5);
    assert_null(json_object_get(json_array_get(log.history, 0), "tokens"));
    lt_train_log_deinit(&log);
    lt_train_log_deinit(&log); /* harmless */
}

static void log_lines(void **state)
{
    (void)state;
    struct lt_error err = {0};
    char *dir = temp("log"), **names;
    size_t count;

    write_log(dir, 2);
    write_log(dir, 2); /* a new run starts anew */
    char *text = read_text(dir, "train_log.jsonl");
    assert_string_equal(text, rows);
    lt_free(text);
    char *runs = lt_path_join(dir, "runs");
    ok(lt_dir_list(runs, &names, &count, &err), &err);
    assert_true(count >= 1);
    char *run = lt_path_join(runs, names[0]);
    lt_dir_list_free(names, count);
    ok(lt_dir_list(run, &names, &count, &err), &err);
    assert_true(count >= 1);
    assert_int_equal(strncmp(names[0], "events.out.tfevents.", 20), 0);
    lt_dir_list_free(names, count);
    lt_free(run);
    lt_free(runs);
    lt_free(dir);
}

/* What is left after a resume at `step`, given as the number of lines. */
static void assert_cut(const char *dir, const char *text, int64_t step, bool eval_due, size_t lines)
{
    struct lt_error err = {0};
    struct lt_train_log log;
    char *path = lt_path_join(dir, "train_log.jsonl");

    ok(lt_dir_create(dir, &err), &err);
    ok(lt_file_write_atomic(path, text, strlen(text), &err), &err);
    ok(lt_train_log_init(&log, &err), &err);
    ok(lt_train_log_open(&log, dir, step, eval_due, &err), &err);
    lt_train_log_deinit(&log);
    char *left = read_text(dir, "train_log.jsonl");
    size_t found = 0;
    for (const char *p = left; *p; p++)
        found += *p == '\n';
    assert_int_equal(found, lines);
    assert_int_equal(strncmp(left, text, strlen(left)), 0);
    assert_true(*left == '\0' || left[strlen(left) - 1] == '\n');
    lt_free(left);
    lt_free(path);
}

static void log_cut_on_resume(void **state)
{
    (void)state;
    struct lt_error err = {0};
    char *dir = temp("cut");
    struct lt_train_log log;

    assert_cut(dir, rows, 5, false, 3);
    assert_cut(dir, rows, 2, false, 3);
    assert_cut(dir, rows, 2, true, 2); /* the evaluation will come again */
    assert_cut(dir, rows, 1, false, 1);
    assert_cut(dir, rows, 0, false, 0);
    assert_cut(dir, "{\"step\": 1}\n{\"step\": 2, \"lo", 9, false, 1);
    assert_cut(dir, "{\"step\": 1}\nnonsense\n{\"step\": 2}\n", 9, false, 1);
    assert_cut(dir, "{\"step\": 1}\n[1]\n", 9, false, 1);
    assert_cut(dir, "{\"step\": \"x\"}\n", 9, false, 0);
    assert_cut(dir, "\n", 9, false, 0);
    assert_cut(dir, "", 9, false, 0);
    char *fresh = temp("no-log-here");
    ok(lt_train_log_init(&log, &err), &err);
    ok(lt_train_log_open(&log, fresh, 5, false, &err), &err);
    lt_train_log_deinit(&log);
    lt_free(fresh);
    lt_free(dir);
}

/* ---- trainer_state.json ---- */

static const char state_text[] = "{\n"
                                 "  \"best_global_step\": null,\n"
                                 "  \"best_metric\": null,\n"
                                 "  \"best_model_checkpoint\": null,\n"
                                 "  \"epoch\": 0.25,\n"
                                 "  \"eval_steps\": 500,\n"
                                 "  \"global_step\": 2,\n"
                                 "  \"is_hyper_param_search\": false,\n"
                                 "  \"is_local_process_zero\": true,\n"
                                 "  \"is_world_process_zero\": true,\n"
                                 "  \"log_history\": [\n"
                                 "    {\n"
                                 "      \"loss\": 1.5,\n"
                                 "      \"step\": 2\n"
                                 "    }\n"
                                 "  ],\n"
                                 "  \"logging_steps\": 1,\n"
                                 "  \"max_steps\": 8,\n"
                                 "  \"num_input_tokens_seen\": 0,\n"
                                 "  \"num_train_epochs\": 1,\n"
                                 "  \"save_steps\": 2,\n"
                                 "  \"stateful_callbacks\": {\n"
                                 "    \"TrainerControl\": {\n"
                                 "      \"args\": {\n"
                                 "        \"should_epoch_stop\": false,\n"
                                 "        \"should_evaluate\": false,\n"
                                 "        \"should_log\": false,\n"
                                 "        \"should_save\": true,\n"
                                 "        \"should_training_stop\": false\n"
                                 "      },\n"
                                 "      \"attributes\": {}\n"
                                 "    }\n"
                                 "  },\n"
                                 "  \"total_flos\": 12.0,\n"
                                 "  \"train_batch_size\": 4,\n"
                                 "  \"trial_name\": null,\n"
                                 "  \"trial_params\": null\n"
                                 "}\n";

static void state_file(void **state)
{
    (void)state;
    struct lt_error err = {0};
    json_t *history = json_array(), *row = json_object(), *read;
    bool fine = true;

    lt_train_put(row, "step", json_integer(2), &fine);
    lt_train_put(row, "loss", lt_train_number(1.5), &fine);
    assert_true(fine && json_array_append_new(history, row) == 0);
    lt_train_put(row, "nothing", NULL, &fine);
    assert_false(fine);
    assert_true(json_is_null(lt_train_number(NAN)) && json_is_null(lt_train_number(INFINITY)));
    const struct lt_train_state s = {.step = 2,
                                     .max_steps = 8,
                                     .epochs = 1,
                                     .logging_steps = 1,
                                     .save_steps = 2,
                                     .batch_size = 4,
                                     .epoch = 0.25,
                                     .total_flos = 12,
                                     .history = history};
    ok(lt_train_state_save(&s, lt_test_temp_dir(), &err), &err);
    char *text = read_text(lt_test_temp_dir(), "trainer_state.json");
    assert_string_equal(text, state_text);
    lt_free(text);
    ok(lt_train_state_history(&read, lt_test_temp_dir(), &err), &err);
    assert_true(json_equal(read, history));
    json_decref(read);
    json_decref(history);
}

static void broken_state_file(void **state)
{
    (void)state;
    static const char *const texts[] = {"{}", "[]", "{\"log_history\": 3}", "{\"log_history\": [1]}",
                                        "{\"log_"};
    struct lt_error err = {0};
    char *dir = temp("broken"), *path = lt_path_join(dir, "trainer_state.json");
    json_t *history;

    ok(lt_dir_create(dir, &err), &err);
    assert_int_equal(lt_train_state_history(&history, dir, &err), LT_ERR_NOT_FOUND);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ok(lt_file_write_atomic(path, texts[i], strlen(texts[i]), &err), &err);
        assert_int_equal(lt_train_state_history(&history, dir, &err), LT_ERR_FORMAT);
        assert_null(history);
        assert_non_null(strstr(err.message, "trainer_state.json"));
    }
    lt_free(path);
    lt_free(dir);
}

/* ---- checkpoints ---- */

static void checkpoint_names(void **state)
{
    (void)state;
    assert_int_equal(lt_train_checkpoint_step("checkpoint-0"), 0);
    assert_int_equal(lt_train_checkpoint_step("checkpoint-1200"), 1200);
    assert_int_equal(lt_train_checkpoint_step("checkpoint-"), -1);
    assert_int_equal(lt_train_checkpoint_step("checkpoint--3"), -1);
    assert_int_equal(lt_train_checkpoint_step("checkpoint-3x"), -1);
    assert_int_equal(lt_train_checkpoint_step("unfinished-checkpoint-3"), -1);
    assert_int_equal(lt_train_checkpoint_step("checkpoint-99999999999999999999"), -1);
}

static void make_folders(const char *dir, const char *const *names, size_t count)
{
    struct lt_error err = {0};
    ok(lt_dir_remove_tree(dir, &err), &err);
    for (size_t i = 0; i < count; i++) {
        char *path = lt_path_join(dir, names[i]);
        ok(lt_dir_create(path, &err), &err);
        lt_free(path);
    }
}

static void assert_left(const char *dir, const char *expected)
{
    struct lt_error err = {0};
    struct lt_strbuf sb;
    char **names;
    size_t count;

    ok(lt_dir_list(dir, &names, &count, &err), &err);
    lt_strbuf_init(&sb);
    for (size_t i = 0; i < count; i++)
        lt_strbuf_printf(&sb, "%s ", names[i]);
    assert_string_equal(lt_strbuf_str(&sb), expected);
    lt_strbuf_deinit(&sb);
    lt_dir_list_free(names, count);
}

static void rotation(void **state)
{
    (void)state;
    static const char *const names[] = {"checkpoint-9", "checkpoint-10", "checkpoint-100", "checkpoint-x",
                                        "runs"};
    struct lt_error err = {0};
    char *dir = temp("rotation");

    make_folders(dir, names, 5);
    ok(lt_train_rotate(dir, 0, 100, &err), &err);
    ok(lt_train_rotate(dir, 3, 100, &err), &err);
    assert_left(dir, "checkpoint-10 checkpoint-100 checkpoint-9 checkpoint-x runs ");
    ok(lt_train_rotate(dir, 2, 100, &err), &err); /* by number, not by name */
    assert_left(dir, "checkpoint-10 checkpoint-100 checkpoint-x runs ");
    ok(lt_train_rotate(dir, 1, 10, &err), &err); /* what was just written stays, whatever its number */
    assert_left(dir, "checkpoint-10 checkpoint-x runs ");
    ok(lt_train_rotate(dir, 1, 10, &err), &err);
    assert_left(dir, "checkpoint-10 checkpoint-x runs ");
    lt_free(dir);
}

static void last_checkpoint(void **state)
{
    (void)state;
    static const char *const names[] = {"checkpoint-9", "checkpoint-10", "unfinished-checkpoint-12"};
    struct lt_error err = {0};
    char *dir = temp("last"), *path;

    assert_int_equal(lt_trainer_last_checkpoint(dir, &path, &err), LT_ERR_NOT_FOUND);
    make_folders(dir, names + 2, 1);
    assert_int_equal(lt_trainer_last_checkpoint(dir, &path, &err), LT_ERR_NOT_FOUND);
    assert_null(path);
    make_folders(dir, names, 3);
    ok(lt_trainer_last_checkpoint(dir, &path, &err), &err);
    assert_string_equal(lt_path_basename(path), "checkpoint-10");
    lt_free(path);
    lt_free(dir);
}

static void identity(void **state)
{
    (void)state;
    struct lt_error err = {0};
    json_t *mine = json_pack("{s:s, s:f}", "seed", "42", "learning_rate", 0.001);
    json_t *other = json_pack("{s:s, s:f, s:i}", "seed", "42", "learning_rate", 0.001, "later_addition", 1);

    ok(lt_train_identity_check(mine, other, "x.json", &err), &err);
    json_object_set_new(other, "learning_rate", json_real(0.0005));
    assert_int_equal(lt_train_identity_check(mine, other, "x.json", &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "x.json: "));
    assert_non_null(strstr(err.message, "learning_rate: it had 0.0005, this one has 0.001"));
    json_object_del(other, "learning_rate");
    assert_int_equal(lt_train_identity_check(mine, other, "x.json", &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "had none"));
    assert_int_equal(lt_train_identity_check(mine, NULL, "x.json", &err), LT_ERR_INVALID);
    json_decref(mine);
    json_decref(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_and_epochs),  cmocka_unit_test(warm_up),
        cmocka_unit_test(intervals),         cmocka_unit_test(refused_numbers),
        cmocka_unit_test(plan_lines),        cmocka_unit_test(log_lines),
        cmocka_unit_test(log_cut_on_resume), cmocka_unit_test(state_file),
        cmocka_unit_test(broken_state_file), cmocka_unit_test(checkpoint_names),
        cmocka_unit_test(rotation),          cmocka_unit_test(last_checkpoint),
        cmocka_unit_test(identity),
    };
    return cmocka_run_group_tests_name("trainer state", tests, NULL, NULL);
}
