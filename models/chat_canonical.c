#include "models/chat_canonical.h"

#include <string.h>

enum token_kind { TOKEN_NAME, TOKEN_STRING, TOKEN_SIGN };

struct reader {
    const char *at, *end;
    struct lt_strbuf *out;
    bool literal_open; /* the last item is a literal that may grow */
    bool bad;          /* not readable */
    bool nomem;
};

/* ---- items ---- */

static void close_literal(struct reader *r)
{
    if (r->literal_open)
        lt_strbuf_putc(r->out, LT_CHAT_ITEM_END);
    r->literal_open = false;
}

static void put_literal(struct reader *r, const char *text, size_t len)
{
    if (len == 0)
        return;
    if (!r->literal_open)
        lt_strbuf_putc(r->out, '\'');
    r->literal_open = true;
    lt_strbuf_put(r->out, text, len);
}

/* ---- tokens of a tag ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* Text of the string literal at r->at, unescaped; its bytes are appended to text. */
static void read_string(struct reader *r, struct lt_strbuf *text)
{
    char quote = *r->at++;
    while (r->at < r->end && *r->at != quote) {
        char c = *r->at++;
        if (c == '\\' && r->at < r->end) {
            static const char names[] = "nrt\\'\"", values[] = "\n\r\t\\'\"";
            const char *name = strchr(names, *r->at);
            if (!name || !*r->at)
                r->bad = true;
            else
                c = values[name - names];
            r->at++;
        }
        lt_strbuf_putc(text, c);
    }
    if (r->at < r->end)
        r->at++;
    else
        r->bad = true;
}

/* A tag's tokens, one string each: names and signs as they are, strings with a quote in front, all ended by a
 * NUL.  Stops behind the tag's end, which is "%}" or "}}", and tells whether it was "-%}" or "+%}". */
static void read_tokens(struct reader *r, struct lt_strbuf *tokens, const char *close, char *mark)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//", "**"};
    int depth = 0;
    *mark = 0;
    while (!r->bad) {
        while (r->at < r->end && is_space(*r->at))
            r->at++;
        if (r->end - r->at < 2) {
            r->bad = true;
            return;
        }
        char sign = *r->at == '-' || *r->at == '+' ? *r->at : (char)0;
        const char *tail = sign ? r->at + 1 : r->at;
        if (depth == 0 && r->end - tail >= 2 && memcmp(tail, close, 2) == 0) {
            *mark = sign;
            r->at = tail + 2;
            return;
        }
        if (*r->at == '\'' || *r->at == '"') {
            lt_strbuf_putc(tokens, '\'');
            read_string(r, tokens);
        } else if (is_name(*r->at)) {
            while (r->at < r->end && is_name(*r->at))
                lt_strbuf_putc(tokens, *r->at++);
        } else {
            size_t n = 1;
            for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
                n = memcmp(r->at, pairs[i], 2) == 0 ? 2 : n;
            depth += strchr("([{", *r->at) ? 1 : 0;
            depth -= strchr(")]}", *r->at) ? 1 : 0;
            lt_strbuf_put(tokens, r->at, n);
            r->at += n;
        }
        lt_strbuf_put(tokens, "", 1);
    }
}

static const char *next_token(const char *token)
{
    return token + strlen(token) + 1;
}

/* True when the tokens from token on are these, the list ending with NULL. */
static bool are(const char *token, const char *end, const char *const *list)
{
    for (; *list; list++) {
        if (token >= end || strcmp(token, *list) != 0)
            return false;
        token = next_token(token);
    }
    return true;
}

static bool is_field_name(const char *s)
{
    if (!*s || (*s >= '0' && *s <= '9'))
        return false;
    while (is_name(*s))
        s++;
    return !*s;
}

/* One token in its canonical spelling; returns the one behind what was used. */
static const char *put_token(struct reader *r, const char *token, const char *end, bool after_value)
{
    static const char *const strip[] = {".", "strip", "(", ")", NULL};
    const char *field = next_token(token);
    if (are(token, end, strip)) {
        lt_strbuf_puts(r->out, " | trim");
        for (int i = 0; i < 4; i++)
            token = next_token(token);
        return token;
    }
    if (after_value && strcmp(token, "[") == 0 && field < end && *field == '\'' && is_field_name(field + 1)) {
        const char *close = next_token(field);
        if (close < end && strcmp(close, "]") == 0) {
            lt_strbuf_puts(r->out, " . ");
            lt_strbuf_puts(r->out, field + 1);
            return next_token(close);
        }
    }
    lt_strbuf_putc(r->out, ' ');
    lt_strbuf_puts(r->out, token);
    if (*token == '\'')
        lt_strbuf_putc(r->out, '\'');
    return field;
}

static bool is_value_end(const char *token)
{
    return is_name(*token) || strcmp(token, ")") == 0 || strcmp(token, "]") == 0;
}

