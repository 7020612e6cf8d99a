/* A growable byte string.  Errors stick: after a failed allocation every further call is a no-op
 * and lt_strbuf_ok() is false, so that callers check once at the end. */
#ifndef LT_BASE_STRBUF_H
#define LT_BASE_STRBUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/base/status.h"

struct lt_strbuf {
    char *data; /* NUL-terminated once anything was appended; else NULL */
    size_t len; /* without the NUL */
    size_t cap;
    bool failed;
};

void lt_strbuf_init(struct lt_strbuf *sb);
void lt_strbuf_deinit(struct lt_strbuf *sb);
void lt_strbuf_clear(struct lt_strbuf *sb); /* keeps the memory */
void lt_strbuf_put(struct lt_strbuf *sb, const void *bytes, size_t n);
void lt_strbuf_puts(struct lt_strbuf *sb, const char *s);
void lt_strbuf_putc(struct lt_strbuf *sb, char c);
void lt_strbuf_printf(struct lt_strbuf *sb, const char *fmt, ...) LT_PRINTF(2, 3);
/* Appends the UTF-8 encoding of a Unicode scalar value. */
void lt_strbuf_put_utf8(struct lt_strbuf *sb, unsigned code_point);
bool lt_strbuf_ok(const struct lt_strbuf *sb);
/* The contents ("" when empty); NULL after a failure. */
const char *lt_strbuf_str(const struct lt_strbuf *sb);
/* Hands the NUL-terminated contents over (lt_free) and empties sb; NULL after a failure. */
char *lt_strbuf_take(struct lt_strbuf *sb);

/* snprintf by stb_sprintf: the same bytes on every platform and locale. */
int lt_snprintf(char *buf, size_t size, const char *fmt, ...) LT_PRINTF(3, 4);
int lt_vsnprintf(char *buf, size_t size, const char *fmt, va_list args) LT_PRINTF(3, 0);

/* Locale-independent strict number parsing of the whole NUL-terminated string. */
bool lt_parse_i64(const char *s, long long *out) LT_MUST_USE;
bool lt_parse_double(const char *s, double *out) LT_MUST_USE;

/* Shortest decimal that reads back as the same double ("0.1", "1e-05"), as Python's repr. */
void lt_strbuf_put_double(struct lt_strbuf *sb, double v);

/* True when the n bytes are valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF);
 * otherwise *bad, when given, is the offset of the first bad byte. */
bool lt_utf8_valid(const void *bytes, size_t n, size_t *bad);

#endif
