#include "models/config_common.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/system.h"

/* ---- fields ---- */

static bool has_value(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v);
}

enum lt_status lt_config_count(const struct lt_config *cfg, const char *key, const char *alias,
                               int32_t fallback, int32_t max, int32_t *out, struct lt_error *err)
{
    if (alias && !has_value(cfg->json, key))
        key = has_value(cfg->json, alias) ? alias : key;
    if (fallback == 0 && !has_value(cfg->json, key))
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s is missing", cfg->where, key);
    int64_t n = fallback;
    LT_TRY(lt_json_get_i64(cfg->json, key, &n, cfg->where, err));
    if (n < 1 || n > max)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s is %lld; it must lie between 1 and %d", cfg->where, key,
                       (long long)n, (int)max);
    *out = (int32_t)n;
    return LT_OK;
}

enum lt_status lt_config_number(const struct lt_config *cfg, const char *key, double fallback, double lo,
                                double hi, double *out, struct lt_error *err)
{
    double v = fallback;
    LT_TRY(lt_json_get_double(cfg->json, key, &v, cfg->where, err));
    if (!(v >= lo && v <= hi))
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s is %g; it must lie between %g and %g", cfg->where, key, v,
                       lo, hi);
    *out = v;
    return LT_OK;
}

enum lt_status lt_config_dropout(const struct lt_config *cfg, const char *key, double fallback, float *out,
                                 struct lt_error *err)
{
    double p = fallback;
    LT_TRY(lt_config_number(cfg, key, fallback, 0, 0.999, &p, err));
    *out = (float)p;
    return LT_OK;
}

enum lt_status lt_config_eps(const struct lt_config *cfg, const char *key, double fallback, float *out,
                             struct lt_error *err)
{
    double eps = fallback;
    LT_TRY(lt_config_number(cfg, key, fallback, 1e-30, 1, &eps, err));
    *out = (float)eps;
    return LT_OK;
}

enum lt_status lt_config_bool(const struct lt_config *cfg, const char *key, bool fallback, bool *out,
                              struct lt_error *err)
{
    *out = fallback;
    return lt_json_get_bool(cfg->json, key, out, cfg->where, err);
}

enum lt_status lt_config_activation(const struct lt_config *cfg, const char *key, const char *fallback,
                                    enum lt_activation *out, struct lt_error *err)
{
    static const struct {
        const char *name;
        enum lt_activation act;
    } names[] = {{"silu", LT_ACT_SILU},
                 {"swish", LT_ACT_SILU},
                 {"gelu", LT_ACT_GELU},
                 {"gelu_new", LT_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", LT_ACT_GELU_TANH},
                 {"relu", LT_ACT_RELU}};
    const char *name = fallback;
    LT_TRY(lt_json_get_string(cfg->json, key, &name, cfg->where, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].act;
            return LT_OK;
        }
    struct lt_json_excerpt shown;
    return lt_fail(err, LT_ERR_UNSUPPORTED,
                   "%s: %s is \"%s\"; supported are silu, gelu, gelu_new, gelu_pytorch_tanh and relu",
                   cfg->where, key, lt_json_excerpt(&shown, name));
}

enum lt_status lt_config_ids(const struct lt_config *cfg, const char *key, int32_t vocab, int32_t *ids,
                             int32_t max, int32_t *count, bool *present, struct lt_error *err)
{
    const json_t *v = json_object_get(cfg->json, key);
    *count = 0;
    *present = v && !json_is_null(v);
    if (!*present)
        return LT_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(item))
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be a token id or a list of them, found %s",
                           cfg->where, key, lt_json_type_name(item));
        json_int_t id = json_integer_value(item);
        if (id >= 0 && id < vocab && *count < max)
            ids[(*count)++] = (int32_t)id;
    }
    return LT_OK;
}

/* ---- keys ---- */

/* Keys without influence on the numbers of training and decoding. */
static const char *const harmless_keys[] = {
    "architectures",
    "model_type",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "initializer_range",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "pretraining_tp",
    "quantization_config",
    "auto_map",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "_flash_attn_2_enabled",
    "use_flash_attn",
    "use_bfloat16",
    "gradient_checkpointing",
    "return_dict",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "torchscript",
    "is_decoder",
    "is_llama_config",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    "max_sequence_length",
    /* token ids */
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "tokenizer_class",
    "prefix",
    /* decoding defaults that 4.x kept here */
    "max_length",
    "min_length",
    "max_new_tokens",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    /* other heads */
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "tf_legacy_loss",
    "use_return_dict",
    /* computed in f32 here anyway */
    "reorder_and_upcast_attn",
};

/* Keys that change the maths of some model, with the number that does not (null, false, "" and empty are neutral
 * as well); NaN: no number is neutral. */
