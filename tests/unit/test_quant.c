/* 4-bit and 8-bit storage formats: rules at the edges, checked against plain restatements. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/tensor/dtype.h"
#include "quant/dynamic_map.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/weight_codec.h"

enum { MAX_N = 9000 };

typedef void (*quantize_fn)(uint8_t *packed, float *absmax, const float *x, int64_t n, int32_t blocksize);

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Compares bit patterns, so that NaN and signed zeros count. */
static void assert_bits(float got, float want)
{
    assert_int_equal(bits_of(got), bits_of(want));
}

static int nibble(const uint8_t *packed, int64_t i)
{
    return (i & 1) != 0 ? packed[i / 2] & 15 : packed[i / 2] >> 4;
}

/* A bell-shaped sequence whose scale changes from block to block (a 32-bit LCG, four draws a value). */
static void fill(float *x, int n)
{
    uint32_t s = 12345;
    for (int i = 0; i < n; i++) {
        double sum = 0.0;
        for (int k = 0; k < 4; k++) {
            s = s * 1664525u + 1013904223u;
            sum += (double)(s >> 8);
        }
        x[i] = (float)((sum - 33554432.0) / 33554432.0 * 0.05 * (1.0 + 0.5 * (double)(i / 64)));
    }
}

static struct lt_weight nf4_weight(const uint8_t *packed, const float *absmax, int64_t rows, int64_t cols)
{
    return (struct lt_weight){.format = LT_WEIGHT_NF4,
                              .rows = rows,
                              .cols = cols,
                              .data = packed,
                              .blocksize = 64,
                              .absmax = absmax,
                              .code = lt_nf4_code};
}

static void test_nf4_table(void **state)
{
    (void)state;
    for (int i = 0; i + 1 < 16; i++)
        assert_true(lt_nf4_code[i] < lt_nf4_code[i + 1]);
    assert_bits(lt_nf4_code[0], -1.0f);
    assert_bits(lt_nf4_code[1], -0.6961928009986877f);
    assert_bits(lt_nf4_code[5], -0.18477343022823334f);
    assert_bits(lt_nf4_code[7], 0.0f);
    assert_bits(lt_nf4_code[8], 0.07958029955625534f);
    assert_bits(lt_nf4_code[14], 0.7229568362236023f);
    assert_bits(lt_nf4_code[15], 1.0f);
}

/* A value on a boundary keeps the lower code, one ulp above takes the upper. */
static void test_nf4_boundaries(void **state)
{
    (void)state;
    float x[64] = {1.0f}; /* absmax 1: nothing is scaled */
    for (int k = 0; k < 15; k++) {
        float mid = (lt_nf4_code[k] + lt_nf4_code[k + 1]) * 0.5f;
        x[1 + 3 * k] = nextafterf(mid, -2.0f);
        x[2 + 3 * k] = mid;
        x[3 + 3 * k] = nextafterf(mid, 2.0f);
    }
    x[46] = -1.0f;
    x[47] = -0.0f;
    uint8_t packed[32];
    float absmax;
    lt_nf4_quantize(packed, &absmax, x, 64, 64);
    assert_bits(absmax, 1.0f);
    assert_int_equal(nibble(packed, 0), 15);
    for (int k = 0; k < 15; k++) {
        assert_int_equal(nibble(packed, 1 + 3 * k), k);
        assert_int_equal(nibble(packed, 2 + 3 * k), k);
        assert_int_equal(nibble(packed, 3 + 3 * k), k + 1);
    }
    assert_int_equal(nibble(packed, 46), 0);
    assert_int_equal(nibble(packed, 47), 7);
}

static int nf4_rank(float s)
{
    int rank = 0;
    for (int k = 0; k < 15; k++)
        rank += s > (lt_nf4_code[k] + lt_nf4_code[k + 1]) * 0.5f;
    return rank;
}

/* Near a boundary x * (1/absmax) and x / absmax fall on different sides for some pairs: the
 * multiplication is the rule. */
static void test_nf4_multiplies_by_reciprocal(void **state)
{
    (void)state;
    int differing = 0;
    for (int i = 1; i < 2000; i++) {
        float max = 1.0f + (float)i * 0x1p-11f;
        float x[64] = {max};
        for (int k = 0; k < 15; k++) {
            float at = (lt_nf4_code[k] + lt_nf4_code[k + 1]) * 0.5f * max;
            x[1 + 3 * k] = nextafterf(at, -9.0f);
            x[2 + 3 * k] = at;
            x[3 + 3 * k] = nextafterf(at, 9.0f);
        }
        uint8_t packed[32];
        float absmax;
        lt_nf4_quantize(packed, &absmax, x, 64, 64);
        for (int j = 0; j < 64; j++) {
            assert_int_equal(nibble(packed, j), nf4_rank(x[j] * (1.0f / max)));
            differing += nf4_rank(x[j] * (1.0f / max)) != nf4_rank(x[j] / max);
        }
    }
    assert_true(differing > 0);
}

