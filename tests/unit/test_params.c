/* Parameter layout, targets and initialisation, against PEFT (tests/golden/peft_init.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "core/train/adapter.h"
#include "tests/support/fixtures.h"
#include "tests/support/peft_models.h"

enum { SEED = 42 };

static struct lt_model_tensor *tensor_named(const struct lt_model *m, const char *name)
{
    for (int i = 0; i < m->tensor_count; i++)
        if (strcmp(m->tensors[i].name, name) == 0)
            return &m->tensors[i];
    fail_msg("%s is no tensor of the model", name);
    return NULL;
}

/* ---- PEFT's initial values ---- */

static const struct {
    const char *name, *model;
} cases[] = {
    {"peft-init/true", "llama"},          {"peft-init/false", "llama"},
    {"peft-init/gaussian", "llama"},      {"peft-init/gaussian-small", "llama-small"},
    {"peft-init/patterns", "llama-bias"}, {"peft-init/layers", "llama"},
    {"peft-init/conv1d", "gpt2"},
};
enum { CASES = sizeof cases / sizeof *cases };

/* Uniform values have one right answer.  A Gaussian one is radius * cosine * std with radius <= sqrt(-2 ln 2^-24) < 6
 * and f32 functions in torch that are off by some ulp each: 8 ulp of the largest radius. */
static void compare(const float *got, const float *expected, size_t n, const struct lt_peft_setup *s,
                    const char *name)
{
    bool gaussian = strcmp(s->config.init_lora_weights, "gaussian") == 0;
    double limit = gaussian ? 8 * 6 * 0x1p-24 / s->config.r : 0;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)expected[i]) <= limit))
            fail_msg("%s[%zu]: %.9g in place of %.9g", name, i, (double)got[i], (double)expected[i]);
}

static void test_init_as_peft(void **state)
{
    (void)state;
    for (int k = 0; k < CASES; k++) {
        struct lt_peft_setup s = {0};
        char path[4096], file[4200];
        struct lt_error err;
        struct lt_safetensors st;
        lt_peft_setup_init(&s, cases[k].model, cases[k].name);
        lt_peft_must(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, &err), &err);
        lt_peft_fixture(path, sizeof path, cases[k].name);
        lt_snprintf(file, sizeof file, "%s/adapter_model.safetensors", path);
        lt_peft_must(lt_safetensors_open(&st, file, &err), &err);
        assert_int_equal(st.count, s.params.count);
        for (size_t i = 0; i < s.params.count; i++) {
            const struct lt_param *p = &s.params.items[i];
            const struct lt_st_tensor *t = lt_safetensors_find(&st, p->name);
            if (!t)
                fail_msg("PEFT has no %s", p->name);
            if (p->part == 0) /* biases are the model's, whose values here are made up */
                continue;
            compare(s.values + p->offset, lt_safetensors_data(&st, t), p->elements, &s, p->name);
        }
        lt_safetensors_close(&st);
        lt_peft_setup_deinit(&s);
    }
}

static void test_seed_matters(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    lt_peft_setup_init(&s, "llama", "peft-init/true");
    float *other = lt_alloc_array(s.params.elements, sizeof *other);
    assert_non_null(other);
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, 1, s.values, NULL), LT_OK);
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, 2, other, NULL), LT_OK);
    assert_memory_not_equal(s.values, other, s.params.elements * sizeof *other);
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, 1, other, NULL), LT_OK);
    assert_memory_equal(s.values, other, s.params.elements * sizeof *other);
    lt_free(other);
    lt_free(s.config.init_lora_weights);
    s.config.init_lora_weights = lt_strdup("pissa");
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, 1, s.values, NULL), LT_ERR_UNSUPPORTED);
    lt_peft_setup_deinit(&s);
}

/* ---- layout ---- */

static void check_layout(const struct lt_params *p)
{
    size_t end = 0, decay_end = 0;
    uint64_t trainable = 0;
    bool undecayed_seen = false;
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        assert_int_equal(item->offset, (end + 15) / 16 * 16);
        assert_int_equal(item->elements, item->shape[0] * (item->ndim == 2 ? item->shape[1] : 1));
        assert_ptr_equal(lt_params_find(p, item->name), item);
        end = item->offset + item->elements;
        trainable += item->elements;
        assert_false(item->decay && undecayed_seen);
        undecayed_seen = undecayed_seen || !item->decay;
        if (item->decay)
            decay_end = (end + 15) / 16 * 16;
    }
    assert_int_equal(p->elements, (end + 15) / 16 * 16);
    assert_int_equal(p->decay_elements, decay_end);
    assert_int_equal(p->trainable, trainable);
    assert_null(lt_params_find(p, "lora"));
}

