/* Strict JSON through jansson, with located errors and checked field access.
 * Duplicate keys, trailing bytes, invalid UTF-8, NaN and nesting deeper than 2048 are refused.  Strings
 * may hold U+0000, keys may not (jansson).  An integer outside int64 becomes a real number, as
 * tokenizer_config.json files with "model_max_length": 1000000000000000019884624838656 need. */
#ifndef LT_IO_JSON_H
#define LT_IO_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/strbuf.h"

/* `where` names the text in errors ("config.json", "train.jsonl:17").  *out is owned (json_decref). */
enum lt_status lt_json_parse(json_t **out, const char *text, size_t size, const char *where,
                             struct lt_error *err) LT_MUST_USE;
enum lt_status lt_json_load(json_t **out, const char *path, struct lt_error *err)
    LT_MUST_USE; /* <= 256 MiB */

/* Field getters: absent or JSON null leaves *out untouched and succeeds (so does an obj that is itself
 * NULL or JSON null); another type is LT_ERR_FORMAT "<where>: <key> must be …, found …". */
enum lt_status lt_json_get_i64(const json_t *obj, const char *key, int64_t *out, const char *where,
                               struct lt_error *err) LT_MUST_USE;
enum lt_status lt_json_get_double(const json_t *obj, const char *key, double *out, const char *where,
                                  struct lt_error *err) LT_MUST_USE; /* integers too */
enum lt_status lt_json_get_bool(const json_t *obj, const char *key, bool *out, const char *where,
                                struct lt_error *err) LT_MUST_USE;
/* Borrowed from obj; a string with U+0000 inside is refused. */
enum lt_status lt_json_get_string(const json_t *obj, const char *key, const char **out, const char *where,
                                  struct lt_error *err) LT_MUST_USE;
const char *lt_json_type_name(const json_t *v); /* "a string", "null", "nothing" for NULL */

/* Serialises with sorted keys, `indent` spaces (0: one line, ", " and ": " as Python's json.dumps),
 * shortest-round-trip doubles, UTF-8 kept, trailing newline when indent > 0; atomic. */
enum lt_status lt_json_save(const json_t *v, const char *path, int indent, struct lt_error *err) LT_MUST_USE;
/* The same text in memory without a trailing newline (lt_free); keys in insertion order unless sort_keys.
 * NULL when memory is short. */
char *lt_json_dump(const json_t *v, int indent, bool sort_keys) LT_MUST_USE;
/* Appends one JSON string with its quotes; escapes as Python's json.dumps(ensure_ascii=False). */
void lt_json_put_string(struct lt_strbuf *sb, const char *text, size_t size);

/* A name from a file made fit for an error message: cut after some 100 bytes at a UTF-8 boundary,
 * control characters and broken UTF-8 as '?'. */
struct lt_json_excerpt {
    char text[112];
};
const char *lt_json_excerpt(struct lt_json_excerpt *e, const char *text); /* returns e->text */

#endif
