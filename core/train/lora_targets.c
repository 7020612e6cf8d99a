/* Which modules a LoRA configuration adapts, with which rank and scaling. */
#include "core/train/lora_config.h"

#include <math.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "core/io/json.h"
#include "core/train/lora_internal.h"

/* Backtracking that module names need is small; a pattern that exceeds this is broken or hostile. */
enum { MATCH_LIMIT = 1000000, HEAP_LIMIT_KIB = 65536, MAX_PATTERN = 100000 };

/* ---- Python's regular expressions on PCRE2 ---- */

struct regex {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *context;
};

static void *regex_alloc(PCRE2_SIZE size, void *user)
{
    (void)user;
    return lt_alloc(size);
}

static void regex_free(void *p, void *user)
{
    (void)user;
    lt_free(p);
}

static void regex_deinit(struct regex *re)
{
    pcre2_match_data_free(re->data);
    pcre2_match_context_free(re->context);
    pcre2_code_free(re->code);
    *re = (struct regex){0};
}

/* Behind '{': true for ",n}", which Python reads as {0,n} and PCRE2 as text. */
static bool is_open_interval(const char *s)
{
    if (*s != ',')
        return false;
    const char *digits = ++s;
    while (*s >= '0' && *s <= '9')
        s++;
    return s > digits && *s == '}';
}

/* Appends the pattern with what PCRE2 would read differently rewritten: \Z (there: also before a final
 * newline) and {,n}.  Inside a class nothing is touched.  False for "(*", which in Python repeats nothing and
 * in PCRE2 commands the matcher. */
static bool put_translated(struct lt_strbuf *sb, const char *p)
{
    bool in_class = false;
    for (; *p; p++) {
        if (*p == '\\' && p[1]) {
            lt_strbuf_putc(sb, '\\');
            p++;
            lt_strbuf_putc(sb, *p == 'Z' ? 'z' : *p);
            continue;
        }
        if (!in_class && *p == '(' && p[1] == '*')
            return false;
        lt_strbuf_putc(sb, *p);
        if (!in_class && *p == '{' && is_open_interval(p + 1))
            lt_strbuf_putc(sb, '0');
        if (in_class) {
            in_class = *p != ']';
        } else if (*p == '[') {
            in_class = true;
            if (p[1] == '^')
                lt_strbuf_putc(sb, *++p);
            if (p[1] == ']') /* the first character: itself */
                lt_strbuf_putc(sb, *++p);
        }
    }
    return true;
}

static enum lt_status wrong_pattern(const char *field, const char *pattern, const char *why,
                                    struct lt_error *err)
{
    struct lt_json_excerpt shown;
    return lt_fail(err, LT_ERR_INVALID, "%s: the regular expression \"%s\" is not usable: %s", field,
                   lt_json_excerpt(&shown, pattern), why);
}

/* Compiles before + pattern + after.  full: the whole text must match; else Python's re.match (at the start). */
static enum lt_status regex_init(struct regex *re, const char *before, const char *pattern, const char *after,
                                 bool full, const char *field, struct lt_error *err)
{
    enum lt_status status = LT_ERR_NOMEM;
    struct lt_strbuf text;
    pcre2_general_context *general = NULL;
    pcre2_compile_context *context = NULL;

    *re = (struct regex){0};
    lt_strbuf_init(&text);
    if (strlen(pattern) > MAX_PATTERN)
        return wrong_pattern(field, pattern, "it is longer than 100000 bytes", err);
    lt_strbuf_puts(&text, before);
    if (!put_translated(&text, pattern)) {
        status = wrong_pattern(field, pattern, "there is nothing to repeat in \"(*\"", err);
        goto done;
    }
    lt_strbuf_puts(&text, after);
    general = pcre2_general_context_create(regex_alloc, regex_free, NULL);
    context = general ? pcre2_compile_context_create(general) : NULL;
    if (!context || !lt_strbuf_ok(&text))
        goto done;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE at;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C |
                       (full ? (uint32_t)PCRE2_ENDANCHORED : 0);
    re->code = pcre2_compile((PCRE2_SPTR)lt_strbuf_str(&text), text.len, options, &code, &at, context);
    if (!re->code) {
        PCRE2_UCHAR message[256] = "";
        if (code != PCRE2_ERROR_HEAP_FAILED) {
            pcre2_get_error_message(code, message, sizeof message);
            status = wrong_pattern(field, pattern, (const char *)message, err);
        }
        goto done;
    }
    re->data = pcre2_match_data_create_from_pattern(re->code, general);
    re->context = pcre2_match_context_create(general);
    if (!re->data || !re->context)
        goto done;
    pcre2_set_match_limit(re->context, MATCH_LIMIT);
    pcre2_set_heap_limit(re->context, HEAP_LIMIT_KIB);
    status = LT_OK;
done:
    if (status != LT_OK)
        regex_deinit(re);
    if (status == LT_ERR_NOMEM)
        lt_fail(err, status, "out of memory while preparing the regular expression of %s", field);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    lt_strbuf_deinit(&text);
    return status;
}

static enum lt_status regex_match(struct regex *re, const char *pattern, const char *text, const char *field,
                                  bool *matches, struct lt_error *err)
{
    int rc = pcre2_match(re->code, (PCRE2_SPTR)text, strlen(text), 0, 0, re->data, re->context);
    if (rc == PCRE2_ERROR_NOMEMORY)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while matching the regular expression of %s", field);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR message[256] = "";
        pcre2_get_error_message(rc, message, sizeof message);
        return wrong_pattern(field, pattern, (const char *)message, err);
    }
    *matches = rc > 0;
    return LT_OK;
}

