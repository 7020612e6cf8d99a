/* Greedy decoding against transformers (generate/greedy.json), and decoding through the cache against the full
 * forward pass. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/registry.h"
#include "core/base/system.h"
#include "backends/cpu/kernels.h"
#include "core/infer/generate.h"
#include "core/io/json.h"
#include "tests/support/fixtures.h"
#include "tests/support/tiny_model.h"

enum { CONTEXT = 64 };

/* transformers itself is within 4e-6 of float64 (README of the goldens). */
#define LOGPROB_LIMIT 1e-4

static void must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

/* ---- one generator over one golden model ---- */

struct answer {
    int32_t ids[CONTEXT];
    double logprobs[CONTEXT];
    int count, most; /* most: on_token ends it there, 0: never */
};

static bool keep_token(void *user, int32_t id, double logprob)
{
    struct answer *a = user;
    assert_true(a->count < CONTEXT);
    a->ids[a->count] = id;
    a->logprobs[a->count++] = logprob;
    return a->count != a->most;
}

static struct lt_generator *make_generator(struct tiny_model *t, int32_t context, int32_t chunk)
{
    struct lt_error err;
    struct lt_generator *g;
    struct lt_generator_options opt = {
        .context = context, .chunk = chunk, .param_elements = t->params.elements};
    must(lt_generator_create(&g, t->model, t->be, &opt, &err), &err);
    must(lt_generator_allocate(g, t->values, &err), &err);
    return g;
}

static struct lt_generate_request greedy_request(const int32_t *prompt, int32_t n, int32_t most,
                                                 struct answer *a)
{
    memset(a, 0, sizeof *a);
    return (struct lt_generate_request){.prompt = prompt,
                                        .prompt_length = n,
                                        .max_new_tokens = most,
                                        .logprobs = true,
                                        .sampling = lt_sampling_greedy(),
                                        .on_token = keep_token,
                                        .user = a};
}

static void open_case(struct tiny_model *t, const char *adapter, int threads, const char *isa,
                      const char *gemm)
{
    struct tiny_options o = {.model = "goldens/llama-tiny",
                             .adapter = adapter,
                             .threads = threads,
                             .isa = isa,
                             .gemm = gemm,
                             .tokens = CONTEXT,
                             .labels = CONTEXT};
    tiny_open(t, &o);
}

/* ---- the golden cases ---- */

struct prompt {
    int32_t ids[CONTEXT], length;
    const json_t *item;
};

static json_t *cases;

static int load_cases(void **state)
{
    (void)state;
    char path[4096];
    struct lt_error err;
    return lt_fixture_path(path, sizeof path, "goldens/generate/greedy.json") &&
                   lt_json_load(&cases, path, &err) == LT_OK
               ? 0
               : -1;
}

static int free_cases(void **state)
{
    (void)state;
    json_decref(cases);
    return 0;
}

static struct prompt prompt_of_case(size_t i)
{
    struct prompt p = {.item = json_array_get(cases, i)};
    const json_t *ids = json_object_get(p.item, "prompt");
    p.length = (int32_t)json_array_size(ids);
    assert_true(p.length > 0 && p.length < CONTEXT);
    for (int32_t k = 0; k < p.length; k++)
        p.ids[k] = (int32_t)json_integer_value(json_array_get(ids, (size_t)k));
    return p;
}

static void check_answer(const struct answer *a, const json_t *want)
{
    const json_t *tokens = json_object_get(want, "tokens"), *logprobs = json_object_get(want, "logprobs");
    assert_int_equal(a->count, json_array_size(tokens));
    assert_true(a->count == 40);
    for (int i = 0; i < a->count; i++) {
        assert_int_equal(a->ids[i], json_integer_value(json_array_get(tokens, (size_t)i)));
        double error = fabs(a->logprobs[i] - json_number_value(json_array_get(logprobs, (size_t)i)));
        if (!(error <= LOGPROB_LIMIT))
            fail_msg("log-probability of token %d is off by %g", i, error);
    }
}

