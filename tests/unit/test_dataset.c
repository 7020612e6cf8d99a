/* Datasets: files and rows that are read, those that are refused, tokens, labels, cutting, splitting. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/base/system.h"
#include "core/data/dataset.h"
#include "tests/support/fixtures.h"

/* ---- a tokenizer of bytes: BOS 1, EOS 2 ("</s>"), "ab" is one token, any other byte c is c + 3 ---- */

enum { BOS = 1, EOS = 2, AB = 300, VOCAB = 301 };

static enum lt_status toy_encode(void *user, const char *text, size_t len, bool add_special, int32_t **ids,
                                 size_t *count, struct lt_error *err)
{
    (void)user;
    size_t n = 0;
    int32_t *out = lt_alloc_array(len + 1, sizeof *out);

    if (out == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory");
    if (add_special)
        out[n++] = BOS;
    for (size_t i = 0; i < len;) {
        if (len - i >= 4 && memcmp(text + i, "</s>", 4) == 0) {
            out[n++] = EOS;
            i += 4;
        } else if (len - i >= 2 && memcmp(text + i, "ab", 2) == 0) {
            out[n++] = AB;
            i += 2;
        } else {
            out[n++] = (unsigned char)text[i++] + 3;
        }
    }
    *ids = out;
    *count = n;
    return LT_OK;
}

/* "u:content</s>\n" a message; trained is the content of assistants with its "</s>". */
static enum lt_status toy_render(void *user, const struct lt_data_message *messages, size_t n,
                                 struct lt_strbuf *text, size_t **spans, size_t *span_count,
                                 struct lt_error *err)
{
    (void)user;
    size_t count = 0;
    size_t *pairs = lt_alloc_array(2 * n, sizeof *pairs);

    if (pairs == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        if (strcmp(messages[i].role, "user") != 0 && strcmp(messages[i].role, "assistant") != 0) {
            lt_free(pairs);
            return lt_fail(err, LT_ERR_FORMAT, "unknown role");
        }
        lt_strbuf_putc(text, messages[i].role[0]);
        lt_strbuf_putc(text, ':');
        size_t begin = text->len;
        lt_strbuf_puts(text, messages[i].content);
        lt_strbuf_puts(text, "</s>");
        if (messages[i].role[0] == 'a') {
            pairs[2 * count] = begin;
            pairs[2 * count++ + 1] = text->len;
        }
        lt_strbuf_putc(text, '\n');
    }
    *spans = pairs;
    *span_count = count;
    return LT_OK;
}

static const struct lt_data_tokenizer toy = {
    .eos_token = "</s>", .vocab_size = VOCAB, .encode = toy_encode, .render_chat = toy_render};
static const struct lt_dataset_options plain = {.max_length = 1000};

/* ---- helpers ---- */

static const char *write_file(const char *name, const void *bytes, size_t size)
{
    static char path[1024];
    struct lt_error err = {0};

    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    if (lt_file_write_atomic(path, bytes, size, &err) != LT_OK)
        fail_msg("%s", err.message);
    return path;
}

static void load_with(struct lt_dataset *ds, const char *content, const struct lt_dataset_options *opt)
{
    struct lt_error err = {0};
    if (lt_dataset_load(ds, write_file("rows.jsonl", content, strlen(content)), &toy, opt, &err) != LT_OK)
        fail_msg("%s", err.message);
}

/* `tokens` as the toy tokenizer spells them: a character a token, '^' BOS, '$' EOS, '&' "ab".  `trained` has
 * a 'x' where the token is a label. */
static void assert_example(const struct lt_example *ex, const char *tokens, const char *trained)
{
    int32_t targets = 0;

    assert_int_equal(strlen(tokens), strlen(trained));
    assert_int_equal(ex->length, strlen(tokens));
    for (int32_t i = 0; i < ex->length; i++) {
        char c = tokens[i];
        int32_t id = c == '^' ? BOS : c == '$' ? EOS : c == '&' ? AB : (unsigned char)c + 3;
        if (ex->ids[i] != id)
            fail_msg("token %d is %d, not '%c'", (int)i, (int)ex->ids[i], c);
        if (ex->labels[i] != (trained[i] == 'x' ? id : LT_LABEL_IGNORE))
            fail_msg("label %d is %d", (int)i, (int)ex->labels[i]);
        targets += i > 0 && trained[i] == 'x';
    }
    assert_int_equal(ex->targets, targets);
}

static void assert_rows(const char *content, const struct lt_dataset_options *opt, size_t n, ...)
{
    struct lt_dataset ds;
    va_list args;

    load_with(&ds, content, opt);
    assert_int_equal(ds.count, n);
    va_start(args, n);
    for (size_t i = 0; i < n; i++) {
        const char *tokens = va_arg(args, const char *);
        assert_example(&ds.examples[i], tokens, va_arg(args, const char *));
    }
    va_end(args);
    lt_dataset_deinit(&ds);
}

/* ---- kinds and labels ---- */

static void completions(void **state)
{
    (void)state;
    const struct lt_dataset_options all = {.max_length = 1000, .train_on_prompt = true};
    const char *rows = "{\"prompt\": \"pq\", \"completion\": \"c\"}\n"
                       "{\"prompt\": \"pq\", \"completion\": \"c</s>\"}\n"
                       "{\"prompt\": \"xa\", \"completion\": \"bc\", \"id\": 7}\n"
                       "{\"prompt\": \"p\", \"completion\": \"\"}\n"
                       "{\"prompt\": \"\", \"completion\": \"cd\"}\n";
    assert_rows(rows, &plain, 5, "^pqc$", "   xx", "^pqc$", "   xx", "^x&c$", "  xxx", "^p$", "  x", "^cd$",
                " xxx");
    assert_rows(rows, &all, 5, "^pqc$", "xxxxx", "^pqc$", "xxxxx", "^x&c$", "xxxxx", "^p$", "xxx", "^cd$",
                "xxxx");
}

static void without_eos(void **state)
{
    (void)state;
    struct lt_data_tokenizer tok = toy;
    struct lt_dataset ds;
    struct lt_error err = {0};
    const char rows[] =
        "{\"prompt\": \"p\", \"completion\": \"c\"}\n{\"prompt\": \"p\", \"completion\": \"\"}";

    tok.eos_token = NULL;
    assert_int_equal(
        lt_dataset_load(&ds, write_file("rows.jsonl", rows, sizeof rows - 1), &tok, &plain, &err), LT_OK);
    assert_int_equal(ds.count, 1);
    assert_int_equal(ds.rows, 2);
    assert_int_equal(ds.dropped, 1); /* the second has nothing to train */
    assert_int_equal(ds.truncated, 0);
    assert_example(&ds.examples[0], "^pc", "  x");
    lt_dataset_deinit(&ds);
}

static void alpaca_prompts(void **state)
{
    (void)state;
    struct lt_strbuf sb;
    const char *expected[2][2] = {
        {"### Instruction:\nDo it\n\n### Response:\n",
         "### Instruction:\nDo it\n\n### Input:\nthis\n\n### Response:\n"},
        {"Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
         "### Instruction:\nDo it\n\n### Response:",
         "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
         "response that appropriately completes the request.\n\n### Instruction:\nDo it\n\n### Input:\nthis\n\n"
         "### Response:"}};
    lt_strbuf_init(&sb);
    for (int form = 0; form < 2; form++)
        for (int with_input = 0; with_input < 3; with_input++) {
            const char *inputs[] = {NULL, "this", ""};
            lt_strbuf_clear(&sb);
            assert_int_equal(
                lt_alpaca_prompt(&sb, (enum lt_alpaca_form)form, "Do it", inputs[with_input], NULL), LT_OK);
            assert_string_equal(lt_strbuf_str(&sb), expected[form][with_input == 1]);
        }
    lt_strbuf_deinit(&sb);
}

static void alpaca_rows(void **state)
{
    (void)state;
    struct lt_dataset ds;
    const struct lt_dataset_options keep = {.max_length = 1000, .keep_text = true};

    load_with(
        &ds,
        "{\"instruction\": \"I\", \"input\": \"\", \"output\": \"O\", \"text\": \"of another column\"}\n"
        "{\"instruction\": \"I\", \"input\": null, \"output\": \"O\"}\n"
        "{\"instruction\": \"I\", \"output\": \"O\"}\n",
        &keep);
    assert_int_equal(ds.count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_example(&ds.examples[i], "^### Instruction:\nI\n\n### Response:\nO$",
                       "                                   xx");
        assert_string_equal(ds.examples[i].prompt, "### Instruction:\nI\n\n### Response:\n");
        assert_string_equal(ds.examples[i].completion, "O");
    }
    lt_dataset_deinit(&ds);
}

static void chat_rows(void **state)
{
    (void)state;
    const struct lt_dataset_options all = {.max_length = 1000, .train_on_prompt = true};
    const char *rows =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": "
        "\"r\"}, {\"role\": \"user\", \"content\": \"ab\"}, {\"role\": \"assistant\", \"content\": "
        "\"abs\"}], \"tools\": null}\n";
    assert_rows(rows, &plain, 1, "u:q$\na:r$\nu:&$\na:&s$\n", "       xx        xxx ");
    assert_rows(rows, &all, 1, "u:q$\na:r$\nu:&$\na:&s$\n", "xxxxxxxxxxxxxxxxxxxxx");
}

/* A template whose trained part begins and ends inside a token "ab". */
static enum lt_status straddling_render(void *user, const struct lt_data_message *messages, size_t n,
                                        struct lt_strbuf *text, size_t **spans, size_t *span_count,
                                        struct lt_error *err)
{
    (void)user, (void)n, (void)err;
    lt_strbuf_puts(text, messages[0].content);
    *spans = lt_alloc_array(2, sizeof **spans);
    if (*spans == NULL)
        return LT_ERR_NOMEM;
    (*spans)[0] = 2; /* x a|b c a|b y */
    (*spans)[1] = 5;
    *span_count = 1;
    return LT_OK;
}

static void chat_tokens_across_the_borders(void **state)
{
    (void)state;
    struct lt_data_tokenizer tok = toy;
    struct lt_dataset ds;
    struct lt_error err = {0};
    const char row[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"xabcaby\"}]}";

    tok.render_chat = straddling_render;
    if (lt_dataset_load(&ds, write_file("rows.jsonl", row, sizeof row - 1), &tok, &plain, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_example(&ds.examples[0], "x&c&y", " xx  ");
    lt_dataset_deinit(&ds);
}

static void text_and_id_rows(void **state)
{
    (void)state;
    const struct lt_dataset_options all = {.max_length = 1000, .train_on_prompt = true};
    const char *ids = "{\"input_ids\": [1, 300, 103], \"attention_mask\": [1, 1, 1], \"text\": \"unused\"}\n"
                      "{\"input_ids\": [1, 300, 103], \"labels\": [-100, -100, 103]}\n";
    assert_rows("{\"text\": \"abd\"}\n{\"text\": \"d</s>\"}", &plain, 2, "^&d$", "xxxx", "^d$", "xxx");
    assert_rows(ids, &plain, 2, "^&d", "xxx", "^&d", "  x");
    assert_rows(ids, &all, 2, "^&d", "xxx", "^&d", "  x"); /* given labels stay */
}

static void cutting(void **state)
{
    (void)state;
    const struct lt_dataset_options six = {.max_length = 6};
    const char *rows = "{\"prompt\": \"pppp\", \"completion\": \"cc\"}\n"  /* 8: one target is left */
                       "{\"prompt\": \"ppppp\", \"completion\": \"cc\"}\n" /* 9: none */
                       "{\"prompt\": \"pp\", \"completion\": \"cc\"}\n";   /* 6: whole */
    struct lt_dataset ds;

    load_with(&ds, rows, &six);
    assert_int_equal(ds.rows, 3);
    assert_int_equal(ds.count, 2);
    assert_int_equal(ds.truncated, 1);
    assert_int_equal(ds.dropped, 1);
    assert_int_equal(ds.longest, 6);
    assert_int_equal(ds.longest_before, 9);
    assert_int_equal(ds.tokens, 12);
    assert_int_equal(ds.targets, 1 + 3);
    assert_example(&ds.examples[0], "^ppppc", "     x");
    assert_example(&ds.examples[1], "^ppcc$", "   xxx");
    assert_null(ds.examples[0].prompt);
    lt_dataset_deinit(&ds);
}

/* ---- files ---- */

static void ways_to_write_a_file(void **state)
{
    (void)state;
    const char *files[] = {
        "{\"text\": \"a\"}\n{\"text\": \"b\"}",
        "\xef\xbb\xbf{\"text\": \"a\"}\r\n\r\n  \t\r\n{\"text\": \"b\"}\r\n",
        "\n\n  {\"text\": \"a\"}  \n{\"text\":\t\"b\"}\n\n",
        "[{\"text\": \"a\"}, {\"text\": \"b\"}]",
        ("\xef\xbb\xbf\r\n[\r\n  {\r\n    \"text\": \"a\",\r\n    \"x\": [1, {\"y\": \"]}\\\"\"}]\r\n"
         "  },\r\n  {\"text\": \"b\"}\r\n]\r\n"),
        "[{\"text\":\"a\"},{\"text\":\"b\"}]\n\n",
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        assert_rows(files[i], &plain, 2, "^a$", "xxx", "^b$", "xxx");
}

static void long_lines(void **state)
{
    (void)state;
    enum { N = 3 << 20 };
    char *row = lt_alloc(N + 64);
    struct lt_dataset ds;

    assert_non_null(row);
    size_t head = strlen(strcpy(row, "{\"text\": \""));
    memset(row + head, 'z', N);
    strcpy(row + head + N, "\"}\n{\"text\": \"b\"}");
    load_with(&ds, row, &plain);
    assert_int_equal(ds.count, 2);
    assert_int_equal(ds.longest_before, N + 2);
    assert_int_equal(ds.examples[0].length, 1000);
    lt_dataset_deinit(&ds);
    lt_free(row);
}

struct refused {
    const char *content;
    enum lt_status status;
    const char *parts[4]; /* of the message */
};

static const struct refused refused_files[] = {
    {"", LT_ERR_FORMAT, {"no rows"}},
    {"\xef\xbb\xbf \r\n\n", LT_ERR_FORMAT, {"no rows"}},
    {"[ \n ]\n", LT_ERR_FORMAT, {"no rows"}},
    {"\n\n{\"text\": \"a\xff\"}", LT_ERR_FORMAT, {".jsonl:3: ", "UTF-8", "byte 11 of the row"}},
    {"{\"text\": \"a\"}\n{\"text\": \n", LT_ERR_FORMAT, {".jsonl:2: ", "not valid JSON"}},
    {"{\"text\": \"\\ud800\"}\n", LT_ERR_FORMAT, {".jsonl:1: ", "not valid JSON"}},
    {"{\"text\": \"a\"} {\"text\": \"b\"}\n", LT_ERR_FORMAT, {".jsonl:1: ", "not valid JSON"}},
    {"\n17\n", LT_ERR_FORMAT, {".jsonl:2: ", "must be a JSON object, found an integer"}},
    {"[[1]]", LT_ERR_FORMAT, {".jsonl:1: ", "must be a JSON object, found an array"}},
    {"{}", LT_ERR_FORMAT, {"keys found: none", "prompt and completion"}},
    {"{\"question\": \"a\", \"answer\": \"b\"}", LT_ERR_FORMAT, {":1: ", "question, answer;", "input_ids"}},
    {"{\"prompt\": \"a\", \"completion\": null}", LT_ERR_FORMAT, {"prompt, completion (null);"}},
    {"{\"text\": 3}", LT_ERR_FORMAT, {":1: text must be a string, found an integer"}},
    {"{\"text\": \"a\\u0000\"}", LT_ERR_FORMAT, {":1: text", "U+0000"}},
    {"{\"prompt\": [], \"completion\": \"a\"}",
     LT_ERR_FORMAT,
     {":1: prompt must be a string, found an array"}},
    {"{\"instruction\": \"a\", \"input\": 1, \"output\": \"\"}",
     LT_ERR_FORMAT,
     {":1: input must be a string"}},
    {"{\"messages\": {}}", LT_ERR_FORMAT, {":1: messages must be an array, found an object"}},
    {"{\"messages\": []}", LT_ERR_FORMAT, {":1: messages is empty"}},
    {"{\"messages\": [3]}", LT_ERR_FORMAT, {":1: messages[0] must be an object"}},
    {"{\"messages\": [{\"role\": \"user\"}]}",
     LT_ERR_FORMAT,
     {":1: messages[0] needs the strings role and content"}},
    {"{\"messages\": [{\"role\": \"user\", \"content\": []}]}",
     LT_ERR_FORMAT,
     {":1: messages[0]: content must be a str"}},
    {"{\"messages\": [{\"role\": \"x\", \"content\": \"\"}]}", LT_ERR_FORMAT, {":1: unknown role"}},
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"tools\": [1]}",
     LT_ERR_UNSUPPORTED,
     {":1: tools"}},
    {"{\"input_ids\": 3}", LT_ERR_FORMAT, {":1: input_ids must be an array"}},
    {"{\"input_ids\": [1, 2.5]}", LT_ERR_FORMAT, {":1: input_ids[1] must be an integer"}},
    {"{\"input_ids\": [1, 301]}", LT_ERR_FORMAT, {":1: input_ids[1] is 301", "vocabulary of 301"}},
    {"{\"input_ids\": [-1]}", LT_ERR_FORMAT, {":1: input_ids[0] is -1"}},
    {"{\"input_ids\": [4294967297, 1]}", LT_ERR_FORMAT, {":1: input_ids[0] is 4294967297"}},
    {"{\"input_ids\": [1, 2], \"labels\": [1]}", LT_ERR_FORMAT, {":1: 1 labels for 2 input_ids"}},
    {"{\"input_ids\": [1, 2], \"labels\": [1, -99]}", LT_ERR_FORMAT, {":1: labels[1] is -99"}},
    {"{\"input_ids\": [1, 2], \"attention_mask\": [1, 0]}", LT_ERR_UNSUPPORTED, {":1: attention_mask[1]"}},
    {"{\"input_ids\": [1, 2], \"completion_mask\": [1, 0]}", LT_ERR_UNSUPPORTED, {":1: completion_mask"}},
    {"{\"input_ids\": [1, 2], \"assistant_masks\": [1, 0]}", LT_ERR_UNSUPPORTED, {":1: assistant_masks"}},
    {"{\"text\": \"a\"}\n\n{\"input_ids\": [1, 2]}", LT_ERR_FORMAT, {":3: ", "line 1 ", "input_ids", "text"}},
    {"{\"input_ids\": []}\n{\"input_ids\": [7]}\n", LT_ERR_FORMAT, {"none of the 2 rows"}},
    {"{\"input_ids\": [7, 7], \"labels\": [7, -100]}", LT_ERR_FORMAT, {"none of the 1 rows"}},
    /* arrays */
    {"[{\"text\": \"a\"},\n{\"text\": 3}]", LT_ERR_FORMAT, {".jsonl:2: text must be"}},
    {"[{\"text\": \"a\"},\n\n]", LT_ERR_FORMAT, {".jsonl:3: ", "a row is missing"}},
    {"[,{\"text\": \"a\"}]", LT_ERR_FORMAT, {".jsonl:1: ", "a row is missing"}},
    {"[{\"text\": \"a\"},,{\"text\": \"a\"}]", LT_ERR_FORMAT, {".jsonl:1: ", "a row is missing"}},
    {"[{\"text\": \"a\"}", LT_ERR_FORMAT, {"the ']'"}},
    {"[{\"text\": \"a\"},", LT_ERR_FORMAT, {"the ']'"}},
    {"[", LT_ERR_FORMAT, {"the ']'"}},
    {"[{\"text\": \"a\"}, {\"text\": \"a\\", LT_ERR_FORMAT, {"the ']'"}},
    {"[{\"text\": \"a\"}}]", LT_ERR_FORMAT, {"'}' without"}},
    {"[{\"text\": [}]", LT_ERR_FORMAT, {"the ']'"}},
    {"[{\"text\": (}]", LT_ERR_FORMAT, {"not valid JSON"}},
    {"[{\"text\": \"a\"}] x", LT_ERR_FORMAT, {"behind the ']'"}},
    {"[{\"text\": \"a\"}]\n{\"text\": \"a\"}", LT_ERR_FORMAT, {".jsonl:2: ", "behind the ']'"}},
};

static void refused_content(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused_files / sizeof refused_files[0]; i++) {
        const struct refused *r = &refused_files[i];
        struct lt_error err = {0};
        struct lt_dataset ds;
        const char *path = write_file("refused.jsonl", r->content, strlen(r->content));

        if (lt_dataset_load(&ds, path, &toy, &plain, &err) != r->status)
            fail_msg("%s: wrong status; \"%s\"", r->content, err.message);
        assert_non_null(strstr(err.message, path));
        for (size_t k = 0; k < 4 && r->parts[k] != NULL; k++)
            if (strstr(err.message, r->parts[k]) == NULL)
                fail_msg("%s: \"%s\" lacks \"%s\"", r->content, err.message, r->parts[k]);
        assert_null(ds.examples);
        assert_int_equal(lt_dataset_load(&ds, path, &toy, &plain, NULL), r->status);
    }
}

static void refused_settings(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_dataset ds;
    struct lt_data_tokenizer tok = toy;
    const struct lt_dataset_options one = {.max_length = 1};
    const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}]}";
    const char text[] = "{\"text\": \"\xc3\xa9\"}";

    assert_int_equal(lt_dataset_load(&ds, "/nonexistent/rows", &toy, &plain, &err), LT_ERR_NOT_FOUND);
    assert_int_equal(lt_dataset_load(&ds, write_file("r", text, sizeof text - 1), &toy, &one, &err),
                     LT_ERR_INVALID);
    tok.vocab_size = 100;
    assert_int_equal(lt_dataset_load(&ds, write_file("r", text, sizeof text - 1), &tok, &plain, &err),
                     LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "r:1: the tokenizer gives the id 198"));
    tok = toy;
    tok.render_chat = NULL;
    assert_int_equal(lt_dataset_load(&ds, write_file("r", chat, sizeof chat - 1), &tok, &plain, &err),
                     LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "r:1: "));
    lt_cancel_request();
    assert_int_equal(lt_dataset_load(&ds, write_file("r", text, sizeof text - 1), &toy, &plain, &err),
                     LT_ERR_CANCELLED);
    lt_cancel_reset();
}

