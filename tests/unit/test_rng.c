/* Philox known answers, the engine's streams, and the torch CPU generator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/base/rng.h"

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void test_philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        lt_philox(out, cases[i].counter, cases[i].key);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
}

/* The layout of counter and key is a format: checkpoints replay it. */
static void test_bits_layout(void **state)
{
    (void)state;
    struct lt_rng_site site = {.seed = 0x0123456789abcdefu, .step = 77, .site = 0x55aa};
    uint64_t row = 0xfedcba9876543210u;
    uint32_t column = 4 * 1234 + 3, out[4];
    const uint32_t counter[4] = {1234, 0x76543210u, 0xfedcba98u, 77};
    const uint32_t key[2] = {0x89abcdefu ^ 0x55aau, 0x01234567u};
    lt_philox(out, counter, key);
    assert_int_equal(lt_rng_bits(&site, row, column), out[3]);
    assert_int_equal(lt_rng_bits(&site, row, column - 3), out[0]);
}

static void test_bits_row_equals_single(void **state)
{
    (void)state;
    struct lt_rng_site site = {.seed = 42, .step = 3, .site = 9};
    for (size_t n = 0; n < 100; n++) {
        uint32_t out[101];
        out[n] = 0xdeadbeef;
        lt_rng_bits_row(out, n, &site, 1000 + n, 20);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(out[i], lt_rng_bits(&site, 1000 + n, (uint32_t)(20 + i)));
        assert_int_equal(out[n], 0xdeadbeef);
    }
}

static void test_dropout_threshold(void **state)
{
    (void)state;
    assert_int_equal(lt_dropout_threshold(0.0), 0);
    assert_int_equal(lt_dropout_threshold(0.5), 0x80000000u);
    assert_int_equal(lt_dropout_threshold(nextafter(1.0, 0.0)), 0xffffffffu);

    /* 2^16 draws at p = 0.1: the count of kept ones has a standard deviation of 76.8; 5 of them. */
    struct lt_rng_site site = {.seed = 1, .step = 1, .site = 1};
    uint32_t threshold = lt_dropout_threshold(0.1);
    int kept = 0;
    for (uint32_t i = 0; i < 65536; i++)
        kept += lt_rng_bits(&site, i >> 8, i & 255) >= threshold;
    assert_in_range(kept, 58982 - 384, 58982 + 384);
}

static void test_unit_range(void **state)
{
    (void)state;
    assert_true(lt_bits_to_unit(0) == 0.0f);
    assert_true(lt_bits_to_unit(0xffffffffu) == 1.0f - 0x1p-24f);
}

/* Values drawn with torch 2 on the CPU. */
static void test_mt19937_raw(void **state)
{
    (void)state;
    struct lt_mt19937 mt;
    lt_mt19937_seed(&mt, 42);
    assert_int_equal(lt_mt19937_next(&mt), 1608637542u);
    assert_int_equal(lt_mt19937_next(&mt), 3421126067u);
    assert_int_equal(lt_mt19937_next(&mt), 4083286876u);
    assert_int_equal(lt_mt19937_next(&mt), 787846414u);

    /* The C++ standard fixes the 10000th value of std::mt19937 with its default seed 5489. */
    lt_mt19937_seed(&mt, 5489u + ((uint64_t)7 << 32));
    uint32_t value = 0;
    for (int i = 0; i < 10000; i++)
        value = lt_mt19937_next(&mt);
    assert_int_equal(value, 4123659995u);
}

