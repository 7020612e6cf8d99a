/* Storage formats against bitsandbytes: its packed bytes, scales, codes and dequantized weights. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/safetensors.h"
#include "quant/bnb_checkpoint.h"
#include "quant/dynamic_map.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/weight_codec.h"
#include "tests/support/fixtures.h"

/* ---- reading ---- */

static void *allocate(size_t count, size_t size)
{
    void *p = lt_alloc_array(count, size);
    assert_non_null(p);
    return p;
}

static void open_fixture(struct lt_safetensors *st, const char *relative)
{
    char path[4096];
    struct lt_error err = {0};
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    if (lt_safetensors_open(st, path, &err) != LT_OK)
        fail_msg("%s", err.message);
}

static const struct lt_st_tensor *find(const struct lt_safetensors *st, const char *prefix,
                                       const char *suffix)
{
    char name[256];
    lt_snprintf(name, sizeof name, "%s%s", prefix, suffix);
    const struct lt_st_tensor *t = lt_safetensors_find(st, name);
    if (!t)
        fail_msg("%s is not in %s", name, st->map.path);
    return t;
}

/* A float tensor as f32; the caller frees it. */
static float *floats(const struct lt_safetensors *st, const char *prefix, const char *suffix)
{
    const struct lt_st_tensor *t = find(st, prefix, suffix);
    float *x = allocate((size_t)t->elements, sizeof *x);
    assert_int_equal(lt_safetensors_read_f32(st, t, x, NULL), LT_OK);
    return x;
}

static const void *bytes_of(const struct lt_safetensors *st, const char *prefix, const char *suffix)
{
    return lt_safetensors_data(st, find(st, prefix, suffix));
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* A double-quantized weight whose tensors are called base + these suffixes.  It owns its arrays. */
struct nested_names {
    const char *packed, *codes, *absmax, *map_prefix, *map, *code_prefix, *code;
};

static struct lt_weight nested_weight(const struct lt_safetensors *st, const char *base,
                                      const struct nested_names *names, float offset)
{
    return (struct lt_weight){
        .format = LT_WEIGHT_NF4,
        .data = bytes_of(st, base, names->packed),
        .blocksize = 64,
        .absmax_codes = bytes_of(st, base, names->codes),
        .nested_absmax = floats(st, base, names->absmax),
        .nested_code = floats(st, names->map_prefix, names->map),
        .nested_offset = offset,
        .code = floats(st, names->code_prefix, names->code),
    };
}

static void free_weight(struct lt_weight *w)
{
    lt_free((void *)(uintptr_t)w->nested_absmax);
    lt_free((void *)(uintptr_t)w->nested_code);
    lt_free((void *)(uintptr_t)w->code);
}

/* ---- blocks.safetensors ---- */

/* The decoded weight, rounded once to the source's type, is the stored tensor bit for bit. */
static void check_dequantized(const struct lt_safetensors *st, const char *name, const char *suffix,
                              const struct lt_weight *w)
{
    const struct lt_st_tensor *t = find(st, name, suffix);
    size_t n = (size_t)t->elements;
    float *y = allocate(n, sizeof *y);
    void *rounded = allocate(1, t->bytes);
    lt_nf4_dequantize(y, w, 0, (int64_t)n);
    lt_convert_from_f32(rounded, y, t->dtype, n);
    assert_memory_equal(rounded, lt_safetensors_data(st, t), t->bytes);
    lt_free(rounded);
    lt_free(y);
}

/* The reference sums the mean in f32 in an order of its own: some ulp of the offset.  Its nested codes
 * come from a rule that is coarser than CUDA's: one code apart at most. */
static void check_double_quantize(const float *absmax, int64_t blocks, const uint8_t *want_codes,
                                  const float *want_nested, float want_offset)
{
    uint8_t *codes = allocate((size_t)blocks, 1);
    float nested[8], offset;
    assert_true(lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE) <= 8);
    lt_double_quantize(codes, nested, &offset, absmax, blocks);
    float slack = 4.0f * 0x1p-23f * want_offset;
    assert_true(fabsf(offset - want_offset) <= slack);
    for (int64_t i = 0; i < lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE); i++)
        assert_true(fabsf(nested[i] - want_nested[i]) <= slack);
    for (int64_t i = 0; i < blocks; i++)
        assert_in_range(codes[i] + 1, want_codes[i], want_codes[i] + 2);
    lt_free(codes);
}

