/* adapter_config.json and the target rules, against what PEFT matched (tests/golden/peft_init.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/io/json.h"
#include "core/train/adapter.h"
#include "core/train/lora_config.h"
#include "tests/support/fixtures.h"
#include "tests/support/peft_models.h"

/* ---- helpers ---- */

static void must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

static void load_fixture(struct lt_lora_config *c, const char *relative)
{
    char path[4096];
    struct lt_error err;
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    lt_lora_config_init(c);
    must(lt_lora_config_load(c, path, &err), &err);
}

/* A folder whose adapter_config.json holds this text. */
static const char *config_dir(const char *text)
{
    static char dir[600];
    char path[700];
    struct lt_error err;
    lt_snprintf(dir, sizeof dir, "%s/config", lt_test_temp_dir());
    must(lt_dir_create(dir, &err), &err);
    lt_snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    must(lt_file_write_atomic(path, text, strlen(text), &err), &err);
    return dir;
}

static enum lt_status load_text(struct lt_lora_config *c, const char *text, struct lt_error *err)
{
    *err = (struct lt_error){0};
    return lt_lora_config_load(c, config_dir(text), err);
}

static void expect_error(const char *text, enum lt_status status, const char *part)
{
    struct lt_lora_config c;
    struct lt_error err;
    lt_lora_config_init(&c);
    if (load_text(&c, text, &err) != status || !strstr(err.message, part) ||
        !strstr(err.message, "adapter_config.json"))
        fail_msg("%s: wanted \"%s\", got %s \"%s\"", text, part, lt_status_name(err.status), err.message);
    assert_int_equal(c.target_modules.count, 0);
    assert_null(c.target_regex);
    lt_lora_config_deinit(&c);
}

static bool matches(const struct lt_lora_config *c, const char *module)
{
    struct lt_error err;
    bool yes = false;
    must(lt_lora_config_matches(c, module, &yes, &err), &err);
    return yes;
}

/* ---- rules ---- */

static bool holds(const json_t *list, const char *s)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_array_get(list, i)), s) == 0)
            return true;
    return false;
}

static void check_rule(const json_t *cases, const json_t *rule)
{
    json_t *fields = json_deep_copy(json_object_get(rule, "config"));
    json_object_set_new(fields, "peft_type", json_string("LORA"));
    char *text = json_dumps(fields, 0);
    struct lt_lora_config c;
    struct lt_error err;
    struct lt_model model;

    lt_lora_config_init(&c);
    must(load_text(&c, text, &err), &err);
    lt_peft_model_init(&model, cases, json_string_value(json_object_get(rule, "model")));
    for (int i = 0; i < model.tensor_count; i++) {
        const char *module = model.tensors[i].module;
        bool expected = holds(json_object_get(rule, "matches"), module);
        if (matches(&c, module) != expected)
            fail_msg("%s: %s should%s match", text, module, expected ? "" : " not");
    }
    lt_peft_model_deinit(&model);
    lt_lora_config_deinit(&c);
    json_decref(fields);
    lt_free(text);
}

static void test_rules(void **state)
{
    (void)state;
    json_t *cases = lt_peft_cases();
    const json_t *rules = json_object_get(cases, "rules");
    assert_true(json_array_size(rules) > 20);
    for (size_t i = 0; i < json_array_size(rules); i++)
        check_rule(cases, json_array_get(rules, i));
    json_decref(cases);
}

static void test_rank_and_scaling(void **state)
{
    (void)state;
    json_t *cases = lt_peft_cases();
    const json_t *list = json_object_get(cases, "cases");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        char relative[256];
        struct lt_lora_config c;
        const char *module;
        json_t *value;
        lt_snprintf(relative, sizeof relative, "peft-init/%s",
                    json_string_value(json_object_get(item, "name")));
        load_fixture(&c, relative);
        json_object_foreach(json_object_get(item, "modules"), module, value)
        {
            struct lt_error err;
            int32_t rank;
            double scaling;
            must(lt_lora_config_rank(&c, module, &rank, &scaling, &err), &err);
            assert_int_equal(rank, json_integer_value(json_array_get(value, 0)));
            assert_true(scaling == json_number_value(json_array_get(value, 1)));
        }
        lt_lora_config_deinit(&c);
    }
    json_decref(cases);
}

