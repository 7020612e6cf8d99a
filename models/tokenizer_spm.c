/* tokenizer.model: SentencePiece's ModelProto (sentencepiece_model.proto), BPE models only. */
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

/* Pieces make one merge for every place where they can be cut, each looked up: bounds that work. */
enum { SPM_PIECE_MAX = 1024 };
static const size_t spm_file_max = (size_t)256 << 20;

enum { WIRE_VARINT = 0, WIRE_64BIT = 1, WIRE_BYTES = 2, WIRE_32BIT = 5 };

enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE
};

struct proto {
    const unsigned char *data;
    size_t size, at;
};

struct field {
    uint64_t number, value; /* value: varint, or the bits of a fixed-width field */
    int wire;
    struct proto bytes; /* WIRE_BYTES */
};

struct piece {
    float score;
    enum piece_type type;
    int32_t rank_id; /* sorting carries the id along */
};

struct model {
    struct lt_tokenizer *tok;
    const char *path;
    struct lt_error *err;
    struct piece *pieces;
    size_t count, cap;
    uint64_t model_type;
    bool byte_fallback, whitespace_suffix;
    int64_t unk_id, bos_id, eos_id, pad_id;
    bool dummy_prefix, collapse, escape, charsmap;
};

static enum lt_status corrupt(const struct model *m, const char *what)
{
    return lt_fail(m->err, LT_ERR_FORMAT, "%s: not a SentencePiece model: %s; fetch the file again", m->path,
                   what);
}

/* ---- protobuf wire format ---- */

static bool read_varint(struct proto *p, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (p->at == p->size)
            return false;
        unsigned char byte = p->data[p->at++];
        value |= (uint64_t)(byte & 0x7Fu) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct proto *p, size_t n, uint64_t *out)
{
    if (p->size - p->at < n)
        return false;
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)p->data[p->at + i] << (8 * i);
    p->at += n;
    *out = value;
    return true;
}

/* The next field; *end at the end of the message.  False: malformed. */
static bool read_field(struct proto *p, struct field *f, bool *end)
{
    uint64_t tag;
    *end = p->at == p->size;
    if (*end)
        return true;
    if (!read_varint(p, &tag) || tag >> 3 == 0)
        return false;
    *f = (struct field){.number = tag >> 3, .wire = (int)(tag & 7)};
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(p, &f->value);
    case WIRE_64BIT:
        return read_fixed(p, 8, &f->value);
    case WIRE_32BIT:
        return read_fixed(p, 4, &f->value);
    case WIRE_BYTES:
        if (!read_varint(p, &f->value) || f->value > p->size - p->at)
            return false;
        f->bytes = (struct proto){p->data + p->at, (size_t)f->value, 0};
        p->at += (size_t)f->value;
        return true;
    default:
        return false;
    }
}

/* ---- messages ---- */

static enum lt_status read_piece(struct model *m, struct proto p)
{
    struct proto text = {0};
    struct piece piece = {0, PIECE_NORMAL, (int32_t)m->count};
    for (;;) {
        struct field f;
        bool end;
        if (!read_field(&p, &f, &end))
            return corrupt(m, "a piece is cut short");
        if (end)
            break;
        if (f.number == 1 && f.wire == WIRE_BYTES) {
            text = f.bytes;
        } else if (f.number == 2 && f.wire == WIRE_32BIT) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&piece.score, &bits, sizeof bits);
        } else if (f.number == 3 && f.wire == WIRE_VARINT) {
            if (f.value < PIECE_NORMAL || f.value > PIECE_BYTE)
                return corrupt(m, "a piece has an unknown type");
            piece.type = (enum piece_type)f.value;
        }
    }
    if (text.size == 0 || text.size > SPM_PIECE_MAX || !lt_utf8_valid(text.data, text.size, NULL))
        return corrupt(m, "a piece is empty, longer than 1024 bytes or not UTF-8");
    if (!(piece.score <= 3.4e38f && piece.score >= -3.4e38f))
        return corrupt(m, "the score of a piece is not a number");
    if (piece.type == PIECE_UNUSED)
        return lt_fail(m->err, LT_ERR_UNSUPPORTED,
                       "%s: piece %llu has the type UNUSED, which is not supported", m->path,
                       (unsigned long long)m->count);
    uint32_t flags = piece.type == PIECE_CONTROL || piece.type == PIECE_UNKNOWN ? LT_TOKEN_SPECIAL
                                                                                : LT_TOKEN_MODEL;
    LT_TRY(lt_vocab_add(&m->tok->vocab, (const char *)text.data, text.size, (int64_t)m->count, flags, m->path,
                        m->err));
    if (piece.type == PIECE_USER_DEFINED &&
        !lt_trie_add(&m->tok->bpe.frozen, (const char *)text.data, text.size, (int32_t)m->count))
        return lt_tokenizer_nomem(m->path, m->err);
    void *items = m->pieces;
    bool room = lt_reserve(&items, &m->cap, m->count, sizeof *m->pieces);
    m->pieces = items;
    if (!room)
        return lt_tokenizer_nomem(m->path, m->err);
    m->pieces[m->count++] = piece;
    return LT_OK;
}

