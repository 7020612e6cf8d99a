/* LlamaForCausalLM: LLaMA 1 to 3, TinyLlama, SmolLM2 and whatever else keeps to it. */
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "models/arch.h"
#include "models/rope.h"

/* Tensors of a layer; the number within the segment, or LT_NO_TENSOR. */
enum {
    T_INPUT_NORM,
    T_Q,
    T_Q_BIAS,
    T_K,
    T_K_BIAS,
    T_V,
    T_V_BIAS,
    T_O,
    T_O_BIAS,
    T_POST_NORM,
    T_GATE,
    T_GATE_BIAS,
    T_UP,
    T_UP_BIAS,
    T_DOWN,
    T_DOWN_BIAS,
    T_COUNT
};

/* Of the embedding and the head. */
enum { T_EMBED = 0, T_NORM = 0, T_HEAD = 1 };

struct llama_config {
    int32_t intermediate;
    float eps, dropout;
    enum lt_activation act;
    bool tied, attention_bias, mlp_bias;
    struct lt_rope rope;
    int layer_tensor[T_COUNT];
};

static const struct llama_config *config_of(const struct lt_build *b)
{
    return b->model->config;
}

/* ---- configuration ---- */

static const char *const known_keys[] = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    NULL,
};

static void rope_fill(const struct lt_model *m, int which, int64_t position, float *row)
{
    (void)which;
    const struct llama_config *c = m->config;
    lt_rope_row(&c->rope, m->table_positions, position, row);
}

static enum lt_status read_heads(struct lt_model *m, const struct lt_config *cfg, struct lt_error *err)
{
    LT_TRY(lt_config_count(cfg, "num_attention_heads", NULL, 0, LT_CONFIG_MAX_HEADS, &m->heads, err));
    LT_TRY(
        lt_config_count(cfg, "num_key_value_heads", NULL, m->heads, LT_CONFIG_MAX_HEADS, &m->kv_heads, err));
    if (m->heads % m->kv_heads != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", cfg->where,
                       (int)m->heads, (int)m->kv_heads);
    const json_t *head_dim = json_object_get(cfg->json, "head_dim");
    if ((!head_dim || json_is_null(head_dim)) && m->hidden % m->heads != 0)
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: hidden_size %d is not a multiple of num_attention_heads %d, and there is no head_dim",
            cfg->where, (int)m->hidden, (int)m->heads);
    /* heads * head_dim stays within the widest allowed matrix */
    return lt_config_count(cfg, "head_dim", NULL, m->hidden / m->heads > 0 ? m->hidden / m->heads : 1,
                           LT_CONFIG_MAX_WIDTH / m->heads, &m->head_dim, err);
}

static enum lt_status configure(struct lt_model *m, const struct lt_config *cfg, struct lt_error *err)
{
    struct llama_config *c = lt_alloc_zero(1, sizeof *c);
    if (!c)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory", cfg->where);
    m->config = c;
    LT_TRY(lt_config_check_keys(cfg, known_keys, err));
    LT_TRY(lt_config_count(cfg, "vocab_size", NULL, 0, LT_CONFIG_MAX_VOCAB, &m->vocab, err));
    LT_TRY(lt_config_count(cfg, "hidden_size", NULL, 0, LT_CONFIG_MAX_WIDTH, &m->hidden, err));
    LT_TRY(lt_config_count(cfg, "intermediate_size", NULL, 0, LT_CONFIG_MAX_WIDTH, &c->intermediate, err));
    LT_TRY(lt_config_count(cfg, "num_hidden_layers", NULL, 0, LT_CONFIG_MAX_LAYERS, &m->layers, err));
    LT_TRY(lt_config_count(cfg, "max_position_embeddings", NULL, 2048, LT_CONFIG_MAX_POSITIONS,
                           &m->max_positions, err));
    LT_TRY(read_heads(m, cfg, err));
    LT_TRY(lt_config_eps(cfg, "rms_norm_eps", 1e-6, &c->eps, err));
    LT_TRY(lt_config_dropout(cfg, "attention_dropout", 0, &c->dropout, err));
    LT_TRY(lt_config_activation(cfg, "hidden_act", "silu", &c->act, err));
    LT_TRY(lt_config_bool(cfg, "tie_word_embeddings", false, &c->tied, err));
    LT_TRY(lt_config_bool(cfg, "attention_bias", false, &c->attention_bias, err));
    LT_TRY(lt_config_bool(cfg, "mlp_bias", false, &c->mlp_bias, err));
    LT_TRY(lt_rope_init(&c->rope, cfg, 10000, m->head_dim, m->max_positions, err));
    m->max_positions = c->rope.max_positions;
    m->rope_tables = 1;
    m->rotary = c->rope.rotary;
    m->table_positions = m->max_positions;
    m->rope_fill = rope_fill;
    return LT_OK;
}