static void check_zero_block(quantize_fn quantize, int zero_byte)
{
    float x[128] = {0};
    x[3] = -0.0f;
    for (int i = 64; i < 128; i++)
        x[i] = -2.0f;
    uint8_t packed[64];
    float absmax[2];
    quantize(packed, absmax, x, 128, 64);
    assert_bits(absmax[0], 0.0f);
    assert_bits(absmax[1], 2.0f);
    for (int i = 0; i < 32; i++)
        assert_int_equal(packed[i], zero_byte);

    struct lt_weight w = nf4_weight(packed, absmax, 2, 64);
    w.code = quantize == lt_nf4_quantize ? lt_nf4_code : lt_fp4_code;
    float y[128];
    lt_nf4_dequantize(y, &w, 0, 128);
    for (int i = 0; i < 128; i++)
        assert_bits(y[i], i < 64 ? 0.0f : -2.0f);
}

static void test_zero_block(void **state)
{
    (void)state;
    check_zero_block(lt_nf4_quantize, 0x77);
    check_zero_block(lt_fp4_quantize, 0x00);
}

/* NaN must not vanish in the maximum; the neighbouring block stays as it is. */
static void test_nan_block(void **state)
{
    (void)state;
    float x[128], clean[128];
    fill(x, 128);
    memcpy(clean, x, sizeof x);
    x[10] = NAN;
    uint8_t packed[64], clean_packed[64];
    float absmax[2], clean_absmax[2];
    lt_nf4_quantize(packed, absmax, x, 128, 64);
    lt_nf4_quantize(clean_packed, clean_absmax, clean, 128, 64);
    assert_true(isnan(absmax[0]));
    assert_int_equal(nibble(packed, 10), 0);
    assert_bits(absmax[1], clean_absmax[1]);
    assert_memory_equal(packed + 32, clean_packed + 32, 32);

    x[10] = -INFINITY;
    lt_nf4_quantize(packed, absmax, x, 128, 64);
    assert_bits(absmax[0], INFINITY);
}

static int fp4_code(float s)
{
    static const float threshold[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                       0.4166667f,  0.583333f,  0.8333333f};
    static const int by_rank[8] = {0, 1, 6, 7, 4, 5, 2, 3};
    int rank = 0;
    while (rank < 7 && fabsf(s) > threshold[rank])
        rank++;
    return by_rank[rank] + (s < 0.0f ? 8 : 0);
}

/* Any count, any block size: every code and scale equals the rule written element by element, nothing
 * is written behind the end, and an odd last byte ends in the code of zero. */
static void check_quantize(quantize_fn quantize, int (*code_of)(float), int zero_code)
{
    static float x[MAX_N], absmax[MAX_N / 32 + 2];
    static uint8_t packed[MAX_N / 2 + 2];
    static const int counts[] = {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 191, 1665, 4095, 4097, 8999};
    fill(x, MAX_N);
    for (int32_t blocksize = 32; blocksize <= 4096; blocksize *= 2) {
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            int n = counts[c];
            int blocks = (int)lt_quant_blocks(n, blocksize);
            packed[(n + 1) / 2] = 0xa5;
            absmax[blocks] = 123.0f;
            quantize(packed, absmax, x, n, blocksize);
            assert_int_equal(packed[(n + 1) / 2], 0xa5);
            assert_bits(absmax[blocks], 123.0f);
            float max = 0.0f;
            for (int i = 0; i < n; i++) {
                if (i % blocksize == 0) {
                    max = 0.0f;
                    for (int j = i; j < n && j < i + blocksize; j++)
                        max = fabsf(x[j]) > max ? fabsf(x[j]) : max;
                    assert_bits(absmax[i / blocksize], max);
                }
                assert_int_equal(nibble(packed, i), code_of(x[i] * (1.0f / max)));
            }
            if ((n & 1) != 0)
                assert_int_equal(nibble(packed, n), zero_code);
        }
    }
}