static const struct {
    const char *key;
    double neutral;
} changing_keys[] = {
    {"is_encoder_decoder", (double)NAN},
    {"add_cross_attention", (double)NAN},
    {"cross_attention_hidden_size", (double)NAN},
    {"pruned_heads", (double)NAN},
    {"rope_interleaved", (double)NAN},
    {"attn_logit_softcapping", (double)NAN},
    {"final_logit_softcapping", (double)NAN},
    {"query_pre_attn_scalar", (double)NAN},
    {"qk_layernorm", (double)NAN},
    {"use_qk_norm", (double)NAN},
    {"clip_qkv", (double)NAN},
    {"alibi", (double)NAN},
    {"parallel_residual", (double)NAN},
    {"use_parallel_residual", (double)NAN},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"attention_multiplier", (double)NAN},
    {"logits_scaling", 1},
    {"logit_scale", 1},
    {"scale_emb", 1},
    {"scale_depth", (double)NAN},
    {"dim_model_base", (double)NAN},
    {"num_experts", 1},
    {"num_local_experts", 1},
    {"n_routed_experts", (double)NAN},
    {"no_rope_layers", (double)NAN},
    {"attn_temperature_tuning", (double)NAN},
    {"attention_sinks", (double)NAN},
    {"text_config", (double)NAN},
    {"vision_config", (double)NAN},
    {"use_mrope", (double)NAN},
    {"neftune_noise_alpha", (double)NAN},
    {"layernorm_embedding", (double)NAN},
    {"is_causal", 1},
    {"rope_local_base_freq", (double)NAN},
};

static bool in_list(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, list[i]) == 0)
            return true;
    return false;
}

static bool is_neutral(const json_t *v, double neutral)
{
    if (json_is_null(v) || json_is_false(v))
        return true;
    if (json_is_true(v))
        return neutral == 1;
    if (json_is_number(v))
        return json_number_value(v) == neutral;
    if (json_is_string(v))
        return json_string_length(v) == 0;
    return json_is_array(v) ? json_array_size(v) == 0 : json_object_size(v) == 0;
}

static enum lt_status refuse_key(const struct lt_config *cfg, const char *key, const json_t *v,
                                 struct lt_error *err)
{
    struct lt_json_excerpt shown;
    char *text = lt_json_dump(v, 0, false);
    if (!text)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading %s", cfg->where, key);
    enum lt_status status = lt_fail(err, LT_ERR_UNSUPPORTED,
                                    "%s: %s is %s, which changes the model and is not supported", cfg->where,
                                    key, lt_json_excerpt(&shown, text));
    lt_free(text);
    return status;
}

/* LLaMA files converted from other families carry these; they matter only when they are active. */
static enum lt_status check_window(const struct lt_config *cfg, struct lt_error *err)
{
    const json_t *window = json_object_get(cfg->json, "sliding_window");
    const json_t *use = json_object_get(cfg->json, "use_sliding_window");
    if (!is_neutral(window, (double)NAN) && !json_is_false(use))
        return refuse_key(cfg, "sliding_window", window, err);
    const json_t *types = json_object_get(cfg->json, "layer_types");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || strcmp(type, "full_attention") != 0)
            return refuse_key(cfg, "layer_types", types, err);
    }
    return LT_OK;
}

enum lt_status lt_config_check_keys(const struct lt_config *cfg, const char *const *known,
                                    struct lt_error *err)
{
    static const char *const window_keys[] = {"sliding_window", "use_sliding_window", "max_window_layers",
                                              "sliding_window_pattern", "layer_types"};
    size_t known_count = 0;
    while (known[known_count])
        known_count++;
    for (size_t i = 0; i < sizeof changing_keys / sizeof *changing_keys; i++) {
        const char *key = changing_keys[i].key;
        const json_t *v = json_object_get(cfg->json, key);
        if (v && !in_list(key, known, known_count) && !is_neutral(v, changing_keys[i].neutral))
            return refuse_key(cfg, key, v, err);
    }
    if (!in_list("sliding_window", known, known_count))
        LT_TRY(check_window(cfg, err));
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)cfg->json, key, v)
    {
        bool listed = in_list(key, known, known_count) ||
                      in_list(key, harmless_keys, sizeof harmless_keys / sizeof *harmless_keys) ||
                      in_list(key, window_keys, sizeof window_keys / sizeof *window_keys);
        for (size_t i = 0; !listed && i < sizeof changing_keys / sizeof *changing_keys; i++)
            listed = strcmp(key, changing_keys[i].key) == 0;
        struct lt_json_excerpt shown;
        if (!listed && !json_is_null(v) && !json_is_false(v))
            lt_log(LT_LOG_WARNING, "%s: the key \"%s\" is not known and has no effect here", cfg->where,
                   lt_json_excerpt(&shown, key));
    }
    return LT_OK;
}

enum lt_status lt_config_check_quantization(const struct lt_config *cfg, struct lt_error *err)
{
    const json_t *q = json_object_get(cfg->json, "quantization_config");
    if (!q || json_is_null(q))
        return LT_OK;
    if (!json_is_object(q))
        return lt_fail(err, LT_ERR_FORMAT, "%s: quantization_config must be an object, found %s", cfg->where,
                       lt_json_type_name(q));
    const char *method = "bitsandbytes";
    bool four = false, eight = false;
    LT_TRY(lt_json_get_string(q, "quant_method", &method, cfg->where, err));
    LT_TRY(lt_json_get_bool(q, "load_in_4bit", &four, cfg->where, err));
    LT_TRY(lt_json_get_bool(q, "load_in_8bit", &eight, cfg->where, err));
    struct lt_json_excerpt shown;
    if (strcmp(method, "bitsandbytes") != 0)
        return lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "%s: the checkpoint is quantized with \"%s\"; give the unquantized checkpoint (it can be "
            "quantized to NF4 while loading) or a bitsandbytes one",
            cfg->where, lt_json_excerpt(&shown, method));
    if (eight == four)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: quantization_config of bitsandbytes must say either load_in_4bit or load_in_8bit",
                       cfg->where);
    return LT_OK;
}
