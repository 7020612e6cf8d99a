#include "models/tokenizer.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "models/tokenizer_internal.h"

enum lt_status lt_tokenizer_nomem(const char *where, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while loading the tokenizer", where);
}

/* ---- id lists ---- */

void lt_ids_deinit(struct lt_ids *ids)
{
    lt_free(ids->data);
    *ids = (struct lt_ids){0};
}

bool lt_ids_push(struct lt_ids *ids, int32_t id)
{
    void *items = ids->data;
    bool room = lt_reserve(&items, &ids->cap, ids->count, sizeof *ids->data);
    ids->data = items;
    if (room)
        ids->data[ids->count++] = id;
    return room;
}

/* ---- loading ---- */

typedef enum lt_status load_fn(struct lt_tokenizer *tok, const char *path, struct lt_error *err);

static enum lt_status load(struct lt_tokenizer **out, load_fn *fill, const char *path, struct lt_error *err)
{
    *out = NULL;
    struct lt_tokenizer *tok = lt_alloc_zero(1, sizeof *tok);
    if (!tok)
        return lt_tokenizer_nomem(path, err);
    tok->bos = tok->eos = tok->unk = tok->pad = -1;
    enum lt_status status = fill(tok, path, err);
    if (status == LT_OK)
        status = lt_added_index(tok, err);
    if (status != LT_OK) {
        lt_tokenizer_destroy(tok);
        return status;
    }
    *out = tok;
    return LT_OK;
}

static enum lt_status fill_from_folder(struct lt_tokenizer *tok, const char *dir, struct lt_error *err)
{
    static const struct {
        const char *file;
        enum lt_source source;
    } sources[] = {
        {"tokenizer.json", LT_SOURCE_JSON},
        {"tokenizer.model", LT_SOURCE_SPM},
        {"vocab.json", LT_SOURCE_PAIR},
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        char *path = lt_path_join(dir, sources[i].file);
        if (!path)
            return lt_tokenizer_nomem(dir, err);
        enum lt_status status = LT_OK;
        bool present = lt_file_kind(path) != LT_FILE_NONE;
        if (present && sources[i].source == LT_SOURCE_JSON)
            status = lt_tokenizer_parse_json(tok, path, err);
        else if (present && sources[i].source == LT_SOURCE_SPM)
            status = lt_tokenizer_parse_spm(tok, path, err);
        else if (present)
            status = lt_tokenizer_parse_pair(tok, dir, err);
        lt_free(path);
        LT_TRY(status);
        if (present)
            return lt_tokenizer_read_side_files(tok, dir, sources[i].source, err);
    }
    return lt_fail(
        err, LT_ERR_NOT_FOUND,
        "%s: no tokenizer: expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt", dir);
}

enum lt_status lt_tokenizer_load(struct lt_tokenizer **tok, const char *dir, struct lt_error *err)
{
    return load(tok, fill_from_folder, dir, err);
}

enum lt_status lt_tokenizer_load_json(struct lt_tokenizer **tok, const char *path, struct lt_error *err)
{
    return load(tok, lt_tokenizer_parse_json, path, err);
}

enum lt_status lt_tokenizer_load_spm(struct lt_tokenizer **tok, const char *path, struct lt_error *err)
{
    return load(tok, lt_tokenizer_parse_spm, path, err);
}

void lt_tokenizer_destroy(struct lt_tokenizer *tok)
{
    if (!tok)
        return;
    lt_vocab_deinit(&tok->vocab);
    lt_added_deinit(&tok->added);
    lt_steps_deinit(&tok->normalizer);
    lt_steps_deinit(&tok->pre_tokenizer);
    lt_steps_deinit(&tok->decoder);
    lt_bpe_deinit(&tok->bpe);
    lt_ids_deinit(&tok->before);
    lt_ids_deinit(&tok->after);
    lt_free(tok->chat_template);
    lt_free(tok);
}

/* ---- lookup ---- */

int32_t lt_tokenizer_vocab_size(const struct lt_tokenizer *tok)
{
    return (int32_t)tok->vocab.count;
}

int32_t lt_tokenizer_bos(const struct lt_tokenizer *tok)
{
    return tok->bos;
}

int32_t lt_tokenizer_eos(const struct lt_tokenizer *tok)
{
    return tok->eos;
}

int32_t lt_tokenizer_unk(const struct lt_tokenizer *tok)
{
    return tok->unk;
}

int32_t lt_tokenizer_pad(const struct lt_tokenizer *tok)
{
    return tok->pad >= 0 ? tok->pad : tok->eos;
}

int32_t lt_tokenizer_token_to_id(const struct lt_tokenizer *tok, const char *token, size_t len)
{
    return lt_vocab_find(&tok->vocab, token, len);
}

const char *lt_tokenizer_id_to_token(const struct lt_tokenizer *tok, int32_t id)
{
    return lt_vocab_text(&tok->vocab, id, NULL);
}

