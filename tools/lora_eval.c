/* lora-eval: how well a model predicts a data set, and what an adapter changes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/io/json.h"
#include "tools/cli_session.h"
#include "tools/cli_term.h"
#include "tools/eval_run.h"

/* ---- options ---- */

static struct options {
    struct cli_model_options model;
    const char *data, *pretokenized, *alpaca_template, *dump_logits, *json, *config;
    int64_t batch_size, max_length, limit, max_new_tokens;
    bool bleu, base, train_on_inputs;
} o = {.alpaca_template = "short",
       .batch_size = 8,
       .max_length = 512,
       .max_new_tokens = 128,
       .bleu = true,
       .base = true};

static const struct cli_option own_options[] = {
    {.name = "data",
     .aliases = "eval-data,eval-file,validation-file,dataset,data-path",
     .type = CLI_STRING,
     .target = &o.data,
     .help = "evaluation rows, JSONL or a JSON array",
     .group = "Data"},
    {.name = "pretokenized",
     .aliases = "eval-pretokenized",
     .type = CLI_STRING,
     .target = &o.pretokenized,
     .help = "safetensors with input_ids and labels, instead of --data"},
    {.name = "max-length",
     .aliases = "max-seq-length,cutoff-len,model-max-length,max-seq-len",
     .type = CLI_INT,
     .target = &o.max_length,
     .min = 2,
     .max = 1 << 20,
     .help = "longer rows are cut to this many tokens"},
    {.name = "limit",
     .aliases = "max-eval-samples",
     .type = CLI_INT,
     .target = &o.limit,
     .min = 0,
     .max = 9e15,
     .help = "only the first N rows; 0: all"},
    {.name = "train-on-inputs",
     .aliases = "train-on-prompt",
     .type = CLI_FLAG,
     .target = &o.train_on_inputs,
     .help = "prompts are targets too"},
    {.name = "alpaca-template",
     .type = CLI_CHOICE,
     .target = &o.alpaca_template,
     .choices = "short,long",
     .help = "form of the Alpaca prompt"},
    {.name = "per-device-eval-batch-size",
     .aliases = "batch-size,eval-batch-size",
     .type = CLI_INT,
     .target = &o.batch_size,
     .min = 1,
     .max = 65536,
     .help = "rows evaluated at once",
     .group = "Evaluation"},
    {.name = "base",
     .type = CLI_FLAG,
     .target = &o.base,
     .help = "with --adapter: measure the base model as well"},
    {.name = "bleu",
     .type = CLI_FLAG,
     .target = &o.bleu,
     .help = "greedy answers to the rows with prompt and completion, and their corpus BLEU"},
    {.name = "max-new-tokens",
     .type = CLI_INT,
     .target = &o.max_new_tokens,
     .min = 1,
     .max = 1 << 20,
     .help = "longest answer"},
    {.name = "dump-logits",
     .type = CLI_STRING,
     .target = &o.dump_logits,
     .help = "write logits [rows, T, vocab] and loss of --pretokenized to this safetensors file",
     .group = "Output"},
    {.name = "json", .type = CLI_STRING, .target = &o.json, .help = "write the results to this JSON file"},
    {.name = "config",
     .type = CLI_STRING,
     .target = &o.config,
     .help = "read options from this JSON or YAML file"},
};

enum { OWN_OPTION_COUNT = sizeof own_options / sizeof *own_options };

static enum lt_status check_options(struct lt_error *err)
{
    if (!o.data == !o.pretokenized)
        return lt_fail(err, LT_ERR_INVALID, "give either --data or --pretokenized");
    if (o.dump_logits && !o.pretokenized)
        return lt_fail(err, LT_ERR_INVALID, "--dump-logits needs --pretokenized");
    if (o.limit > 0 && o.pretokenized)
        return lt_fail(err, LT_ERR_INVALID, "--limit works on the rows of --data only");
    return LT_OK;
}

/* ---- the run ---- */

struct run {
    struct cli_session session;
    struct lt_dataset data, used; /* used: the first rows of data, which owns them */
    struct lt_batches *batches;
    int32_t sequence; /* tokens of the longest one */
    struct eval_result base, adapted;
};

static void use_first_rows(struct run *r)
{
    r->used = r->data;
    if (o.limit > 0 && (uint64_t)o.limit < r->data.count)
        r->used.count = (size_t)o.limit;
    r->used.tokens = r->used.targets = 0;
    r->used.longest = 0;
    for (size_t i = 0; i < r->used.count; i++) {
        const struct lt_example *e = &r->used.examples[i];
        r->used.tokens += e->length;
        r->used.targets += e->targets;
        r->used.longest = e->length > r->used.longest ? e->length : r->used.longest;
    }
}