static void check_goldens(const char *adapter, int threads, const char *isa, const char *gemm)
{
    struct tiny_model t;
    struct lt_error err;
    open_case(&t, adapter, threads, isa, gemm);
    struct lt_generator *g = make_generator(&t, CONTEXT, 0);
    assert_int_equal(json_array_size(cases), 3);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        struct prompt p = prompt_of_case(i);
        struct answer a;
        struct lt_generate_request req = greedy_request(p.ids, p.length, 40, &a);
        struct lt_generate_result res;
        must(lt_generator_run(g, &req, &res, &err), &err);
        assert_int_equal(res.finish, LT_FINISH_LENGTH);
        assert_int_equal(res.generated, 40);
        check_answer(&a, json_object_get(p.item, adapter ? "adapter" : "base"));
    }
    lt_generator_destroy(g);
    tiny_close(&t);
}

static const char lora[] = "goldens/lora/adapter";

static void test_base(void **state)
{
    (void)state;
    check_goldens(NULL, 1, NULL, NULL);
    check_goldens(NULL, 2, NULL, NULL);
}

static void test_adapter(void **state)
{
    (void)state;
    check_goldens(lora, 1, NULL, NULL);
    check_goldens(lora, 2, NULL, NULL);
}

/* ---- cache against no cache ---- */

/* Log-probabilities of ids[first … n) by one pass over all tokens. */
static void full_logprobs(struct tiny_model *t, const int32_t *ids, int32_t n, int32_t first,
                          double *logprobs)
{
    int32_t position[CONTEXT], begin[CONTEXT] = {0}, end[CONTEXT], rows[CONTEXT];
    uint32_t key[CONTEXT] = {0};
    struct lt_error err;
    for (int32_t i = 0; i < n; i++) {
        position[i] = i;
        end[i] = i + 1;
        rows[i] = first - 1 + i;
    }
    struct lt_tokens tokens = {.n_tokens = n,
                               .n_labels = n - first,
                               .ids = ids,
                               .positions = position,
                               .kv_begin = begin,
                               .kv_end = end,
                               .row_key = key,
                               .label_rows = rows};
    size_t vocab = (size_t)t->model->vocab;
    float *logits = malloc((size_t)(n - first) * vocab * sizeof *logits);
    assert_non_null(logits);
    must(lt_engine_logits(t->engine, &tokens, logits, &err), &err);
    for (int32_t i = first; i < n; i++)
        logprobs[i - first] =
            lt_log_probability(logits + (size_t)(i - first) * vocab, t->model->vocab, ids[i]);
    free(logits);
}

/* A row's result depends on that row alone, so the cache changes nothing at all: not its use, not the chunks
 * that the prompt is read in. */
static void check_cache(const char *adapter, const char *isa, const char *gemm)
{
    static const int32_t chunks[] = {0, 1, 7};
    struct tiny_model t;
    struct lt_error err;
    open_case(&t, adapter, 1, isa, gemm);
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        struct lt_generator *g = make_generator(&t, CONTEXT, chunks[c]);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            struct prompt p = prompt_of_case(i);
            struct answer a;
            struct lt_generate_request req = greedy_request(p.ids, p.length, 40, &a);
            struct lt_generate_result res;
            double want[CONTEXT];
            must(lt_generator_run(g, &req, &res, &err), &err);
            memcpy(p.ids + p.length, a.ids, (size_t)a.count * sizeof *a.ids);
            full_logprobs(&t, p.ids, p.length + a.count, p.length, want);
            for (int k = 0; k < a.count; k++)
                if (a.logprobs[k] != want[k])
                    fail_msg("token %d: %.17g through the cache, %.17g without it (chunk %d, %s %s)", k,
                             a.logprobs[k], want[k], (int)chunks[c], isa ? isa : "", gemm ? gemm : "");
        }
        lt_generator_destroy(g);
    }
    tiny_close(&t);
}

/* 4-bit weights are multiplied in another arithmetic while answering: the same text, by every instruction set, and nearly
 * the same probabilities as in one pass over it. */
