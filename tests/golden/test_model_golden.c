/* Logits, losses and every gradient against PyTorch, PEFT and bitsandbytes (tests/golden/data/README.md). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cpu/kernels.h"
#include "tests/support/fixtures.h"
#include "tests/support/tiny_model.h"

/* From the README of the goldens: the libraries themselves differ by 9e-6, 1e-6 and 4e-6 from float64. */
#define LOGITS_LIMIT 1e-4
#define LOSS_LIMIT 1e-5
#define GRAD_LIMIT 1e-4
/* Where linear layers compute in bf16, by the same README: 3e-2, 3e-4 and 1e-2 measured there. */
#define BF16_LOGITS_LIMIT 1e-1
#define BF16_LOSS_LIMIT 5e-3
#define BF16_GRAD_LIMIT 5e-2

static void must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

/* Largest difference of the logits of all unmasked tokens. */
static double logits_error(struct tiny_model *t, const struct tiny_batch *b, const char *file,
                           const char *name)
{
    struct lt_error err;
    size_t n, vocab = (size_t)t->model->vocab;
    float *want = tiny_tensor(file, name, &n),
          *got = malloc((size_t)b->tokens.n_tokens * vocab * sizeof *got);
    struct lt_tokens tokens = b->tokens;
    tokens.label_rows = b->all_rows;
    tokens.n_labels = tokens.n_tokens;
    assert_non_null(got);
    must(lt_engine_logits(t->engine, &tokens, got, &err), &err);
    double worst = 0;
    for (size_t r = 0; r < (size_t)tokens.n_tokens; r++)
        for (size_t v = 0; v < vocab; v++)
            worst = fmax(worst,
                         fabs((double)got[r * vocab + v] - (double)want[(size_t)b->source[r] * vocab + v]));
    free(want);
    free(got);
    return worst;
}

static double train_loss(struct tiny_model *t, const struct tiny_batch *b)
{
    struct lt_error err;
    must(lt_engine_zero_grads(t->engine, &err), &err);
    return tiny_train(t, &b->tokens, 1) / b->tokens.n_labels;
}

/* Compares the gradients of all parameters; returns how many were compared. */
static size_t check_grads(struct tiny_model *t, const char *file, double limit)
{
    struct lt_error err;
    for (size_t i = 0; i < t->params.count; i++) {
        const struct lt_param *p = &t->params.items[i];
        size_t n;
        float *want = tiny_tensor(file, p->name, &n), *got = malloc(p->elements * sizeof *got);
        assert_non_null(got);
        assert_int_equal(n, p->elements);
        must(lt_engine_read_grads(t->engine, p->offset, got, n, &err), &err);
        double worst = 0, largest = 0;
        for (size_t k = 0; k < n; k++) {
            worst = fmax(worst, fabs((double)got[k] - (double)want[k]));
            largest = fmax(largest, fabs((double)want[k]));
        }
        if (!(worst <= limit * largest))
            fail_msg("gradient of %s is off by %g, %g of its largest entry", p->name, worst, worst / largest);
        free(want);
        free(got);
    }
    return t->params.count;
}

struct golden_case {
    const char *model, *adapter, *inputs, *prefix, *logits, *logits_name, *grads;
    double loss;
    size_t parameters;
};

static const struct golden_case cases[] = {
    {"goldens/llama-tiny", NULL, "goldens/llama-tiny/inputs.safetensors", "right.",
     "goldens/llama-tiny/expected.safetensors", "right.logits", "goldens/llama-tiny/grads.safetensors",
     6.3300981521606445, 30},
    {"goldens/gpt2-tiny", NULL, "goldens/gpt2-tiny/inputs.safetensors", "",
     "goldens/gpt2-tiny/expected.safetensors", "logits", "goldens/gpt2-tiny/grads.safetensors",
     7.9310994148254395, 28},
    {"goldens/llama-tiny", "goldens/lora/adapter", "goldens/llama-tiny/inputs.safetensors", "right.",
     "goldens/lora/expected.safetensors", "logits", "goldens/lora/grads.safetensors", 6.400578498840332, 42},
    {"goldens/llama-tiny", "goldens/rslora/adapter", "goldens/llama-tiny/inputs.safetensors", "right.",
     "goldens/rslora/expected.safetensors", "logits", "goldens/rslora/grads.safetensors", 0, 42},
    {"goldens/llama-tiny", "goldens/qv-only/adapter", "goldens/llama-tiny/inputs.safetensors", "right.",
     "goldens/qv-only/expected.safetensors", "logits", "goldens/qv-only/grads.safetensors", 0, 12},
    {"goldens/gpt2-tiny", "goldens/gpt2-tiny/lora/adapter", "goldens/gpt2-tiny/inputs.safetensors", "",
     "goldens/gpt2-tiny/lora/expected.safetensors", "logits", "goldens/gpt2-tiny/lora/grads.safetensors", 0,
     12},
    {"goldens/qlora/checkpoint-bnb-4bit", "goldens/lora/adapter", "goldens/llama-tiny/inputs.safetensors",
     "right.", "goldens/qlora/f32/expected.safetensors", "logits", "goldens/qlora/f32/grads.safetensors", 0,
     42},
    {"goldens/archs/llama31", NULL, "goldens/archs/llama31/inputs.safetensors", "",
     "goldens/archs/llama31/expected.safetensors", "logits", "goldens/archs/llama31/grads.safetensors", 0,
     21},
    {"goldens/archs/smollm2", NULL, "goldens/archs/smollm2/inputs.safetensors", "",
     "goldens/archs/smollm2/expected.safetensors", "logits", "goldens/archs/smollm2/grads.safetensors", 0,
     20},
};

