/* Numbers to and from text, whatever the locale. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/base/strbuf.h"
#include "tests/support/fixtures.h"

static void test_parse_i64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        long long value;
    } good[] = {{"0", 0},
                {"-0", 0},
                {"+7", 7},
                {"007", 7},
                {"9223372036854775807", LLONG_MAX},
                {"-9223372036854775808", LLONG_MIN}};
    static const char *const bad[] = {"",
                                      "-",
                                      "+",
                                      "1 ",
                                      " 1",
                                      "1.0",
                                      "0x10",
                                      "1e3",
                                      "--1",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "99999999999999999999",
                                      "1_000",
                                      "\xd9\xa1"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        long long v = 42;
        assert_true(lt_parse_i64(good[i].text, &v));
        assert_true(v == good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        long long v = 42;
        if (lt_parse_i64(bad[i], &v) || v != 42)
            fail_msg("'%s' was accepted", bad[i]);
    }
}

static void check_parse_double(void)
{
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0.0},
                {"1e-4", 1e-4},
                {"2E+5", 2e5},
                {"-1.5", -1.5},
                {".5", 0.5},
                {"5.", 5.0},
                {"+3.25", 3.25},
                {"0.1", 0.1},
                {"1e-400", 0.0},
                {"4.9e-324", 0x1p-1074},
                {"1.7976931348623157e308", 1.7976931348623157e308}};
    static const char *const bad[] = {"",      "-",      ".",     "e5",  "1e",  "1e+",   "1,5",
                                      "inf",   "nan",    "0x1p3", " 1",  "1 ",  "1.2.3", "1e5.",
                                      "1e999", "-1e999", "1f",    "+-1", "1_0", "1'000"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        double v = 42.0;
        assert_true(lt_parse_double(good[i].text, &v));
        assert_true(v == good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        double v = 42.0;
        if (lt_parse_double(bad[i], &v) || v != 42.0)
            fail_msg("'%s' was accepted", bad[i]);
    }
}

static void test_parse_double(void **state)
{
    (void)state;
    check_parse_double();
}

/* Expected texts are Python's repr(). */
static void check_put_double(void)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {0.1, "0.1"},
        {-2.5, "-2.5"},
        {1e-5, "1e-05"},
        {1e-4, "0.0001"},
        {0.00012345, "0.00012345"},
        {2e-4, "0.0002"},
        {1.5e-7, "1.5e-07"},
        {1e15, "1000000000000000.0"},
        {9999999999999998.0, "9999999999999998.0"},
        {1e16, "1e+16"},
        {1e22, "1e+22"},
        {1e23, "1e+23"},
        {123456789012345680.0, "1.2345678901234568e+17"},
        {3.141592653589793, "3.141592653589793"},
        {1.0 / 3.0, "0.3333333333333333"},
        {0.1 + 0.2, "0.30000000000000004"},
        {100.0, "100.0"},
        {1e100, "1e+100"},
        {0x1p-44, "5.684341886080802e-14"}, /* nearest 16 digits do not read back, the next ones do */
        {0x1p-1074, "5e-324"},
        {0x1p-1022, "2.2250738585072014e-308"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {9007199254740993.0, "9007199254740992.0"},
        {0.05, "0.05"},
        {1.138629436111989, "1.138629436111989"},
    };
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lt_strbuf_clear(&sb);
        lt_strbuf_put_double(&sb, cases[i].value);
        assert_string_equal(lt_strbuf_str(&sb), cases[i].text);
    }
    lt_strbuf_clear(&sb);
    lt_strbuf_put_double(&sb, INFINITY);
    lt_strbuf_put_double(&sb, -INFINITY);
    lt_strbuf_put_double(&sb, NAN);
    assert_string_equal(lt_strbuf_str(&sb), "inf-infnan");
    lt_strbuf_deinit(&sb);
}

static void test_put_double(void **state)
{
    (void)state;
    check_put_double();
}

/* Random bit patterns and all powers of two read back. */
static void test_double_round_trip(void **state)
{
    (void)state;
    struct lt_mt19937 mt;
    lt_mt19937_seed(&mt, 1);
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    for (int i = 0; i < 20000 + 2098; i++) {
        double v, back = 0.0;
        if (i < 20000) {
            uint64_t bits = (uint64_t)lt_mt19937_next(&mt) << 32;
            bits |= lt_mt19937_next(&mt);
            memcpy(&v, &bits, sizeof v);
        } else {
            v = ldexp(1.0, i - 20000 - 1074);
        }
        if (!isfinite(v))
            continue;
        lt_strbuf_clear(&sb);
        lt_strbuf_put_double(&sb, v);
        assert_true(lt_parse_double(lt_strbuf_str(&sb), &back));
        if (memcmp(&v, &back, sizeof v) != 0)
            fail_msg("%s", lt_strbuf_str(&sb));
    }
    lt_strbuf_deinit(&sb);
}

/* Selects some locale with a decimal comma: an installed one, or German made on the spot. */
static bool enter_comma_locale(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8"};
    for (int attempt = 0; attempt < 2; attempt++) {
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (setlocale(LC_ALL, names[i]) && strcmp(localeconv()->decimal_point, ",") == 0)
                return true;
        }
        if (attempt == 0) {
            char command[1024];
            const char *dir = lt_test_temp_dir();
            lt_snprintf(command, sizeof command,
                        "localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' >/dev/null 2>&1", dir);
            if (system(command) != 0)
                break;
            setenv("LOCPATH", dir, 1);
        }
    }
    setlocale(LC_ALL, "C");
    return false;
}

static void test_numbers_with_comma_locale(void **state)
{
    (void)state;
    if (!enter_comma_locale())
        lt_test_skip_missing("a locale with a decimal comma");
    char text[16];
    snprintf(text, sizeof text, "%.1f", 0.5);
    assert_string_equal(text, "0,5"); /* the locale is really in force */
    check_put_double();
    check_parse_double();
    lt_snprintf(text, sizeof text, "%.1f", 0.5);
    assert_string_equal(text, "0.5");
    struct lt_error err;
    lt_fail_errno(&err, ENOENT, "x");
    assert_string_equal(err.message, "x: No such file or directory");
    assert_true(strcmp(localeconv()->decimal_point, ",") == 0); /* and left alone */
    setlocale(LC_ALL, "C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_i64),
        cmocka_unit_test(test_parse_double),
        cmocka_unit_test(test_put_double),
        cmocka_unit_test(test_double_round_trip),
        cmocka_unit_test(test_numbers_with_comma_locale),
    };
    return cmocka_run_group_tests_name("number_text", tests, NULL, NULL);
}
