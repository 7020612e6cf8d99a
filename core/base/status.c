#include "core/base/status.h"

#include <errno.h>
#include <locale.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "core/base/strbuf.h"

/* How many of the first len bytes to keep so that no UTF-8 sequence is cut in two. */
static size_t utf8_cut(const char *text, size_t len)
{
    size_t start = len;
    while (start > 0 && len - start < 3 && ((unsigned char)text[start - 1] & 0xC0u) == 0x80u)
        start--;
    if (start == 0)
        return len;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return len - (start - 1) < need ? start - 1 : len;
}

/* vsnprintf that truncates at a character; returns the length kept. */
static size_t format_text(char *buf, size_t size, const char *fmt, va_list args)
{
    int full = lt_vsnprintf(buf, size, fmt, args);
    if (full < 0) {
        buf[0] = '\0';
        return 0;
    }
    if ((size_t)full < size)
        return (size_t)full;
    size_t kept = utf8_cut(buf, size - 1);
    buf[kept] = '\0';
    return kept;
}

/* Appends text to buf[len], truncating at a character; returns the new length. */
static size_t append_text(char *buf, size_t size, size_t len, const char *text)
{
    size_t n = strlen(text);
    bool cut = n > size - 1 - len;
    if (cut)
        n = size - 1 - len;
    memcpy(buf + len, text, n);
    len += n;
    if (cut)
        len = utf8_cut(buf, len);
    buf[len] = '\0';
    return len;
}

enum lt_status lt_fail(struct lt_error *err, enum lt_status status, const char *fmt, ...)
{
    if (!err)
        return status;
    /* Formatted aside: the arguments may point into err->message. */
    char text[LT_ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    size_t len = format_text(text, sizeof text, fmt, args);
    va_end(args);
    memcpy(err->message, text, len + 1);
    err->status = status;
    return status;
}

static enum lt_status errno_status(int errno_value)
{
    switch (errno_value) {
    case ENOENT:
    case ENOTDIR:
        return LT_ERR_NOT_FOUND;
    case ENOMEM:
        return LT_ERR_NOMEM;
    default:
        return LT_ERR_IO;
    }
}

/* The system's words for an errno in the C locale; strerror() is neither thread-safe nor stable. */
static void errno_text(char *buf, size_t size, int errno_value)
{
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c_locale != (locale_t)0) {
        buf[0] = '\0';
        append_text(buf, size, 0, strerror_l(errno_value, c_locale));
        freelocale(c_locale);
    } else {
        lt_snprintf(buf, size, "error %d", errno_value);
    }
}

enum lt_status lt_fail_errno(struct lt_error *err, int errno_value, const char *fmt, ...)
{
    enum lt_status status = errno_status(errno_value);
    if (!err)
        return status;
    char reason[128];
    errno_text(reason, sizeof reason, errno_value);

    /* Room is kept for the reason, so that a long path does not push it out. */
    char text[LT_ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    size_t len = format_text(text, sizeof text - strlen(reason) - 2, fmt, args);
    va_end(args);
    len = append_text(text, sizeof text, len, ": ");
    len = append_text(text, sizeof text, len, reason);
    memcpy(err->message, text, len + 1);
    err->status = status;
    return status;
}

enum lt_status lt_fail_prefix(struct lt_error *err, enum lt_status status, const char *fmt, ...)
{
    if (!err)
        return status;
    char text[LT_ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    size_t len = format_text(text, sizeof text, fmt, args);
    va_end(args);
    len = append_text(text, sizeof text, len, ": ");
    len = append_text(text, sizeof text, len, err->message);
    memcpy(err->message, text, len + 1);
    err->status = status;
    return status;
}

const char *lt_status_name(enum lt_status status)
{
    switch (status) {
    case LT_OK:
        return "ok";
    case LT_ERR_NOMEM:
        return "out of memory";
    case LT_ERR_IO:
        return "input/output error";
    case LT_ERR_FORMAT:
        return "malformed data";
    case LT_ERR_INVALID:
        return "invalid setting";
    case LT_ERR_UNSUPPORTED:
        return "unsupported";
    case LT_ERR_NOT_FOUND:
        return "not found";
    case LT_ERR_NUMERIC:
        return "not a finite number";
    case LT_ERR_CANCELLED:
        return "cancelled";
    case LT_ERR_DEVICE:
        return "device error";
    }
    return "unknown error";
}