static void check_blocks(const struct lt_safetensors *st, const char *name)
{
    static const struct nested_names names = {
        .packed = ".packed",
        .codes = ".absmax_codes",
        .absmax = ".nested_absmax",
    };
    const struct lt_st_tensor *source = find(st, name, ".source");
    int64_t n = (int64_t)source->elements, blocks = lt_quant_blocks(n, 64);
    float *x = floats(st, name, ".source");
    float *want_absmax = floats(st, name, ".absmax_plain");
    float *nested_absmax = floats(st, name, names.absmax);
    float *offset = floats(st, name, ".offset");
    uint8_t *packed = allocate((size_t)(n + 1) / 2, 1);
    float *absmax = allocate((size_t)blocks, sizeof *absmax);

    lt_nf4_quantize(packed, absmax, x, n, 64);
    assert_int_equal(find(st, name, ".packed")->bytes, (n + 1) / 2);
    assert_int_equal(find(st, name, ".absmax_plain")->elements, blocks);
    assert_memory_equal(packed, bytes_of(st, name, ".packed"), (size_t)(n + 1) / 2);
    assert_memory_equal(absmax, want_absmax, (size_t)blocks * sizeof *absmax);
    check_double_quantize(absmax, blocks, bytes_of(st, name, names.codes), nested_absmax, *offset);

    struct lt_weight w = {.format = LT_WEIGHT_NF4,
                          .rows = source->shape[0],
                          .cols = source->shape[1],
                          .data = packed,
                          .blocksize = 64,
                          .absmax = absmax,
                          .code = lt_nf4_code};
    check_dequantized(st, name, ".dequantized_plain", &w);
    w.absmax = NULL;
    w.absmax_codes = bytes_of(st, name, names.codes);
    w.nested_absmax = nested_absmax;
    w.nested_code = lt_dynamic_map_signed;
    w.nested_offset = *offset;
    check_dequantized(st, name, ".dequantized_nested", &w);

    lt_free(absmax);
    lt_free(packed);
    lt_free(offset);
    lt_free(nested_absmax);
    lt_free(want_absmax);
    lt_free(x);
}

