/* Regular expressions of tokenizer.json are Oniguruma's.  They run on PCRE2 with UTF and UCP after a
 * translation of what the two read differently; what cannot be translated is refused.  Checked over all
 * code points against the library: the classes differ only in characters that are newer than the Unicode
 * version of the installed PCRE2 (14 in 10.42). */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

/* Backtracking a pre-token needs is small; a pattern that exceeds this is broken or hostile. */
enum { MATCH_LIMIT = 20000000, HEAP_LIMIT_KIB = 262144 };

/* Oniguruma's \w.  Outside a class it uses a table for Latin-1, which also has the superscript digits and
 * the fractions. */
#define WORD_CLASS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD_ALONE WORD_CLASS "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

/* POSIX classes by their Unicode definition; NULL: PCRE2 reads them the same way. */
static const struct posix_class {
    const char *name, *members;
} posix_classes[] = {
    {"alpha", "\\p{Alphabetic}"},
    {"alnum", "\\p{Alphabetic}\\p{Nd}"},
    {"punct", "\\p{P}\\p{S}"},
    {"space", "\\p{White_Space}"},
    {"upper", "\\p{Uppercase}"},
    {"lower", "\\p{Lowercase}"},
    {"word", WORD_CLASS},
    {"digit", NULL},
    {"xdigit", NULL},
    {"cntrl", NULL},
};

struct translation {
    const char *regex;
    size_t len, at;
    bool in_class;
    struct lt_strbuf out;
    const char *where;
    struct lt_error *err;
};

static enum lt_status refuse(struct translation *t, const char *what)
{
    struct lt_json_excerpt shown;
    return lt_fail(t->err, LT_ERR_UNSUPPORTED,
                   "%s: the regular expression \"%s\" uses %s, which is not supported", t->where,
                   lt_json_excerpt(&shown, t->regex), what);
}

static bool starts(const struct translation *t, const char *s)
{
    size_t n = strlen(s);
    return t->len - t->at >= n && memcmp(t->regex + t->at, s, n) == 0;
}

/* A class given by its members, as itself or inside another class. */
static void put_class(struct translation *t, const char *members, bool negated)
{
    if (t->in_class) {
        lt_strbuf_puts(&t->out, members);
        return;
    }
    lt_strbuf_puts(&t->out, negated ? "[^" : "[");
    lt_strbuf_puts(&t->out, members);
    lt_strbuf_putc(&t->out, ']');
}

/* PCRE2 takes a script's name for its Script_Extensions, Oniguruma for its Script ("sc:" in PCRE2). */
static bool is_script(const char *name, size_t len)
{
    char regex[64];
    int code;
    PCRE2_SIZE offset;
    int n = lt_snprintf(regex, sizeof regex, "\\p{sc:%.*s}", (int)len, name);
    if (len > 40 || n < 0 || (size_t)n >= sizeof regex)
        return false;
    pcre2_code *script = pcre2_compile((PCRE2_SPTR)regex, (size_t)n, PCRE2_UTF, &code, &offset, NULL);
    pcre2_code_free(script);
    return script != NULL;
}

/* \p{Name}, \p{^Name}, \P{Name}; t->at is at the brace. */
static enum lt_status translate_property(struct translation *t, char letter)
{
    const char *open = t->regex + t->at;
    const char *close = t->at < t->len ? memchr(open, '}', t->len - t->at) : NULL;
    if (!close || *open != '{')
        return refuse(t, "\\p without braces");
    const char *name = open + 1;
    lt_strbuf_putc(&t->out, '\\');
    lt_strbuf_putc(&t->out, letter);
    lt_strbuf_putc(&t->out, '{');
    if (*name == '^') {
        lt_strbuf_putc(&t->out, '^');
        name++;
    }
    size_t len = (size_t)(close - name);
    bool punct = len == 5 && memcmp(name, "Punct", 5) == 0; /* the category, not the POSIX class */
    if (!punct && is_script(name, len))
        lt_strbuf_puts(&t->out, "sc:");
    lt_strbuf_put(&t->out, name, punct ? 1 : len);
    lt_strbuf_putc(&t->out, '}');
    t->at = (size_t)(close - t->regex) + 1;
    return LT_OK;
}

