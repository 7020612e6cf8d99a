#include "core/data/data_internal.h"

#include <assert.h>
#include <string.h>

#include "core/base/alloc.h"

/* Which tokens of a row are trained: pairs of token indices, begin and end. */
struct ranges {
    size_t one[2];
    size_t *pairs; /* one, or a block of its own */
    size_t count;
};

/* Tokens of text, checked against the model's vocabulary.  *ids: lt_free. */
static enum lt_status encode(int32_t **ids, size_t *count, const char *text, size_t len, bool add_special,
                             const struct lt_data_tokenizer *tok, const char *where, struct lt_error *err)
{
    *ids = NULL;
    *count = 0;
    enum lt_status status = tok->encode(tok->user, text, len, add_special, ids, count, err);
    if (status != LT_OK)
        return lt_fail_prefix(err, status, "%s", where);
    for (size_t i = 0; i < *count; i++)
        if ((*ids)[i] < 0 || (*ids)[i] >= tok->vocab_size) {
            int32_t id = (*ids)[i];
            lt_free(*ids);
            *ids = NULL;
            return lt_fail(err, LT_ERR_INVALID,
                           "%s: the tokenizer gives the id %d, but the model has a vocabulary of %d; use the "
                           "tokenizer of the model",
                           where, (int)id, (int)tok->vocab_size);
        }
    return LT_OK;
}

/* How many tokens of ids[n] are also those of the text's first len bytes. */
static enum lt_status prefix_tokens(size_t *common, const int32_t *ids, size_t n, const char *text,
                                    size_t len, bool add_special, const struct lt_data_tokenizer *tok,
                                    const char *where, struct lt_error *err)
{
    int32_t *prefix;
    size_t count, k = 0;

    LT_TRY(encode(&prefix, &count, text, len, add_special, tok, where, err));
    while (k < n && k < count && ids[k] == prefix[k])
        k++;
    lt_free(prefix);
    *common = k;
    return LT_OK;
}

static void put_eos(struct lt_strbuf *text, const char *last_part, const struct lt_data_tokenizer *tok)
{
    const char *eos = tok->eos_token;

    if (eos == NULL)
        return;
    size_t n = strlen(last_part), e = strlen(eos);
    if (n < e || memcmp(last_part + n - e, eos, e) != 0)
        lt_strbuf_puts(text, eos);
}

/* The text of a row that is tokenized in one piece, and the length of its untrained beginning. */
static enum lt_status encode_text(int32_t **ids, size_t *n, struct ranges *trained, const struct lt_row *row,
                                  bool train_on_prompt, const struct lt_data_tokenizer *tok,
                                  const char *where, struct lt_error *err)
{
    const char *prompt = row->kind == LT_ROW_TEXT ? "" : row->prompt;
    const char *rest = row->kind == LT_ROW_TEXT ? row->text : row->completion;
    bool mask_prompt = row->kind != LT_ROW_TEXT && !train_on_prompt;
    struct lt_strbuf text;
    size_t begin = 0;

    lt_strbuf_init(&text);
    lt_strbuf_puts(&text, prompt);
    lt_strbuf_puts(&text, rest);
    put_eos(&text, rest, tok);
    enum lt_status status;
    if (!lt_strbuf_ok(&text))
        status = lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the row's text", where);
    else
        status = encode(ids, n, lt_strbuf_str(&text), text.len, true, tok, where, err);
    lt_strbuf_deinit(&text);
    if (status == LT_OK && mask_prompt)
        status = prefix_tokens(&begin, *ids, *n, prompt, strlen(prompt), true, tok, where, err);
    trained->one[0] = begin;
    trained->one[1] = *n;
    return status;
}

/* Turns byte spans of the rendered text into token ranges, in place. */
static enum lt_status spans_to_tokens(size_t *spans, size_t span_count, const struct lt_strbuf *text,
                                      const int32_t *ids, size_t n, const struct lt_data_tokenizer *tok,
                                      const char *where, struct lt_error *err)
{
    const char *bytes = lt_strbuf_str(text);
    size_t at = 0;

    for (size_t i = 0; i < 2 * span_count; i++) {
        assert(spans[i] >= at && spans[i] <= text->len);
        at = spans[i];
        if (at == text->len)
            spans[i] = n;
        else if (at > 0)
            LT_TRY(prefix_tokens(&spans[i], ids, n, bytes, at, false, tok, where, err));
    }
    return LT_OK;
}