static void test_blocks(void **state)
{
    (void)state;
    struct lt_safetensors st;
    open_fixture(&st, "goldens/qlora/blocks.safetensors");
    static const char *const names[] = {"large", "short", "odd", "bf16", "f16"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_blocks(&st, names[i]);
    lt_safetensors_close(&st);
}

/* ---- quantized.safetensors, dequantized.safetensors ---- */

static void check_equal_decode(const struct lt_weight *w, const struct lt_safetensors *want, const char *name)
{
    const struct lt_st_tensor *t = find(want, name, "");
    float *y = allocate((size_t)t->elements, sizeof *y);
    lt_weight_codecs[w->format].decode(y, w, 0, (int64_t)t->elements);
    assert_memory_equal(y, lt_safetensors_data(want, t), t->bytes);
    lt_free(y);
}

static void test_model_dequantized(void **state)
{
    (void)state;
    static const struct nested_names names = {
        .packed = ".packed",
        .codes = ".absmax_codes",
        .absmax = ".nested_absmax",
        .map_prefix = "nested_code",
        .map = "",
        .code_prefix = "code",
        .code = "",
    };
    struct lt_safetensors q, dq;
    open_fixture(&q, "goldens/qlora/quantized.safetensors");
    open_fixture(&dq, "goldens/qlora/dequantized.safetensors");
    assert_memory_equal(bytes_of(&q, "code", ""), lt_nf4_code, sizeof lt_nf4_code);
    assert_memory_equal(bytes_of(&q, "nested_code", ""), lt_dynamic_map_signed, sizeof lt_dynamic_map_signed);
    for (size_t i = 0; i < dq.count; i++) {
        const char *name = dq.tensors[i].name;
        float *offset = floats(&q, name, ".offset");
        struct lt_weight w = nested_weight(&q, name, &names, *offset);
        check_equal_decode(&w, &dq, name);
        free_weight(&w);
        lt_free(offset);
    }
    assert_int_equal(dq.count, 21);
    lt_safetensors_close(&dq);
    lt_safetensors_close(&q);
}

static void test_model_quantized(void **state)
{
    (void)state;
    struct lt_safetensors q, model;
    open_fixture(&model, "goldens/llama-tiny/model.safetensors");
    open_fixture(&q, "goldens/qlora/quantized.safetensors");
    int checked = 0;
    for (size_t i = 0; i < model.count; i++) {
        const struct lt_st_tensor *t = &model.tensors[i];
        if (!ends_with(t->name, "_proj.weight"))
            continue;
        int64_t n = (int64_t)t->elements, blocks = lt_quant_blocks(n, 64);
        float *x = floats(&model, t->name, "");
        uint8_t *packed = allocate((size_t)(n + 1) / 2, 1);
        float *absmax = allocate((size_t)blocks, sizeof *absmax);
        float *nested = floats(&q, t->name, ".nested_absmax"), *offset = floats(&q, t->name, ".offset");
        lt_nf4_quantize(packed, absmax, x, n, 64);
        assert_memory_equal(packed, bytes_of(&q, t->name, ".packed"), (size_t)(n + 1) / 2);
        assert_memory_equal(absmax, bytes_of(&q, t->name, ".absmax_plain"), (size_t)blocks * sizeof *absmax);
        check_double_quantize(absmax, blocks, bytes_of(&q, t->name, ".absmax_codes"), nested, *offset);
        lt_free(offset);
        lt_free(nested);
        lt_free(absmax);
        lt_free(packed);
        lt_free(x);
        checked++;
    }
    assert_int_equal(checked, 21);
    lt_safetensors_close(&q);
    lt_safetensors_close(&model);
}

/* ---- checkpoint-bnb-4bit ---- */

/* Reads the state beside `base`, and writes it again: the same bytes. */
static struct lt_bnb_state read_state(const struct lt_safetensors *st, const char *base)
{
    const struct lt_st_tensor *t = find(st, base, lt_bnb_state_suffix(LT_WEIGHT_NF4));
    const void *json = lt_safetensors_data(st, t);
    struct lt_bnb_state s;
    struct lt_error err = {0};
    if (lt_bnb_state_parse(&s, json, t->bytes, t->name, &err) != LT_OK)
        fail_msg("%s", err.message);
    return s;
}

static void test_checkpoint(void **state)
{
    (void)state;
    static const struct nested_names suffixes = {
        .packed = "",
        .codes = ".absmax",
        .absmax = ".nested_absmax",
        .map = ".nested_quant_map",
        .code = ".quant_map",
    };
    struct lt_safetensors ck, dq;
    open_fixture(&ck, "goldens/qlora/checkpoint-bnb-4bit/model.safetensors");
    open_fixture(&dq, "goldens/qlora/dequantized.safetensors");
    for (size_t i = 0; i < dq.count; i++) {
        const struct lt_st_tensor *want = &dq.tensors[i];
        struct lt_bnb_state s = read_state(&ck, want->name);
        assert_int_equal(s.quant_type, LT_WEIGHT_NF4);
        assert_int_equal(s.dtype, LT_F32);
        assert_int_equal(s.shape[0], want->shape[0]);
        assert_int_equal(s.shape[1], want->shape[1]);
        assert_int_equal(s.blocksize, 64);
        assert_true(s.nested);

        struct lt_strbuf text;
        lt_strbuf_init(&text);
        lt_bnb_state_format(&text, &s);
        const struct lt_st_tensor *json = find(&ck, want->name, lt_bnb_state_suffix(s.quant_type));
        assert_int_equal(text.len, json->bytes);
        assert_memory_equal(lt_strbuf_str(&text), lt_safetensors_data(&ck, json), json->bytes);
        lt_strbuf_deinit(&text);

        struct nested_names names = suffixes;
        names.map_prefix = names.code_prefix = want->name;
        struct lt_weight w = nested_weight(&ck, want->name, &names, s.nested_offset);
        w.rows = s.shape[0];
        w.cols = s.shape[1];
        check_equal_decode(&w, &dq, want->name);
        free_weight(&w);
    }
    lt_safetensors_close(&dq);
    lt_safetensors_close(&ck);
}

/* The maps that an 8-bit optimizer holds are the ones in our tables. */
static void test_optimizer_maps(void **state)
{
    (void)state;
    struct lt_safetensors st;
    open_fixture(&st, "goldens/optim/adamw8bit-bnb-cpu.safetensors");
    assert_memory_equal(bytes_of(&st, "qmap1", ""), lt_dynamic_map_signed, sizeof lt_dynamic_map_signed);
    assert_memory_equal(bytes_of(&st, "qmap2", ""), lt_dynamic_map_unsigned, sizeof lt_dynamic_map_unsigned);
    lt_safetensors_close(&st);
}

/* ---- int8 ---- */

static void test_int8(void **state)
{
    (void)state;
    struct lt_safetensors st;
    open_fixture(&st, "goldens/int8/int8.safetensors");
    const struct lt_st_tensor *t = find(&st, "weight", "");
    int64_t rows = t->shape[0], cols = t->shape[1];
    size_t n = (size_t)t->elements;
    float *x = floats(&st, "weight", ""), *y = allocate(n, sizeof *y);
    float *scale = allocate((size_t)rows, sizeof *scale);
    int8_t *codes = allocate(n, 1);
    lt_int8_quantize(codes, scale, x, rows, cols);
    assert_memory_equal(codes, bytes_of(&st, "weight_codes", ""), n);
    assert_memory_equal(scale, bytes_of(&st, "weight_scale", ""), (size_t)rows * sizeof *scale);
    struct lt_weight w = {
        .format = LT_WEIGHT_INT8, .rows = rows, .cols = cols, .data = codes, .absmax = scale};
    lt_int8_dequantize(y, &w, 0, (int64_t)n);
    assert_memory_equal(y, bytes_of(&st, "weight_dequantized", ""), n * sizeof *y);
    lt_free(codes);
    lt_free(scale);
    lt_free(y);
    lt_free(x);
    lt_safetensors_close(&st);
}

/* ---- slices of published checkpoints, decoded by bitsandbytes on CUDA to bf16 ---- */

struct slice {
    char *data;
    size_t size, at;
};

static void open_slice(struct slice *s, const char *name)
{
    char relative[256], path[4096];
    struct lt_error err = {0};
    lt_snprintf(relative, sizeof relative, "data/PCfVW+anamnesis/tests/fixtures/bnb_reference/%s", name);
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    s->at = 0;
    if (lt_file_read(path, 1 << 24, &s->data, &s->size, &err) != LT_OK)
        fail_msg("%s", err.message);
}

/* Copies n bytes out: nothing in these files is aligned. */
static void *take(struct slice *s, size_t n)
{
    assert_true(n <= s->size - s->at);
    void *p = allocate(1, n);
    memcpy(p, s->data + s->at, n);
    s->at += n;
    return p;
}

/* y, rounded to bf16, is `want`.  The FP4 files have +0 in their tables where the kernel that wrote
 * `want` returns -0. */
static void assert_bf16(const float *y, const uint16_t *want, size_t n, bool zero_sign)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t got = lt_f32_to_bf16(y[i]);
        if (got != want[i] && (zero_sign || ((got | want[i]) & 0x7fff) != 0))
            fail_msg("element %zu: %04x, not %04x", i, got, want[i]);
    }
}

