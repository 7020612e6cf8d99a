#include "models/tokenizer_internal.h"

#include <utf8proc.h>

int32_t lt_utf8_next(const char *text, size_t len, size_t *size)
{
    const unsigned char *b = (const unsigned char *)text;
    unsigned lead = b[0];
    if (lead < 0x80 || len < 2) {
        *size = 1;
        return (int32_t)lead;
    }
    if (lead < 0xE0 || len < 3) {
        *size = 2;
        return (int32_t)((lead & 0x1Fu) << 6 | (b[1] & 0x3Fu));
    }
    if (lead < 0xF0 || len < 4) {
        *size = 3;
        return (int32_t)((lead & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu));
    }
    *size = 4;
    return (int32_t)((lead & 0x07u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu));
}

size_t lt_utf8_last(const char *text, size_t len)
{
    size_t n = 1;
    while (n < len && ((unsigned char)text[len - n] & 0xC0u) == 0x80u)
        n++;
    return n;
}

bool lt_is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

bool lt_is_numeric(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool lt_is_punctuation(int32_t c)
{
    if (c < 0x80)
        return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
               (c >= 0x7B && c <= 0x7E);
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool lt_is_word(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) /* L*, M*, Nd, Nl */
        return true;
    if (k == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D) /* connectors, Join_Control */
        return true;
    /* The symbols (So) that are Other_Alphabetic: circled and squared letters. */
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

/* Bytes 0x21-0x7E, 0xA1-0xAC, 0xAE-0xFF show as themselves; the other 68, in order, as U+0100 onwards. */
void lt_put_byte_char(struct lt_strbuf *sb, unsigned char byte)
{
    unsigned c = byte;
    if (byte < 0x21)
        c = 0x100u + byte;
    else if (byte >= 0x7F && byte <= 0xA0)
        c = 0x100u + 0x21u + (byte - 0x7Fu);
    else if (byte == 0xAD)
        c = 0x100u + 67u;
    if (c < 0x80)
        lt_strbuf_putc(sb, (char)c);
    else
        lt_strbuf_put_utf8(sb, c);
}

int lt_byte_of_char(int32_t c)
{
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF))
        return (int)c;
    if (c >= 0x100 && c < 0x100 + 0x21)
        return (int)(c - 0x100);
    if (c >= 0x121 && c < 0x121 + 34)
        return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

/* Length of the well-formed character at b, or minus the length of the maximal invalid part. */
static int sequence_at(const unsigned char *b, size_t len)
{
    unsigned lead = b[0];
    if (lead < 0x80)
        return 1;
    unsigned low = 0x80, high = 0xBF; /* of the second byte */
    int want;
    if (lead >= 0xC2 && lead <= 0xDF) {
        want = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        want = 3;
        low = lead == 0xE0 ? 0xA0 : 0x80;
        high = lead == 0xED ? 0x9F : 0xBF;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        want = 4;
        low = lead == 0xF0 ? 0x90 : 0x80;
        high = lead == 0xF4 ? 0x8F : 0xBF;
    } else {
        return -1;
    }
    for (int i = 1; i < want; i++) {
        if ((size_t)i >= len || b[i] < low || b[i] > high)
            return -i;
        low = 0x80;
        high = 0xBF;
    }
    return want;
}

void lt_put_utf8_lossy(struct lt_strbuf *sb, const char *bytes, size_t len)
{
    size_t i = 0, from = 0;
    while (i < len) {
        int n = sequence_at((const unsigned char *)bytes + i, len - i);
        if (n > 0) {
            i += (size_t)n;
            continue;
        }
        lt_strbuf_put(sb, bytes + from, i - from);
        lt_strbuf_put_utf8(sb, 0xFFFD);
        i += (size_t)-n;
        from = i;
    }
    lt_strbuf_put(sb, bytes + from, len - from);
}
