/* adapter_config.json: reading and writing. */
#include "core/train/lora_config.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/system.h"
#include "core/io/json.h"

static const char CONFIG_NAME[] = "adapter_config.json";

/* A file being read: the object, its path for errors, where to. */
struct source {
    json_t *json;
    const char *path;
    struct lt_lora_config *config;
    struct lt_error *err;
};

static enum lt_status no_memory(const struct source *s)
{
    return lt_fail(s->err, LT_ERR_NOMEM, "%s: out of memory while reading it", s->path);
}

static enum lt_status wrong(const struct source *s, const char *key, const char *needed, const json_t *found)
{
    return lt_fail(s->err, LT_ERR_FORMAT, "%s: %s must be %s, found %s", s->path, key, needed,
                   lt_json_type_name(found));
}

/* ---- keys ---- */

/* What sets one of these has other maths, other tensors or another base model. */
static const char *const unsupported_keys[] = {
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "layer_replication",
    "target_parameters",
};

static const char *const read_keys[] = {
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "fan_in_fan_out",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
    "layers_pattern",
    "layers_to_transform",
    "base_model_name_or_path",
};

/* Descriptions, and settings of what the lists above refuse or of what this program does not have. */
static const char *const ignored_keys[] = {
    "task_type",      "revision",       "inference_mode",    "auto_mapping",        "peft_version",
    "runtime_config", "megatron_core",  "loftq_config",      "megatron_config",     "eva_config",
    "corda_config",   "lora_ga_config", "qalora_group_size", "ensure_weight_tying",
};

static bool is_among(const char *key, const char *const *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

#define IS_AMONG(key, keys) is_among(key, keys, sizeof(keys) / sizeof *(keys))

/* Python's truth. */
static bool is_set(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_NULL:
    case JSON_FALSE:
        return false;
    case JSON_TRUE:
        return true;
    case JSON_INTEGER:
        return json_integer_value(v) != 0;
    case JSON_REAL:
        return json_real_value(v) != 0;
    case JSON_STRING:
        return json_string_length(v) > 0;
    case JSON_ARRAY:
        return json_array_size(v) > 0;
    case JSON_OBJECT:
        return json_object_size(v) > 0;
    }
    return true;
}

static enum lt_status check_keys(const struct source *s)
{
    const char *key;
    json_t *value;
    json_object_foreach(s->json, key, value)
    {
        if (IS_AMONG(key, unsupported_keys)) {
            if (is_set(value))
                return lt_fail(s->err, LT_ERR_UNSUPPORTED,
                               "%s: %s is set; adapters of that kind are not supported by this program",
                               s->path, key);
        } else if (!IS_AMONG(key, read_keys) && !IS_AMONG(key, ignored_keys)) {
            struct lt_json_excerpt shown;
            lt_log(LT_LOG_WARNING, "%s: the unknown key %s is ignored", s->path,
                   lt_json_excerpt(&shown, key));
        }
    }
    return LT_OK;
}

/* ---- values ---- */

static enum lt_status copy_string(const struct source *s, const char *key, char **out)
{
    const char *text = NULL;
    LT_TRY(lt_json_get_string(s->json, key, &text, s->path, s->err));
    if (!text)
        return LT_OK;
    *out = lt_strdup(text);
    return *out ? LT_OK : no_memory(s);
}

static enum lt_status read_list(const struct source *s, const char *key, struct lt_string_list *list)
{
    const json_t *v = json_object_get(s->json, key);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);
        if (!json_is_string(item) || strlen(json_string_value(item)) != json_string_length(item))
            return wrong(s, key, "a list of strings", item);
        LT_TRY(lt_string_list_add(list, json_string_value(item), s->err));
    }
    return LT_OK;
}

/* null, a list of names, or a string. */
static enum lt_status read_names(const struct source *s, const char *key, struct lt_string_list *list,
                                 char **text)
{
    const json_t *v = json_object_get(s->json, key);
    if (!v || json_is_null(v))
        return LT_OK;
    if (json_is_array(v))
        return read_list(s, key, list);
    if (!json_is_string(v))
        return wrong(s, key, "a list of strings or a string", v);
    return copy_string(s, key, text);
}

