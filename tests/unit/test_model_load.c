/* Tensor lists and weights: what the goldens load to, quantized, converted or as stored, and how much memory that
 * takes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "models/arch.h"
#include "models/model_load.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/weight_codec.h"
#include "tests/support/fixtures.h"

static const char LLAMA[] = "goldens/llama-tiny", GPT2[] = "goldens/gpt2-tiny",
                  SMOL[] = "goldens/archs/smollm2", BNB[] = "goldens/qlora/checkpoint-bnb-4bit";

struct opened {
    struct lt_checkpoint ck;
    struct lt_model *model;
};

static struct lt_model *open_at(struct opened *o, const char *path)
{
    struct lt_error err = {0};
    if (lt_checkpoint_open(&o->ck, path, &err) != LT_OK ||
        lt_model_open(&o->model, &o->ck, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    return o->model;
}

static struct lt_model *open_golden(struct opened *o, const char *relative)
{
    char path[1024];
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    return open_at(o, path);
}

static void load(struct opened *o, const struct lt_load_options *opt)
{
    struct lt_error err = {0};
    if (lt_model_load(o->model, &o->ck, opt, NULL, NULL, &err) != LT_OK)
        fail_msg("%s", err.message);
}

static void close_model(struct opened *o)
{
    lt_model_destroy(o->model);
    lt_checkpoint_close(&o->ck);
}

static const struct lt_model_tensor *find(const struct lt_model *m, const char *name)
{
    for (int i = 0; i < m->tensor_count; i++)
        if (strcmp(m->tensors[i].name, name) == 0)
            return &m->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static float *allocate(int64_t n)
{
    float *x = lt_alloc_array((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* All values of a loaded matrix in the order of its bytes. */
static float *values_of(const struct lt_weight *w)
{
    float *x = allocate(w->rows * w->cols);
    lt_weight_codecs[w->format].decode(x, w, 0, w->rows * w->cols);
    return x;
}

static float *stored_values(const struct lt_checkpoint *ck, const char *name)
{
    struct lt_checkpoint_tensor ct;
    assert_true(lt_checkpoint_find(ck, name, &ct));
    float *x = allocate((int64_t)ct.tensor->elements);
    assert_int_equal(lt_safetensors_read_f32(ct.file, ct.tensor, x, NULL), LT_OK);
    return x;
}

/* ---- tensor lists ---- */

static void llama_list(void **state)
{
    (void)state;
    struct opened o;
    struct lt_model *m = open_golden(&o, LLAMA);
    assert_int_equal(m->tensor_count, 1 + 3 * 9 + 2);
    assert_int_equal(lt_model_segments(m), 5);
    assert_int_equal(lt_model_segment_tensors(m, 0), 1);
    assert_int_equal(lt_model_segment_tensors(m, 1), 9);
    assert_int_equal(lt_model_segment_tensors(m, 4), 2);
    assert_int_equal(m->segment_first[5], m->tensor_count);
    uint64_t parameters = 0;
    for (size_t i = 0; i < o.ck.tensor_count; i++)
        parameters += o.ck.tensors[i].tensor->elements;
    assert_int_equal(m->parameters, parameters);
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        assert_ptr_equal(lt_model_tensor(m, t->segment, t->index), t);
        assert_int_equal(t->shared, -1);
        assert_false(t->is_bias);
    }
    const struct lt_model_tensor *q = find(m, "model.layers.2.self_attn.k_proj.weight");
    assert_string_equal(q->module, "model.layers.2.self_attn.k_proj");
    assert_int_equal(q->kind, LT_TENSOR_LINEAR);
    assert_int_equal(q->rows, 32);
    assert_int_equal(q->cols, 64);
    assert_int_equal(q->segment, 3);
    const struct lt_model_tensor *n = find(m, "model.layers.0.post_attention_layernorm.weight");
    assert_true(n->is_norm && n->kind == LT_TENSOR_VECTOR && n->rows == 1 && n->cols == 64);
    const struct lt_model_tensor *head = find(m, "lm_head.weight");
    assert_true(head->is_head && head->kind == LT_TENSOR_LINEAR);
    assert_int_equal(find(m, "model.embed_tokens.weight")->kind, LT_TENSOR_EMBEDDING);
    close_model(&o);
}

