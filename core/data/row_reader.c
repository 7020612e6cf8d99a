#include "core/data/data_internal.h"

#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Moves to the next byte that is no white space, counting lines. */
static void skip_blanks(struct lt_row_reader *r)
{
    while (r->pos < r->size && is_blank(r->data[r->pos]))
        r->line += r->data[r->pos++] == '\n';
}

void lt_row_reader_init(struct lt_row_reader *r, const char *path, const void *data, size_t size)
{
    *r = (struct lt_row_reader){.path = path, .data = data, .size = size, .line = 1};
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        r->pos = 3;
    skip_blanks(r);
    if (r->pos < size && r->data[r->pos] == '[') {
        r->array = true;
        r->pos++;
    }
}

static enum lt_status array_error(const struct lt_row_reader *r, const char *what, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s:%lld: %s", r->path, (long long)r->line, what);
}

/* The ',' ']' or '}' that ends the array element at pos, or the end of the file.  Brackets that do not
 * match inside the element are left to the JSON parser. */
static size_t element_end(const struct lt_row_reader *r)
{
    size_t depth = 0, i = r->pos;
    bool in_string = false;

    for (; i < r->size; i++) {
        char c = r->data[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            depth++;
        } else if (depth == 0 && (c == ',' || c == ']' || c == '}')) {
            return i;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return r->size;
}

/* After ']': nothing may follow. */
static enum lt_status array_close(struct lt_row_reader *r, struct lt_error *err)
{
    r->pos++;
    skip_blanks(r);
    if (r->pos < r->size)
        return array_error(r, "there is text behind the ']' that ends the array of rows; remove it", err);
    return LT_OK;
}

static enum lt_status next_element(struct lt_row_reader *r, struct lt_row_text *row, struct lt_error *err)
{
    skip_blanks(r);
    if (r->any && r->pos >= r->size)
        return LT_OK; /* closed by the element before */
    size_t start = r->pos, end = element_end(r);
    if (end >= r->size)
        return array_error(r, "the ']' that ends the array of rows is missing", err);
    if (r->data[end] == '}')
        return array_error(r, "there is a '}' without its '{' in the array of rows", err);
    if (end == start && r->data[end] == ']' && !r->any)
        return array_close(r, err);
    if (end == start)
        return array_error(r, "a row is missing between two separators of the array", err);
    *row = (struct lt_row_text){.text = r->data + start, .line = r->line};
    for (size_t i = start; i < end; i++)
        r->line += r->data[i] == '\n';
    r->pos = end;
    while (is_blank(r->data[end - 1]))
        end--;
    row->size = end - start;
    r->any = true;
    if (r->data[r->pos] == ']')
        return array_close(r, err);
    r->pos++;
    skip_blanks(r);
    if (r->pos >= r->size)
        return array_error(r, "the ']' that ends the array of rows is missing", err);
    return LT_OK;
}

static void next_line(struct lt_row_reader *r, struct lt_row_text *row)
{
    skip_blanks(r);
    if (r->pos >= r->size)
        return;
    const char *text = r->data + r->pos;
    const char *newline = memchr(text, '\n', r->size - r->pos);
    size_t size = newline != NULL ? (size_t)(newline - text) : r->size - r->pos;
    *row = (struct lt_row_text){.text = text, .line = r->line};
    r->pos += size;
    while (is_blank(text[size - 1]))
        size--;
    row->size = size;
    r->any = true;
}

enum lt_status lt_row_reader_next(struct lt_row_reader *r, struct lt_row_text *row, struct lt_error *err)
{
    size_t bad;

    *row = (struct lt_row_text){0};
    if (r->array)
        LT_TRY(next_element(r, row, err));
    else
        next_line(r, row);
    if (row->text != NULL && !lt_utf8_valid(row->text, row->size, &bad))
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s:%lld: not UTF-8 at byte %zu of the row; save the file as UTF-8", r->path,
                       (long long)row->line, bad);
    return LT_OK;
}
