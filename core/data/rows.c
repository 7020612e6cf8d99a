#include "core/data/data_internal.h"

#include <string.h>

#include "core/base/alloc.h"

#define ACCEPTED_KINDS                                                                              \
    "instruction and output (input optional), prompt and completion, messages, text, or input_ids " \
    "(labels optional)"

const char *lt_row_kind_name(enum lt_row_kind kind)
{
    switch (kind) {
    case LT_ROW_IDS:
        return "input_ids";
    case LT_ROW_CHAT:
        return "messages";
    case LT_ROW_COMPLETION:
        return "prompt and completion";
    case LT_ROW_ALPACA:
        return "instruction and output";
    case LT_ROW_TEXT:
        break;
    }
    return "text";
}

/* ---- Alpaca ---- */

enum lt_status lt_alpaca_prompt(struct lt_strbuf *out, enum lt_alpaca_form form, const char *instruction,
                                const char *input, struct lt_error *err)
{
    bool with_input = input != NULL && input[0] != '\0';

    if (form == LT_ALPACA_LONG && with_input)
        lt_strbuf_puts(out,
                       "Below is an instruction that describes a task, paired with an input that provides "
                       "further context. Write a response that appropriately completes the request.\n\n");
    else if (form == LT_ALPACA_LONG)
        lt_strbuf_puts(out,
                       "Below is an instruction that describes a task. Write a response that appropriately "
                       "completes the request.\n\n");
    lt_strbuf_puts(out, "### Instruction:\n");
    lt_strbuf_puts(out, instruction);
    if (with_input) {
        lt_strbuf_puts(out, "\n\n### Input:\n");
        lt_strbuf_puts(out, input);
    }
    lt_strbuf_puts(out, form == LT_ALPACA_LONG ? "\n\n### Response:" : "\n\n### Response:\n");
    if (!lt_strbuf_ok(out))
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a prompt");
    return LT_OK;
}

static enum lt_status read_alpaca(struct lt_row *row, const char *where, enum lt_alpaca_form form,
                                  struct lt_error *err)
{
    const char *instruction = NULL, *input = NULL;
    struct lt_strbuf prompt;

    LT_TRY(lt_json_get_string(row->json, "instruction", &instruction, where, err));
    LT_TRY(lt_json_get_string(row->json, "input", &input, where, err));
    LT_TRY(lt_json_get_string(row->json, "output", &row->completion, where, err));
    lt_strbuf_init(&prompt);
    enum lt_status status = lt_alpaca_prompt(&prompt, form, instruction, input, err);
    if (status == LT_OK)
        row->prompt = row->alpaca_prompt = lt_strbuf_take(&prompt);
    lt_strbuf_deinit(&prompt);
    return status;
}

/* ---- chat ---- */

static enum lt_status read_messages(struct lt_row *row, const char *where, struct lt_error *err)
{
    const json_t *list = json_object_get(row->json, "messages");
    const json_t *tools = json_object_get(row->json, "tools");
    char at[64];

    if (!json_is_array(list))
        return lt_fail(err, LT_ERR_FORMAT, "%s: messages must be an array, found %s", where,
                       lt_json_type_name(list));
    if (json_array_size(list) == 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: messages is empty", where);
    if (tools != NULL && !json_is_null(tools) && json_array_size(tools) + json_object_size(tools) > 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: tools beside messages are not supported; render the row and "
                       "give it as prompt and completion",
                       where);
    row->message_count = json_array_size(list);
    row->messages = lt_alloc_zero(row->message_count, sizeof *row->messages);
    if (row->messages == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for %zu messages", where, row->message_count);
    for (size_t i = 0; i < row->message_count; i++) {
        const json_t *message = json_array_get(list, i);
        struct lt_data_message *m = &row->messages[i];
        lt_snprintf(at, sizeof at, "messages[%zu]", i);
        if (!json_is_object(message))
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be an object, found %s", where, at,
                           lt_json_type_name(message));
        enum lt_status status = lt_json_get_string(message, "role", &m->role, at, err);
        if (status == LT_OK)
            status = lt_json_get_string(message, "content", &m->content, at, err);
        if (status != LT_OK)
            return lt_fail_prefix(err, status, "%s", where);
        if (m->role == NULL || m->content == NULL)
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s needs the strings role and content", where, at);
    }
    return LT_OK;
}

/* ---- token ids ---- */

/* An array of integers in [0, vocab_size), or also `extra`, as int32 (lt_free). */
static enum lt_status read_id_array(int32_t **out, const json_t *list, const char *key, int32_t vocab_size,
                                    int32_t extra, const char *where, struct lt_error *err)
{
    if (!json_is_array(list))
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be an array, found %s", where, key,
                       lt_json_type_name(list));
    size_t n = json_array_size(list);
    *out = lt_alloc_array(n, sizeof **out);
    if (*out == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for %zu token ids", where, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v))
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s[%zu] must be an integer, found %s", where, key, i,
                           lt_json_type_name(v));
        json_int_t id = json_integer_value(v);
        if (id != extra && (id < 0 || id >= vocab_size))
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: %s[%zu] is %lld, not a token of the model (vocabulary of %d)", where, key, i,
                           (long long)id, (int)vocab_size);
        (*out)[i] = (int32_t)id;
    }
    return LT_OK;
}

