/* Element types: sizes, names, conversions; weight sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/tensor/dtype.h"
#include "core/tensor/weight.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The value of a finite f16 by its definition. */
static double f16_value(uint16_t h)
{
    int exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -v : v;
}

static void test_f16_all_patterns(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float f = lt_f16_to_f32(h);
        bool special = (h & 0x7c00) == 0x7c00;
        if (special && (h & 0x3ff)) { /* NaN: sign and payload stay, quiet */
            assert_true(isnan(f));
            assert_int_equal(lt_f32_to_f16(f), h | 0x200);
            continue;
        }
        if (special)
            assert_true(isinf(f) && !signbit(f) == !(h & 0x8000));
        else
            assert_true((double)f == f16_value(h) && !signbit(f) == !(h & 0x8000));
        assert_int_equal(lt_f32_to_f16(f), h);
    }
}

/* Between every two neighbours: the exact middle goes to the even one, and one f32 step to either
 * side of it goes to the nearer one. */
static void test_f16_rounding(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x7c00; i++) {
        uint16_t low = (uint16_t)i, high = (uint16_t)(i + 1);
        double above = high == 0x7c00 ? 65536.0 : f16_value(high);
        float middle = (float)((f16_value(low) + above) / 2); /* 12 bits: exact */
        uint16_t even = low & 1 ? high : low;
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            float m = sign ? -middle : middle;
            assert_int_equal(lt_f32_to_f16(m), sign | even);
            assert_int_equal(lt_f32_to_f16(float_of(bits_of(m) - 1)), sign | low);
            assert_int_equal(lt_f32_to_f16(float_of(bits_of(m) + 1)), sign | high);
        }
    }
    assert_int_equal(lt_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(lt_f32_to_f16(float_of(0x7f7fffff)), 0x7c00); /* largest float */
    assert_int_equal(lt_f32_to_f16(float_of(0x00000001)), 0);
    assert_int_equal(lt_f32_to_f16(float_of(0x80000001)), 0x8000);
    assert_int_equal(lt_f32_to_f16(float_of(0x7f800001)), 0x7e00); /* signalling, payload lost */
    assert_int_equal(lt_f32_to_f16(float_of(0xffc02000)), 0xfe01);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float f = lt_bf16_to_f32(h);
        bool nan = (h & 0x7fff) > 0x7f80;
        assert_int_equal(bits_of(f), i << 16);
        assert_int_equal(lt_f32_to_bf16(f), nan ? h | 0x40 : h);
        if ((h & 0x7fff) >= 0x7f80)
            continue;
        /* Middle to even (up to infinity at the top), the neighbours of the middle to the nearer. */
        assert_int_equal(lt_f32_to_bf16(float_of((i << 16) | 0x8000)), h + (h & 1));
        assert_int_equal(lt_f32_to_bf16(float_of((i << 16) | 0x7fff)), h);
        assert_int_equal(lt_f32_to_bf16(float_of((i << 16) | 0x8001)), h + 1);
    }
    /* A NaN whose payload is in the low half only must not become infinity. */
    assert_int_equal(lt_f32_to_bf16(float_of(0x7f800001)), 0x7fc0);
    assert_int_equal(lt_f32_to_bf16(float_of(0xff80ffff)), 0xffc0);
    assert_int_equal(lt_f32_to_bf16(float_of(0x7fffffff)), 0x7fff);
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < LT_DTYPE_COUNT; i++) {
        enum lt_dtype found = LT_DTYPE_COUNT;
        assert_non_null(lt_dtype_name((enum lt_dtype)i));
        assert_true(lt_dtype_from_name(lt_dtype_name((enum lt_dtype)i), &found));
        assert_int_equal(found, i);
    }
    enum lt_dtype d;
    assert_false(lt_dtype_from_name("bf16", &d));
    assert_false(lt_dtype_from_name("", &d));
    assert_false(lt_dtype_from_name("F3", &d));
    assert_string_equal(lt_dtype_name(LT_BF16), "BF16");
    assert_string_equal(lt_dtype_name(LT_DTYPE_COUNT), "?");
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        unsigned bits;
    } all[] = {
        {"BOOL", 8},        {"U8", 8},          {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
        {"F8_E8M0", 8},     {"U16", 16},        {"I16", 16}, {"F16", 16},    {"BF16", 16},
        {"U32", 32},        {"I32", 32},        {"F32", 32}, {"U64", 64},    {"I64", 64},
        {"F64", 64},        {"C64", 64},        {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6},
        {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    };
    assert_int_equal(sizeof all / sizeof all[0], LT_DTYPE_COUNT);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        enum lt_dtype d;
        assert_true(lt_dtype_from_name(all[i].name, &d));
        assert_int_equal(lt_dtype_bits(d), all[i].bits);
        size_t bytes = 1;
        assert_true(lt_dtype_bytes(d, 8000, &bytes));
        assert_int_equal(bytes, 1000 * all[i].bits);
        assert_true(lt_dtype_bytes(d, 0, &bytes));
        assert_int_equal(bytes, 0);
    }
    size_t bytes = 77;
    assert_false(lt_dtype_bytes(LT_F4, 3, &bytes));
    assert_false(lt_dtype_bytes(LT_F6_E2M3, 2, &bytes));
    assert_false(lt_dtype_bytes(LT_F32, (uint64_t)1 << 62, &bytes));
    assert_false(lt_dtype_bytes(LT_F32, UINT64_MAX, &bytes));
    assert_false(lt_dtype_bytes(LT_F64, UINT64_MAX / 8 + 1, &bytes));
    assert_int_equal(bytes, 77); /* untouched by failures */
    assert_true(lt_dtype_bytes(LT_F4, 4, &bytes));
    assert_int_equal(bytes, 2);
    assert_true(lt_dtype_bytes(LT_F6_E3M2, 4, &bytes));
    assert_int_equal(bytes, 3);
    assert_true(lt_dtype_bytes(LT_F4, UINT64_MAX - 1, &bytes));
    assert_true(bytes == (UINT64_MAX - 1) / 2);
}

