/* Sampling: greedy and its ties, the filters against a plain sorted reference, frequencies, determinism. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/infer/sampling.h"

enum { VOCAB = 24, DRAWS = 40000 };

static int32_t pick(const struct lt_sampling *opt, const float *logits, int32_t vocab, uint64_t draw,
                    const int32_t *seen, size_t seen_count)
{
    struct lt_sampler s;
    struct lt_error err;
    int32_t id = -1;
    assert_int_equal(lt_sampler_init(&s, opt, vocab, &err), LT_OK);
    for (size_t i = 0; i < seen_count; i++)
        lt_sampler_see(&s, seen[i]);
    assert_int_equal(lt_sampler_pick(&s, logits, draw, &id, &err), LT_OK);
    lt_sampler_deinit(&s);
    return id;
}

/* ---- greedy ---- */

static void test_greedy(void **state)
{
    (void)state;
    struct lt_sampling greedy = lt_sampling_greedy();
    const float ties[] = {-1, 3, 3, 2, 3}, low[] = {-INFINITY, -5, -INFINITY};
    assert_int_equal(pick(&greedy, ties, 5, 0, NULL, 0), 1);
    assert_int_equal(pick(&greedy, low, 3, 0, NULL, 0), 1);
    /* Greedy leaves filters aside, but not the penalty. */
    greedy.top_k = 1;
    greedy.top_p = 0.1;
    assert_int_equal(pick(&greedy, ties, 5, 7, NULL, 0), 1);
}

static void test_penalty(void **state)
{
    (void)state;
    struct lt_sampling s = lt_sampling_greedy();
    s.repetition_penalty = 2;
    const float positive[] = {4, 3, 1}, negative[] = {-2, -3, -5}, zero[] = {0, -1, -2};
    const int32_t first[] = {0}, twice[] = {0, 0, 0}, foreign[] = {0, 99, -1}, all[] = {0, 1, 2};
    assert_int_equal(pick(&s, positive, 3, 0, first, 1), 1); /* 2 3 1 */
    assert_int_equal(pick(&s, negative, 3, 0, first, 1), 1); /* -4 -3 -5 */
    assert_int_equal(pick(&s, zero, 3, 0, first, 1), 0);
    assert_int_equal(pick(&s, positive, 3, 0, foreign, 3), 1);
    assert_int_equal(pick(&s, positive, 3, 0, all, 3), 0); /* 2 1.5 0.5 */
    const float once[] = {5, 2, 1};                        /* 2.5 2 1; applied three times it would be 0.6 */
    assert_int_equal(pick(&s, once, 3, 0, twice, 3), 0);
    s.repetition_penalty = 0.5;                                             /* rewards */
    assert_int_equal(pick(&s, positive, 3, 0, (const int32_t[]){2}, 1), 0); /* 4 3 2 */
    assert_int_equal(pick(&s, positive, 3, 0, (const int32_t[]){1}, 1), 1); /* 4 6 1 */
}