static enum lt_status open_data(struct run *r, struct lt_error *err)
{
    struct lt_batches_options batches = {.batch_size = (int32_t)o.batch_size, .accumulation = 1};
    if (o.pretokenized) {
        int64_t rows, columns;
        LT_TRY(lt_batches_from_pretokenized(&r->batches, o.pretokenized, r->session.model->vocab, &batches,
                                            err));
        lt_batches_shape(r->batches, &rows, &columns);
        r->sequence = (int32_t)columns;
        return LT_OK;
    }
    struct lt_data_tokenizer tok = cli_data_tokenizer(&r->session);
    struct lt_dataset_options opt = {.max_length = (int32_t)o.max_length,
                                     .train_on_prompt = o.train_on_inputs,
                                     .keep_text = o.bleu,
                                     .alpaca = strcmp(o.alpaca_template, "long") == 0 ? LT_ALPACA_LONG
                                                                                      : LT_ALPACA_SHORT};
    LT_TRY(lt_dataset_load(&r->data, o.data, &tok, &opt, err));
    if (r->data.truncated > 0 || r->data.dropped > 0)
        lt_log(
            LT_LOG_WARNING,
            "%s: %lld of %lld rows were longer than --max-length %lld and cut (the longest had %d tokens), "
            "%lld of them left no target and were dropped",
            o.data, (long long)(r->data.truncated + r->data.dropped), (long long)r->data.rows,
            (long long)o.max_length, (int)r->data.longest_before, (long long)r->data.dropped);
    use_first_rows(r);
    r->sequence = r->used.longest;
    return lt_batches_from_dataset(&r->batches, &r->used, &batches, err);
}

static enum lt_status check_sequence(const struct run *r, struct lt_error *err)
{
    const struct lt_model *m = r->session.model;
    if (r->sequence <= m->max_positions)
        return LT_OK;
    if (m->rope_tables == 0)
        return lt_fail(err, LT_ERR_INVALID, "sequences of %d tokens exceed the %d positions of this model%s",
                       (int)r->sequence, (int)m->max_positions, o.data ? ": use a smaller --max-length" : "");
    lt_log(LT_LOG_WARNING,
           "sequences of %d tokens are longer than the %d positions this model was trained with",
           (int)r->sequence, (int)m->max_positions);
    return LT_OK;
}

static enum lt_status measure(struct run *r, const char *what, const char *dump, struct eval_result *res,
                              struct lt_error *err)
{
    LT_TRY(eval_losses(&r->session, r->batches, r->sequence, what, dump, res, err));
    if (!o.data || !o.bleu)
        return LT_OK;
    LT_TRY(eval_answers(&r->session, &r->used, (int32_t)o.max_new_tokens, what, res, err));
    if (res->left_out > 0)
        lt_log(LT_LOG_WARNING, "BLEU leaves out %lld rows whose prompts fill all %d positions of the model",
               (long long)res->left_out, (int)r->session.model->max_positions);
    return LT_OK;
}

static enum lt_status evaluate(struct run *r, struct lt_error *err)
{
    LT_TRY(check_options(err));
    LT_TRY(cli_session_open(&r->session, &o.model, o.data != NULL, err));
    LT_TRY(open_data(r, err));
    LT_TRY(check_sequence(r, err));
    LT_TRY(cli_session_load_weights(&r->session, err));
    if (o.base || !o.model.adapter)
        LT_TRY(measure(r, "base", o.model.adapter ? NULL : o.dump_logits, &r->base, err));
    if (!o.model.adapter)
        return LT_OK;
    LT_TRY(cli_session_adapter(&r->session, o.model.adapter, err));
    return measure(r, "adapter", o.dump_logits, &r->adapted, err);
}

/* ---- results ---- */

static void print_row(const struct run *r, const char *name, const char *base, const char *adapted)
{
    printf("%-16s", name);
    if (r->base.done)
        printf(" %12s", base);
    if (r->adapted.done)
        printf(" %12s", adapted);
    printf("\n");
}

static void print_number(const struct run *r, const char *name, const char *format, double base,
                         double adapted)
{
    char a[32], b[32];
    lt_snprintf(a, sizeof a, format, base);
    lt_snprintf(b, sizeof b, format, adapted);
    print_row(r, name, a, b);
}

