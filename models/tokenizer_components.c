/* The "type" objects of tokenizer.json: normalizer, pre_tokenizer, decoder. */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

struct lt_step *lt_steps_add(struct lt_steps *steps, enum lt_step_kind kind)
{
    void *items = steps->items;
    bool room = lt_reserve(&items, &steps->cap, steps->count, sizeof *steps->items);
    steps->items = items;
    if (!room)
        return NULL;
    struct lt_step *step = &steps->items[steps->count++];
    *step = (struct lt_step){.kind = kind};
    return step;
}

void lt_steps_deinit(struct lt_steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        lt_pattern_deinit(&steps->items[i].pattern);
        lt_free(steps->items[i].text);
    }
    lt_free(steps->items);
    *steps = (struct lt_steps){0};
}

struct parse {
    struct lt_steps *steps;
    const char *part;  /* "normalizer", … */
    const char *where; /* "<file>: normalizer" */
    struct lt_error *err;
};

static enum lt_status nomem(const struct parse *p)
{
    return lt_tokenizer_nomem(p->where, p->err);
}

static enum lt_status unsupported(const struct parse *p, const char *type)
{
    struct lt_json_excerpt shown;
    return lt_fail(p->err, LT_ERR_UNSUPPORTED, "%s: a component of type \"%s\" is not supported", p->where,
                   lt_json_excerpt(&shown, type));
}

static enum lt_status add(const struct parse *p, enum lt_step_kind kind, struct lt_step **step)
{
    *step = lt_steps_add(p->steps, kind);
    return *step ? LT_OK : nomem(p);
}

static enum lt_status add_plain(const struct parse *p, enum lt_step_kind kind)
{
    struct lt_step *step;
    return add(p, kind, &step);
}

/* A string that may be absent (fallback, which may be NULL: then it is required). */
static enum lt_status get_text(const struct parse *p, const json_t *obj, const char *key,
                               const char *fallback, const char **text)
{
    *text = fallback;
    LT_TRY(lt_json_get_string(obj, key, text, p->where, p->err));
    return *text ? LT_OK : lt_fail(p->err, LT_ERR_FORMAT, "%s: \"%s\" is missing", p->where, key);
}

static enum lt_status set_text(const struct parse *p, struct lt_step *step, const char *text)
{
    step->text = lt_strdup(text);
    step->text_len = strlen(text);
    return step->text ? LT_OK : nomem(p);
}

/* {"String": s} or {"Regex": r}; decoders of old files have a bare string. */
static enum lt_status set_pattern(const struct parse *p, struct lt_step *step, const json_t *obj)
{
    const json_t *pattern = json_object_get(obj, "pattern");
    const json_t *text = json_is_string(pattern) ? pattern : json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (json_is_string(regex))
        return lt_pattern_regex(&step->pattern, json_string_value(regex), json_string_length(regex), p->where,
                                p->err);
    if (!json_is_string(text))
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: \"pattern\" must be {\"String\": …} or {\"Regex\": …}",
                       p->where);
    if (json_string_length(text) == 0)
        return lt_fail(p->err, LT_ERR_UNSUPPORTED, "%s: an empty pattern is not supported", p->where);
    if (lt_pattern_literal(&step->pattern, json_string_value(text), json_string_length(text)) != LT_OK)
        return nomem(p);
    return LT_OK;
}

static enum lt_status set_regex(const struct parse *p, struct lt_step *step, const char *regex)
{
    return lt_pattern_regex(&step->pattern, regex, strlen(regex), p->where, p->err);
}

/* One character, as Metaspace's replacement and Strip's content are. */
static enum lt_status set_char(const struct parse *p, struct lt_step *step, const char *key, const char *text)
{
    size_t n = 0, len = strlen(text);
    if (len)
        (void)lt_utf8_next(text, len, &n);
    if (n == 0 || n != len)
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: \"%s\" must be one character", p->where, key);
    return set_text(p, step, text);
}

typedef enum lt_status parse_one(const struct parse *p, const char *type, const json_t *obj);