static enum lt_status read_layers(const struct source *s)
{
    static const char key[] = "layers_to_transform";
    struct lt_lora_config *c = s->config;
    const json_t *v = json_object_get(s->json, key);
    if (!v || json_is_null(v))
        return LT_OK;
    if (!json_is_array(v) && !json_is_integer(v))
        return wrong(s, key, "an integer or a list of integers", v);
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    c->layers_to_transform = lt_alloc_array(count, sizeof *c->layers_to_transform);
    if (!c->layers_to_transform)
        return no_memory(s);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(item))
            return wrong(s, key, "an integer or a list of integers", item);
        c->layers_to_transform[i] = json_integer_value(item);
    }
    c->layers_to_transform_count = count;
    return LT_OK;
}

static enum lt_status read_layers_pattern(const struct source *s)
{
    struct lt_lora_config *c = s->config;
    char *single = NULL;
    LT_TRY(read_names(s, "layers_pattern", &c->layers_pattern, &single));
    enum lt_status status = single && *single ? lt_string_list_add(&c->layers_pattern, single, s->err)
                                              : LT_OK;
    lt_free(single);
    return status;
}

static enum lt_status read_map(const struct source *s, const char *key, struct lt_pattern_map *map,
                               bool ranks)
{
    json_t *v = json_object_get(s->json, key), *item;
    const char *pattern;
    if (!v || json_is_null(v))
        return LT_OK;
    if (!json_is_object(v))
        return wrong(s, key, "an object", v);
    json_object_foreach(v, pattern, item)
    {
        if (ranks ? !json_is_integer(item) : !json_is_number(item))
            return wrong(s, key, ranks ? "an object of integers" : "an object of numbers", item);
        LT_TRY(lt_pattern_map_add(map, pattern, json_number_value(item), s->err));
    }
    return LT_OK;
}

static enum lt_status read_bias(const struct source *s)
{
    const char *text = "none";
    LT_TRY(lt_json_get_string(s->json, "bias", &text, s->path, s->err));
    if (strcmp(text, "none") == 0)
        s->config->bias = LT_LORA_BIAS_NONE;
    else if (strcmp(text, "all") == 0)
        s->config->bias = LT_LORA_BIAS_ALL;
    else if (strcmp(text, "lora_only") == 0)
        s->config->bias = LT_LORA_BIAS_LORA_ONLY;
    else
        return lt_fail(s->err, LT_ERR_FORMAT, "%s: bias must be none, all or lora_only, found \"%.60s\"",
                       s->path, text);
    return LT_OK;
}

static bool equals_ignoring_case(const char *text, const char *lower_word)
{
    for (; *text && *lower_word; text++, lower_word++)
        if ((*text >= 'A' && *text <= 'Z' ? *text - 'A' + 'a' : *text) != *lower_word)
            return false;
    return *text == *lower_word;
}

static enum lt_status read_init(const struct source *s)
{
    static const char key[] = "init_lora_weights";
    const json_t *v = json_object_get(s->json, key);
    const char *text = "true";
    if (json_is_false(v)) {
        text = "false";
    } else if (json_is_string(v)) {
        text = json_string_value(v);
        if (equals_ignoring_case(text, "gaussian"))
            text = "gaussian";
        else if (strcmp(text, "eva") == 0 || strcmp(text, "orthogonal") == 0)
            text = "true";
        else
            return lt_fail(
                s->err, LT_ERR_UNSUPPORTED,
                "%s: init_lora_weights is \"%.60s\", which changes the base model or is unknown; convert "
                "the adapter to a plain LoRA with PEFT (path_initial_model_for_weight_conversion)",
                s->path, text);
    } else if (v && !json_is_true(v) && !json_is_null(v)) {
        return wrong(s, key, "true, false or a string", v);
    }
    s->config->init_lora_weights = lt_strdup(text);
    return s->config->init_lora_weights ? LT_OK : no_memory(s);
}

