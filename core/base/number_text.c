/* Numbers to and from text, the same in every locale. */
#include "core/base/strbuf.h"

#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libc converts doubles exactly but looks at the thread's locale for the decimal point: it is asked
 * with the C locale in force for this thread only. */
struct c_locale {
    locale_t own, previous;
};

static bool c_locale_enter(struct c_locale *state)
{
    state->own = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (state->own == (locale_t)0)
        return false;
    state->previous = uselocale(state->own);
    return true;
}

static void c_locale_leave(struct c_locale *state)
{
    uselocale(state->previous);
    freelocale(state->own);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool lt_parse_i64(const char *s, long long *out)
{
    bool negative = *s == '-';
    if (*s == '-' || *s == '+')
        s++;
    if (!is_digit(*s))
        return false;
    long long value = 0;
    for (; is_digit(*s); s++) {
        int digit = *s - '0';
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value))
            return false;
    }
    if (*s != '\0')
        return false;
    *out = value;
    return true;
}

/* [+-] digits [. digits] [e [+-] digits], at least one digit before or after the point: strtod alone
 * would also take blanks, hexadecimal, "inf" and "nan". */
static bool is_decimal(const char *s)
{
    if (*s == '-' || *s == '+')
        s++;
    size_t digits = 0;
    for (; is_digit(*s); s++)
        digits++;
    if (*s == '.') {
        for (s++; is_digit(*s); s++)
            digits++;
    }
    if (digits == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '-' || *s == '+')
            s++;
        if (!is_digit(*s))
            return false;
        while (is_digit(*s))
            s++;
    }
    return *s == '\0';
}

bool lt_parse_double(const char *s, double *out)
{
    struct c_locale state;
    if (!is_decimal(s) || !c_locale_enter(&state))
        return false;
    double value = strtod(s, NULL);
    c_locale_leave(&state);
    if (!isfinite(value)) /* beyond the range of a double */
        return false;
    *out = value;
    return true;
}

/* d1.d2d3… times ten to the exponent. */
struct decimal {
    char digits[20]; /* NUL-terminated, without trailing zeros */
    int exponent;
};

/* v rounded to the given number of digits, nearest, exact.  v > 0.  C locale in force. */
static void decimal_round(struct decimal *d, double v, int digits)
{
    char text[40];
    snprintf(text, sizeof text, "%.*e", digits - 1, v);
    size_t n = 0;
    const char *p = text;
    for (; *p != 'e'; p++) {
        if (is_digit(*p))
            d->digits[n++] = *p;
    }
    d->digits[n] = '\0';
    d->exponent = (int)strtol(p + 1, NULL, 10);
}

/* One unit in the last digit upwards. */
static void decimal_increment(struct decimal *d)
{
    size_t i = strlen(d->digits);
    while (i > 0) {
        i--;
        if (d->digits[i] != '9') {
            d->digits[i]++;
            return;
        }
        d->digits[i] = '0';
    }
    d->digits[0] = '1'; /* 999 became 1000; the last zero is dropped */
    d->exponent++;
}

static bool decimal_reads_back(const struct decimal *d, double v)
{
    char text[40];
    snprintf(text, sizeof text, "%c.%se%d", d->digits[0], d->digits + 1, d->exponent);
    return strtod(text, NULL) == v;
}

static void decimal_trim(struct decimal *d)
{
    size_t n = strlen(d->digits);
    while (n > 1 && d->digits[n - 1] == '0')
        n--;
    d->digits[n] = '\0';
}

static void decimal_shortest(struct decimal *d, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    /* The doubles below a power of two are closer than those above: a decimal above may read back
     * although the nearest one of that length, below, does not. */
    bool power_of_two = (bits & 0xFFFFFFFFFFFFFull) == 0;
    /* Up to 15 digits survive the way through a normal double, so shorter forms show as zeros. */
    int digits = (bits >> 52) == 0 ? 1 : 15;
    for (; digits <= 17; digits++) {
        decimal_round(d, v, digits);
        if (decimal_reads_back(d, v))
            break;
        if (power_of_two) {
            decimal_increment(d);
            if (decimal_reads_back(d, v))
                break;
        }
    }
    decimal_trim(d);
}

/* Python's layout: plain from 1e-04 up to below 1e+16, else with an exponent of at least two digits. */
static void decimal_layout(struct lt_strbuf *sb, const struct decimal *d)
{
    int n = (int)strlen(d->digits);
    int e = d->exponent;
    if (e < -4 || e >= 16) {
        lt_strbuf_putc(sb, d->digits[0]);
        if (n > 1) {
            lt_strbuf_putc(sb, '.');
            lt_strbuf_puts(sb, d->digits + 1);
        }
        lt_strbuf_printf(sb, "e%c%02d", e < 0 ? '-' : '+', e < 0 ? -e : e);
        return;
    }
    if (e < 0) {
        lt_strbuf_puts(sb, "0.");
        for (int i = -1; i > e; i--)
            lt_strbuf_putc(sb, '0');
        lt_strbuf_puts(sb, d->digits);
        return;
    }
    for (int i = 0; i <= e; i++)
        lt_strbuf_putc(sb, i < n ? d->digits[i] : '0');
    lt_strbuf_putc(sb, '.');
    lt_strbuf_puts(sb, n > e + 1 ? d->digits + e + 1 : "0");
}

void lt_strbuf_put_double(struct lt_strbuf *sb, double v)
{
    if (isnan(v)) {
        lt_strbuf_puts(sb, "nan");
        return;
    }
    if (signbit(v))
        lt_strbuf_putc(sb, '-');
    v = fabs(v);
    if (isinf(v)) {
        lt_strbuf_puts(sb, "inf");
        return;
    }
    if (v == 0.0) {
        lt_strbuf_puts(sb, "0.0");
        return;
    }
    struct c_locale state;
    if (!c_locale_enter(&state)) {
        sb->failed = true;
        return;
    }
    struct decimal d;
    decimal_shortest(&d, v);
    c_locale_leave(&state);
    decimal_layout(sb, &d);
}
