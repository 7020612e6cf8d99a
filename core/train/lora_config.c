/* The LoRA configuration in memory. */
#include "core/train/lora_config.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"

/* ---- life ---- */

void lt_lora_config_init(struct lt_lora_config *c)
{
    *c = (struct lt_lora_config){.r = 8, .alpha = 8};
}

static void list_deinit(struct lt_string_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        lt_free(l->items[i]);
    lt_free(l->items);
    *l = (struct lt_string_list){0};
}

static void map_deinit(struct lt_pattern_map *m)
{
    for (size_t i = 0; i < m->count; i++)
        lt_free(m->patterns[i]);
    lt_free(m->patterns);
    lt_free(m->values);
    *m = (struct lt_pattern_map){0};
}

void lt_lora_config_deinit(struct lt_lora_config *c)
{
    list_deinit(&c->target_modules);
    list_deinit(&c->exclude_modules);
    list_deinit(&c->layers_pattern);
    map_deinit(&c->rank_pattern);
    map_deinit(&c->alpha_pattern);
    lt_free(c->target_regex);
    lt_free(c->exclude_regex);
    lt_free(c->layers_to_transform);
    lt_free(c->init_lora_weights);
    lt_free(c->base_model_name_or_path);
    lt_lora_config_init(c);
}

/* ---- lists and maps ---- */

static enum lt_status no_memory(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory for the LoRA configuration");
}

static enum lt_status list_add(struct lt_string_list *l, const char *s, size_t n, struct lt_error *err)
{
    char *copy = lt_strndup(s, n);
    char **items = copy ? lt_realloc_array(l->items, l->count + 1, sizeof *items) : NULL;
    if (!items) {
        lt_free(copy);
        return no_memory(err);
    }
    l->items = items;
    l->items[l->count++] = copy;
    return LT_OK;
}

enum lt_status lt_string_list_add(struct lt_string_list *l, const char *s, struct lt_error *err)
{
    return list_add(l, s, strlen(s), err);
}

enum lt_status lt_pattern_map_add(struct lt_pattern_map *m, const char *pattern, double value,
                                  struct lt_error *err)
{
    char *copy = lt_strdup(pattern);
    char **patterns = copy ? lt_realloc_array(m->patterns, m->count + 1, sizeof *patterns) : NULL;
    if (patterns)
        m->patterns = patterns;
    double *values = patterns ? lt_realloc_array(m->values, m->count + 1, sizeof *values) : NULL;
    if (!values) {
        lt_free(copy);
        return no_memory(err);
    }
    m->values = values;
    m->patterns[m->count] = copy;
    m->values[m->count++] = value;
    return LT_OK;
}

/* ---- targets ---- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool lt_lora_config_all_linear(const struct lt_lora_config *c)
{
    static const char word[] = "all-linear";
    if (!c->target_regex || strlen(c->target_regex) != sizeof word - 1)
        return false;
    for (size_t i = 0; word[i]; i++)
        if (lower(c->target_regex[i]) != word[i])
            return false;
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static enum lt_status add_comma_separated(struct lt_string_list *l, const char *text, struct lt_error *err)
{
    for (const char *at = text;;) {
        size_t n = strcspn(at, ","), first = 0, end = n;
        while (first < end && is_blank(at[first]))
            first++;
        while (end > first && is_blank(at[end - 1]))
            end--;
        if (first == end)
            return lt_fail(
                err, LT_ERR_INVALID,
                "the target modules \"%.200s\" have an empty name; separate names by single commas, as "
                "in q_proj,v_proj",
                text);
        LT_TRY(list_add(l, at + first, end - first, err));
        if (!at[n])
            return LT_OK;
        at += n + 1;
    }
}

enum lt_status lt_lora_config_set_targets(struct lt_lora_config *c, const char *text, struct lt_error *err)
{
    list_deinit(&c->target_modules);
    lt_free(c->target_regex);
    c->target_regex = lt_strdup(text);
    if (!c->target_regex)
        return no_memory(err);
    if (lt_lora_config_all_linear(c) || strpbrk(text, "\\^$*+?()[]{}|"))
        return LT_OK;
    lt_free(c->target_regex);
    c->target_regex = NULL;
    return add_comma_separated(&c->target_modules, text, err);
}

/* ---- sense ---- */

static bool is_rank(double r)
{
    return r >= 1 && r <= LT_LORA_MAX_RANK && r == floor(r);
}

static enum lt_status check_numbers(const struct lt_lora_config *c, struct lt_error *err)
{
    if (!is_rank(c->r))
        return lt_fail(err, LT_ERR_INVALID, "the LoRA rank r is %d; it must lie between 1 and %d", (int)c->r,
                       LT_LORA_MAX_RANK);
    for (size_t i = 0; i < c->rank_pattern.count; i++)
        if (!is_rank(c->rank_pattern.values[i]))
            return lt_fail(
                err, LT_ERR_INVALID,
                "rank_pattern gives \"%.200s\" the rank %g; it must be a whole number between 1 and %d",
                c->rank_pattern.patterns[i], c->rank_pattern.values[i], LT_LORA_MAX_RANK);
    if (!isfinite(c->alpha))
        return lt_fail(err, LT_ERR_INVALID, "lora_alpha is not a finite number");
    for (size_t i = 0; i < c->alpha_pattern.count; i++)
        if (!isfinite(c->alpha_pattern.values[i]))
            return lt_fail(err, LT_ERR_INVALID, "alpha_pattern gives \"%.200s\" a number that is not finite",
                           c->alpha_pattern.patterns[i]);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return lt_fail(err, LT_ERR_INVALID, "lora_dropout is %g; it must be at least 0 and below 1",
                       c->dropout);
    return LT_OK;
}

enum lt_status lt_lora_config_check(const struct lt_lora_config *c, struct lt_error *err)
{
    LT_TRY(check_numbers(c, err));
    if (c->layers_pattern.count > 0 && c->layers_to_transform_count == 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "layers_pattern is given without layers_to_transform; say which layers to adapt");
    if (c->target_regex && !lt_lora_config_all_linear(c) && c->layers_to_transform_count > 0)
        return lt_fail(
            err, LT_ERR_INVALID,
            "layers_to_transform does not go with a regular expression as target_modules; put the layer "
            "numbers into the expression, or give a list of names");
    return LT_OK;
}