static enum lt_status read_scalars(const struct source *s)
{
    struct lt_lora_config *c = s->config;
    int64_t r = c->r;
    LT_TRY(lt_json_get_i64(s->json, "r", &r, s->path, s->err));
    if (r < 1 || r > LT_LORA_MAX_RANK)
        return lt_fail(s->err, LT_ERR_INVALID, "%s: r is %lld; it must lie between 1 and %d", s->path,
                       (long long)r, LT_LORA_MAX_RANK);
    c->r = (int32_t)r;
    LT_TRY(lt_json_get_double(s->json, "lora_alpha", &c->alpha, s->path, s->err));
    LT_TRY(lt_json_get_double(s->json, "lora_dropout", &c->dropout, s->path, s->err));
    LT_TRY(lt_json_get_bool(s->json, "use_rslora", &c->use_rslora, s->path, s->err));
    LT_TRY(lt_json_get_bool(s->json, "fan_in_fan_out", &c->fan_in_fan_out, s->path, s->err));
    return copy_string(s, "base_model_name_or_path", &c->base_model_name_or_path);
}

static enum lt_status read_config(const struct source *s)
{
    struct lt_lora_config *c = s->config;
    const char *type = NULL;
    if (!json_is_object(s->json))
        return lt_fail(s->err, LT_ERR_FORMAT, "%s: must be a JSON object, found %s", s->path,
                       lt_json_type_name(s->json));
    LT_TRY(lt_json_get_string(s->json, "peft_type", &type, s->path, s->err));
    if (!type)
        return lt_fail(s->err, LT_ERR_FORMAT, "%s: there is no peft_type; this is no PEFT adapter", s->path);
    if (strcmp(type, "LORA") != 0)
        return lt_fail(s->err, LT_ERR_UNSUPPORTED, "%s: peft_type is \"%.60s\"; only LORA is supported",
                       s->path, type);
    LT_TRY(check_keys(s));
    LT_TRY(read_scalars(s));
    LT_TRY(read_names(s, "target_modules", &c->target_modules, &c->target_regex));
    LT_TRY(read_names(s, "exclude_modules", &c->exclude_modules, &c->exclude_regex));
    LT_TRY(read_layers(s));
    LT_TRY(read_layers_pattern(s));
    LT_TRY(read_map(s, "rank_pattern", &c->rank_pattern, true));
    LT_TRY(read_map(s, "alpha_pattern", &c->alpha_pattern, false));
    LT_TRY(read_bias(s));
    LT_TRY(read_init(s));
    enum lt_status status = lt_lora_config_check(c, s->err);
    return status == LT_OK ? LT_OK : lt_fail_prefix(s->err, status, "%s", s->path);
}

enum lt_status lt_lora_config_load(struct lt_lora_config *c, const char *dir, struct lt_error *err)
{
    enum lt_status status;
    json_t *json = NULL;
    char *path = lt_path_join(dir, CONFIG_NAME);

    lt_lora_config_deinit(c);
    if (!path)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while reading %s", CONFIG_NAME);
    status = lt_json_load(&json, path, err);
    if (status == LT_OK)
        status = read_config(&(struct source){.json = json, .path = path, .config = c, .err = err});
    if (status != LT_OK)
        lt_lora_config_deinit(c);
    json_decref(json);
    lt_free(path);
    return status;
}

/* ---- writing ----
 * Every helper hands its new value over and tells whether memory sufficed; a failed constructor (NULL) makes
 * json_object_set_new fail. */

static json_t *number(double v)
{
    return v == floor(v) && fabs(v) < 9007199254740992.0 ? json_integer((json_int_t)v) : json_real(v);
}

/* A path that is not UTF-8 cannot be written in JSON; as a hint for people it may be missing. */
static json_t *text_or_null(const char *s)
{
    return s && lt_utf8_valid(s, strlen(s), NULL) ? json_string(s) : json_null();
}

