#include "tools/text_stream.h"

#include <string.h>

static void show(struct text_stream *s, size_t end)
{
    /* Cleaning up spaces may shorten text that was shown already; never begin inside of a character. */
    while (s->shown < end && ((unsigned char)s->text.data[s->shown] & 0xc0) == 0x80)
        s->shown++;
    if (end <= s->shown)
        return;
    if (s->put)
        s->put(s->user, s->text.data + s->shown, end - s->shown);
    s->shown = end;
}

/* Where `stop` begins in what is not shown yet, SIZE_MAX when nowhere.  Texts may hold zero bytes. */
static size_t find_stop(const struct text_stream *s, const char *stop)
{
    size_t n = strlen(stop);
    for (size_t at = s->shown; n > 0 && at + n <= s->text.len; at++)
        if (memcmp(s->text.data + at, stop, n) == 0)
            return at;
    return SIZE_MAX;
}

static void cut_at_stop(struct text_stream *s)
{
    size_t first = SIZE_MAX;
    for (size_t i = 0; s->stops && i < s->stops->count; i++) {
        size_t at = find_stop(s, s->stops->items[i]);
        first = at < first ? at : first;
    }
    if (first == SIZE_MAX)
        return;
    s->text.len = first;
    s->text.data[first] = '\0';
    s->stopped = true;
}

/* Is it a byte of byte fallback ("<0xE4>")?  A run of those is decoded as a whole: one more can turn all of its
 * characters into replacement marks. */
static bool in_byte_run(const struct text_stream *s, int32_t id)
{
    const char *token = lt_tokenizer_id_to_token(s->tokenizer, id);
    return token && strlen(token) == 6 && memcmp(token, "<0x", 3) == 0 && token[5] == '>';
}

/* Where the text ends that the next ids cannot change: an incomplete character is decoded to replacement marks. */
static size_t certain_end(const struct text_stream *s, int32_t id)
{
    size_t end = s->text.len;
    if (in_byte_run(s, id))
        return s->shown < end ? s->shown : end;
    while (end >= 3 && memcmp(s->text.data + end - 3, "\xef\xbf\xbd", 3) == 0)
        end -= 3;
    return end;
}

/* Where a stop text may begin that the next ids complete. */
static size_t without_beginning(const struct text_stream *s, size_t end)
{
    for (size_t from = s->shown; from < end; from++)
        for (size_t i = 0; s->stops && i < s->stops->count; i++) {
            const char *stop = s->stops->items[i];
            if (strlen(stop) > end - from && memcmp(stop, s->text.data + from, end - from) == 0)
                return from;
        }
    return end;
}

enum lt_status text_stream_push(struct text_stream *s, int32_t id, struct lt_error *err)
{
    if (!lt_ids_push(&s->ids, id))
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for an answer of %zu tokens", s->ids.count);
    lt_strbuf_clear(&s->text);
    LT_TRY(lt_tokenizer_decode(s->tokenizer, s->ids.data, s->ids.count, !s->show_special, &s->text, err));
    cut_at_stop(s);
    show(s, s->stopped ? s->text.len : without_beginning(s, certain_end(s, id)));
    return LT_OK;
}

void text_stream_finish(struct text_stream *s)
{
    show(s, s->text.len);
}

void text_stream_reset(struct text_stream *s)
{
    s->ids.count = 0;
    lt_strbuf_clear(&s->text);
    s->shown = 0;
    s->stopped = false;
}

void text_stream_deinit(struct text_stream *s)
{
    lt_ids_deinit(&s->ids);
    lt_strbuf_deinit(&s->text);
}