static void test_quantize_any_count(void **state)
{
    (void)state;
    check_quantize(lt_nf4_quantize, nf4_rank, 7);
    check_quantize(lt_fp4_quantize, fp4_code, 0);
}

static void test_fp4_thresholds(void **state)
{
    (void)state;
    static const float threshold[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                       0.4166667f,  0.583333f,  0.8333333f};
    static const int code_above[7] = {1, 6, 7, 4, 5, 2, 3};
    float x[64] = {1.0f, -1.0f};
    for (int k = 0; k < 7; k++) {
        x[2 + 3 * k] = threshold[k];
        x[3 + 3 * k] = nextafterf(threshold[k], 2.0f);
        x[4 + 3 * k] = -nextafterf(threshold[k], 2.0f);
    }
    uint8_t packed[32];
    float absmax;
    lt_fp4_quantize(packed, &absmax, x, 64, 64);
    assert_int_equal(nibble(packed, 0), 3);
    assert_int_equal(nibble(packed, 1), 11);
    for (int k = 0; k < 7; k++) {
        assert_int_equal(nibble(packed, 2 + 3 * k), k == 0 ? 0 : code_above[k - 1]);
        assert_int_equal(nibble(packed, 3 + 3 * k), code_above[k]);
        assert_int_equal(nibble(packed, 4 + 3 * k), 8 | code_above[k]);
    }
    static const float twelfths[8] = {0.0f, 0.0625f, 8.0f, 12.0f, 4.0f, 6.0f, 2.0f, 3.0f};
    for (int i = 0; i < 8; i++) {
        assert_bits(lt_fp4_code[i], twelfths[i] / 12.0f);
        assert_bits(lt_fp4_code[8 + i], -(twelfths[i] / 12.0f));
    }
}

static void test_chunks_equal_whole(void **state)
{
    (void)state;
    enum { N = 64 * 23 + 17, CHUNK = 64 * 5 };
    float x[N], whole_max[24], part_max[24];
    uint8_t whole[(N + 1) / 2], part[(N + 1) / 2];
    fill(x, N);
    lt_nf4_quantize(whole, whole_max, x, N, 64);
    for (int begin = 0; begin < N; begin += CHUNK)
        lt_nf4_quantize(part + begin / 2, part_max + begin / 64, x + begin,
                        N - begin < CHUNK ? N - begin : CHUNK, 64);
    assert_memory_equal(whole, part, sizeof whole);
    assert_memory_equal(whole_max, part_max, sizeof whole_max);
}

/* Codes and scales that the reference tables give for the first 320 values of fill(). */
static void test_nf4_reference_vector(void **state)
{
    (void)state;
    static const char *const packed_hex =
        "1899ed21b2eca7da92bcfe9494bd846dcd88549409011315a5c3d8c4ef38c566624e7267194679b4d36f9ec18286c61e"
        "82ac32aa93a844d3fc814f16b7946d2c35be6c6fb8a66e4f855b85b7a7bb7455b3c344e9c6a87995d272953498c4925a"
        "58bb8caee7d743318548a162cbc495d547937ee0887b12372b19135927b43653b938340dbc32650033a449b2649d15dd"
        "523cbc8d2e644f1f432ae1853b2c7c8a";
    static const uint32_t absmax_bits[5] = {0x3CCAFD17, 0x3D3F3359, 0x3DA1EC8C, 0x3DC0CD35, 0x3DAE4BCE};
    static const uint8_t nested_codes[5] = {0, 37, 206, 232, 216};
    static const uint32_t scale_bits[5] = {0x3CCD5C40, 0x3D3E6EC0, 0x3DA1E318, 0x3DC0B812, 0x3DADBEDA};
    static const uint32_t plain_bits[8] = {0xBC8D51B9, 0x3B013B2E, 0x3B82AB02, 0x3B82AB02,
                                           0x3C92C084, 0x3C6468E3, 0xBC552AF0, 0xBC8D51B9};
    static const uint32_t nested_bits[8] = {0xBC8EF86C, 0x3B02BDB9, 0x3B8431DA, 0x3B8431DA,
                                            0x3C947778, 0x3C671415, 0xBC57A88B, 0xBC8EF86C};
    float x[320], absmax[5], nested_absmax, offset, scales[5], y[8];
    uint8_t packed[160], codes[5];
    fill(x, 320);
    assert_int_equal(bits_of(x[0]), 0xBCA0C412);
    lt_nf4_quantize(packed, absmax, x, 320, 64);
    for (int i = 0; i < 320; i++) {
        char c = packed_hex[i];
        assert_int_equal(nibble(packed, i), c <= '9' ? c - '0' : c - 'a' + 10);
    }
    lt_double_quantize(codes, &nested_absmax, &offset, absmax, 5);
    assert_int_equal(bits_of(offset), 0x3D8712E7);
    assert_int_equal(bits_of(nested_absmax), 0x3D28A742);

    struct lt_weight plain = nf4_weight(packed, absmax, 5, 64);
    struct lt_weight nested = plain;
    nested.absmax = NULL;
    nested.absmax_codes = codes;
    nested.nested_absmax = &nested_absmax;
    nested.nested_code = lt_dynamic_map_signed;
    nested.nested_offset = offset;
    lt_nf4_scales(scales, &nested, 0, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(bits_of(absmax[i]), absmax_bits[i]);
        assert_int_equal(codes[i], nested_codes[i]);
        assert_int_equal(bits_of(scales[i]), scale_bits[i]);
    }
    lt_nf4_dequantize(y, &plain, 0, 8);
    for (int i = 0; i < 8; i++)
        assert_int_equal(bits_of(y[i]), plain_bits[i]);
    lt_nf4_dequantize(y, &nested, 0, 8);
    for (int i = 0; i < 8; i++)
        assert_int_equal(bits_of(y[i]), nested_bits[i]);
}

