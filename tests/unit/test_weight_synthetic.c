/* Models from a configuration alone, and synthetic weights: formats, sizes, sameness for any threads, statistics. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/system.h"
#include "core/io/json.h"
#include "models/arch.h"
#include "models/weight_synthetic.h"
#include "quant/weight_codec.h"

static const char llama_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 320, \"hidden_size\": 64,"
    " \"intermediate_size\": 176, \"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"tie_word_embeddings\": true}";
static const char gpt2_config[] =
    "{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", \"vocab_size\": 300, \"n_embd\": 64,"
    " \"n_layer\": 2, \"n_head\": 4, \"n_positions\": 128}";

static enum lt_status make(struct lt_model **model, const char *text, struct lt_error *err)
{
    json_t *config;
    if (lt_json_parse(&config, text, strlen(text), "config", err) != LT_OK)
        fail_msg("%s", err->message);
    enum lt_status status = lt_model_from_config(model, config, "made-up", err);
    json_decref(config);
    return status;
}

static struct lt_model *make_filled(const char *text, const struct lt_synthetic_options *opt)
{
    struct lt_model *model;
    struct lt_error err = {0};
    if (make(&model, text, &err) != LT_OK || lt_synthetic_fill(model, opt, NULL, NULL, &err) != LT_OK)
        fail_msg("%s", err.message);
    return model;
}

static void from_config(void **state)
{
    (void)state;
    struct lt_model *model;
    struct lt_error err = {0};
    if (make(&model, llama_config, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_string_equal(model->name_or_path, "made-up");
    assert_int_equal(model->layers, 3);
    assert_int_equal(model->head_dim, 16);
    assert_string_equal(model->tensors[model->segment_first[2]].name,
                        "model.layers.1.input_layernorm.weight");
    /* embedding, 3 layers of q, k, v, o, gate, up, down and two norms, the last norm; the head is tied */
    assert_int_equal(model->parameters,
                     320 * 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 176 * 64 + 2 * 64) + 64);
    lt_model_destroy(model);

    if (make(&model, gpt2_config, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_true(model->tensors[model->segment_first[1] + 2].transposed);
    lt_model_destroy(model);

    assert_int_equal(make(&model, "{\"architectures\": [\"MambaForCausalLM\"]}", &err), LT_ERR_UNSUPPORTED);
    assert_null(model);
    assert_int_equal(strncmp(err.message, "made-up: ", 9), 0);
}

/* All memory of two models is equal, and is what lt_synthetic_memory said. */
static void same_blocks(struct lt_model *a, struct lt_model *b, const struct lt_synthetic_options *opt)
{
    struct lt_model_memory mem;
    lt_synthetic_memory(a, opt, &mem);
    const size_t sizes[LT_BLOCK_COUNT] = {mem.quantized, mem.converted, mem.vectors};
    for (int i = 0; i < LT_BLOCK_COUNT; i++) {
        const struct lt_model_block *x = &lt_model_store_of(a)->blocks[i],
                                    *y = &lt_model_store_of(b)->blocks[i];
        assert_int_equal(x->size, sizes[i]);
        assert_int_equal(y->size, sizes[i]);
        if (x->size > 0)
            assert_memory_equal(x->data, y->data, x->size);
    }
    assert_int_equal(mem.mapped + mem.loading, 0);
}

static void same_for_any_threads(void **state)
{
    (void)state;
    const char *const configs[] = {llama_config, gpt2_config};
    for (int f = 0; f < LT_WEIGHT_FORMAT_COUNT; f++)
        for (int c = 0; c < 2; c++) {
            struct lt_synthetic_options one = {
                .format = (enum lt_weight_format)f, .double_quant = c == 1, .seed = 7, .threads = 1};
            struct lt_synthetic_options three = one, other = one;
            three.threads = 3;
            other.seed = 8;
            struct lt_model *a = make_filled(configs[c], &one), *b = make_filled(configs[c], &three);
            same_blocks(a, b, &one);
            struct lt_model *d = make_filled(configs[c], &other);
            assert_memory_not_equal(a->tensors[0].weight.data, d->tensors[0].weight.data, 256);
            lt_model_destroy(a);
            lt_model_destroy(b);
            lt_model_destroy(d);
        }
}

/* Mean and deviation of n decoded elements: for uniform numbers in ±a the mean of n has the deviation a/sqrt(3n), and
 * the deviation a/sqrt(3) comes out within 2 % for these n; 4-bit codes are not symmetric and their scales vary. */
static void check_statistics(const struct lt_weight *w)
{
    int64_t n = w->rows * w->cols;
    float *values = lt_alloc_array((size_t)n, sizeof *values);
    assert_non_null(values);
    lt_weight_codecs[w->format].decode(values, w, 0, n);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(values[i]) && fabsf(values[i]) < 0.08f);
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    lt_free(values);
    double mean = sum / (double)n, deviation = sqrt(squares / (double)n);
    assert_true(fabs(mean) < 0.004);
    assert_true(deviation > 0.018 && deviation < 0.032);
}