static enum lt_status matches_once(const char *before, const char *pattern, const char *after, bool full,
                                   const char *text, const char *field, bool *matches, struct lt_error *err)
{
    struct regex re;
    LT_TRY(regex_init(&re, before, pattern, after, full, field, err));
    enum lt_status status = regex_match(&re, pattern, text, field, matches, err);
    regex_deinit(&re);
    return status;
}

enum lt_status lt_lora_pattern_matches(const char *pattern, const char *module, const char *field,
                                       bool *matches, struct lt_error *err)
{
    return matches_once("(.*\\.)?(", pattern, ")$", false, module, field, matches, err);
}

/* ---- rules ---- */

bool lt_lora_item_matches(const char *item, const char *module)
{
    size_t n = strlen(item), m = strlen(module);
    if (n > m || memcmp(module + m - n, item, n) != 0)
        return false;
    return n == m || module[m - n - 1] == '.';
}

static bool list_has(const struct lt_string_list *l, const char *module, bool *exact)
{
    bool found = false;
    for (size_t i = 0; i < l->count; i++) {
        found = found || lt_lora_item_matches(l->items[i], module);
        *exact = *exact || strcmp(l->items[i], module) == 0;
    }
    return found;
}

static enum lt_status is_excluded(const struct lt_lora_config *c, const char *module, bool *excluded,
                                  struct lt_error *err)
{
    bool exact = false;
    if (c->exclude_regex && *c->exclude_regex)
        return matches_once("", c->exclude_regex, "", true, module, "exclude_modules", excluded, err);
    *excluded = list_has(&c->exclude_modules, module, &exact);
    return LT_OK;
}

/* The layer number that the group "idx" caught; -1 when there is none. */
static int64_t caught_index(const struct regex *re)
{
    PCRE2_UCHAR digits[24];
    PCRE2_SIZE size = sizeof digits;
    long long index;
    if (pcre2_substring_copy_byname(re->data, (PCRE2_SPTR) "idx", digits, &size) != 0)
        return -1;
    return lt_parse_i64((const char *)digits, &index) ? index : -1;
}

/* One way to find the layer number.  *decided: this pattern matched, and no later one is asked. */
static enum lt_status layer_index(const char *before, const char *pattern, const char *after,
                                  const char *module, int64_t *index, bool *decided, struct lt_error *err)
{
    struct regex re;
    LT_TRY(regex_init(&re, before, pattern, after, false, "layers_pattern", err));
    enum lt_status status = regex_match(&re, pattern, module, "layers_pattern", decided, err);
    if (status == LT_OK && *decided)
        *index = caught_index(&re);
    regex_deinit(&re);
    return status;
}

/* The first number behind a component, as lazily as PEFT looks for it. */
static enum lt_status layer_is_wanted(const struct lt_lora_config *c, const char *module, bool *wanted,
                                      struct lt_error *err)
{
    int64_t index = -1;
    bool decided = false;
    if (c->layers_pattern.count == 0)
        LT_TRY(layer_index("", ".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", "", module, &index, &decided, err));
    for (size_t i = 0; i < c->layers_pattern.count && !decided; i++)
        LT_TRY(layer_index("(?:^|.*?\\.)", c->layers_pattern.items[i], "\\.(?P<idx>\\d+)\\.", module, &index,
                           &decided, err));
    *wanted = false;
    for (size_t i = 0; i < c->layers_to_transform_count && index >= 0; i++)
        *wanted = *wanted || c->layers_to_transform[i] == index;
    return LT_OK;
}

enum lt_status lt_lora_config_matches(const struct lt_lora_config *c, const char *module, bool *matches,
                                      struct lt_error *err)
{
    bool excluded = false, exact = false, found;

    *matches = false;
    LT_TRY(is_excluded(c, module, &excluded, err));
    if (excluded)
        return LT_OK;
    if (c->target_regex && !lt_lora_config_all_linear(c))
        return matches_once("", c->target_regex, "", true, module, "target_modules", matches, err);
    found = c->target_regex || list_has(&c->target_modules, module, &exact);
    /* A module that the list names in full is adapted whatever its layer. */
    if (found && !exact && c->layers_to_transform_count > 0)
        return layer_is_wanted(c, module, matches, err);
    *matches = found;
    return LT_OK;
}

/* The value of the first pattern that matches, else the fallback. */
static enum lt_status pattern_value(const struct lt_pattern_map *m, const char *module, const char *field,
                                    double fallback, double *value, struct lt_error *err)
{
    *value = fallback;
    for (size_t i = 0; i < m->count; i++) {
        bool matches;
        LT_TRY(lt_lora_pattern_matches(m->patterns[i], module, field, &matches, err));
        if (matches) {
            *value = m->values[i];
            break;
        }
    }
    return LT_OK;
}

enum lt_status lt_lora_config_rank(const struct lt_lora_config *c, const char *module, int32_t *rank,
                                   double *scaling, struct lt_error *err)
{
    double r, alpha;
    LT_TRY(pattern_value(&c->rank_pattern, module, "rank_pattern", c->r, &r, err));
    LT_TRY(pattern_value(&c->alpha_pattern, module, "alpha_pattern", c->alpha, &alpha, err));
    if (!(r >= 1 && r <= LT_LORA_MAX_RANK))
        return lt_fail(err, LT_ERR_INVALID, "the LoRA rank of %s is %g; it must lie between 1 and %d", module,
                       r, LT_LORA_MAX_RANK);
    *rank = (int32_t)r;
    *scaling = alpha / (c->use_rslora ? sqrt(r) : r);
    return LT_OK;
}