static void test_regex_trouble(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *part;
    } wrong[] = {
        {"(q_proj", "missing closing parenthesis"},
        {"[a", "missing terminating ]"},
        {"*a", "quantifier does not follow"},
        {"(*ACCEPT)a", "nothing to repeat"},
        {"\\C", "not usable"},
        {"([a-z.0-9_]+)+[!?]", "match limit exceeded"},
    };
    struct lt_lora_config c;
    struct lt_error err;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bool yes;
        lt_lora_config_init(&c);
        must(lt_lora_config_set_targets(&c, wrong[i].pattern, &err), &err);
        assert_non_null(c.target_regex);
        enum lt_status status = lt_lora_config_matches(&c, "model.layers.0.self_attn.q_proj", &yes, &err);
        if (status != LT_ERR_INVALID || !strstr(err.message, "target_modules") ||
            !strstr(err.message, wrong[i].part))
            fail_msg("%s: %s", wrong[i].pattern, err.message);
        lt_lora_config_deinit(&c);
    }
    /* Characters, not bytes; an escaped parenthesis before a star is fine. */
    lt_lora_config_init(&c);
    must(lt_lora_config_set_targets(&c, "m.d\\(*", &err), &err);
    assert_true(matches(&c, "m\xc3\xa4"
                            "d"));
    assert_false(matches(&c, "m\xc3\xa4\xc3\xa4"
                             "d"));
    lt_lora_config_deinit(&c);
}

/* ---- targets as text ---- */

static void test_set_targets(void **state)
{
    (void)state;
    struct lt_lora_config c;
    struct lt_error err;
    lt_lora_config_init(&c);
    must(lt_lora_config_set_targets(&c, " q_proj, mlp.c_proj ,v_proj", &err), &err);
    assert_null(c.target_regex);
    assert_int_equal(c.target_modules.count, 3);
    assert_string_equal(c.target_modules.items[0], "q_proj");
    assert_string_equal(c.target_modules.items[1], "mlp.c_proj");
    must(lt_lora_config_set_targets(&c, "All-Linear", &err), &err);
    assert_true(lt_lora_config_all_linear(&c));
    assert_int_equal(c.target_modules.count, 0);
    assert_true(matches(&c, "anything"));
    must(lt_lora_config_set_targets(&c, ".*\\.(q|v)_proj", &err), &err);
    assert_false(lt_lora_config_all_linear(&c));
    assert_string_equal(c.target_regex, ".*\\.(q|v)_proj");
    assert_int_equal(lt_lora_config_set_targets(&c, "q_proj,,v_proj", &err), LT_ERR_INVALID);
    assert_int_equal(lt_lora_config_set_targets(&c, "", &err), LT_ERR_INVALID);
    assert_int_equal(lt_lora_config_set_targets(&c, "q_proj,", &err), LT_ERR_INVALID);
    lt_lora_config_deinit(&c);
}

/* ---- files ---- */

static void test_golden_configs(void **state)
{
    (void)state;
    struct lt_lora_config c;
    load_fixture(&c, "goldens/lora/adapter");
    assert_int_equal(c.r, 4);
    assert_true(c.alpha == 8 && c.dropout == 0);
    assert_int_equal(c.target_modules.count, 7);
    assert_string_equal(c.target_modules.items[6], "v_proj");
    assert_string_equal(c.base_model_name_or_path, "../../llama-tiny");
    assert_string_equal(c.init_lora_weights, "true");
    assert_false(c.use_rslora);
    lt_lora_config_deinit(&c);
    load_fixture(&c, "goldens/rslora/adapter");
    assert_true(c.use_rslora);
    lt_lora_config_deinit(&c);
    load_fixture(&c, "goldens/gpt2-tiny/lora/adapter");
    assert_true(c.fan_in_fan_out);
    lt_lora_config_deinit(&c);
    load_fixture(&c, "peft-init/patterns");
    assert_int_equal(c.bias, LT_LORA_BIAS_LORA_ONLY);
    assert_int_equal(c.rank_pattern.count, 3);
    assert_string_equal(c.rank_pattern.patterns[0], "[a-d]own_proj|zzz");
    assert_true(c.rank_pattern.values[1] == 5);
    assert_int_equal(c.exclude_modules.count, 1);
    lt_lora_config_deinit(&c);
    load_fixture(&c, "peft-init/layers");
    assert_int_equal(c.layers_to_transform_count, 1);
    assert_int_equal(c.layers_to_transform[0], 1);
    assert_string_equal(c.layers_pattern.items[0], "layers");
    lt_lora_config_deinit(&c);
}