static void tied_list(void **state)
{
    (void)state;
    struct opened o;
    struct lt_model *m = open_golden(&o, SMOL);
    const struct lt_model_tensor *head = &m->tensors[m->tensor_count - 1];
    assert_true(head->is_head);
    assert_int_equal(head->shared, 0);
    assert_string_equal(head->module, "lm_head");
    uint64_t parameters = 0;
    for (size_t i = 0; i < o.ck.tensor_count; i++)
        parameters += o.ck.tensors[i].tensor->elements;
    assert_int_equal(m->parameters, parameters);
    load(&o, &(struct lt_load_options){0});
    assert_ptr_equal(head->weight.data, m->tensors[0].weight.data);
    assert_int_equal(head->weight.format, LT_WEIGHT_BF16);
    close_model(&o);
}

static void gpt2_list(void **state)
{
    (void)state;
    struct opened o;
    struct lt_model *m = open_golden(&o, GPT2);
    assert_int_equal(m->tensor_count, 2 + 2 * 12 + 3);
    assert_int_equal(lt_model_segment_tensors(m, 0), 2);
    const struct lt_model_tensor *t = find(m, "transformer.h.1.mlp.c_fc.weight");
    assert_true(t->transposed && t->rows == 192 && t->cols == 48);
    assert_true(find(m, "transformer.h.1.mlp.c_fc.bias")->is_bias);
    t = find(m, "transformer.h.0.ln_2.bias");
    assert_true(t->is_norm && t->is_bias && t->kind == LT_TENSOR_VECTOR);
    load(&o, &(struct lt_load_options){0});
    t = find(m, "transformer.h.1.attn.c_attn.weight");
    assert_true(t->transposed && t->weight.transposed && t->weight.rows == 144 && t->weight.cols == 48);
    close_model(&o);
}

/* ---- as stored ---- */

static void stored(void **state)
{
    (void)state;
    static const char *const folders[] = {"goldens/llama-tiny", "goldens/gpt2-tiny", "goldens/archs/llama31",
                                          "goldens/archs/smollm2"};
    for (int f = 0; f < 4; f++) {
        struct opened o;
        struct lt_model *m = open_golden(&o, folders[f]);
        load(&o, &(struct lt_load_options){0});
        for (int i = 0; i < m->tensor_count; i++) {
            const struct lt_model_tensor *t = &m->tensors[i];
            if (t->shared >= 0)
                continue;
            float *expected = stored_values(&o.ck, t->name);
            size_t bytes = (size_t)(t->rows * t->cols) * sizeof(float);
            if (t->kind == LT_TENSOR_VECTOR) {
                assert_memory_equal(t->vector, expected, bytes);
            } else {
                struct lt_checkpoint_tensor ct;
                assert_true(lt_checkpoint_find(&o.ck, t->name, &ct));
                assert_ptr_equal(t->weight.data, lt_safetensors_data(ct.file, ct.tensor));
                float *got = values_of(&t->weight);
                assert_memory_equal(got, expected, bytes);
                lt_free(got);
            }
            lt_free(expected);
        }
        close_model(&o);
    }
}

static void as_f32(void **state)
{
    (void)state;
    struct opened o;
    struct lt_model *m = open_golden(&o, SMOL);
    load(&o, &(struct lt_load_options){.quant = LT_LOAD_F32, .threads = 2});
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->kind == LT_TENSOR_VECTOR || t->shared >= 0)
            continue;
        float *expected = stored_values(&o.ck, t->name);
        assert_int_equal(t->weight.format, LT_WEIGHT_F32);
        assert_memory_equal(t->weight.data, expected, (size_t)(t->rows * t->cols) * sizeof(float));
        lt_free(expected);
    }
    close_model(&o);
}

/* ---- quantized while loading ---- */