/* Tokens [from, to) as one item of this kind. */
static void put_item(struct reader *r, char kind, const char *from, const char *to)
{
    close_literal(r);
    lt_strbuf_putc(r->out, kind);
    bool after_value = false;
    while (from < to) {
        const char *next = put_token(r, from, to, after_value);
        after_value = is_value_end(from) || next != next_token(from);
        from = next;
    }
    lt_strbuf_putc(r->out, LT_CHAT_ITEM_END);
}

static void put_operand(struct reader *r, const char *from, const char *to)
{
    if (from == to)
        r->bad = true;
    else if (*from == '\'' && next_token(from) == to)
        put_literal(r, from + 1, strlen(from + 1));
    else
        put_item(r, 'O', from, to);
}

/* {{ a + b }}: the operands are separate outputs when nothing in it binds weaker than +. */
static void put_output(struct reader *r, const char *from, const char *to)
{
    static const char *const weaker[] = {"if", "else", "and", "or", "not", "in", "is",
                                         "~",  "==",   "!=",  "<",  ">",   "<=", ">="};
    if (from < to && strcmp(from, "raise_exception") == 0) {
        static const char raise[] = "raise_exception";
        put_item(r, 'O', raise, raise + sizeof raise); /* whatever it says */
        return;
    }
    int depth = 0;
    bool chain = true;
    for (const char *t = from; t < to; t = next_token(t)) {
        depth += strchr("([{", *t) && *t ? 1 : 0;
        depth -= strchr(")]}", *t) && *t ? 1 : 0;
        for (size_t i = 0; depth == 0 && i < sizeof weaker / sizeof *weaker; i++)
            chain = chain && strcmp(t, weaker[i]) != 0;
    }
    if (!chain) {
        put_item(r, 'O', from, to);
        return;
    }
    const char *operand = from;
    depth = 0;
    for (const char *t = from; t < to; t = next_token(t)) {
        depth += strchr("([{", *t) && *t ? 1 : 0;
        depth -= strchr(")]}", *t) && *t ? 1 : 0;
        if (depth == 0 && strcmp(t, "+") == 0) {
            put_operand(r, operand, t);
            operand = next_token(t);
        }
    }
    put_operand(r, operand, to);
}

static void put_block(struct reader *r, const char *from, const char *to)
{
    static const char *const ignored[] = {"generation", "endgeneration"};
    if (from == to || strcmp(from, "raw") == 0) {
        r->bad = true;
        return;
    }
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) {
        if (strcmp(from, ignored[i]) == 0)
            return;
    }
    put_item(r, 'B', from, to);
}

/* ---- the template ---- */

/* The next "{{", "{%" or "{#", or the end. */
static const char *find_tag(const char *at, const char *end)
{
    for (; end - at >= 2; at++) {
        if (at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
            return at;
    }
    return end;
}

/* Cuts whitespace in front of a tag: all for "{%-", the indentation for a block or comment that begins its
 * line (lstrip_blocks). */
static size_t text_before(const char *text, size_t len, const char *tag, bool line_start)
{
    if (tag[2] == '-') {
        while (len && is_space(text[len - 1]))
            len--;
        return len;
    }
    if (tag[1] == '{' || tag[2] == '+')
        return len;
    size_t n = len;
    while (n && is_space(text[n - 1]) && text[n - 1] != '\n')
        n--;
    return (n && text[n - 1] == '\n') || (n == 0 && line_start) ? n : len;
}

static void read_tag(struct reader *r, bool *line_start)
{
    char kind = r->at[1], mark = 0;
    r->at += 2;
    if (r->at < r->end && (*r->at == '-' || *r->at == '+'))
        r->at++;
    if (kind == '#') {
        while (r->end - r->at >= 2 && memcmp(r->at, "#}", 2) != 0)
            r->at++;
        if (r->end - r->at < 2) {
            r->bad = true;
            return;
        }
        mark = r->at[-1];
        r->at += 2;
    } else {
        struct lt_strbuf tokens = {0};
        read_tokens(r, &tokens, kind == '%' ? "%}" : "}}", &mark);
        const char *from = lt_strbuf_str(&tokens);
        if (!from)
            r->bad = r->nomem = true;
        else if (!r->bad && kind == '%')
            put_block(r, from, from + tokens.len);
        else if (!r->bad)
            put_output(r, from, from + tokens.len);
        lt_strbuf_deinit(&tokens);
    }
    *line_start = false;
    if (mark == '-') {
        while (r->at < r->end && is_space(*r->at))
            r->at++;
    } else if (kind != '{' && mark != '+' && r->at < r->end && *r->at == '\n') { /* trim_blocks */
        r->at++;
        *line_start = true;
    }
}

/* ---- what never runs ---- */

static const char *item_end(const char *item)
{
    const char *end = strchr(item, LT_CHAT_ITEM_END);
    return end ? end + 1 : item + strlen(item);
}

static bool item_is(const char *item, const char *text)
{
    size_t n = strlen(text);
    return strncmp(item, text, n) == 0 && item[n] == LT_CHAT_ITEM_END;
}

static int nesting(const char *item)
{
    static const char *const open[] = {"B if ", "B for ", "B macro ", "B filter ", "B call "};
    for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
        if (strncmp(item, open[i], strlen(open[i])) == 0)
            return 1;
    }
    return strncmp(item, "B end", 5) == 0 ? -1 : 0;
}

