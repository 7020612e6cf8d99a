/* Checkpoints written by the test: matrices of several chunks, published GPT-2 naming, biases, files with
 * unaligned tensors, and broken ones. */
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
#include "models/model_load.h"
#include "quant/nf4.h"
#include "tests/support/fixtures.h"

/* ---- writing ---- */

enum { MAX_TENSORS = 64 };

struct file_tensor {
    char name[128];
    enum lt_dtype dtype;
    int ndim;
    int64_t shape[4];
    void *data;
};

struct file_list {
    struct file_tensor tensors[MAX_TENSORS];
    int count;
};

/* Deterministic values in (-1, 1) with a few digits, exact in bf16 too. */
static float value_at(uint32_t seed, uint32_t i)
{
    uint32_t h = (i + 1) * 2654435761u ^ seed * 40503u;
    h ^= h >> 15;
    h *= 2246822519u;
    return (float)((int)(h >> 24) - 128) / 128.0f;
}

static void put(struct file_list *l, const char *name, enum lt_dtype dtype, int ndim, int64_t a, int64_t b)
{
    assert_true(l->count < MAX_TENSORS);
    struct file_tensor *t = &l->tensors[l->count++];
    *t = (struct file_tensor){.dtype = dtype, .ndim = ndim, .shape = {a, b, 1, 1}};
    lt_snprintf(t->name, sizeof t->name, "%s", name);
    size_t n = (size_t)(ndim == 2 ? a * b : a);
    float *x = lt_alloc_array(n, sizeof *x);
    t->data = lt_alloc_array(n, 8);
    assert_true(x && t->data);
    for (size_t i = 0; i < n; i++)
        x[i] = value_at((uint32_t)l->count, (uint32_t)i);
    if (dtype == LT_F32 || dtype == LT_F16 || dtype == LT_BF16 || dtype == LT_F64)
        lt_convert_from_f32(t->data, x, dtype, n);
    else
        memset(t->data, 1, n * 8);
    lt_free(x);
}

