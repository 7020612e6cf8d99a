/* Parsing by jansson; our own output, because jansson writes reals with 17 digits. */
#include "core/io/json.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

enum {
    MAX_DEPTH = 2048, /* of jansson's parser, kept for output */
    MAX_FILE_BYTES = 256 << 20,
    INT64_DIGITS = 19
};

const char *lt_json_excerpt(struct lt_json_excerpt *e, const char *text)
{
    size_t room = sizeof e->text - 4; /* for "..." */
    size_t n = strlen(text);
    bool cut = n > room;
    size_t bad = 0;

    if (cut) {
        n = room;
        while (n > 0 && ((unsigned char)text[n] & 0xc0u) == 0x80u)
            n--;
    }
    memcpy(e->text, text, n);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)e->text[i] < 0x20 || e->text[i] == 0x7f)
            e->text[i] = '?';
    while (!lt_utf8_valid(e->text, n, &bad))
        e->text[bad] = '?';
    memcpy(e->text + n, cut ? "..." : "", cut ? 4 : 1);
    return e->text;
}

/* ---- reading ---- */

/* jansson refuses integers beyond int64.  Writes the text with ".0" behind each of those, which makes
 * them real numbers; everything else stays as it is, so that no malformed text becomes valid. */
static void put_with_wide_integers(struct lt_strbuf *sb, const char *text, size_t size)
{
    bool in_string = false;
    size_t done = 0;

    for (size_t i = 0; i < size;) {
        char c = text[i];
        if (in_string && c == '\\') {
            i += 2;
            continue;
        }
        if (c == '"')
            in_string = !in_string;
        if (in_string || !((c >= '0' && c <= '9') || c == '-')) {
            i++;
            continue;
        }
        size_t start = i, sign = c == '-' ? 1 : 0, digits = 0;
        for (i++; i < size && strchr("0123456789+-.eE", text[i]) != NULL && text[i] != '\0'; i++)
            ;
        for (size_t k = start + sign; k < i && text[k] >= '0' && text[k] <= '9'; k++)
            digits++;
        if (digits < INT64_DIGITS || sign + digits != i - start)
            continue;
        char number[INT64_DIGITS + 2];
        long long value;
        bool fits = digits == INT64_DIGITS;
        if (fits) {
            memcpy(number, text + start, i - start);
            number[i - start] = '\0';
            fits = lt_parse_i64(number, &value);
        }
        if (!fits) {
            lt_strbuf_put(sb, text + done, i - done);
            lt_strbuf_puts(sb, ".0");
            done = i;
        }
    }
    lt_strbuf_put(sb, text + done, size - done);
}

static enum lt_status parse_error(const json_error_t *e, const char *where, struct lt_error *err)
{
    struct lt_json_excerpt what;

    if (json_error_code(e) == json_error_out_of_memory)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading JSON", where);
    return lt_fail(err, LT_ERR_FORMAT, "%s: not valid JSON at line %d, column %d: %s", where, e->line,
                   e->column, lt_json_excerpt(&what, e->text));
}

enum lt_status lt_json_parse(json_t **out, const char *text, size_t size, const char *where,
                             struct lt_error *err)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_error_t e;

    *out = NULL;
    if (size == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: empty, JSON expected", where);
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: begins with a UTF-8 byte order mark; save it without one",
                       where);
    /* jansson loses a NUL byte behind a number, so that "[1\0]" would pass. */
    const char *nul = memchr(text, '\0', size);
    if (nul != NULL)
        return lt_fail(err, LT_ERR_FORMAT, "%s: a NUL byte at offset %zu; JSON is text", where,
                       (size_t)(nul - text));
    *out = json_loadb(text, size, flags, &e);
    if (*out == NULL && json_error_code(&e) == json_error_numeric_overflow) {
        struct lt_strbuf wide;
        lt_strbuf_init(&wide);
        put_with_wide_integers(&wide, text, size);
        if (!lt_strbuf_ok(&wide)) {
            lt_strbuf_deinit(&wide);
            return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading JSON", where);
        }
        *out = json_loadb(lt_strbuf_str(&wide), wide.len, flags, &e);
        lt_strbuf_deinit(&wide);
    }
    return *out != NULL ? LT_OK : parse_error(&e, where, err);
}

