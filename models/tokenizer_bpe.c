/* Byte-pair encoding of one pre-token: a linked list of symbols and a heap of possible merges, keyed by
 * (rank, position); O(n log n).  Order and the handling of outdated heap entries are those of
 * tokenizers' Word::merge_all, which decide the result when two merges make the same token. */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

/* ---- merge table ---- */

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t pair_slot(const struct lt_bpe *bpe, uint64_t key)
{
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(h >> 20) & bpe->pair_mask;
    while (bpe->pairs[i].key != key && bpe->pairs[i].key != UINT64_MAX)
        i = (i + 1) & bpe->pair_mask;
    return i;
}

enum lt_status lt_bpe_reserve_pairs(struct lt_bpe *bpe, size_t n)
{
    size_t size = 16;
    while (size < n * 2) {
        if (size > SIZE_MAX / 4)
            return LT_ERR_NOMEM;
        size *= 2;
    }
    bpe->pairs = lt_alloc_array(size, sizeof *bpe->pairs);
    if (!bpe->pairs)
        return LT_ERR_NOMEM;
    for (size_t i = 0; i < size; i++)
        bpe->pairs[i].key = UINT64_MAX;
    bpe->pair_mask = size - 1;
    return LT_OK;
}

void lt_bpe_put_pair(struct lt_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    uint64_t key = pair_key(left, right);
    bpe->pairs[pair_slot(bpe, key)] = (struct lt_pair_slot){key, rank, id};
}

/* The merge of two neighbours, or NULL.  Frozen symbols have negative ids and never merge. */
static const struct lt_pair_slot *find_pair(const struct lt_bpe *bpe, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || !bpe->pairs)
        return NULL;
    const struct lt_pair_slot *slot = &bpe->pairs[pair_slot(bpe, pair_key(left, right))];
    return slot->key == UINT64_MAX ? NULL : slot;
}

void lt_bpe_index(struct lt_bpe *bpe, const struct lt_vocab *vocab)
{
    for (int b = 0; b < 256; b++) {
        char name[8];
        int n = lt_snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        bpe->byte_ids[b] = lt_vocab_find_model(vocab, name, (size_t)n);
    }
    for (unsigned c = 0; c < LT_CHAR_CACHE; c++) {
        char utf8[2] = {(char)c, 0};
        size_t n = 1;
        if (c >= 0x80) {
            utf8[0] = (char)(0xC0u | c >> 6);
            utf8[1] = (char)(0x80u | (c & 0x3Fu));
            n = 2;
        }
        bpe->char_ids[c] = lt_vocab_find_model(vocab, utf8, n);
    }
}

/* ---- symbols of a word ---- */

struct word {
    const struct lt_bpe *bpe;
    const struct lt_vocab *vocab;
    struct lt_bpe_scratch *s;
    size_t count;
    bool pending_unk; /* the fused unknown token is written when the next known symbol comes */
    struct lt_error *err;
};

static enum lt_status push_symbol(struct word *w, int32_t id)
{
    void *items = w->s->symbols;
    bool room = w->count < INT32_MAX &&
                lt_reserve(&items, &w->s->symbol_cap, w->count, sizeof *w->s->symbols);
    w->s->symbols = items;
    if (!room)
        return lt_fail(w->err, LT_ERR_NOMEM, "out of memory");
    int32_t at = (int32_t)w->count;
    w->s->symbols[at] = (struct lt_symbol){id, at - 1, at + 1, true};
    w->count++;
    return LT_OK;
}

static enum lt_status flush_unk(struct word *w)
{
    if (!w->pending_unk)
        return LT_OK;
    w->pending_unk = false;
    return push_symbol(w, w->bpe->unk_id);
}

/* A character with no token: its bytes, or the unknown token, or nothing. */
static enum lt_status push_unknown(struct word *w, const char *text, size_t len)
{
    const struct lt_bpe *bpe = w->bpe;
    bool have_bytes = bpe->byte_fallback;
    for (size_t i = 0; have_bytes && i < len; i++)
        have_bytes = bpe->byte_ids[(unsigned char)text[i]] >= 0;
    if (have_bytes) {
        for (size_t i = 0; i < len; i++)
            LT_TRY(push_symbol(w, bpe->byte_ids[(unsigned char)text[i]]));
        return LT_OK;
    }
    if (!bpe->unk_token)
        return LT_OK;
    if (bpe->unk_id < 0) {
        struct lt_json_excerpt shown;
        return lt_fail(w->err, LT_ERR_FORMAT,
                       "the text has a character without a token, and the tokenizer's unk_token "
                       "\"%s\" is not in its vocabulary",
                       lt_json_excerpt(&shown, bpe->unk_token));
    }
    if (!bpe->fuse_unk)
        LT_TRY(flush_unk(w));
    w->pending_unk = true;
    return LT_OK;
}