/* ---- splitting ---- */

static void load_numbered(struct lt_dataset *ds, size_t n)
{
    struct lt_strbuf rows;

    lt_strbuf_init(&rows);
    for (size_t i = 0; i < n; i++)
        lt_strbuf_printf(&rows, "{\"input_ids\": [1, %zu%s]}\n", i, i % 3 == 0 ? ", 9" : "");
    load_with(ds, lt_strbuf_str(&rows), &plain);
    lt_strbuf_deinit(&rows);
}

static void check_split(size_t n, double share, uint64_t seed, size_t expected)
{
    struct lt_dataset ds, val;
    struct lt_mt19937 mt;
    int64_t perm[64];
    bool chosen[64] = {false};

    load_numbered(&ds, n);
    int64_t tokens = ds.tokens, targets = ds.targets;
    assert_int_equal(lt_dataset_split(&ds, &val, share, seed, NULL), LT_OK);
    assert_int_equal(val.count, expected);
    assert_int_equal(ds.count, n - expected);
    lt_mt19937_seed(&mt, seed);
    lt_mt19937_randperm(&mt, perm, (int64_t)n);
    for (size_t i = 0; i < expected; i++)
        chosen[perm[i]] = true;
    for (size_t i = 0, in_val = 0, in_train = 0; i < n; i++) {
        const struct lt_example *ex = chosen[i] ? &val.examples[in_val++] : &ds.examples[in_train++];
        assert_int_equal(ex->ids[1], i);
    }
    assert_int_equal(ds.tokens + val.tokens, tokens);
    assert_int_equal(ds.targets + val.targets, targets);
    assert_int_equal(ds.rows, n);
    assert_int_equal(val.rows, expected);
    assert_in_range(val.longest, 2, 3);
    lt_dataset_deinit(&ds);
    lt_dataset_deinit(&val);
}