/* The else or endif that belongs to the if in front of item. */
static const char *branch_end(const char *item, bool stop_at_else)
{
    for (int depth = 0; *item; item = item_end(item)) {
        bool is_else = item_is(item, "B else") || strncmp(item, "B elif ", 7) == 0;
        if (depth == 0 && (item_is(item, "B endif") || (stop_at_else && is_else)))
            return item;
        depth += nesting(item);
    }
    return item;
}

/* Copies the items without {% if tools %} … and without a default for add_generation_prompt. */
static void drop_dead_items(struct lt_strbuf *out, const char *item)
{
    const char *skip_endif = NULL;
    while (*item) {
        const char *next = item_end(item);
        if (item == skip_endif) {
            skip_endif = NULL;
        } else if (item_is(item, "B if tools") && !skip_endif) {
            const char *other = branch_end(next, true);
            if (item_is(other, "B else")) {
                next = item_end(other);
                skip_endif = branch_end(next, false);
            } else if (item_is(other, "B endif")) {
                next = item_end(other);
            }
        } else if (item_is(item, "B if not add_generation_prompt is defined") &&
                   item_is(next, "B set add_generation_prompt = false") &&
                   item_is(item_end(next), "B endif")) {
            next = item_end(item_end(next));
        } else {
            lt_strbuf_put(out, item, (size_t)(next - item));
        }
        item = next;
    }
}

/* Joins literals that became neighbours. */
static void join_literals(struct lt_strbuf *out, const char *item)
{
    bool open = false;
    for (; *item; item = item_end(item)) {
        size_t n = (size_t)(item_end(item) - item);
        bool literal = *item == '\'';
        if (open && !literal)
            lt_strbuf_putc(out, LT_CHAT_ITEM_END);
        if (literal)
            lt_strbuf_put(out, open ? item + 1 : item, n - 1 - (open ? 1u : 0u));
        else
            lt_strbuf_put(out, item, n);
        open = literal;
    }
    if (open)
        lt_strbuf_putc(out, LT_CHAT_ITEM_END);
}

enum lt_status lt_chat_canonical(struct lt_strbuf *out, const char *text)
{
    struct lt_strbuf items = {0}, live = {0};
    size_t len = strlen(text);
    if (len && text[len - 1] == '\n')
        len--; /* Jinja drops one newline at the end of a template */
    struct reader r = {.at = text, .end = text + len, .out = &items};
    bool line_start = true;
    while (!r.bad && r.at < r.end) {
        const char *tag = find_tag(r.at, r.end);
        size_t n = (size_t)(tag - r.at);
        if (tag < r.end)
            n = text_before(r.at, n, tag, line_start);
        put_literal(&r, r.at, n);
        r.at = tag;
        if (tag < r.end)
            read_tag(&r, &line_start);
    }
    close_literal(&r);
    enum lt_status status = r.bad && !r.nomem ? LT_ERR_FORMAT : LT_OK;
    if (status == LT_OK && !r.nomem && lt_strbuf_ok(&items))
        drop_dead_items(&live, lt_strbuf_str(&items));
    if (status == LT_OK && lt_strbuf_ok(&live))
        join_literals(out, lt_strbuf_str(&live));
    if (status == LT_OK && (r.nomem || !lt_strbuf_ok(&items) || !lt_strbuf_ok(&live) || !lt_strbuf_ok(out)))
        status = LT_ERR_NOMEM;
    lt_strbuf_deinit(&items);
    lt_strbuf_deinit(&live);
    return status;
}

/* Where the rest of the literal at pattern begins in the literal at text, or NULL. */
static const char *find_rest_of_literal(const char *pattern, const char *text)
{
    size_t n = (size_t)(item_end(pattern) - pattern);
    for (; *text && *text != LT_CHAT_ITEM_END; text++) {
        if (strncmp(text, pattern, n) == 0)
            return text;
    }
    return NULL;
}

bool lt_chat_canonical_matches(const char *pattern, const char *text, struct lt_strbuf *capture)
{
    while (*pattern) {
        if (*pattern == LT_CHAT_CAPTURE) {
            const char *stop = find_rest_of_literal(++pattern, text);
            if (!stop)
                return false;
            lt_strbuf_put(capture, text, (size_t)(stop - text));
            text = stop;
        } else if (item_is(pattern, "B rest")) {
            pattern = item_end(pattern);
            text = branch_end(text, false);
        } else if (*pattern++ != *text++) {
            return false;
        }
    }
    return *text == '\0';
}
