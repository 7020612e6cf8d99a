#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

/* ---- hash table ---- */

/* FNV-1a, 64 bits, folded. */
static size_t hash_text(const char *text, size_t len)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001B3u;
    return (size_t)(h ^ (h >> 29));
}

/* The slot that holds text, or the empty one where it belongs. */
static size_t find_slot(const struct lt_vocab *v, const char *text, size_t len)
{
    size_t i = hash_text(text, len) & v->slot_mask;
    for (;; i = (i + 1) & v->slot_mask) {
        int32_t id = v->slots[i];
        if (id < 0)
            return i;
        const struct lt_vocab_entry *e = &v->entries[id];
        if (e->len == len && memcmp(v->text + e->offset, text, len) == 0)
            return i;
    }
}

static bool grow_slots(struct lt_vocab *v)
{
    size_t n = v->slots ? (v->slot_mask + 1) * 2 : 1024;
    int32_t *slots = lt_alloc_array(n, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < n; i++)
        slots[i] = -1;
    lt_free(v->slots);
    v->slots = slots;
    v->slot_mask = n - 1;
    for (size_t id = 0; id < v->count; id++) {
        const struct lt_vocab_entry *e = &v->entries[id];
        if (e->flags)
            v->slots[find_slot(v, v->text + e->offset, e->len)] = (int32_t)id;
    }
    return true;
}

static bool grow_entries(struct lt_vocab *v, size_t count)
{
    if (count > v->cap) {
        size_t cap = v->cap ? v->cap : 1024;
        while (cap < count)
            cap *= 2;
        struct lt_vocab_entry *entries = lt_realloc_array(v->entries, cap, sizeof *entries);
        if (!entries)
            return false;
        memset(entries + v->cap, 0, (cap - v->cap) * sizeof *entries);
        v->entries = entries;
        v->cap = cap;
    }
    return true;
}

static bool store_text(struct lt_vocab *v, const char *text, size_t len)
{
    size_t need = v->text_len + len + 1;
    if (need > v->text_cap) {
        size_t cap = v->text_cap ? v->text_cap : 4096;
        while (cap < need)
            cap *= 2;
        char *grown = lt_realloc_array(v->text, cap, 1);
        if (!grown)
            return false;
        v->text = grown;
        v->text_cap = cap;
    }
    if (len)
        memcpy(v->text + v->text_len, text, len);
    v->text[v->text_len + len] = '\0';
    return true;
}

enum lt_status lt_vocab_add(struct lt_vocab *v, const char *text, size_t len, int64_t id, uint32_t flags,
                            const char *where, struct lt_error *err)
{
    struct lt_json_excerpt shown;
    if (len > UINT32_MAX)
        return lt_fail(err, LT_ERR_FORMAT, "%s: the token of id %lld is longer than 4 GiB", where,
                       (long long)id);
    if (!store_text(v, text, len))
        return lt_tokenizer_nomem(where, err);
    const char *kept = v->text + v->text_len; /* NUL-terminated, unlike text */
    if (id < 0 || id >= LT_TOKEN_ID_MAX)
        return lt_fail(err, LT_ERR_FORMAT, "%s: token \"%s\" has id %lld, outside 0..%d", where,
                       lt_json_excerpt(&shown, kept), (long long)id, LT_TOKEN_ID_MAX - 1);
    if ((size_t)id < v->count && v->entries[id].flags)
        return lt_fail(err, LT_ERR_FORMAT, "%s: two tokens have id %lld, the second is \"%s\"", where,
                       (long long)id, lt_json_excerpt(&shown, kept));
    if ((!v->slots || v->used * 2 > v->slot_mask) && !grow_slots(v))
        return lt_tokenizer_nomem(where, err);
    size_t slot = find_slot(v, kept, len);
    if (v->slots[slot] >= 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: token \"%s\" appears with ids %d and %lld", where,
                       lt_json_excerpt(&shown, kept), (int)v->slots[slot], (long long)id);
    if (!grow_entries(v, (size_t)id + 1))
        return lt_tokenizer_nomem(where, err);
    v->slots[slot] = (int32_t)id;
    v->entries[id] = (struct lt_vocab_entry){v->text_len, (uint32_t)len, flags | LT_TOKEN_USED};
    v->text_len += len + 1;
    v->used++;
    if ((size_t)id + 1 > v->count)
        v->count = (size_t)id + 1;
    return LT_OK;
}