static void free_config(void *config)
{
    struct llama_config *c = config;
    if (c)
        lt_rope_deinit(&c->rope);
    lt_free(c);
}

/* ---- tensors ---- */

static enum lt_status add_layer(struct lt_tensor_list *list, int layer, struct lt_error *err)
{
    struct lt_model *m = &list->store->model;
    struct llama_config *c = m->config;
    int64_t d = m->hidden, q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    const struct {
        const char *name;
        enum lt_tensor_kind kind;
        int64_t rows, cols;
        bool present;
    } parts[T_COUNT] = {
        [T_INPUT_NORM] = {"input_layernorm.weight", LT_TENSOR_VECTOR, 1, d, true},
        [T_Q] = {"self_attn.q_proj.weight", LT_TENSOR_LINEAR, q, d, true},
        [T_Q_BIAS] = {"self_attn.q_proj.bias", LT_TENSOR_VECTOR, 1, q, c->attention_bias},
        [T_K] = {"self_attn.k_proj.weight", LT_TENSOR_LINEAR, kv, d, true},
        [T_K_BIAS] = {"self_attn.k_proj.bias", LT_TENSOR_VECTOR, 1, kv, c->attention_bias},
        [T_V] = {"self_attn.v_proj.weight", LT_TENSOR_LINEAR, kv, d, true},
        [T_V_BIAS] = {"self_attn.v_proj.bias", LT_TENSOR_VECTOR, 1, kv, c->attention_bias},
        [T_O] = {"self_attn.o_proj.weight", LT_TENSOR_LINEAR, d, q, true},
        [T_O_BIAS] = {"self_attn.o_proj.bias", LT_TENSOR_VECTOR, 1, d, c->attention_bias},
        [T_POST_NORM] = {"post_attention_layernorm.weight", LT_TENSOR_VECTOR, 1, d, true},
        [T_GATE] = {"mlp.gate_proj.weight", LT_TENSOR_LINEAR, c->intermediate, d, true},
        [T_GATE_BIAS] = {"mlp.gate_proj.bias", LT_TENSOR_VECTOR, 1, c->intermediate, c->mlp_bias},
        [T_UP] = {"mlp.up_proj.weight", LT_TENSOR_LINEAR, c->intermediate, d, true},
        [T_UP_BIAS] = {"mlp.up_proj.bias", LT_TENSOR_VECTOR, 1, c->intermediate, c->mlp_bias},
        [T_DOWN] = {"mlp.down_proj.weight", LT_TENSOR_LINEAR, d, c->intermediate, true},
        [T_DOWN_BIAS] = {"mlp.down_proj.bias", LT_TENSOR_VECTOR, 1, d, c->mlp_bias},
    };
    lt_tensor_list_begin_segment(list);
    for (int i = 0; i < T_COUNT; i++) {
        char name[96];
        c->layer_tensor[i] = LT_NO_TENSOR;
        if (!parts[i].present)
            continue;
        lt_snprintf(name, sizeof name, "model.layers.%d.%s", layer, parts[i].name);
        const struct lt_tensor_spec spec = {.kind = parts[i].kind,
                                            .rows = parts[i].rows,
                                            .cols = parts[i].cols,
                                            .is_norm = i == T_INPUT_NORM || i == T_POST_NORM};
        LT_TRY(lt_tensor_list_add(list, name, &spec, &c->layer_tensor[i], err));
    }
    return LT_OK;
}