/* Rows of 45 elements, so that blocks span rows and rows begin at odd elements. */
static void check_any_range(const struct lt_weight *w, int n)
{
    float scales[32], whole[1700], part[1700];
    lt_nf4_scales(scales, w, 0, lt_quant_blocks(n, 64));
    lt_nf4_dequantize(whole, w, 0, n);
    for (int i = 0; i < n; i++)
        assert_bits(whole[i], w->code[nibble(w->data, i)] * scales[i / 64]);
    static const int lengths[] = {0, 1, 2, 3, 45, 63, 64, 65, 130};
    for (int begin = 0; begin < n; begin += begin < 140 ? 1 : 45) {
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
            int len = begin + lengths[l] < n ? lengths[l] : n - begin;
            part[len] = 123.0f;
            lt_nf4_dequantize(part, w, begin, len);
            assert_memory_equal(part, whole + begin, (size_t)len * sizeof *part);
            assert_bits(part[len], 123.0f);
        }
    }
}

static void test_dequantize_any_range(void **state)
{
    (void)state;
    enum { N = 37 * 45, BLOCKS = (N + 63) / 64 };
    float x[N], absmax[BLOCKS], nested_absmax;
    uint8_t packed[(N + 1) / 2], codes[BLOCKS];
    fill(x, N);
    lt_nf4_quantize(packed, absmax, x, N, 64);
    struct lt_weight w = nf4_weight(packed, absmax, 37, 45);
    check_any_range(&w, N);
    lt_double_quantize(codes, &nested_absmax, &w.nested_offset, absmax, BLOCKS);
    w.absmax = NULL;
    w.absmax_codes = codes;
    w.nested_absmax = &nested_absmax;
    w.nested_code = lt_dynamic_map_signed;
    check_any_range(&w, N);
}

static void test_double_quantize_blocks(void **state)
{
    (void)state;
    enum { N = 600 };
    float absmax[N], nested_absmax[3], offset, scales[N];
    uint8_t codes[N];
    for (int i = 0; i < N; i++)
        absmax[i] = 0.5f + (float)(i * 37 % 101) * 0.01f * (float)(1 + i / 256);
    lt_double_quantize(codes, nested_absmax, &offset, absmax, N);
    double sum = 0.0;
    for (int i = 0; i < N; i++)
        sum += (double)absmax[i];
    assert_bits(offset, (float)(sum / N));

    struct lt_weight w = {.format = LT_WEIGHT_NF4,
                          .blocksize = 64,
                          .absmax_codes = codes,
                          .nested_absmax = nested_absmax,
                          .nested_code = lt_dynamic_map_signed,
                          .nested_offset = offset};
    lt_nf4_scales(scales, &w, 0, N);
    for (int i = 0; i < N; i++) {
        /* No code of the block's scale is nearer, up to the rounding of scaling and of the sum. */
        float d = absmax[i] - offset, max = nested_absmax[i / 256];
        float error = fabsf(lt_dynamic_map_signed[codes[i]] * max - d);
        for (int c = 0; c < 256; c++)
            assert_true(error <= fabsf(lt_dynamic_map_signed[c] * max - d) + 2e-7f * max);
        assert_bits(scales[i], lt_dynamic_map_signed[codes[i]] * max + offset);
    }
    float some[100];
    lt_nf4_scales(some, &w, 251, 100);
    assert_memory_equal(some, scales + 251, sizeof some);

    for (int i = 0; i < N; i++)
        absmax[i] = 0.375f;
    lt_double_quantize(codes, nested_absmax, &offset, absmax, N);
    lt_nf4_scales(scales, &w, 0, N);
    assert_bits(nested_absmax[2], 0.0f);
    assert_int_equal(codes[599], 127);
}

