#include "models/chat_template.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/io/json.h"
#include "models/chat_canonical.h"
#include "models/tokenizer_internal.h"

/* ---- recognition ----
 *
 * A template is recognised when its canonical form equals that of one of these.  \2 captures the default
 * system text.  Every one renders conversations of system, user and assistant messages as render_* below. */

#define IM_MESSAGE "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
#define IM_PROMPT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define IM_DEFAULT "{{ '<|im_start|>system\n\2<|im_end|>\n' }}"

static const char chatml_plain[] = "{% for message in messages %}" IM_MESSAGE "{% endfor %}" IM_PROMPT;

static const char chatml_bos[] = "{{ bos_token }}{% for message in messages %}" IM_MESSAGE
                                 "{% endfor %}" IM_PROMPT;

/* Qwen2, SmolLM, SmolLM2 */
static const char chatml_default[] = "{% for message in messages %}"
                                     "{% if loop.first and messages[0]['role'] != 'system' %}" IM_DEFAULT
                                     "{% endif %}" IM_MESSAGE "{% endfor %}" IM_PROMPT;

/* Qwen2.5 without tools */
static const char chatml_qwen25[] =
    "{% if messages[0]['role'] == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{% else %}" IM_DEFAULT "{% endif %}"
    "{% for message in messages %}"
    "{% if (message.role == 'user') or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}" IM_MESSAGE
    "{% elif message.role == 'assistant' %}{% rest %}{% endif %}"
    "{% endfor %}" IM_PROMPT;

/* One branch for each role */
static const char chatml_roles[] =
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|im_start|>user\n' + message['content'] + '<|im_end|>\n' }}"
    "{% elif message['role'] == 'system' %}{{ '<|im_start|>system\n' + message['content'] + '<|im_end|>\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    "{% endfor %}";

#define LLAMA2_HEAD                                                                                      \
    "{% if messages[0]['role'] == 'system' %}"                                                           \
    "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"            \
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"            \
    "{% for message in loop_messages %}"                                                                 \
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('') }}{% endif %}" \
    "{% if loop.index0 == 0 and system_message != false %}"                                              \
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"           \
    "{% else %}{% set content = message['content'] %}{% endif %}"                                        \
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
#define LLAMA2_TAIL                                                                                     \
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}" \
    "{% endfor %}"

static const char llama2[] = LLAMA2_HEAD LLAMA2_TAIL;
static const char llama2_system_branch[] = LLAMA2_HEAD
    "{% elif message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + content.strip() + '\n<</SYS>>\n\n' }}" LLAMA2_TAIL;

static const struct known {
    const char *text;
    enum lt_chat_family family;
    bool default_system, leading_bos;
} known[] = {
    {chatml_plain, LT_CHAT_CHATML, false, false},         {chatml_bos, LT_CHAT_CHATML, false, true},
    {chatml_default, LT_CHAT_CHATML, true, false},        {chatml_qwen25, LT_CHAT_CHATML, true, false},
    {chatml_roles, LT_CHAT_CHATML, false, false},         {llama2, LT_CHAT_LLAMA2, false, false},
    {llama2_system_branch, LT_CHAT_LLAMA2, false, false},
};

static enum lt_status compare(const struct known *k, const char *canonical, struct lt_strbuf *system,
                              bool *same)
{
    struct lt_strbuf pattern = {0};
    lt_strbuf_clear(system);
    enum lt_status status = lt_chat_canonical(&pattern, k->text);
    if (status == LT_OK) {
        *same = lt_chat_canonical_matches(lt_strbuf_str(&pattern), canonical, system);
        status = lt_strbuf_ok(system) ? LT_OK : LT_ERR_NOMEM;
    }
    lt_strbuf_deinit(&pattern);
    return status;
}

/* The first line of the template that is not empty, for the message. */
static enum lt_status unknown_template(const char *text, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    while (*text == '\n' || *text == ' ' || *text == '\r' || *text == '\t')
        text++;
    char *line = lt_strndup(text, strcspn(text, "\n"));
    enum lt_status status =
        lt_fail(err, LT_ERR_UNSUPPORTED,
                "the chat template of the model is neither Llama 2 nor ChatML; pass llama-2 or chatml to "
                "choose one, or train on text (the template begins: %s)",
                lt_json_excerpt(&shown, line));
    lt_free(line);
    return status;
}