/* bitsandbytes' packed bytes and scales of every linear layer of the same model. */
static void nf4_golden(void **state)
{
    (void)state;
    char path[1024];
    struct lt_safetensors st;
    struct opened o;
    if (!lt_fixture_path(path, sizeof path, "goldens/qlora/quantized.safetensors"))
        lt_test_skip_missing("goldens/qlora/quantized.safetensors");
    assert_int_equal(lt_safetensors_open(&st, path, NULL), LT_OK);
    struct lt_model *m = open_golden(&o, LLAMA);
    load(&o, &(struct lt_load_options){.quant = LT_LOAD_NF4});
    int quantized = 0;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        char name[256];
        if (t->kind != LT_TENSOR_LINEAR || t->is_head) {
            assert_true(t->kind == LT_TENSOR_VECTOR || t->weight.format == LT_WEIGHT_F32);
            continue;
        }
        lt_snprintf(name, sizeof name, "%s.packed", t->name);
        const struct lt_st_tensor *packed = lt_safetensors_find(&st, name);
        lt_snprintf(name, sizeof name, "%s.absmax_plain", t->name);
        const struct lt_st_tensor *absmax = lt_safetensors_find(&st, name);
        assert_true(packed && absmax);
        assert_int_equal(t->weight.format, LT_WEIGHT_NF4);
        assert_int_equal(t->weight.blocksize, 64);
        assert_memory_equal(t->weight.data, lt_safetensors_data(&st, packed), packed->bytes);
        assert_memory_equal(t->weight.absmax, lt_safetensors_data(&st, absmax), absmax->bytes);
        quantized++;
    }
    assert_int_equal(quantized, 21);
    close_model(&o);
    lt_safetensors_close(&st);
}

/* Any number of threads and both kinds of scales: what the quantizer makes of the whole matrix. */
static void assert_quantized(const struct lt_model_tensor *t, const float *x, bool fp4, bool nested)
{
    int64_t n = t->rows * t->cols, blocks = lt_quant_blocks(n, 64), groups = lt_quant_blocks(blocks, 256);
    uint8_t *packed = lt_alloc((size_t)(n + 1) / 2), *codes = lt_alloc((size_t)blocks);
    float *absmax = allocate(blocks), *nested_absmax = allocate(groups), offset;
    assert_true(packed && codes);
    if (fp4)
        lt_fp4_quantize(packed, absmax, x, n, 64);
    else
        lt_nf4_quantize(packed, absmax, x, n, 64);
    lt_double_quantize(codes, nested_absmax, &offset, absmax, blocks);
    const struct lt_weight *w = &t->weight;
    assert_int_equal(w->format, fp4 ? LT_WEIGHT_FP4 : LT_WEIGHT_NF4);
    assert_ptr_equal(w->code, fp4 ? lt_fp4_code : lt_nf4_code);
    assert_false(w->transposed || t->transposed);
    assert_memory_equal(w->data, packed, (size_t)(n + 1) / 2);
    if (nested) {
        assert_null(w->absmax);
        assert_memory_equal(w->absmax_codes, codes, (size_t)blocks);
        assert_memory_equal(w->nested_absmax, nested_absmax, (size_t)groups * sizeof(float));
        assert_true(w->nested_offset == offset);
    } else {
        assert_null(w->absmax_codes);
        assert_memory_equal(w->absmax, absmax, (size_t)blocks * sizeof(float));
    }
    lt_free(packed);
    lt_free(codes);
    lt_free(absmax);
    lt_free(nested_absmax);
}

static void quantize_all(const char *folder, const struct lt_load_options *opt)
{
    struct opened o;
    struct lt_model *m = open_golden(&o, folder);
    load(&o, opt);
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->kind != LT_TENSOR_LINEAR || t->is_head)
            continue;
        float *x = stored_values(&o.ck, t->name), *y = allocate(t->rows * t->cols);
        bool conv1d = strcmp(m->arch->name, "gpt2") == 0;
        for (int64_t r = 0; r < t->rows; r++)
            for (int64_t c = 0; c < t->cols; c++)
                y[r * t->cols + c] = conv1d ? x[c * t->rows + r] : x[r * t->cols + c];
        assert_quantized(t, y, opt->quant == LT_LOAD_FP4, opt->double_quant);
        lt_free(x);
        lt_free(y);
    }
    close_model(&o);
}

