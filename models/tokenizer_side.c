/* The files beside the vocabulary: which token is bos, eos, unk, pad; added tokens of the older formats;
 * the chat template. */
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/system.h"

enum { CONFIG, MAP, GENERATION, MODEL, ADDED, JSON_FILES };

static const char *const json_names[JSON_FILES] = {
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "config.json",           "added_tokens.json",
};

struct side {
    struct lt_tokenizer *tok;
    enum lt_source source;
    char *paths[JSON_FILES], *template_path;
    json_t *files[JSON_FILES]; /* NULL: absent */
    struct lt_error *err;
};

static enum lt_status open_files(struct side *s, const char *dir)
{
    s->template_path = lt_path_join(dir, "chat_template.jinja");
    if (!s->template_path)
        return lt_fail(s->err, LT_ERR_NOMEM, "out of memory");
    for (int i = 0; i < JSON_FILES; i++) {
        s->paths[i] = lt_path_join(dir, json_names[i]);
        if (!s->paths[i])
            return lt_fail(s->err, LT_ERR_NOMEM, "out of memory");
        if (lt_file_kind(s->paths[i]) != LT_FILE_REGULAR)
            continue;
        LT_TRY(lt_json_load(&s->files[i], s->paths[i], s->err));
        if (!json_is_object(s->files[i]))
            return lt_fail(s->err, LT_ERR_FORMAT, "%s: must be an object, found %s", s->paths[i],
                           lt_json_type_name(s->files[i]));
    }
    return LT_OK;
}

/* ---- added tokens ---- */

static enum lt_status put_named(struct side *s, const char *text, int64_t id, bool special, const char *where)
{
    struct lt_added_token token = {
        .content = (char *)(uintptr_t)text,
        .len = strlen(text),
        .special = special,
        .normalized = !special,
    };
    return lt_added_put(s->tok, &token, id, where, s->err);
}

static enum lt_status put_decoder_entry(struct side *s, const char *key, const json_t *entry)
{
    long long id;
    struct lt_added_token token;
    if (!lt_parse_i64(key, &id) || id < 0)
        return lt_fail(s->err, LT_ERR_FORMAT, "%s: added_tokens_decoder: a key is not a token id",
                       s->paths[CONFIG]);
    LT_TRY(lt_parse_added_token(&token, entry, s->paths[CONFIG], s->err));
    return lt_added_put(s->tok, &token, id, s->paths[CONFIG], s->err);
}

/* transformers also cuts SentencePiece's control pieces (<s>, </s>) out of the text. */
static enum lt_status put_control_pieces(struct side *s)
{
    size_t n = s->tok->vocab.count;
    for (size_t id = 0; id < n; id++) {
        if (lt_vocab_flags(&s->tok->vocab, (int32_t)id) & LT_TOKEN_SPECIAL) {
            /* A copy: the vocabulary may move its text. */
            char *text = lt_strdup(lt_vocab_text(&s->tok->vocab, (int32_t)id, NULL));
            if (!text)
                return lt_tokenizer_nomem(s->paths[CONFIG], s->err);
            enum lt_status status = put_named(s, text, (int64_t)id, true, s->paths[CONFIG]);
            lt_free(text);
            LT_TRY(status);
        }
    }
    return LT_OK;
}

/* tokenizer.json holds its own added tokens; the other sources leave them to these files. */
static enum lt_status read_added_tokens(struct side *s)
{
    if (s->source == LT_SOURCE_JSON)
        return LT_OK;
    if (s->source == LT_SOURCE_SPM)
        LT_TRY(put_control_pieces(s));
    json_t *decoder = json_object_get(s->files[CONFIG], "added_tokens_decoder"), *value;
    const char *key;
    json_object_foreach(decoder, key, value) LT_TRY(put_decoder_entry(s, key, value));
    json_object_foreach(s->files[ADDED], key, value)
    {
        if (!json_is_integer(value))
            return lt_fail(s->err, LT_ERR_FORMAT, "%s: an id must be an integer, found %s", s->paths[ADDED],
                           lt_json_type_name(value));
        int32_t known = lt_vocab_find(&s->tok->vocab, key, strlen(key));
        if (known < 0 || !(lt_vocab_flags(&s->tok->vocab, known) & LT_TOKEN_ADDED))
            LT_TRY(put_named(s, key, (int64_t)json_integer_value(value), false, s->paths[ADDED]));
    }
    return LT_OK;
}

/* ---- special tokens ---- */

/* "</s>" or {"content": "</s>", …}; NULL otherwise. */
static const char *token_text(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static int32_t named_id(struct side *s, int file, const char *key)
{
    const char *text = token_text(json_object_get(s->files[file], key));
    int32_t id = text ? lt_vocab_find(&s->tok->vocab, text, strlen(text)) : -1;
    struct lt_json_excerpt shown;
    if (text && id < 0)
        lt_log(LT_LOG_WARNING, "%s: %s \"%s\" is not a token of this tokenizer and is left out",
               s->paths[file], key, lt_json_excerpt(&shown, text));
    return id;
}

/* An id, or the first of a list of ids. */
static int32_t numbered_id(const struct side *s, int file, const char *key)
{
    const json_t *v = json_object_get(s->files[file], key);
    if (json_is_array(v))
        v = json_array_get(v, 0);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= LT_TOKEN_ID_MAX)
        return -1;
    int32_t id = (int32_t)json_integer_value(v);
    return lt_vocab_text(&s->tok->vocab, id, NULL) ? id : -1;
}

