/* tokenizer.json: the whole file; the pipeline's components are in tokenizer_components.c. */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

/* An own copy of a string field; absent, null and "" stay NULL. */
static enum lt_status copy_string(const json_t *obj, const char *key, char **out, const char *where,
                                  struct lt_error *err)
{
    const char *text = NULL;
    LT_TRY(lt_json_get_string(obj, key, &text, where, err));
    if (!text || !*text)
        return LT_OK;
    *out = lt_strdup(text);
    return *out ? LT_OK : lt_tokenizer_nomem(where, err);
}

static enum lt_status parse_vocab(struct lt_tokenizer *tok, json_t *vocab, const char *where,
                                  struct lt_error *err)
{
    if (!json_is_object(vocab))
        return lt_fail(err, LT_ERR_FORMAT, "%s: model.vocab must be an object, found %s", where,
                       lt_json_type_name(vocab));
    const char *token;
    json_t *id;
    json_object_foreach(vocab, token, id)
    {
        if (!json_is_integer(id)) {
            struct lt_json_excerpt shown;
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s: model.vocab: the id of \"%s\" must be an integer, found %s", where,
                           lt_json_excerpt(&shown, token), lt_json_type_name(id));
        }
        LT_TRY(lt_vocab_add(&tok->vocab, token, strlen(token), (int64_t)json_integer_value(id),
                            LT_TOKEN_MODEL, where, err));
    }
    return LT_OK;
}

enum lt_status lt_tokenizer_put_merge(struct lt_tokenizer *tok, const char *left, size_t left_len,
                                      const char *right, size_t right_len, uint32_t rank,
                                      struct lt_strbuf *scratch, const char *where, struct lt_error *err)
{
    const struct lt_vocab *vocab = &tok->vocab;
    size_t skip = tok->bpe.prefix ? strlen(tok->bpe.prefix) : 0;
    int32_t l = lt_vocab_find_model(vocab, left, left_len), r = lt_vocab_find_model(vocab, right, right_len),
            id = -1;
    if (l >= 0 && r >= 0 && right_len >= skip) {
        lt_strbuf_clear(scratch);
        lt_strbuf_put(scratch, left, left_len);
        lt_strbuf_put(scratch, right + skip, right_len - skip);
        if (!lt_strbuf_ok(scratch))
            return lt_tokenizer_nomem(where, err);
        id = lt_vocab_find_model(vocab, lt_strbuf_str(scratch), scratch->len);
    }
    if (id < 0) {
        lt_strbuf_clear(scratch);
        lt_strbuf_put(scratch, left, left_len);
        lt_strbuf_putc(scratch, ' ');
        lt_strbuf_put(scratch, right, right_len);
        struct lt_json_excerpt shown;
        return lt_fail(
            err, LT_ERR_FORMAT, "%s: merge %u (\"%s\") names a token that is not in the vocabulary", where,
            (unsigned)rank, lt_json_excerpt(&shown, lt_strbuf_ok(scratch) ? lt_strbuf_str(scratch) : ""));
    }
    lt_bpe_put_pair(&tok->bpe, l, r, rank, id);
    return LT_OK;
}

static enum lt_status bad_merge(const char *where, size_t i, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_FORMAT,
                   "%s: model.merges: entry %llu must be two tokens, as [\"a\", \"b\"] or \"a b\"", where,
                   (unsigned long long)i);
}

/* ["a", "b"], or the older "a b" with exactly one space. */
static enum lt_status parse_merge(struct lt_tokenizer *tok, const json_t *entry, size_t i,
                                  struct lt_strbuf *scratch, const char *where, struct lt_error *err)
{
    if (json_is_array(entry) && json_array_size(entry) == 2) {
        const json_t *a = json_array_get(entry, 0), *b = json_array_get(entry, 1);
        if (!json_is_string(a) || !json_is_string(b))
            return bad_merge(where, i, err);
        return lt_tokenizer_put_merge(tok, json_string_value(a), json_string_length(a), json_string_value(b),
                                      json_string_length(b), (uint32_t)i, scratch, where, err);
    }
    if (!json_is_string(entry))
        return bad_merge(where, i, err);
    const char *text = json_string_value(entry);
    size_t len = json_string_length(entry);
    const char *space = memchr(text, ' ', len);
    if (!space || memchr(space + 1, ' ', len - (size_t)(space + 1 - text)))
        return bad_merge(where, i, err);
    size_t left = (size_t)(space - text);
    return lt_tokenizer_put_merge(tok, text, left, space + 1, len - left - 1, (uint32_t)i, scratch, where,
                                  err);
}

static enum lt_status parse_merges(struct lt_tokenizer *tok, const json_t *merges, const char *where,
                                   struct lt_error *err)
{
    if (!json_is_array(merges))
        return lt_fail(err, LT_ERR_FORMAT, "%s: model.merges must be a list, found %s", where,
                       lt_json_type_name(merges));
    size_t n = json_array_size(merges);
    if (n > UINT32_MAX || lt_bpe_reserve_pairs(&tok->bpe, n) != LT_OK)
        return lt_tokenizer_nomem(where, err);
    struct lt_strbuf scratch = {0};
    enum lt_status status = LT_OK;
    size_t rank = 0;
    for (size_t i = 0; i < n && status == LT_OK; i++) {
        const json_t *entry = json_array_get(merges, i);
        if (json_is_string(entry) && strncmp(json_string_value(entry), "#version", 8) == 0)
            continue; /* the first line of a merges.txt that was copied in whole */
        status = parse_merge(tok, entry, rank++, &scratch, where, err);
    }
    lt_strbuf_deinit(&scratch);
    return status;
}

