/* adapter_config.json of PEFT for LoRA: reading, writing, and which modules it adapts. */
#ifndef LT_TRAIN_LORA_CONFIG_H
#define LT_TRAIN_LORA_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

enum lt_lora_bias { LT_LORA_BIAS_NONE, LT_LORA_BIAS_ALL, LT_LORA_BIAS_LORA_ONLY };

enum { LT_LORA_MAX_RANK = 32768 };

struct lt_string_list {
    char **items;
    size_t count;
};

/* A pattern → number map (rank_pattern, alpha_pattern), in file order. */
struct lt_pattern_map {
    char **patterns;
    double *values;
    size_t count;
};

struct lt_lora_config {
    int32_t r;
    double alpha, dropout;
    struct lt_string_list target_modules; /* a list, or … */
    char *target_regex; /* … one regular expression for full matches ("all-linear" is kept as such) */
    struct lt_string_list exclude_modules;
    char *exclude_regex;
    int64_t *layers_to_transform;
    size_t layers_to_transform_count;
    struct lt_string_list layers_pattern;
    struct lt_pattern_map rank_pattern, alpha_pattern;
    enum lt_lora_bias bias;
    bool use_rslora;
    bool fan_in_fan_out;
    char *init_lora_weights; /* "true" (NULL means that too), "false", "gaussian" */
    char *base_model_name_or_path;
};

/* PEFT's defaults: r 8, alpha 8, no targets; callers set their own. */
void lt_lora_config_init(struct lt_lora_config *c);
void lt_lora_config_deinit(struct lt_lora_config *c);
enum lt_status lt_string_list_add(struct lt_string_list *l, const char *s, struct lt_error *err) LT_MUST_USE;
/* The value must be a rank >= 1 for rank_pattern, any finite number for alpha_pattern (checked by
 * lt_lora_config_check). */
enum lt_status lt_pattern_map_add(struct lt_pattern_map *m, const char *pattern, double value,
                                  struct lt_error *err) LT_MUST_USE;
/* "a,b,c" → a list; the single word all-linear (any case) or a text with characters that only a regular
 * expression has (one of \^$*+?()[]{}|) → target_regex.  Replaces the targets there were. */
enum lt_status lt_lora_config_set_targets(struct lt_lora_config *c, const char *text, struct lt_error *err)
    LT_MUST_USE;
bool lt_lora_config_all_linear(const struct lt_lora_config *c);

/* LT_ERR_INVALID for values PEFT refuses: rank below 1 (or above LT_LORA_MAX_RANK), dropout outside [0, 1),
 * non-finite alpha, layers_pattern without layers_to_transform, either with a regular expression as target. */
enum lt_status lt_lora_config_check(const struct lt_lora_config *c, struct lt_error *err) LT_MUST_USE;

/* Reads dir/adapter_config.json into a config that was init()ed; on failure it is empty again.  Fields that change
 * the maths and are not supported (use_dora, lora_bias, modules_to_save, alora_invocation_tokens, …), when set, are
 * LT_ERR_UNSUPPORTED naming them; unknown keys are logged as warnings; other peft_type is LT_ERR_UNSUPPORTED.
 * Initialisations that leave the base model alone (eva, orthogonal) become "true": a saved adapter holds its own
 * values.  Those that rewrite it (pissa, olora, corda, loftq, …) are LT_ERR_UNSUPPORTED. */
enum lt_status lt_lora_config_load(struct lt_lora_config *c, const char *dir, struct lt_error *err)
    LT_MUST_USE;
/* Writes dir/adapter_config.json (dir exists) so that PEFT since 0.6 reads it: keys that came later are left out
 * unless they say something. */
enum lt_status lt_lora_config_save(const struct lt_lora_config *c, const char *dir, struct lt_error *err)
    LT_MUST_USE;

/* Rules of PEFT (check_target_module_exists, get_pattern_key) for one module name
 * ("model.layers.0.self_attn.q_proj").  Regular expressions run on PCRE2 in UTF mode; a broken one, or one that
 * backtracks without end, is LT_ERR_INVALID.  "all-linear" matches every name: whether the module is linear is the
 * caller's knowledge. */
enum lt_status lt_lora_config_matches(const struct lt_lora_config *c, const char *module, bool *matches,
                                      struct lt_error *err) LT_MUST_USE;
enum lt_status lt_lora_config_rank(const struct lt_lora_config *c, const char *module, int32_t *rank,
                                   double *scaling, struct lt_error *err) LT_MUST_USE;

#endif
