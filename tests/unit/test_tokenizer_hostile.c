/* Tokenizer files that must be refused, with a sentence that says why; damaged files, failing allocations;
 * and one tokenizer in several threads. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "models/tokenizer.h"
#include "tests/support/fixtures.h"

static const char *temp_path(const char *name)
{
    static char path[4096];
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    return path;
}

/* Without the fsync of an atomic write: thousands of files are written here. */
static void write_bytes(const char *name, const void *data, size_t size)
{
    struct lt_error err = {0};
    struct lt_file_appender file;
    if (lt_file_appender_open(&file, temp_path(name), true, &err) != LT_OK)
        fail_msg("%s", err.message);
    if (size && lt_file_appender_put(&file, data, size, &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_file_appender_close(&file);
}

/* ---- refused files ---- */

static enum lt_status load_text(struct lt_tokenizer **tok, const char *json, struct lt_error *err)
{
    write_bytes("t.json", json, strlen(json));
    return lt_tokenizer_load_json(tok, temp_path("t.json"), err);
}

static void test_errors(void **state)
{
    (void)state;
#define BPE(x) "{\"model\":{\"type\":\"BPE\"," x "}}"
#define EMPTY "\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}"
    static const struct {
        const char *json;
        enum lt_status status;
        const char *says;
    } cases[] = {
        {"", LT_ERR_FORMAT, "t.json"},
        {"[]", LT_ERR_FORMAT, "must be an object"},
        {"{}", LT_ERR_FORMAT, "model must be an object"},
        {"{\"model\":{\"type\":\"Unigram\"}}", LT_ERR_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"vocab\":{}}}", LT_ERR_UNSUPPORTED, "(none)"},
        {BPE("\"vocab\":[],\"merges\":[]"), LT_ERR_FORMAT, "model.vocab"},
        {BPE("\"vocab\":{\"a\":\"1\"},\"merges\":[]"), LT_ERR_FORMAT, "\"a\" must be an integer"},
        {BPE("\"vocab\":{\"a\":-1},\"merges\":[]"), LT_ERR_FORMAT, "has id -1"},
        {BPE("\"vocab\":{\"a\":4000000000},\"merges\":[]"), LT_ERR_FORMAT, "4000000000"},
        {BPE("\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]"), LT_ERR_FORMAT, "two tokens have id 1"},
        {BPE("\"vocab\":{\"a\":1}"), LT_ERR_FORMAT, "model.merges"},
        {BPE("\"vocab\":{\"a\":1},\"merges\":[[\"a\",\"b\"]]"), LT_ERR_FORMAT, "merge 0 (\"a b\")"},
        {BPE("\"vocab\":{\"a\":1,\"b\":2},\"merges\":[\"a b\"]"), LT_ERR_FORMAT, "not in the vocabulary"},
        {BPE("\"vocab\":{\"a\":1},\"merges\":[\"a b c\"]"), LT_ERR_FORMAT, "entry 0"},
        {BPE("\"vocab\":{\"a\":1},\"merges\":[[\"a\"]]"), LT_ERR_FORMAT, "entry 0"},
        {BPE("\"dropout\":0.1,\"vocab\":{},\"merges\":[]"), LT_ERR_UNSUPPORTED, "dropout"},
        {BPE("\"fuse_unk\":1,\"vocab\":{},\"merges\":[]"), LT_ERR_FORMAT, "fuse_unk"},
        {"{" EMPTY ",\"normalizer\":{\"type\":\"Nmt\"}}", LT_ERR_UNSUPPORTED,
         "normalizer: a component of type \"Nmt\""},
        {"{" EMPTY ",\"normalizer\":{\"type\":\"BertNormalizer\"}}", LT_ERR_UNSUPPORTED, "BertNormalizer"},
        {"{" EMPTY ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA=\"}}",
         LT_ERR_UNSUPPORTED, "Precompiled"},
        {"{" EMPTY ",\"normalizer\":{\"type\":\"Sequence\"}}", LT_ERR_FORMAT, "\"normalizers\""},
        {"{" EMPTY ",\"normalizer\":3}", LT_ERR_FORMAT, "must be an object"},
        {"{" EMPTY ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}}",
         LT_ERR_UNSUPPORTED, "regular expression \"(\""},
        {"{" EMPTY ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}}",
         LT_ERR_UNSUPPORTED, "empty pattern"},
        {"{" EMPTY ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", LT_ERR_UNSUPPORTED, "UnicodeScripts"},
        {"{" EMPTY ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},"
         "\"behavior\":\"Isolated\"}}",
         LT_ERR_UNSUPPORTED, "intersection"},
        {"{" EMPTY ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{1,2}+\"},"
         "\"behavior\":\"Isolated\"}}",
         LT_ERR_UNSUPPORTED, "interval"},
        {"{" EMPTY
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}}",
         LT_ERR_FORMAT, "Sideways"},
        {"{" EMPTY ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}", LT_ERR_FORMAT,
         "one character"},
        {"{" EMPTY ",\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}}", LT_ERR_FORMAT, "length 0"},
        {"{" EMPTY ",\"decoder\":{\"type\":\"CTC\"}}", LT_ERR_UNSUPPORTED, "CTC"},
        {"{" EMPTY ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1}}", LT_ERR_FORMAT,
         "negative"},
        {"{" EMPTY ",\"post_processor\":{\"type\":\"What\"}}", LT_ERR_UNSUPPORTED, "What"},
        {"{" EMPTY ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
         "{\"SpecialToken\":{\"id\":\"x\"}}],"
         "\"special_tokens\":{}}}",
         LT_ERR_FORMAT, "\"x\" has no ids"},
        {"{" EMPTY
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}}",
         LT_ERR_UNSUPPORTED, "exactly once"},
        {"{" EMPTY ",\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",1]}}", LT_ERR_FORMAT,
         "\"sep\""},
        {"{" EMPTY ",\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",1],\"sep\":[\"a\",-3]}}",
         LT_ERR_FORMAT, "-3 is not a token id"},
        {"{" EMPTY ",\"added_tokens\":{}}", LT_ERR_FORMAT, "added_tokens"},
        {"{" EMPTY ",\"added_tokens\":[{\"id\":1}]}", LT_ERR_FORMAT, "content"},
        {"{" EMPTY ",\"added_tokens\":[{\"id\":1,\"content\":\"a\"},{\"id\":1,\"content\":\"b\"}]}",
         LT_ERR_FORMAT, "two tokens have id 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lt_error err = {0};
        struct lt_tokenizer *tok;
        enum lt_status status = load_text(&tok, cases[i].json, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].says) ||
            !strstr(err.message, "t.json"))
            fail_msg("%s: status %d, \"%s\"", cases[i].json, (int)status, err.message);
        assert_null(tok);
    }
}

