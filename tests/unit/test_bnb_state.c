/* The JSON blob of a bitsandbytes 4-bit weight: what json.dumps writes, and what a hostile file holds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "quant/bnb_checkpoint.h"

static enum lt_status parse(struct lt_bnb_state *out, const char *json, struct lt_error *err)
{
    return lt_bnb_state_parse(out, json, strlen(json), "model.safetensors: x.weight", err);
}

static void assert_formats(const struct lt_bnb_state *state, const char *want)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    lt_bnb_state_format(&sb, state);
    assert_true(lt_strbuf_ok(&sb));
    assert_string_equal(lt_strbuf_str(&sb), want);
    lt_strbuf_deinit(&sb);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [4096, 11008]}",
        "{\"quant_type\": \"fp4\", \"blocksize\": 4096, \"dtype\": \"float16\", \"shape\": [1, 1]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [64, 176], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.26828306913375854}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 32, \"dtype\": \"float32\", \"shape\": [2, 3], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.5}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 3], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 9.999999747378752e-06}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 3], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 3.0}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 3], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 1.0000000272564224e+16}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct lt_bnb_state s;
        struct lt_error err;
        assert_int_equal(parse(&s, texts[i], &err), LT_OK);
        assert_formats(&s, texts[i]);
    }
}

static void test_fields(void **state)
{
    (void)state;
    struct lt_bnb_state s;
    assert_int_equal(parse(&s,
                           "{\"nested_offset\": 1, \"nested_dtype\": \"float32\", \"later\": [{}], "
                           "\"nested_blocksize\": 256, \"shape\": [8, 16], \"dtype\": \"bfloat16\", "
                           "\"blocksize\": 128, \"quant_type\": \"fp4\"}",
                           NULL),
                     LT_OK);
    assert_int_equal(s.quant_type, LT_WEIGHT_FP4);
    assert_int_equal(s.blocksize, 128);
    assert_int_equal(s.dtype, LT_BF16);
    assert_int_equal(s.shape[0], 8);
    assert_int_equal(s.shape[1], 16);
    assert_true(s.nested);
    assert_int_equal(s.nested_blocksize, 256);
    assert_int_equal(s.nested_dtype, LT_F32);
    assert_true(s.nested_offset == 1.0f);

    assert_int_equal(
        parse(&s,
              "{\"shape\": [8, 8], \"blocksize\": 64, \"quant_type\": \"nf4\", \"dtype\": \"float16\", "
              "\"nested_blocksize\": 0, \"nested_offset\": 0.0}",
              NULL),
        LT_OK);
    assert_false(s.nested);
    assert_int_equal(s.nested_blocksize, 0);
    assert_string_equal(lt_bnb_state_suffix(LT_WEIGHT_NF4), ".quant_state.bitsandbytes__nf4");
    assert_string_equal(lt_bnb_state_suffix(LT_WEIGHT_FP4), ".quant_state.bitsandbytes__fp4");
}

#define HEAD "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 3]"
#define NESTED HEAD ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\""

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum lt_status status;
        const char *says;
    } cases[] = {
        {"", LT_ERR_FORMAT, "JSON"},
        {HEAD, LT_ERR_FORMAT, "JSON"},
        {HEAD "} ]", LT_ERR_FORMAT, "JSON"},
        {HEAD ", \"dtype\": \"float16\"}", LT_ERR_FORMAT, "JSON"},
        {"[1]", LT_ERR_FORMAT, "object"},
        {"{}", LT_ERR_FORMAT, "quant_type"},
        {"{\"quant_type\": 4}", LT_ERR_FORMAT, "quant_type"},
        {"{\"quant_type\": \"int4\"}", LT_ERR_UNSUPPORTED, "int4"},
        {"{\"quant_type\": \"nf4\"}", LT_ERR_FORMAT, "blocksize"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 48}", LT_ERR_FORMAT, "blocksize"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 16}", LT_ERR_FORMAT, "blocksize"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 8192}", LT_ERR_FORMAT, "blocksize"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": -64}", LT_ERR_FORMAT, "blocksize"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64.0}", LT_ERR_FORMAT, "blocksize"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64}", LT_ERR_FORMAT, "dtype"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"int8\"}", LT_ERR_UNSUPPORTED, "int8"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\"}", LT_ERR_FORMAT, "shape"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 3, 4]}",
         LT_ERR_UNSUPPORTED, "3 dimensions"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 0]}",
         LT_ERR_FORMAT, "positive"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, \"3\"]}",
         LT_ERR_FORMAT, "positive"},
        {"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", "
         "\"shape\": [4294967296, 4294967296]}",
         LT_ERR_FORMAT, "too large"},
        {HEAD ", \"nested_blocksize\": 128}", LT_ERR_UNSUPPORTED, "128"},
        {HEAD ", \"nested_blocksize\": \"256\"}", LT_ERR_FORMAT, "nested_blocksize"},
        {HEAD ", \"nested_blocksize\": 256}", LT_ERR_FORMAT, "nested_dtype"},
        {HEAD ", \"nested_blocksize\": 256, \"nested_dtype\": \"float16\"}", LT_ERR_UNSUPPORTED, "float16"},
        {NESTED "}", LT_ERR_FORMAT, "nested_offset"},
        {NESTED ", \"nested_offset\": \"1\"}", LT_ERR_FORMAT, "nested_offset"},
        {NESTED ", \"nested_offset\": 1e39}", LT_ERR_FORMAT, "float32"},
        {NESTED ", \"nested_offset\": NaN}", LT_ERR_FORMAT, "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lt_bnb_state s;
        struct lt_error err = {0};
        enum lt_status status = parse(&s, cases[i].json, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].says))
            fail_msg("%s: status %d, message \"%s\"", cases[i].json, (int)status, err.message);
        assert_non_null(strstr(err.message, "model.safetensors: x.weight"));
    }
    struct lt_bnb_state s;
    static char spaces[65537];
    memset(spaces, ' ', sizeof spaces);
    assert_int_equal(lt_bnb_state_parse(&s, spaces, sizeof spaces, "w", NULL), LT_ERR_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("bnb_state", tests, NULL, NULL);
}