/* One component, or the members of a Sequence (list names their key). */
static enum lt_status parse_component(const struct parse *p, const json_t *obj, const char *list,
                                      parse_one *one)
{
    if (!obj || json_is_null(obj))
        return LT_OK;
    const char *type = NULL;
    if (!json_is_object(obj))
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: must be an object, found %s", p->where,
                       lt_json_type_name(obj));
    LT_TRY(get_text(p, obj, "type", NULL, &type));
    if (strcmp(type, "Sequence") != 0)
        return one(p, type, obj);
    const json_t *members = json_object_get(obj, list);
    if (!json_is_array(members))
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: a Sequence needs the list \"%s\"", p->where, list);
    for (size_t i = 0; i < json_array_size(members); i++)
        LT_TRY(parse_component(p, json_array_get(members, i), list, one));
    return LT_OK;
}

static enum lt_status parse_all(struct lt_steps *steps, const char *part, const json_t *obj, const char *list,
                                parse_one *one, const char *file, struct lt_error *err)
{
    struct lt_strbuf where = {0};
    lt_strbuf_printf(&where, "%s: %s", file, part);
    enum lt_status status = LT_OK;
    if (!lt_strbuf_ok(&where))
        status = lt_tokenizer_nomem(file, err);
    struct parse p = {steps, part, where.data, err};
    if (status == LT_OK)
        status = parse_component(&p, obj, list, one);
    lt_strbuf_deinit(&where);
    return status;
}

/* ---- normalizer ---- */

static enum lt_status parse_normalizer(const struct parse *p, const char *type, const json_t *obj)
{
    static const struct {
        const char *type;
        enum lt_step_kind kind;
    } plain[] = {
        {"NFC", LT_NORM_NFC},
        {"NFD", LT_NORM_NFD},
        {"NFKC", LT_NORM_NFKC},
        {"NFKD", LT_NORM_NFKD},
        {"Lowercase", LT_NORM_LOWERCASE},
        {"StripAccents", LT_NORM_STRIP_ACCENTS},
        {"ByteLevel", LT_NORM_BYTE_LEVEL},
    };
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(type, plain[i].type) == 0)
            return add_plain(p, plain[i].kind);
    }
    struct lt_step *step;
    const char *text;
    if (strcmp(type, "Strip") == 0) {
        LT_TRY(add(p, LT_NORM_STRIP, &step));
        step->left = step->right = true;
        LT_TRY(lt_json_get_bool(obj, "strip_left", &step->left, p->where, p->err));
        return lt_json_get_bool(obj, "strip_right", &step->right, p->where, p->err);
    }
    if (strcmp(type, "Prepend") == 0) {
        LT_TRY(get_text(p, obj, "prepend", NULL, &text));
        LT_TRY(add(p, LT_NORM_PREPEND, &step));
        return set_text(p, step, text);
    }
    if (strcmp(type, "Replace") == 0) {
        LT_TRY(get_text(p, obj, "content", NULL, &text));
        LT_TRY(add(p, LT_NORM_REPLACE, &step));
        LT_TRY(set_text(p, step, text));
        return set_pattern(p, step, obj);
    }
    if (strcmp(type, "Precompiled") == 0) {
        LT_TRY(get_text(p, obj, "precompiled_charsmap", "", &text));
        return *text ? lt_fail(p->err, LT_ERR_UNSUPPORTED, "%s: a Precompiled character map is not supported",
                               p->where)
                     : LT_OK;
    }
    return unsupported(p, type);
}

enum lt_status lt_parse_normalizer(struct lt_steps *steps, const json_t *obj, const char *where,
                                   struct lt_error *err)
{
    return parse_all(steps, "normalizer", obj, "normalizers", parse_normalizer, where, err);
}

/* ---- pre-tokenizer ---- */

static enum lt_status get_behavior(const struct parse *p, const json_t *obj, const char *fallback,
                                   enum lt_split_behavior *behavior)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *name;
    LT_TRY(get_text(p, obj, "behavior", fallback, &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *behavior = (enum lt_split_behavior)i;
            return LT_OK;
        }
    }
    struct lt_json_excerpt shown;
    return lt_fail(p->err, LT_ERR_FORMAT, "%s: unknown behavior \"%s\"", p->where,
                   lt_json_excerpt(&shown, name));
}