/* Keys that TRL reads beside input_ids and that would change what is trained. */
static enum lt_status refuse_masks(const json_t *json, const char *where, struct lt_error *err)
{
    static const char *const masks[] = {"completion_mask", "assistant_masks"};
    const json_t *attention = json_object_get(json, "attention_mask");

    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        const json_t *v = json_object_get(json, masks[i]);
        if (v != NULL && !json_is_null(v))
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s: %s is not read; give labels instead, with -100 where nothing is trained",
                           where, masks[i]);
    }
    for (size_t i = 0; i < json_array_size(attention); i++) {
        const json_t *v = json_array_get(attention, i);
        if (!json_is_integer(v) || json_integer_value(v) != 1)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s: attention_mask[%zu] is not 1; give input_ids without padding", where, i);
    }
    return LT_OK;
}

static enum lt_status read_ids(struct lt_row *row, const char *where, int32_t vocab_size,
                               struct lt_error *err)
{
    const json_t *ids = json_object_get(row->json, "input_ids");
    const json_t *labels = json_object_get(row->json, "labels");

    LT_TRY(refuse_masks(row->json, where, err));
    LT_TRY(read_id_array(&row->ids, ids, "input_ids", vocab_size, 0, where, err));
    row->id_count = json_array_size(ids);
    if (labels == NULL || json_is_null(labels))
        return LT_OK;
    LT_TRY(read_id_array(&row->labels, labels, "labels", vocab_size, LT_LABEL_IGNORE, where, err));
    if (json_array_size(labels) != row->id_count)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %zu labels for %zu input_ids", where, json_array_size(labels),
                       row->id_count);
    return LT_OK;
}

/* ---- any row ---- */

static bool has(const json_t *json, const char *key)
{
    const json_t *v = json_object_get(json, key);
    return v != NULL && !json_is_null(v);
}

static bool recognise(enum lt_row_kind *kind, const json_t *json)
{
    if (has(json, "input_ids"))
        *kind = LT_ROW_IDS;
    else if (has(json, "messages"))
        *kind = LT_ROW_CHAT;
    else if (has(json, "prompt") && has(json, "completion"))
        *kind = LT_ROW_COMPLETION;
    else if (has(json, "instruction") && has(json, "output"))
        *kind = LT_ROW_ALPACA;
    else if (has(json, "text"))
        *kind = LT_ROW_TEXT;
    else
        return false;
    return true;
}

/* Names the first few keys found and what would have been accepted. */
static enum lt_status unknown_kind(json_t *json, const char *where, struct lt_error *err)
{
    const size_t shown = 6;
    struct lt_json_excerpt key;
    struct lt_strbuf keys;
    size_t n = 0;

    lt_strbuf_init(&keys);
    for (void *it = json_object_iter(json); it != NULL; it = json_object_iter_next(json, it), n++) {
        if (n < shown)
            lt_strbuf_printf(&keys, "%s%s%s", n > 0 ? ", " : "",
                             lt_json_excerpt(&key, json_object_iter_key(it)),
                             json_is_null(json_object_iter_value(it)) ? " (null)" : "");
        else if (n == shown)
            lt_strbuf_puts(&keys, ", …");
    }
    const char *found = n == 0 ? "none" : lt_strbuf_str(&keys);
    lt_fail(err, LT_ERR_FORMAT, "%s: not a known kind of row: keys found: %s; needed: " ACCEPTED_KINDS, where,
            found != NULL ? found : "(out of memory)");
    lt_strbuf_deinit(&keys);
    return LT_ERR_FORMAT;
}

enum lt_status lt_row_parse(struct lt_row *row, const struct lt_row_text *text, const char *where,
                            enum lt_alpaca_form form, int32_t vocab_size, struct lt_error *err)
{
    *row = (struct lt_row){0};
    enum lt_status status = lt_json_parse(&row->json, text->text, text->size, where, err);
    if (status != LT_OK)
        return status;
    if (!json_is_object(row->json))
        status = lt_fail(err, LT_ERR_FORMAT, "%s: a row must be a JSON object, found %s", where,
                         lt_json_type_name(row->json));
    else if (!recognise(&row->kind, row->json))
        status = unknown_kind(row->json, where, err);
    else if (row->kind == LT_ROW_IDS)
        status = read_ids(row, where, vocab_size, err);
    else if (row->kind == LT_ROW_CHAT)
        status = read_messages(row, where, err);
    else if (row->kind == LT_ROW_ALPACA)
        status = read_alpaca(row, where, form, err);
    else if (row->kind == LT_ROW_TEXT)
        status = lt_json_get_string(row->json, "text", &row->text, where, err);
    else {
        status = lt_json_get_string(row->json, "prompt", &row->prompt, where, err);
        if (status == LT_OK)
            status = lt_json_get_string(row->json, "completion", &row->completion, where, err);
    }
    if (status != LT_OK)
        lt_row_deinit(row);
    return status;
}

void lt_row_deinit(struct lt_row *row)
{
    lt_free(row->messages);
    lt_free(row->ids);
    lt_free(row->labels);
    lt_free(row->alpaca_prompt);
    json_decref(row->json);
    *row = (struct lt_row){0};
}