static int64_t signed_value(uint64_t v)
{
    return v > INT32_MAX ? -1 : (int64_t)v; /* ids: int32, negative means none */
}

static enum lt_status read_trainer_spec(struct model *m, struct proto p)
{
    for (;;) {
        struct field f;
        bool end;
        if (!read_field(&p, &f, &end))
            return corrupt(m, "trainer_spec is cut short");
        if (end)
            return LT_OK;
        if (f.wire != WIRE_VARINT)
            continue;
        switch (f.number) {
        case 3:
            m->model_type = f.value;
            break;
        case 24:
            m->whitespace_suffix = f.value != 0;
            break;
        case 35:
            m->byte_fallback = f.value != 0;
            break;
        case 40:
            m->unk_id = signed_value(f.value);
            break;
        case 41:
            m->bos_id = signed_value(f.value);
            break;
        case 42:
            m->eos_id = signed_value(f.value);
            break;
        case 43:
            m->pad_id = signed_value(f.value);
            break;
        default:
            break;
        }
    }
}

static enum lt_status read_normalizer_spec(struct model *m, struct proto p)
{
    for (;;) {
        struct field f;
        bool end;
        if (!read_field(&p, &f, &end))
            return corrupt(m, "normalizer_spec is cut short");
        if (end)
            return LT_OK;
        if (f.number == 2 && f.wire == WIRE_BYTES)
            m->charsmap = f.bytes.size > 0;
        else if (f.number == 3 && f.wire == WIRE_VARINT)
            m->dummy_prefix = f.value != 0;
        else if (f.number == 4 && f.wire == WIRE_VARINT)
            m->collapse = f.value != 0;
        else if (f.number == 5 && f.wire == WIRE_VARINT)
            m->escape = f.value != 0;
    }
}

static enum lt_status read_model(struct model *m, struct proto p)
{
    for (;;) {
        struct field f;
        bool end;
        if (!read_field(&p, &f, &end))
            return corrupt(m, "the file is cut short or damaged");
        if (end)
            break;
        if (f.wire != WIRE_BYTES)
            continue;
        if (f.number == 1)
            LT_TRY(read_piece(m, f.bytes));
        else if (f.number == 2)
            LT_TRY(read_trainer_spec(m, f.bytes));
        else if (f.number == 3)
            LT_TRY(read_normalizer_spec(m, f.bytes));
    }
    if (m->count == 0)
        return corrupt(m, "it has no pieces");
    if (m->model_type != 2)
        return lt_fail(m->err, LT_ERR_UNSUPPORTED,
                       "%s: a SentencePiece model of type %s is not supported; only BPE is", m->path,
                       m->model_type == 1   ? "Unigram"
                       : m->model_type == 3 ? "Word"
                                            : "Char");
    if (m->charsmap)
        return lt_fail(
            m->err, LT_ERR_UNSUPPORTED,
            "%s: the SentencePiece model rewrites characters (precompiled_charsmap), which is not supported",
            m->path);
    return LT_OK;
}

/* ---- merges ---- */

static int by_score(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    if (x->score > y->score || x->score < y->score)
        return x->score > y->score ? -1 : 1;
    return x->rank_id < y->rank_id ? -1 : x->rank_id > y->rank_id;
}

/* Adds (put) or counts the pairs whose concatenation is this piece. */
static size_t cut_piece(struct model *m, int32_t id, uint32_t rank, bool put)
{
    struct lt_vocab *vocab = &m->tok->vocab;
    size_t len, n, pairs = 0;
    const char *text = lt_vocab_text(vocab, id, &len);
    (void)lt_utf8_next(text, len, &n);
    for (size_t i = n; i < len; i += n) {
        int32_t left = lt_vocab_find_model(vocab, text, i),
                right = lt_vocab_find_model(vocab, text + i, len - i);
        if (left >= 0 && right >= 0) {
            pairs++;
            if (put)
                lt_bpe_put_pair(&m->tok->bpe, left, right, rank, id);
        }
        (void)lt_utf8_next(text + i, len - i, &n);
    }
    return pairs;
}

/* SentencePiece merges the neighbours with the best score of their concatenation, the leftmost first.
 * Pieces of equal score share a rank, so that position decides between them as it does there. */