static void check_slice_4bit(const char *name, enum lt_weight_format format)
{
    struct slice s;
    open_slice(&s, name);
    uint32_t *head = take(&s, 36);
    float *offset = take(&s, 4);
    size_t n = head[1];
    assert_int_equal(head[8], 2 * n);
    bool nested = head[0] == 2;
    void *packed = take(&s, head[3]), *absmax = take(&s, head[4]), *code = take(&s, head[5]);
    void *nested_absmax = take(&s, head[6]), *nested_code = take(&s, head[7]);
    uint16_t *want = take(&s, head[8]);
    assert_int_equal(s.at, s.size);

    struct lt_weight w = {.format = format,
                          .rows = 1,
                          .cols = (int64_t)n,
                          .data = packed,
                          .blocksize = (int32_t)head[2],
                          .code = code};
    if (nested) {
        w.absmax_codes = absmax;
        w.nested_absmax = nested_absmax;
        w.nested_code = nested_code;
        w.nested_offset = *offset;
    } else {
        w.absmax = absmax;
    }
    float *y = allocate(n, sizeof *y);
    lt_weight_codecs[format].decode(y, &w, 0, (int64_t)n);
    assert_bf16(y, want, n, format == LT_WEIGHT_NF4);
    if (nested)
        assert_memory_equal(nested_code, lt_dynamic_map_signed, sizeof lt_dynamic_map_signed);
    w.code = format == LT_WEIGHT_NF4 ? lt_nf4_code : lt_fp4_code;
    lt_weight_codecs[format].decode(y, &w, 0, (int64_t)n);
    assert_bf16(y, want, n, true);

    lt_free(y);
    lt_free(want);
    lt_free(nested_code);
    lt_free(nested_absmax);
    lt_free(code);
    lt_free(absmax);
    lt_free(packed);
    lt_free(offset);
    lt_free(head);
    lt_free(s.data);
}