static void test_text_that_cannot_be_encoded(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_ids ids = {0};
    struct lt_tokenizer *tok;
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0},\"merges\":[]}}";
    assert_int_equal(load_text(&tok, json, &err), LT_OK);
    assert_int_equal(lt_tokenizer_encode(tok, "aa\xFF", 3, false, &ids, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "byte 2"));
    assert_int_equal(lt_tokenizer_encode(tok, "aa", 2, false, &ids, &err), LT_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(lt_tokenizer_encode(tok, "b", 1, false, &ids, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "unk_token")); /* no "?" to stand for the b */
    lt_tokenizer_destroy(tok);
    lt_ids_deinit(&ids);
    lt_tokenizer_destroy(NULL);
}

/* ---- damaged files ---- */

typedef enum lt_status load_fn(struct lt_tokenizer **tok, const char *path, struct lt_error *err);

struct source {
    const char *fixture, *name; /* name: in the temporary folder */
    load_fn *load;
};

static const struct source sources[] = {
    {"goldens/tokenizers/bytelevel/tokenizer.json", "b.json", lt_tokenizer_load_json},
    {"goldens/tokenizers/metaspace/tokenizer.json", "m.json", lt_tokenizer_load_json},
    {"goldens/tokenizers/legacy/tokenizer.json", "l.json", lt_tokenizer_load_json},
};

