/* Chat templates: recognition and rendering against Jinja (recorded in tests/golden/data/tokenizers), the
 * public templates of models, and Ollama's renderings. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/io/json.h"
#include "models/chat_template.h"
#include "tests/support/fixtures.h"

#define OLLAMA "data/ollama+ollama/template/testdata/"
#define TEMPLATES "data/ggerganov+llama.cpp/models/templates"

/* ---- tokenizers with a given template ---- */

static const char *temp_path(const char *name)
{
    static char path[4096];
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    return path;
}

static void write_text(const char *name, const char *text)
{
    struct lt_error err = {0};
    struct lt_file_appender file;
    if (lt_file_appender_open(&file, temp_path(name), true, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(lt_file_appender_put(&file, text, strlen(text), &err), LT_OK);
    lt_file_appender_close(&file);
}

/* text NULL: no template. */
static struct lt_tokenizer *make_tokenizer(const char *text)
{
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    assert_int_equal(lt_dir_remove_tree(temp_path("tok"), &err), LT_OK);
    assert_int_equal(lt_dir_create(temp_path("tok"), &err), LT_OK);
    write_text("tok/tokenizer.json",
               "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"</s>\":1,\"<|im_end|>\":2},"
               "\"merges\":[]}}");
    write_text("tok/tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}");
    if (text)
        write_text("tok/chat_template.jinja", text);
    if (lt_tokenizer_load(&tok, temp_path("tok"), &err) != LT_OK)
        fail_msg("%s", err.message);
    return tok;
}

/* The family found in a template text, or -1 when it is refused. */
static int recognised(const char *text)
{
    struct lt_tokenizer *tok = make_tokenizer(text);
    struct lt_chat_template ct;
    struct lt_error err = {0};
    enum lt_status status = lt_chat_template_init(&ct, tok, NULL, &err);
    int family = status == LT_OK ? (int)ct.family : -1;
    if (status != LT_OK) {
        assert_int_equal(status, LT_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, "the template begins: "));
    }
    lt_chat_template_deinit(&ct);
    lt_tokenizer_destroy(tok);
    return family;
}

/* Each span holds an assistant's turn with its end and nothing else. */
static void check_spans(const struct lt_chat_template *ct, const struct lt_chat_message *messages, size_t n,
                        const struct lt_strbuf *text, const struct lt_chat_span *spans, size_t count)
{
    size_t k = 0, after = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(messages[i].role, "assistant") != 0)
            continue;
        assert_true(k < count);
        struct lt_chat_span s = spans[k++];
        const char *end = ct->family == LT_CHAT_CHATML ? "<|im_end|>" : ct->eos;
        const char *before = ct->family == LT_CHAT_CHATML ? "<|im_start|>assistant\n" : " [/INST]";
        assert_true(s.begin >= after && s.begin >= strlen(before) && s.end <= text->len &&
                    s.end - s.begin >= strlen(end));
        assert_memory_equal(text->data + s.begin - strlen(before), before, strlen(before));
        assert_memory_equal(text->data + s.end - strlen(end), end, strlen(end));
        if (ct->family == LT_CHAT_CHATML) {
            assert_int_equal(s.end - s.begin, strlen(messages[i].content) + strlen(end));
            assert_memory_equal(text->data + s.begin, messages[i].content, strlen(messages[i].content));
        }
        after = s.end;
    }
    assert_int_equal(k, count);
}

