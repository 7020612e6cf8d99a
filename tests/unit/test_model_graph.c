/* The graphs that the architectures build: every segment in every mode, op by op. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "core/graph/build.h"
#include "models/model_load.h"
#include "tests/support/fixtures.h"

/* A golden model with some keys of its configuration changed. */
static struct lt_model *open_patched(struct lt_checkpoint *ck, const char *relative, const char *patch)
{
    char path[1024];
    struct lt_error err = {0};
    struct lt_model *model = NULL;
    json_t *json = NULL;
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    if (lt_checkpoint_open(ck, path, &err) != LT_OK ||
        lt_json_parse(&json, patch, strlen(patch), "patch", &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(json_object_update(ck->config, json), 0);
    json_decref(json);
    if (lt_model_open(&model, ck, relative, &err) != LT_OK)
        fail_msg("%s", err.message);
    return model;
}

static void build_segment(struct lt_graph *g, const struct lt_model *m, int segment, enum lt_build_mode mode,
                          bool logits)
{
    struct lt_error err = {0};
    struct lt_build b = {
        .graph = g, .model = m, .segment = segment, .mode = mode, .logits = logits, .loss_chunk = 32};
    lt_graph_init(g);
    if (segment == 0)
        m->arch->build_embedding(&b);
    else if (segment <= m->layers)
        m->arch->build_layer(&b);
    else
        m->arch->build_head(&b);
    if (lt_graph_status(g, &err) != LT_OK)
        fail_msg("segment %d: %s", segment, err.message);
}

/* The op names of a segment, a space between them. */
static void assert_ops(const struct lt_model *m, int segment, enum lt_build_mode mode, bool logits,
                       const char *expected)
{
    struct lt_graph g;
    char text[512] = "";
    build_segment(&g, m, segment, mode, logits);
    for (size_t i = 0; i < g.node_count; i++) {
        size_t n = strlen(text);
        lt_snprintf(text + n, sizeof text - n, "%s%s", i > 0 ? " " : "", lt_op_info[g.nodes[i].op].name);
    }
    lt_graph_deinit(&g);
    assert_string_equal(text, expected);
}

static const struct lt_node *find_node(const struct lt_graph *g, enum lt_op op, int number)
{
    for (size_t i = 0; i < g->node_count; i++)
        if (g->nodes[i].op == op && number-- == 0)
            return &g->nodes[i];
    fail_msg("no such node");
    return NULL;
}

static int count_nodes(const struct lt_graph *g, enum lt_op op)
{
    int n = 0;
    for (size_t i = 0; i < g->node_count; i++)
        n += g->nodes[i].op == op;
    return n;
}

static const struct lt_model_tensor *tensor_of(const struct lt_model *m, const struct lt_graph *g,
                                               int segment, int value)
{
    assert_int_equal(g->values[value].storage, LT_STORE_EXTERN);
    assert_int_equal(g->values[value].ext_kind, LT_EXT_TENSOR);
    return lt_model_tensor(m, segment, g->values[value].ext_index);
}

static const char LLAMA[] = "goldens/llama-tiny", GPT2[] = "goldens/gpt2-tiny";

static void llama_ops(void **state)
{
    (void)state;
    static const char layer[] = "rmsnorm linear linear linear rope rope attention linear add "
                                "rmsnorm linear linear glu linear add";
    static const char decode[] = "rmsnorm linear linear linear rope rope kv_store attention linear add "
                                 "rmsnorm linear linear glu linear add";
    struct lt_checkpoint ck;
    struct lt_model *m = open_patched(&ck, LLAMA, "{}");
    for (int mode = LT_BUILD_TRAIN; mode <= LT_BUILD_DECODE; mode++) {
        assert_ops(m, 0, (enum lt_build_mode)mode, false, "embed");
        for (int s = 1; s <= m->layers; s++)
            assert_ops(m, s, (enum lt_build_mode)mode, false, mode == LT_BUILD_DECODE ? decode : layer);
    }
    assert_ops(m, m->layers + 1, LT_BUILD_TRAIN, false, "gather_rows rmsnorm cross_entropy");
    assert_ops(m, m->layers + 1, LT_BUILD_EVAL, false, "gather_rows rmsnorm cross_entropy");
    assert_ops(m, m->layers + 1, LT_BUILD_EVAL, true, "gather_rows rmsnorm linear");
    assert_ops(m, m->layers + 1, LT_BUILD_DECODE, true, "gather_rows rmsnorm linear");
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

static void llama_attributes(void **state)
{
    (void)state;
    static const char *const linears[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                          "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                          "mlp.down_proj"};
    struct lt_checkpoint ck;
    struct lt_graph g;
    struct lt_model *m = open_patched(&ck, LLAMA, "{\"attention_dropout\": 0.25, \"hidden_act\": \"relu\"}");
    build_segment(&g, m, 2, LT_BUILD_TRAIN, false);
    const struct lt_node *n = find_node(&g, LT_OP_ATTENTION, 0);
    assert_int_equal(n->attr.heads, 4);
    assert_int_equal(n->attr.kv_heads, 2);
    assert_int_equal(n->attr.head_dim, 16);
    assert_int_equal(n->attr.window, 0);
    assert_true(n->attr.scale == 0.25f);
    assert_true(n->attr.softcap == 0.0f);
    assert_true(n->attr.dropout == 0.25f);
    const struct lt_node *q = find_node(&g, LT_OP_ROPE, 0), *k = find_node(&g, LT_OP_ROPE, 1);
    assert_int_equal(q->attr.heads, 4);
    assert_int_equal(k->attr.heads, 2);
    assert_int_equal(q->attr.rotary, 16);
    assert_int_equal(n->in[0], q->out[0]);
    assert_int_equal(n->in[1], k->out[0]);
    assert_int_equal(find_node(&g, LT_OP_GLU, 0)->attr.act, LT_ACT_RELU);
    assert_true(find_node(&g, LT_OP_RMSNORM, 1)->attr.eps == 1e-5f);
    for (int i = 0; i < 7; i++) {
        char name[64];
        n = find_node(&g, LT_OP_LINEAR, i);
        lt_snprintf(name, sizeof name, "model.layers.1.%s", linears[i]);
        assert_string_equal(tensor_of(m, &g, 2, n->in[1])->module, name);
        assert_int_equal(n->in[2], LT_NO_VALUE);
        assert_false(n->attr.transposed);
    }
    assert_int_equal(g.values[find_node(&g, LT_OP_ADD, 1)->out[0]].ext_index, LT_HIDDEN_OUT);
    lt_graph_deinit(&g);

    build_segment(&g, m, 2, LT_BUILD_EVAL, false);
    assert_true(find_node(&g, LT_OP_ATTENTION, 0)->attr.dropout == 0.0f);
    lt_graph_deinit(&g);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

/* Layers are alike, so that one program serves all; with adapters on one of them they are not. */
static void sharing_and_adapters(void **state)
{
    (void)state;
    struct lt_checkpoint ck;
    struct lt_graph a, b;
    struct lt_model *m = open_patched(&ck, LLAMA, "{}");
    build_segment(&a, m, 1, LT_BUILD_TRAIN, false);
    build_segment(&b, m, 3, LT_BUILD_TRAIN, false);
    assert_true(lt_graph_equal(&a, &b));
    lt_graph_deinit(&b);
    lt_model_tensor(m, 3, 1)->lora = (struct lt_lora){.rank = 4, .scale = 2, .dropout = 0.1f};
    build_segment(&b, m, 3, LT_BUILD_TRAIN, false);
    assert_false(lt_graph_equal(&a, &b));
    assert_int_equal(count_nodes(&a, LT_OP_LORA), 0);
    assert_int_equal(count_nodes(&b, LT_OP_LORA), 1);
    assert_int_equal(find_node(&b, LT_OP_LORA, 0)->in[0], find_node(&b, LT_OP_LINEAR, 0)->out[0]);
    lt_graph_deinit(&a);
    lt_graph_deinit(&b);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

static void tied_head(void **state)
{
    (void)state;
    struct lt_checkpoint ck;
    struct lt_graph g;
    struct lt_model *m = open_patched(&ck, "goldens/archs/smollm2", "{}");
    int head = m->layers + 1;
    build_segment(&g, m, head, LT_BUILD_TRAIN, false);
    const struct lt_model_tensor *t = tensor_of(m, &g, head, find_node(&g, LT_OP_CROSS_ENTROPY, 0)->in[1]);
    assert_true(t->is_head);
    assert_int_equal(t->shared, 0);
    assert_int_equal(t->rows, m->vocab);
    lt_graph_deinit(&g);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

static void gpt2_ops(void **state)
{
    (void)state;
    static const char plain[] = "layernorm linear split attention linear add layernorm linear act linear add";
    static const char dropped[] = "layernorm linear split attention linear dropout add "
                                  "layernorm linear act linear dropout add";
    static const char decode[] =
        "layernorm linear split kv_store attention linear add layernorm linear act linear add";
    struct lt_checkpoint ck;
    struct lt_model *m = open_patched(&ck, GPT2, "{}");
    assert_ops(m, 0, LT_BUILD_TRAIN, false, "embed embed add");
    assert_ops(m, 1, LT_BUILD_TRAIN, false, plain);
    assert_ops(m, 1, LT_BUILD_EVAL, false, plain);
    assert_ops(m, 1, LT_BUILD_DECODE, false, decode);
    assert_ops(m, 3, LT_BUILD_TRAIN, false, "gather_rows layernorm cross_entropy");
    assert_ops(m, 3, LT_BUILD_DECODE, true, "gather_rows layernorm linear");
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);

    m = open_patched(&ck, GPT2, "{\"embd_pdrop\": 0.1, \"resid_pdrop\": 0.2, \"attn_pdrop\": 0.3}");
    assert_ops(m, 0, LT_BUILD_TRAIN, false, "embed embed add dropout");
    assert_ops(m, 0, LT_BUILD_EVAL, false, "embed embed add");
    assert_ops(m, 1, LT_BUILD_TRAIN, false, dropped);
    assert_ops(m, 1, LT_BUILD_EVAL, false, plain);
    assert_ops(m, 1, LT_BUILD_DECODE, false, decode);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

static void gpt2_attributes(void **state)
{
    (void)state;
    struct lt_checkpoint ck;
    struct lt_graph g;
    struct lt_model *m =
        open_patched(&ck, GPT2, "{\"attn_pdrop\": 0.3, \"scale_attn_by_inverse_layer_idx\": true}");
    build_segment(&g, m, 0, LT_BUILD_TRAIN, false);
    const struct lt_node *ids = find_node(&g, LT_OP_EMBED, 0), *positions = find_node(&g, LT_OP_EMBED, 1);
    assert_int_equal(g.values[ids->in[0]].ext_index, LT_IN_IDS);
    assert_int_equal(g.values[positions->in[0]].ext_index, LT_IN_POSITIONS);
    assert_string_equal(tensor_of(m, &g, 0, positions->in[1])->name, "transformer.wpe.weight");
    lt_graph_deinit(&g);

    for (int layer = 0; layer < 2; layer++) {
        build_segment(&g, m, layer + 1, LT_BUILD_TRAIN, false);
        const struct lt_node *n = find_node(&g, LT_OP_ATTENTION, 0);
        float scale = 1 / sqrtf(12) / (float)(layer + 1);
        assert_true(n->attr.scale == scale);
        assert_true(n->attr.dropout == 0.3f);
        assert_int_equal(n->attr.kv_heads, 4);
        for (int i = 0; i < 4; i++) {
            n = find_node(&g, LT_OP_LINEAR, i);
            assert_true(n->attr.transposed);
            assert_true(tensor_of(m, &g, layer + 1, n->in[2])->is_bias);
        }
        assert_int_equal(find_node(&g, LT_OP_ACT, 0)->attr.act, LT_ACT_GELU_TANH);
        lt_graph_deinit(&g);
    }
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);

    m = open_patched(&ck, GPT2, "{\"scale_attn_weights\": false}");
    build_segment(&g, m, 1, LT_BUILD_EVAL, false);
    assert_true(find_node(&g, LT_OP_ATTENTION, 0)->attr.scale == 1.0f);
    lt_graph_deinit(&g);
    lt_model_destroy(m);
    lt_checkpoint_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_ops),
        cmocka_unit_test(llama_attributes),
        cmocka_unit_test(sharing_and_adapters),
        cmocka_unit_test(tied_head),
        cmocka_unit_test(gpt2_ops),
        cmocka_unit_test(gpt2_attributes),
    };
    return cmocka_run_group_tests_name("model_graph", tests, NULL, NULL);
}