static void test_convert(void **state)
{
    (void)state;
    static const float values[5] = {0.0f, -1.5f, 65504.0f, 0x1p-14f,
                                    -3.0f}; /* exact in F16; all but 65504 in BF16 */
    static const enum lt_dtype types[] = {LT_F32, LT_F16, LT_BF16, LT_F64};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        unsigned char raw[1 + 5 * 8];
        float back[5];
        lt_convert_from_f32(raw + 1, values, types[t], 5); /* unaligned */
        lt_convert_to_f32(back, raw + 1, types[t], 5);
        for (int i = 0; i < 5; i++) {
            float expected = types[t] == LT_BF16 && i == 2 ? 65536.0f : values[i];
            assert_true(back[i] == expected && !signbit(back[i]) == !signbit(expected));
        }
    }
    double d = 0.1;
    float f;
    lt_convert_to_f32(&f, &d, LT_F64, 1);
    assert_true(f == 0.1f);
}

static void test_weight_bytes(void **state)
{
    (void)state;
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_F32, 3, 5), 60);
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_F16, 3, 5), 30);
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_BF16, 3, 5), 30);
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_NF4, 3, 5), 8);
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_FP4, 4, 5), 10);
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_INT8, 3, 5), 15);
    assert_int_equal(lt_weight_data_bytes(LT_WEIGHT_F32, 0, 5), 0);
    assert_true(lt_weight_data_bytes(LT_WEIGHT_F32, INT64_MAX, 2) == SIZE_MAX);
    assert_true(lt_weight_data_bytes(LT_WEIGHT_NF4, INT64_MAX, INT64_MAX) == SIZE_MAX);
    assert_true(lt_weight_data_bytes(LT_WEIGHT_INT8, -1, 4) == SIZE_MAX);
    assert_string_equal(lt_weight_format_name(LT_WEIGHT_NF4), "nf4");
    assert_string_equal(lt_weight_format_name(LT_WEIGHT_INT8), "int8");
    struct lt_weight w = {.format = LT_WEIGHT_BF16};
    assert_false(lt_weight_is_quantized(&w));
    w.format = LT_WEIGHT_INT8;
    assert_true(lt_weight_is_quantized(&w));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_all_patterns),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_weight_bytes),
    };
    return cmocka_run_group_tests_name("tensor", tests, NULL, NULL);
}