static void formats_and_values(void **state)
{
    (void)state;
    for (int f = 0; f < LT_WEIGHT_FORMAT_COUNT; f++)
        for (int dq = 0; dq < 2; dq++) {
            const struct lt_synthetic_options opt = {
                .format = (enum lt_weight_format)f, .double_quant = dq == 1, .threads = 2};
            struct lt_model *m = make_filled(llama_config, &opt);
            for (int i = 0; i < m->tensor_count; i++) {
                const struct lt_model_tensor *t = &m->tensors[i];
                if (t->kind == LT_TENSOR_VECTOR) {
                    assert_true(t->vector[0] == 1.0f && t->vector[t->cols - 1] == 1.0f);
                    continue;
                }
                bool layer = t->kind == LT_TENSOR_LINEAR && !t->is_head;
                enum lt_weight_format expected = f >= LT_WEIGHT_NF4 && !layer ? LT_WEIGHT_BF16 : opt.format;
                assert_int_equal(t->weight.format, expected);
                if (layer)
                    check_statistics(&t->weight);
            }
            const struct lt_model_tensor *head = &m->tensors[m->tensor_count - 1];
            assert_ptr_equal(head->weight.data, m->tensors[0].weight.data);
            lt_model_destroy(m);
        }
}

static void trained_tensors_stay_unquantized(void **state)
{
    (void)state;
    const struct lt_synthetic_options opt = {.format = LT_WEIGHT_NF4};
    struct lt_model *model;
    struct lt_error err = {0};
    if (make(&model, gpt2_config, &err) != LT_OK)
        fail_msg("%s", err.message);
    struct lt_model_tensor *qkv = lt_model_tensor(model, 1, 2), *proj = lt_model_tensor(model, 2, 2);
    assert_true(qkv->kind == LT_TENSOR_LINEAR && proj->kind == LT_TENSOR_LINEAR);
    qkv->trainable = true;
    assert_int_equal(lt_synthetic_fill(model, &opt, NULL, NULL, &err), LT_OK);
    assert_int_equal(qkv->weight.format, LT_WEIGHT_BF16);
    assert_true(qkv->weight.transposed);
    assert_int_equal(proj->weight.format, LT_WEIGHT_NF4);
    assert_false(proj->weight.transposed || proj->transposed);
    assert_true(lt_model_tensor(model, 1, 3)->vector[0] == 0.0f); /* a bias */
    lt_model_destroy(model);
}

static void stops_and_fails(void **state)
{
    (void)state;
    const struct lt_synthetic_options opt = {.format = LT_WEIGHT_NF4};
    struct lt_model *model;
    struct lt_error err = {0};
    if (make(&model, llama_config, &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_cancel_request();
    assert_int_equal(lt_synthetic_fill(model, &opt, NULL, NULL, &err), LT_ERR_CANCELLED);
    lt_cancel_reset();
    lt_model_destroy(model);

    for (long n = 1; n <= 3; n++) { /* one block of memory for each kind */
        if (make(&model, llama_config, &err) != LT_OK)
            fail_msg("%s", err.message);
        lt_alloc_fail_at(n);
        assert_int_equal(lt_synthetic_fill(model, &opt, NULL, NULL, &err), LT_ERR_NOMEM);
        lt_alloc_fail_at(0);
        lt_model_destroy(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_config),        cmocka_unit_test(same_for_any_threads),
        cmocka_unit_test(formats_and_values), cmocka_unit_test(trained_tensors_stay_unquantized),
        cmocka_unit_test(stops_and_fails),
    };
    return cmocka_run_group_tests_name("weight_synthetic", tests, NULL, NULL);
}