static enum lt_status encode_chat(int32_t **ids, size_t *n, struct ranges *trained, const struct lt_row *row,
                                  bool train_on_prompt, const struct lt_data_tokenizer *tok,
                                  const char *where, struct lt_error *err)
{
    struct lt_strbuf text;
    size_t *spans = NULL, count = 0;

    if (tok->render_chat == NULL)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: messages need a chat template, and the model has none; choose one", where);
    lt_strbuf_init(&text);
    enum lt_status status =
        tok->render_chat(tok->user, row->messages, row->message_count, &text, &spans, &count, err);
    if (status == LT_OK && !lt_strbuf_ok(&text))
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory for the rendered conversation");
    if (status != LT_OK) {
        lt_fail_prefix(err, status, "%s", where);
        goto done;
    }
    status = encode(ids, n, lt_strbuf_str(&text), text.len, false, tok, where, err);
    if (status != LT_OK)
        goto done;
    trained->one[1] = *n;
    if (train_on_prompt)
        goto done;
    status = spans_to_tokens(spans, count, &text, *ids, *n, tok, where, err);
    if (status == LT_OK) {
        trained->pairs = spans;
        trained->count = count;
        spans = NULL;
    }
done:
    lt_free(spans);
    lt_strbuf_deinit(&text);
    return status;
}

static int32_t count_targets(const int32_t *labels, int32_t length)
{
    int32_t targets = 0;

    for (int32_t i = 1; i < length; i++)
        targets += labels[i] != LT_LABEL_IGNORE;
    return targets;
}

/* Copies the first max_length tokens; labels from `given` or, when NULL, by the trained ranges. */
static enum lt_status fill_example(struct lt_example *ex, const int32_t *ids, size_t n, const int32_t *given,
                                   const struct ranges *trained, int32_t max_length, const char *where,
                                   struct lt_error *err)
{
    size_t kept = n < (size_t)max_length ? n : (size_t)max_length;
    int32_t *block = lt_alloc_array(kept, 2 * sizeof *block);

    if (block == NULL)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for %zu tokens", where, kept);
    int32_t *labels = block + kept;
    if (kept > 0)
        memcpy(block, ids, kept * sizeof *ids);
    for (size_t i = 0; i < kept; i++)
        labels[i] = given != NULL ? given[i] : LT_LABEL_IGNORE;
    for (size_t r = 0; given == NULL && r < trained->count; r++)
        for (size_t i = trained->pairs[2 * r]; i < trained->pairs[2 * r + 1] && i < kept; i++)
            labels[i] = ids[i];
    *ex = (struct lt_example){.ids = block, .labels = labels, .length = (int32_t)kept};
    ex->targets = count_targets(labels, ex->length);
    if (ex->targets == 0)
        lt_example_deinit(ex);
    return LT_OK;
}

enum lt_status lt_example_from_row(struct lt_example *ex, size_t *length_before, const struct lt_row *row,
                                   const struct lt_data_tokenizer *tok, const struct lt_dataset_options *opt,
                                   const char *where, struct lt_error *err)
{
    struct ranges trained = {.count = 1};
    int32_t *ids = NULL; /* of text and chat rows; token-id rows own theirs */
    size_t n = row->id_count;
    enum lt_status status = LT_OK;

    *ex = (struct lt_example){0};
    trained.pairs = trained.one;
    if (row->kind == LT_ROW_IDS)
        trained.one[1] = n;
    else if (row->kind == LT_ROW_CHAT)
        status = encode_chat(&ids, &n, &trained, row, opt->train_on_prompt, tok, where, err);
    else
        status = encode_text(&ids, &n, &trained, row, opt->train_on_prompt, tok, where, err);
    if (status == LT_OK)
        status = fill_example(ex, ids != NULL ? ids : row->ids, n, row->labels, &trained, opt->max_length,
                              where, err);
    *length_before = n;
    if (trained.pairs != trained.one)
        lt_free(trained.pairs);
    lt_free(ids);
    return status;
}

void lt_example_deinit(struct lt_example *ex)
{
    lt_free(ex->ids);
    lt_free(ex->prompt);
    lt_free(ex->completion);
    *ex = (struct lt_example){0};
}