static void print_table(const struct run *r)
{
    const struct eval_result *a = &r->base, *b = &r->adapted;
    const struct eval_result *any = a->done ? a : b;
    char examples[32], targets[32];
    print_row(r, "", "base", "adapter");
    print_number(r, "loss", "%.4f", a->loss, b->loss);
    print_number(r, "perplexity", "%.4f", exp(a->loss), exp(b->loss));
    print_number(r, "token accuracy", "%.2f %%", 100 * a->accuracy, 100 * b->accuracy);
    if (any->has_bleu)
        print_number(r, "BLEU", "%.2f", lt_bleu_score(&a->bleu), lt_bleu_score(&b->bleu));
    printf("%s rows, %s target tokens", cli_count(examples, sizeof examples, (uint64_t)any->examples),
           cli_count(targets, sizeof targets, (uint64_t)any->targets));
    if (any->has_bleu)
        printf(", %lld answers", (long long)any->answers);
    printf("\n");
}

/* JSON has no number for a loss that is not finite. */
static json_t *real_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *bleu_json(const struct lt_bleu *b)
{
    json_t *correct = json_array(), *total = json_array();
    for (int n = 0; n < LT_BLEU_ORDER; n++) {
        json_array_append_new(correct, json_integer(b->correct[n]));
        json_array_append_new(total, json_integer(b->total[n]));
    }
    return json_pack("{s:f, s:o, s:o, s:I, s:I, s:f, s:s}", "score", lt_bleu_score(b), "correct", correct,
                     "total", total, "system_length", (json_int_t)b->system_length, "reference_length",
                     (json_int_t)b->reference_length, "brevity_penalty", lt_bleu_brevity_penalty(b),
                     "signature", "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp");
}

static json_t *result_json(const struct eval_result *res)
{
    json_t *v = json_pack("{s:o, s:o, s:o, s:f, s:f}", "loss", real_or_null(res->loss), "eval_loss",
                          real_or_null(res->eval_loss), "perplexity", real_or_null(exp(res->loss)),
                          "token_accuracy", res->accuracy, "seconds", res->seconds);
    if (res->has_bleu) {
        json_object_set_new(v, "bleu", bleu_json(&res->bleu));
        json_object_set_new(v, "answers", json_integer(res->answers));
        json_object_set_new(v, "answers_left_out", json_integer(res->left_out));
        json_object_set_new(v, "answer_tokens", json_integer(res->answer_tokens));
        json_object_set_new(v, "answer_seconds", json_real(res->answer_seconds));
    }
    return v;
}

static enum lt_status save_json(const struct run *r, struct lt_error *err)
{
    const struct eval_result *any = r->base.done ? &r->base : &r->adapted;
    json_t *v = json_pack("{s:s, s:s?, s:s, s:I, s:I}", "model", o.model.model, "adapter", o.model.adapter,
                          "data", o.data ? o.data : o.pretokenized, "examples", (json_int_t)any->examples,
                          "target_tokens", (json_int_t)any->targets);
    json_t *results = json_object();
    if (r->base.done)
        json_object_set_new(results, "base", result_json(&r->base));
    if (r->adapted.done)
        json_object_set_new(results, "adapter", result_json(&r->adapted));
    enum lt_status status = v && json_object_set_new(v, "results", results) == 0
                                ? lt_json_save(v, o.json, 2, err)
                                : lt_fail(err, LT_ERR_NOMEM, "out of memory for %s", o.json);
    json_decref(v);
    return status;
}

static void close_run(struct run *r)
{
    lt_batches_destroy(r->batches);
    lt_dataset_deinit(&r->data);
    cli_session_close(&r->session);
}

int main(int argc, char **argv)
{
    static struct cli_option table[CLI_MODEL_OPTION_COUNT + OWN_OPTION_COUNT];
    static struct run r;
    struct lt_error err = {0};
    o.model = cli_model_defaults;
    size_t count = cli_model_option_rows(table, &o.model);
    memcpy(table + count, own_options, sizeof own_options);
    struct cli_program program = {
        .name = "lora-eval",
        .summary = "measures a model on a data set, without and with an adapter",
        .usage = "--model DIR [--adapter DIR] (--data FILE | --pretokenized FILE) [options]",
        .options = table,
        .option_count = count + OWN_OPTION_COUNT,
        .config_path = &o.config,
    };
    cli_settle_threads(argv);
    cli_init("lora-eval");
    cli_parse(&program, argc, argv);
    enum lt_status status = evaluate(&r, &err);
    if (status == LT_OK) {
        print_table(&r);
        if (o.json)
            status = save_json(&r, &err);
    }
    int code = status == LT_OK ? 0 : cli_report("lora-eval", &err);
    close_run(&r);
    return code;
}
