#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

/* A decoder step turns a list of strings into another one. */
struct decoding {
    const struct lt_pieces *in;
    struct lt_pieces *out;
    size_t begin; /* of the string being written */
    pcre2_match_data *match_data;
    struct lt_error *err;
};

static enum lt_status nomem(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory");
}

static const char *token_at(const struct lt_pieces *p, size_t i, size_t *len)
{
    *len = p->items[i].end - p->items[i].begin;
    return lt_strbuf_str(&p->text) + p->items[i].begin;
}

/* Closes the string written to out since the last call. */
static enum lt_status finish_string(struct decoding *d)
{
    if (!lt_strbuf_ok(&d->out->text) || !lt_pieces_push(d->out, d->begin, d->out->text.len, false))
        return nomem(d->err);
    d->begin = d->out->text.len;
    return LT_OK;
}

/* The whole list as bytes; a token with a character outside the byte alphabet stands for itself. */
static enum lt_status decode_byte_level(struct decoding *d)
{
    struct lt_strbuf bytes = {0};
    for (size_t i = 0; i < d->in->count; i++) {
        size_t len, n, start = bytes.len;
        const char *text = token_at(d->in, i, &len);
        for (size_t k = 0; k < len; k += n) {
            int byte = lt_byte_of_char(lt_utf8_next(text + k, len - k, &n));
            if (byte < 0) {
                bytes.len = start;
                lt_strbuf_put(&bytes, text, len);
                break;
            }
            lt_strbuf_putc(&bytes, (char)byte);
        }
    }
    bool ok = lt_strbuf_ok(&bytes);
    if (ok)
        lt_put_utf8_lossy(&d->out->text, lt_strbuf_str(&bytes), bytes.len);
    lt_strbuf_deinit(&bytes);
    return ok ? finish_string(d) : nomem(d->err);
}