static enum lt_status check_model_type(const json_t *model, const char *where, struct lt_error *err)
{
    const char *type = NULL;
    LT_TRY(lt_json_get_string(model, "type", &type, where, err));
    if (!type && json_object_get(model, "merges"))
        return LT_OK; /* files before tokenizers 0.9 */
    if (type && strcmp(type, "BPE") == 0)
        return LT_OK;
    struct lt_json_excerpt shown;
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "%s: a tokenizer model of type \"%s\" is not supported; only BPE is", where,
                   lt_json_excerpt(&shown, type ? type : "(none)"));
}

static enum lt_status parse_model(struct lt_tokenizer *tok, const json_t *model, const char *where,
                                  struct lt_error *err)
{
    struct lt_bpe *bpe = &tok->bpe;
    if (!json_is_object(model))
        return lt_fail(err, LT_ERR_FORMAT, "%s: model must be an object, found %s", where,
                       lt_json_type_name(model));
    LT_TRY(check_model_type(model, where, err));
    double dropout = 0;
    LT_TRY(lt_json_get_double(model, "dropout", &dropout, where, err));
    if (dropout > 0 || dropout < 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: BPE dropout %g is not supported; set model.dropout to null", where, dropout);
    LT_TRY(lt_json_get_bool(model, "fuse_unk", &bpe->fuse_unk, where, err));
    LT_TRY(lt_json_get_bool(model, "byte_fallback", &bpe->byte_fallback, where, err));
    LT_TRY(lt_json_get_bool(model, "ignore_merges", &bpe->ignore_merges, where, err));
    LT_TRY(copy_string(model, "unk_token", &bpe->unk_token, where, err));
    LT_TRY(copy_string(model, "continuing_subword_prefix", &bpe->prefix, where, err));
    LT_TRY(copy_string(model, "end_of_word_suffix", &bpe->suffix, where, err));
    LT_TRY(parse_vocab(tok, json_object_get(model, "vocab"), where, err));
    LT_TRY(parse_merges(tok, json_object_get(model, "merges"), where, err));
    bpe->unk_id = bpe->unk_token ? lt_vocab_find_model(&tok->vocab, bpe->unk_token, strlen(bpe->unk_token))
                                 : -1;
    tok->unk = bpe->unk_id;
    lt_bpe_index(bpe, &tok->vocab);
    return LT_OK;
}

enum lt_status lt_parse_added_token(struct lt_added_token *token, const json_t *obj, const char *where,
                                    struct lt_error *err)
{
    const json_t *content = json_object_get(obj, "content");
    if (!json_is_string(content))
        return lt_fail(err, LT_ERR_FORMAT, "%s: an added token has no \"content\"", where);
    *token = (struct lt_added_token){.len = json_string_length(content), .id = -1};
    /* Never written through: the list makes its own copy. */
    token->content = (char *)(uintptr_t)json_string_value(content);
    LT_TRY(lt_json_get_bool(obj, "single_word", &token->single_word, where, err));
    LT_TRY(lt_json_get_bool(obj, "lstrip", &token->lstrip, where, err));
    LT_TRY(lt_json_get_bool(obj, "rstrip", &token->rstrip, where, err));
    LT_TRY(lt_json_get_bool(obj, "special", &token->special, where, err));
    token->normalized = !token->special;
    return lt_json_get_bool(obj, "normalized", &token->normalized, where, err);
}

static enum lt_status parse_added_tokens(struct lt_tokenizer *tok, const json_t *list, const char *where,
                                         struct lt_error *err)
{
    if (!list || json_is_null(list))
        return LT_OK;
    if (!json_is_array(list))
        return lt_fail(err, LT_ERR_FORMAT, "%s: added_tokens must be a list, found %s", where,
                       lt_json_type_name(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        struct lt_added_token token;
        int64_t id = -1;
        LT_TRY(lt_parse_added_token(&token, entry, where, err));
        LT_TRY(lt_json_get_i64(entry, "id", &id, where, err));
        LT_TRY(lt_added_put(tok, &token, id, where, err));
    }
    return LT_OK;
}

static enum lt_status parse_root(struct lt_tokenizer *tok, const json_t *root, const char *path,
                                 struct lt_error *err)
{
    if (!json_is_object(root))
        return lt_fail(err, LT_ERR_FORMAT, "%s: must be an object, found %s", path, lt_json_type_name(root));
    const json_t *decoder = json_object_get(root, "decoder");
    LT_TRY(parse_model(tok, json_object_get(root, "model"), path, err));
    LT_TRY(lt_parse_normalizer(&tok->normalizer, json_object_get(root, "normalizer"), path, err));
    LT_TRY(lt_parse_pre_tokenizer(&tok->pre_tokenizer, json_object_get(root, "pre_tokenizer"), path, err));
    LT_TRY(lt_parse_decoder(&tok->decoder, decoder, path, err));
    tok->has_decoder = json_is_object(decoder);
    LT_TRY(lt_parse_post_processor(tok, json_object_get(root, "post_processor"), path, err));
    return parse_added_tokens(tok, json_object_get(root, "added_tokens"), path, err);
}

enum lt_status lt_tokenizer_parse_json(struct lt_tokenizer *tok, const char *path, struct lt_error *err)
{
    json_t *root = NULL;
    LT_TRY(lt_json_load(&root, path, err));
    enum lt_status status = parse_root(tok, root, path, err);
    json_decref(root);
    return status;
}
