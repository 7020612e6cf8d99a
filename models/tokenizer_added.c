/* Added tokens are cut out of the text before BPE sees it: leftmost, longest (AddedVocabulary). */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

enum lt_status lt_added_put(struct lt_tokenizer *tok, const struct lt_added_token *token, int64_t id,
                            const char *where, struct lt_error *err)
{
    if (token->len == 0)
        return LT_OK; /* the library drops it as well: it could match nowhere */
    struct lt_added *added = &tok->added;
    int32_t known = lt_vocab_find(&tok->vocab, token->content, token->len);
    uint32_t flags = LT_TOKEN_ADDED | (token->special ? LT_TOKEN_SPECIAL : 0u);
    if (known >= 0) {
        if (tok->vocab.entries[known].flags & LT_TOKEN_ADDED) {
            for (size_t i = 0; i < added->count;
                 i++) { /* named twice: the later description is the valid one */
                struct lt_added_token *old = &added->items[i];
                if (old->id == known) {
                    char *content = old->content;
                    *old = *token;
                    old->content = content;
                    old->id = known;
                }
            }
            tok->vocab.entries[known].flags |= flags;
            return LT_OK;
        }
        tok->vocab.entries[known].flags |= flags;
    } else {
        if (id < 0)
            id = (int64_t)tok->vocab.count;
        LT_TRY(lt_vocab_add(&tok->vocab, token->content, token->len, id, flags, where, err));
        known = (int32_t)id;
    }
    void *items = added->items;
    bool room = lt_reserve(&items, &added->cap, added->count, sizeof *added->items);
    added->items = items;
    char *content = room ? lt_alloc(token->len + 1) : NULL;
    if (!content)
        return lt_tokenizer_nomem(where, err);
    memcpy(content, token->content, token->len);
    content[token->len] = '\0';
    struct lt_added_token *slot = &added->items[added->count++];
    *slot = *token;
    slot->content = content;
    slot->id = known;
    return LT_OK;
}

/* The library lists special tokens first; of two with the same text the first wins. */
static enum lt_status index_some(struct lt_tokenizer *tok, struct lt_encoder *enc, bool special,
                                 struct lt_error *err)
{
    struct lt_added *added = &tok->added;
    for (size_t i = 0; i < added->count; i++) {
        const struct lt_added_token *t = &added->items[i];
        if (t->special != special)
            continue;
        bool ok;
        if (!t->normalized) {
            ok = lt_trie_add(&added->raw, t->content, t->len, (int32_t)i);
        } else {
            bool at_start = true;
            LT_TRY(lt_normalize(&tok->normalizer, enc, t->content, t->len, &at_start, err));
            ok = lt_trie_add(&added->normalized, lt_strbuf_str(&enc->normalized), enc->normalized.len,
                             (int32_t)i);
        }
        if (!ok)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory");
    }
    return LT_OK;
}

enum lt_status lt_added_index(struct lt_tokenizer *tok, struct lt_error *err)
{
    struct lt_encoder enc = {0};
    enum lt_status status = LT_OK;
    lt_trie_deinit(&tok->added.raw);
    lt_trie_deinit(&tok->added.normalized);
    enc.match_data = pcre2_match_data_create(1, NULL);
    if (!enc.match_data)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory");
    if (status == LT_OK)
        status = index_some(tok, &enc, true, err);
    if (status == LT_OK)
        status = index_some(tok, &enc, false, err);
    lt_strbuf_deinit(&enc.normalized);
    lt_strbuf_deinit(&enc.spare);
    pcre2_match_data_free(enc.match_data);
    return status;
}

static bool push_piece(struct lt_added_pieces *pieces, size_t begin, size_t end, int32_t id)
{
    void *items = pieces->items;
    bool room = lt_reserve(&items, &pieces->cap, pieces->count, sizeof *pieces->items);
    pieces->items = items;
    if (room)
        pieces->items[pieces->count++] = (struct lt_added_piece){begin, end, id};
    return room;
}

static bool stands_alone(const char *text, size_t len, size_t begin, size_t end)
{
    size_t n;
    if (begin) {
        size_t last = lt_utf8_last(text, begin);
        if (lt_is_word(lt_utf8_next(text + begin - last, last, &n)))
            return false;
    }
    return end == len || !lt_is_word(lt_utf8_next(text + end, len - end, &n));
}

enum lt_status lt_added_split(const struct lt_added *added, const struct lt_trie *trie, const char *text,
                              size_t len, struct lt_added_pieces *pieces)
{
    pieces->count = 0;
    size_t done = 0, at = 0;
    while (trie->count && at < len) {
        int32_t value = 0;
        size_t n = trie->first[(unsigned char)text[at]] ? lt_trie_longest(trie, text + at, len - at, &value)
                                                        : 0;
        if (!n) {
            at++;
            continue;
        }
        const struct lt_added_token *token = &added->items[value];
        size_t begin = at, end = at + n;
        at = end;
        if (token->single_word && !stands_alone(text, len, begin, end))
            continue;
        size_t width;
        while (token->rstrip && end < len && lt_is_space(lt_utf8_next(text + end, len - end, &width)))
            end += width;
        while (token->lstrip && begin > done) { /* not beyond the previous token */
            size_t last = lt_utf8_last(text, begin);
            if (!lt_is_space(lt_utf8_next(text + begin - last, last, &width)))
                break;
            begin -= last;
        }
        if (token->lstrip && done >= end)
            continue; /* a token of spaces that the previous one has swallowed */
        if (done < begin && !push_piece(pieces, done, begin, -1))
            return LT_ERR_NOMEM;
        if (!push_piece(pieces, begin, end, token->id))
            return LT_ERR_NOMEM;
        done = end;
    }
    if (done < len && !push_piece(pieces, done, len, -1))
        return LT_ERR_NOMEM;
    return LT_OK;
}

void lt_added_deinit(struct lt_added *added)
{
    for (size_t i = 0; i < added->count; i++)
        lt_free(added->items[i].content);
    lt_free(added->items);
    lt_trie_deinit(&added->raw);
    lt_trie_deinit(&added->normalized);
    *added = (struct lt_added){0};
}