static void test_randperm(void **state)
{
    (void)state;
    static const int64_t seed42[] = {2, 6, 1, 8, 4, 5, 0, 9, 3, 7};
    static const int64_t seed43[] = {8, 4, 9, 0, 5, 1, 6, 7, 2, 3};
    static const int64_t thousand[] = {542, 618, 816, 68, 94, 215, 60, 585, 942, 165};
    struct lt_mt19937 mt;
    int64_t perm[1000];
    lt_mt19937_seed(&mt, 42);
    lt_mt19937_randperm(&mt, perm, 10);
    assert_memory_equal(perm, seed42, sizeof seed42);
    lt_mt19937_seed(&mt, 43);
    lt_mt19937_randperm(&mt, perm, 10);
    assert_memory_equal(perm, seed43, sizeof seed43);
    lt_mt19937_seed(&mt, 42);
    lt_mt19937_randperm(&mt, perm, 1000);
    assert_memory_equal(perm, thousand, sizeof thousand);

    unsigned char seen[1000] = {0};
    for (int i = 0; i < 1000; i++) {
        assert_in_range(perm[i], 0, 999);
        assert_int_equal(seen[perm[i]]++, 0);
    }
    lt_mt19937_randperm(&mt, perm, 1);
    assert_int_equal(perm[0], 0);
    lt_mt19937_randperm(&mt, perm, 0);
}

static void test_uniform(void **state)
{
    (void)state;
    static const uint32_t expected[4] = {0xBAF55400, 0x3E09545E, 0xBE52B316, 0xBE3C6680};
    struct lt_mt19937 mt;
    float x[4];
    lt_mt19937_seed(&mt, 0);
    lt_mt19937_uniform(&mt, x, 4, -0.25f, 0.25f);
    assert_memory_equal(x, expected, sizeof x);
}

/* torch.manual_seed(seed); torch.randn(…) as torch prints it, with four decimals. */
static void test_normal(void **state)
{
    (void)state;
    static const float seed0[16] = {-1.1258f, -1.1524f, -0.2506f, -0.4339f, 0.8487f, 0.6920f,
                                    -0.3160f, -2.1152f, 0.3223f,  -1.2633f, 0.3500f, 0.3081f,
                                    0.1198f,  1.2377f,  1.1168f,  -0.2473f};
    static const float seed42[16] = {1.9269f,  1.4873f,  0.9007f,  -2.1055f, 0.6784f,  -1.2345f,
                                     -0.0431f, -1.6047f, -0.7521f, 1.6487f,  -0.3925f, -1.4036f,
                                     -0.7279f, -0.5594f, -0.7688f, 0.7624f};
    struct lt_mt19937 mt;
    float x[64];
    lt_mt19937_seed(&mt, 0);
    lt_mt19937_normal(&mt, x, 16, 0.0f, 1.0f);
    for (int i = 0; i < 16; i++)
        assert_true(fabsf(x[i] - seed0[i]) <= 0.50001e-4f);
    lt_mt19937_seed(&mt, 42);
    lt_mt19937_normal(&mt, x, 64, 0.0f, 1.0f);
    for (int i = 0; i < 16; i++)
        assert_true(fabsf(x[i] - seed42[i]) <= 0.50001e-4f);
}

/* 20 elements: 16 from the first draw, of which the last 12 and the 4 more come from a second. */
static void test_normal_ragged_tail(void **state)
{
    (void)state;
    struct lt_mt19937 mt, twin;
    float x[20], whole[16], skipped[4], tail[16];
    lt_mt19937_seed(&mt, 7);
    lt_mt19937_normal(&mt, x, 20, 0.5f, 2.0f);
    lt_mt19937_seed(&twin, 7);
    lt_mt19937_normal(&twin, whole, 16, 0.5f, 2.0f);
    lt_mt19937_uniform(&twin, skipped, 4, 0.0f, 1.0f);
    lt_mt19937_normal(&twin, tail, 16, 0.5f, 2.0f);
    assert_memory_equal(x, whole, 4 * sizeof(float));
    assert_memory_equal(x + 4, tail, sizeof tail);
    assert_int_equal(lt_mt19937_next(&mt), lt_mt19937_next(&twin));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_bits_layout),
        cmocka_unit_test(test_bits_row_equals_single),
        cmocka_unit_test(test_dropout_threshold),
        cmocka_unit_test(test_unit_range),
        cmocka_unit_test(test_mt19937_raw),
        cmocka_unit_test(test_randperm),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_normal_ragged_tail),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