static enum lt_status list_tensors(struct lt_tensor_list *list, struct lt_error *err)
{
    struct lt_model *m = &list->store->model;
    const struct llama_config *c = m->config;
    const struct lt_tensor_spec embed = {.kind = LT_TENSOR_EMBEDDING, .rows = m->vocab, .cols = m->hidden};
    const struct lt_tensor_spec norm = {
        .kind = LT_TENSOR_VECTOR, .rows = 1, .cols = m->hidden, .is_norm = true};
    const struct lt_tensor_spec head = {.kind = LT_TENSOR_LINEAR,
                                        .rows = m->vocab,
                                        .cols = m->hidden,
                                        .is_head = true,
                                        .tied = c->tied,
                                        .shared = 0};
    lt_tensor_list_begin_segment(list);
    LT_TRY(lt_tensor_list_add(list, "model.embed_tokens.weight", &embed, NULL, err));
    for (int i = 0; i < m->layers; i++)
        LT_TRY(add_layer(list, i, err));
    lt_tensor_list_begin_segment(list);
    LT_TRY(lt_tensor_list_add(list, "model.norm.weight", &norm, NULL, err));
    return lt_tensor_list_add(list, "lm_head.weight", &head, NULL, err);
}

/* Rotary frequencies that old files carry, and the copy of a tied head. */
static bool ignores(const char *name)
{
    return strstr(name, ".rotary_emb.") != NULL || strcmp(name, "lm_head.weight") == 0;
}

/* ---- graphs ---- */

static void build_embedding(struct lt_build *b)
{
    lt_build_hidden_out(b, lt_build_embed(b, LT_IN_IDS, T_EMBED, 1));
}

static int build_attention(struct lt_build *b, int x)
{
    const struct lt_model *m = b->model;
    const struct llama_config *c = config_of(b);
    const int *t = c->layer_tensor;
    const struct lt_attention_spec spec = {.heads = m->heads,
                                           .kv_heads = m->kv_heads,
                                           .head_dim = m->head_dim,
                                           .scale = 1.0f / sqrtf((float)m->head_dim),
                                           .dropout = c->dropout};
    int q = lt_build_linear(b, x, t[T_Q], t[T_Q_BIAS]);
    int k = lt_build_linear(b, x, t[T_K], t[T_K_BIAS]);
    int v = lt_build_linear(b, x, t[T_V], t[T_V_BIAS]);
    q = lt_build_rope(b, q, m->heads, m->head_dim, c->rope.rotary, 0);
    k = lt_build_rope(b, k, m->kv_heads, m->head_dim, c->rope.rotary, 0);
    return lt_build_linear(b, lt_build_attention(b, q, k, v, &spec), t[T_O], t[T_O_BIAS]);
}

static int build_mlp(struct lt_build *b, int x)
{
    const struct llama_config *c = config_of(b);
    const int *t = c->layer_tensor;
    int gate = lt_build_linear(b, x, t[T_GATE], t[T_GATE_BIAS]);
    int up = lt_build_linear(b, x, t[T_UP], t[T_UP_BIAS]);
    return lt_build_linear(b, lt_build_glu(b, gate, up, c->act), t[T_DOWN], t[T_DOWN_BIAS]);
}

static void build_layer(struct lt_build *b)
{
    const struct llama_config *c = config_of(b);
    int h = lt_build_hidden_in(b);
    int x = lt_build_rmsnorm(b, h, c->layer_tensor[T_INPUT_NORM], c->eps, false);
    h = lt_build_add(b, h, build_attention(b, x));
    x = lt_build_rmsnorm(b, h, c->layer_tensor[T_POST_NORM], c->eps, false);
    lt_build_hidden_out(b, lt_build_add(b, h, build_mlp(b, x)));
}

static void build_head(struct lt_build *b)
{
    int h = lt_build_label_rows(b, lt_build_hidden_in(b));
    lt_build_loss(b, lt_build_rmsnorm(b, h, T_NORM, config_of(b)->eps, false), T_HEAD, 0);
}

const struct lt_model_arch lt_model_arch_llama = {
    .graph = {"llama", build_embedding, build_layer, build_head},
    .architecture = "LlamaForCausalLM",
    .model_type = "llama",
    .bos_default = 1,
    .eos_default = 2,
    .configure = configure,
    .free_config = free_config,
    .list_tensors = list_tensors,
    .ignores = ignores,
};