static void any_threads(void **state)
{
    (void)state;
    static const char *const folders[] = {"goldens/llama-tiny", "goldens/gpt2-tiny", "goldens/archs/smollm2"};
    for (int f = 0; f < 3; f++)
        for (int threads = 0; threads <= 3; threads++)
            for (int variant = 0; variant < 4; variant++)
                quantize_all(folders[f],
                             &(struct lt_load_options){.quant = variant & 1 ? LT_LOAD_FP4 : LT_LOAD_NF4,
                                                       .double_quant = variant & 2,
                                                       .threads = threads});
}

static void trainable_stays(void **state)
{
    (void)state;
    struct opened o;
    struct lt_model *m = open_golden(&o, SMOL);
    lt_model_tensor(m, 1, 1)->trainable = true;
    lt_model_tensor(m, 1, 2)->lora.rank = 4;
    load(&o, &(struct lt_load_options){.quant = LT_LOAD_NF4});
    assert_int_equal(lt_model_tensor(m, 1, 1)->weight.format, LT_WEIGHT_BF16);
    assert_int_equal(lt_model_tensor(m, 1, 2)->weight.format, LT_WEIGHT_NF4);
    close_model(&o);
}

/* Rows of the matrix as used, however it is stored, chunk by chunk. */
static void int8(void **state)
{
    (void)state;
    const char *const folders[] = {LLAMA, GPT2, SMOL};
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        struct opened o;
        struct lt_model *m = open_golden(&o, folders[f]);
        load(&o, &(struct lt_load_options){.quant = LT_LOAD_INT8, .threads = 3});
        int count = 0;
        for (int i = 0; i < m->tensor_count; i++) {
            const struct lt_model_tensor *t = &m->tensors[i];
            if (t->kind != LT_TENSOR_LINEAR || t->is_head)
                continue;
            float *x = stored_values(&o.ck, t->name), *row = allocate(t->cols), scale;
            int8_t *codes = lt_alloc((size_t)t->cols);
            assert_int_equal(t->weight.format, LT_WEIGHT_INT8);
            assert_false(t->transposed);
            for (int64_t r = 0; r < t->rows; r++) {
                for (int64_t k = 0; k < t->cols; k++)
                    row[k] = folders[f] == GPT2 ? x[k * t->rows + r] : x[r * t->cols + k];
                lt_int8_quantize(codes, &scale, row, 1, t->cols);
                assert_memory_equal(codes, (const int8_t *)t->weight.data + r * t->cols, (size_t)t->cols);
                assert_true(t->weight.absmax[r] == scale);
            }
            lt_free(codes);
            lt_free(row);
            lt_free(x);
            count++;
        }
        assert_true(count > 0);
        close_model(&o);
    }
}

/* ---- a quantized checkpoint ---- */

static void assert_dequantized(const struct lt_model *m, const struct lt_safetensors *st)
{
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->kind != LT_TENSOR_LINEAR || t->is_head)
            continue;
        const struct lt_st_tensor *expected = lt_safetensors_find(st, t->name);
        assert_non_null(expected);
        float *got = values_of(&t->weight);
        assert_memory_equal(got, lt_safetensors_data(st, expected), expected->bytes);
        lt_free(got);
    }
}

static void bnb_checkpoint(void **state)
{
    (void)state;
    char path[1024];
    struct lt_safetensors st;
    struct opened o;
    static const enum lt_load_quant quants[] = {LT_LOAD_AS_STORED, LT_LOAD_NF4, LT_LOAD_F32};
    if (!lt_fixture_path(path, sizeof path, "goldens/qlora/dequantized.safetensors"))
        lt_test_skip_missing("goldens/qlora/dequantized.safetensors");
    assert_int_equal(lt_safetensors_open(&st, path, NULL), LT_OK);
    for (int i = 0; i < 3; i++) {
        struct lt_model *m = open_golden(&o, BNB);
        load(&o, &(struct lt_load_options){.quant = quants[i], .threads = 2});
        const struct lt_weight *w = &lt_model_tensor(m, 1, 1)->weight;
        assert_int_equal(w->format, quants[i] == LT_LOAD_F32 ? LT_WEIGHT_F32 : LT_WEIGHT_NF4);
        assert_int_equal(find(m, "lm_head.weight")->weight.format, LT_WEIGHT_F32);
        assert_dequantized(m, &st);
        close_model(&o);
    }
    lt_safetensors_close(&st);
}

