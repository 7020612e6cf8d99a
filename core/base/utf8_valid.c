#include "core/base/strbuf.h"

#include <stdint.h>
#include <string.h>

/* Length of the well-formed sequence at p (n bytes left, n > 0); 0 when it is ill-formed.
 * Unicode 15, table 3-7: the second byte's range excludes overlong forms, surrogates and values
 * above U+10FFFF. */
static size_t sequence_length(const unsigned char *p, size_t n)
{
    unsigned char lead = p[0];
    if (lead < 0x80)
        return 1;
    size_t len = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || n < len)
        return 0;
    unsigned char low = 0x80, high = 0xBF;
    switch (lead) {
    case 0xE0:
        low = 0xA0;
        break;
    case 0xED:
        high = 0x9F;
        break;
    case 0xF0:
        low = 0x90;
        break;
    case 0xF4:
        high = 0x8F;
        break;
    default:
        break;
    }
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xC0u) != 0x80u)
            return 0;
    }
    return len;
}

bool lt_utf8_valid(const void *bytes, size_t n, size_t *bad)
{
    const unsigned char *p = bytes;
    size_t i = 0;
    while (i < n) {
        if (n - i >= 8) { /* plain ASCII, eight at a time */
            uint64_t word;
            memcpy(&word, p + i, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                i += 8;
                continue;
            }
        }
        size_t len = sequence_length(p + i, n - i);
        if (len == 0) {
            if (bad)
                *bad = i;
            return false;
        }
        i += len;
    }
    return true;
}