static void test_published_4bit(void **state)
{
    (void)state;
    check_slice_4bit("llama_1b_nf4.bin", LT_WEIGHT_NF4);
    check_slice_4bit("llama_1b_nf4_double_quant.bin", LT_WEIGHT_NF4);
    check_slice_4bit("phi3_5_mini_nf4_dq.bin", LT_WEIGHT_NF4);
    check_slice_4bit("qwen2_5_1_5b_nf4_dq.bin", LT_WEIGHT_NF4);
    check_slice_4bit("llama_1b_fp4.bin", LT_WEIGHT_FP4);
    check_slice_4bit("qwen3_mcqa_fp4.bin", LT_WEIGHT_FP4);
}

static void test_published_int8(void **state)
{
    (void)state;
    struct slice s;
    open_slice(&s, "llama_1b_int8.bin");
    uint32_t *head = take(&s, 24);
    size_t n = (size_t)head[1] * head[2];
    int8_t *codes = take(&s, head[3]);
    float *scale = take(&s, head[4]), *y = allocate(n, sizeof *y);
    uint16_t *want = take(&s, head[5]);
    assert_int_equal(s.at, s.size);
    assert_int_equal(head[3], n);
    struct lt_weight w = {
        .format = LT_WEIGHT_INT8, .rows = head[1], .cols = head[2], .data = codes, .absmax = scale};
    lt_int8_dequantize(y, &w, 0, (int64_t)n);
    assert_bf16(y, want, n, true);
    lt_free(want);
    lt_free(y);
    lt_free(scale);
    lt_free(codes);
    lt_free(head);
    lt_free(s.data);
}

/* A file from another writer: other key order, "not nested" spelled as zeros. */
static void test_foreign_checkpoint(void **state)
{
    (void)state;
    static const char *const base = "model.layers.0.weight";
    struct lt_safetensors st;
    open_fixture(&st, "data/PCfVW+anamnesis/tests/fixtures/safetensors_reference/bnb_nf4.safetensors");
    struct lt_bnb_state s = read_state(&st, base);
    assert_false(s.nested);
    assert_int_equal(s.dtype, LT_BF16);
    assert_int_equal(s.shape[0] * s.shape[1], 64);
    assert_int_equal(find(&st, base, "")->bytes, 32);
    assert_int_equal(find(&st, base, ".absmax")->elements, lt_quant_blocks(64, s.blocksize));
    lt_safetensors_close(&st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_model_dequantized),
        cmocka_unit_test(test_model_quantized),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_optimizer_maps),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_published_4bit),
        cmocka_unit_test(test_published_int8),
        cmocka_unit_test(test_foreign_checkpoint),
    };
    return cmocka_run_group_tests_name("quant_golden", tests, NULL, NULL);
}
