#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

const char lt_gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char lt_qwen_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                             " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

bool lt_pieces_push(struct lt_pieces *p, size_t begin, size_t end, bool first)
{
    void *items = p->items;
    bool room = lt_reserve(&items, &p->cap, p->count, sizeof *p->items);
    p->items = items;
    if (room)
        p->items[p->count++] = (struct lt_piece){begin, end, first};
    return room;
}

void lt_pieces_clear(struct lt_pieces *p)
{
    lt_strbuf_clear(&p->text);
    p->count = 0;
}

void lt_pieces_deinit(struct lt_pieces *p)
{
    lt_strbuf_deinit(&p->text);
    lt_free(p->items);
    *p = (struct lt_pieces){0};
}

static enum lt_status nomem(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory");
}

/* ---- finding the delimiters of one piece ---- */

static bool push_match(struct lt_encoder *enc, size_t begin, size_t end, bool hit)
{
    void *items = enc->matches;
    bool room = lt_reserve(&items, &enc->match_cap, enc->match_count, sizeof *enc->matches);
    enc->matches = items;
    if (room)
        enc->matches[enc->match_count++] = (struct lt_match){begin, end, hit};
    return room;
}

static enum lt_status match_pattern(const struct lt_pattern *pattern, struct lt_encoder *enc,
                                    const char *text, size_t len, struct lt_error *err)
{
    struct lt_match_cursor cursor = {0, SIZE_MAX};
    size_t done = 0;
    for (;;) {
        size_t begin, end;
        bool found;
        LT_TRY(lt_pattern_next(pattern, enc->match_data, text, len, &cursor, &begin, &end, &found, err));
        if (!found)
            break;
        if (begin > done && !push_match(enc, done, begin, false))
            return nomem(err);
        if (!push_match(enc, begin, end, true))
            return nomem(err);
        done = end;
    }
    return done == len || push_match(enc, done, len, false) ? LT_OK : nomem(err);
}

static enum lt_status match_chars(bool (*is_delimiter)(int32_t), struct lt_encoder *enc, const char *text,
                                  size_t len, struct lt_error *err)
{
    size_t n, done = 0;
    for (size_t i = 0; i < len; i += n) {
        if (!is_delimiter(lt_utf8_next(text + i, len - i, &n)))
            continue;
        if (i > done && !push_match(enc, done, i, false))
            return nomem(err);
        if (!push_match(enc, i, i + n, true))
            return nomem(err);
        done = i + n;
    }
    return done == len || push_match(enc, done, len, false) ? LT_OK : nomem(err);
}

static enum lt_status match_length(size_t characters, struct lt_encoder *enc, const char *text, size_t len,
                                   struct lt_error *err)
{
    size_t n, done = 0, inside = 0;
    for (size_t i = 0; i < len; i += n) {
        if (inside == characters) {
            if (!push_match(enc, done, i, true))
                return nomem(err);
            done = i;
            inside = 0;
        }
        (void)lt_utf8_next(text + i, len - i, &n);
        inside++;
    }
    return push_match(enc, done, len, true) ? LT_OK : nomem(err);
}

static enum lt_status find_matches(const struct lt_step *step, struct lt_encoder *enc, const char *text,
                                   size_t len, struct lt_error *err)
{
    enc->match_count = 0;
    switch (step->kind) {
    case LT_PRE_DIGITS:
        return match_chars(lt_is_numeric, enc, text, len, err);
    case LT_PRE_PUNCTUATION:
        return match_chars(lt_is_punctuation, enc, text, len, err);
    case LT_PRE_WHITESPACE:
        return match_chars(lt_is_space, enc, text, len, err);
    case LT_PRE_FIXED_LENGTH:
        return match_length(step->start, enc, text, len, err);
    default:
        return match_pattern(&step->pattern, enc, text, len, err);
    }
}

/* ---- cutting at them (NormalizedString::split) ---- */

/* Joins neighbours in place as the behaviour asks; the remaining matches are [*from, *to). */
static void join_matches(struct lt_match *m, size_t count, enum lt_split_behavior behavior, size_t *from,
                         size_t *to)
{
    *from = 0;
    *to = count;
    bool previous = false;
    if (behavior == LT_SPLIT_MERGED_WITH_NEXT) {
        size_t w = count;
        for (size_t i = count; i-- > 0;) {
            struct lt_match now = m[i];
            if (now.hit && !previous && w < count)
                m[w].begin = now.begin;
            else
                m[--w] = now;
            previous = now.hit;
        }
        *from = w;
    } else if (behavior == LT_SPLIT_MERGED_WITH_PREVIOUS || behavior == LT_SPLIT_CONTIGUOUS) {
        size_t w = 0;
        for (size_t i = 0; i < count; i++) {
            struct lt_match now = m[i];
            bool join = behavior == LT_SPLIT_CONTIGUOUS ? now.hit == previous : now.hit && !previous;
            if (join && w)
                m[w - 1].end = now.end;
            else
                m[w++] = now;
            previous = now.hit;
        }
        *to = w;
    }
}

