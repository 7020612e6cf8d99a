/* lora-bench generate: reading a random prompt, then one token at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/system.h"
#include "core/infer/generate.h"
#include "tools/bench_machine.h"
#include "tools/bench_modes.h"
#include "tools/bench_session.h"

static struct {
    struct bench_options common;
    int64_t prompt, tokens, chunk;
} o = {.prompt = 512, .tokens = 32};

static const struct cli_option own_options[] = {
    {.name = "prompt-tokens",
     .type = CLI_INT,
     .target = &o.prompt,
     .min = 1,
     .max = 1 << 20,
     .help = "length of the prompt",
     .group = "Generation"},
    {.name = "max-new-tokens",
     .aliases = "new-tokens",
     .type = CLI_INT,
     .target = &o.tokens,
     .min = 2,
     .max = 1 << 20,
     .help = "tokens to generate"},
    {.name = "chunk",
     .type = CLI_INT,
     .target = &o.chunk,
     .max = 1 << 20,
     .help = "prompt tokens a pass; 0: the generator's choice"},
};

enum { OWN_OPTION_COUNT = sizeof own_options / sizeof *own_options };

struct run {
    struct bench_session s;
    struct lt_generator *generator;
    int32_t *prompt;
    double prompt_seconds, token_seconds; /* all tokens together */
    double *seconds;                      /* [tokens] of each token after the first */
    int64_t ended;                        /* the first one, which ends the prompt, among them */
    double began, median_seconds;         /* of a token */
    struct bench_span *weights;           /* what a token reads, as plain memory */
    size_t weight_count;                  /* 0: not to be read now */
    double reading, read_bytes;           /* seconds and bytes of reading them after each token */
    uint64_t sum;
};

static int32_t context_tokens(void)
{
    return (int32_t)(o.prompt + 1 + o.tokens);
}

/* Other work on the machine slows tokens and plain reading alike when the two take turns. */
static void read_weights(struct run *r)
{
    double began = lt_clock_seconds();
    r->sum += bench_read(r->weights, r->weight_count, r->s.threads);
    r->reading += lt_clock_seconds() - began;
    for (size_t i = 0; i < r->weight_count; i++)
        r->read_bytes += (double)r->weights[i].bytes;
}

static bool go_on(void *user, int32_t id, double logprob)
{
    struct run *r = user;
    (void)id;
    (void)logprob;
    if (r->ended > 0)
        r->seconds[r->ended - 1] = lt_clock_seconds() - r->began;
    if (r->weight_count > 0) {
        if (r->ended == 0)
            bench_session_count_ops(&r->s);
        read_weights(r);
    }
    r->ended++;
    r->began = lt_clock_seconds();
    return true;
}

static int compare_seconds(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void sum_up(struct run *r)
{
    r->token_seconds = 0;
    for (int64_t i = 0; i < o.tokens; i++)
        r->token_seconds += r->seconds[i];
    qsort(r->seconds, (size_t)o.tokens, sizeof *r->seconds, compare_seconds);
    r->median_seconds = r->seconds[o.tokens / 2];
}

static enum lt_status generate(struct run *r, int32_t tokens, struct lt_generate_result *result,
                               struct lt_error *err)
{
    const struct lt_generate_request request = {.prompt = r->prompt,
                                                .prompt_length = (int32_t)o.prompt,
                                                .max_new_tokens = tokens,
                                                .sampling = lt_sampling_greedy(),
                                                .on_token = go_on,
                                                .user = r};
    r->ended = 0;
    r->began = lt_clock_seconds();
    return lt_generator_run(r->generator, &request, result, err);
}

/* Makes the generator for what is in force; the one before it is dropped. */
static enum lt_status plan_generator(void *user, struct lt_plan *plan, struct lt_error *err)
{
    struct run *r = user;
    const struct lt_generator_options options = {.context = context_tokens(),
                                                 .chunk = (int32_t)o.chunk,
                                                 .device = r->s.place.device,
                                                 .device_layers = r->s.place.device_layers};
    lt_generator_destroy(r->generator);
    r->generator = NULL;
    LT_TRY(lt_generator_create(&r->generator, r->s.model, r->s.place.backend, &options, err));
    LT_TRY(bench_session_plan_weights(&r->s, err));
    LT_TRY(lt_plan_add_engine(&r->s.plan, lt_generator_engine(r->generator), "parameters", NULL, err));
    *plan = r->s.plan;
    return LT_OK;
}

static enum lt_status prepare(struct run *r, struct lt_error *err)
{
    LT_TRY(bench_session_open(&r->s, &o.common, "generate", "nf4", err));
    struct lt_plan plan;
    r->s.model->table_positions = context_tokens();
    (void)lt_synthetic_stream(r->s.model, &r->s.synthetic, NULL);
    LT_TRY(cli_placement_search(&r->s.place, plan_generator, r, err));
    LT_TRY(plan_generator(r, &plan, err));
    r->prompt = lt_alloc_array((size_t)o.prompt, sizeof *r->prompt);
    r->seconds = lt_alloc_array((size_t)o.tokens, sizeof *r->seconds);
    r->weights = lt_alloc_array((size_t)r->s.model->tensor_count, sizeof *r->weights);
    if (!r->prompt || !r->seconds || !r->weights)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the prompt");
    bench_random_ids(r->prompt, o.prompt, r->s.model->vocab, (uint64_t)o.common.seed, 0);
    return LT_OK;
}

/* The first pass touches memory for the first time; its prompt differs in the first token, so that the
 * measured one finds nothing in the cache. */
static enum lt_status warm_up(struct run *r, struct lt_error *err)
{
    struct lt_generate_result result;
    int32_t first = r->prompt[0];
    r->prompt[0] = (first + 1) % r->s.model->vocab;
    LT_TRY(generate(r, 2, &result, err));
    r->prompt[0] = first;
    return LT_OK;
}

/* The prompt gives the first token as well. */
static enum lt_status read_prompt(struct run *r, struct lt_error *err)
{
    struct lt_generate_result result;
    bench_session_count_ops(&r->s);
    LT_TRY(generate(r, 1, &result, err));
    r->prompt_seconds = result.prompt_seconds;
    bench_print_ops(&r->s, "prompt_ops", r->prompt_seconds, 1, "prompt");
    return LT_OK;
}

/* The prompt again, of which all but the last token is in the cache.  That one is multiplied as part of a prompt and gives
 * the first token, which does not count: every other one is one pass over one row. */
static enum lt_status read_tokens(struct run *r, struct lt_error *err)
{
    struct lt_generate_result result;
    const struct lt_model *m = r->s.model;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_weight *w = &m->tensors[i].weight;
        if (m->tensors[i].kind == LT_TENSOR_LINEAR && w->data)
            r->weights[r->weight_count++] =
                (struct bench_span){w->data, lt_weight_data_bytes(w->format, w->rows, w->cols)};
    }
    LT_TRY(generate(r, (int32_t)o.tokens + 1, &result, err));
    sum_up(r);
    bench_print_ops(&r->s, "token_ops", r->token_seconds, o.tokens, "token");
    return LT_OK;
}