/* tokenizer_config.json rules; a null there means that the tokenizer has none.  Only eos is looked for on,
 * since nothing can be trained to end without it. */
static void find_special(struct side *s, const char *key, const char *id_key, bool insist, int32_t *id)
{
    const json_t *own = json_object_get(s->files[CONFIG], key);
    int32_t found = own ? named_id(s, CONFIG, key) : -1;
    if (found < 0 && own && json_is_null(own) && !insist) {
        *id = -1;
        return;
    }
    if (found < 0)
        found = named_id(s, MAP, key);
    if (found < 0 && *id < 0 && id_key)
        found = numbered_id(s, GENERATION, id_key);
    if (found < 0 && *id < 0 && id_key)
        found = numbered_id(s, MODEL, id_key);
    if (found >= 0)
        *id = found;
}

static void mark_special(struct side *s, int32_t id)
{
    if (s->source != LT_SOURCE_JSON && id >= 0)
        s->tok->vocab.entries[id].flags |= LT_TOKEN_SPECIAL;
}

static enum lt_status find_specials(struct side *s)
{
    struct lt_tokenizer *tok = s->tok;
    find_special(s, "bos_token", "bos_token_id", false, &tok->bos);
    find_special(s, "eos_token", "eos_token_id", true, &tok->eos);
    find_special(s, "unk_token", NULL, false, &tok->unk);
    find_special(s, "pad_token", "pad_token_id", false, &tok->pad);
    mark_special(s, tok->bos);
    mark_special(s, tok->eos);
    return lt_json_get_bool(s->files[CONFIG], "clean_up_tokenization_spaces", &tok->clean_up_spaces,
                            s->paths[CONFIG], s->err);
}

/* SentencePiece and GPT-2 tokenizers take bos and eos from add_bos_token and add_eos_token. */
static enum lt_status set_post_processor(struct side *s)
{
    struct lt_tokenizer *tok = s->tok;
    const json_t *config = s->files[CONFIG];
    bool bos = s->source == LT_SOURCE_SPM, eos = false, legacy = true, prefix = true;
    if (s->source == LT_SOURCE_JSON)
        return LT_OK;
    LT_TRY(lt_json_get_bool(config, "add_bos_token", &bos, s->paths[CONFIG], s->err));
    LT_TRY(lt_json_get_bool(config, "add_eos_token", &eos, s->paths[CONFIG], s->err));
    lt_ids_deinit(&tok->before);
    lt_ids_deinit(&tok->after);
    if (bos && tok->bos >= 0 && !lt_ids_push(&tok->before, tok->bos))
        return lt_tokenizer_nomem(s->paths[CONFIG], s->err);
    if (eos && tok->eos >= 0 && !lt_ids_push(&tok->after, tok->eos))
        return lt_tokenizer_nomem(s->paths[CONFIG], s->err);
    if (s->source != LT_SOURCE_SPM)
        return LT_OK;
    /* legacy: a dummy prefix after every added token, otherwise at the start of the text only. */
    LT_TRY(lt_json_get_bool(config, "legacy", &legacy, s->paths[CONFIG], s->err));
    LT_TRY(lt_json_get_bool(config, "add_prefix_space", &prefix, s->paths[CONFIG], s->err));
    enum lt_prepend_scheme *scheme = &tok->normalizer.items[0].scheme;
    if (!prefix)
        *scheme = LT_PREPEND_NEVER;
    else if (!legacy && *scheme == LT_PREPEND_ALWAYS)
        *scheme = LT_PREPEND_FIRST;
    return LT_OK;
}

/* ---- chat template ---- */

/* The template itself, or the "default" one of a list of {"name", "template"}. */
static const char *stored_template(const json_t *v)
{
    if (!json_is_array(v))
        return json_string_value(v);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *entry = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(entry, "template"));
    }
    return NULL;
}

static enum lt_status read_template(struct side *s)
{
    if (lt_file_kind(s->template_path) == LT_FILE_REGULAR) {
        size_t size;
        return lt_file_read(s->template_path, (size_t)16 << 20, &s->tok->chat_template, &size, s->err);
    }
    const char *text = stored_template(json_object_get(s->files[CONFIG], "chat_template"));
    if (text && !(s->tok->chat_template = lt_strdup(text)))
        return lt_tokenizer_nomem(s->paths[CONFIG], s->err);
    return LT_OK;
}

enum lt_status lt_tokenizer_read_side_files(struct lt_tokenizer *tok, const char *dir, enum lt_source source,
                                            struct lt_error *err)
{
    struct side s = {.tok = tok, .source = source, .err = err};
    enum lt_status status = open_files(&s, dir);
    if (status == LT_OK)
        status = read_added_tokens(&s);
    if (status == LT_OK)
        status = find_specials(&s);
    if (status == LT_OK)
        status = set_post_processor(&s);
    if (status == LT_OK)
        status = read_template(&s);
    for (int i = 0; i < JSON_FILES; i++) {
        json_decref(s.files[i]);
        lt_free(s.paths[i]);
    }
    lt_free(s.template_path);
    return status;
}