enum lt_status lt_json_load(json_t **out, const char *path, struct lt_error *err)
{
    char *text;
    size_t size;

    *out = NULL;
    LT_TRY(lt_file_read(path, MAX_FILE_BYTES, &text, &size, err));
    enum lt_status status = lt_json_parse(out, text, size, path, err);
    lt_free(text);
    return status;
}

/* ---- fields ---- */

const char *lt_json_type_name(const json_t *v)
{
    if (v == NULL)
        return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        break;
    }
    return "null";
}

static enum lt_status wrong_type(const json_t *v, const char *key, const char *wanted, const char *where,
                                 struct lt_error *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be %s, found %s", where, key, wanted,
                   lt_json_type_name(v));
}

/* The field's value, or NULL when it is absent or null. */
static enum lt_status get_field(const json_t **value, const json_t *obj, const char *key, const char *where,
                                struct lt_error *err)
{
    *value = NULL;
    if (obj == NULL || json_is_null(obj))
        return LT_OK;
    if (!json_is_object(obj))
        return lt_fail(err, LT_ERR_FORMAT, "%s: must be an object with the field %s, found %s", where, key,
                       lt_json_type_name(obj));
    const json_t *v = json_object_get(obj, key);
    if (v != NULL && !json_is_null(v))
        *value = v;
    return LT_OK;
}

enum lt_status lt_json_get_i64(const json_t *obj, const char *key, int64_t *out, const char *where,
                               struct lt_error *err)
{
    const json_t *v;

    LT_TRY(get_field(&v, obj, key, where, err));
    if (v == NULL)
        return LT_OK;
    if (!json_is_integer(v))
        return wrong_type(v, key, "an integer", where, err);
    *out = json_integer_value(v);
    return LT_OK;
}

enum lt_status lt_json_get_double(const json_t *obj, const char *key, double *out, const char *where,
                                  struct lt_error *err)
{
    const json_t *v;

    LT_TRY(get_field(&v, obj, key, where, err));
    if (v == NULL)
        return LT_OK;
    if (!json_is_number(v))
        return wrong_type(v, key, "a number", where, err);
    *out = json_number_value(v);
    return LT_OK;
}

enum lt_status lt_json_get_bool(const json_t *obj, const char *key, bool *out, const char *where,
                                struct lt_error *err)
{
    const json_t *v;

    LT_TRY(get_field(&v, obj, key, where, err));
    if (v == NULL)
        return LT_OK;
    if (!json_is_boolean(v))
        return wrong_type(v, key, "true or false", where, err);
    *out = json_is_true(v);
    return LT_OK;
}

enum lt_status lt_json_get_string(const json_t *obj, const char *key, const char **out, const char *where,
                                  struct lt_error *err)
{
    const json_t *v;

    LT_TRY(get_field(&v, obj, key, where, err));
    if (v == NULL)
        return LT_OK;
    if (!json_is_string(v))
        return wrong_type(v, key, "a string", where, err);
    if (strlen(json_string_value(v)) != json_string_length(v))
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be a string without the character U+0000", where,
                       key);
    *out = json_string_value(v);
    return LT_OK;
}

/* ---- writing ---- */

void lt_json_put_string(struct lt_strbuf *sb, const char *text, size_t size)
{
    static const char short_escapes[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    size_t done = 0;

    lt_strbuf_putc(sb, '"');
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        const char *hit = c != 0 ? strchr(short_escapes, c) : NULL;
        lt_strbuf_put(sb, text + done, i - done);
        done = i + 1;
        if (hit != NULL) {
            lt_strbuf_putc(sb, '\\');
            lt_strbuf_putc(sb, letters[hit - short_escapes]);
        } else {
            lt_strbuf_printf(sb, "\\u%04x", c);
        }
    }
    lt_strbuf_put(sb, text + done, size - done);
    lt_strbuf_putc(sb, '"');
}