static unsigned random_state;

static unsigned next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static char *read_fixture(const char *relative, size_t *size)
{
    char path[4096], *data = NULL;
    struct lt_error err = {0};
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    assert_int_equal(lt_file_read(path, (size_t)1 << 24, &data, size, &err), LT_OK);
    return data;
}

static const char sample[] =
    "The miller's <s> mill 123 \n\t <left> \xC3\xBC \xE6\xB0\xB4 \xF0\x9F\x98\x80</s>";

/* Uses whatever was loaded: encoding and decoding may fail, but with an error. */
static void use(const struct lt_tokenizer *tok)
{
    struct lt_ids ids = {0};
    struct lt_strbuf text = {0};
    struct lt_error err = {0};
    if (lt_tokenizer_encode(tok, sample, sizeof sample - 1, true, &ids, &err) != LT_OK)
        assert_true(strlen(err.message) > 0);
    for (size_t i = 0; i < ids.count; i++)
        assert_true(ids.data[i] >= 0);
    if (lt_tokenizer_decode(tok, ids.data, ids.count, false, &text, &err) != LT_OK)
        assert_true(strlen(err.message) > 0);
    lt_ids_deinit(&ids);
    lt_strbuf_deinit(&text);
}

/* True when the changed file still loads. */
static bool try_bytes(const struct source *s, const char *data, size_t size)
{
    struct lt_tokenizer *tok;
    struct lt_error err = {0};
    write_bytes(s->name, data, size);
    enum lt_status status = s->load(&tok, temp_path(s->name), &err);
    if (status == LT_OK) {
        use(tok);
        lt_tokenizer_destroy(tok);
        return true;
    }
    assert_null(tok);
    assert_int_equal(err.status, status);
    assert_non_null(strstr(err.message, s->name));
    return false;
}

static void damage(const struct source *s, char *data, size_t size, int rounds)
{
    int loaded = 0;
    random_state = 1;
    for (int i = 0; i < rounds; i++) {
        size_t at[3];
        char old[3];
        int flips = 1 + (int)(next_random() % 3);
        for (int k = 0; k < flips; k++) {
            at[k] = next_random() % size;
            old[k] = data[at[k]];
            unsigned bit = 1u << next_random() % 8;
            data[at[k]] = (char)(next_random() % 2 ? next_random() : (unsigned char)old[k] ^ bit);
        }
        loaded += try_bytes(s, data, size);
        for (int k = flips; k-- > 0;)
            data[at[k]] = old[k];
    }
    assert_true(loaded < rounds); /* the changes reached something */
    for (int i = 0; i < rounds / 4; i++)
        assert_false(try_bytes(s, data, next_random() % size)); /* cut short */
    assert_true(try_bytes(s, data, size));
}

static void test_damaged_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        size_t size;
        char *data = read_fixture(sources[i].fixture, &size);
        damage(&sources[i], data, size, 400);
        lt_free(data);
    }
}

/* The head and the tail of a real model, so that a round is quick: 600 pieces and the trainer's settings. */
static void test_damaged_sentencepiece(void **state)
{
    (void)state;
    static const struct source spm = {NULL, "s.model", lt_tokenizer_load_spm};
    size_t size, at = 0;
    char *data = read_fixture("data/karpathy+llama2.c/tokenizer.model", &size);
    for (int i = 0; i < 600; i++)
        at += 2u + (unsigned char)data[at + 1]; /* every piece is shorter than 128 bytes */
    static const char specs[] = {0x12, 5, 0x18, 2, (char)0x98, 2, 1, 0x1A, 4, 0x18, 1, 0x20, 0};
    memcpy(data + at, specs, sizeof specs);
    damage(&spm, data, at + sizeof specs, 1500);
    lt_free(data);
}

