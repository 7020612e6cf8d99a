#include "models/tokenizer_internal.h"

#include <string.h>

#include <utf8proc.h>

#include "core/base/alloc.h"

/* Spells U+2581, SentencePiece's visible space. */
static const char meta_space[] = "\xE2\x96\x81";

struct text_view {
    const char *data;
    size_t len;
};

/* True when no character can change: every code point is below U+0300 (NFC) or U+0080 (the others). */
static bool is_stable(struct text_view in, bool nfc)
{
    unsigned limit = nfc ? 0xCC : 0x80; /* lead byte of U+0300 */
    for (size_t i = 0; i < in.len; i++) {
        if ((unsigned char)in.data[i] >= limit)
            return false;
    }
    return true;
}

static bool normalize_form(struct lt_strbuf *out, enum lt_step_kind kind, struct text_view in)
{
    if (is_stable(in, kind == LT_NORM_NFC)) {
        lt_strbuf_put(out, in.data, in.len);
        return true;
    }
    int options = UTF8PROC_STABLE;
    options |= kind == LT_NORM_NFC || kind == LT_NORM_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (kind == LT_NORM_NFKC || kind == LT_NORM_NFKD)
        options |= UTF8PROC_COMPAT;
    const utf8proc_uint8_t *data = (const utf8proc_uint8_t *)in.data;
    utf8proc_ssize_t n =
        utf8proc_decompose(data, (utf8proc_ssize_t)in.len, NULL, 0, (utf8proc_option_t)options);
    if (n < 0)
        return false;
    utf8proc_int32_t *points = lt_alloc_array((size_t)n + 1, sizeof *points);
    if (!points)
        return false;
    n = utf8proc_decompose(data, (utf8proc_ssize_t)in.len, points, n, (utf8proc_option_t)options);
    if (n >= 0)
        n = utf8proc_reencode(points, n, (utf8proc_option_t)options);
    if (n >= 0)
        lt_strbuf_put(out, points, (size_t)n);
    lt_free(points);
    return n >= 0;
}

static void lowercase(struct lt_strbuf *out, struct text_view in)
{
    size_t n;
    for (size_t i = 0; i < in.len; i += n) {
        int32_t c = lt_utf8_next(in.data + i, in.len - i, &n);
        if (c == 0x130) /* the only letter whose full lower case has two characters */
            lt_strbuf_puts(out, "i\xCC\x87");
        else
            lt_strbuf_put_utf8(out, (unsigned)utf8proc_tolower(c));
    }
}

static void strip_accents(struct lt_strbuf *out, struct text_view in)
{
    size_t n;
    for (size_t i = 0; i < in.len; i += n) {
        utf8proc_category_t k = utf8proc_category(lt_utf8_next(in.data + i, in.len - i, &n));
        if (k < UTF8PROC_CATEGORY_MN || k > UTF8PROC_CATEGORY_ME)
            lt_strbuf_put(out, in.data + i, n);
    }
}

static void strip(struct lt_strbuf *out, const struct lt_step *step, struct text_view in, bool *at_start)
{
    size_t n, begin = 0, end = in.len;
    while (step->left && begin < end && lt_is_space(lt_utf8_next(in.data + begin, end - begin, &n)))
        begin += n;
    while (step->right && end > begin) {
        size_t last = lt_utf8_last(in.data, end);
        if (!lt_is_space(lt_utf8_next(in.data + end - last, last, &n)))
            break;
        end -= last;
    }
    if (begin)
        *at_start = false;
    lt_strbuf_put(out, in.data + begin, end - begin);
}