static struct file_tensor *get(struct file_list *l, const char *name)
{
    for (int i = 0; i < l->count; i++)
        if (strcmp(l->tensors[i].name, name) == 0)
            return &l->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(struct file_list *l, const char *name)
{
    struct file_tensor *t = get(l, name);
    lt_free(t->data);
    *t = l->tensors[--l->count];
}

static void free_list(struct file_list *l)
{
    for (int i = 0; i < l->count; i++)
        lt_free(l->tensors[i].data);
    l->count = 0;
}

static void ok(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

/* Writes the folder "<scratch>/<name>" and returns its path in dir. */
static void write_folder(char dir[512], const char *name, const char *config, const struct file_list *l)
{
    char path[600];
    struct lt_error err = {0};
    struct lt_st_writer *w;
    lt_snprintf(dir, 512, "%s/%s", lt_test_temp_dir(), name);
    ok(lt_dir_create(dir, &err), &err);
    lt_snprintf(path, sizeof path, "%s/config.json", dir);
    ok(lt_file_write_atomic(path, config, strlen(config), &err), &err);
    ok(lt_st_writer_create(&w, &err), &err);
    for (int i = 0; i < l->count; i++) {
        const struct file_tensor *t = &l->tensors[i];
        ok(lt_st_writer_add(w, t->name, t->dtype, t->shape, t->ndim, t->data, &err), &err);
    }
    lt_snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ok(lt_st_writer_save(w, path, &err), &err);
    lt_st_writer_destroy(w);
}

/* One blank more in the header: every tensor begins at an odd offset. */
static void shift_file(const char *dir)
{
    char path[600];
    char *data;
    size_t size;
    struct lt_error err = {0};
    lt_snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ok(lt_file_read(path, 1 << 30, &data, &size, &err), &err);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | (unsigned char)data[i];
    unsigned char *out = lt_alloc(size + 1);
    assert_non_null(out);
    for (int i = 0; i < 8; i++)
        out[i] = (unsigned char)((n + 1) >> (8 * i));
    memcpy(out + 8, data + 8, (size_t)n);
    out[8 + n] = ' ';
    memcpy(out + 9 + n, data + 8 + n, size - 8 - (size_t)n);
    ok(lt_file_write_atomic(path, out, size + 1, &err), &err);
    lt_free(out);
    lt_free(data);
}

/* ---- models ---- */

static const char LLAMA_CONFIG[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 24, \"hidden_size\": 512, "
    "\"intermediate_size\": 1537, \"num_hidden_layers\": 1, \"num_attention_heads\": 8, \"num_key_value_heads\": 2, "
    "\"attention_bias\": true, \"mlp_bias\": true, \"tie_word_embeddings\": false, \"bos_token_id\": 1, "
    "\"eos_token_id\": 2}";

static void llama_tensors(struct file_list *l, enum lt_dtype dtype)
{
    static const struct {
        const char *name;
        int64_t out, in;
    } linears[] = {{"self_attn.q_proj", 512, 512}, {"self_attn.k_proj", 128, 512},
                   {"self_attn.v_proj", 128, 512}, {"self_attn.o_proj", 512, 512},
                   {"mlp.gate_proj", 1537, 512},   {"mlp.up_proj", 1537, 512},
                   {"mlp.down_proj", 512, 1537}};
    char name[128];
    l->count = 0;
    put(l, "model.embed_tokens.weight", dtype, 2, 24, 512);
    for (int i = 0; i < 7; i++) {
        lt_snprintf(name, sizeof name, "model.layers.0.%s.weight", linears[i].name);
        put(l, name, dtype, 2, linears[i].out, linears[i].in);
        lt_snprintf(name, sizeof name, "model.layers.0.%s.bias", linears[i].name);
        put(l, name, dtype, 1, linears[i].out, 0);
    }
    put(l, "model.layers.0.input_layernorm.weight", dtype, 1, 512, 0);
    put(l, "model.layers.0.post_attention_layernorm.weight", dtype, 1, 512, 0);
    put(l, "model.norm.weight", dtype, 1, 512, 0);
    put(l, "lm_head.weight", dtype, 2, 24, 512);
}

static const char GPT2_CONFIG[] =
    "{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", \"vocab_size\": 24, \"n_embd\": 192, "
    "\"n_layer\": 1, \"n_head\": 4, \"n_positions\": 16, \"n_ctx\": 16, \"n_inner\": 3333}";

/* As published: no prefix, causal masks. */
static void gpt2_tensors(struct file_list *l)
{
    l->count = 0;
    put(l, "wte.weight", LT_F32, 2, 24, 192);
    put(l, "wpe.weight", LT_F32, 2, 16, 192);
    put(l, "h.0.ln_1.weight", LT_F32, 1, 192, 0);
    put(l, "h.0.ln_1.bias", LT_F32, 1, 192, 0);
    put(l, "h.0.attn.bias", LT_F32, 2, 16, 16);
    put(l, "h.0.attn.masked_bias", LT_F32, 1, 1, 0);
    put(l, "h.0.attn.c_attn.weight", LT_F32, 2, 192, 576);
    put(l, "h.0.attn.c_attn.bias", LT_F32, 1, 576, 0);
    put(l, "h.0.attn.c_proj.weight", LT_F32, 2, 192, 192);
    put(l, "h.0.attn.c_proj.bias", LT_F32, 1, 192, 0);
    put(l, "h.0.ln_2.weight", LT_F32, 1, 192, 0);
    put(l, "h.0.ln_2.bias", LT_F32, 1, 192, 0);
    put(l, "h.0.mlp.c_fc.weight", LT_F32, 2, 192, 3333);
    put(l, "h.0.mlp.c_fc.bias", LT_F32, 1, 3333, 0);
    put(l, "h.0.mlp.c_proj.weight", LT_F32, 2, 3333, 192);
    put(l, "h.0.mlp.c_proj.bias", LT_F32, 1, 192, 0);
    put(l, "ln_f.weight", LT_F32, 1, 192, 0);
    put(l, "ln_f.bias", LT_F32, 1, 192, 0);
}

struct opened {
    struct lt_checkpoint ck;
    struct lt_model *model;
};

static struct lt_model *open_folder(struct opened *o, const char *dir, const struct lt_load_options *opt)
{
    struct lt_error err = {0};
    ok(lt_checkpoint_open(&o->ck, dir, &err), &err);
    ok(lt_model_open(&o->model, &o->ck, dir, &err), &err);
    ok(lt_model_load(o->model, &o->ck, opt, NULL, NULL, &err), &err);
    return o->model;
}

static void close_folder(struct opened *o)
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

static float *f32_of(const struct file_tensor *t)
{
    size_t n = (size_t)(t->ndim == 2 ? t->shape[0] * t->shape[1] : t->shape[0]);
    float *x = lt_alloc_array(n, sizeof *x);
    assert_non_null(x);
    lt_convert_to_f32(x, t->data, t->dtype, n);
    return x;
}

static void assert_nf4(const struct lt_weight *w, const float *x)
{
    int64_t n = w->rows * w->cols, blocks = lt_quant_blocks(n, 64);
    uint8_t *packed = lt_alloc((size_t)(n + 1) / 2);
    float *absmax = lt_alloc_array((size_t)blocks, sizeof *absmax);
    assert_true(packed && absmax);
    lt_nf4_quantize(packed, absmax, x, n, 64);
    assert_int_equal(w->format, LT_WEIGHT_NF4);
    assert_memory_equal(w->data, packed, (size_t)(n + 1) / 2);
    assert_memory_equal(w->absmax, absmax, (size_t)blocks * sizeof *absmax);
    lt_free(packed);
    lt_free(absmax);
}

/* Several chunks a matrix, the last one short and of an odd number of elements. */
static void llama_in_chunks(void **state)
{
    (void)state;
    static const enum lt_dtype dtypes[] = {LT_F32, LT_BF16, LT_F16, LT_F64};
    struct file_list l;
    struct opened o;
    char dir[512];
    for (int d = 0; d < 4; d++) {
        llama_tensors(&l, dtypes[d]);
        write_folder(dir, "chunks", LLAMA_CONFIG, &l);
        for (int threads = 1; threads <= 4; threads++) {
            struct lt_model *m =
                open_folder(&o, dir, &(struct lt_load_options){.quant = LT_LOAD_NF4, .threads = threads});
            assert_int_equal(m->tensor_count, 1 + 16 + 2);
            for (int i = 0; i < m->tensor_count; i++) {
                const struct lt_model_tensor *t = &m->tensors[i];
                float *x = f32_of(get(&l, t->name));
                if (t->kind == LT_TENSOR_LINEAR && !t->is_head)
                    assert_nf4(&t->weight, x);
                if (t->kind == LT_TENSOR_VECTOR)
                    assert_memory_equal(t->vector, x, (size_t)t->cols * sizeof *x);
                lt_free(x);
            }
            close_folder(&o);
        }
        free_list(&l);
    }
}

static void converted_in_chunks(void **state)
{
    (void)state;
    struct file_list l;
    struct opened o;
    char dir[512];
    llama_tensors(&l, LT_BF16);
    write_folder(dir, "convert", LLAMA_CONFIG, &l);
    for (int threads = 1; threads <= 3; threads++) {
        struct lt_model *m =
            open_folder(&o, dir, &(struct lt_load_options){.quant = LT_LOAD_F32, .threads = threads});
        for (int i = 0; i < m->tensor_count; i++) {
            const struct lt_model_tensor *t = &m->tensors[i];
            float *x = f32_of(get(&l, t->name));
            if (t->kind != LT_TENSOR_VECTOR)
                assert_memory_equal(t->weight.data, x, (size_t)(t->rows * t->cols) * sizeof *x);
            lt_free(x);
        }
        close_folder(&o);
    }
    free_list(&l);
}

static int warnings;

static void count_warnings(void *user, enum lt_log_level level, const char *message)
{
    (void)user;
    (void)message;
    warnings += level == LT_LOG_WARNING;
}

static void published_gpt2(void **state)
{
    (void)state;
    struct file_list l;
    struct opened o;
    char dir[512];
    gpt2_tensors(&l);
    write_folder(dir, "gpt2", GPT2_CONFIG, &l);
    lt_log_set(count_warnings, NULL);
    for (int threads = 1; threads <= 3; threads++) {
        struct lt_model *m =
            open_folder(&o, dir, &(struct lt_load_options){.quant = LT_LOAD_NF4, .threads = threads});
        assert_int_equal(warnings, 0);
        const struct lt_model_tensor *t = find(m, "h.0.mlp.c_fc.weight");
        assert_string_equal(t->module, "transformer.h.0.mlp.c_fc");
        assert_string_equal(find(m, "wte.weight")->module, "transformer.wte");
        for (int i = 0; i < m->tensor_count; i++) {
            t = &m->tensors[i];
            if (t->kind != LT_TENSOR_LINEAR || t->is_head)
                continue;
            float *x = f32_of(get(&l, t->name)), *y = lt_alloc_array((size_t)(t->rows * t->cols), sizeof *y);
            assert_non_null(y);
            for (int64_t r = 0; r < t->rows; r++)
                for (int64_t c = 0; c < t->cols; c++)
                    y[r * t->cols + c] = x[c * t->rows + r];
            assert_nf4(&t->weight, y);
            lt_free(x);
            lt_free(y);
        }
        close_folder(&o);
    }
    lt_log_set(NULL, NULL);
    free_list(&l);
}

/* What cannot be used in place is copied, and counted. */
static void unaligned(void **state)
{
    (void)state;
    struct file_list l;
    struct opened o;
    char dir[512];
    struct lt_model_memory mem;
    const struct lt_load_options opt = {0};
    llama_tensors(&l, LT_F32);
    write_folder(dir, "unaligned", LLAMA_CONFIG, &l);
    shift_file(dir);
    struct lt_model *m = open_folder(&o, dir, &opt);
    size_t expected = 0;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        const struct file_tensor *f = get(&l, t->name);
        size_t bytes = (size_t)(t->rows * t->cols) * sizeof(float);
        const void *got = t->kind == LT_TENSOR_VECTOR ? (const void *)t->vector : t->weight.data;
        assert_int_equal((uintptr_t)got % 64, 0);
        assert_memory_equal(got, f->data, bytes);
        expected += t->kind == LT_TENSOR_VECTOR ? 0 : (bytes + 63) / 64 * 64;
    }
    assert_int_equal(lt_model_memory(m, &o.ck, &opt, &mem, NULL), LT_OK);
    assert_int_equal(mem.converted, expected);
    assert_int_equal(mem.mapped, 0);
    close_folder(&o);
    free_list(&l);
}

static void unaligned_bnb(void **state)
{
    (void)state;
    static const char *const files[] = {"config.json", "model.safetensors"};
    char from[1024], dir[512], to[600];
    struct lt_error err = {0};
    struct opened a, b;
    lt_snprintf(dir, sizeof dir, "%s/bnb", lt_test_temp_dir());
    ok(lt_dir_create(dir, &err), &err);
    for (int i = 0; i < 2; i++) {
        lt_snprintf(to, sizeof to, "goldens/qlora/checkpoint-bnb-4bit/%s", files[i]);
        if (!lt_fixture_path(from, sizeof from, to))
            lt_test_skip_missing(to);
        lt_snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        ok(lt_file_copy(from, to, &err), &err);
    }
    *strrchr(from, '/') = '\0';
    const struct lt_load_options opt = {0};
    shift_file(dir);
    struct lt_model *m = open_folder(&a, from, &opt), *n = open_folder(&b, dir, &opt);
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_weight *x = &m->tensors[i].weight, *y = &n->tensors[i].weight;
        if (x->format != LT_WEIGHT_NF4)
            continue;
        int64_t blocks = lt_quant_blocks(x->rows * x->cols, 64);
        assert_memory_equal(x->data, y->data, (size_t)(x->rows * x->cols) / 2);
        assert_memory_equal(x->absmax_codes, y->absmax_codes, (size_t)blocks);
        assert_memory_equal(x->nested_absmax, y->nested_absmax,
                            (size_t)lt_quant_blocks(blocks, 256) * sizeof(float));
        assert_memory_equal(x->nested_code, y->nested_code, 256 * sizeof(float));
        assert_memory_equal(x->code, y->code, 16 * sizeof(float));
        assert_int_equal((uintptr_t)y->code % 4, 0);
    }
    struct lt_model_memory mem;
    assert_int_equal(lt_model_memory(n, &b.ck, &opt, &mem, NULL), LT_OK);
    assert_int_equal(mem.quantized, 21 * (64 + 64 + 1024)); /* the three f32 parts of each linear */
    close_folder(&a);
    close_folder(&b);
}

/* ---- broken files ---- */

static void refuse(const char *config, const struct file_list *l, enum lt_status status, const char *part)
{
    char dir[512];
    struct opened o;
    struct lt_error err = {0};
    write_folder(dir, "broken", config, l);
    ok(lt_checkpoint_open(&o.ck, dir, &err), &err);
    enum lt_status got = lt_model_open(&o.model, &o.ck, dir, &err);
    if (got != status || !strstr(err.message, part))
        fail_msg("status %d, \"%s\" lacks \"%s\"", (int)got, err.message, part);
    lt_checkpoint_close(&o.ck);
}

static void broken(void **state)
{
    (void)state;
    struct file_list l;
    llama_tensors(&l, LT_F16);
    drop(&l, "model.layers.0.mlp.up_proj.bias");
    refuse(
        LLAMA_CONFIG, &l, LT_ERR_FORMAT,
        "model.safetensors: tensor model.layers.0.mlp.up_proj.bias is missing: the checkpoint is incomplete");
    free_list(&l);

    llama_tensors(&l, LT_F16);
    get(&l, "model.layers.0.self_attn.k_proj.weight")->shape[0] = 512;
    get(&l, "model.layers.0.self_attn.k_proj.weight")->shape[1] = 128;
    refuse(
        LLAMA_CONFIG, &l, LT_ERR_FORMAT,
        "model.layers.0.self_attn.k_proj.weight has shape [512, 128], but config.json makes it [128, 512]");
    free_list(&l);

    llama_tensors(&l, LT_F16);
    struct file_tensor *t = get(&l, "model.norm.weight");
    t->ndim = 2;
    t->shape[1] = 1;
    refuse(LLAMA_CONFIG, &l, LT_ERR_FORMAT, "has shape [512, 1], but config.json makes it [512]");
    free_list(&l);

    llama_tensors(&l, LT_F16);
    get(&l, "model.layers.0.mlp.down_proj.weight")->dtype = LT_I16;
    refuse(LLAMA_CONFIG, &l, LT_ERR_UNSUPPORTED, "down_proj.weight is stored as I16 without");
    free_list(&l);

    llama_tensors(&l, LT_F16);
    get(&l, "model.norm.weight")->dtype = LT_I16;
    refuse(LLAMA_CONFIG, &l, LT_ERR_UNSUPPORTED, "model.norm.weight is stored as I16");
    free_list(&l);
}

/* A 4-bit weight whose parts disagree with its state. */
static void broken_bnb(void **state)
{
    (void)state;
    static const char name[] = "model.layers.0.self_attn.k_proj.weight";
    static const char good[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float16\", \"shape\": [128, 512]}";
    static const char turned[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float16\", \"shape\": [512, 128]}";
    static const char other[] =
        "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"float16\", \"shape\": [128, 512]}";
    static const struct {
        const char *state;
        int64_t codes, absmax, map;
        enum lt_dtype absmax_dtype;
        enum lt_status status;
        const char *part;
    } cases[] = {
        {good, 32768, 1024, 16, LT_F32, LT_OK, NULL},
        {good, 32767, 1024, 16, LT_F32, LT_ERR_FORMAT, "has 32767 bytes, but the quant_state needs 32768"},
        {good, 32768, 1023, 16, LT_F32, LT_ERR_FORMAT, "k_proj.weight.absmax has 4092 bytes"},
        {good, 32768, 1024, 16, LT_U8, LT_ERR_FORMAT, "k_proj.weight.absmax is stored as U8"},
        {good, 32768, 1024, 15, LT_F32, LT_ERR_FORMAT, "k_proj.weight.quant_map has 60 bytes"},
        {good, 32768, 1024, 0, LT_F32, LT_ERR_FORMAT, "k_proj.weight.quant_map is missing"},
        {turned, 32768, 1024, 16, LT_F32, LT_ERR_FORMAT, "[512, 128], but config.json makes it [128, 512]"},
        {other, 32768, 1024, 16, LT_F32, LT_ERR_FORMAT, "quant_type is another one"},
        {"{", 32768, 1024, 16, LT_F32, LT_ERR_FORMAT, "no valid JSON"},
    };
    char part[160];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct file_list l;
        llama_tensors(&l, LT_F16);
        drop(&l, name);
        put(&l, name, LT_U8, 2, cases[i].codes, 1);
        lt_snprintf(part, sizeof part, "%s.absmax", name);
        put(&l, part, cases[i].absmax_dtype, 1, cases[i].absmax, 0);
        lt_snprintf(part, sizeof part, "%s.quant_map", name);
        if (cases[i].map > 0)
            put(&l, part, LT_F32, 1, cases[i].map, 0);
        lt_snprintf(part, sizeof part, "%s.quant_state.bitsandbytes__nf4", name);
        put(&l, part, LT_U8, 1, (int64_t)strlen(cases[i].state), 0);
        memcpy(l.tensors[l.count - 1].data, cases[i].state, strlen(cases[i].state));
        if (cases[i].status != LT_OK) {
            refuse(LLAMA_CONFIG, &l, cases[i].status, cases[i].part);
        } else {
            char dir[512];
            struct opened o;
            write_folder(dir, "mixed", LLAMA_CONFIG, &l);
            struct lt_model *m = open_folder(&o, dir, &(struct lt_load_options){0});
            assert_int_equal(find(m, name)->weight.format, LT_WEIGHT_NF4);
            assert_int_equal(find(m, "model.layers.0.self_attn.q_proj.weight")->weight.format, LT_WEIGHT_F16);
            close_folder(&o);
        }
        free_list(&l);
    }
}

/* Conv1D weights in a bitsandbytes checkpoint are [out, in] already. */
static void bnb_gpt2(void **state)
{
    (void)state;
    static const char name[] = "h.0.attn.c_attn.weight";
    static const char text[] =
        "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"float16\", \"shape\": [576, 192]}";
    struct file_list l;
    struct opened o;
    char dir[512];
    gpt2_tensors(&l);
    drop(&l, name);
    put(&l, name, LT_U8, 2, 576 * 192 / 2, 1);
    put(&l, "h.0.attn.c_attn.weight.absmax", LT_F32, 1, 576 * 192 / 64, 0);
    put(&l, "h.0.attn.c_attn.weight.quant_map", LT_F32, 1, 16, 0);
    put(&l, "h.0.attn.c_attn.weight.quant_state.bitsandbytes__fp4", LT_U8, 1, (int64_t)strlen(text), 0);
    memcpy(l.tensors[l.count - 1].data, text, strlen(text));
    write_folder(dir, "bnb-gpt2", GPT2_CONFIG, &l);
    struct lt_model *m = open_folder(&o, dir, &(struct lt_load_options){0});
    const struct lt_model_tensor *t = find(m, name);
    assert_int_equal(t->weight.format, LT_WEIGHT_FP4);
    assert_false(t->transposed || t->weight.transposed);
    assert_int_equal(t->weight.rows, 576);
    assert_true(find(m, "h.0.mlp.c_fc.weight")->transposed);
    close_folder(&o);
    free_list(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_in_chunks), cmocka_unit_test(converted_in_chunks),
        cmocka_unit_test(published_gpt2),  cmocka_unit_test(unaligned),
        cmocka_unit_test(unaligned_bnb),   cmocka_unit_test(broken),
        cmocka_unit_test(broken_bnb),      cmocka_unit_test(bnb_gpt2),
    };
    return cmocka_run_group_tests_name("model_files", tests, NULL, NULL);
}
