/* JSON: what is refused, field access, and output equal to Python's json.dumps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/io/json.h"
#include "tests/support/fixtures.h"

static json_t *parse(const char *text)
{
    struct lt_error err = {0};
    json_t *v;
    if (lt_json_parse(&v, text, strlen(text), "test", &err) != LT_OK)
        fail_msg("%s", err.message);
    return v;
}

static void assert_refused(const char *text, size_t size, const char *message_part)
{
    struct lt_error err = {0};
    json_t *v;
    assert_int_equal(lt_json_parse(&v, text, size, "here", &err), LT_ERR_FORMAT);
    assert_null(v);
    assert_non_null(strstr(err.message, "here: "));
    if (strstr(err.message, message_part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, message_part);
}

static void refused_texts(void **state)
{
    (void)state;
    assert_refused("", 0, "empty");
    assert_refused("{\"a\": 1}x", 9, "line 1, column 9");
    assert_refused("{\"a\": 1,\n \"a\": 2}", 17, "duplicate object key");
    assert_refused("{\"a\": 1, \"\\u0061\": 2}", 21, "duplicate object key");
    assert_refused("\xef\xbb\xbf{}", 5, "byte order mark");
    assert_refused("[NaN]", 5, "invalid token");
    assert_refused("[1\0]", 4, "NUL byte at offset 2");
    assert_refused("[1e999]", 7, "real number overflow");
    assert_refused("[\"\xff\"]", 5, "unable to decode byte 0xff");
    assert_refused("[\"\xed\xa0\x80\"]", 7, "unable to decode byte 0xed");
    assert_refused("[\x1b[31m]", 7, "near '?'"); /* no terminal codes in messages */
}

static void nesting_has_a_limit(void **state)
{
    (void)state;
    char text[2 * 2100 + 1];
    for (size_t depth = 2047; depth <= 2100; depth += 53) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        text[2 * depth] = '\0';
        if (depth > 2048) {
            assert_refused(text, 2 * depth, "depth");
            continue;
        }
        json_t *v = parse(text);
        char *back = lt_json_dump(v, 0, true);
        assert_string_equal(back, text);
        lt_free(back);
        json_decref(v);
    }
}

/* tokenizer_config.json of most LLaMA models has model_max_length = int(1e30). */
static void wide_integers_become_reals(void **state)
{
    (void)state;
    json_t *v = parse(
        "{\"model_max_length\": 1000000000000000019884624838656, \"s\": \"a 99999999999999999999 \\\" 9\","
        " \"max\": 9223372036854775807, \"min\":-9223372036854775808, \"over\":9223372036854775808,"
        "\"under\": -9223372036854775809, \"r\": 12345678901234567890.5, \"e\":12345678901234567890e1}");
    assert_true(json_is_real(json_object_get(v, "model_max_length")));
    assert_true(json_real_value(json_object_get(v, "model_max_length")) == 1e30);
    assert_string_equal(json_string_value(json_object_get(v, "s")), "a 99999999999999999999 \" 9");
    assert_true(json_is_integer(json_object_get(v, "max")));
    assert_true(json_integer_value(json_object_get(v, "max")) == INT64_MAX);
    assert_true(json_is_integer(json_object_get(v, "min")));
    assert_true(json_integer_value(json_object_get(v, "min")) == INT64_MIN);
    assert_true(json_real_value(json_object_get(v, "over")) == 0x1p63);
    assert_true(json_real_value(json_object_get(v, "under")) == -0x1p63);
    assert_true(json_real_value(json_object_get(v, "r")) == 12345678901234567890.5);
    assert_true(json_real_value(json_object_get(v, "e")) == 12345678901234567890e1);
    json_decref(v);
    assert_refused("[99999999999999999999, 01]", 26, "invalid");
    assert_refused("[00000000000000000000000]", 25, "near '0'");
    assert_refused("[99999999999999999999", 21, "near end of file");
    assert_refused("[99999999999999999999 \"a", 24, "");
}