static enum lt_status recognise(struct lt_chat_template *ct, const char *text, struct lt_error *err)
{
    struct lt_strbuf canonical = {0}, system = {0};
    bool same = false;
    /* A template may not hold the characters that canonical forms and patterns use as marks. */
    enum lt_status status = strpbrk(text, "\1\2") ? LT_ERR_FORMAT : lt_chat_canonical(&canonical, text);
    for (size_t i = 0; i < sizeof known / sizeof *known && status == LT_OK && !same; i++) {
        status = compare(&known[i], lt_strbuf_str(&canonical), &system, &same);
        ct->family = known[i].family;
        ct->leading_bos = known[i].leading_bos;
        if (same && known[i].default_system && !(ct->default_system = lt_strbuf_take(&system)))
            status = LT_ERR_NOMEM;
    }
    if (status == LT_ERR_NOMEM)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory");
    else if (!same)
        status = unknown_template(text, err);
    lt_strbuf_deinit(&canonical);
    lt_strbuf_deinit(&system);
    return status;
}

static enum lt_status choose_family(struct lt_chat_template *ct, const struct lt_tokenizer *tok,
                                    const char *name, struct lt_error *err)
{
    const char *text = lt_tokenizer_chat_template(tok);
    if (!name && !text)
        return lt_fail(err, LT_ERR_NOT_FOUND,
                       "the model has no chat template; pass llama-2 or chatml to choose one");
    if (!name)
        return recognise(ct, text, err);
    struct lt_json_excerpt shown;
    if (strcmp(name, "llama-2") == 0)
        ct->family = LT_CHAT_LLAMA2;
    else if (strcmp(name, "chatml") == 0)
        ct->family = LT_CHAT_CHATML;
    else
        return lt_fail(err, LT_ERR_INVALID, "unknown chat template \"%s\"; choose llama-2 or chatml",
                       lt_json_excerpt(&shown, name));
    return LT_OK;
}

enum lt_status lt_chat_template_init(struct lt_chat_template *ct, const struct lt_tokenizer *tok,
                                     const char *name, struct lt_error *err)
{
    *ct = (struct lt_chat_template){0};
    enum lt_status status = choose_family(ct, tok, name, err);
    const char *bos = lt_tokenizer_bos_token(tok), *eos = lt_tokenizer_eos_token(tok);
    if (status == LT_OK && ct->family == LT_CHAT_LLAMA2 && !eos)
        status = lt_fail(err, LT_ERR_NOT_FOUND,
                         "the Llama 2 chat template ends turns with the eos token, and the "
                         "tokenizer has none; name eos_token in tokenizer_config.json");
    if (status == LT_OK) {
        ct->bos = lt_strdup(bos ? bos : "");
        ct->eos = lt_strdup(eos ? eos : "");
        if (!ct->bos || !ct->eos)
            status = lt_fail(err, LT_ERR_NOMEM, "out of memory");
    }
    if (status != LT_OK)
        lt_chat_template_deinit(ct);
    return status;
}

void lt_chat_template_deinit(struct lt_chat_template *ct)
{
    lt_free(ct->default_system);
    lt_free(ct->bos);
    lt_free(ct->eos);
    *ct = (struct lt_chat_template){0};
}

/* ---- rendering ---- */

struct rendering {
    const struct lt_chat_template *ct;
    struct lt_strbuf *text;
    struct lt_chat_span *spans;
    size_t count, cap;
    bool want_spans;
    struct lt_error *err;
};

static enum lt_status add_span(struct rendering *r, size_t begin)
{
    if (!r->want_spans)
        return LT_OK;
    void *items = r->spans;
    bool room = lt_reserve(&items, &r->cap, r->count, sizeof *r->spans);
    r->spans = items;
    if (!room)
        return lt_fail(r->err, LT_ERR_NOMEM, "out of memory");
    r->spans[r->count++] = (struct lt_chat_span){begin, r->text->len};
    return LT_OK;
}

