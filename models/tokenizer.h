/* Text to token ids and back, as Hugging Face tokenizers and SentencePiece do it.
 *
 * Sources: tokenizer.json (BPE: byte-level and SentencePiece-style with byte fallback) preferred, else
 * tokenizer.model (SentencePiece BPE).  A Unigram model or any component whose effect is not
 * implemented is LT_ERR_UNSUPPORTED naming it; nothing is ignored silently.
 * A tokenizer is immutable after loading and may be used from several threads. */
#ifndef LT_MODELS_TOKENIZER_H
#define LT_MODELS_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/strbuf.h"

struct lt_tokenizer;

/* A growable id list. */
struct lt_ids {
    int32_t *data;
    size_t count, cap;
};
void lt_ids_deinit(struct lt_ids *ids);
bool lt_ids_push(struct lt_ids *ids, int32_t id) LT_MUST_USE; /* false: out of memory */

/* Reads tokenizer.json or tokenizer.model, and tokenizer_config.json / special_tokens_map.json /
 * generation_config.json / config.json for bos, eos, unk, pad, clean_up_tokenization_spaces and the
 * chat template.  The stored pipeline of tokenizer.json decides the ids. */
enum lt_status lt_tokenizer_load(struct lt_tokenizer **tok, const char *dir, struct lt_error *err)
    LT_MUST_USE;
/* One file alone, without the side files. */
enum lt_status lt_tokenizer_load_json(struct lt_tokenizer **tok, const char *path, struct lt_error *err)
    LT_MUST_USE;
enum lt_status lt_tokenizer_load_spm(struct lt_tokenizer **tok, const char *path, struct lt_error *err)
    LT_MUST_USE;
void lt_tokenizer_destroy(struct lt_tokenizer *tok);

int32_t lt_tokenizer_vocab_size(const struct lt_tokenizer *tok); /* highest id + 1 */
/* -1 when there is none. */
int32_t lt_tokenizer_bos(const struct lt_tokenizer *tok);
int32_t lt_tokenizer_eos(const struct lt_tokenizer *tok);
int32_t lt_tokenizer_unk(const struct lt_tokenizer *tok);
int32_t lt_tokenizer_pad(const struct lt_tokenizer *tok); /* falls back to eos */
int32_t lt_tokenizer_token_to_id(const struct lt_tokenizer *tok, const char *token, size_t len);
/* The token's own spelling ("▁the", "<0x0A>"); NULL for an unused id.  Borrowed. */
const char *lt_tokenizer_id_to_token(const struct lt_tokenizer *tok, int32_t id);
bool lt_tokenizer_is_special(const struct lt_tokenizer *tok, int32_t id);

/* Appends the ids of text (valid UTF-8; else LT_ERR_FORMAT with the byte offset).
 * add_special runs the post-processor (BOS/EOS as the file says). */
enum lt_status lt_tokenizer_encode(const struct lt_tokenizer *tok, const char *text, size_t len,
                                   bool add_special, struct lt_ids *ids, struct lt_error *err) LT_MUST_USE;
/* Appends the text of ids; unknown ids are skipped.  Invalid UTF-8 bytes become U+FFFD. */
enum lt_status lt_tokenizer_decode(const struct lt_tokenizer *tok, const int32_t *ids, size_t n,
                                   bool skip_special, struct lt_strbuf *text, struct lt_error *err)
    LT_MUST_USE;

/* The raw chat template text, or NULL. */
const char *lt_tokenizer_chat_template(const struct lt_tokenizer *tok);
const char *lt_tokenizer_bos_token(const struct lt_tokenizer *tok); /* spelling, or NULL */
const char *lt_tokenizer_eos_token(const struct lt_tokenizer *tok);

#endif