/* The map by its definition in exact arithmetic; the f32 procedure behind the tables stays within 2 ulp. */
static int map_by_definition(float *map, int is_signed)
{
    int count = 0;
    for (int i = 0; i < 7; i++) {
        int bins = is_signed ? 1 << i : 2 << i;
        for (int j = 0; j < bins; j++) {
            double v = pow(10.0, i - 6) * (0.1 + 0.9 * (2 * j + 1) / (2.0 * bins));
            map[count++] = (float)v;
            if (is_signed)
                map[count++] = (float)-v;
        }
    }
    map[count++] = 0.0f;
    map[count++] = 1.0f;
    for (int i = 1; i < count; i++) {
        float v = map[i];
        int k = i;
        for (; k > 0 && map[k - 1] > v; k--)
            map[k] = map[k - 1];
        map[k] = v;
    }
    return count;
}

static void test_dynamic_maps(void **state)
{
    (void)state;
    const float *maps[2] = {lt_dynamic_map_unsigned, lt_dynamic_map_signed};
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        float want[300];
        assert_int_equal(map_by_definition(want, is_signed), 256);
        for (int i = 0; i < 256; i++) {
            float got = maps[is_signed][i];
            assert_true(i == 0 || maps[is_signed][i - 1] < got);
            assert_true(fabsf(got - want[i]) <= 2.0f * (nextafterf(fabsf(want[i]), 2.0f) - fabsf(want[i])));
        }
    }
    assert_bits(lt_dynamic_map_signed[0], -0.992968738079071f);
    assert_bits(lt_dynamic_map_signed[1], -0.9789062738418579f);
    assert_bits(lt_dynamic_map_signed[127], 0.0f);
    assert_bits(lt_dynamic_map_signed[255], 1.0f);
    assert_bits(lt_dynamic_map_unsigned[0], 0.0f);
    assert_bits(lt_dynamic_map_unsigned[1], 3.2500003044333425e-07f);
    assert_bits(lt_dynamic_map_unsigned[255], 1.0f);
    for (int i = 0; i < 255; i++)
        assert_true(lt_dynamic_map_signed[i] == -lt_dynamic_map_signed[254 - i]);
}

static void check_nearest(const float map[256])
{
    for (int i = 0; i < 256; i++)
        assert_int_equal(lt_dynamic_nearest(map, map[i]), i);
    for (int i = 0; i < 255; i++) {
        float mid = (map[i] + map[i + 1]) * 0.5f;
        assert_int_equal(lt_dynamic_nearest(map, mid), i % 2 == 0 ? i : i + 1);
        assert_int_equal(lt_dynamic_nearest(map, nextafterf(mid, -2.0f)), i);
        assert_int_equal(lt_dynamic_nearest(map, nextafterf(mid, 2.0f)), i + 1);
    }
    assert_int_equal(lt_dynamic_nearest(map, -INFINITY), 0);
    assert_int_equal(lt_dynamic_nearest(map, INFINITY), 255);
    assert_int_equal(lt_dynamic_nearest(map, NAN), 0);
}

static void test_dynamic_nearest(void **state)
{
    (void)state;
    check_nearest(lt_dynamic_map_signed);
    check_nearest(lt_dynamic_map_unsigned);
}