int32_t lt_vocab_find(const struct lt_vocab *v, const char *text, size_t len)
{
    return v->slots ? v->slots[find_slot(v, text, len)] : -1;
}

int32_t lt_vocab_find_model(const struct lt_vocab *v, const char *text, size_t len)
{
    int32_t id = lt_vocab_find(v, text, len);
    return id >= 0 && (v->entries[id].flags & LT_TOKEN_MODEL) ? id : -1;
}

const char *lt_vocab_text(const struct lt_vocab *v, int32_t id, size_t *len)
{
    if (id < 0 || (size_t)id >= v->count || !v->entries[id].flags)
        return NULL;
    if (len)
        *len = v->entries[id].len;
    return v->text + v->entries[id].offset;
}

uint32_t lt_vocab_flags(const struct lt_vocab *v, int32_t id)
{
    return id >= 0 && (size_t)id < v->count ? v->entries[id].flags : 0;
}

void lt_vocab_deinit(struct lt_vocab *v)
{
    lt_free(v->text);
    lt_free(v->entries);
    lt_free(v->slots);
    *v = (struct lt_vocab){0};
}

/* ---- trie ---- */

static int32_t find_child(const struct lt_trie *t, int32_t node, unsigned char byte)
{
    if (node == 0)
        return t->first[byte];
    for (int32_t c = t->nodes[node].child; c; c = t->nodes[c].sibling) {
        if (t->nodes[c].byte == byte)
            return c;
    }
    return 0;
}

static int32_t add_child(struct lt_trie *t, int32_t node, unsigned char byte)
{
    if (t->count >= INT32_MAX)
        return 0;
    void *items = t->nodes;
    bool room = lt_reserve(&items, &t->cap, t->count, sizeof *t->nodes);
    t->nodes = items;
    if (!room)
        return 0;
    int32_t made = (int32_t)t->count++;
    t->nodes[made] = (struct lt_trie_node){0, 0, -1, byte};
    if (node == 0) {
        t->first[byte] = made;
    } else {
        t->nodes[made].sibling = t->nodes[node].child;
        t->nodes[node].child = made;
    }
    return made;
}

bool lt_trie_add(struct lt_trie *t, const char *text, size_t len, int32_t value)
{
    if (len == 0)
        return true; /* an empty token never matches */
    if (t->count == 0) {
        void *items = t->nodes;
        bool room = lt_reserve(&items, &t->cap, 0, sizeof *t->nodes);
        t->nodes = items;
        if (!room)
            return false;
        t->nodes[0] = (struct lt_trie_node){0, 0, -1, 0};
        t->count = 1;
    }
    int32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        int32_t child = find_child(t, node, byte);
        if (!child && !(child = add_child(t, node, byte)))
            return false;
        node = child;
    }
    if (t->nodes[node].value < 0)
        t->nodes[node].value = value;
    return true;
}

size_t lt_trie_longest(const struct lt_trie *t, const char *text, size_t len, int32_t *value)
{
    size_t best = 0;
    int32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        node = find_child(t, node, (unsigned char)text[i]);
        if (!node)
            break;
        if (t->nodes[node].value >= 0) {
            *value = t->nodes[node].value;
            best = i + 1;
        }
    }
    return best;
}

void lt_trie_deinit(struct lt_trie *t)
{
    lt_free(t->nodes);
    *t = (struct lt_trie){0};
}