static void test_4bit_steps(void **state)
{
    (void)state;
    static const char *const sets[] = {"ref", "avx2", "avx512"};
    static const enum lt_cpu_isa isas[] = {LT_CPU_REF, LT_CPU_AVX2, LT_CPU_AVX512};
    struct answer first = {0};
    struct lt_error err;
    for (int s = 0; s < 3; s++) {
        if (!lt_cpu_isa_available(isas[s]))
            continue;
        struct tiny_model t;
        struct tiny_options opt = {.model = "goldens/llama-tiny",
                                   .quant = LT_LOAD_NF4,
                                   .threads = 2,
                                   .isa = sets[s],
                                   .tokens = CONTEXT,
                                   .labels = CONTEXT};
        tiny_open(&t, &opt);
        struct lt_generator *g = make_generator(&t, CONTEXT, 0);
        struct prompt p = prompt_of_case(1);
        struct answer a;
        struct lt_generate_request req = greedy_request(p.ids, p.length, 16, &a);
        struct lt_generate_result res;
        double want[CONTEXT];
        must(lt_generator_run(g, &req, &res, &err), &err);
        memcpy(p.ids + p.length, a.ids, (size_t)a.count * sizeof *a.ids);
        full_logprobs(&t, p.ids, p.length + a.count, p.length, want);
        for (int k = 0; k < a.count; k++)
            assert_true(fabs(a.logprobs[k] - want[k]) <= 2e-3);
        if (s == 0)
            first = a;
        assert_int_equal(a.count, first.count);
        assert_memory_equal(a.ids, first.ids, (size_t)a.count * sizeof *a.ids);
        lt_generator_destroy(g);
        tiny_close(&t);
    }
}

static void test_cache(void **state)
{
    (void)state;
    check_cache(NULL, NULL, NULL);
    check_cache(lora, NULL, NULL);
}

/* Goldens and cache with every kernel variant and GEMM provider that runs here. */
static void test_variants(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", "avx2", "avx512", "neon"}, *const gemms[] = {"ref", "native",
                                                                                           "openblas"};
    int ran = 0;
    if (strcmp(lt_test_device(), "cpu") != 0) {
        print_message("SKIP: %s has no variants\n", lt_test_device());
        skip();
    }
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        for (size_t k = 0; k < sizeof gemms / sizeof *gemms; k++) {
            struct lt_backend_request req = {.device = "cpu", .threads = 1, .isa = isas[i], .gemm = gemms[k]};
            struct lt_backend *be;
            struct lt_error err;
            if (lt_backend_create(&be, &req, &err) != LT_OK) {
                printf("not here: LT_CPU=%s LT_GEMM=%s (%s)\n", isas[i], gemms[k], err.message);
                continue;
            }
            lt_backend_destroy(be);
            check_goldens(NULL, 1, isas[i], gemms[k]);
            check_goldens(lora, 1, isas[i], gemms[k]);
            check_cache(lora, isas[i], gemms[k]);
            ran++;
        }
    assert_true(ran >= 1);
}

/* ---- what ends a generation, and what is kept for the next one ---- */

static void test_finish(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_error err;
    open_case(&t, NULL, 1, NULL, NULL);
    struct lt_generator *g = make_generator(&t, 30, 8);
    struct prompt p = prompt_of_case(1);
    struct answer full, a;
    struct lt_generate_result res;

    struct lt_generate_request req = greedy_request(p.ids, p.length, 40, &full);
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(res.finish, LT_FINISH_CONTEXT);
    assert_int_equal(full.count, 30 - p.length + 1); /* the last one needs no room */
    assert_int_equal(res.prompt_tokens, p.length);

    req = greedy_request(p.ids, p.length, 5, &a);
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(res.finish, LT_FINISH_LENGTH);
    assert_int_equal(a.count, 5);
    assert_int_equal(res.prompt_tokens, 1); /* the others were in the cache */
    assert_memory_equal(a.ids, full.ids, 5 * sizeof *a.ids);
    assert_memory_equal(a.logprobs, full.logprobs, 5 * sizeof *a.logprobs);

    int32_t stop[] = {-5, full.ids[3]};
    req = greedy_request(p.ids, p.length, 20, &a);
    req.stop_ids = stop;
    req.stop_count = 2;
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(res.finish, LT_FINISH_STOP);
    assert_true(a.count <= 3 && a.count == res.generated);

    req = greedy_request(p.ids, p.length, 20, &a);
    a.most = 2;
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(res.finish, LT_FINISH_CALLER);
    assert_int_equal(a.count, 2);

    req = greedy_request(p.ids, p.length, 0, &a);
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(res.finish, LT_FINISH_LENGTH);
    assert_int_equal(a.count, 0);
    lt_generator_destroy(g);
    tiny_close(&t);
}