/* Metaspace of the pre-tokenizer and of the decoder; add_prefix_space and str_rep are the old spelling. */
static enum lt_status set_metaspace(const struct parse *p, struct lt_step *step, const json_t *obj)
{
    const char *mark, *scheme;
    bool prefix = true;
    LT_TRY(get_text(p, obj, "replacement", NULL, &mark));
    LT_TRY(get_text(p, obj, "prepend_scheme", "always", &scheme));
    LT_TRY(lt_json_get_bool(obj, "add_prefix_space", &prefix, p->where, p->err));
    step->split = true;
    LT_TRY(lt_json_get_bool(obj, "split", &step->split, p->where, p->err));
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0) {
        struct lt_json_excerpt shown;
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: unknown prepend_scheme \"%s\"", p->where,
                       lt_json_excerpt(&shown, scheme));
    }
    step->scheme = strcmp(scheme, "always") == 0  ? LT_PREPEND_ALWAYS
                   : strcmp(scheme, "first") == 0 ? LT_PREPEND_FIRST
                                                  : LT_PREPEND_NEVER;
    if (!prefix)
        step->scheme = LT_PREPEND_NEVER;
    LT_TRY(set_char(p, step, "replacement", mark));
    if (lt_pattern_literal(&step->pattern, step->text, step->text_len) != LT_OK)
        return nomem(p);
    return LT_OK;
}

static enum lt_status parse_byte_level(const struct parse *p, const json_t *obj)
{
    struct lt_step *step;
    LT_TRY(add(p, LT_PRE_BYTE_LEVEL, &step));
    step->add_prefix_space = step->split = true;
    LT_TRY(lt_json_get_bool(obj, "add_prefix_space", &step->add_prefix_space, p->where, p->err));
    LT_TRY(lt_json_get_bool(obj, "use_regex", &step->split, p->where, p->err));
    return step->split ? set_regex(p, step, lt_gpt2_regex) : LT_OK;
}

static enum lt_status parse_split(const struct parse *p, const json_t *obj)
{
    struct lt_step *step;
    LT_TRY(add(p, LT_PRE_SPLIT, &step));
    LT_TRY(get_behavior(p, obj, NULL, &step->behavior));
    LT_TRY(lt_json_get_bool(obj, "invert", &step->invert, p->where, p->err));
    return set_pattern(p, step, obj);
}

static enum lt_status parse_delimiter(const struct parse *p, const json_t *obj)
{
    struct lt_step *step;
    const char *text;
    LT_TRY(get_text(p, obj, "delimiter", NULL, &text));
    LT_TRY(add(p, LT_PRE_SPLIT, &step));
    step->behavior = LT_SPLIT_REMOVED;
    LT_TRY(set_char(p, step, "delimiter", text));
    return lt_pattern_literal(&step->pattern, text, strlen(text)) == LT_OK ? LT_OK : nomem(p);
}

/* \w of the regex crate also holds the join controls. */
static enum lt_status parse_words(const struct parse *p)
{
    static const char words[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]+|"
                                "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}\\s]+";
    struct lt_step *step;
    LT_TRY(add(p, LT_PRE_SPLIT, &step));
    step->behavior = LT_SPLIT_REMOVED;
    step->invert = true;
    return set_regex(p, step, words);
}

static enum lt_status parse_fixed_length(const struct parse *p, const json_t *obj)
{
    struct lt_step *step;
    int64_t length = 5;
    LT_TRY(lt_json_get_i64(obj, "length", &length, p->where, p->err));
    if (length < 1 || length > INT32_MAX)
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: length %lld is not a count of characters", p->where,
                       (long long)length);
    LT_TRY(add(p, LT_PRE_FIXED_LENGTH, &step));
    step->start = (size_t)length;
    return LT_OK;
}