static enum lt_status push_char(struct word *w, const char *text, size_t len, bool is_first, bool is_last)
{
    const struct lt_bpe *bpe = w->bpe;
    int32_t id;
    if ((bpe->prefix && !is_first) || (bpe->suffix && is_last)) {
        struct lt_strbuf *piece = &w->s->piece;
        lt_strbuf_clear(piece);
        if (bpe->prefix && !is_first)
            lt_strbuf_puts(piece, bpe->prefix);
        lt_strbuf_put(piece, text, len);
        if (bpe->suffix && is_last)
            lt_strbuf_puts(piece, bpe->suffix);
        if (!lt_strbuf_ok(piece))
            return lt_fail(w->err, LT_ERR_NOMEM, "out of memory");
        text = piece->data;
        len = piece->len;
        id = lt_vocab_find_model(w->vocab, text, len);
    } else if (len <= 2) {
        size_t n;
        id = bpe->char_ids[lt_utf8_next(text, len, &n)];
    } else {
        id = lt_vocab_find_model(w->vocab, text, len);
    }
    if (id < 0)
        return push_unknown(w, text, len);
    LT_TRY(flush_unk(w));
    return push_symbol(w, id);
}

static enum lt_status split_word(struct word *w, const char *text, size_t len)
{
    size_t n;
    for (size_t i = 0; i < len; i += n) {
        int32_t piece = -1;
        size_t frozen = w->bpe->frozen.count ? lt_trie_longest(&w->bpe->frozen, text + i, len - i, &piece)
                                             : 0;
        if (frozen) {
            LT_TRY(flush_unk(w));
            LT_TRY(push_symbol(w, ~piece));
            n = frozen;
            continue;
        }
        (void)lt_utf8_next(text + i, len - i, &n);
        LT_TRY(push_char(w, text + i, n, i == 0, i + n == len));
    }
    return flush_unk(w);
}

/* ---- heap, smallest order first ---- */

static enum lt_status heap_push(struct word *w, uint32_t rank, int32_t position, int32_t id)
{
    struct lt_bpe_scratch *s = w->s;
    void *items = s->heap;
    bool room = lt_reserve(&items, &s->heap_cap, s->heap_count, sizeof *s->heap);
    s->heap = items;
    if (!room)
        return lt_fail(w->err, LT_ERR_NOMEM, "out of memory");
    struct lt_merge entry = {(uint64_t)rank << 32 | (uint32_t)position, id};
    size_t i = s->heap_count++;
    while (i && s->heap[(i - 1) / 2].order > entry.order) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = entry;
    return LT_OK;
}

static struct lt_merge heap_pop(struct lt_bpe_scratch *s)
{
    struct lt_merge top = s->heap[0], last = s->heap[--s->heap_count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < s->heap_count) {
        if (child + 1 < s->heap_count && s->heap[child + 1].order < s->heap[child].order)
            child++;
        if (s->heap[child].order >= last.order)
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static enum lt_status push_merge(struct word *w, int32_t left)
{
    const struct lt_symbol *symbols = w->s->symbols;
    const struct lt_pair_slot *pair = find_pair(w->bpe, symbols[left].id, symbols[symbols[left].next].id);
    return pair ? heap_push(w, pair->rank, left, pair->id) : LT_OK;
}

static enum lt_status merge_all(struct word *w)
{
    struct lt_bpe_scratch *s = w->s;
    s->heap_count = 0;
    s->symbols[w->count - 1].next = -1;
    for (size_t i = 0; i + 1 < w->count; i++)
        LT_TRY(push_merge(w, (int32_t)i));
    while (s->heap_count) {
        struct lt_merge top = heap_pop(s);
        struct lt_symbol *left = &s->symbols[(uint32_t)top.order];
        if (!left->live || left->next < 0)
            continue;
        struct lt_symbol *right = &s->symbols[left->next];
        const struct lt_pair_slot *pair = find_pair(w->bpe, left->id, right->id);
        if (!pair || pair->id != top.id) /* outdated; the library compares the product, not the rank */
            continue;
        left->id = top.id;
        left->next = right->next;
        right->live = false;
        int32_t at = (int32_t)(left - s->symbols);
        if (left->next >= 0) {
            s->symbols[left->next].prev = at;
            LT_TRY(push_merge(w, at));
        }
        if (left->prev >= 0)
            LT_TRY(push_merge(w, left->prev));
    }
    return LT_OK;
}

enum lt_status lt_bpe_encode(const struct lt_bpe *bpe, const struct lt_vocab *vocab, const char *word,
                             size_t len, struct lt_bpe_scratch *scratch, struct lt_ids *ids,
                             struct lt_error *err)
{
    if (bpe->ignore_merges) {
        int32_t id = lt_vocab_find_model(vocab, word, len);
        if (id >= 0)
            return lt_ids_push(ids, id) ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory");
    }
    struct word w = {bpe, vocab, scratch, 0, false, err};
    LT_TRY(split_word(&w, word, len));
    if (w.count == 0)
        return LT_OK;
    LT_TRY(merge_all(&w));
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next) {
        int32_t id = scratch->symbols[i].id;
        if (!lt_ids_push(ids, id < 0 ? ~id : id))
            return lt_fail(err, LT_ERR_NOMEM, "out of memory");
    }
    return LT_OK;
}

void lt_bpe_deinit(struct lt_bpe *bpe)
{
    lt_free(bpe->pairs);
    lt_free(bpe->unk_token);
    lt_free(bpe->prefix);
    lt_free(bpe->suffix);
    lt_trie_deinit(&bpe->frozen);
    *bpe = (struct lt_bpe){0};
}

void lt_bpe_scratch_deinit(struct lt_bpe_scratch *scratch)
{
    lt_free(scratch->symbols);
    lt_free(scratch->heap);
    lt_strbuf_deinit(&scratch->piece);
    *scratch = (struct lt_bpe_scratch){0};
}