static json_t *list(const struct lt_string_list *l)
{
    json_t *a = json_array();
    for (size_t i = 0; a && i < l->count; i++)
        if (json_array_append_new(a, json_string(l->items[i])) != 0) {
            json_decref(a);
            a = NULL;
        }
    return a;
}

static json_t *list_or_null(const struct lt_string_list *l)
{
    return l->count > 0 ? list(l) : json_null();
}

static json_t *layers_or_null(const struct lt_lora_config *c)
{
    json_t *a = c->layers_to_transform_count > 0 ? json_array() : json_null();
    for (size_t i = 0; a && i < c->layers_to_transform_count; i++)
        if (json_array_append_new(a, json_integer(c->layers_to_transform[i])) != 0) {
            json_decref(a);
            a = NULL;
        }
    return a;
}

/* lt_json_save sorts keys.  PEFT sorts them too, so the order of patterns, which decides, is lost there as well. */
static json_t *map(const struct lt_pattern_map *m)
{
    json_t *o = json_object();
    for (size_t i = 0; o && i < m->count; i++)
        if (json_object_set_new(o, m->patterns[i], number(m->values[i])) != 0) {
            json_decref(o);
            o = NULL;
        }
    return o;
}

static json_t *init_value(const struct lt_lora_config *c)
{
    const char *init = c->init_lora_weights ? c->init_lora_weights : "true";
    if (strcmp(init, "true") == 0)
        return json_true();
    return strcmp(init, "false") == 0 ? json_false() : json_string(init);
}

static bool put(json_t *o, const char *key, json_t *value)
{
    return json_object_set_new(o, key, value) == 0;
}

static bool put_all(json_t *o, const struct lt_lora_config *c)
{
    static const char *const bias[] = {"none", "all", "lora_only"};
    bool ok = put(o, "peft_type", json_string("LORA")) && put(o, "task_type", json_string("CAUSAL_LM")) &&
              put(o, "inference_mode", json_true()) && put(o, "auto_mapping", json_null()) &&
              put(o, "revision", json_null()) && put(o, "modules_to_save", json_null()) &&
              put(o, "base_model_name_or_path", text_or_null(c->base_model_name_or_path)) &&
              put(o, "r", json_integer(c->r)) && put(o, "lora_alpha", number(c->alpha)) &&
              put(o, "lora_dropout", json_real(c->dropout)) && put(o, "bias", json_string(bias[c->bias])) &&
              put(o, "fan_in_fan_out", json_boolean(c->fan_in_fan_out)) &&
              put(o, "init_lora_weights", init_value(c)) &&
              put(o, "target_modules",
                  c->target_regex ? json_string(c->target_regex) : list_or_null(&c->target_modules)) &&
              put(o, "layers_to_transform", layers_or_null(c)) &&
              put(o, "layers_pattern", list_or_null(&c->layers_pattern)) &&
              put(o, "rank_pattern", map(&c->rank_pattern)) &&
              put(o, "alpha_pattern", map(&c->alpha_pattern));
    /* Later than PEFT 0.6. */
    if (ok && c->use_rslora)
        ok = put(o, "use_rslora", json_true());
    if (ok && c->exclude_regex && *c->exclude_regex)
        ok = put(o, "exclude_modules", json_string(c->exclude_regex));
    else if (ok && c->exclude_modules.count > 0)
        ok = put(o, "exclude_modules", list(&c->exclude_modules));
    return ok;
}

enum lt_status lt_lora_config_save(const struct lt_lora_config *c, const char *dir, struct lt_error *err)
{
    enum lt_status status;
    char *path = lt_path_join(dir, CONFIG_NAME);
    json_t *json = json_object();

    if (path && json && put_all(json, c))
        status = lt_json_save(json, path, 2, err);
    else
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while writing %s", CONFIG_NAME);
    json_decref(json);
    lt_free(path);
    return status;
}