/* Adapters that people published. */
static void test_real_config(void **state)
{
    const char *relative = *state;
    struct lt_lora_config c;
    load_fixture(&c, relative);
    assert_true(c.target_modules.count >= 2);
    assert_true(c.alpha == 16 || c.alpha == 32);
    assert_true(matches(&c, "model.layers.3.self_attn.q_proj"));
    lt_lora_config_deinit(&c);
}

static void test_refused_files(void **state)
{
    (void)state;
    expect_error("[]", LT_ERR_FORMAT, "a JSON object");
    expect_error("{", LT_ERR_FORMAT, "");
    expect_error("{\"r\": 4}", LT_ERR_FORMAT, "peft_type");
    expect_error("{\"peft_type\": 3}", LT_ERR_FORMAT, "peft_type");
    expect_error("{\"peft_type\": \"IA3\"}", LT_ERR_UNSUPPORTED, "IA3");
#define LORA "{\"peft_type\": \"LORA\", "
    expect_error(LORA "\"use_dora\": true}", LT_ERR_UNSUPPORTED, "use_dora");
    expect_error(LORA "\"lora_bias\": true}", LT_ERR_UNSUPPORTED, "lora_bias");
    expect_error(LORA "\"modules_to_save\": [\"lm_head\"]}", LT_ERR_UNSUPPORTED, "modules_to_save");
    expect_error(LORA "\"alora_invocation_tokens\": [1]}", LT_ERR_UNSUPPORTED, "alora_invocation_tokens");
    expect_error(LORA "\"layer_replication\": [[0, 2]]}", LT_ERR_UNSUPPORTED, "layer_replication");
    expect_error(LORA "\"trainable_token_indices\": {\"embed\": [1]}}", LT_ERR_UNSUPPORTED,
                 "trainable_token_indices");
    expect_error(LORA "\"init_lora_weights\": \"pissa_niter_16\"}", LT_ERR_UNSUPPORTED, "pissa_niter_16");
    expect_error(LORA "\"init_lora_weights\": 1}", LT_ERR_FORMAT, "init_lora_weights");
    expect_error(LORA "\"r\": 0}", LT_ERR_INVALID, "r is 0");
    expect_error(LORA "\"r\": -4}", LT_ERR_INVALID, "r is -4");
    expect_error(LORA "\"r\": 4294967300}", LT_ERR_INVALID, "r is 4294967300");
    expect_error(LORA "\"r\": 4.5}", LT_ERR_FORMAT, "r must be");
    expect_error(LORA "\"lora_alpha\": \"8\"}", LT_ERR_FORMAT, "lora_alpha");
    expect_error(LORA "\"lora_dropout\": 1}", LT_ERR_INVALID, "lora_dropout");
    expect_error(LORA "\"lora_dropout\": -0.1}", LT_ERR_INVALID, "lora_dropout");
    expect_error(LORA "\"bias\": \"some\"}", LT_ERR_FORMAT, "some");
    expect_error(LORA "\"target_modules\": [\"q_proj\", 3]}", LT_ERR_FORMAT, "target_modules");
    expect_error(LORA "\"target_modules\": {}}", LT_ERR_FORMAT, "target_modules");
    expect_error(LORA "\"target_modules\": [\"q\\u0000\"]}", LT_ERR_FORMAT, "target_modules");
    expect_error(LORA "\"rank_pattern\": {\"q_proj\": 0}}", LT_ERR_INVALID, "q_proj");
    expect_error(LORA "\"rank_pattern\": {\"q_proj\": 1.5}}", LT_ERR_FORMAT, "rank_pattern");
    expect_error(LORA "\"alpha_pattern\": []}", LT_ERR_FORMAT, "alpha_pattern");
    expect_error(LORA "\"layers_to_transform\": [\"1\"]}", LT_ERR_FORMAT, "layers_to_transform");
    expect_error(LORA "\"layers_to_transform\": true}", LT_ERR_FORMAT, "layers_to_transform");
    expect_error(LORA "\"layers_pattern\": \"h\"}", LT_ERR_INVALID, "layers_to_transform");
    expect_error(LORA "\"target_modules\": \"a.*\", \"layers_to_transform\": 1}", LT_ERR_INVALID,
                 "regular expression");
}

static int warnings;

static void count_warnings(void *user, enum lt_log_level level, const char *message)
{
    warnings += level == LT_LOG_WARNING && strstr(message, user) != NULL;
}

