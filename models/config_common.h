/* Reading config.json: checked fields in both spellings of transformers (4.x and 5.x), and the keys that this
 * program does not know.
 *
 * Every reader leaves LT_ERR_FORMAT for a wrong type, LT_ERR_INVALID for a number that no model has and
 * LT_ERR_UNSUPPORTED for a choice that is not implemented; the message names the key and its value. */
#ifndef LT_MODELS_CONFIG_COMMON_H
#define LT_MODELS_CONFIG_COMMON_H

#include "core/backend/op_attr.h"
#include "core/io/json.h"

struct lt_config {
    const json_t *json;
    const char *where; /* "config.json" */
};

/* Numbers beyond these belong to no model and would make products overflow. */
enum {
    LT_CONFIG_MAX_LAYERS = 4096,
    LT_CONFIG_MAX_HEADS = 1000, /* attention uses one random stream a head, of 1024 a layer */
    LT_CONFIG_MAX_WIDTH = 1 << 20,
    LT_CONFIG_MAX_VOCAB = 1 << 24,
    LT_CONFIG_MAX_POSITIONS = 1 << 30
};

/* An integer of 1 … max under `key` or, when absent, `alias` (or NULL); fallback 0: the key is required. */
enum lt_status lt_config_count(const struct lt_config *cfg, const char *key, const char *alias,
                               int32_t fallback, int32_t max, int32_t *out, struct lt_error *err) LT_MUST_USE;
/* A finite number in [lo, hi]. */
enum lt_status lt_config_number(const struct lt_config *cfg, const char *key, double fallback, double lo,
                                double hi, double *out, struct lt_error *err) LT_MUST_USE;
/* A probability in [0, 1). */
enum lt_status lt_config_dropout(const struct lt_config *cfg, const char *key, double fallback, float *out,
                                 struct lt_error *err) LT_MUST_USE;
/* The epsilon of a norm, positive. */
enum lt_status lt_config_eps(const struct lt_config *cfg, const char *key, double fallback, float *out,
                             struct lt_error *err) LT_MUST_USE;
enum lt_status lt_config_bool(const struct lt_config *cfg, const char *key, bool fallback, bool *out,
                              struct lt_error *err) LT_MUST_USE;
enum lt_status lt_config_activation(const struct lt_config *cfg, const char *key, const char *fallback,
                                    enum lt_activation *out, struct lt_error *err) LT_MUST_USE;

/* Goes over all keys.  `known` (NULL-terminated) are those that the architecture reads; keys that change the
 * maths of some model are accepted with their neutral value only; keys without influence are passed over; what
 * is left is logged as a warning when it is not null or false. */
enum lt_status lt_config_check_keys(const struct lt_config *cfg, const char *const *known,
                                    struct lt_error *err) LT_MUST_USE;

/* quantization_config: absent or bitsandbytes 4-bit or 8-bit; anything else is LT_ERR_UNSUPPORTED with what to do. */
enum lt_status lt_config_check_quantization(const struct lt_config *cfg, struct lt_error *err) LT_MUST_USE;

/* A token id or a list of them under key: those in [0, vocab), at most max.  *present: the key has a value. */
enum lt_status lt_config_ids(const struct lt_config *cfg, const char *key, int32_t vocab, int32_t *ids,
                             int32_t max, int32_t *count, bool *present, struct lt_error *err) LT_MUST_USE;

#endif