static void fields(void **state)
{
    (void)state;
    struct lt_error err = {0};
    json_t *v =
        parse("{\"i\": 7, \"r\": 0.5, \"b\": true, \"s\": \"text\", \"n\": null, \"z\": \"a\\u0000b\"}");
    int64_t i = -1;
    double d = -1;
    bool b = false;
    const char *s = NULL;

    assert_int_equal(lt_json_get_i64(v, "i", &i, "c", &err), LT_OK);
    assert_int_equal(i, 7);
    assert_int_equal(lt_json_get_double(v, "i", &d, "c", &err), LT_OK);
    assert_true(d == 7.0);
    assert_int_equal(lt_json_get_double(v, "r", &d, "c", &err), LT_OK);
    assert_true(d == 0.5);
    assert_int_equal(lt_json_get_bool(v, "b", &b, "c", &err), LT_OK);
    assert_true(b);
    assert_int_equal(lt_json_get_string(v, "s", &s, "c", &err), LT_OK);
    assert_string_equal(s, "text");

    assert_int_equal(lt_json_get_i64(v, "n", &i, "c", &err), LT_OK);
    assert_int_equal(lt_json_get_i64(v, "absent", &i, "c", &err), LT_OK);
    assert_int_equal(lt_json_get_i64(NULL, "i", &i, "c", &err), LT_OK);
    assert_int_equal(lt_json_get_i64(json_object_get(v, "n"), "i", &i, "c", &err), LT_OK);
    assert_int_equal(i, 7);

    assert_int_equal(lt_json_get_i64(v, "r", &i, "config.json", &err), LT_ERR_FORMAT);
    assert_string_equal(err.message, "config.json: r must be an integer, found a real number");
    assert_int_equal(lt_json_get_double(v, "s", &d, "c", &err), LT_ERR_FORMAT);
    assert_string_equal(err.message, "c: s must be a number, found a string");
    assert_int_equal(lt_json_get_bool(v, "i", &b, "c", &err), LT_ERR_FORMAT);
    assert_string_equal(err.message, "c: i must be true or false, found an integer");
    assert_int_equal(lt_json_get_string(v, "b", &s, "c", &err), LT_ERR_FORMAT);
    assert_string_equal(err.message, "c: b must be a string, found true");
    assert_int_equal(lt_json_get_string(v, "z", &s, "c", &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "U+0000"));
    assert_int_equal(lt_json_get_i64(json_object_get(v, "s"), "i", &i, "c", &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "must be an object with the field i, found a string"));
    assert_string_equal(s, "text");
    assert_string_equal(lt_json_type_name(NULL), "nothing");
    json_decref(v);
}

static const char sample[] =
    "{\"b\":[1,-2,3.0,0.1,1e-05,1e+16,123456789.125,1e22,5e-324],\"a\":{\"z\":[],\"y\":{},\"x\":null},"
    "\"\\u00e9\":\"q\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\\u20ac\\ud83d\\ude00\",\"T\":true,\"F\":false,"
    "\"nul\":\"\\u0000\"}";

/* Expected texts: Python 3.11, json.dumps(json.loads(sample), ensure_ascii=False, …). */
static void dump_as_python(void **state)
{
    (void)state;
    json_t *v = parse(sample);
    char *line = lt_json_dump(v, 0, false);
    assert_string_equal(
        line,
        "{\"b\": [1, -2, 3.0, 0.1, 1e-05, 1e+16, 123456789.125, 1e+22, 5e-324], \"a\": {\"z\": [], \"y\": {}, "
        "\"x\": null}, \"\xc3\xa9\": \"q\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xe2\x82\xac\xf0\x9f\x98\x80\", "
        "\"T\": true, \"F\": false, \"nul\": \"\\u0000\"}");
    lt_free(line);
    char *tree = lt_json_dump(v, 2, true);
    assert_string_equal(
        tree, "{\n  \"F\": false,\n  \"T\": true,\n  \"a\": {\n    \"x\": null,\n    \"y\": {},\n    "
              "\"z\": []\n  },\n  \"b\": [\n    1,\n    -2,\n    3.0,\n    0.1,\n    1e-05,\n    "
              "1e+16,\n    123456789.125,\n    1e+22,\n    5e-324\n  ],\n  \"nul\": \"\\u0000\",\n  "
              "\"\xc3\xa9\": \"q\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xe2\x82\xac\xf0\x9f\x98\x80\""
              "\n}");
    json_t *again = parse(tree);
    assert_true(json_equal(v, again));
    lt_free(tree);
    json_decref(again);
    json_decref(v);
}

static void excerpts(void **state)
{
    (void)state;
    struct lt_json_excerpt e;
    char longest[400];
    assert_string_equal(lt_json_excerpt(&e, "model.\xc3\xa9"), "model.\xc3\xa9");
    assert_string_equal(lt_json_excerpt(&e, "a\x1b[2Jb\n\x7f"), "a?[2Jb??");
    assert_string_equal(lt_json_excerpt(&e, "\xff\xc3"), "??");
    for (size_t start = 0; start < 3; start++) { /* the cut falls on every byte of a three-byte character */
        memset(longest, 'a', start);
        for (size_t i = start; i + 3 < sizeof longest; i += 3)
            memcpy(longest + i, "\xe2\x82\xac", 4);
        lt_json_excerpt(&e, longest);
        size_t n = strlen(e.text);
        assert_true(n > 100 && n < sizeof e.text);
        assert_true(lt_utf8_valid(e.text, n, NULL));
        assert_string_equal(e.text + n - 6, "\xe2\x82\xac...");
    }
}