static void test_int8(void **state)
{
    (void)state;
    /* Scale 127 makes the factor 1: codes are the values rounded half to even. */
    float x[5][7] = {{127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -126.5f},
                     {0.0f, -0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f},
                     {1.0f, -1.0f, 0.1f, 0.00390625f, -0.003f, 0.5f, 0.0f},
                     {1e6f, 1.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f},
                     {NAN, 1.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
    static const int8_t want[3][7] = {{127, 0, 2, 2, 0, -2, -126}, {0}, {127, -127, 13, 0, 0, 64, 0}};
    int8_t codes[5][7];
    float scale[5];
    lt_int8_quantize(codes[0], scale, x[0], 5, 7);
    assert_memory_equal(codes, want, sizeof want);
    assert_bits(scale[0], 127.0f);
    assert_bits(scale[1], 0.0f);
    assert_bits(scale[2], 1.0f);
    assert_bits(scale[3], INFINITY);
    assert_true(isnan(scale[4]));

    /* 1 + 2^-12 is no f16: it rounds to 1 before anything else. */
    float y[300];
    int8_t y_codes[300];
    for (int i = 0; i < 300; i++)
        y[i] = i == 299 ? 1.000244140625f : -0.5f;
    lt_int8_quantize(y_codes, scale, y, 1, 300);
    assert_bits(scale[0], 1.0f);
    assert_int_equal(y_codes[0], -64);
    assert_int_equal(y_codes[299], 127);
}

static void test_int8_dequantize_any_range(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 7 };
    int8_t codes[ROWS * COLS];
    float scale[ROWS] = {1.0f, 0.3f, 0.0f, 7.25f, 1e-3f}, y[ROWS * COLS + 1];
    for (int i = 0; i < ROWS * COLS; i++)
        codes[i] = (int8_t)(i * 53 % 255 - 127);
    struct lt_weight w = {
        .format = LT_WEIGHT_INT8, .rows = ROWS, .cols = COLS, .data = codes, .absmax = scale};
    for (int begin = 0; begin <= ROWS * COLS; begin++) {
        for (int n = 0; begin + n <= ROWS * COLS; n++) {
            y[n] = 123.0f;
            lt_int8_dequantize(y, &w, begin, n);
            assert_bits(y[n], 123.0f);
            for (int i = 0; i < n; i++) {
                float product = (float)codes[begin + i] * scale[(begin + i) / COLS];
                assert_bits(y[i], product * 7.874015718698502e-3f);
            }
        }
    }
}

static void test_codec_table(void **state)
{
    (void)state;
    for (int f = 0; f < LT_WEIGHT_FORMAT_COUNT; f++)
        assert_non_null(lt_weight_codecs[f].decode);

    static const float x[6] = {1.0f, -2.5f, 0.15625f, -0.0f, 1024.0f, 3.0f}; /* exact in every format */
    uint16_t half[6], brain[6];
    for (int i = 0; i < 6; i++) {
        half[i] = lt_f32_to_f16(x[i]);
        brain[i] = lt_f32_to_bf16(x[i]);
    }
    struct lt_weight plain[3] = {
        {.format = LT_WEIGHT_F32, .rows = 2, .cols = 3, .data = x},
        {.format = LT_WEIGHT_F16, .rows = 2, .cols = 3, .data = half},
        {.format = LT_WEIGHT_BF16, .rows = 2, .cols = 3, .data = brain},
    };
    for (int f = 0; f < 3; f++) {
        float y[6] = {0};
        lt_weight_codecs[plain[f].format].decode(y, &plain[f], 1, 4);
        assert_memory_equal(y, x + 1, 4 * sizeof *y);
        assert_bits(y[4], 0.0f);
    }

    float max = 3.0f, y[2];
    uint8_t packed = 0xf0;
    struct lt_weight w = nf4_weight(&packed, &max, 1, 2);
    lt_weight_codecs[LT_WEIGHT_NF4].decode(y, &w, 0, 2);
    assert_bits(y[0], 3.0f);
    assert_bits(y[1], -3.0f);
    w.format = LT_WEIGHT_FP4;
    w.code = lt_fp4_code;
    packed = 0x3b;
    lt_weight_codecs[LT_WEIGHT_FP4].decode(y, &w, 0, 2);
    assert_bits(y[0], 3.0f);
    assert_bits(y[1], -3.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nf4_table),
        cmocka_unit_test(test_nf4_boundaries),
        cmocka_unit_test(test_nf4_multiplies_by_reciprocal),
        cmocka_unit_test(test_zero_block),
        cmocka_unit_test(test_nan_block),
        cmocka_unit_test(test_quantize_any_count),
        cmocka_unit_test(test_fp4_thresholds),
        cmocka_unit_test(test_chunks_equal_whole),
        cmocka_unit_test(test_nf4_reference_vector),
        cmocka_unit_test(test_dequantize_any_range),
        cmocka_unit_test(test_double_quantize_blocks),
        cmocka_unit_test(test_dynamic_maps),
        cmocka_unit_test(test_dynamic_nearest),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_int8_dequantize_any_range),
        cmocka_unit_test(test_codec_table),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
