#include "core/base/strbuf.h"

#include <limits.h>
#include <string.h>

#include <stb/stb_sprintf.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum { STRBUF_FIRST_CAPACITY = 64 };

void lt_strbuf_init(struct lt_strbuf *sb)
{
    *sb = (struct lt_strbuf){0};
}

void lt_strbuf_deinit(struct lt_strbuf *sb)
{
    lt_free(sb->data);
    lt_strbuf_init(sb);
}

void lt_strbuf_clear(struct lt_strbuf *sb)
{
    sb->len = 0;
    if (sb->data)
        sb->data[0] = '\0';
}

/* Makes room for n more bytes and the NUL. */
static bool grow(struct lt_strbuf *sb, size_t n)
{
    if (sb->failed)
        return false;
    size_t need;
    if (!lt_add_size(sb->len, n, &need) || !lt_add_size(need, 1, &need)) {
        sb->failed = true;
        return false;
    }
    if (need <= sb->cap)
        return true;
    size_t cap = sb->cap ? sb->cap : STRBUF_FIRST_CAPACITY;
    while (cap < need) {
        if (!lt_mul_size(cap, 2, &cap))
            cap = need;
    }
    char *data = lt_realloc_array(sb->data, cap, 1);
    if (!data) {
        sb->failed = true;
        return false;
    }
    sb->data = data;
    sb->cap = cap;
    return true;
}

void lt_strbuf_put(struct lt_strbuf *sb, const void *bytes, size_t n)
{
    if (n == 0 || !grow(sb, n))
        return;
    memcpy(sb->data + sb->len, bytes, n);
    sb->len += n;
    sb->data[sb->len] = '\0';
}

void lt_strbuf_puts(struct lt_strbuf *sb, const char *s)
{
    lt_strbuf_put(sb, s, strlen(s));
}

void lt_strbuf_putc(struct lt_strbuf *sb, char c)
{
    lt_strbuf_put(sb, &c, 1);
}

void lt_strbuf_printf(struct lt_strbuf *sb, const char *fmt, ...)
{
    if (!grow(sb, STRBUF_FIRST_CAPACITY))
        return;
    size_t room = sb->cap - sb->len;
    va_list args;
    va_start(args, fmt);
    int full = lt_vsnprintf(sb->data + sb->len, room, fmt, args);
    va_end(args);
    if (full >= 0 && (size_t)full >= room) {
        sb->data[sb->len] = '\0';
        if (!grow(sb, (size_t)full))
            return;
        va_start(args, fmt);
        full = lt_vsnprintf(sb->data + sb->len, sb->cap - sb->len, fmt, args);
        va_end(args);
    }
    if (full < 0) { /* longer than INT_MAX bytes */
        sb->data[sb->len] = '\0';
        sb->failed = true;
        return;
    }
    sb->len += (size_t)full;
}

void lt_strbuf_put_utf8(struct lt_strbuf *sb, unsigned code_point)
{
    unsigned c = code_point;
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        c = 0xFFFD; /* not a scalar value: the replacement character */
    char bytes[4];
    size_t n;
    if (c < 0x80) {
        bytes[0] = (char)c;
        n = 1;
    } else if (c < 0x800) {
        bytes[0] = (char)(0xC0u | (c >> 6));
        bytes[1] = (char)(0x80u | (c & 0x3Fu));
        n = 2;
    } else if (c < 0x10000) {
        bytes[0] = (char)(0xE0u | (c >> 12));
        bytes[1] = (char)(0x80u | ((c >> 6) & 0x3Fu));
        bytes[2] = (char)(0x80u | (c & 0x3Fu));
        n = 3;
    } else {
        bytes[0] = (char)(0xF0u | (c >> 18));
        bytes[1] = (char)(0x80u | ((c >> 12) & 0x3Fu));
        bytes[2] = (char)(0x80u | ((c >> 6) & 0x3Fu));
        bytes[3] = (char)(0x80u | (c & 0x3Fu));
        n = 4;
    }
    lt_strbuf_put(sb, bytes, n);
}

bool lt_strbuf_ok(const struct lt_strbuf *sb)
{
    return !sb->failed;
}

const char *lt_strbuf_str(const struct lt_strbuf *sb)
{
    if (sb->failed)
        return NULL;
    return sb->data ? sb->data : "";
}

char *lt_strbuf_take(struct lt_strbuf *sb)
{
    char *text = NULL;
    if (sb->failed)
        lt_free(sb->data);
    else
        text = sb->data ? sb->data : lt_strdup("");
    lt_strbuf_init(sb);
    return text;
}

int lt_vsnprintf(char *buf, size_t size, const char *fmt, va_list args)
{
    /* stb_sprintf would write before buf for a count of 0. */
    if (size == 0)
        return stbsp_vsnprintf(NULL, 0, fmt, args);
    return stbsp_vsnprintf(buf, size > INT_MAX ? INT_MAX : (int)size, fmt, args);
}

int lt_snprintf(char *buf, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = lt_vsnprintf(buf, size, fmt, args);
    va_end(args);
    return n;
}
