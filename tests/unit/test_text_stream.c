/* Streaming text: characters of several byte tokens, stop texts across tokens, what is held back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "tests/support/fixtures.h"
#include "tools/text_stream.h"

#define MARK "\xef\xbf\xbd" /* U+FFFD */

/* Its ids: bytes from 3, then "▁" and letters. */
static struct lt_tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    (void)state;
    struct lt_error err;
    if (lt_tokenizer_load(&tokenizer, LT_SRCDIR "/tests/e2e/data/tokenizer320", &err) == LT_OK)
        return 0;
    printf("%s\n", err.message);
    return -1;
}

static int close_tokenizer(void **state)
{
    (void)state;
    lt_tokenizer_destroy(tokenizer);
    return 0;
}

/* ---- a stream that notes every piece it shows, separated by '|' ---- */

struct shown {
    char text[256];
    size_t len;
};

static void note(void *user, const char *bytes, size_t n)
{
    struct shown *s = user;
    assert_true(n > 0 && s->len + n + 2 < sizeof s->text);
    memcpy(s->text + s->len, bytes, n);
    s->len += n;
    s->text[s->len++] = '|';
    s->text[s->len] = '\0';
}

static int32_t id_of_char(char c)
{
    int32_t id = c == ' ' ? lt_tokenizer_token_to_id(tokenizer, "\xe2\x96\x81", 3)
                          : lt_tokenizer_token_to_id(tokenizer, &c, 1);
    return id >= 0 ? id : 3 + (unsigned char)c;
}

/* Feeds one token a byte until the stream stops or the text ends; returns how many were taken. */
static size_t feed(struct text_stream *s, const char *text)
{
    struct lt_error err;
    size_t n = 0;
    while (text[n] && !s->stopped)
        assert_int_equal(text_stream_push(s, id_of_char(text[n++]), &err), LT_OK);
    return n;
}

static void check(const char *text, struct cli_list *stops, const char *want, bool stopped)
{
    struct shown shown = {.len = 0};
    struct text_stream s = {.tokenizer = tokenizer, .stops = stops, .put = note, .user = &shown};
    feed(&s, text);
    text_stream_finish(&s);
    assert_string_equal(shown.text, want);
    assert_int_equal(s.stopped, stopped);
    text_stream_deinit(&s);
}

static void test_plain(void **state)
{
    (void)state;
    check("abc", NULL, "a|b|c|", false);
    check("a b", NULL, "a| |b|", false);
    check("", NULL, "", false);
}

static void test_characters(void **state)
{
    (void)state;
    /* Byte tokens come out with the token that ends their run. */
    check("a\xc3\xa9z", NULL, "a|\xc3\xa9z|", false);
    check("\xe4\xbd\xa0\xe5\xa5\xbd", NULL, "\xe4\xbd\xa0\xe5\xa5\xbd|", false);
    check("\xf0\x9f\x99\x82!", NULL, "\xf0\x9f\x99\x82!|", false);
    /* A run that is not UTF-8 as a whole: one mark for each byte, for those of the good character too. */
    check("a\xf0\x9f", NULL, "a|" MARK MARK "|", false);
    check("a\xc3z", NULL, "a|" MARK "z|", false);
    check("\xc3\xa9\xe4z", NULL, MARK MARK MARK "z|", false);
    check("\xc3\xa9\xe4", NULL, MARK MARK MARK "|", false);
}

static void test_stops(void **state)
{
    (void)state;
    const char *items[] = {"END", "\xc3\xa9", ""};
    struct cli_list stops = {.items = items, .count = 3};
    check("abcENDdef", &stops, "a|b|c|", true);
    check("aENaEND", &stops, "a|ENa|", true);
    check("EENDx", &stops, "E|", true);
    check("abE", &stops, "a|b|E|", false); /* held back until the end */
    check("END", &stops, "", true);
    check("x\xc3\xa9y", &stops, "x|", true);
    const char *nested[] = {"bcd", "abc"};
    struct cli_list both = {.items = nested, .count = 2};
    check("xabcd", &both, "x|", true); /* the one that begins first */
    check("xbcd", &both, "x|", true);
}

static void test_taken(void **state)
{
    (void)state;
    const char *items[] = {"cd"};
    struct cli_list stops = {.items = items, .count = 1};
    struct text_stream s = {.tokenizer = tokenizer, .stops = &stops};
    assert_int_equal(feed(&s, "abcdef"), 4);
    assert_string_equal(s.text.data, "ab");
    assert_int_equal(s.text.len, 2);
    text_stream_reset(&s);
    assert_int_equal(feed(&s, "xy"), 2);
    assert_string_equal(s.text.data, "xy");
    assert_false(s.stopped);
    text_stream_deinit(&s);
}

static void test_special(void **state)
{
    (void)state;
    struct lt_error err;
    for (int raw = 0; raw < 2; raw++) {
        struct shown shown = {.len = 0};
        struct text_stream s = {
            .tokenizer = tokenizer, .put = note, .user = &shown, .show_special = raw != 0};
        assert_int_equal(text_stream_push(&s, id_of_char('a'), &err), LT_OK);
        assert_int_equal(text_stream_push(&s, 2, &err), LT_OK);
        assert_string_equal(shown.text, raw ? "a|</s>|" : "a|");
        text_stream_deinit(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain), cmocka_unit_test(test_characters), cmocka_unit_test(test_stops),
        cmocka_unit_test(test_taken), cmocka_unit_test(test_special),
    };
    return cmocka_run_group_tests_name("text stream", tests, open_tokenizer, close_tokenizer);
}
