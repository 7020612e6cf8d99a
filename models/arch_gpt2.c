/* GPT2LMHeadModel.  Its linear layers are Conv1D: stored [in, out]. */
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "models/arch.h"

/* Tensors of a layer, by number within the segment. */
enum {
    T_LN1,
    T_LN1_BIAS,
    T_ATTN,
    T_ATTN_BIAS,
    T_ATTN_PROJ,
    T_ATTN_PROJ_BIAS,
    T_LN2,
    T_LN2_BIAS,
    T_FC,
    T_FC_BIAS,
    T_PROJ,
    T_PROJ_BIAS,
    T_COUNT
};

/* Of the embedding and the head. */
enum { T_WTE = 0, T_WPE = 1, T_LNF = 0, T_LNF_BIAS = 1, T_HEAD = 2 };

struct gpt2_config {
    int32_t inner;
    float eps, embd_dropout, attn_dropout, resid_dropout;
    enum lt_activation act;
    bool tied, scale, scale_by_layer;
};

static const struct gpt2_config *config_of(const struct lt_build *b)
{
    return b->model->config;
}

/* ---- configuration ---- */

/* transformers reads its general names as well. */
static const char *const known_keys[] = {
    "vocab_size",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
    "n_inner",
    "n_ctx",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "activation_function",
    "layer_norm_epsilon",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
    NULL,
};

static enum lt_status read_sizes(struct lt_model *m, struct gpt2_config *c, const struct lt_config *cfg,
                                 struct lt_error *err)
{
    LT_TRY(lt_config_count(cfg, "vocab_size", NULL, 0, LT_CONFIG_MAX_VOCAB, &m->vocab, err));
    LT_TRY(lt_config_count(cfg, "n_embd", "hidden_size", 0, LT_CONFIG_MAX_WIDTH / 4, &m->hidden, err));
    LT_TRY(lt_config_count(cfg, "n_layer", "num_hidden_layers", 0, LT_CONFIG_MAX_LAYERS, &m->layers, err));
    LT_TRY(lt_config_count(cfg, "n_head", "num_attention_heads", 0, LT_CONFIG_MAX_HEADS, &m->heads, err));
    LT_TRY(lt_config_count(cfg, "n_positions", "max_position_embeddings", 1024, LT_CONFIG_MAX_POSITIONS,
                           &m->max_positions, err));
    LT_TRY(lt_config_count(cfg, "n_inner", NULL, 4 * m->hidden, LT_CONFIG_MAX_WIDTH, &c->inner, err));
    if (m->hidden % m->heads != 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: n_embd %d is not a multiple of n_head %d", cfg->where,
                       (int)m->hidden, (int)m->heads);
    m->kv_heads = m->heads;
    m->head_dim = m->hidden / m->heads;
    m->table_positions = m->max_positions;
    return LT_OK;
}

static enum lt_status configure(struct lt_model *m, const struct lt_config *cfg, struct lt_error *err)
{
    struct gpt2_config *c = lt_alloc_zero(1, sizeof *c);
    if (!c)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory", cfg->where);
    m->config = c;
    LT_TRY(lt_config_check_keys(cfg, known_keys, err));
    LT_TRY(read_sizes(m, c, cfg, err));
    LT_TRY(lt_config_eps(cfg, "layer_norm_epsilon", 1e-5, &c->eps, err));
    LT_TRY(lt_config_dropout(cfg, "embd_pdrop", 0.1, &c->embd_dropout, err));
    LT_TRY(lt_config_dropout(cfg, "attn_pdrop", 0.1, &c->attn_dropout, err));
    LT_TRY(lt_config_dropout(cfg, "resid_pdrop", 0.1, &c->resid_dropout, err));
    LT_TRY(lt_config_activation(cfg, "activation_function", "gelu_new", &c->act, err));
    LT_TRY(lt_config_bool(cfg, "scale_attn_weights", true, &c->scale, err));
    LT_TRY(lt_config_bool(cfg, "scale_attn_by_inverse_layer_idx", false, &c->scale_by_layer, err));
    return lt_config_bool(cfg, "tie_word_embeddings", true, &c->tied, err);
}

/* ---- tensors ---- */

static enum lt_status add_layer(struct lt_tensor_list *list, int layer, struct lt_error *err)
{
    struct lt_model *m = &list->store->model;
    const struct gpt2_config *c = m->config;
    int64_t d = m->hidden;
    const struct {
        const char *name;
        int64_t rows, cols; /* rows 1: a vector */
    } parts[T_COUNT] = {
        [T_LN1] = {"ln_1.weight", 1, d},
        [T_LN1_BIAS] = {"ln_1.bias", 1, d},
        [T_ATTN] = {"attn.c_attn.weight", 3 * d, d},
        [T_ATTN_BIAS] = {"attn.c_attn.bias", 1, 3 * d},
        [T_ATTN_PROJ] = {"attn.c_proj.weight", d, d},
        [T_ATTN_PROJ_BIAS] = {"attn.c_proj.bias", 1, d},
        [T_LN2] = {"ln_2.weight", 1, d},
        [T_LN2_BIAS] = {"ln_2.bias", 1, d},
        [T_FC] = {"mlp.c_fc.weight", c->inner, d},
        [T_FC_BIAS] = {"mlp.c_fc.bias", 1, c->inner},
        [T_PROJ] = {"mlp.c_proj.weight", d, c->inner},
        [T_PROJ_BIAS] = {"mlp.c_proj.bias", 1, d},
    };
    lt_tensor_list_begin_segment(list);
    for (int i = 0; i < T_COUNT; i++) {
        char name[96];
        bool linear = i == T_ATTN || i == T_ATTN_PROJ || i == T_FC || i == T_PROJ;
        lt_snprintf(name, sizeof name, "transformer.h.%d.%s", layer, parts[i].name);
        const struct lt_tensor_spec spec = {.kind = linear ? LT_TENSOR_LINEAR : LT_TENSOR_VECTOR,
                                            .rows = parts[i].rows,
                                            .cols = parts[i].cols,
                                            .transposed = linear,
                                            .is_norm = strncmp(parts[i].name, "ln_", 3) == 0};
        LT_TRY(lt_tensor_list_add(list, name, &spec, NULL, err));
    }
    return LT_OK;
}