static void test_defaults_and_unknown_keys(void **state)
{
    (void)state;
    static char part[] = "shiny_new_key";
    struct lt_lora_config c;
    struct lt_error err;
    lt_lora_config_init(&c);
    lt_log_set(count_warnings, part);
    must(load_text(
             &c,
             LORA
             "\"shiny_new_key\": 1, \"modules_to_save\": [], \"use_dora\": false, \"target_modules\": null, "
             "\"init_lora_weights\": \"Gaussian\", \"layers_to_transform\": 3, \"layers_pattern\": \"\"}",
             &err),
         &err);
    lt_log_set(NULL, NULL);
    assert_int_equal(warnings, 1);
    assert_int_equal(c.r, 8);
    assert_true(c.alpha == 8 && c.dropout == 0);
    assert_int_equal(c.bias, LT_LORA_BIAS_NONE);
    assert_string_equal(c.init_lora_weights, "gaussian");
    assert_int_equal(c.layers_to_transform_count, 1);
    assert_int_equal(c.layers_pattern.count, 0);
    assert_false(matches(&c, "model.layers.0.self_attn.q_proj"));
    /* A second load forgets the first. */
    must(load_text(&c, LORA "\"r\": 2, \"init_lora_weights\": \"eva\"}", &err), &err);
    assert_string_equal(c.init_lora_weights, "true");
    assert_int_equal(c.layers_to_transform_count, 0);
    lt_lora_config_deinit(&c);
}

static char *saved_text(const struct lt_lora_config *c)
{
    char dir[600], path[700], *text;
    size_t size;
    struct lt_error err;
    lt_snprintf(dir, sizeof dir, "%s/saved", lt_test_temp_dir());
    lt_snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    must(lt_dir_create(dir, &err), &err);
    must(lt_lora_config_save(c, dir, &err), &err);
    must(lt_file_read(path, 1 << 20, &text, &size, &err), &err);
    return text;
}

static void test_saved_text(void **state)
{
    (void)state;
    struct lt_lora_config c;
    struct lt_error err;
    lt_lora_config_init(&c);
    c.r = 16;
    c.alpha = 32;
    c.dropout = 0.05;
    must(lt_lora_config_set_targets(&c, "q_proj,v_proj", &err), &err);
    c.base_model_name_or_path = lt_strdup("models/Tiny \"Llama\"");
    char *text = saved_text(&c);
    assert_string_equal(text, "{\n"
                              "  \"alpha_pattern\": {},\n"
                              "  \"auto_mapping\": null,\n"
                              "  \"base_model_name_or_path\": \"models/Tiny \\\"Llama\\\"\",\n"
                              "  \"bias\": \"none\",\n"
                              "  \"fan_in_fan_out\": false,\n"
                              "  \"inference_mode\": true,\n"
                              "  \"init_lora_weights\": true,\n"
                              "  \"layers_pattern\": null,\n"
                              "  \"layers_to_transform\": null,\n"
                              "  \"lora_alpha\": 32,\n"
                              "  \"lora_dropout\": 0.05,\n"
                              "  \"modules_to_save\": null,\n"
                              "  \"peft_type\": \"LORA\",\n"
                              "  \"r\": 16,\n"
                              "  \"rank_pattern\": {},\n"
                              "  \"revision\": null,\n"
                              "  \"target_modules\": [\n"
                              "    \"q_proj\",\n"
                              "    \"v_proj\"\n"
                              "  ],\n"
                              "  \"task_type\": \"CAUSAL_LM\"\n"
                              "}\n");
    lt_free(text);
    lt_lora_config_deinit(&c);
}

