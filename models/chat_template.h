/* Chat templates: the Llama-2 and ChatML families, recognised in the model's own template text.
 * Any other template is LT_ERR_UNSUPPORTED with its first line in the message. */
#ifndef LT_MODELS_CHAT_TEMPLATE_H
#define LT_MODELS_CHAT_TEMPLATE_H

#include "models/tokenizer.h"

enum lt_chat_family { LT_CHAT_LLAMA2, LT_CHAT_CHATML };

struct lt_chat_template {
    enum lt_chat_family family;
    char *default_system; /* ChatML: text inserted when the first message is not a system one; or NULL */
    bool leading_bos;     /* ChatML: the conversation begins with bos */
    char *bos, *eos;      /* spellings; "" when the tokenizer has none */
};

struct lt_chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
};

/* One assistant turn: from where its generation prompt ends (Llama 2: behind [/INST], so that the space is
 * inside; ChatML: behind the newline after the role) to the end of its end-of-turn token. */
struct lt_chat_span {
    size_t begin, end; /* bytes of the rendered text */
};

/* name: "llama-2", "chatml" (no default system text, no bos), or NULL to recognise the tokenizer's own
 * template (none at all: LT_ERR_NOT_FOUND saying to pass one of the names). */
enum lt_status lt_chat_template_init(struct lt_chat_template *ct, const struct lt_tokenizer *tok,
                                     const char *name, struct lt_error *err) LT_MUST_USE;
void lt_chat_template_deinit(struct lt_chat_template *ct);

/* Renders messages; add_generation_prompt appends what makes the model answer.  Assistant spans are
 * appended to *spans (lt_free; may be NULL) in order.  Role order mistakes are LT_ERR_FORMAT: Llama 2 wants
 * an optional system message, then user and assistant in turn; ChatML takes any order of the three roles. */
enum lt_status lt_chat_template_render(const struct lt_chat_template *ct,
                                       const struct lt_chat_message *messages, size_t n,
                                       bool add_generation_prompt, struct lt_strbuf *text,
                                       struct lt_chat_span **spans, size_t *span_count, struct lt_error *err)
    LT_MUST_USE;

/* The id that ends an assistant turn (</s>, <|im_end|>), or -1. */
int32_t lt_chat_template_end_id(const struct lt_chat_template *ct, const struct lt_tokenizer *tok);

#endif