static void test_lora_layout(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    lt_peft_setup_init(&s, "llama-bias", "peft-init/patterns");
    check_layout(&s.params);
    /* 7 modules; biases of the attention projections only */
    assert_int_equal(s.params.count, 7 * 2 + 4);
    assert_string_equal(s.params.items[0].name,
                        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    assert_string_equal(s.params.items[1].name,
                        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    assert_string_equal(s.params.items[14].name,
                        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias");
    const struct lt_model_tensor *q = tensor_named(&s.model, "model.layers.0.self_attn.q_proj.weight");
    assert_int_equal(q->lora.rank, 2);
    assert_true(q->lora.scale == (float)4.596194077712559);
    assert_true(q->lora.dropout == 0.05f);
    assert_int_equal(q->lora.a_offset, 0);
    assert_int_equal(q->lora.b_offset, 32);
    assert_false(q->trainable);
    const struct lt_model_tensor *bias = tensor_named(&s.model, "model.layers.0.self_attn.q_proj.bias");
    assert_true(bias->trainable);
    assert_int_equal(bias->param_offset, s.params.items[14].offset);
    assert_false(tensor_named(&s.model, "model.layers.0.self_attn.o_proj.bias")->trainable);
    assert_int_equal(tensor_named(&s.model, "model.layers.1.mlp.up_proj.weight")->lora.rank, 0);
    assert_int_equal(lt_model_lowest_trainable(&s.model), 1);
    /* The bias starts from the model; padding is zero. */
    assert_int_equal(lt_params_init(&s.params, &s.model, &s.config, SEED, s.values, NULL), LT_OK);
    assert_memory_equal(s.values + bias->param_offset, bias->vector, (size_t)bias->cols * sizeof(float));
    const struct lt_param *small =
        lt_params_find(&s.params, "base_model.model.model.layers.0.self_attn.v_proj.base_layer.bias");
    for (size_t i = small->offset + small->elements; i % 16; i++)
        assert_true(s.values[i] == 0);
    /* Marking again forgets the old marks. */
    lt_params_deinit(&s.params);
    assert_int_equal(lt_lora_config_set_targets(&s.config, "o_proj", NULL), LT_OK);
    assert_int_equal(lt_params_lora(&s.params, &s.model, &s.config, NULL), LT_OK);
    assert_int_equal(q->lora.rank, 0);
    assert_false(bias->trainable);
    lt_peft_setup_deinit(&s);
}

static void test_gpt2_layout(void **state)
{
    (void)state;
    struct lt_peft_setup s = {0};
    lt_peft_setup_init(&s, "gpt2", "peft-init/conv1d");
    check_layout(&s.params);
    const struct lt_param *a =
        lt_params_find(&s.params, "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight");
    const struct lt_param *b =
        lt_params_find(&s.params, "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight");
    assert_int_equal(a->shape[0], 4);
    assert_int_equal(a->shape[1], 16);
    assert_int_equal(b->shape[0], 48);
    assert_int_equal(b->shape[1], 4);
    assert_true(a->decay && b->decay);
    /* bias "all": also of norms and of layers without an adapter */
    assert_non_null(
        lt_params_find(&s.params, "base_model.model.transformer.h.0.attn.c_attn.base_layer.bias"));
    assert_non_null(lt_params_find(&s.params, "base_model.model.transformer.h.1.attn.c_proj.bias"));
    const struct lt_param *ln = lt_params_find(&s.params, "base_model.model.transformer.ln_f.bias");
    assert_non_null(ln);
    assert_false(ln->decay);
    assert_int_equal(ln->ndim, 1);
    lt_peft_setup_deinit(&s);
}

static void test_full_layout(void **state)
{
    (void)state;
    struct lt_peft_setup s;
    lt_peft_setup_targets(&s, "gpt2", "c_attn");
    struct lt_error err;
    lt_peft_must(lt_params_full(&s.params, &s.model, &err), &err);
    check_layout(&s.params);
    assert_int_equal(s.params.count, s.model.tensor_count - 1); /* lm_head is tied to wte */
    assert_null(lt_params_find(&s.params, "lm_head.weight"));
    const struct lt_param *w = lt_params_find(&s.params, "transformer.h.0.attn.c_attn.weight");
    assert_int_equal(w->shape[0], 16); /* as Conv1D stores it */
    assert_int_equal(w->shape[1], 48);
    assert_true(w->decay);
    assert_true(lt_params_find(&s.params, "transformer.wpe.weight")->decay);
    assert_false(lt_params_find(&s.params, "transformer.h.0.ln_1.weight")->decay);
    assert_false(lt_params_find(&s.params, "transformer.h.0.attn.c_attn.bias")->decay);

    /* Values come from the weights in whatever float format they are. */
    struct lt_model_tensor *t = tensor_named(&s.model, w->name);
    size_t n = w->elements;
    uint16_t *half = lt_alloc_array(n, sizeof *half);
    float *expected = lt_alloc_array(n, sizeof *expected);
    assert_non_null(half);
    assert_non_null(expected);
    lt_peft_setup_values(&s);
    const void *f32 = t->weight.data;
    static const enum lt_weight_format formats[] = {LT_WEIGHT_F32, LT_WEIGHT_BF16, LT_WEIGHT_F16};
    static const enum lt_dtype dtypes[] = {LT_F32, LT_BF16, LT_F16};
    for (int k = 0; k < 3; k++) {
        memcpy(expected, f32, n * sizeof *expected);
        if (k > 0) {
            lt_convert_from_f32(half, f32, dtypes[k], n);
            lt_convert_to_f32(expected, half, dtypes[k], n);
            t->weight.data = half;
        }
        t->weight.format = formats[k];
        lt_peft_must(lt_params_init(&s.params, &s.model, NULL, SEED, s.values, &err), &err);
        assert_memory_equal(s.values + w->offset, expected, n * sizeof *expected);
    }
    t->weight.format = LT_WEIGHT_NF4;
    assert_int_equal(lt_params_init(&s.params, &s.model, NULL, SEED, s.values, &err), LT_ERR_INVALID);
    assert_non_null(
        strstr(err.message, "cannot train a quantized tensor: transformer.h.0.attn.c_attn.weight"));
    lt_params_deinit(&s.params);
    assert_int_equal(lt_params_full(&s.params, &s.model, &err), LT_ERR_INVALID);
    assert_non_null(strstr(err.message, "nf4"));
    assert_int_equal(s.params.count, 0);
    assert_false(t->trainable);
    t->weight.data = f32;
    lt_free(half);
    lt_free(expected);
    lt_peft_setup_deinit(&s);
}

static void test_norms_by_name(void **state)
{
    (void)state;
    struct lt_peft_setup s;
    lt_peft_setup_targets(&s, "llama", "q_proj");
    for (int i = 0; i < s.model.tensor_count; i++)
        s.model.tensors[i].is_norm = false;
    assert_int_equal(lt_params_full(&s.params, &s.model, NULL), LT_OK);
    check_layout(&s.params);
    for (size_t i = 0; i < s.params.count; i++)
        assert_int_equal(s.params.items[i].decay, !strstr(s.params.items[i].name, "norm"));
    /* transformers looks for components, not for any "norm" */
    static const struct {
        const char *name;
        bool decay;
    } names[] = {{"model.normal.weight", true},     {"a.abnorm.weight", true},
                 {"a.norm.weight", false},          {"norm", false},
                 {"a.q_norm.weight", false},        {"a.q_norms.weight", true},
                 {"a.PostLayerNorm.weight", false}, {"a.unbiased.weight", false},
                 {"a.RMSNorm2.weight", false}};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct lt_model_tensor *t = tensor_named(&s.model, k == 0 ? "lm_head.weight" : names[k - 1].name);
        lt_free(t->name);
        t->name = lt_strdup(names[k].name);
        lt_params_deinit(&s.params);
        assert_int_equal(lt_params_full(&s.params, &s.model, NULL), LT_OK);
        assert_int_equal(lt_params_find(&s.params, names[k].name)->decay, names[k].decay);
    }
    lt_peft_setup_deinit(&s);
}

/* ---- targets ---- */

static void expect_no_lora(const char *model, const char *targets, enum lt_status status, const char *part)
{
    struct lt_peft_setup s;
    struct lt_error err = {0};
    lt_peft_setup_targets(&s, model, targets);
    if (lt_params_lora(&s.params, &s.model, &s.config, &err) != status || !strstr(err.message, part))
        fail_msg("%s: wanted \"%s\", got \"%s\"", targets, part, err.message);
    assert_int_equal(s.params.count, 0);
    assert_int_equal(lt_model_lowest_trainable(&s.model), -1);
    lt_peft_setup_deinit(&s);
}

static void test_targets_that_fail(void **state)
{
    (void)state;
    expect_no_lora("llama", "query_key_value", LT_ERR_INVALID,
                   "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
    expect_no_lora("llama", "query_key_value", LT_ERR_INVALID, "\"query_key_value\"");
    expect_no_lora("llama", "q_proj,lm_head", LT_ERR_UNSUPPORTED, "lm_head");
    expect_no_lora("llama", "q_proj,embed_tokens", LT_ERR_UNSUPPORTED, "model.embed_tokens");
    expect_no_lora("llama", ".*norm", LT_ERR_UNSUPPORTED, "input_layernorm");
    expect_no_lora("llama", ".*(q_proj", LT_ERR_INVALID, "target_modules");
}

static int adapted(const struct lt_model *m)
{
    int n = 0;
    for (int i = 0; i < m->tensor_count; i++)
        n += m->tensors[i].lora.rank > 0;
    return n;
}

static void expect_expanded(const char *model, const char *targets, const char *joined, bool fan_in_fan_out)
{
    struct lt_peft_setup s;
    struct lt_error err;
    struct lt_strbuf sb;
    lt_peft_setup_targets(&s, model, targets);
    lt_peft_must(lt_params_lora(&s.params, &s.model, &s.config, &err), &err);
    int before = adapted(&s.model);
    lt_params_deinit(&s.params);
    lt_peft_must(lt_lora_config_expand(&s.config, &s.model, &err), &err);
    lt_strbuf_init(&sb);
    for (size_t i = 0; i < s.config.target_modules.count; i++)
        lt_strbuf_printf(&sb, "%s%s", i ? "," : "", s.config.target_modules.items[i]);
    assert_string_equal(s.config.target_regex ? s.config.target_regex : lt_strbuf_str(&sb), joined);
    assert_int_equal(s.config.fan_in_fan_out, fan_in_fan_out);
    /* What is saved adapts the same modules. */
    lt_peft_must(lt_params_lora(&s.params, &s.model, &s.config, &err), &err);
    assert_int_equal(adapted(&s.model), before);
    lt_strbuf_deinit(&sb);
    lt_peft_setup_deinit(&s);
}

static void test_expand(void **state)
{
    (void)state;
    expect_expanded("llama", "all-linear", "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj", false);
    expect_expanded("gpt2", "All-Linear", "c_attn,c_fc,c_proj", true);
    expect_expanded("llama", "v_proj,q_proj,v_proj", "q_proj,v_proj", false);
    expect_expanded("gpt2", "mlp.c_proj,c_attn", "c_attn,mlp.c_proj", true);
    expect_expanded("llama", ".*[qv]_proj", ".*[qv]_proj", false);
}

/* A last component that an embedding shares cannot stand for the linear layers. */
static void test_expand_keeps_full_names(void **state)
{
    (void)state;
    struct lt_peft_setup s;
    struct lt_error err;
    lt_peft_setup_targets(&s, "llama", "all-linear");
    struct lt_model_tensor *embed = tensor_named(&s.model, "model.embed_tokens.weight");
    lt_free(embed->module);
    embed->module = lt_strdup("model.q_proj");
    s.config.layers_to_transform = lt_alloc_array(1, sizeof *s.config.layers_to_transform);
    s.config.layers_to_transform[0] = 1;
    s.config.layers_to_transform_count = 1;
    lt_peft_must(lt_params_lora(&s.params, &s.model, &s.config, &err), &err);
    assert_int_equal(adapted(&s.model), 7);
    lt_params_deinit(&s.params);
    lt_peft_must(lt_lora_config_expand(&s.config, &s.model, &err), &err);
    assert_int_equal(s.config.target_modules.count, 7);
    assert_string_equal(s.config.target_modules.items[3], "model.layers.1.self_attn.q_proj");
    lt_peft_must(lt_params_lora(&s.params, &s.model, &s.config, &err), &err);
    assert_int_equal(adapted(&s.model), 7);
    lt_peft_setup_deinit(&s);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_as_peft),
        cmocka_unit_test(test_seed_matters),
        cmocka_unit_test(test_lora_layout),
        cmocka_unit_test(test_gpt2_layout),
        cmocka_unit_test(test_full_layout),
        cmocka_unit_test(test_norms_by_name),
        cmocka_unit_test(test_targets_that_fail),
        cmocka_unit_test(test_expand),
        cmocka_unit_test(test_expand_keeps_full_names),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