struct dumper {
    struct lt_strbuf sb;
    int indent;
    bool sort_keys;
};

static void put_break(struct dumper *d, int depth)
{
    lt_strbuf_putc(&d->sb, '\n');
    for (int i = 0; i < depth * d->indent; i++)
        lt_strbuf_putc(&d->sb, ' ');
}

/* Between `index` elements already written and the next one. */
static void put_separator(struct dumper *d, size_t index, int depth)
{
    if (index > 0)
        lt_strbuf_puts(&d->sb, d->indent > 0 ? "," : ", ");
    if (d->indent > 0)
        put_break(d, depth);
}

static void put_value(struct dumper *d, const json_t *v, int depth);

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void put_object(struct dumper *d, const json_t *v, int depth)
{
    json_t *obj = (json_t *)(uintptr_t)v; /* jansson's iterators take no const, but change nothing */
    size_t count = json_object_size(v), index = 0;
    const char **keys = lt_alloc_array(count, sizeof *keys);

    if (keys == NULL) {
        d->sb.failed = true;
        return;
    }
    for (void *it = json_object_iter(obj); it != NULL; it = json_object_iter_next(obj, it))
        keys[index++] = json_object_iter_key(it);
    if (d->sort_keys)
        qsort(keys, count, sizeof *keys, compare_keys);
    lt_strbuf_putc(&d->sb, '{');
    for (size_t i = 0; i < count; i++) {
        put_separator(d, i, depth + 1);
        lt_json_put_string(&d->sb, keys[i], strlen(keys[i]));
        lt_strbuf_puts(&d->sb, ": ");
        put_value(d, json_object_get(v, keys[i]), depth + 1);
    }
    if (count > 0 && d->indent > 0)
        put_break(d, depth);
    lt_strbuf_putc(&d->sb, '}');
    lt_free(keys);
}

static void put_array(struct dumper *d, const json_t *v, int depth)
{
    size_t count = json_array_size(v);

    lt_strbuf_putc(&d->sb, '[');
    for (size_t i = 0; i < count; i++) {
        put_separator(d, i, depth + 1);
        put_value(d, json_array_get(v, i), depth + 1);
    }
    if (count > 0 && d->indent > 0)
        put_break(d, depth);
    lt_strbuf_putc(&d->sb, ']');
}

static void put_value(struct dumper *d, const json_t *v, int depth)
{
    if (d->sb.failed || depth > MAX_DEPTH) {
        d->sb.failed = true;
        return;
    }
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        put_object(d, v, depth);
        break;
    case JSON_ARRAY:
        put_array(d, v, depth);
        break;
    case JSON_STRING:
        lt_json_put_string(&d->sb, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        lt_strbuf_printf(&d->sb, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        lt_strbuf_put_double(&d->sb, json_real_value(v));
        break;
    case JSON_TRUE:
        lt_strbuf_puts(&d->sb, "true");
        break;
    case JSON_FALSE:
        lt_strbuf_puts(&d->sb, "false");
        break;
    case JSON_NULL:
        lt_strbuf_puts(&d->sb, "null");
        break;
    }
}

char *lt_json_dump(const json_t *v, int indent, bool sort_keys)
{
    struct dumper d = {.indent = indent, .sort_keys = sort_keys};

    lt_strbuf_init(&d.sb);
    put_value(&d, v, 0);
    char *text = lt_strbuf_take(&d.sb);
    lt_strbuf_deinit(&d.sb);
    return text;
}

enum lt_status lt_json_save(const json_t *v, const char *path, int indent, struct lt_error *err)
{
    struct dumper d = {.indent = indent, .sort_keys = true};
    enum lt_status status;

    lt_strbuf_init(&d.sb);
    put_value(&d, v, 0);
    if (indent > 0)
        lt_strbuf_putc(&d.sb, '\n');
    if (lt_strbuf_ok(&d.sb))
        status = lt_file_write_atomic(path, d.sb.data, d.sb.len, err);
    else
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while writing JSON", path);
    lt_strbuf_deinit(&d.sb);
    return status;
}