static enum lt_status build_merges(struct model *m)
{
    size_t pairs = 0;
    for (size_t i = 0; i < m->count; i++) {
        if (m->pieces[i].type == PIECE_NORMAL || m->pieces[i].type == PIECE_USER_DEFINED)
            pairs += cut_piece(m, (int32_t)i, 0, false);
    }
    if (lt_bpe_reserve_pairs(&m->tok->bpe, pairs) != LT_OK)
        return lt_tokenizer_nomem(m->path, m->err);
    qsort(m->pieces, m->count, sizeof *m->pieces, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; i < m->count; i++) {
        const struct piece *p = &m->pieces[i];
        if (i && p->score < m->pieces[i - 1].score)
            rank++;
        if (p->type == PIECE_NORMAL || p->type == PIECE_USER_DEFINED)
            (void)cut_piece(m, p->rank_id, rank, true);
    }
    return LT_OK;
}

/* ---- the pipeline around them ---- */

static int32_t known_id(const struct model *m, int64_t id)
{
    return id >= 0 && (uint64_t)id < m->count ? (int32_t)id : -1;
}

static enum lt_status add_decoder(struct model *m)
{
    struct lt_steps *steps = &m->tok->decoder;
    struct lt_step *step = lt_steps_add(steps, LT_DEC_REPLACE);
    if (!step || lt_pattern_literal(&step->pattern, "\xE2\x96\x81", 3) != LT_OK ||
        !(step->text = lt_strdup(" ")))
        return lt_tokenizer_nomem(m->path, m->err);
    step->text_len = 1;
    if (m->byte_fallback && !lt_steps_add(steps, LT_DEC_BYTE_FALLBACK))
        return lt_tokenizer_nomem(m->path, m->err);
    if (!lt_steps_add(steps, LT_DEC_FUSE))
        return lt_tokenizer_nomem(m->path, m->err);
    m->tok->has_decoder = true;
    if (!m->dummy_prefix && !m->collapse)
        return LT_OK;
    step = lt_steps_add(steps, LT_DEC_STRIP);
    if (!step || !(step->text = lt_strdup(" ")))
        return lt_tokenizer_nomem(m->path, m->err);
    step->text_len = 1;
    step->start = m->whitespace_suffix ? 0 : 1;
    step->stop = m->whitespace_suffix ? 1 : 0;
    return LT_OK;
}

static enum lt_status fill_tokenizer(struct model *m)
{
    struct lt_tokenizer *tok = m->tok;
    tok->bos = known_id(m, m->bos_id);
    tok->eos = known_id(m, m->eos_id);
    tok->pad = known_id(m, m->pad_id);
    tok->unk = known_id(m, m->unk_id);
    struct lt_bpe *bpe = &tok->bpe;
    bpe->byte_fallback = m->byte_fallback;
    bpe->fuse_unk = true;
    bpe->unk_id = tok->unk;
    const char *unk = lt_vocab_text(&tok->vocab, tok->unk, NULL);
    if (unk && !(bpe->unk_token = lt_strdup(unk)))
        return lt_tokenizer_nomem(m->path, m->err);
    LT_TRY(build_merges(m));
    lt_bpe_index(bpe, &tok->vocab);
    struct lt_step *step = lt_steps_add(&tok->normalizer, LT_NORM_SPM);
    if (!step)
        return lt_tokenizer_nomem(m->path, m->err);
    step->scheme = m->dummy_prefix ? LT_PREPEND_ALWAYS : LT_PREPEND_NEVER;
    step->collapse = m->collapse;
    step->escape = m->escape;
    step->suffix = m->whitespace_suffix;
    LT_TRY(add_decoder(m));
    if (tok->bos >= 0 && !lt_ids_push(&tok->before, tok->bos))
        return lt_tokenizer_nomem(m->path, m->err);
    return LT_OK;
}

enum lt_status lt_tokenizer_parse_spm(struct lt_tokenizer *tok, const char *path, struct lt_error *err)
{
    char *data = NULL;
    size_t size = 0;
    LT_TRY(lt_file_read(path, spm_file_max, &data, &size, err));
    struct model m = {
        .tok = tok,
        .path = path,
        .err = err,
        .model_type = 1,
        .unk_id = 0,
        .bos_id = 1,
        .eos_id = 2,
        .pad_id = -1,
        .dummy_prefix = true,
        .collapse = true,
        .escape = true,
    };
    enum lt_status status = read_model(&m, (struct proto){(const unsigned char *)data, size, 0});
    if (status == LT_OK)
        status = fill_tokenizer(&m);
    lt_free(m.pieces);
    lt_free(data);
    return status;
}