static void test_bad_logits(void **state)
{
    (void)state;
    const float bad[][3] = {{0, NAN, 1}, {NAN, 0, 1}, {0, 1, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};
    const double temperatures[] = {0, 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (size_t t = 0; t < 2; t++) {
            struct lt_sampling opt = lt_sampling_greedy();
            struct lt_sampler s;
            struct lt_error err;
            int32_t id;
            opt.temperature = temperatures[t];
            opt.top_k = 2;
            assert_int_equal(lt_sampler_init(&s, &opt, 3, &err), LT_OK);
            assert_int_equal(lt_sampler_pick(&s, bad[i], 0, &id, &err), LT_ERR_NUMERIC);
            lt_sampler_deinit(&s);
        }
}

/* ---- distributions ---- */

struct ranked {
    float score;
    int32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* What transformers computes, over a fully sorted list. */
static void reference(double *probability, const struct lt_sampling *s, const float *logits)
{
    struct ranked r[VOCAB];
    double p[VOCAB], sum = 0, above = 0, kept = 0;
    for (int32_t i = 0; i < VOCAB; i++)
        r[i] = (struct ranked){logits[i], i};
    qsort(r, VOCAB, sizeof *r, by_rank);
    int32_t n = 0;
    while (n < VOCAB && (s->top_k == 0 || n < s->top_k || r[n].score == r[s->top_k - 1].score))
        n++;
    for (int32_t i = 0; i < n; i++)
        sum += p[i] = exp(((double)r[i].score - (double)r[0].score) / s->temperature);
    for (int32_t i = 0; i < VOCAB; i++)
        probability[i] = 0;
    for (int32_t i = 0; i < n; above += p[i] / sum, i++)
        if (i == 0 || s->top_p == 1 || above < s->top_p)
            kept += probability[r[i].id] = p[i];
    for (int32_t i = 0; i < VOCAB; i++)
        probability[i] /= kept;
}

/* Counts DRAWS draws; every probability must lie within 5 standard deviations, and what is left out never
 * come up. */
static void check_distribution(const struct lt_sampling *opt, const float *logits)
{
    double want[VOCAB];
    int count[VOCAB] = {0};
    struct lt_sampler s;
    struct lt_error err;
    reference(want, opt, logits);
    assert_int_equal(lt_sampler_init(&s, opt, VOCAB, &err), LT_OK);
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        int32_t id = -1;
        assert_int_equal(lt_sampler_pick(&s, logits, draw, &id, &err), LT_OK);
        assert_true(id >= 0 && id < VOCAB);
        count[id]++;
    }
    lt_sampler_deinit(&s);
    for (int32_t i = 0; i < VOCAB; i++) {
        double sigma = sqrt(want[i] * (1 - want[i]) * DRAWS);
        if (want[i] == 0)
            assert_int_equal(count[i], 0);
        assert_true(fabs(count[i] - want[i] * DRAWS) <= 5 * sigma);
    }
}

static void test_distributions(void **state)
{
    (void)state;
    float logits[VOCAB], equal[VOCAB] = {0}, tied[VOCAB];
    for (uint32_t i = 0; i < VOCAB; i++) {
        logits[i] = (float)((i * 7919u) % 101u) * 0.07F - 3.0F;
        tied[i] = (float)(i % 4);
    }
    logits[5] = -INFINITY;
    static const double temperatures[] = {0.3, 1, 2.5}, top_ps[] = {1, 0.9, 0.5, 0.01};
    static const int32_t top_ks[] = {0, 1, 3, 10, VOCAB, 1000};
    struct lt_sampling s = {.repetition_penalty = 1, .seed = 11};
    for (size_t t = 0; t < 3; t++)
        for (size_t p = 0; p < 4; p++)
            for (size_t k = 0; k < 6; k++) {
                s.temperature = temperatures[t];
                s.top_p = top_ps[p];
                s.top_k = top_ks[k] < VOCAB ? top_ks[k] : 0;
                s.seed++;
                check_distribution(&s, logits);
            }
    s = (struct lt_sampling){.temperature = 1, .top_p = 1, .top_k = 3, .repetition_penalty = 1, .seed = 3};
    check_distribution(&s, equal); /* all tie with the third */
    check_distribution(&s, tied);
    s.top_k = 0;
    s.top_p = 0.5;
    check_distribution(&s, equal); /* the lower half of the ids */
}

/* A temperature close to 0 must not overflow. */
static void test_cold(void **state)
{
    (void)state;
    const float logits[] = {90, 100, 99.5F};
    struct lt_sampling s = {.temperature = 1e-300, .top_p = 1, .repetition_penalty = 1};
    for (uint64_t draw = 0; draw < 50; draw++)
        assert_int_equal(pick(&s, logits, 3, draw, NULL, 0), 1);
    s.top_p = 0.99;
    for (uint64_t draw = 0; draw < 50; draw++)
        assert_int_equal(pick(&s, logits, 3, draw, NULL, 0), 1);
}

/* The same (seed, draw) gives the same id whatever was drawn before; another seed another sequence. */
static void test_draws(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    struct lt_sampling s = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};
    int32_t forth[64];
    int differ = 0;
    for (uint64_t i = 0; i < 64; i++)
        forth[i] = pick(&s, logits, VOCAB, i, NULL, 0);
    for (uint64_t i = 64; i-- > 0;)
        assert_int_equal(pick(&s, logits, VOCAB, i, NULL, 0), forth[i]);
    s.seed = 2;
    for (uint64_t i = 0; i < 64; i++)
        differ += pick(&s, logits, VOCAB, i, NULL, 0) != forth[i];
    assert_true(differ > 40);
}

static void test_log_probability(void **state)
{
    (void)state;
    const float logits[] = {1, 2, 3, -INFINITY};
    double z = exp(1.0) + exp(2.0) + exp(3.0);
    for (int32_t i = 0; i < 3; i++)
        assert_true(fabs(lt_log_probability(logits, 4, i) - ((double)logits[i] - log(z))) < 1e-14);
    assert_true(lt_log_probability(logits, 4, 3) == -INFINITY);
    const float large[] = {1e30F, 0};
    assert_true(lt_log_probability(large, 2, 0) == 0);
}

static void test_options(void **state)
{
    (void)state;
    struct lt_error err;
    const struct lt_sampling bad[] = {
        {.temperature = -1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = NAN, .top_p = 1, .repetition_penalty = 1},
        {.top_p = 0, .repetition_penalty = 1},
        {.top_p = 1.5, .repetition_penalty = 1},
        {.top_p = 1, .top_k = -1, .repetition_penalty = 1},
        {.top_p = 1, .repetition_penalty = 0},
        {.top_p = 1, .repetition_penalty = INFINITY},
    };
    struct lt_sampling good = lt_sampling_greedy();
    assert_int_equal(lt_sampling_check(&good, &err), LT_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lt_sampler s;
        assert_int_equal(lt_sampling_check(&bad[i], &err), LT_ERR_INVALID);
        assert_int_equal(lt_sampler_init(&s, &bad[i], VOCAB, &err), LT_ERR_INVALID);
        lt_sampler_deinit(&s);
    }
    struct lt_sampling all = {.temperature = 1, .top_p = 0.5, .repetition_penalty = 2};
    for (long n = 1; n <= 4; n++) {
        struct lt_sampler s;
        lt_alloc_fail_at(n);
        assert_int_equal(lt_sampler_init(&s, &all, VOCAB, &err), LT_ERR_NOMEM);
        lt_alloc_fail_at(0);
        lt_sampler_deinit(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_penalty),
        cmocka_unit_test(test_bad_logits),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_cold),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_log_probability),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests_name("sampling", tests, NULL, NULL);
}