/* Lengths and varints that run past the end, or wrap. */
static void test_hostile_sentencepiece(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } files[] = {
        {"", 0},
        {"\x0A", 1},
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11},
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 13},
        {"\x0A\x03\x0A\x7F"
         "a",
         5},
        {"\x0A\x02\x0A\x00", 4},
        {"\x0A\x03\x0A\x01\xFF", 5},
        {"\x0B\x01", 2},
        {"\x00\x01", 2},
        {"\x0A\x05\x0A\x01"
         "a\x18\x09",
         7},
        {"\x0A\x08\x0A\x01"
         "a\x15\x00\x00\xC0\x7F",
         10},
        {"\x0A\x03\x0A\x01"
         "a\x0A\x03\x0A\x01"
         "a",
         10},
    };
    static const struct source spm = {NULL, "h.model", lt_tokenizer_load_spm};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_false(try_bytes(&spm, files[i].bytes, files[i].size));
}

/* ---- every allocation fails once ---- */

static void sweep(load_fn *load, const char *path)
{
    bool done = false;
    for (long n = 1; !done; n++) {
        struct lt_tokenizer *tok;
        struct lt_ids ids = {0};
        struct lt_strbuf text = {0};
        struct lt_error err = {0};
        lt_alloc_fail_at(n);
        enum lt_status status = load(&tok, path, &err);
        if (status == LT_OK)
            status = lt_tokenizer_encode(tok, sample, sizeof sample - 1, true, &ids, &err);
        if (status == LT_OK)
            status = lt_tokenizer_decode(tok, ids.data, ids.count, true, &text, &err);
        done = lt_alloc_count() < n;
        lt_alloc_fail_at(0);
        assert_int_equal(status, done ? LT_OK : LT_ERR_NOMEM);
        lt_tokenizer_destroy(tok);
        lt_ids_deinit(&ids);
        lt_strbuf_deinit(&text);
    }
}

static void test_failing_allocations(void **state)
{
    (void)state;
    char path[4096];
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        assert_true(lt_fixture_path(path, sizeof path, sources[i].fixture));
        sweep(sources[i].load, path);
    }
    assert_true(lt_fixture_path(path, sizeof path, "goldens/tokenizers/pair"));
    sweep(lt_tokenizer_load, path);
}

static void test_failing_allocations_sentencepiece(void **state)
{
    (void)state;
    char path[4096];
    static const char file[] = "data/karpathy+llama2.c/tokenizer.model";
    if (!lt_fixture_path(path, sizeof path, file))
        lt_test_skip_missing(file);
    sweep(lt_tokenizer_load_spm, path);
}

/* ---- threads ---- */

static void test_threads_share_a_tokenizer(void **state)
{
    (void)state;
    enum { CALLS = 200 };
    char path[4096];
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    struct lt_ids want = {0};
    assert_true(lt_fixture_path(path, sizeof path, sources[0].fixture));
    assert_int_equal(lt_tokenizer_load_json(&tok, path, &err), LT_OK);
    assert_int_equal(lt_tokenizer_encode(tok, sample, sizeof sample - 1, true, &want, &err), LT_OK);
    int wrong = 0;
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
    for (int i = 0; i < CALLS; i++) {
        struct lt_ids ids = {0};
        struct lt_error own = {0};
        bool same = lt_tokenizer_encode(tok, sample, sizeof sample - 1, true, &ids, &own) == LT_OK &&
                    ids.count == want.count &&
                    memcmp(ids.data, want.data, want.count * sizeof *want.data) == 0;
        wrong += !same;
        lt_ids_deinit(&ids);
    }
    assert_int_equal(wrong, 0);
    lt_ids_deinit(&want);
    lt_tokenizer_destroy(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_text_that_cannot_be_encoded),
        cmocka_unit_test(test_damaged_json),
        cmocka_unit_test(test_damaged_sentencepiece),
        cmocka_unit_test(test_hostile_sentencepiece),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_failing_allocations_sentencepiece),
        cmocka_unit_test(test_threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests_name("tokenizer hostile", tests, NULL, NULL);
}