/* t->at is behind the backslash. */
static enum lt_status translate_escape(struct translation *t)
{
    if (t->at >= t->len)
        return refuse(t, "a backslash at its end");
    char c = t->regex[t->at];
    t->at++;
    switch (c) {
    case 's': /* PCRE2's own \s also has U+180E */
        lt_strbuf_puts(&t->out, "\\p{White_Space}");
        return LT_OK;
    case 'S':
        lt_strbuf_puts(&t->out, "\\P{White_Space}");
        return LT_OK;
    case 'w':
        put_class(t, t->in_class ? WORD_CLASS : WORD_ALONE, false);
        return LT_OK;
    case 'W':
        if (t->in_class)
            return refuse(t, "\\W inside a class");
        put_class(t, WORD_ALONE, true);
        return LT_OK;
    case 'h': /* hexadecimal digit */
        put_class(t, "0-9A-Fa-f", false);
        return LT_OK;
    case 'b':
        if (t->in_class) {
            lt_strbuf_puts(&t->out, "\\b");
            return LT_OK;
        }
        lt_strbuf_puts(&t->out, "(?:(?<=[" WORD_ALONE "])(?![" WORD_ALONE "])|(?<![" WORD_ALONE
                                "])(?=[" WORD_ALONE "]))");
        return LT_OK;
    case 'p':
    case 'P':
        return translate_property(t, c);
    case 'u':
        if (t->len - t->at < 4)
            return refuse(t, "\\u without four digits");
        lt_strbuf_puts(&t->out, "\\x{");
        lt_strbuf_put(&t->out, t->regex + t->at, 4);
        lt_strbuf_putc(&t->out, '}');
        t->at += 4;
        return LT_OK;
    default:
        if (((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) && !strchr("nrtfvaedDxAzZGkR", c)) {
            char name[] = {'\\', c, '\0'};
            return refuse(t, name);
        }
        lt_strbuf_putc(&t->out, '\\');
        lt_strbuf_putc(&t->out, c);
        return LT_OK;
    }
}

/* [:name:] inside a class. */
static enum lt_status translate_posix(struct translation *t)
{
    const char *name = t->regex + t->at + 2;
    for (size_t i = 0; i < sizeof posix_classes / sizeof *posix_classes; i++) {
        size_t n = strlen(posix_classes[i].name);
        if (t->len - t->at < n + 4 || memcmp(name, posix_classes[i].name, n) != 0 ||
            memcmp(name + n, ":]", 2) != 0)
            continue;
        if (posix_classes[i].members)
            lt_strbuf_puts(&t->out, posix_classes[i].members);
        else
            lt_strbuf_put(&t->out, t->regex + t->at, n + 4);
        t->at += n + 4;
        return LT_OK;
    }
    return refuse(t, "an unknown or negated bracket expression");
}

/* Inside [...]. */
static enum lt_status translate_class_char(struct translation *t)
{
    if (starts(t, "[:"))
        return translate_posix(t);
    char c = t->regex[t->at];
    if (c == '[')
        return refuse(t, "a class inside a class");
    if (starts(t, "&&"))
        return refuse(t, "a class intersection (&&)");
    if (c == ']')
        t->in_class = false;
    lt_strbuf_putc(&t->out, c);
    t->at++;
    return LT_OK;
}

/* {n}, {n,}, {n,m}, {,m}: an interval; anything else is the character itself. */
static enum lt_status translate_brace(struct translation *t)
{
    size_t i = t->at + 1, digits = 0;
    while (i < t->len && ((t->regex[i] >= '0' && t->regex[i] <= '9') || t->regex[i] == ',')) {
        digits += t->regex[i] != ',';
        i++;
    }
    if (i >= t->len || t->regex[i] != '}' || !digits) {
        lt_strbuf_puts(&t->out, "\\{");
        t->at++;
        return LT_OK;
    }
    if (i + 1 < t->len && t->regex[i + 1] == '+') /* a repeat there, possessive in PCRE2 */
        return refuse(t, "+ behind an interval");
    lt_strbuf_putc(&t->out, '{');
    if (t->regex[t->at + 1] == ',')
        lt_strbuf_putc(&t->out, '0');
    lt_strbuf_put(&t->out, t->regex + t->at + 1, i - t->at);
    t->at = i + 1;
    return LT_OK;
}

/* "(?imx-imx": Oniguruma's m is PCRE2's s; its ^ and $ always match at lines, set for the whole pattern. */
static void translate_group(struct translation *t)
{
    lt_strbuf_putc(&t->out, '(');
    t->at++;
    if (t->at >= t->len || t->regex[t->at] != '?')
        return;
    size_t i = t->at + 1;
    while (i < t->len && strchr("imx-", t->regex[i]))
        i++;
    bool flags = i < t->len && i > t->at + 1 && (t->regex[i] == ':' || t->regex[i] == ')');
    if (!flags)
        return;
    for (; t->at < i; t->at++)
        lt_strbuf_putc(&t->out, t->regex[t->at] == 'm' ? 's' : t->regex[t->at]);
}

static enum lt_status translate_one(struct translation *t)
{
    char c = t->regex[t->at];
    if (c == '\0')
        return refuse(t, "a NUL character");
    if (c == '\\') {
        t->at++;
        return translate_escape(t);
    }
    if (t->in_class)
        return translate_class_char(t);
    if (c == '{')
        return translate_brace(t);
    if (c == '(') {
        translate_group(t);
        return LT_OK;
    }
    lt_strbuf_putc(&t->out, c);
    t->at++;
    if (c != '[')
        return LT_OK;
    t->in_class = true;
    if (t->at < t->len && t->regex[t->at] == '^') {
        lt_strbuf_putc(&t->out, '^');
        t->at++;
    }
    if (t->at < t->len && t->regex[t->at] == ']') {
        lt_strbuf_puts(&t->out, "\\]");
        t->at++;
    }
    return LT_OK;
}

static enum lt_status compile(struct lt_pattern *p, struct translation *t)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return lt_tokenizer_nomem(t->where, t->err);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE offset = 0;
    p->code = pcre2_compile((PCRE2_SPTR)t->out.data, t->out.len,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset,
                            context);
    pcre2_compile_context_free(context);
    if (!p->code) {
        PCRE2_UCHAR message[120];
        if (pcre2_get_error_message(code, message, sizeof message) < 0)
            message[0] = '\0';
        struct lt_json_excerpt shown;
        return lt_fail(t->err, LT_ERR_UNSUPPORTED,
                       "%s: PCRE2 cannot compile the regular expression \"%s\": %s", t->where,
                       lt_json_excerpt(&shown, t->regex), (const char *)message);
    }
    (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without a JIT the interpreter runs */
    return LT_OK;
}

enum lt_status lt_pattern_regex(struct lt_pattern *p, const char *regex, size_t len, const char *where,
                                struct lt_error *err)
{
    LT_TRY(lt_pattern_literal(p, regex, len) == LT_OK ? LT_OK : lt_tokenizer_nomem(where, err));
    struct translation t = {.regex = p->text, .len = len, .where = where, .err = err};
    enum lt_status status = LT_OK;
    while (status == LT_OK && t.at < t.len)
        status = translate_one(&t);
    if (status == LT_OK && (!lt_strbuf_ok(&t.out)))
        status = lt_tokenizer_nomem(where, err);
    if (status == LT_OK && t.out.len == 0)
        status = lt_fail(err, LT_ERR_UNSUPPORTED, "%s: an empty regular expression is not supported", where);
    if (status == LT_OK)
        status = compile(p, &t);
    lt_strbuf_deinit(&t.out);
    return status;
}

enum lt_status lt_pattern_literal(struct lt_pattern *p, const char *text, size_t len)
{
    p->text = lt_alloc(len + 1);
    if (!p->text)
        return LT_ERR_NOMEM;
    if (len)
        memcpy(p->text, text, len);
    p->text[len] = '\0';
    p->len = len;
    return LT_OK;
}

void lt_pattern_deinit(struct lt_pattern *p)
{
    pcre2_code_free(p->code);
    lt_free(p->text);
    *p = (struct lt_pattern){0};
}

static bool find_literal(const struct lt_pattern *p, const char *subject, size_t len, size_t from,
                         size_t *begin)
{
    while (p->len && len - from >= p->len) {
        const char *hit = memchr(subject + from, p->text[0], len - from - p->len + 1);
        if (!hit)
            return false;
        if (memcmp(hit, p->text, p->len) == 0) {
            *begin = (size_t)(hit - subject);
            return true;
        }
        from = (size_t)(hit - subject) + 1;
    }
    return false;
}

/* rc of pcre2_match; the interpreter steps in when the JIT's stack is too small. */
static int run(const struct lt_pattern *p, pcre2_match_data *data, const char *subject, size_t len,
               size_t from)
{
    int rc = pcre2_match(p->code, (PCRE2_SPTR)subject, len, from, PCRE2_NO_UTF_CHECK, data, NULL);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT && rc != PCRE2_ERROR_MATCHLIMIT)
        return rc;
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (!context)
        return PCRE2_ERROR_NOMEMORY;
    pcre2_set_match_limit(context, MATCH_LIMIT);
    pcre2_set_heap_limit(context, HEAP_LIMIT_KIB);
    rc = pcre2_match(p->code, (PCRE2_SPTR)subject, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                     context);
    pcre2_match_context_free(context);
    return rc;
}

