/* The tokens of mteval-v13a as sacreBLEU makes them.  Its rules are substitutions by regular expressions, each
 * over the whole line and without overlaps; here every rule is a pass that copies one string into another.
 * Working on bytes is the same as working on characters: all that the rules look for is ASCII. */
#include "core/infer/bleu.h"

#include <stdbool.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_stop_or_comma(char c)
{
    return c == '.' || c == ',';
}

/* ASCII punctuation except ' - . and ,  */
static bool is_symbol(char c)
{
    return (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') || c == '/' || (c >= ':' && c <= '@') ||
           (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

/* Bytes of the white space character at s (Python's str.isspace()), 0 when it is none. */
static size_t space_length(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    if (*u == ' ' || (*u >= 0x09 && *u <= 0x0d) || (*u >= 0x1c && *u <= 0x1f))
        return 1;
    if (u[0] == 0xc2 && (u[1] == 0x85 || u[1] == 0xa0))
        return 2;
    static const char *const wide[] = {"\xe1\x9a\x80", "\xe2\x80\xa8", "\xe2\x80\xa9",
                                       "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (strncmp(s, wide[i], 3) == 0)
            return 3;
    return u[0] == 0xe2 && u[1] == 0x80 && u[2] >= 0x80 && u[2] <= 0x8a ? 3 : 0;
}

/* Length of text without white space at its end. */
static size_t trimmed_length(const char *text)
{
    size_t end = 0;
    for (size_t i = 0; text[i];) {
        size_t space = space_length(text + i);
        i += space > 0 ? space : 1;
        end = space > 0 ? end : i;
    }
    return end;
}

static void replace(struct lt_strbuf *out, const char *in, const char *from, const char *to)
{
    size_t n = strlen(from);
    for (const char *at; (at = strstr(in, from)); in = at + n) {
        lt_strbuf_put(out, in, (size_t)(at - in));
        lt_strbuf_puts(out, to);
    }
    lt_strbuf_puts(out, in);
}

static void split_symbols(struct lt_strbuf *out, const char *in)
{
    for (; *in; in++) {
        if (is_symbol(*in))
            lt_strbuf_putc(out, ' ');
        lt_strbuf_putc(out, *in);
        if (is_symbol(*in))
            lt_strbuf_putc(out, ' ');
    }
}

enum pair_rule {
    STOP_AFTER_NON_DIGIT,  /* "x." → "x . " */
    STOP_BEFORE_NON_DIGIT, /* ".x" → " . x" */
    DASH_AFTER_DIGIT       /* "1-" → "1 - " */
};

static bool pair_matches(enum pair_rule rule, char a, char b)
{
    if (a == '\0' || b == '\0')
        return false;
    switch (rule) {
    case STOP_AFTER_NON_DIGIT:
        return !is_digit(a) && is_stop_or_comma(b);
    case STOP_BEFORE_NON_DIGIT:
        return is_stop_or_comma(a) && !is_digit(b);
    case DASH_AFTER_DIGIT:
        break;
    }
    return is_digit(a) && b == '-';
}

static void split_pairs(struct lt_strbuf *out, const char *in, enum pair_rule rule)
{
    while (*in) {
        if (!pair_matches(rule, in[0], in[1])) {
            lt_strbuf_putc(out, *in++);
            continue;
        }
        lt_strbuf_puts(out, rule == STOP_BEFORE_NON_DIGIT ? " " : "");
        lt_strbuf_putc(out, in[0]);
        lt_strbuf_putc(out, ' ');
        lt_strbuf_putc(out, in[1]);
        lt_strbuf_puts(out, rule == STOP_BEFORE_NON_DIGIT ? "" : " ");
        in += 2;
    }
}

static void put_words(struct lt_strbuf *tokens, const char *in)
{
    bool inside = false;
    while (*in) {
        size_t space = space_length(in);
        if (space == 0)
            lt_strbuf_putc(tokens, *in);
        else if (inside)
            lt_strbuf_putc(tokens, '\n');
        inside = space == 0;
        in += space > 0 ? space : 1;
    }
    if (inside)
        lt_strbuf_putc(tokens, '\n');
}

static const struct {
    const char *from, *to;
} replacements[] = {{"<skipped>", ""}, {"-\n", ""},   {"\n", " "},  {"&quot;", "\""},
                    {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"}};

/* The line as the passes leave it: each reads line[now] and writes line[!now].  Failures stick. */
struct passes {
    struct lt_strbuf line[2];
    int now;
};

static const char *result(const struct passes *p)
{
    const char *text = lt_strbuf_str(&p->line[p->now]);
    return text ? text : "";
}

/* Makes the other line the current one and empties the one to write next. */
static void turn(struct passes *p)
{
    lt_strbuf_clear(&p->line[p->now]);
    p->now = !p->now;
}

enum lt_status lt_bleu_tokenize(struct lt_strbuf *tokens, const char *text, struct lt_error *err)
{
    struct passes p = {.now = 0};
    lt_strbuf_init(&p.line[0]);
    lt_strbuf_init(&p.line[1]);
    lt_strbuf_put(&p.line[0], text, trimmed_length(text));
    for (size_t i = 0; i < sizeof replacements / sizeof *replacements; i++) {
        replace(&p.line[!p.now], result(&p), replacements[i].from, replacements[i].to);
        turn(&p);
    }
    lt_strbuf_putc(&p.line[!p.now], ' ');
    lt_strbuf_puts(&p.line[!p.now], result(&p));
    lt_strbuf_putc(&p.line[!p.now], ' ');
    turn(&p);
    split_symbols(&p.line[!p.now], result(&p));
    turn(&p);
    for (int rule = STOP_AFTER_NON_DIGIT; rule <= DASH_AFTER_DIGIT; rule++) {
        split_pairs(&p.line[!p.now], result(&p), (enum pair_rule)rule);
        turn(&p);
    }
    put_words(tokens, result(&p));
    bool ok = lt_strbuf_ok(&p.line[0]) && lt_strbuf_ok(&p.line[1]) && lt_strbuf_ok(tokens);
    lt_strbuf_deinit(&p.line[0]);
    lt_strbuf_deinit(&p.line[1]);
    return ok ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory for the tokens of an answer");
}
