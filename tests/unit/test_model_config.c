/* Configurations: both spellings, choices that are refused, numbers that no model has, tensor lists that do not
 * fit.  Each case is a golden checkpoint with a few keys changed in memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "models/model_load.h"
#include "tests/support/fixtures.h"

static void open_golden(struct lt_checkpoint *ck, const char *relative)
{
    char path[1024];
    struct lt_error err = {0};
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    if (lt_checkpoint_open(ck, path, &err) != LT_OK)
        fail_msg("%s", err.message);
}

/* Sets the keys of `patch` in the configuration of ck. */
static void patch_config(struct lt_checkpoint *ck, const char *patch)
{
    json_t *json;
    struct lt_error err = {0};
    if (lt_json_parse(&json, patch, strlen(patch), "patch", &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(json_object_update(ck->config, json), 0);
    json_decref(json);
}

static void remove_keys(struct lt_checkpoint *ck, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++)
        json_object_del(ck->config, keys[i]);
}

static struct lt_model *open_model(const struct lt_checkpoint *ck)
{
    struct lt_model *model;
    struct lt_error err = {0};
    if (lt_model_open(&model, ck, "name", &err) != LT_OK)
        fail_msg("%s", err.message);
    return model;
}

static void refuse(const char *golden, const char *patch, enum lt_status status, const char *part)
{
    struct lt_checkpoint ck;
    struct lt_model *model;
    struct lt_error err = {0};
    open_golden(&ck, golden);
    patch_config(&ck, patch);
    enum lt_status got = lt_model_open(&model, &ck, "name", &err);
    if (got != status || !strstr(err.message, part))
        fail_msg("%s: status %d, \"%s\"", patch, (int)got, err.message);
    assert_null(model);
    lt_checkpoint_close(&ck);
}

static void accept(const char *golden, const char *patch)
{
    struct lt_checkpoint ck;
    open_golden(&ck, golden);
    patch_config(&ck, patch);
    lt_model_destroy(open_model(&ck));
    lt_checkpoint_close(&ck);
}

static const char LLAMA[] = "goldens/llama-tiny", GPT2[] = "goldens/gpt2-tiny";

/* ---- what is read ---- */

static void llama_numbers(void **state)
{
    (void)state;
    struct lt_checkpoint ck;
    open_golden(&ck, LLAMA);
    struct lt_model *m = open_model(&ck);
    assert_string_equal(m->arch->name, "llama");
    assert_string_equal(m->name_or_path, "name");
    assert_int_equal(m->layers, 3);
    assert_int_equal(m->hidden, 64);
    assert_int_equal(m->vocab, 320);
    assert_int_equal(m->heads, 4);
    assert_int_equal(m->kv_heads, 2);
    assert_int_equal(m->head_dim, 16);
    assert_int_equal(m->max_positions, 256);
    assert_int_equal(m->table_positions, 256);
    assert_int_equal(m->rope_tables, 1);
    assert_int_equal(m->rotary, 16);
    assert_int_equal(m->bos_id, 1);
    assert_int_equal(m->eos_count, 1);
    assert_int_equal(m->eos_ids[0], 2);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

static void gpt2_numbers(void **state)
{
    (void)state;
    struct lt_checkpoint ck;
    open_golden(&ck, GPT2);
    struct lt_model *m = open_model(&ck);
    assert_string_equal(m->arch->name, "gpt2");
    assert_int_equal(m->layers, 2);
    assert_int_equal(m->hidden, 48);
    assert_int_equal(m->heads, 4);
    assert_int_equal(m->kv_heads, 4);
    assert_int_equal(m->head_dim, 12);
    assert_int_equal(m->max_positions, 64);
    assert_int_equal(m->rope_tables, 0);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

/* The same model whatever version of transformers wrote the file, and with every optional key left out. */
static void spellings(void **state)
{
    (void)state;
    static const char *const optional[] = {"head_dim",
                                           "attention_bias",
                                           "mlp_bias",
                                           "attention_dropout",
                                           "hidden_act",
                                           "bos_token_id",
                                           "eos_token_id",
                                           "architectures",
                                           "rope_parameters",
                                           "tie_word_embeddings",
                                           "max_position_embeddings"};
    char path[1024];
    struct lt_error err = {0};
    struct lt_checkpoint ck;
    float new_row[8], old_row[8];
    open_golden(&ck, "goldens/archs/llama31");
    struct lt_model *m = open_model(&ck);
    assert_true(lt_fixture_path(path, sizeof path, "goldens/archs/llama31/config-4x.json"));
    json_decref(ck.config);
    ck.config = NULL;
    assert_int_equal(lt_json_load(&ck.config, path, &err), LT_OK);
    struct lt_model *old = open_model(&ck);
    for (int64_t p = 0; p < 128; p++) {
        m->rope_fill(m, 0, p, new_row);
        old->rope_fill(old, 0, p, old_row);
        assert_memory_equal(new_row, old_row, sizeof new_row);
    }
    lt_model_destroy(m);
    lt_model_destroy(old);
    lt_checkpoint_close(&ck);

    open_golden(&ck, LLAMA);
    remove_keys(&ck, optional, sizeof optional / sizeof *optional);
    m = open_model(&ck);
    assert_int_equal(m->head_dim, 16);
    assert_int_equal(m->bos_id, 1);
    assert_int_equal(m->eos_ids[0], 2);
    assert_int_equal(m->max_positions, 2048);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

static void gpt2_aliases(void **state)
{
    (void)state;
    struct lt_checkpoint ck;
    static const char *const keys[] = {"n_embd",      "n_layer", "n_head",
                                       "n_positions", "n_inner", "eos_token_id"};
    open_golden(&ck, GPT2);
    remove_keys(&ck, keys, sizeof keys / sizeof *keys);
    patch_config(&ck, "{\"hidden_size\": 48, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                      "\"max_position_embeddings\": 64, \"n_ctx\": 64}");
    struct lt_model *m = open_model(&ck);
    assert_int_equal(m->layers, 2);
    assert_int_equal(m->hidden, 48);
    assert_int_equal(m->eos_count,
                     1); /* generation_config.json; the class default 50256 is outside this vocabulary */
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

/* A folder with the golden's weights and files of the test's own. */
static void copy_with(char *dir, size_t size, const char *name, const char *golden, const char *generation)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char from[1024], to[1024];
    struct lt_error err = {0};
    lt_snprintf(dir, size, "%s/%s", lt_test_temp_dir(), name);
    assert_int_equal(lt_dir_create(dir, &err), LT_OK);
    for (int i = 0; i < 2; i++) {
        lt_snprintf(to, sizeof to, "%s/%s", golden, files[i]);
        if (!lt_fixture_path(from, sizeof from, to))
            lt_test_skip_missing(golden);
        lt_snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        assert_int_equal(lt_file_copy(from, to, &err), LT_OK);
    }
    lt_snprintf(to, sizeof to, "%s/generation_config.json", dir);
    assert_int_equal(lt_file_write_atomic(to, generation, strlen(generation), &err), LT_OK);
}

static void end_ids(void **state)
{
    (void)state;
    char dir[512];
    struct lt_checkpoint ck;
    struct lt_model *m;
    struct lt_error err = {0};
    copy_with(dir, sizeof dir, "ids", LLAMA, "{\"eos_token_id\": [7, 9, 100000, -3, 11]}");
    assert_int_equal(lt_checkpoint_open(&ck, dir, &err), LT_OK);
    patch_config(&ck, "{\"eos_token_id\": [3, 4], \"bos_token_id\": null}");
    m = open_model(&ck);
    assert_int_equal(m->bos_id, -1);
    assert_int_equal(m->eos_count, 3); /* ids outside the vocabulary never come up */
    assert_int_equal(m->eos_ids[0], 7);
    assert_int_equal(m->eos_ids[2], 11);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);

    copy_with(dir, sizeof dir, "ids", LLAMA, "{\"eos_token_id\": null}");
    assert_int_equal(lt_checkpoint_open(&ck, dir, &err), LT_OK);
    patch_config(&ck, "{\"eos_token_id\": [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}");
    m = open_model(&ck);
    assert_int_equal(m->eos_count, 8);
    assert_int_equal(m->eos_ids[7], 10);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);

    copy_with(dir, sizeof dir, "ids", LLAMA, "{\"eos_token_id\": \"</s>\"}");
    assert_int_equal(lt_checkpoint_open(&ck, dir, &err), LT_OK);
    assert_int_equal(lt_model_open(&m, &ck, "name", &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "generation_config.json: eos_token_id"));
    lt_checkpoint_close(&ck);
}

/* ---- what is refused ---- */

static void unsupported(void **state)
{
    (void)state;
    refuse("goldens/archs/smollm2",
           "{\"architectures\": [\"MistralForCausalLM\"], \"model_type\": \"mistral\"}", LT_ERR_UNSUPPORTED,
           "\"MistralForCausalLM\", which is not supported; supported are: LlamaForCausalLM");
    refuse(LLAMA, "{\"architectures\": null, \"model_type\": \"t5\"}", LT_ERR_UNSUPPORTED,
           "model_type is \"t5\"");
    refuse(LLAMA, "{\"model_type\": \"mistral\"}", LT_ERR_UNSUPPORTED, "model_type is \"mistral\"");
    refuse(LLAMA, "{\"architectures\": [], \"model_type\": null}", LT_ERR_FORMAT, "neither architectures");
    refuse(LLAMA, "{\"sliding_window\": 4096}", LT_ERR_UNSUPPORTED, "sliding_window is 4096");
    refuse(LLAMA, "{\"layer_types\": [\"sliding_attention\"]}", LT_ERR_UNSUPPORTED, "layer_types");
    refuse(LLAMA, "{\"attn_logit_softcapping\": 50.0}", LT_ERR_UNSUPPORTED, "attn_logit_softcapping is 50.0");
    refuse(LLAMA, "{\"embedding_multiplier\": 12}", LT_ERR_UNSUPPORTED, "embedding_multiplier is 12");
    refuse(LLAMA, "{\"rope_interleaved\": true}", LT_ERR_UNSUPPORTED, "rope_interleaved is true");
    refuse(LLAMA, "{\"hidden_act\": \"gelu_fast\"}", LT_ERR_UNSUPPORTED, "hidden_act is \"gelu_fast\"");
    refuse(GPT2, "{\"add_cross_attention\": true}", LT_ERR_UNSUPPORTED, "add_cross_attention is true");
    refuse(GPT2, "{\"pruned_heads\": {\"0\": [1]}}", LT_ERR_UNSUPPORTED, "pruned_heads");
    refuse(LLAMA, "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4}}", LT_ERR_UNSUPPORTED,
           "quantized with \"gptq\"; give the unquantized checkpoint");
    refuse(
        LLAMA,
        "{\"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true, \"load_in_4bit\": true}}",
        LT_ERR_FORMAT, "either load_in_4bit or load_in_8bit");
    refuse(LLAMA, "{\"quantization_config\": []}", LT_ERR_FORMAT, "quantization_config must be an object");

    accept(LLAMA, "{\"sliding_window\": 4096, \"use_sliding_window\": false, \"max_window_layers\": 2}");
    accept(LLAMA, "{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\"]}");
    accept(LLAMA,
           "{\"embedding_multiplier\": 1.0, \"attn_logit_softcapping\": null, \"rope_interleaved\": false, "
           "\"pretraining_tp\": 2}");
    accept(LLAMA, "{\"hidden_act\": \"gelu_pytorch_tanh\", \"attention_dropout\": 0.1}");
    accept(GPT2, "{\"activation_function\": \"relu\", \"resid_pdrop\": 0.3, \"scale_attn_weights\": false}");
}

static void hostile_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *golden, *patch;
        enum lt_status status;
        const char *part;
    } cases[] = {
        {LLAMA, "{\"num_hidden_layers\": 0}", LT_ERR_FORMAT, "num_hidden_layers is 0"},
        {LLAMA, "{\"num_hidden_layers\": 1000000000}", LT_ERR_FORMAT, "num_hidden_layers is 1000000000"},
        {LLAMA, "{\"num_hidden_layers\": 4000}", LT_ERR_FORMAT,
         "model.layers.3.input_layernorm.weight is missing"},
        {LLAMA, "{\"num_hidden_layers\": -1}", LT_ERR_FORMAT, "num_hidden_layers is -1"},
        {LLAMA, "{\"num_hidden_layers\": 3.0}", LT_ERR_FORMAT, "num_hidden_layers must be"},
        {LLAMA, "{\"num_hidden_layers\": null}", LT_ERR_FORMAT, "num_hidden_layers is missing"},
        {LLAMA, "{\"vocab_size\": 0}", LT_ERR_FORMAT, "vocab_size is 0"},
        {LLAMA, "{\"vocab_size\": 4294967297}", LT_ERR_FORMAT, "vocab_size is 4294967297"},
        {LLAMA, "{\"vocab_size\": 321}", LT_ERR_FORMAT,
         "has shape [320, 64], but config.json makes it [321, 64]"},
        {LLAMA, "{\"hidden_size\": 9223372036854775807}", LT_ERR_FORMAT,
         "hidden_size is 9223372036854775807"},
        {LLAMA, "{\"hidden_size\": 1e300}", LT_ERR_FORMAT, "hidden_size must be"},
        {LLAMA, "{\"hidden_size\": 60, \"head_dim\": null, \"num_attention_heads\": 8}", LT_ERR_FORMAT,
         "hidden_size 60 is not a multiple"},
        {LLAMA, "{\"num_attention_heads\": 3}", LT_ERR_FORMAT, "is not a multiple of num_key_value_heads 2"},
        {LLAMA, "{\"num_attention_heads\": 1000000}", LT_ERR_FORMAT, "num_attention_heads is 1000000"},
        {LLAMA, "{\"num_key_value_heads\": 0}", LT_ERR_FORMAT, "num_key_value_heads is 0"},
        {LLAMA, "{\"head_dim\": 1048576}", LT_ERR_FORMAT, "head_dim is 1048576"},
        {LLAMA, "{\"head_dim\": 15}", LT_ERR_FORMAT, "would be rotated"},
        {LLAMA, "{\"head_dim\": 18}", LT_ERR_FORMAT, "config.json makes it [72, 64]"},
        {LLAMA, "{\"intermediate_size\": 177}", LT_ERR_FORMAT, "config.json makes it [177, 64]"},
        {LLAMA, "{\"max_position_embeddings\": 0}", LT_ERR_FORMAT, "max_position_embeddings is 0"},
        {LLAMA, "{\"max_position_embeddings\": 99999999999}", LT_ERR_FORMAT, "max_position_embeddings"},
        {LLAMA, "{\"rms_norm_eps\": 0}", LT_ERR_FORMAT, "rms_norm_eps is 0"},
        {LLAMA, "{\"rms_norm_eps\": \"1e-5\"}", LT_ERR_FORMAT, "rms_norm_eps must be"},
        {LLAMA, "{\"attention_dropout\": 1.0}", LT_ERR_FORMAT, "attention_dropout is 1"},
        {LLAMA, "{\"tie_word_embeddings\": 1}", LT_ERR_FORMAT, "tie_word_embeddings must be"},
        {LLAMA, "{\"eos_token_id\": [1, \"2\"]}", LT_ERR_FORMAT, "eos_token_id must be"},
        {LLAMA, "{\"attention_bias\": true}", LT_ERR_FORMAT, "self_attn.q_proj.bias is missing"},
        {LLAMA, "{\"mlp_bias\": true}", LT_ERR_FORMAT, "mlp.gate_proj.bias is missing"},
        {"goldens/archs/smollm2", "{\"tie_word_embeddings\": false}", LT_ERR_FORMAT,
         "model.safetensors: tensor lm_head.weight is missing: the checkpoint is incomplete"},
        {"goldens/archs/llama31", "{\"num_hidden_layers\": 3}", LT_ERR_FORMAT,
         "model.safetensors.index.json: tensor model.layers.2."},
        {GPT2, "{\"n_embd\": 50}", LT_ERR_FORMAT, "n_embd 50 is not a multiple of n_head 4"},
        {GPT2, "{\"n_layer\": 0}", LT_ERR_FORMAT, "n_layer is 0"},
        {GPT2, "{\"n_positions\": 65}", LT_ERR_FORMAT, "config.json makes it [65, 48]"},
        {GPT2, "{\"n_inner\": 100}", LT_ERR_FORMAT, "config.json makes it [48, 100]"},
        {GPT2, "{\"resid_pdrop\": -0.1}", LT_ERR_FORMAT, "resid_pdrop"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(cases[i].golden, cases[i].patch, cases[i].status, cases[i].part);
}

/* ---- warnings ---- */

static char last_warning[512];

static void remember(void *user, enum lt_log_level level, const char *message)
{
    (void)user;
    if (level == LT_LOG_WARNING)
        lt_snprintf(last_warning, sizeof last_warning, "%s", message);
}

static void warnings(void **state)
{
    (void)state;
    lt_log_set(remember, NULL);
    accept(LLAMA, "{\"rope_theta\": 10000.0, \"torch_dtype\": \"float32\", \"custom_thing\": null}");
    accept(GPT2, "{}");
    assert_string_equal(last_warning, "");
    accept(LLAMA, "{\"custom_thing\": 3}");
    assert_non_null(strstr(last_warning, "\"custom_thing\" is not known"));
    accept(LLAMA, "{\"num_hidden_layers\": 2}");
    assert_non_null(strstr(last_warning, "9 tensors of the checkpoint are no part of a LlamaForCausalLM"));
    assert_non_null(strstr(last_warning, "the first is model.layers.2."));
    lt_log_set(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_numbers),   cmocka_unit_test(gpt2_numbers), cmocka_unit_test(spellings),
        cmocka_unit_test(gpt2_aliases),    cmocka_unit_test(end_ids),      cmocka_unit_test(unsupported),
        cmocka_unit_test(hostile_numbers), cmocka_unit_test(warnings),
    };
    return cmocka_run_group_tests_name("model_config", tests, NULL, NULL);
}
