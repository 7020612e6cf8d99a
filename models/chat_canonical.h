/* A Jinja chat template in a form in which two spellings of the same template are equal bytes.
 *
 * Items, each ended by LT_CHAT_ITEM_END:
 *   'text           output of a literal; neighbouring literals are one item
 *   Oname . field   output of an expression; a + b are two outputs
 *   Bif a == 'b'    a block
 * Whitespace control and the environment of transformers (trim_blocks, lstrip_blocks) are applied, x['y']
 * is x . y, x.strip() is x | trim, comments and {% generation %} marks are gone, the branch of
 * {% if tools %} is cut out (no tools are ever passed), and so is the line that gives
 * add_generation_prompt a default. */
#ifndef LT_MODELS_CHAT_CANONICAL_H
#define LT_MODELS_CHAT_CANONICAL_H

#include <stdbool.h>

#include "core/base/strbuf.h"

enum {
    LT_CHAT_ITEM_END = 1,
    LT_CHAT_CAPTURE = 2 /* in a literal of a pattern: any text, up to what follows it in the literal */
};

/* LT_ERR_FORMAT: not a template this can read, LT_ERR_NOMEM: memory is short; out then means nothing. */
enum lt_status lt_chat_canonical(struct lt_strbuf *out, const char *text) LT_MUST_USE;

/* Compares a canonical template with a canonical pattern.  What LT_CHAT_CAPTURE stands for is appended to
 * capture, also when a later item differs.  The block {% rest %} of a pattern stands for everything up to
 * the endif of the if around it. */
bool lt_chat_canonical_matches(const char *pattern, const char *text, struct lt_strbuf *capture) LT_MUST_USE;

#endif