/* ---- memory ---- */

static size_t held_bytes(struct lt_model *m)
{
    size_t n = 0;
    for (int i = 0; i < LT_BLOCK_COUNT; i++)
        n += lt_model_store_of(m)->blocks[i].size;
    return n;
}

/* A range lies in the model's memory or in a mapped file. */
static void assert_owned(struct opened *o, const void *p, size_t n)
{
    const unsigned char *begin = p;
    for (int i = 0; i < LT_BLOCK_COUNT; i++) {
        const struct lt_model_block *b = &lt_model_store_of(o->model)->blocks[i];
        if (b->data && begin >= b->data && begin + n <= b->data + b->size)
            return;
    }
    for (size_t i = 0; i < o->ck.file_count; i++) {
        const struct lt_file_map *map = &o->ck.files[i].map;
        if (begin >= map->data && begin + n <= map->data + map->size)
            return;
    }
    fail_msg("memory that nobody owns");
}

static void check_memory(const char *folder, const struct lt_load_options *opt)
{
    struct opened o;
    struct lt_model_memory mem;
    struct lt_error err = {0};
    size_t streamed = 0;
    struct lt_model *m = open_golden(&o, folder);
    assert_int_equal(lt_model_memory(m, &o.ck, opt, &mem, &err), LT_OK);
    assert_int_equal(lt_model_stream(m, &o.ck, opt, &err), LT_OK);
    load(&o, opt);
    assert_int_equal(mem.quantized + mem.converted + mem.vectors, held_bytes(m));
    assert_int_equal(lt_model_store_of(m)->blocks[LT_BLOCK_QUANTIZED].size, mem.quantized);
    if (opt->residency == LT_WEIGHTS_RESIDENT)
        assert_int_equal(mem.mapped, 0);
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        assert_true(!t->streamed || (opt->residency == LT_WEIGHTS_STREAM && t->segment > 0 &&
                                     t->segment <= m->layers && !t->weight.data));
        if (t->kind == LT_TENSOR_VECTOR)
            assert_owned(&o, t->vector, (size_t)t->cols * sizeof(float));
        else if (t->streamed)
            streamed += lt_weight_source_bytes(&t->source);
        else
            assert_owned(&o, t->weight.data, lt_weight_data_bytes(t->weight.format, t->rows, t->cols));
        if (t->kind != LT_TENSOR_VECTOR && t->weight.absmax)
            assert_owned(&o, t->weight.absmax,
                         (size_t)(t->weight.format == LT_WEIGHT_INT8
                                      ? t->rows
                                      : lt_quant_blocks(t->rows * t->cols, 64)) *
                             sizeof(float));
    }
    assert_int_equal(mem.streamed, streamed);
    close_model(&o);
}

static void memory(void **state)
{
    (void)state;
    static const char *const folders[] = {"goldens/llama-tiny", "goldens/gpt2-tiny", "goldens/archs/llama31",
                                          "goldens/archs/smollm2", "goldens/qlora/checkpoint-bnb-4bit"};
    for (int f = 0; f < 5; f++)
        for (int quant = LT_LOAD_AS_STORED; quant <= LT_LOAD_F32; quant++)
            for (int nested = 0; nested < 2; nested++)
                for (int where = LT_WEIGHTS_MMAP; where <= LT_WEIGHTS_STREAM; where++)
                    check_memory(folders[f],
                                 &(struct lt_load_options){.quant = (enum lt_load_quant)quant,
                                                           .double_quant = nested,
                                                           .residency = (enum lt_residency)where});
}

