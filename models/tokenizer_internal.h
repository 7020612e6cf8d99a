/* The parts of a tokenizer.  Text runs through normalizer, pre-tokenizer and BPE; ids come back through
 * the decoder.  Every part is a flat list of steps: nested "Sequence" components are one list after
 * parsing, because each step feeds the next.  Behaviour follows the `tokenizers` library 0.23. */
#ifndef LT_MODELS_TOKENIZER_INTERNAL_H
#define LT_MODELS_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/io/json.h"
#include "models/tokenizer.h"

/* Ids size tables, so a file may not choose them freely; the largest public vocabularies have 262,144. */
enum { LT_TOKEN_ID_MAX = 1 << 21 };

/* ---- vocabulary: text <-> id (tokenizer_vocab.c) ---- */
enum {
    LT_TOKEN_USED = 1,
    LT_TOKEN_MODEL = 2,  /* BPE may produce it */
    LT_TOKEN_ADDED = 4,  /* found in the text before BPE */
    LT_TOKEN_SPECIAL = 8 /* dropped by decode(skip_special) */
};

struct lt_vocab_entry {
    size_t offset; /* into text */
    uint32_t len;
    uint32_t flags; /* 0: unused id */
};

struct lt_vocab {
    char *text; /* all tokens, each NUL-terminated */
    size_t text_len, text_cap;
    struct lt_vocab_entry *entries; /* by id */
    size_t count, cap;              /* count: highest id + 1 */
    int32_t *slots;                 /* open addressing, -1: empty */
    size_t slot_mask, used;
};

/* LT_ERR_FORMAT when the text or the id is taken by another token, or the id is out of range. */
enum lt_status lt_vocab_add(struct lt_vocab *v, const char *text, size_t len, int64_t id, uint32_t flags,
                            const char *where, struct lt_error *err) LT_MUST_USE;
int32_t lt_vocab_find(const struct lt_vocab *v, const char *text, size_t len); /* -1: none */
int32_t lt_vocab_find_model(const struct lt_vocab *v, const char *text,
                            size_t len);                                      /* BPE's own tokens only */
const char *lt_vocab_text(const struct lt_vocab *v, int32_t id, size_t *len); /* NULL: unused */
uint32_t lt_vocab_flags(const struct lt_vocab *v, int32_t id);
void lt_vocab_deinit(struct lt_vocab *v);

/* ---- byte trie, for the longest token at a place (tokenizer_vocab.c) ---- */
struct lt_trie_node {
    int32_t child, sibling; /* 0: none */
    int32_t value;          /* -1: no token ends here */
    unsigned char byte;
};

struct lt_trie {
    struct lt_trie_node *nodes; /* node 0 is the root */
    size_t count, cap;
    int32_t first[256]; /* children of the root */
};

/* The first value of a text stays.  False: out of memory. */
bool lt_trie_add(struct lt_trie *t, const char *text, size_t len, int32_t value) LT_MUST_USE;
/* Length of the longest token at the start of text and its value; 0: none. */
size_t lt_trie_longest(const struct lt_trie *t, const char *text, size_t len, int32_t *value);
void lt_trie_deinit(struct lt_trie *t);

/* ---- patterns (tokenizer_pattern.c) ---- */
struct lt_pattern {
    pcre2_code *code; /* NULL: the literal text */
    char *text;       /* the literal, or the regex as the file has it */
    size_t len;
};

/* A cursor over the matches of one subject, as Oniguruma's find_iter walks it. */
struct lt_match_cursor {
    size_t next;
    size_t last_end; /* SIZE_MAX: no match yet */
};

/* Oniguruma's syntax is translated; a construct that PCRE2 reads otherwise is LT_ERR_UNSUPPORTED. */
enum lt_status lt_pattern_regex(struct lt_pattern *p, const char *regex, size_t len, const char *where,
                                struct lt_error *err) LT_MUST_USE;
enum lt_status lt_pattern_literal(struct lt_pattern *p, const char *text, size_t len) LT_MUST_USE;
void lt_pattern_deinit(struct lt_pattern *p);
/* Next match [*begin, *end) of subject; *found false when there is none.  data belongs to the caller. */
enum lt_status lt_pattern_next(const struct lt_pattern *p, pcre2_match_data *data, const char *subject,
                               size_t len, struct lt_match_cursor *cursor, size_t *begin, size_t *end,
                               bool *found, struct lt_error *err) LT_MUST_USE;

