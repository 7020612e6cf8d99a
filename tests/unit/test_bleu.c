/* BLEU against sacreBLEU's own numbers (data/bleu/cases.json, made by tests/golden/bleu_cases.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/infer/bleu.h"
#include "core/io/json.h"
#include "tests/support/fixtures.h"

static json_t *cases;

static int load_cases(void **state)
{
    (void)state;
    char path[4096];
    struct lt_error err;
    return lt_fixture_path(path, sizeof path, "bleu/cases.json") && lt_json_load(&cases, path, &err) == LT_OK
               ? 0
               : -1;
}

static int free_cases(void **state)
{
    (void)state;
    json_decref(cases);
    return 0;
}

static void test_tokens(void **state)
{
    (void)state;
    json_t *list = json_object_get(cases, "tokens"), *one;
    size_t i, k;
    assert_true(json_array_size(list) > 10);
    json_array_foreach(list, i, one)
    {
        struct lt_strbuf got, want;
        struct lt_error err;
        json_t *token;
        lt_strbuf_init(&got);
        lt_strbuf_init(&want);
        json_array_foreach(json_object_get(one, "tokens"), k, token)
        {
            lt_strbuf_puts(&want, json_string_value(token));
            lt_strbuf_putc(&want, '\n');
        }
        assert_int_equal(lt_bleu_tokenize(&got, json_string_value(json_object_get(one, "text")), &err),
                         LT_OK);
        assert_string_equal(lt_strbuf_str(&got), lt_strbuf_str(&want));
        lt_strbuf_deinit(&got);
        lt_strbuf_deinit(&want);
    }
}

static double number(const json_t *obj, const char *key)
{
    assert_true(json_is_number(json_object_get(obj, key)));
    return json_number_value(json_object_get(obj, key));
}

static void test_corpora(void **state)
{
    (void)state;
    json_t *list = json_object_get(cases, "corpora"), *one, *pair;
    size_t i, k;
    assert_true(json_array_size(list) > 10);
    json_array_foreach(list, i, one)
    {
        struct lt_bleu b = {0};
        struct lt_error err;
        json_array_foreach(json_object_get(one, "pairs"), k, pair)
        {
            assert_int_equal(lt_bleu_add(&b, json_string_value(json_array_get(pair, 0)),
                                         json_string_value(json_array_get(pair, 1)), &err),
                             LT_OK);
        }
        for (size_t n = 0; n < LT_BLEU_ORDER; n++) {
            assert_int_equal(b.correct[n],
                             json_integer_value(json_array_get(json_object_get(one, "correct"), n)));
            assert_int_equal(b.total[n],
                             json_integer_value(json_array_get(json_object_get(one, "total"), n)));
        }
        assert_int_equal(b.system_length, json_integer_value(json_object_get(one, "system_length")));
        assert_int_equal(b.reference_length, json_integer_value(json_object_get(one, "reference_length")));
        /* Four logarithms, a mean and two exponentials: a few units in the last place of f64. */
        assert_true(fabs(lt_bleu_score(&b) - number(one, "score")) <= 1e-12 * number(one, "score"));
        assert_true(fabs(lt_bleu_brevity_penalty(&b) - number(one, "brevity_penalty")) <= 1e-15);
    }
}

static void test_empty_corpus(void **state)
{
    (void)state;
    struct lt_bleu b = {0};
    assert_true(lt_bleu_score(&b) == 0);
    assert_true(lt_bleu_brevity_penalty(&b) == 1);
}

/* Every allocation of a pair fails once; the corpus stays as it was. */
static void test_short_memory(void **state)
{
    (void)state;
    struct lt_bleu b = {0}, before = {0};
    struct lt_error err;
    for (long n = 1;; n++) {
        lt_alloc_fail_at(n);
        enum lt_status status = lt_bleu_add(&b, "one two, three four", "one two three. four", &err);
        lt_alloc_fail_at(0);
        if (status == LT_OK) {
            assert_true(n > 5);
            break;
        }
        assert_int_equal(status, LT_ERR_NOMEM);
        assert_memory_equal(&b, &before, sizeof b);
    }
    assert_int_equal(b.system_length, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_corpora),
        cmocka_unit_test(test_empty_corpus),
        cmocka_unit_test(test_short_memory),
    };
    return cmocka_run_group_tests_name("bleu", tests, load_cases, free_cases);
}