static void check_rendering(const struct lt_chat_template *ct, const struct lt_chat_message *messages,
                            size_t n, bool prompt, const char *want)
{
    struct lt_strbuf text = {0};
    struct lt_chat_span *spans;
    size_t count;
    struct lt_error err = {0};
    if (lt_chat_template_render(ct, messages, n, prompt, &text, &spans, &count, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_string_equal(lt_strbuf_str(&text), want);
    check_spans(ct, messages, n, &text, spans, count);
    lt_free(spans);
    lt_strbuf_deinit(&text);
}

/* ---- recorded renderings ---- */

static json_t *load_json(const char *relative)
{
    char path[4096];
    struct lt_error err = {0};
    json_t *v;
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    if (lt_json_load(&v, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    return v;
}

static size_t read_messages(struct lt_chat_message out[8], const json_t *list)
{
    size_t n = json_array_size(list);
    assert_true(n <= 8);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, i);
        out[i].role = json_string_value(json_object_get(m, "role"));
        out[i].content = json_string_value(json_object_get(m, "content"));
        assert_true(out[i].role && out[i].content);
    }
    return n;
}

static void check_known(const char *family, const char *text, const json_t *cases)
{
    struct lt_tokenizer *tok = make_tokenizer(text);
    struct lt_chat_template ct;
    struct lt_error err = {0};
    if (lt_chat_template_init(&ct, tok, NULL, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(ct.family, strcmp(family, "llama-2") == 0 ? LT_CHAT_LLAMA2 : LT_CHAT_CHATML);
    assert_int_equal(lt_chat_template_end_id(&ct, tok), ct.family == LT_CHAT_LLAMA2 ? 1 : 2);
    assert_int_equal(json_array_size(cases), 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        struct lt_chat_message messages[8];
        size_t n = read_messages(messages, json_object_get(c, "messages"));
        check_rendering(&ct, messages, n, json_is_true(json_object_get(c, "add_generation_prompt")),
                        json_string_value(json_object_get(c, "rendered")));
    }
    lt_chat_template_deinit(&ct);
    lt_tokenizer_destroy(tok);
}

static void test_recorded_renderings(void **state)
{
    (void)state;
    json_t *root = load_json("goldens/tokenizers/chat.json");
    const json_t *templates = json_object_get(root, "templates");
    size_t known = 0, refused = 0;
    for (size_t i = 0; i < json_array_size(templates); i++) {
        const json_t *t = json_array_get(templates, i);
        const char *family = json_string_value(json_object_get(t, "family"));
        const char *text = json_string_value(json_object_get(t, "template"));
        if (family) {
            check_known(family, text, json_object_get(t, "cases"));
            known++;
        } else {
            if (recognised(text) != -1)
                fail_msg("taken for a known template: %s", text);
            refused++;
        }
    }
    assert_int_equal(known, 7);
    assert_true(refused >= 20);
    json_decref(root);
}

/* ---- templates of public models ---- */

static void test_model_templates(void **state)
{
    (void)state;
    char folder[4096], path[8192], **names;
    size_t count;
    struct lt_error err = {0};
    if (!lt_fixture_path(folder, sizeof folder, TEMPLATES))
        lt_test_skip_missing(TEMPLATES);
    assert_int_equal(lt_dir_list(folder, &names, &count, &err), LT_OK);
    assert_true(count >= 17);
    for (size_t i = 0; i < count; i++) {
        char *text;
        size_t size;
        lt_snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(lt_file_read(path, 1 << 20, &text, &size, &err), LT_OK);
        int want = strncmp(names[i], "Qwen-Qwen2.5", 12) == 0 ? (int)LT_CHAT_CHATML : -1;
        if (recognised(text) != want)
            fail_msg("%s", names[i]);
        lt_free(text);
    }
    lt_dir_list_free(names, count);
}

static void test_qwen25_default_system(void **state)
{
    (void)state;
    char path[4096], *text;
    size_t size;
    struct lt_error err = {0};
    struct lt_chat_template ct;
    static const char file[] = TEMPLATES "/Qwen-Qwen2.5-7B-Instruct.jinja";
    static const struct lt_chat_message messages[] = {{"user", "Hi"}, {"assistant", "Ho"}};
    if (!lt_fixture_path(path, sizeof path, file))
        lt_test_skip_missing(file);
    assert_int_equal(lt_file_read(path, 1 << 20, &text, &size, &err), LT_OK);
    struct lt_tokenizer *tok = make_tokenizer(text);
    assert_int_equal(lt_chat_template_init(&ct, tok, NULL, &err), LT_OK);
    check_rendering(
        &ct, messages, 2, false,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n");
    lt_chat_template_deinit(&ct);
    lt_tokenizer_destroy(tok);
    lt_free(text);
}

/* Ollama's list of model templates with the family it gives them.  Some that it calls chatml render
 * something else than ChatML (no role for the assistant, a system text without marks, a final eos); those
 * must be refused. */
static void test_ollama_templates(void **state)
{
    (void)state;
    static const int chatml[] = {0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1};
    char path[4096], *lines;
    size_t size, seen = 0;
    struct lt_error err = {0};
    if (!lt_fixture_path(path, sizeof path, OLLAMA "templates.jsonl"))
        lt_test_skip_missing(OLLAMA "templates.jsonl");
    assert_int_equal(lt_file_read(path, 1 << 20, &lines, &size, &err), LT_OK);
    for (char *line = lines, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        json_t *row;
        assert_int_equal(lt_json_parse(&row, line, (size_t)(end - line), "templates.jsonl", &err), LT_OK);
        const char *name = json_object_iter_key(json_object_iter(row));
        int want = -1;
        if (strcmp(name, "llama2-chat") == 0)
            want = LT_CHAT_LLAMA2;
        else if (strcmp(name, "chatml") == 0 && seen < sizeof chatml / sizeof *chatml)
            want = chatml[seen++] ? (int)LT_CHAT_CHATML : -1;
        if (recognised(json_string_value(json_object_get(row, name))) != want)
            fail_msg("%s %zu", name, seen);
        json_decref(row);
        end += *end == '\n';
    }
    assert_int_equal(seen, sizeof chatml / sizeof *chatml);
    lt_free(lines);
}

/* ---- Ollama's renderings: ChatML is ours; Llama 2 has no bos and other spaces after the first turn ---- */

static const struct lt_chat_message talk[] = {
    {"system", "You are a helpful assistant."},
    {"user", "Hello, how are you?"},
    {"assistant", "I'm doing great. How can I help you today?"},
    {"user", "I'd like to show off how chat templating works!"},
};

static char *read_ollama(const char *file)
{
    char path[4096], *text;
    size_t size;
    struct lt_error err = {0};
    if (!lt_fixture_path(path, sizeof path, file))
        lt_test_skip_missing(file);
    assert_int_equal(lt_file_read(path, 1 << 20, &text, &size, &err), LT_OK);
    return text;
}

static void test_ollama_renderings(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        size_t first, count;
    } cases[] = {
        {OLLAMA "chatml.gotmpl/user", 1, 1},
        {OLLAMA "chatml.gotmpl/user-assistant-user", 1, 3},
        {OLLAMA "chatml.gotmpl/system-user-assistant-user", 0, 4},
    };
    struct lt_chat_template ct;
    struct lt_error err = {0};
    struct lt_strbuf text = {0};
    char *whole = read_ollama(OLLAMA "llama2-chat.gotmpl/system-user-assistant-user");
    struct lt_tokenizer *tok = make_tokenizer(NULL);
    assert_int_equal(lt_chat_template_init(&ct, tok, "chatml", &err), LT_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *want = read_ollama(cases[i].file);
        check_rendering(&ct, talk + cases[i].first, cases[i].count, true, want);
        lt_free(want);
    }
    lt_chat_template_deinit(&ct);
    assert_int_equal(lt_chat_template_init(&ct, tok, "llama-2", &err), LT_OK);
    assert_int_equal(lt_chat_template_render(&ct, talk, 2, true, &text, NULL, NULL, &err), LT_OK);
    assert_memory_equal(text.data, "<s>", 3);
    assert_true(text.len > 80);
    assert_memory_equal(whole, text.data + 3, text.len - 3); /* the first turn */
    lt_strbuf_deinit(&text);
    lt_chat_template_deinit(&ct);
    lt_tokenizer_destroy(tok);
    lt_free(whole);
}

/* ---- names and mistakes ---- */

static void expect_error(const struct lt_chat_template *ct, const struct lt_chat_message *messages, size_t n,
                         const char *says)
{
    struct lt_strbuf text = {0};
    struct lt_chat_span *spans;
    size_t count;
    struct lt_error err = {0};
    assert_int_equal(lt_chat_template_render(ct, messages, n, false, &text, &spans, &count, &err),
                     LT_ERR_FORMAT);
    if (!strstr(err.message, says))
        fail_msg("%s", err.message);
    assert_null(spans);
    lt_strbuf_deinit(&text);
}

static void test_names_and_mistakes(void **state)
{
    (void)state;
    static const struct lt_chat_message late_system[] = {{"user", "a"}, {"system", "b"}};
    static const struct lt_chat_message tool[] = {{"user", "a"}, {"tool", "b"}};
    static const struct lt_chat_message starts_wrong[] = {{"assistant", "a"}};
    static const struct lt_chat_message only_system[] = {{"system", "a"}};
    struct lt_chat_template ct;
    struct lt_error err = {0};
    struct lt_tokenizer *tok = make_tokenizer(NULL);
    assert_int_equal(lt_chat_template_init(&ct, tok, NULL, &err), LT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "llama-2 or chatml"));
    assert_int_equal(lt_chat_template_init(&ct, tok, "zephyr", &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "zephyr"));

    assert_int_equal(lt_chat_template_init(&ct, tok, "llama-2", &err), LT_OK);
    expect_error(&ct, late_system, 2, "message 2 has the role \"system\"");
    expect_error(&ct, starts_wrong, 1, "needs \"user\"");
    expect_error(&ct, only_system, 1, "no user message");
    expect_error(&ct, NULL, 0, "no user message");
    check_rendering(
        &ct, talk, 4, true,
        "<s>[INST] <<SYS>>\nYou are a helpful assistant.\n<</SYS>>\n\nHello, how are you? [/INST]"
        " I'm doing great. "
        "How can I help you today? </s><s>[INST] I'd like to show off how chat templating works! [/INST]");
    lt_chat_template_deinit(&ct);

    assert_int_equal(lt_chat_template_init(&ct, tok, "chatml", &err), LT_OK);
    assert_null(ct.default_system);
    expect_error(&ct, tool, 2, "message 2 has the role \"tool\"");
    expect_error(&ct, NULL, 0, "no messages");
    check_rendering(&ct, late_system, 2, false,
                    "<|im_start|>user\na<|im_end|>\n<|im_start|>system\nb<|im_end|>\n");
    lt_chat_template_deinit(&ct);
    lt_tokenizer_destroy(tok);
}

/* Texts that are no template, or a broken one, are refused without harm. */
static void test_broken_templates(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "hello",
        "{",
        "{{",
        "{%",
        "{#",
        "{{ 'a }}",
        "{% if",
        "{%- -%}",
        "{{}}",
        "{{ a + }}",
        "{{ + }}",
        "{{ '\\q' }}",
        "{% if tools %}",
        "{% if tools %}{% else %}",
        "{% endif %}",
        "{{ [ }}",
        "{{ a['b }}",
        "{% raw %}{{{% endraw %}",
        "\001'<|im_start|>\001",
        "{{ '\002' }}",
        "{# never ends",
        "{{ a -}",
        "{% for message in messages %}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(recognised(texts[i]), -1);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    static const char text[] =
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    struct lt_tokenizer *tok = make_tokenizer(text);
    static const char *const names[] = {NULL, "llama-2"};
    for (size_t i = 0; i < 2; i++) {
        bool done = false;
        for (long n = 1; !done; n++) {
            struct lt_chat_template ct;
            struct lt_strbuf out = {0};
            struct lt_chat_span *spans = NULL;
            size_t count;
            struct lt_error err = {0};
            lt_alloc_fail_at(n);
            enum lt_status status = lt_chat_template_init(&ct, tok, names[i], &err);
            if (status == LT_OK)
                status = lt_chat_template_render(&ct, talk, 4, true, &out, &spans, &count, &err);
            done = lt_alloc_count() < n;
            lt_alloc_fail_at(0);
            assert_int_equal(status, done ? LT_OK : LT_ERR_NOMEM);
            lt_free(spans);
            lt_strbuf_deinit(&out);
            lt_chat_template_deinit(&ct);
        }
    }
    lt_tokenizer_destroy(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_renderings),   cmocka_unit_test(test_model_templates),
        cmocka_unit_test(test_qwen25_default_system), cmocka_unit_test(test_ollama_templates),
        cmocka_unit_test(test_ollama_renderings),     cmocka_unit_test(test_names_and_mistakes),
        cmocka_unit_test(test_broken_templates),      cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests_name("chat templates", tests, NULL, NULL);
}