/* Python's str.strip(): White_Space and the four separators U+001C to U+001F. */
static bool is_python_space(int32_t c)
{
    return lt_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

static void put_stripped(struct lt_strbuf *out, const char *text, size_t len)
{
    size_t n, last;
    while (len && is_python_space(lt_utf8_next(text, len, &n))) {
        text += n;
        len -= n;
    }
    while (len && (last = lt_utf8_last(text, len)) &&
           is_python_space(lt_utf8_next(text + len - last, last, &n)))
        len -= last;
    lt_strbuf_put(out, text, len);
}

/* The system text, when there is one, is part of the first user turn and stripped with it. */
static enum lt_status put_llama2_user(struct rendering *r, const char *system, const char *content)
{
    struct lt_strbuf joined = {0};
    if (system) {
        lt_strbuf_puts(&joined, "<<SYS>>\n");
        lt_strbuf_puts(&joined, system);
        lt_strbuf_puts(&joined, "\n<</SYS>>\n\n");
    }
    lt_strbuf_puts(&joined, content);
    bool ok = lt_strbuf_ok(&joined);
    lt_strbuf_puts(r->text, r->ct->bos);
    lt_strbuf_puts(r->text, "[INST] ");
    if (ok)
        put_stripped(r->text, lt_strbuf_str(&joined), joined.len);
    lt_strbuf_puts(r->text, " [/INST]");
    lt_strbuf_deinit(&joined);
    return ok ? LT_OK : lt_fail(r->err, LT_ERR_NOMEM, "out of memory");
}

static enum lt_status render_llama2(struct rendering *r, const struct lt_chat_message *messages, size_t n)
{
    const char *system = NULL;
    size_t first = 0;
    if (n && strcmp(messages[0].role, "system") == 0) {
        system = messages[0].content;
        first = 1;
    }
    if (first == n)
        return lt_fail(r->err, LT_ERR_FORMAT, "the conversation has no user message");
    for (size_t i = first; i < n; i++) {
        const char *want = (i - first) % 2 == 0 ? "user" : "assistant";
        struct lt_json_excerpt shown;
        if (strcmp(messages[i].role, want) != 0)
            return lt_fail(r->err, LT_ERR_FORMAT,
                           "message %llu has the role \"%s\" where the Llama 2 chat template needs "
                           "\"%s\"",
                           (unsigned long long)i + 1, lt_json_excerpt(&shown, messages[i].role), want);
        if (want[0] == 'u') {
            LT_TRY(put_llama2_user(r, i == first ? system : NULL, messages[i].content));
            continue;
        }
        size_t begin = r->text->len;
        lt_strbuf_putc(r->text, ' ');
        put_stripped(r->text, messages[i].content, strlen(messages[i].content));
        lt_strbuf_putc(r->text, ' ');
        lt_strbuf_puts(r->text, r->ct->eos);
        LT_TRY(add_span(r, begin));
    }
    return LT_OK;
}

static size_t put_chatml(struct lt_strbuf *out, const char *role, const char *content)
{
    lt_strbuf_puts(out, "<|im_start|>");
    lt_strbuf_puts(out, role);
    lt_strbuf_putc(out, '\n');
    size_t begin = out->len;
    lt_strbuf_puts(out, content);
    lt_strbuf_puts(out, "<|im_end|>");
    return begin;
}

static enum lt_status render_chatml(struct rendering *r, const struct lt_chat_message *messages, size_t n,
                                    bool add_generation_prompt)
{
    if (n == 0)
        return lt_fail(r->err, LT_ERR_FORMAT, "the conversation has no messages");
    if (r->ct->leading_bos)
        lt_strbuf_puts(r->text, r->ct->bos);
    if (r->ct->default_system && strcmp(messages[0].role, "system") != 0) {
        (void)put_chatml(r->text, "system", r->ct->default_system);
        lt_strbuf_putc(r->text, '\n');
    }
    for (size_t i = 0; i < n; i++) {
        const char *role = messages[i].role;
        bool assistant = strcmp(role, "assistant") == 0;
        struct lt_json_excerpt shown;
        if (!assistant && strcmp(role, "user") != 0 && strcmp(role, "system") != 0)
            return lt_fail(r->err, LT_ERR_FORMAT,
                           "message %llu has the role \"%s\"; system, user and assistant are known",
                           (unsigned long long)i + 1, lt_json_excerpt(&shown, role));
        size_t begin = put_chatml(r->text, role, messages[i].content);
        if (assistant)
            LT_TRY(add_span(r, begin));
        lt_strbuf_putc(r->text, '\n');
    }
    if (add_generation_prompt)
        lt_strbuf_puts(r->text, "<|im_start|>assistant\n");
    return LT_OK;
}

enum lt_status lt_chat_template_render(const struct lt_chat_template *ct,
                                       const struct lt_chat_message *messages, size_t n,
                                       bool add_generation_prompt, struct lt_strbuf *text,
                                       struct lt_chat_span **spans, size_t *span_count, struct lt_error *err)
{
    struct rendering r = {.ct = ct, .text = text, .want_spans = spans != NULL, .err = err};
    if (spans) {
        *spans = NULL;
        *span_count = 0;
    }
    /* Llama 2 needs no generation prompt: the model answers behind [/INST]. */
    enum lt_status status = ct->family == LT_CHAT_LLAMA2
                                ? render_llama2(&r, messages, n)
                                : render_chatml(&r, messages, n, add_generation_prompt);
    if (status == LT_OK && !lt_strbuf_ok(text))
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory");
    if (status != LT_OK) {
        lt_free(r.spans);
        return status;
    }
    if (spans) {
        *spans = r.spans;
        *span_count = r.count;
    }
    return LT_OK;
}

int32_t lt_chat_template_end_id(const struct lt_chat_template *ct, const struct lt_tokenizer *tok)
{
    static const char im_end[] = "<|im_end|>";
    if (ct->family == LT_CHAT_LLAMA2)
        return lt_tokenizer_eos(tok);
    return lt_tokenizer_token_to_id(tok, im_end, sizeof im_end - 1);
}