enum lt_status lt_pattern_next(const struct lt_pattern *p, pcre2_match_data *data, const char *subject,
                               size_t len, struct lt_match_cursor *cursor, size_t *begin, size_t *end,
                               bool *found, struct lt_error *err)
{
    *found = false;
    if (!p->code) {
        *found = cursor->next <= len && find_literal(p, subject, len, cursor->next, begin);
        *end = *found ? *begin + p->len : 0;
        cursor->next = *end;
        return LT_OK;
    }
    while (cursor->next <= len) {
        int rc = run(p, data, subject, len, cursor->next);
        if (rc == PCRE2_ERROR_NOMATCH)
            return LT_OK;
        if (rc < 0) {
            struct lt_json_excerpt shown;
            return lt_fail(
                err, rc == PCRE2_ERROR_NOMEMORY ? LT_ERR_NOMEM : LT_ERR_UNSUPPORTED,
                "the regular expression \"%s\" of the tokenizer needs more steps than allowed on a text of "
                "%llu bytes (PCRE2 error %d)",
                lt_json_excerpt(&shown, p->text), (unsigned long long)len, rc);
        }
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(data);
        if (span[1] < span[0])
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "a regular expression of the tokenizer uses \\K in a lookaround");
        if (span[0] == span[1] && span[1] == cursor->last_end) { /* an empty match right behind the last */
            size_t step = 1;
            if (cursor->next < len)
                (void)lt_utf8_next(subject + cursor->next, len - cursor->next, &step);
            cursor->next += step;
            continue;
        }
        *begin = span[0];
        *end = cursor->next = cursor->last_end = span[1];
        *found = true;
        return LT_OK;
    }
    return LT_OK;
}