/* What one token reads: all matrices but the embedding's other rows, and the keys and values before it. */
static double bytes_per_token(const struct run *r)
{
    const struct lt_model *m = r->s.model;
    double bytes = 0, keys = (double)o.prompt + (double)o.tokens / 2;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->kind == LT_TENSOR_LINEAR)
            bytes += (double)lt_synthetic_weight_bytes(t->weight.format, t->rows, t->cols,
                                                       t->weight.absmax_codes != NULL);
    }
    return bytes + 2 * keys * (double)m->layers * (double)m->kv_heads * (double)m->head_dim * sizeof(float);
}

static void report(struct run *r)
{
    double prompt_rate = (double)o.prompt / r->prompt_seconds;
    double rate = (double)o.tokens / r->token_seconds, bytes = bytes_per_token(r);
    double read_rate = r->read_bytes / r->reading;
    printf("\nSpeed\n");
    printf("  %-34s %12.2f  (%d tokens)\n", "prompt tokens/s", prompt_rate, (int)o.prompt);
    printf("  %-34s %12.2f  (%d tokens)\n", "new tokens/s", rate, (int)o.tokens);
    printf("  %-34s %12.1f\n", "MiB read for a new token", bytes / 1048576);
    printf("  %-34s %12.2f  (%.2f by the median token)\n", "GB/s read while generating", 1e-9 * bytes * rate,
           1e-9 * bytes / r->median_seconds);
    printf("  %-34s %12.2f  (%d thread%s)\n", "GB/s this machine reads", 1e-9 * read_rate, r->s.threads,
           r->s.threads == 1 ? "" : "s");
    printf("  %-34s %10.1f %%  (%.1f %%)\n", "share of it", 100 * bytes * rate / read_rate,
           100 * bytes / r->median_seconds / read_rate);
    bench_session_add(&r->s,
                      json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "prompt_tokens",
                                (json_int_t)o.prompt, "new_tokens", (json_int_t)o.tokens,
                                "prompt_tokens_per_second", prompt_rate, "new_tokens_per_second", rate,
                                "bytes_per_token", bytes, "memory_read_rate", read_rate, "share_of_read_rate",
                                bytes * rate / read_rate, "median_token_seconds", r->median_seconds));
}

static enum lt_status measure(struct run *r, struct lt_error *err)
{
    LT_TRY(prepare(r, err));
    bench_print_model(&r->s);
    LT_TRY(bench_session_fill(&r->s, err));
    LT_TRY(lt_generator_allocate(r->generator, NULL, err));
    LT_TRY(warm_up(r, err));
    LT_TRY(read_prompt(r, err));
    LT_TRY(read_tokens(r, err));
    bench_session_measured(&r->s);
    report(r);
    bench_print_memory(&r->s);
    return bench_session_save(&r->s, err);
}

enum lt_status bench_generate(int argc, char **argv, struct lt_error *err)
{
    static struct cli_option table[BENCH_OPTION_COUNT + OWN_OPTION_COUNT];
    static struct run r;
    o.common = bench_defaults;
    size_t count = bench_option_rows(table, &o.common);
    memcpy(table + count, own_options, sizeof own_options);
    const struct cli_program program = {.name = "lora-bench generate",
                                        .summary = "measures reading a prompt and generating tokens",
                                        .usage = "[--shape NAME] [options]",
                                        .options = table,
                                        .option_count = count + OWN_OPTION_COUNT};
    cli_parse(&program, argc, argv);
    enum lt_status status = measure(&r, err);
    lt_free(r.prompt);
    lt_free(r.seconds);
    lt_free(r.weights);
    lt_generator_destroy(r.generator);
    bench_session_close(&r.s);
    return status;
}