/* Accepted by the suite, refused here. */
static const char *const refused_by_choice[] = {
    "y_object_duplicated_key.json",           /* duplicate keys are refused on purpose */
    "y_object_duplicated_key_and_value.json", /* the same */
    "y_object_escaped_null_in_key.json",      /* jansson has no U+0000 in keys */
};

static bool is_refused_by_choice(const char *name)
{
    for (size_t i = 0; i < sizeof refused_by_choice / sizeof refused_by_choice[0]; i++)
        if (strcmp(name, refused_by_choice[i]) == 0)
            return true;
    return false;
}

static void json_test_suite(void **state)
{
    (void)state;
    static const char relative[] = "data/nst+JSONTestSuite/test_parsing";
    char dir[1024];
    char **names;
    size_t count, must = 0, must_not = 0;
    struct lt_error err = {0};

    if (!lt_fixture_path(dir, sizeof dir, relative))
        lt_test_skip_missing(relative);
    assert_int_equal(lt_dir_list(dir, &names, &count, &err), LT_OK);
    for (size_t i = 0; i < count; i++) {
        char *path = lt_path_join(dir, names[i]);
        json_t *v = NULL;
        enum lt_status status = lt_json_load(&v, path, &err);
        must += names[i][0] == 'y';
        must_not += names[i][0] == 'n';
        if (names[i][0] == 'y' && is_refused_by_choice(names[i]))
            assert_int_equal(status, LT_ERR_FORMAT);
        else if (names[i][0] == 'y' && status != LT_OK)
            fail_msg("%s", err.message);
        else if (names[i][0] == 'n' && status != LT_ERR_FORMAT)
            fail_msg("%s was accepted", names[i]);
        else
            assert_true(status == LT_OK || status == LT_ERR_FORMAT);
        json_decref(v);
        lt_free(path);
    }
    lt_dir_list_free(names, count);
    assert_true(must > 90 && must_not > 180);
}

static enum lt_status save_and_load(const char *path, const json_t *v, struct lt_error *err)
{
    json_t *back;
    LT_TRY(lt_json_save(v, path, 2, err));
    LT_TRY(lt_json_load(&back, path, err));
    assert_true(json_equal(v, back));
    json_decref(back);
    return LT_OK;
}

static void save_and_load_with_failing_memory(void **state)
{
    (void)state;
    struct lt_error err = {0};
    json_t *v = parse(sample);
    char *path = lt_path_join(lt_test_temp_dir(), "sample.json");
    long n = 0, used;
    do {
        lt_alloc_fail_at(++n);
        enum lt_status status = save_and_load(path, v, &err);
        used = lt_alloc_count();
        lt_alloc_fail_at(0);
        assert_int_equal(status, used >= n ? LT_ERR_NOMEM : LT_OK);
    } while (used >= n);
    assert_true(n > 5);

    char *text;
    size_t size;
    assert_int_equal(lt_file_read(path, 4096, &text, &size, &err), LT_OK);
    assert_int_equal(text[size - 1], '\n');
    lt_free(text);

    for (n = 1, used = 1; used >= n; n++) { /* the detour through wide integers allocates too */
        static const char wide[] = "[99999999999999999999]";
        json_t *list;
        lt_alloc_fail_at(n);
        enum lt_status status = lt_json_parse(&list, wide, sizeof wide - 1, "wide", &err);
        used = lt_alloc_count();
        lt_alloc_fail_at(0);
        assert_int_equal(status, used >= n ? LT_ERR_NOMEM : LT_OK);
        json_decref(list);
    }
    lt_free(path);
    json_decref(v);
}

static void file_errors(void **state)
{
    (void)state;
    struct lt_error err = {0};
    json_t *v;
    char *path = lt_path_join(lt_test_temp_dir(), "absent.json");
    assert_int_not_equal(lt_json_load(&v, path, &err), LT_OK);
    assert_null(v);
    assert_non_null(strstr(err.message, "absent.json"));
    lt_free(path);
    path = lt_path_join(lt_test_temp_dir(), "no-folder/x.json");
    v = parse("{}");
    assert_int_equal(lt_json_save(v, path, 2, &err), LT_ERR_NOT_FOUND);
    json_decref(v);
    lt_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_texts),
        cmocka_unit_test(nesting_has_a_limit),
        cmocka_unit_test(wide_integers_become_reals),
        cmocka_unit_test(fields),
        cmocka_unit_test(dump_as_python),
        cmocka_unit_test(excerpts),
        cmocka_unit_test(json_test_suite),
        cmocka_unit_test(save_and_load_with_failing_memory),
        cmocka_unit_test(file_errors),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
