/* Rope frequencies of every scaling against values computed elsewhere, and the table rows. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "models/rope.h"

/* Parses `text` and initialises; the JSON is gone afterwards, as in a real model. */
static enum lt_status init(struct lt_rope *rope, const char *text, int32_t head_dim, int32_t max_positions,
                           struct lt_error *err)
{
    json_t *json;
    assert_int_equal(lt_json_parse(&json, text, strlen(text), "config.json", err), LT_OK);
    const struct lt_config cfg = {.json = json, .where = "config.json"};
    enum lt_status status = lt_rope_init(rope, &cfg, 10000, head_dim, max_positions, err);
    json_decref(json);
    return status;
}

static struct lt_rope make(const char *text, int32_t head_dim, int32_t max_positions)
{
    struct lt_rope rope;
    struct lt_error err = {0};
    if (init(&rope, text, head_dim, max_positions, &err) != LT_OK)
        fail_msg("%s", err.message);
    return rope;
}

static void assert_near(double got, double expected, double relative)
{
    if (!(fabs(got - expected) <= relative * fabs(expected)))
        fail_msg("%.9g instead of %.9g", got, expected);
}

static void refuse(const char *text, enum lt_status status, const char *part)
{
    struct lt_rope rope;
    struct lt_error err = {0};
    assert_int_equal(init(&rope, text, 128, 4096, &err), status);
    if (!strstr(err.message, part))
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
    assert_null(rope.inv_freq);
}

/* Three roundings (exponent, power, reciprocal), the first amplified by ln(theta) < 16: 2^-20 is ample. */
static const double FEW_ULP = 0x1p-20;

static void plain(void **state)
{
    (void)state;
    struct lt_rope rope = make("{}", 8, 512);
    assert_int_equal(rope.rotary, 8);
    assert_int_equal(rope.max_positions, 512);
    for (int k = 0; k < 4; k++)
        assert_near((double)rope.inv_freq[k], pow(10, -k), FEW_ULP);
    lt_rope_deinit(&rope);

    rope = make("{\"rope_theta\": 500000, \"partial_rotary_factor\": 0.5}", 32, 512);
    assert_int_equal(rope.rotary, 16);
    for (int k = 0; k < 8; k++)
        assert_near((double)rope.inv_freq[k], pow(500000, -k / 8.0), FEW_ULP);
    lt_rope_deinit(&rope);
}

static void rows(void **state)
{
    (void)state;
    struct lt_rope rope = make("{\"rope_theta\": 100000}", 16, 4096);
    float row[16];
    lt_rope_row(&rope, 4096, 0, row);
    for (int k = 0; k < 8; k++) {
        assert_true(row[k] == 1.0f);
        assert_true(row[8 + k] == 0.0f);
    }
    for (int64_t p = 1; p < 4096; p += 371) {
        lt_rope_row(&rope, 4096, p, row);
        for (int k = 0; k < 8; k++) { /* the angle is an f32 number; its cosine is rounded once */
            float angle = (float)p * rope.inv_freq[k];
            assert_true(fabs((double)row[k] - cos((double)angle)) <= 0x1p-24);
            assert_true(fabs((double)row[8 + k] - sin((double)angle)) <= 0x1p-24);
        }
    }
    lt_rope_deinit(&rope);
}

static void linear(void **state)
{
    (void)state;
    struct lt_rope base = make("{}", 64, 4096);
    struct lt_rope rope = make("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}", 64, 4096);
    for (int k = 0; k < 32; k++)
        assert_true(rope.inv_freq[k] == base.inv_freq[k] / 4.0f);
    lt_rope_deinit(&rope);
    lt_rope_deinit(&base);
}

static void dynamic(void **state)
{
    (void)state;
    struct lt_rope base = make("{}", 64, 4096);
    struct lt_rope rope = make("{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}", 64, 4096);
    assert_memory_equal(rope.inv_freq, base.inv_freq, 32 * sizeof(float));
    assert_int_equal(rope.max_positions, 4096);
    lt_rope_deinit(&rope);
    rope = make("{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"factor\": 2, "
                "\"original_max_position_embeddings\": 2048}}",
                64, 4096);
    assert_int_equal(rope.max_positions, 2048);
    lt_rope_deinit(&rope);
    lt_rope_deinit(&base);
}

/* Computed in double precision from the formulas of transformers. */
static void llama3(void **state)
{
    (void)state;
    static const double expected[] = {1.0,
                                      0.193922758102417,
                                      0.03760603070259094,
                                      0.00729266507551074,
                                      0.00042955669189436585,
                                      8.570255886297673e-06,
                                      1.6619676443951903e-06,
                                      3.2229328894572973e-07};
    static const char new_text[] =
        "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000.0, \"factor\": 32.0, "
        "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}";
    static const char old_text[] =
        "{\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32.0, "
        "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}";
    struct lt_rope rope = make(new_text, 128, 131072), old = make(old_text, 128, 131072);
    for (int i = 0; i < 8; i++)
        assert_near((double)rope.inv_freq[8 * i], expected[i], 1e-5);
    assert_true(rope.attention_factor == 1.0f);
    assert_memory_equal(rope.inv_freq, old.inv_freq, 64 * sizeof(float));
    lt_rope_deinit(&rope);
    lt_rope_deinit(&old);
}