static enum lt_status parse_pre_tokenizer(const struct parse *p, const char *type, const json_t *obj)
{
    struct lt_step *step;
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(p, obj);
    if (strcmp(type, "Split") == 0)
        return parse_split(p, obj);
    if (strcmp(type, "Metaspace") == 0) {
        LT_TRY(add(p, LT_PRE_METASPACE, &step));
        return set_metaspace(p, step, obj);
    }
    if (strcmp(type, "Digits") == 0) {
        LT_TRY(add(p, LT_PRE_DIGITS, &step));
        return lt_json_get_bool(obj, "individual_digits", &step->individual, p->where, p->err);
    }
    if (strcmp(type, "Punctuation") == 0) {
        LT_TRY(add(p, LT_PRE_PUNCTUATION, &step));
        return get_behavior(p, obj, "Isolated", &step->behavior);
    }
    if (strcmp(type, "Whitespace") == 0)
        return parse_words(p);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_plain(p, LT_PRE_WHITESPACE);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        LT_TRY(add_plain(p, LT_PRE_WHITESPACE));
        LT_TRY(add(p, LT_PRE_PUNCTUATION, &step));
        step->behavior = LT_SPLIT_ISOLATED;
        return LT_OK;
    }
    if (strcmp(type, "CharDelimiterSplit") == 0)
        return parse_delimiter(p, obj);
    if (strcmp(type, "FixedLength") == 0)
        return parse_fixed_length(p, obj);
    return unsupported(p, type);
}

enum lt_status lt_parse_pre_tokenizer(struct lt_steps *steps, const json_t *obj, const char *where,
                                      struct lt_error *err)
{
    return parse_all(steps, "pre_tokenizer", obj, "pretokenizers", parse_pre_tokenizer, where, err);
}

/* ---- decoder ---- */

static enum lt_status parse_strip(const struct parse *p, const json_t *obj)
{
    struct lt_step *step;
    const char *text;
    int64_t start = 0, stop = 0;
    LT_TRY(get_text(p, obj, "content", NULL, &text));
    LT_TRY(lt_json_get_i64(obj, "start", &start, p->where, p->err));
    LT_TRY(lt_json_get_i64(obj, "stop", &stop, p->where, p->err));
    if (start < 0 || stop < 0)
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: Strip counts must not be negative", p->where);
    LT_TRY(add(p, LT_DEC_STRIP, &step));
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return set_char(p, step, "content", text);
}

static enum lt_status parse_decoder(const struct parse *p, const char *type, const json_t *obj)
{
    struct lt_step *step;
    const char *text;
    if (strcmp(type, "ByteLevel") == 0)
        return add_plain(p, LT_DEC_BYTE_LEVEL);
    if (strcmp(type, "ByteFallback") == 0)
        return add_plain(p, LT_DEC_BYTE_FALLBACK);
    if (strcmp(type, "Fuse") == 0)
        return add_plain(p, LT_DEC_FUSE);
    if (strcmp(type, "Strip") == 0)
        return parse_strip(p, obj);
    if (strcmp(type, "Metaspace") == 0) {
        LT_TRY(add(p, LT_DEC_METASPACE, &step));
        return set_metaspace(p, step, obj);
    }
    if (strcmp(type, "Replace") == 0) {
        LT_TRY(get_text(p, obj, "content", NULL, &text));
        LT_TRY(add(p, LT_DEC_REPLACE, &step));
        LT_TRY(set_text(p, step, text));
        return set_pattern(p, step, obj);
    }
    if (strcmp(type, "BPEDecoder") == 0) {
        LT_TRY(get_text(p, obj, "suffix", "</w>", &text));
        LT_TRY(add(p, LT_DEC_BPE, &step));
        return set_text(p, step, text);
    }
    if (strcmp(type, "WordPiece") == 0) {
        LT_TRY(get_text(p, obj, "prefix", "##", &text));
        LT_TRY(add(p, LT_DEC_WORD_PIECE, &step));
        step->cleanup = true;
        LT_TRY(lt_json_get_bool(obj, "cleanup", &step->cleanup, p->where, p->err));
        return set_text(p, step, text);
    }
    return unsupported(p, type);
}

enum lt_status lt_parse_decoder(struct lt_steps *steps, const json_t *obj, const char *where,
                                struct lt_error *err)
{
    return parse_all(steps, "decoder", obj, "decoders", parse_decoder, where, err);
}