/* Everything that can be said survives; saving what was loaded gives the same text again. */
static void test_round_trip(void **state)
{
    (void)state;
    static const char *const folders[] = {"peft-init/patterns", "peft-init/layers", "peft-init/conv1d",
                                          "peft-init/gaussian", "peft-init/false",  "goldens/rslora/adapter"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct lt_lora_config c, again;
        struct lt_error err;
        load_fixture(&c, folders[i]);
        char *first = saved_text(&c);
        lt_lora_config_init(&again);
        must(load_text(&again, first, &err), &err);
        char *second = saved_text(&again);
        assert_string_equal(first, second);
        assert_int_equal(again.r, c.r);
        assert_true(again.alpha == c.alpha && again.dropout == c.dropout);
        assert_int_equal(again.bias, c.bias);
        assert_int_equal(again.use_rslora, c.use_rslora);
        assert_int_equal(again.fan_in_fan_out, c.fan_in_fan_out);
        assert_string_equal(again.init_lora_weights, c.init_lora_weights);
        assert_int_equal(again.target_modules.count, c.target_modules.count);
        assert_int_equal(again.exclude_modules.count, c.exclude_modules.count);
        assert_int_equal(again.rank_pattern.count, c.rank_pattern.count);
        assert_int_equal(again.alpha_pattern.count, c.alpha_pattern.count);
        for (size_t k = 0; k < c.alpha_pattern.count; k++)
            assert_true(again.alpha_pattern.values[k] == c.alpha_pattern.values[k]);
        assert_int_equal(again.layers_to_transform_count, c.layers_to_transform_count);
        assert_int_equal(again.layers_pattern.count, c.layers_pattern.count);
        lt_free(first);
        lt_free(second);
        lt_lora_config_deinit(&again);
        lt_lora_config_deinit(&c);
    }
}

static void test_save_regex_and_odd_path(void **state)
{
    (void)state;
    struct lt_lora_config c;
    struct lt_error err;
    lt_lora_config_init(&c);
    c.alpha = 0.5;
    c.exclude_regex = lt_strdup("lm_.*");
    must(lt_lora_config_set_targets(&c, ".*proj", &err), &err);
    c.base_model_name_or_path = lt_strdup("caf\xe9"); /* Latin-1 */
    char *text = saved_text(&c);
    assert_non_null(strstr(text, "\"target_modules\": \".*proj\""));
    assert_non_null(strstr(text, "\"exclude_modules\": \"lm_.*\""));
    assert_non_null(strstr(text, "\"base_model_name_or_path\": null"));
    assert_non_null(strstr(text, "\"lora_alpha\": 0.5"));
    lt_free(text);
    lt_lora_config_deinit(&c);
}

/* Every allocation of ours fails once; nothing leaks (LeakSanitizer) and the error says so. */
static void test_allocation_failures(void **state)
{
    (void)state;
    char path[4096];
    if (!lt_fixture_path(path, sizeof path, "peft-init/patterns"))
        lt_test_skip_missing("peft-init/patterns");
    for (long n = 1;; n++) {
        struct lt_lora_config c;
        struct lt_error err = {0};
        int32_t rank;
        double scaling;
        bool yes;
        lt_lora_config_init(&c);
        lt_alloc_fail_at(n);
        enum lt_status status = lt_lora_config_load(&c, path, &err);
        if (status == LT_OK)
            status = lt_lora_config_matches(&c, "model.layers.1.mlp.down_proj", &yes, &err);
        if (status == LT_OK)
            status = lt_lora_config_rank(&c, "model.layers.1.mlp.down_proj", &rank, &scaling, &err);
        bool reached = lt_alloc_count() >= n;
        lt_alloc_fail_at(0);
        lt_lora_config_deinit(&c);
        if (!reached) {
            assert_int_equal(status, LT_OK);
            break;
        }
        assert_int_equal(status, LT_ERR_NOMEM);
        assert_true(err.message[0]);
    }
}

int main(void)
{
    static char aronas[] = "data/minhmc2007+A.R.O.N.A/tinyllama_lora";
    static char aronas_step[] = "data/minhmc2007+A.R.O.N.A/tinyllama_lora/checkpoint-180";
    static char aronas_tuned[] = "data/minhmc2007+A.R.O.N.A/tinyllama_finetuned/checkpoint-75";
    static char writer[] = "data/NotLoadedExe+Qwen3-Writter-Model";
    static char copilot[] = "data/snehakumari1996+TinyLlama_LoRA_CLI_Copilot/lora_adapter";
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_rank_and_scaling),
        cmocka_unit_test(test_regex_trouble),
        cmocka_unit_test(test_set_targets),
        cmocka_unit_test(test_golden_configs),
        cmocka_unit_test_prestate(test_real_config, aronas),
        cmocka_unit_test_prestate(test_real_config, aronas_tuned),
        cmocka_unit_test_prestate(test_real_config, aronas_step),
        cmocka_unit_test_prestate(test_real_config, writer),
        cmocka_unit_test_prestate(test_real_config, copilot),
        cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_defaults_and_unknown_keys),
        cmocka_unit_test(test_saved_text),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_save_regex_and_odd_path),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests_name("lora config", tests, NULL, NULL);
}