static void yarn(void **state)
{
    (void)state;
    static const double expected[] = {1.0,
                                      0.1778279410038923,
                                      0.03162277660168379,
                                      0.005375321490790102,
                                      0.0006029411764705882,
                                      4.445698525097307e-05,
                                      7.905694150420949e-06,
                                      1.4058533129758728e-06};
    static const char text[] =
        "{\"rope_theta\": 1000000.0, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
        "\"original_max_position_embeddings\": 32768}}";
    struct lt_rope rope = make(text, 128, 32768);
    for (int i = 0; i < 8; i++)
        assert_near((double)rope.inv_freq[8 * i], expected[i], 1e-5);
    assert_near((double)rope.attention_factor, 1.138629436111989, 0x1p-23);
    float row[128];
    lt_rope_row(&rope, 32768, 0, row);
    assert_true(row[5] == rope.attention_factor);
    lt_rope_deinit(&rope);

    /* factor null: the ratio of the lengths */
    rope =
        make("{\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 1000000.0, \"factor\": null, "
             "\"original_max_position_embeddings\": 32768}}",
             128, 131072);
    for (int i = 0; i < 8; i++)
        assert_near((double)rope.inv_freq[8 * i], expected[i], 1e-5);
    lt_rope_deinit(&rope);

    /* g(4, 1) / g(4, 2), and a given attention factor */
    rope = make(
        "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"mscale\": 1, \"mscale_all_dim\": 2}}",
        128, 4096);
    assert_near((double)rope.attention_factor, (0.1 * log(4) + 1) / (0.2 * log(4) + 1), 0x1p-23);
    lt_rope_deinit(&rope);
    rope = make("{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"attention_factor\": 0.75}}",
                128, 4096);
    assert_true(rope.attention_factor == 0.75f);
    lt_rope_deinit(&rope);
}

static void longrope(void **state)
{
    (void)state;
    static const char text[] =
        "{\"original_max_position_embeddings\": 64, \"rope_scaling\": {\"type\": \"su\", "
        "\"short_factor\": [1.0, 1.5, 2.0, 2.5], \"long_factor\": [2.0, 4.0, 8.0, 16.0]}}";
    static const float short_factor[] = {1.0f, 1.5f, 2.0f, 2.5f}, long_factor[] = {2, 4, 8, 16};
    struct lt_rope base = make("{}", 8, 4096), rope = make(text, 8, 4096);
    double factor = sqrt(1 + log(4096.0 / 64) / log(64));
    assert_near((double)rope.attention_factor, factor, 0x1p-23);
    float row[8];
    for (int k = 0; k < 4; k++) {
        lt_rope_row(&rope, 64, 3, row);
        float angle = 3 * (base.inv_freq[k] / short_factor[k]);
        assert_near((double)row[k], cos((double)angle) * factor, 0x1p-22);
        lt_rope_row(&rope, 65, 3, row);
        angle = 3 * (base.inv_freq[k] / long_factor[k]);
        assert_near((double)row[k], cos((double)angle) * factor, 0x1p-22);
    }
    lt_rope_deinit(&rope);
    lt_rope_deinit(&base);
}

static void refused(void **state)
{
    (void)state;
    refuse("{\"rope_theta\": 0}", LT_ERR_FORMAT, "rope_theta is 0");
    refuse("{\"rope_theta\": \"10000\"}", LT_ERR_FORMAT, "rope_theta");
    refuse("{\"rope_parameters\": {\"rope_theta\": -5.0}}", LT_ERR_FORMAT, "rope_theta");
    refuse("{\"rope_scaling\": 4}", LT_ERR_FORMAT, "rope_scaling must be an object");
    refuse("{\"rope_scaling\": {\"type\": \"ntk\"}}", LT_ERR_UNSUPPORTED, "\"ntk\"");
    refuse("{\"rope_scaling\": {\"type\": \"linear\"}}", LT_ERR_FORMAT, "factor");
    refuse("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", LT_ERR_FORMAT, "factor is 0");
    refuse("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 1e300}}", LT_ERR_FORMAT, "factor");
    refuse("{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8}}", LT_ERR_FORMAT, "low_freq_factor");
    refuse(
        "{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 64}}",
        LT_ERR_FORMAT, "must be above");
    refuse(
        "{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 0}}",
        LT_ERR_FORMAT, "original_max_position_embeddings is 0");
    refuse("{\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [1]}}",
           LT_ERR_FORMAT, "short_factor of 64 numbers");
    refuse("{\"partial_rotary_factor\": 0.01}", LT_ERR_FORMAT, "would be rotated");
    refuse("{\"partial_rotary_factor\": 2}", LT_ERR_FORMAT, "partial_rotary_factor");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),    cmocka_unit_test(rows),    cmocka_unit_test(linear),
        cmocka_unit_test(dynamic),  cmocka_unit_test(llama3),  cmocka_unit_test(yarn),
        cmocka_unit_test(longrope), cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