/* ---- steps ---- */
enum lt_step_kind {
    /* normalizers */
    LT_NORM_NFC,
    LT_NORM_NFD,
    LT_NORM_NFKC,
    LT_NORM_NFKD,
    LT_NORM_LOWERCASE,
    LT_NORM_STRIP_ACCENTS,
    LT_NORM_STRIP,
    LT_NORM_PREPEND,
    LT_NORM_REPLACE,
    LT_NORM_BYTE_LEVEL,
    LT_NORM_SPM,
    /* pre-tokenizers */
    LT_PRE_SPLIT,
    LT_PRE_BYTE_LEVEL,
    LT_PRE_METASPACE,
    LT_PRE_DIGITS,
    LT_PRE_PUNCTUATION,
    LT_PRE_WHITESPACE,
    LT_PRE_FIXED_LENGTH,
    /* decoders */
    LT_DEC_BYTE_LEVEL,
    LT_DEC_REPLACE,
    LT_DEC_BYTE_FALLBACK,
    LT_DEC_FUSE,
    LT_DEC_STRIP,
    LT_DEC_METASPACE,
    LT_DEC_BPE,
    LT_DEC_WORD_PIECE
};

enum lt_split_behavior {
    LT_SPLIT_REMOVED,
    LT_SPLIT_ISOLATED,
    LT_SPLIT_MERGED_WITH_PREVIOUS,
    LT_SPLIT_MERGED_WITH_NEXT,
    LT_SPLIT_CONTIGUOUS
};

enum lt_prepend_scheme { LT_PREPEND_ALWAYS, LT_PREPEND_FIRST, LT_PREPEND_NEVER };

struct lt_step {
    enum lt_step_kind kind;
    /* NORM_REPLACE, PRE_SPLIT, PRE_BYTE_LEVEL, DEC_REPLACE; the mark of PRE_METASPACE */
    struct lt_pattern pattern;
    /* What is prepended or put instead; Metaspace's mark; DEC_STRIP's character; DEC_BPE's suffix;
     * DEC_WORD_PIECE's prefix */
    char *text;
    size_t text_len;
    bool left, right;                /* NORM_STRIP */
    enum lt_split_behavior behavior; /* PRE_SPLIT, PRE_PUNCTUATION */
    bool invert;                     /* PRE_SPLIT */
    bool add_prefix_space;           /* PRE_BYTE_LEVEL */
    bool split;                      /* PRE_BYTE_LEVEL: by the pattern; PRE_METASPACE: at the marks */
    enum lt_prepend_scheme scheme;   /* PRE_METASPACE, DEC_METASPACE, NORM_SPM */
    bool individual;                 /* PRE_DIGITS */
    size_t start, stop;              /* DEC_STRIP: copies; PRE_FIXED_LENGTH: start characters */
    bool cleanup;                    /* DEC_WORD_PIECE */
    /* NORM_SPM: remove_extra_whitespaces, escape_whitespaces, treat_whitespace_as_suffix */
    bool collapse, escape, suffix;
};

struct lt_steps {
    struct lt_step *items;
    size_t count, cap;
};

/* Appends a zeroed step of this kind; NULL: out of memory. */
struct lt_step *lt_steps_add(struct lt_steps *steps, enum lt_step_kind kind) LT_MUST_USE;
void lt_steps_deinit(struct lt_steps *steps);

/* ---- BPE (tokenizer_bpe.c) ---- */
struct lt_pair_slot {
    uint64_t key; /* left id << 32 | right id; UINT64_MAX: empty */
    uint32_t rank;
    int32_t id;
};

enum { LT_CHAR_CACHE = 0x800 }; /* code points of at most two bytes */

struct lt_bpe {
    struct lt_pair_slot *pairs;
    size_t pair_mask, pair_count;
    char *unk_token; /* or NULL */
    int32_t unk_id;  /* -1: unk_token is not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;
    char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL: none */
    int32_t byte_ids[256]; /* <0xHH>, -1: none */
    int32_t char_ids[LT_CHAR_CACHE];
    struct lt_trie frozen; /* SentencePiece user-defined pieces: kept whole, never merged */
};