static enum lt_status split_pieces(const struct lt_step *step, enum lt_split_behavior behavior, bool invert,
                                   struct lt_encoder *enc, struct lt_error *err)
{
    const char *text = lt_strbuf_str(&enc->pieces.text);
    enc->next.count = 0;
    for (size_t p = 0; p < enc->pieces.count; p++) {
        struct lt_piece piece = enc->pieces.items[p];
        LT_TRY(find_matches(step, enc, text + piece.begin, piece.end - piece.begin, err));
        for (size_t i = 0; invert && i < enc->match_count; i++)
            enc->matches[i].hit = !enc->matches[i].hit;
        size_t from, to;
        join_matches(enc->matches, enc->match_count, behavior, &from, &to);
        for (size_t i = from; i < to; i++) {
            struct lt_match m = enc->matches[i];
            if (m.begin == m.end || (behavior == LT_SPLIT_REMOVED && m.hit))
                continue;
            if (!lt_pieces_push(&enc->next, piece.begin + m.begin, piece.begin + m.end,
                                piece.first && m.begin == 0))
                return nomem(err);
        }
    }
    struct lt_piece *items = enc->pieces.items;
    size_t cap = enc->pieces.cap;
    enc->pieces.items = enc->next.items;
    enc->pieces.cap = enc->next.cap;
    enc->pieces.count = enc->next.count;
    enc->next.items = items;
    enc->next.cap = cap;
    return LT_OK;
}

/* ---- rewriting the text of every piece ---- */

typedef void rewrite_fn(const struct lt_step *step, struct lt_strbuf *out, const char *text, size_t len,
                        bool first);

static enum lt_status rewrite_pieces(const struct lt_step *step, rewrite_fn *rewrite, struct lt_encoder *enc,
                                     struct lt_error *err)
{
    const char *text = lt_strbuf_str(&enc->pieces.text);
    lt_pieces_clear(&enc->next);
    for (size_t p = 0; p < enc->pieces.count; p++) {
        struct lt_piece piece = enc->pieces.items[p];
        size_t begin = enc->next.text.len;
        rewrite(step, &enc->next.text, text + piece.begin, piece.end - piece.begin, piece.first);
        if (!lt_strbuf_ok(&enc->next.text) ||
            !lt_pieces_push(&enc->next, begin, enc->next.text.len, piece.first))
            return nomem(err);
    }
    struct lt_pieces swap = enc->pieces;
    enc->pieces = enc->next;
    enc->next = swap;
    return LT_OK;
}

static void add_prefix_space(const struct lt_step *step, struct lt_strbuf *out, const char *text, size_t len,
                             bool first)
{
    (void)step;
    (void)first;
    if (text[0] != ' ')
        lt_strbuf_putc(out, ' ');
    lt_strbuf_put(out, text, len);
}

static void map_bytes(const struct lt_step *step, struct lt_strbuf *out, const char *text, size_t len,
                      bool first)
{
    (void)step;
    (void)first;
    for (size_t i = 0; i < len; i++)
        lt_put_byte_char(out, (unsigned char)text[i]);
}

static void mark_spaces(const struct lt_step *step, struct lt_strbuf *out, const char *text, size_t len,
                        bool first)
{
    bool marked = text[0] == ' ' || (len >= step->text_len && memcmp(text, step->text, step->text_len) == 0);
    if (!marked && (step->scheme == LT_PREPEND_ALWAYS || (step->scheme == LT_PREPEND_FIRST && first)))
        lt_strbuf_put(out, step->text, step->text_len);
    size_t done = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != ' ')
            continue;
        lt_strbuf_put(out, text + done, i - done);
        lt_strbuf_put(out, step->text, step->text_len);
        done = i + 1;
    }
    lt_strbuf_put(out, text + done, len - done);
}

static enum lt_status apply(const struct lt_step *step, struct lt_encoder *enc, struct lt_error *err)
{
    switch (step->kind) {
    case LT_PRE_BYTE_LEVEL:
        if (step->add_prefix_space)
            LT_TRY(rewrite_pieces(step, add_prefix_space, enc, err));
        if (step->split)
            LT_TRY(split_pieces(step, LT_SPLIT_ISOLATED, false, enc, err));
        return rewrite_pieces(step, map_bytes, enc, err);
    case LT_PRE_METASPACE:
        LT_TRY(rewrite_pieces(step, mark_spaces, enc, err));
        return step->split ? split_pieces(step, LT_SPLIT_MERGED_WITH_NEXT, false, enc, err) : LT_OK;
    case LT_PRE_DIGITS:
        return split_pieces(step, step->individual ? LT_SPLIT_ISOLATED : LT_SPLIT_CONTIGUOUS, false, enc,
                            err);
    case LT_PRE_WHITESPACE:
        return split_pieces(step, LT_SPLIT_REMOVED, false, enc, err);
    case LT_PRE_FIXED_LENGTH:
        return split_pieces(step, LT_SPLIT_ISOLATED, false, enc, err);
    default:
        return split_pieces(step, step->behavior, step->invert, enc, err);
    }
}

enum lt_status lt_pretokenize(const struct lt_steps *steps, struct lt_encoder *enc, const char *text,
                              size_t len, bool at_start, struct lt_error *err)
{
    lt_pieces_clear(&enc->pieces);
    lt_strbuf_put(&enc->pieces.text, text, len);
    if (!lt_strbuf_ok(&enc->pieces.text))
        return nomem(err);
    if (len && !lt_pieces_push(&enc->pieces, 0, len, at_start))
        return nomem(err);
    for (size_t i = 0; i < steps->count && enc->pieces.count; i++)
        LT_TRY(apply(&steps->items[i], enc, err));
    return LT_OK;
}