static void splitting(void **state)
{
    (void)state;
    check_split(10, 0.2, 42, 2);
    check_split(10, 0.21, 42, 3);
    check_split(40, 0.001, 7, 1);
    check_split(40, 0.999, 7, 39);
    check_split(2, 0.5, 1, 1);

    struct lt_dataset ds, val;
    const double bad[] = {0, 1, -0.5, 2, 0.0 / 0.0};
    load_numbered(&ds, 4);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(lt_dataset_split(&ds, &val, bad[i], 1, NULL), LT_ERR_INVALID);
    assert_int_equal(ds.count, 4);
    lt_dataset_deinit(&ds);
    load_numbered(&ds, 1);
    assert_int_equal(lt_dataset_split(&ds, &val, 0.5, 1, NULL), LT_ERR_INVALID);
    lt_dataset_deinit(&ds);
}

/* ---- memory ---- */

/* Every allocation of loading and splitting fails in turn: an error, nothing leaked, no half dataset. */
static void memory_runs_out(void **state)
{
    (void)state;
    const struct lt_dataset_options keep = {.max_length = 30, .keep_text = true};
    const char *files[] = {
        "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"output\": \"b\"}",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}",
        "{\"input_ids\": [1, 2], \"labels\": [1, 2]}\n{\"input_ids\": [1, 2], \"labels\": [1, 2]}",
        "{\"other\": 1}",
    };
    const enum lt_status results[] = {LT_ERR_FORMAT, LT_OK, LT_OK, LT_OK, LT_ERR_FORMAT};

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *path = write_file("rows.jsonl", files[i], strlen(files[i]));
        bool with_split = i == 1 || i == 3;
        enum lt_status status;
        long n = 0;
        do {
            struct lt_dataset ds, val = {0};
            struct lt_error err = {0};
            lt_alloc_fail_at(++n);
            status = lt_dataset_load(&ds, path, &toy, &keep, &err);
            if (status == LT_OK && with_split) {
                status = lt_dataset_split(&ds, &val, 0.5, 1, &err);
                assert_int_equal(ds.count + val.count, 2);
            } else if (status != LT_OK) {
                assert_null(ds.examples);
            }
            bool failed = lt_alloc_count() >= n;
            lt_alloc_fail_at(0);
            lt_dataset_deinit(&ds);
            lt_dataset_deinit(&val);
            if (failed && status != LT_ERR_NOMEM && results[i] == LT_OK)
                fail_msg("file %zu, allocation %ld: %s", i, n, err.message);
            if (!failed) {
                assert_int_equal(status, results[i]);
                break;
            }
        } while (n < 1000);
        assert_in_range(n, 3, 999);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completions),
        cmocka_unit_test(without_eos),
        cmocka_unit_test(alpaca_prompts),
        cmocka_unit_test(alpaca_rows),
        cmocka_unit_test(chat_rows),
        cmocka_unit_test(chat_tokens_across_the_borders),
        cmocka_unit_test(text_and_id_rows),
        cmocka_unit_test(cutting),
        cmocka_unit_test(ways_to_write_a_file),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(refused_content),
        cmocka_unit_test(refused_settings),
        cmocka_unit_test(splitting),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("dataset", tests, NULL, NULL);
}