static void run_case(const struct golden_case *c, enum lt_recompute recompute)
{
    struct tiny_model t;
    struct tiny_batch b;
    tiny_batch_load(&b, c->inputs, c->prefix);
    struct tiny_options o = {.model = c->model,
                             .adapter = c->adapter,
                             .full = !c->adapter,
                             .recompute = recompute,
                             .tokens = b.tokens.n_tokens,
                             .labels = b.tokens.n_tokens,
                             .loss_chunk = 7};
    tiny_open(&t, &o);
    double logits = logits_error(&t, &b, c->logits, c->logits_name);
    if (!(logits <= LOGITS_LIMIT))
        fail_msg("%s: logits are off by %g", c->logits, logits);
    double loss = train_loss(&t, &b);
    if (c->loss > 0 && !(fabs(loss - c->loss) <= LOSS_LIMIT))
        fail_msg("%s: loss is %.9g, not %.9g", c->logits, loss, c->loss);
    assert_int_equal(check_grads(&t, c->grads, GRAD_LIMIT), c->parameters);
    tiny_close(&t);
    tiny_batch_free(&b);
}

static void run_numbered(void **state)
{
    run_case(&cases[(size_t)(uintptr_t)*state], LT_RECOMPUTE_SELECTIVE);
}

static void padding_variants(void **state)
{
    static const char *const prefixes[] = {"full.", "right.", "left."};
    static const double losses[] = {6.528223037719727, 6.3300981521606445, 6.3300981521606445};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct tiny_model t;
        struct tiny_batch b;
        char name[32];
        tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", prefixes[i]);
        struct tiny_options o = {.model = "goldens/llama-tiny",
                                 .full = true,
                                 .tokens = b.tokens.n_tokens,
                                 .labels = b.tokens.n_tokens};
        tiny_open(&t, &o);
        snprintf(name, sizeof name, "%slogits", prefixes[i]);
        assert_true(logits_error(&t, &b, "goldens/llama-tiny/expected.safetensors", name) <= LOGITS_LIMIT);
        assert_true(fabs(train_loss(&t, &b) - losses[i]) <= LOSS_LIMIT);
        tiny_close(&t);
        tiny_batch_free(&b);
    }
}

/* All gradients of one run, as bytes. */
static float *grads_of(const struct tiny_options *o, const struct tiny_batch *b, size_t *n, double *loss)
{
    struct lt_error err;
    struct tiny_model t;
    tiny_open(&t, o);
    *loss = train_loss(&t, b);
    *n = t.params.elements;
    float *g = malloc(*n * sizeof *g);
    assert_non_null(g);
    must(lt_engine_read_grads(t.engine, 0, g, *n, &err), &err);
    tiny_close(&t);
    return g;
}

/* The same numbers bit for bit, whatever is recomputed, however many threads run, with dropout and with bf16
 * products too. */
static void recompute_and_threads_change_no_bit(void **state)
{
    (void)state;
    struct tiny_batch b;
    int most_threads = strcmp(lt_test_device(), "cpu") == 0 ? 3 : 1; /* other devices have none */
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "right.");
    for (int variant = 0; variant < 3; variant++) {
        struct tiny_options base = {.model = "goldens/llama-tiny",
                                    .adapter = "goldens/lora/adapter",
                                    .dropout = variant == 1 ? 0.25f : 0,
                                    .bf16 = variant == 2,
                                    .threads = 1,
                                    .tokens = b.tokens.n_tokens,
                                    .labels = b.tokens.n_tokens};
        size_t n, m;
        double loss, other;
        float *want = grads_of(&base, &b, &n, &loss);
        for (int r = LT_RECOMPUTE_NONE; r <= LT_RECOMPUTE_FULL; r++)
            for (int threads = 1; threads <= most_threads; threads++) {
                struct tiny_options o = base;
                o.recompute = (enum lt_recompute)r;
                o.threads = threads;
                float *got = grads_of(&o, &b, &m, &other);
                assert_int_equal(n, m);
                assert_memory_equal(want, got, n * sizeof *want);
                assert_true(loss == other);
                free(got);
            }
        free(want);
    }
    tiny_batch_free(&b);
}