static enum lt_status list_tensors(struct lt_tensor_list *list, struct lt_error *err)
{
    struct lt_model *m = &list->store->model;
    const struct gpt2_config *c = m->config;
    const struct lt_tensor_spec wte = {.kind = LT_TENSOR_EMBEDDING, .rows = m->vocab, .cols = m->hidden};
    const struct lt_tensor_spec wpe = {
        .kind = LT_TENSOR_EMBEDDING, .rows = m->max_positions, .cols = m->hidden};
    const struct lt_tensor_spec norm = {
        .kind = LT_TENSOR_VECTOR, .rows = 1, .cols = m->hidden, .is_norm = true};
    const struct lt_tensor_spec head = {.kind = LT_TENSOR_LINEAR,
                                        .rows = m->vocab,
                                        .cols = m->hidden,
                                        .is_head = true,
                                        .tied = c->tied,
                                        .shared = 0};
    struct lt_checkpoint_tensor hit;
    /* The published files are those of the model without its head. */
    if (list->ck && !lt_checkpoint_find(list->ck, "transformer.wte.weight", &hit) &&
        lt_checkpoint_find(list->ck, "wte.weight", &hit))
        list->strip = "transformer.";
    lt_tensor_list_begin_segment(list);
    LT_TRY(lt_tensor_list_add(list, "transformer.wte.weight", &wte, NULL, err));
    LT_TRY(lt_tensor_list_add(list, "transformer.wpe.weight", &wpe, NULL, err));
    for (int i = 0; i < m->layers; i++)
        LT_TRY(add_layer(list, i, err));
    lt_tensor_list_begin_segment(list);
    LT_TRY(lt_tensor_list_add(list, "transformer.ln_f.weight", &norm, NULL, err));
    LT_TRY(lt_tensor_list_add(list, "transformer.ln_f.bias", &norm, NULL, err));
    return lt_tensor_list_add(list, "lm_head.weight", &head, NULL, err);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Causal masks, and the copy of a tied head. */
static bool ignores(const char *name)
{
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           strcmp(name, "lm_head.weight") == 0;
}

/* ---- graphs ---- */

static void build_embedding(struct lt_build *b)
{
    int tokens = lt_build_embed(b, LT_IN_IDS, T_WTE, 1);
    int positions = lt_build_embed(b, LT_IN_POSITIONS, T_WPE, 1);
    lt_build_hidden_out(b,
                        lt_build_dropout(b, lt_build_add(b, tokens, positions), config_of(b)->embd_dropout));
}

static int build_attention(struct lt_build *b, int x)
{
    const struct lt_model *m = b->model;
    const struct gpt2_config *c = config_of(b);
    struct lt_attention_spec spec = {.heads = m->heads,
                                     .kv_heads = m->heads,
                                     .head_dim = m->head_dim,
                                     .scale = 1,
                                     .dropout = c->attn_dropout};
    if (c->scale)
        spec.scale = 1.0f / sqrtf((float)m->head_dim);
    if (c->scale_by_layer)
        spec.scale /= (float)b->segment; /* the first layer is segment 1 */
    const int64_t parts[3] = {m->hidden, m->hidden, m->hidden};
    int qkv[3];
    lt_build_split(b, lt_build_linear(b, x, T_ATTN, T_ATTN_BIAS), parts, 3, qkv);
    int o = lt_build_attention(b, qkv[0], qkv[1], qkv[2], &spec);
    return lt_build_dropout(b, lt_build_linear(b, o, T_ATTN_PROJ, T_ATTN_PROJ_BIAS), c->resid_dropout);
}

static int build_mlp(struct lt_build *b, int x)
{
    const struct gpt2_config *c = config_of(b);
    x = lt_build_act(b, lt_build_linear(b, x, T_FC, T_FC_BIAS), c->act);
    return lt_build_dropout(b, lt_build_linear(b, x, T_PROJ, T_PROJ_BIAS), c->resid_dropout);
}

static void build_layer(struct lt_build *b)
{
    float eps = config_of(b)->eps;
    int h = lt_build_hidden_in(b);
    h = lt_build_add(b, h, build_attention(b, lt_build_layernorm(b, h, T_LN1, T_LN1_BIAS, eps)));
    h = lt_build_add(b, h, build_mlp(b, lt_build_layernorm(b, h, T_LN2, T_LN2_BIAS, eps)));
    lt_build_hidden_out(b, h);
}

static void build_head(struct lt_build *b)
{
    int h = lt_build_label_rows(b, lt_build_hidden_in(b));
    lt_build_loss(b, lt_build_layernorm(b, h, T_LNF, T_LNF_BIAS, config_of(b)->eps), T_HEAD, 0);
}

const struct lt_model_arch lt_model_arch_gpt2 = {
    .graph = {"gpt2", build_embedding, build_layer, build_head},
    .architecture = "GPT2LMHeadModel",
    .model_type = "gpt2",
    .bos_default = 50256,
    .eos_default = 50256,
    .configure = configure,
    .free_config = lt_free,
    .list_tensors = list_tensors,
    .ignores = ignores,
};