struct lt_symbol {
    int32_t id; /* ~id for a frozen piece */
    int32_t prev, next;
    bool live;
};

struct lt_merge {
    uint64_t order; /* rank << 32 | position */
    int32_t id;
};

struct lt_bpe_scratch {
    struct lt_symbol *symbols;
    size_t symbol_cap;
    struct lt_merge *heap;
    size_t heap_cap, heap_count;
    struct lt_strbuf piece;
};

enum lt_status lt_bpe_reserve_pairs(struct lt_bpe *bpe, size_t n) LT_MUST_USE;
/* A later entry of the same pair wins, as in the library. */
void lt_bpe_put_pair(struct lt_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* Fills byte_ids and char_ids once the vocabulary is complete. */
void lt_bpe_index(struct lt_bpe *bpe, const struct lt_vocab *vocab);
enum lt_status lt_bpe_encode(const struct lt_bpe *bpe, const struct lt_vocab *vocab, const char *word,
                             size_t len, struct lt_bpe_scratch *scratch, struct lt_ids *ids,
                             struct lt_error *err) LT_MUST_USE;
void lt_bpe_deinit(struct lt_bpe *bpe);
void lt_bpe_scratch_deinit(struct lt_bpe_scratch *scratch);

/* ---- added tokens (tokenizer_added.c) ---- */
struct lt_added_token {
    char *content;
    size_t len;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

struct lt_added {
    struct lt_added_token *items;
    size_t count, cap;
    struct lt_trie raw, normalized; /* values: indices into items */
};

struct lt_added_piece {
    size_t begin, end;
    int32_t id; /* -1: ordinary text */
};

struct lt_added_pieces {
    struct lt_added_piece *items;
    size_t count, cap;
};

/* Takes the token into the vocabulary and the list; its id when it has none yet (id < 0) is the next free
 * one.  Content that is already a token keeps that token's id. */
enum lt_status lt_added_put(struct lt_tokenizer *tok, const struct lt_added_token *token, int64_t id,
                            const char *where, struct lt_error *err) LT_MUST_USE;
/* Builds the tries; needs the normalizer. */
enum lt_status lt_added_index(struct lt_tokenizer *tok, struct lt_error *err) LT_MUST_USE;
/* Cuts text at the tokens of one trie. */
enum lt_status lt_added_split(const struct lt_added *added, const struct lt_trie *trie, const char *text,
                              size_t len, struct lt_added_pieces *pieces) LT_MUST_USE;
void lt_added_deinit(struct lt_added *added);

/* ---- text stages ---- */
struct lt_piece {
    size_t begin, end;
    bool first; /* starts at byte 0 of the original text */
};

struct lt_pieces {
    struct lt_strbuf text;
    struct lt_piece *items;
    size_t count, cap;
};

struct lt_match {
    size_t begin, end;
    bool hit;
};

/* What one encode call works in. */
struct lt_encoder {
    pcre2_match_data *match_data;
    struct lt_added_pieces raw_pieces, normalized_pieces;
    struct lt_strbuf normalized, spare;
    struct lt_pieces pieces, next;
    struct lt_match *matches;
    size_t match_count, match_cap;
    struct lt_bpe_scratch bpe;
};

/* enc->normalized = text through the steps.  *at_start is whether text begins the original, and after the
 * call whether the result still does (Strip may cut its head off). */
enum lt_status lt_normalize(const struct lt_steps *steps, struct lt_encoder *enc, const char *text,
                            size_t len, bool *at_start, struct lt_error *err) LT_MUST_USE;
/* enc->pieces = text through the steps. */
enum lt_status lt_pretokenize(const struct lt_steps *steps, struct lt_encoder *enc, const char *text,
                              size_t len, bool at_start, struct lt_error *err) LT_MUST_USE;
/* tokens: pieces over their text; the decoded text is appended to out. */
enum lt_status lt_decode_steps(const struct lt_steps *steps, struct lt_pieces *tokens, struct lt_strbuf *out,
                               struct lt_error *err) LT_MUST_USE;
bool lt_pieces_push(struct lt_pieces *p, size_t begin, size_t end, bool first) LT_MUST_USE;
void lt_pieces_clear(struct lt_pieces *p);
void lt_pieces_deinit(struct lt_pieces *p);

/* ---- Unicode helpers (tokenizer_unicode.c) ---- */
/* Code point at text, valid UTF-8, len > 0; *size is its bytes. */
int32_t lt_utf8_next(const char *text, size_t len, size_t *size);
size_t lt_utf8_last(const char *text, size_t len);               /* bytes of the last character, len > 0 */
bool lt_is_space(int32_t c);                                     /* Unicode White_Space */
bool lt_is_numeric(int32_t c);                                   /* categories Nd, Nl, No */
bool lt_is_punctuation(int32_t c);                               /* ASCII punctuation and categories P* */
bool lt_is_word(int32_t c);                                      /* \w of the regex crate */
void lt_put_byte_char(struct lt_strbuf *sb, unsigned char byte); /* GPT-2's visible character of a byte */
int lt_byte_of_char(int32_t c);                                  /* its inverse; -1: none */
/* Appends bytes, each maximal invalid part as U+FFFD (Unicode 3.9, as Rust and Python do). */
void lt_put_utf8_lossy(struct lt_strbuf *sb, const char *bytes, size_t len);

/* ---- the whole ---- */
struct lt_tokenizer {
    struct lt_vocab vocab;
    struct lt_added added;
    struct lt_steps normalizer, pre_tokenizer, decoder;
    bool has_decoder; /* without one, tokens are joined with spaces */
    struct lt_bpe bpe;
    struct lt_ids before, after; /* what the post-processor puts around the ids */
    int32_t bos, eos, unk, pad;
    bool clean_up_spaces;
    char *chat_template;
};

extern const char lt_gpt2_regex[], lt_qwen_regex[];

/* Each fills a zeroed tokenizer from one source. */
enum lt_status lt_tokenizer_parse_json(struct lt_tokenizer *tok, const char *path, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_tokenizer_parse_spm(struct lt_tokenizer *tok, const char *path, struct lt_error *err)
    LT_MUST_USE;
/* Post-processor object of tokenizer.json (tokenizer_postprocess.c). */
enum lt_status lt_parse_post_processor(struct lt_tokenizer *tok, const json_t *obj, const char *where,
                                       struct lt_error *err) LT_MUST_USE;
/* Normalizer, pre-tokenizer and decoder objects; NULL and JSON null are no steps. */
enum lt_status lt_parse_normalizer(struct lt_steps *steps, const json_t *obj, const char *where,
                                   struct lt_error *err) LT_MUST_USE;
enum lt_status lt_parse_pre_tokenizer(struct lt_steps *steps, const json_t *obj, const char *where,
                                      struct lt_error *err) LT_MUST_USE;
enum lt_status lt_parse_decoder(struct lt_steps *steps, const json_t *obj, const char *where,
                                struct lt_error *err) LT_MUST_USE;
/* One entry of added_tokens or added_tokens_decoder, borrowed from obj. */
enum lt_status lt_parse_added_token(struct lt_added_token *token, const json_t *obj, const char *where,
                                    struct lt_error *err) LT_MUST_USE;

/* tokenizer_config.json and its neighbours, whatever the source of the vocabulary (tokenizer_side.c). */
enum lt_source { LT_SOURCE_JSON, LT_SOURCE_SPM, LT_SOURCE_PAIR };
enum lt_status lt_tokenizer_read_side_files(struct lt_tokenizer *tok, const char *dir, enum lt_source source,
                                            struct lt_error *err) LT_MUST_USE;
/* vocab.json and merges.txt (tokenizer_pair.c). */
enum lt_status lt_tokenizer_parse_pair(struct lt_tokenizer *tok, const char *dir, struct lt_error *err)
    LT_MUST_USE;
/* One legacy merge "left right" with this rank. */
enum lt_status lt_tokenizer_put_merge(struct lt_tokenizer *tok, const char *left, size_t left_len,
                                      const char *right, size_t right_len, uint32_t rank,
                                      struct lt_strbuf *scratch, const char *where, struct lt_error *err)
    LT_MUST_USE;

/* Sentence for a failed allocation while handling this file. */
enum lt_status lt_tokenizer_nomem(const char *where, struct lt_error *err);

#endif