static enum lt_status decode_replace(struct decoding *d, const struct lt_step *step)
{
    for (size_t i = 0; i < d->in->count; i++) {
        struct lt_match_cursor cursor = {0, SIZE_MAX};
        size_t len, done = 0;
        const char *text = token_at(d->in, i, &len);
        for (;;) {
            size_t begin, end;
            bool found;
            LT_TRY(lt_pattern_next(&step->pattern, d->match_data, text, len, &cursor, &begin, &end, &found,
                                   d->err));
            if (!found)
                break;
            lt_strbuf_put(&d->out->text, text + done, begin - done);
            lt_strbuf_put(&d->out->text, step->text, step->text_len);
            done = end;
        }
        lt_strbuf_put(&d->out->text, text + done, len - done);
        LT_TRY(finish_string(d));
    }
    return LT_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of "<0xHH>", or -1. */
static int byte_of_token(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static enum lt_status flush_bytes(struct decoding *d, struct lt_strbuf *bytes)
{
    if (bytes->len == 0)
        return LT_OK;
    if (lt_utf8_valid(bytes->data, bytes->len, NULL)) {
        lt_strbuf_put(&d->out->text, bytes->data, bytes->len);
    } else { /* a run that is not UTF-8 as a whole: one mark for each byte */
        for (size_t i = 0; i < bytes->len; i++)
            lt_strbuf_put_utf8(&d->out->text, 0xFFFD);
    }
    lt_strbuf_clear(bytes);
    return finish_string(d);
}

static enum lt_status decode_byte_fallback(struct decoding *d)
{
    struct lt_strbuf bytes = {0};
    enum lt_status status = LT_OK;
    for (size_t i = 0; i < d->in->count && status == LT_OK; i++) {
        size_t len;
        const char *text = token_at(d->in, i, &len);
        int byte = byte_of_token(text, len);
        if (byte >= 0) {
            lt_strbuf_putc(&bytes, (char)byte);
            continue;
        }
        status = lt_strbuf_ok(&bytes) ? flush_bytes(d, &bytes) : nomem(d->err);
        if (status == LT_OK) {
            lt_strbuf_put(&d->out->text, text, len);
            status = finish_string(d);
        }
    }
    if (status == LT_OK)
        status = lt_strbuf_ok(&bytes) ? flush_bytes(d, &bytes) : nomem(d->err);
    lt_strbuf_deinit(&bytes);
    return status;
}

static enum lt_status decode_fuse(struct decoding *d)
{
    for (size_t i = 0; i < d->in->count; i++) {
        size_t len;
        const char *text = token_at(d->in, i, &len);
        lt_strbuf_put(&d->out->text, text, len);
    }
    return finish_string(d);
}

static bool begins_with(const char *text, size_t len, const char *s, size_t n)
{
    return n && len >= n && memcmp(text, s, n) == 0;
}

static enum lt_status decode_strip(struct decoding *d, const struct lt_step *step)
{
    for (size_t i = 0; i < d->in->count; i++) {
        size_t len, n = step->text_len;
        const char *text = token_at(d->in, i, &len);
        for (size_t k = 0; k < step->start && begins_with(text, len, step->text, n); k++) {
            text += n;
            len -= n;
        }
        for (size_t k = 0; k < step->stop && len >= n && memcmp(text + len - n, step->text, n) == 0; k++)
            len -= n;
        lt_strbuf_put(&d->out->text, text, len);
        LT_TRY(finish_string(d));
    }
    return LT_OK;
}

/* Every mark becomes a space, except in the first token, where marks vanish when encoding put one there. */
static enum lt_status decode_metaspace(struct decoding *d, const struct lt_step *step)
{
    for (size_t i = 0; i < d->in->count; i++) {
        size_t len, n;
        const char *text = token_at(d->in, i, &len);
        for (size_t k = 0; k < len; k += n) {
            if (begins_with(text + k, len - k, step->text, step->text_len)) {
                n = step->text_len;
                if (i > 0 || step->scheme == LT_PREPEND_NEVER)
                    lt_strbuf_putc(&d->out->text, ' ');
            } else {
                n = 1;
                lt_strbuf_putc(&d->out->text, text[k]);
            }
        }
        LT_TRY(finish_string(d));
    }
    return LT_OK;
}

/* end_of_word_suffix: a space, and nothing in the last token. */
static enum lt_status decode_bpe(struct decoding *d, const struct lt_step *step)
{
    for (size_t i = 0; i < d->in->count; i++) {
        size_t len, n;
        const char *text = token_at(d->in, i, &len);
        for (size_t k = 0; k < len; k += n) {
            if (begins_with(text + k, len - k, step->text, step->text_len)) {
                n = step->text_len;
                if (i + 1 < d->in->count)
                    lt_strbuf_putc(&d->out->text, ' ');
            } else {
                n = 1;
                lt_strbuf_putc(&d->out->text, text[k]);
            }
        }
        LT_TRY(finish_string(d));
    }
    return LT_OK;
}

struct replacement {
    const char *from, *to;
};

/* Applies the replacements one after another to text[begin..]. */
static void replace_all(struct lt_strbuf *text, size_t begin, const struct replacement *list, size_t count)
{
    for (size_t r = 0; r < count && lt_strbuf_ok(text) && text->data; r++) {
        size_t from = strlen(list[r].from), to = strlen(list[r].to), w = begin;
        for (size_t i = begin; i < text->len;) { /* no replacement is longer than what it replaces */
            if (begins_with(text->data + i, text->len - i, list[r].from, from)) {
                memcpy(text->data + w, list[r].to, to);
                w += to;
                i += from;
            } else {
                text->data[w++] = text->data[i++];
            }
        }
        text->len = w;
        text->data[w] = '\0';
    }
}

static enum lt_status decode_word_piece(struct decoding *d, const struct lt_step *step)
{
    static const struct replacement tidy[] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    for (size_t i = 0; i < d->in->count; i++) {
        size_t len;
        const char *text = token_at(d->in, i, &len);
        if (i && begins_with(text, len, step->text, step->text_len)) {
            text += step->text_len;
            len -= step->text_len;
        } else if (i) {
            lt_strbuf_putc(&d->out->text, ' ');
        }
        lt_strbuf_put(&d->out->text, text, len);
        if (step->cleanup)
            replace_all(&d->out->text, d->begin, tidy, sizeof tidy / sizeof *tidy);
        LT_TRY(finish_string(d));
    }
    return LT_OK;
}

static enum lt_status apply(struct decoding *d, const struct lt_step *step)
{
    switch (step->kind) {
    case LT_DEC_BYTE_LEVEL:
        return decode_byte_level(d);
    case LT_DEC_REPLACE:
        return decode_replace(d, step);
    case LT_DEC_BYTE_FALLBACK:
        return decode_byte_fallback(d);
    case LT_DEC_STRIP:
        return decode_strip(d, step);
    case LT_DEC_METASPACE:
        return decode_metaspace(d, step);
    case LT_DEC_BPE:
        return decode_bpe(d, step);
    case LT_DEC_WORD_PIECE:
        return decode_word_piece(d, step);
    default:
        return decode_fuse(d);
    }
}

enum lt_status lt_decode_steps(const struct lt_steps *steps, struct lt_pieces *tokens, struct lt_strbuf *out,
                               struct lt_error *err)
{
    struct lt_pieces next = {0};
    enum lt_status status = LT_OK;
    struct decoding d = {.match_data = pcre2_match_data_create(1, NULL), .err = err};
    if (!d.match_data)
        status = nomem(err);
    for (size_t i = 0; i < steps->count && status == LT_OK; i++) {
        lt_pieces_clear(&next);
        d.in = tokens;
        d.out = &next;
        d.begin = 0;
        status = apply(&d, &steps->items[i]);
        struct lt_pieces swap = *tokens;
        *tokens = next;
        next = swap;
    }
    for (size_t i = 0; i < tokens->count && status == LT_OK; i++) {
        size_t len;
        const char *text = token_at(tokens, i, &len);
        lt_strbuf_put(out, text, len);
    }
    pcre2_match_data_free(d.match_data);
    lt_pieces_deinit(&next);
    return status;
}

static void join_with_spaces(const struct lt_pieces *tokens, struct lt_strbuf *out)
{
    for (size_t i = 0; i < tokens->count; i++) {
        size_t len;
        const char *text = token_at(tokens, i, &len);
        if (i)
            lt_strbuf_putc(out, ' ');
        lt_strbuf_put(out, text, len);
    }
}

enum lt_status lt_tokenizer_decode(const struct lt_tokenizer *tok, const int32_t *ids, size_t n,
                                   bool skip_special, struct lt_strbuf *text, struct lt_error *err)
{
    /* transformers' clean_up_tokenization */
    static const struct replacement tidy[] = {
        {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
        {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    struct lt_pieces tokens = {0};
    size_t begin = text->len;
    enum lt_status status = LT_OK;
    for (size_t i = 0; i < n && status == LT_OK; i++) {
        size_t len;
        const char *token = lt_vocab_text(&tok->vocab, ids[i], &len);
        if (!token || (skip_special && lt_tokenizer_is_special(tok, ids[i])))
            continue;
        size_t at = tokens.text.len;
        lt_strbuf_put(&tokens.text, token, len);
        if (!lt_strbuf_ok(&tokens.text) || !lt_pieces_push(&tokens, at, tokens.text.len, false))
            status = nomem(err);
    }
    if (status == LT_OK && tok->has_decoder)
        status = lt_decode_steps(&tok->decoder, &tokens, text, err);
    else if (status == LT_OK)
        join_with_spaces(&tokens, text);
    if (status == LT_OK && tok->clean_up_spaces)
        replace_all(text, begin, tidy, sizeof tidy / sizeof *tidy);
    if (status == LT_OK && !lt_strbuf_ok(text))
        status = nomem(err);
    lt_pieces_deinit(&tokens);
    return status;
}