/* Each row alone gives the bits that it has in the batch of both. */
static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    struct tiny_batch b;
    struct tiny_model t;
    struct lt_error err;
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "right.");
    struct tiny_options o = {.model = "goldens/llama-tiny",
                             .adapter = "goldens/lora/adapter",
                             .tokens = b.tokens.n_tokens,
                             .labels = b.tokens.n_tokens};
    tiny_open(&t, &o);
    size_t n = (size_t)b.tokens.n_tokens, vocab = (size_t)t.model->vocab;
    float *all = malloc(n * vocab * sizeof *all), *one = malloc(n * vocab * sizeof *one);
    assert_non_null(all);
    assert_non_null(one);
    struct lt_tokens tokens = b.tokens;
    tokens.label_rows = b.all_rows;
    tokens.n_labels = tokens.n_tokens;
    must(lt_engine_logits(t.engine, &tokens, all, &err), &err);
    int32_t second = 0;
    while (b.kv_begin[second] == 0)
        second++;
    int32_t *begin = calloc(n, sizeof *begin);
    assert_non_null(begin);
    tokens.ids += second;
    tokens.positions += second;
    tokens.row_key += second;
    tokens.kv_begin = begin;
    tokens.kv_end = b.kv_end; /* 1, 2, 3, … of the first row */
    tokens.n_tokens = tokens.n_labels = (int32_t)n - second;
    must(lt_engine_logits(t.engine, &tokens, one, &err), &err);
    assert_memory_equal(all + (size_t)second * vocab, one, (n - (size_t)second) * vocab * sizeof *one);
    free(begin);
    free(all);
    free(one);
    tiny_close(&t);
    tiny_batch_free(&b);
}

/* qlora/bf16 on every instruction set there is; and it is bf16: the logits differ from those of f32. */
static void bf16_compute(void **state)
{
    static const char *const isas[] = {"ref", "avx2", "avx512", "avx512bf16", "amx", "neon", "neonbf16"};
    enum lt_cpu_isa isa;
    struct tiny_batch b;
    (void)state;
    tiny_batch_load(&b, "goldens/llama-tiny/inputs.safetensors", "right.");
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        struct tiny_model t;
        if (!lt_cpu_isa_detect(&isa, isas[i])) {
            print_message("SKIP: this processor has no %s\n", isas[i]);
            continue;
        }
        struct tiny_options o = {.model = "goldens/qlora/checkpoint-bnb-4bit",
                                 .adapter = "goldens/lora/adapter",
                                 .isa = isas[i],
                                 .bf16 = true,
                                 .tokens = b.tokens.n_tokens,
                                 .labels = b.tokens.n_tokens};
        tiny_open(&t, &o);
        double logits = logits_error(&t, &b, "goldens/qlora/bf16/expected.safetensors", "logits");
        double other = logits_error(&t, &b, "goldens/qlora/f32/expected.safetensors", "logits");
        double loss = train_loss(&t, &b);
        print_message("%s: logits off by %g (from those of f32 by %g), loss by %g\n", isas[i], logits, other,
                      loss - 6.468225002288818);
        assert_true(logits <= BF16_LOGITS_LIMIT);
        assert_true(other > 10 * LOGITS_LIMIT);
        assert_true(fabs(loss - 6.468225002288818) <= BF16_LOSS_LIMIT);
        assert_int_equal(check_grads(&t, "goldens/qlora/bf16/grads.safetensors", BF16_GRAD_LIMIT), 42);
        tiny_close(&t);
    }
    tiny_batch_free(&b);
}

int main(void)
{
    enum { CASES = sizeof cases / sizeof *cases };
    struct CMUnitTest tests[CASES + 4];
    static char names[CASES][96];
    for (size_t i = 0; i < CASES; i++) {
        const char *of = cases[i].adapter ? cases[i].logits : cases[i].model;
        snprintf(names[i], sizeof names[i], "%s", of);
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = run_numbered, .initial_state = (void *)(uintptr_t)i};
    }
    tests[CASES] = (struct CMUnitTest)cmocka_unit_test(padding_variants);
    tests[CASES + 1] = (struct CMUnitTest)cmocka_unit_test(recompute_and_threads_change_no_bit);
    tests[CASES + 2] = (struct CMUnitTest)cmocka_unit_test(rows_do_not_depend_on_the_batch);
    tests[CASES + 3] = (struct CMUnitTest)cmocka_unit_test(bf16_compute);
    return cmocka_run_group_tests_name("model_golden", tests, NULL, NULL);
}