bool lt_tokenizer_is_special(const struct lt_tokenizer *tok, int32_t id)
{
    return (lt_vocab_flags(&tok->vocab, id) & LT_TOKEN_SPECIAL) != 0;
}

const char *lt_tokenizer_chat_template(const struct lt_tokenizer *tok)
{
    return tok->chat_template;
}

const char *lt_tokenizer_bos_token(const struct lt_tokenizer *tok)
{
    return lt_vocab_text(&tok->vocab, tok->bos, NULL);
}

const char *lt_tokenizer_eos_token(const struct lt_tokenizer *tok)
{
    return lt_vocab_text(&tok->vocab, tok->eos, NULL);
}

/* ---- encoding ---- */

static void encoder_deinit(struct lt_encoder *enc)
{
    pcre2_match_data_free(enc->match_data);
    lt_free(enc->raw_pieces.items);
    lt_free(enc->normalized_pieces.items);
    lt_strbuf_deinit(&enc->normalized);
    lt_strbuf_deinit(&enc->spare);
    lt_pieces_deinit(&enc->pieces);
    lt_pieces_deinit(&enc->next);
    lt_free(enc->matches);
    lt_bpe_scratch_deinit(&enc->bpe);
}

static enum lt_status push_id(struct lt_ids *ids, int32_t id, struct lt_error *err)
{
    return lt_ids_push(ids, id) ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory");
}

/* Normalized text without added tokens. */
static enum lt_status encode_plain(const struct lt_tokenizer *tok, struct lt_encoder *enc, const char *text,
                                   size_t len, bool at_start, struct lt_ids *ids, struct lt_error *err)
{
    LT_TRY(lt_pretokenize(&tok->pre_tokenizer, enc, text, len, at_start, err));
    const char *pieces = lt_strbuf_str(&enc->pieces.text);
    for (size_t i = 0; i < enc->pieces.count; i++) {
        struct lt_piece p = enc->pieces.items[i];
        if (p.end > p.begin)
            LT_TRY(lt_bpe_encode(&tok->bpe, &tok->vocab, pieces + p.begin, p.end - p.begin, &enc->bpe, ids,
                                 err));
    }
    return LT_OK;
}

/* Original text without the added tokens that are matched before normalization. */
static enum lt_status encode_segment(const struct lt_tokenizer *tok, struct lt_encoder *enc, const char *text,
                                     size_t len, bool at_start, struct lt_ids *ids, struct lt_error *err)
{
    LT_TRY(lt_normalize(&tok->normalizer, enc, text, len, &at_start, err));
    struct lt_added_pieces *pieces = &enc->normalized_pieces;
    const char *normalized = lt_strbuf_str(&enc->normalized);
    if (lt_added_split(&tok->added, &tok->added.normalized, normalized, enc->normalized.len, pieces) != LT_OK)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < pieces->count; i++) {
        struct lt_added_piece p = pieces->items[i];
        if (p.id >= 0)
            LT_TRY(push_id(ids, p.id, err));
        else
            LT_TRY(encode_plain(tok, enc, normalized + p.begin, p.end - p.begin, at_start && p.begin == 0,
                                ids, err));
    }
    return LT_OK;
}

static enum lt_status encode_text(const struct lt_tokenizer *tok, struct lt_encoder *enc, const char *text,
                                  size_t len, struct lt_ids *ids, struct lt_error *err)
{
    enc->match_data = pcre2_match_data_create(1, NULL);
    struct lt_added_pieces *pieces = &enc->raw_pieces;
    if (!enc->match_data || lt_added_split(&tok->added, &tok->added.raw, text, len, pieces) != LT_OK)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < pieces->count; i++) {
        struct lt_added_piece p = pieces->items[i];
        if (p.id >= 0)
            LT_TRY(push_id(ids, p.id, err));
        else
            LT_TRY(encode_segment(tok, enc, text + p.begin, p.end - p.begin, p.begin == 0, ids, err));
    }
    return LT_OK;
}

enum lt_status lt_tokenizer_encode(const struct lt_tokenizer *tok, const char *text, size_t len,
                                   bool add_special, struct lt_ids *ids, struct lt_error *err)
{
    size_t bad = 0;
    if (!lt_utf8_valid(text, len, &bad))
        return lt_fail(err, LT_ERR_FORMAT, "the text is not valid UTF-8 at byte %llu",
                       (unsigned long long)bad);
    if (len > INT32_MAX)
        return lt_fail(err, LT_ERR_INVALID, "a text of %llu bytes is longer than 2 GiB; cut it",
                       (unsigned long long)len);
    struct lt_encoder enc = {0};
    enum lt_status status = LT_OK;
    for (size_t i = 0; add_special && i < tok->before.count && status == LT_OK; i++)
        status = push_id(ids, tok->before.data[i], err);
    if (status == LT_OK)
        status = encode_text(tok, &enc, text, len, ids, err);
    for (size_t i = 0; add_special && i < tok->after.count && status == LT_OK; i++)
        status = push_id(ids, tok->after.data[i], err);
    encoder_deinit(&enc);
    return status;
}