static enum lt_status replace(struct lt_strbuf *out, const struct lt_step *step, struct lt_encoder *enc,
                              struct text_view in, bool *at_start, struct lt_error *err)
{
    struct lt_match_cursor cursor = {0, SIZE_MAX};
    size_t done = 0;
    for (;;) {
        size_t begin, end;
        bool found;
        LT_TRY(lt_pattern_next(&step->pattern, enc->match_data, in.data, in.len, &cursor, &begin, &end,
                               &found, err));
        if (!found)
            break;
        if (begin == 0 && end > 0 && step->text_len == 0)
            *at_start = false;
        lt_strbuf_put(out, in.data + done, begin - done);
        lt_strbuf_put(out, step->text, step->text_len);
        done = end;
    }
    lt_strbuf_put(out, in.data + done, in.len - done);
    return LT_OK;
}

/* SentencePiece's normalizer with an empty character map: spaces only (normalizer.cc, Normalize). */
static void sentence_piece(struct lt_strbuf *out, const struct lt_step *step, struct text_view in,
                           bool at_start)
{
    size_t begin = 0, end = in.len;
    if (step->collapse) {
        while (begin < end && in.data[begin] == ' ')
            begin++;
        while (end > begin && in.data[end - 1] == ' ')
            end--;
    }
    if (begin == end)
        return;
    const char *space = step->escape ? meta_space : " ";
    bool dummy = step->scheme == LT_PREPEND_ALWAYS || (step->scheme == LT_PREPEND_FIRST && at_start);
    if (dummy && !step->suffix)
        lt_strbuf_puts(out, space);
    for (size_t i = begin; i < end; i++) {
        if (in.data[i] != ' ')
            lt_strbuf_putc(out, in.data[i]);
        else if (!step->collapse || in.data[i - 1] != ' ')
            lt_strbuf_puts(out, space);
    }
    if (dummy && step->suffix)
        lt_strbuf_puts(out, space);
}

static enum lt_status apply(struct lt_strbuf *out, const struct lt_step *step, struct lt_encoder *enc,
                            struct text_view in, bool *at_start, struct lt_error *err)
{
    switch (step->kind) {
    case LT_NORM_NFC:
    case LT_NORM_NFD:
    case LT_NORM_NFKC:
    case LT_NORM_NFKD:
        return normalize_form(out, step->kind, in) ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory");
    case LT_NORM_LOWERCASE:
        lowercase(out, in);
        return LT_OK;
    case LT_NORM_STRIP_ACCENTS:
        strip_accents(out, in);
        return LT_OK;
    case LT_NORM_STRIP:
        strip(out, step, in, at_start);
        return LT_OK;
    case LT_NORM_PREPEND:
        if (in.len)
            lt_strbuf_put(out, step->text, step->text_len);
        lt_strbuf_put(out, in.data, in.len);
        return LT_OK;
    case LT_NORM_REPLACE:
        return replace(out, step, enc, in, at_start, err);
    case LT_NORM_BYTE_LEVEL:
        for (size_t i = 0; i < in.len; i++)
            lt_put_byte_char(out, (unsigned char)in.data[i]);
        return LT_OK;
    case LT_NORM_SPM:
        sentence_piece(out, step, in, *at_start);
        return LT_OK;
    default:
        return LT_OK; /* the parser puts no other kind into this list */
    }
}

enum lt_status lt_normalize(const struct lt_steps *steps, struct lt_encoder *enc, const char *text,
                            size_t len, bool *at_start, struct lt_error *err)
{
    lt_strbuf_clear(&enc->normalized);
    if (steps->count == 0)
        lt_strbuf_put(&enc->normalized, text, len);
    struct text_view in = {text, len};
    for (size_t i = 0; i < steps->count; i++) {
        lt_strbuf_clear(&enc->spare);
        LT_TRY(apply(&enc->spare, &steps->items[i], enc, in, at_start, err));
        struct lt_strbuf swap = enc->normalized;
        enc->normalized = enc->spare;
        enc->spare = swap;
        if (!lt_strbuf_ok(&enc->normalized))
            break;
        in = (struct text_view){lt_strbuf_str(&enc->normalized), enc->normalized.len};
    }
    return lt_strbuf_ok(&enc->normalized) ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory");
}