/* 21 linears of 64-element blocks: 4 bits an element, and 32 or some 8 bits a block. */
static void memory_figures(void **state)
{
    (void)state;
    struct opened o;
    struct lt_model_memory plain, nested;
    struct lt_model *m = open_golden(&o, LLAMA);
    struct lt_load_options opt = {.quant = LT_LOAD_NF4, .threads = 2};
    assert_int_equal(lt_model_memory(m, &o.ck, &opt, &plain, NULL), LT_OK);
    opt.double_quant = true;
    assert_int_equal(lt_model_memory(m, &o.ck, &opt, &nested, NULL), LT_OK);
    size_t n = 3 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 176 * 64), slack = 21 * 3 * 64;
    assert_in_range(plain.quantized, n / 2 + n / 16, n / 2 + n / 16 + slack);
    assert_in_range(nested.quantized, n / 2 + n / 64 + 21 * 4, n / 2 + n / 64 + slack);
    assert_int_equal(plain.vectors, 7 * 64 * 4);
    assert_int_equal(plain.converted, 0);
    assert_int_equal(plain.mapped, 2 * 320 * 64 * 4); /* embedding and head */
    assert_true(plain.loading <= 2 * 2 * 176 * 64 * 4);
    opt.quant = LT_LOAD_AS_STORED;
    assert_int_equal(lt_model_memory(m, &o.ck, &opt, &plain, NULL), LT_OK);
    assert_int_equal(plain.loading + plain.quantized + plain.converted, 0);
    close_model(&o);
}

/* ---- progress, cancellation, short memory ---- */

static void count_progress(void *user, int done, int total)
{
    int *last = user;
    assert_int_equal(done, *last + 1);
    assert_int_equal(total, 30);
    *last = done;
}

static void cancel_early(void *user, int done, int total)
{
    (void)user;
    (void)total;
    if (done == 2)
        lt_cancel_request();
}

static void progress(void **state)
{
    (void)state;
    struct opened o;
    int last = 0;
    struct lt_error err = {0};
    const struct lt_load_options opt = {.quant = LT_LOAD_NF4};
    struct lt_model *m = open_golden(&o, LLAMA);
    assert_int_equal(lt_model_load(m, &o.ck, &opt, count_progress, &last, &err), LT_OK);
    assert_int_equal(last, 30);
    close_model(&o);

    m = open_golden(&o, LLAMA);
    assert_int_equal(lt_model_load(m, &o.ck, &opt, cancel_early, NULL, &err), LT_ERR_CANCELLED);
    lt_cancel_reset();
    close_model(&o);
}

static void short_memory(void **state)
{
    (void)state;
    static const char *const folders[] = {"goldens/llama-tiny", "goldens/gpt2-tiny",
                                          "goldens/qlora/checkpoint-bnb-4bit"};
    for (int f = 0; f < 3; f++) {
        struct opened o;
        const struct lt_load_options opt = {.quant = LT_LOAD_NF4, .double_quant = true};
        open_golden(&o, folders[f]);
        lt_model_destroy(o.model);
        int failures = 0;
        for (long n = 1;; n++) {
            struct lt_error err = {0};
            lt_alloc_fail_at(n);
            enum lt_status status = lt_model_open(&o.model, &o.ck, "name", &err);
            if (status == LT_OK)
                status = lt_model_load(o.model, &o.ck, &opt, NULL, NULL, &err);
            lt_alloc_fail_at(0);
            if (status == LT_OK)
                break;
            assert_int_equal(status, LT_ERR_NOMEM);
            assert_true(err.message[0] != '\0');
            lt_model_destroy(o.model);
            failures++;
        }
        assert_true(failures > 60); /* two for each tensor at least */
        close_model(&o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_list),     cmocka_unit_test(tied_list),       cmocka_unit_test(gpt2_list),
        cmocka_unit_test(stored),         cmocka_unit_test(as_f32),          cmocka_unit_test(nf4_golden),
        cmocka_unit_test(any_threads),    cmocka_unit_test(trainable_stays), cmocka_unit_test(int8),
        cmocka_unit_test(bnb_checkpoint), cmocka_unit_test(memory),          cmocka_unit_test(memory_figures),
        cmocka_unit_test(progress),       cmocka_unit_test(short_memory),
    };
    return cmocka_run_group_tests_name("model_load", tests, NULL, NULL);
}