/* A prompt that shares a beginning with the cache gives the same answer as in a fresh generator. */
static void test_shared_beginning(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_error err;
    open_case(&t, lora, 1, NULL, NULL);
    struct lt_generator *warm = make_generator(&t, CONTEXT, 0), *cold = make_generator(&t, CONTEXT, 0);
    struct prompt p = prompt_of_case(2);
    struct answer a, b;
    struct lt_generate_result res;
    struct lt_generate_request req = greedy_request(p.ids, p.length, 12, &a);
    must(lt_generator_run(warm, &req, &res, &err), &err);
    /* A second turn: the prompt, half of the answer, then something else. */
    memcpy(p.ids + p.length, a.ids, 6 * sizeof *a.ids);
    p.length += 6;
    p.ids[p.length++] = (a.ids[6] + 1) % t.model->vocab;
    req = greedy_request(p.ids, p.length, 12, &a);
    must(lt_generator_run(warm, &req, &res, &err), &err);
    assert_int_equal(res.prompt_tokens, 7); /* the answer is computed again, as a prompt */
    req = greedy_request(p.ids, p.length, 12, &b);
    must(lt_generator_run(cold, &req, &res, &err), &err);
    assert_int_equal(res.prompt_tokens, p.length);
    assert_memory_equal(a.ids, b.ids, sizeof a.ids);
    assert_memory_equal(a.logprobs, b.logprobs, sizeof a.logprobs);
    lt_generator_destroy(warm);
    lt_generator_destroy(cold);
    tiny_close(&t);
}

/* The same seed gives the same tokens for any number of threads; another seed others. */
static void test_sampled(void **state)
{
    (void)state;
    struct answer a[3];
    struct lt_generate_result res;
    struct lt_error err;
    for (int i = 0; i < 3; i++) {
        struct tiny_model t;
        open_case(&t, NULL, i == 1 ? 2 : 1, NULL, NULL);
        struct lt_generator *g = make_generator(&t, CONTEXT, 0);
        struct prompt p = prompt_of_case(0);
        struct lt_generate_request req = greedy_request(p.ids, p.length, 40, &a[i]);
        req.sampling = (struct lt_sampling){.temperature = 0.8,
                                            .top_p = 0.95,
                                            .top_k = 50,
                                            .repetition_penalty = 1.1,
                                            .seed = i == 2 ? 8 : 7};
        must(lt_generator_run(g, &req, &res, &err), &err);
        assert_int_equal(a[i].count, 40);
        lt_generator_destroy(g);
        tiny_close(&t);
    }
    assert_memory_equal(&a[0], &a[1], sizeof a[0]);
    assert_memory_not_equal(a[0].ids, a[2].ids, sizeof a[0].ids);
}

static void test_errors(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_error err;
    struct lt_generator *g;
    open_case(&t, NULL, 1, NULL, NULL);
    const int32_t bad_contexts[] = {0, -1, t.model->table_positions + 1};
    for (size_t i = 0; i < 3; i++) {
        struct lt_generator_options opt = {.context = bad_contexts[i]};
        assert_int_equal(lt_generator_create(&g, t.model, t.be, &opt, &err), LT_ERR_INVALID);
        assert_null(g);
    }
    g = make_generator(&t, 8, 0);
    int32_t ids[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    struct answer a;
    struct lt_generate_result res;
    struct lt_generate_request req = greedy_request(ids, 0, 4, &a);
    assert_int_equal(lt_generator_run(g, &req, &res, &err), LT_ERR_INVALID);
    req = greedy_request(ids, 9, 4, &a);
    assert_int_equal(lt_generator_run(g, &req, &res, &err), LT_ERR_INVALID);
    ids[2] = t.model->vocab;
    req = greedy_request(ids, 4, 4, &a);
    assert_int_equal(lt_generator_run(g, &req, &res, &err), LT_ERR_INVALID);
    ids[2] = -1;
    assert_int_equal(lt_generator_run(g, &req, &res, &err), LT_ERR_INVALID);
    ids[2] = 3;
    req.sampling.top_p = 2;
    assert_int_equal(lt_generator_run(g, &req, &res, &err), LT_ERR_INVALID);
    req.sampling.top_p = 1;
    lt_cancel_request();
    assert_int_equal(lt_generator_run(g, &req, &res, &err), LT_ERR_CANCELLED);
    lt_cancel_reset();
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(a.count, 4);
    lt_generator_destroy(g);
    lt_generator_destroy(NULL);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base),
        cmocka_unit_test(test_adapter),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_4bit_steps),
        cmocka_unit_test(test_finish),
        cmocka_unit_test(test_shared_beginning),
        cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests_name("generate", tests, load_cases, free_cases);
}
