/* Token ids to text as they come: UTF-8 characters stay whole and stop texts are never shown. */
#ifndef LT_TOOLS_TEXT_STREAM_H
#define LT_TOOLS_TEXT_STREAM_H

#include "models/tokenizer.h"
#include "tools/cli_options.h"

struct text_stream {
    const struct lt_tokenizer *tokenizer;                 /* borrowed, like the next two */
    const struct cli_list *stops;                         /* texts that end the answer; NULL: none */
    void (*put)(void *user, const char *bytes, size_t n); /* NULL: only the text is collected */
    void *user;
    bool show_special;
    /* filled while running; starts zeroed */
    struct lt_ids ids;
    struct lt_strbuf text; /* of all ids */
    size_t shown;          /* bytes of text handed to put */
    bool stopped;          /* a stop text came up; text ends before it */
};

/* Decodes all ids again, so that the text is exactly the one of the whole answer; hands over what is certain:
 * not the marks of an incomplete character, not what may be the beginning of a stop text. */
enum lt_status text_stream_push(struct text_stream *s, int32_t id, struct lt_error *err) LT_MUST_USE;
/* Hands over the rest. */
void text_stream_finish(struct text_stream *s);
/* Empties it for the next answer; keeps the settings. */
void text_stream_reset(struct text_stream *s);
void text_stream_deinit(struct text_stream *s);

#endif
