/* lora-generate: answers a prompt, or holds a conversation, with a model and an adapter. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/system.h"
#include "core/infer/generate.h"
#include "tools/cli_session.h"
#include "tools/cli_term.h"
#include "tools/text_stream.h"

/* ---- options ---- */

enum { DEFAULT_CONTEXT = 4096 };

static struct options {
    struct cli_model_options model;
    const char *prompt, *instruction, *input, *system, *alpaca_template, *config;
    bool chat, bos, raw;
    double temperature, top_p, repetition_penalty;
    int64_t top_k, max_new_tokens, context, seed;
    struct cli_list stops;
} o = {.alpaca_template = "short",
       .bos = true,
       .temperature = 0.7,
       .top_p = 0.9,
       .repetition_penalty = 1,
       .max_new_tokens = 256,
       .seed = 42};

static const struct cli_option own_options[] = {
    {.name = "prompt",
     .type = CLI_STRING,
     .target = &o.prompt,
     .help = "text to continue; with --chat: the one message to answer",
     .group = "Prompt"},
    {.name = "instruction",
     .type = CLI_STRING,
     .target = &o.instruction,
     .help = "instruction for the Alpaca template"},
    {.name = "input", .type = CLI_STRING, .target = &o.input, .help = "input that goes with --instruction"},
    {.name = "alpaca-template",
     .type = CLI_CHOICE,
     .target = &o.alpaca_template,
     .choices = "short,long",
     .help = "form of the Alpaca prompt"},
    {.name = "chat",
     .type = CLI_FLAG,
     .target = &o.chat,
     .help = "conversation in the model's chat template: a line of standard input is a turn"},
    {.name = "system",
     .aliases = "system-prompt",
     .type = CLI_STRING,
     .target = &o.system,
     .help = "system message of the conversation"},
    {.name = "bos",
     .aliases = "add-bos",
     .type = CLI_FLAG,
     .target = &o.bos,
     .help = "begin the prompt with the tokenizer's special tokens"},
    {.name = "temperature",
     .type = CLI_DOUBLE,
     .target = &o.temperature,
     .min = 0,
     .max = 100,
     .help = "0: always the most probable token",
     .group = "Sampling"},
    {.name = "top-p",
     .type = CLI_DOUBLE,
     .target = &o.top_p,
     .min = 1e-9,
     .max = 1,
     .help = "only the most probable tokens that together reach this probability; 1: off"},
    {.name = "top-k",
     .type = CLI_INT,
     .target = &o.top_k,
     .min = 0,
     .max = 1 << 30,
     .help = "only the K most probable tokens; 0: off"},
    {.name = "repetition-penalty",
     .type = CLI_DOUBLE,
     .target = &o.repetition_penalty,
     .min = 1e-6,
     .max = 1e6,
     .help = "above 1: tokens that were there become less probable"},
    {.name = "seed", .type = CLI_INT, .target = &o.seed, .min = 0, .max = 9e15, .help = "random numbers"},
    {.name = "max-new-tokens",
     .aliases = "max-tokens,n-predict",
     .type = CLI_INT,
     .target = &o.max_new_tokens,
     .min = 0,
     .max = 1 << 30,
     .help = "longest answer",
     .group = "Answer"},
    {.name = "context",
     .aliases = "max-length,ctx-size",
     .type = CLI_INT,
     .target = &o.context,
     .min = 0,
     .max = 1 << 30,
     .help = "most tokens of prompt and answer; 0: what is needed, with --chat up to 4096"},
    {.name = "stop",
     .aliases = "stop-text",
     .type = CLI_LIST,
     .target = &o.stops,
     .help = "end the answer before this text (repeatable)"},
    {.name = "raw", .type = CLI_FLAG, .target = &o.raw, .help = "show special tokens and add no newline"},
    {.name = "config",
     .type = CLI_STRING,
     .target = &o.config,
     .help = "read options from this JSON or YAML file",
     .group = "Other"},
};

enum { OWN_OPTION_COUNT = sizeof own_options / sizeof *own_options };

static enum lt_status check_options(struct lt_error *err)
{
    if (!o.prompt && !o.instruction && !o.chat)
        return lt_fail(err, LT_ERR_INVALID,
                       "nothing to answer: give --prompt TEXT, --instruction TEXT or --chat");
    if (o.instruction && (o.prompt || o.chat))
        return lt_fail(err, LT_ERR_INVALID, "--instruction stands for the whole prompt: leave %s out",
                       o.prompt ? "--prompt" : "--chat");
    if (o.input && !o.instruction)
        return lt_fail(err, LT_ERR_INVALID, "--input belongs to an --instruction, and there is none");
    if (o.system && !o.chat)
        return lt_fail(err, LT_ERR_INVALID, "--system belongs to a conversation: add --chat");
    return LT_OK;
}

/* ---- the run ---- */

struct run {
    struct cli_session session;
    struct lt_generator *generator;
    int32_t context;
    int32_t stop_ids[16], stop_count;
    struct text_stream stream;
    struct lt_error token_error; /* what went wrong in on_token */
    bool output_failed;
    /* the conversation */
    struct lt_chat_message *messages;
    size_t message_count, message_cap;
    /* sums over all answers */
    int64_t prompt_tokens, answer_tokens, timed_tokens;
    double prompt_seconds, answer_seconds;
};

static void put_text(void *user, const char *bytes, size_t n)
{
    struct run *r = user;
    if (fwrite(bytes, 1, n, stdout) != n || fflush(stdout) != 0)
        r->output_failed = true;
}

static bool on_token(void *user, int32_t id, double logprob)
{
    struct run *r = user;
    (void)logprob;
    r->token_error.status = LT_OK;
    if (text_stream_push(&r->stream, id, &r->token_error) != LT_OK)
        return false;
    return !r->stream.stopped && !r->output_failed;
}

static void add_stop_id(struct run *r, int32_t id)
{
    if (id >= 0 && (size_t)r->stop_count < sizeof r->stop_ids / sizeof *r->stop_ids)
        r->stop_ids[r->stop_count++] = id;
}

static void find_stop_ids(struct run *r)
{
    const struct lt_model *m = r->session.model;
    for (int32_t i = 0; i < m->eos_count; i++)
        add_stop_id(r, m->eos_ids[i]);
    add_stop_id(r, lt_tokenizer_eos(r->session.tokenizer));
    if (o.chat)
        add_stop_id(r, lt_chat_template_end_id(&r->session.chat, r->session.tokenizer));
}

/* Makes the generator for the placement in force; the one before it is dropped. */
static enum lt_status plan_generator(void *user, struct lt_plan *plan, struct lt_error *err)
{
    struct run *r = user;
    const struct lt_generator_options opt = {.context = r->context,
                                             .param_elements = r->session.params.elements,
                                             .device = r->session.place.device,
                                             .device_layers = r->session.place.device_layers};
    lt_generator_destroy(r->generator);
    r->generator = NULL;
    LT_TRY(lt_generator_create(&r->generator, r->session.model, r->session.place.backend, &opt, err));
    return lt_plan_add_engine(plan, lt_generator_engine(r->generator), "parameters", NULL, err);
}

/* The generator is made when the first prompt is known: its context is what that prompt needs. */
static enum lt_status make_generator(struct run *r, size_t prompt_tokens, struct lt_error *err)
{
    struct lt_model *m = r->session.model;
    int64_t context = o.context > 0 ? o.context
                      : o.chat      ? DEFAULT_CONTEXT
                                    : (int64_t)prompt_tokens + o.max_new_tokens;
    if (context > m->max_positions)
        context = m->max_positions;
    if ((int64_t)prompt_tokens > context)
        return lt_fail(err, LT_ERR_INVALID,
                       "the prompt has %zu tokens, more than the %lld there is room for%s", prompt_tokens,
                       (long long)context,
                       context < m->max_positions ? ": raise --context" : " in this model");
    r->context = (int32_t)context;
    m->table_positions = r->context;
    struct lt_plan plan = {0};
    LT_TRY(cli_placement_search(&r->session.place, plan_generator, r, err));
    LT_TRY(plan_generator(r, &plan, err));
    cli_report_placement(&r->session.place, &plan.placement);
    return lt_generator_allocate(r->generator, r->session.param_values, err);
}

/* The text of the answer is left in r->stream. */
static enum lt_status answer(struct run *r, const struct lt_ids *ids, struct lt_error *err)
{
    if (ids->count > INT32_MAX / 2)
        return lt_fail(err, LT_ERR_INVALID, "the prompt is too long: %zu tokens", ids->count);
    if (!r->generator)
        LT_TRY(make_generator(r, ids->count, err));
    struct lt_generate_request req = {
        .prompt = ids->data,
        .prompt_length = (int32_t)ids->count,
        .max_new_tokens = (int32_t)o.max_new_tokens,
        .stop_ids = r->stop_ids,
        .stop_count = r->stop_count,
        .sampling = {.temperature = o.temperature,
                     .top_p = o.top_p,
                     .top_k = (int32_t)o.top_k,
                     .repetition_penalty = o.repetition_penalty,
                     .seed = (uint64_t)o.seed},
        .on_token = on_token,
        .user = r,
    };
    struct lt_generate_result res;
    text_stream_reset(&r->stream);
    enum lt_status status = lt_generator_run(r->generator, &req, &res, err);
    text_stream_finish(&r->stream);
    r->prompt_tokens += res.prompt_tokens;
    r->prompt_seconds += res.prompt_seconds;
    r->answer_tokens += res.generated;
    /* The first token of an answer comes with the prompt. */
    r->timed_tokens += res.generated > 1 ? res.generated - 1 : 0;
    r->answer_seconds += res.decode_seconds;
    if (!o.raw || status != LT_OK)
        put_text(r, "\n", 1);
    if (r->output_failed)
        return lt_fail(err, LT_ERR_IO, "standard output cannot be written");
    if (status == LT_OK && r->token_error.status != LT_OK) {
        *err = r->token_error;
        return err->status;
    }
    if (status == LT_OK && res.finish == LT_FINISH_CONTEXT)
        lt_log(LT_LOG_WARNING, "the answer ends here because the context of %d tokens is full",
               (int)r->context);
    return status;
}

/* ---- one prompt ---- */

static enum lt_status answer_prompt(struct run *r, struct lt_error *err)
{
    struct lt_strbuf text;
    struct lt_ids ids = {0};
    lt_strbuf_init(&text);
    enum lt_status status = LT_OK;
    if (o.instruction)
        status = lt_alpaca_prompt(&text,
                                  strcmp(o.alpaca_template, "long") == 0 ? LT_ALPACA_LONG : LT_ALPACA_SHORT,
                                  o.instruction, o.input, err);
    else
        lt_strbuf_puts(&text, o.prompt);
    if (status == LT_OK && !lt_strbuf_ok(&text))
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory for the prompt");
    if (status == LT_OK)
        status = lt_tokenizer_encode(r->session.tokenizer, lt_strbuf_str(&text), text.len, o.bos, &ids, err);
    if (status == LT_OK && ids.count == 0 && lt_tokenizer_bos(r->session.tokenizer) >= 0 &&
        !lt_ids_push(&ids, lt_tokenizer_bos(r->session.tokenizer)))
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory for the prompt");
    if (status == LT_OK)
        status = answer(r, &ids, err);
    lt_ids_deinit(&ids);
    lt_strbuf_deinit(&text);
    return status;
}

/* ---- conversation ---- */

/* Takes content. */
static enum lt_status add_message(struct run *r, const char *role, char *content, struct lt_error *err)
{
    if (!content ||
        !lt_reserve((void **)&r->messages, &r->message_cap, r->message_count, sizeof *r->messages)) {
        lt_free(content);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the conversation");
    }
    r->messages[r->message_count++] = (struct lt_chat_message){role, content};
    return LT_OK;
}

static enum lt_status answer_turn(struct run *r, const char *line, struct lt_error *err)
{
    LT_TRY(add_message(r, "user", lt_strdup(line), err));
    struct lt_strbuf text;
    struct lt_ids ids = {0};
    lt_strbuf_init(&text);
    enum lt_status status = lt_chat_template_render(&r->session.chat, r->messages, r->message_count, true,
                                                    &text, NULL, NULL, err);
    if (status == LT_OK)
        status = lt_tokenizer_encode(r->session.tokenizer, lt_strbuf_str(&text), text.len, false, &ids, err);
    if (status == LT_OK && r->generator && ids.count > (size_t)r->context)
        status = lt_fail(err, LT_ERR_INVALID,
                         "the conversation has %zu tokens now, more than the context of %d: raise --context",
                         ids.count, (int)r->context);
    if (status == LT_OK)
        status = answer(r, &ids, err);
    if (status == LT_OK)
        status = add_message(
            r, "assistant", lt_strndup(r->stream.text.len > 0 ? r->stream.text.data : "", r->stream.text.len),
            err);
    lt_ids_deinit(&ids);
    lt_strbuf_deinit(&text);
    return status;
}

/* What was read of the input and not yet taken. */
struct input {
    char bytes[4096];
    size_t at, count;
};

/* A signal may come right before the wait, so the wait is short. */
static bool next_byte(struct input *in, char *c)
{
    while (in->at == in->count) {
        struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
        if (lt_cancel_requested())
            return false;
        if (poll(&ready, 1, 200) <= 0)
            continue;
        ssize_t n = read(STDIN_FILENO, in->bytes, sizeof in->bytes);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        in->at = 0;
        in->count = n > 0 ? (size_t)n : 0;
    }
    *c = in->bytes[in->at++];
    return true;
}

/* One line without its end; false at the end of the input. */
static bool read_line(struct input *in, struct lt_strbuf *line)
{
    char c = 0;
    bool more;
    lt_strbuf_clear(line);
    while ((more = next_byte(in, &c)) && c != '\n')
        lt_strbuf_putc(line, c);
    if (line->len > 0 && line->data[line->len - 1] == '\r')
        line->data[--line->len] = '\0';
    return more || line->len > 0;
}

static enum lt_status converse(struct run *r, struct lt_error *err)
{
    bool interactive = isatty(STDIN_FILENO) && cli_stdout_is_terminal();
    struct input in = {.count = 0};
    struct lt_strbuf line;
    lt_strbuf_init(&line);
    enum lt_status status = LT_OK;
    if (interactive)
        fprintf(stderr, "One line is one message; Ctrl-D ends.\n");
    while (status == LT_OK) {
        if (interactive)
            fprintf(stderr, "> ");
        bool more = read_line(&in, &line);
        if (lt_cancel_requested())
            status = lt_fail(err, LT_ERR_CANCELLED, "stopped");
        else if (!lt_strbuf_ok(&line))
            status = lt_fail(err, LT_ERR_NOMEM, "out of memory for a line of the input");
        else if (!more)
            break;
        else if (strlen(lt_strbuf_str(&line)) != line.len)
            status = lt_fail(err, LT_ERR_FORMAT, "a line of the input holds a zero byte");
        else if (line.len > 0)
            status = answer_turn(r, lt_strbuf_str(&line), err);
    }
    if (interactive)
        fprintf(stderr, "\n");
    lt_strbuf_deinit(&line);
    return status;
}

static enum lt_status run_chat(struct run *r, struct lt_error *err)
{
    if (!r->session.has_chat) {
        *err = r->session.chat_error;
        return err->status;
    }
    if (o.system)
        LT_TRY(add_message(r, "system", lt_strdup(o.system), err));
    return o.prompt ? answer_turn(r, o.prompt, err) : converse(r, err);
}

/* ---- */

static enum lt_status generate(struct run *r, struct lt_error *err)
{
    LT_TRY(check_options(err));
    LT_TRY(cli_session_open(&r->session, &o.model, true, err));
    if (o.model.adapter)
        LT_TRY(cli_session_adapter(&r->session, o.model.adapter, err));
    LT_TRY(cli_session_load_weights(&r->session, err));
    find_stop_ids(r);
    r->stream = (struct text_stream){.tokenizer = r->session.tokenizer,
                                     .stops = &o.stops,
                                     .put = put_text,
                                     .user = r,
                                     .show_special = o.raw};
    return o.chat ? run_chat(r, err) : answer_prompt(r, err);
}

static void print_statistics(const struct run *r)
{
    struct lt_memory_stat memory;
    char counted[32], mapped[32];
    lt_memory_stat(&memory);
    fprintf(stderr, "%lld prompt tokens", (long long)r->prompt_tokens);
    if (r->prompt_seconds > 0)
        fprintf(stderr, " (%.1f tokens/s)", (double)r->prompt_tokens / r->prompt_seconds);
    fprintf(stderr, ", %lld new tokens", (long long)r->answer_tokens);
    if (r->answer_seconds > 0 && r->timed_tokens > 0)
        fprintf(stderr, " (%.1f tokens/s)", (double)r->timed_tokens / r->answer_seconds);
    fprintf(stderr, ", %s of memory and %s of mapped files\n",
            cli_bytes(counted, sizeof counted, lt_memory_counted(&memory)),
            cli_bytes(mapped, sizeof mapped, memory.rss_file));
}

static void close_run(struct run *r)
{
    for (size_t i = 0; i < r->message_count; i++)
        lt_free((char *)r->messages[i].content);
    lt_free(r->messages);
    text_stream_deinit(&r->stream);
    lt_generator_destroy(r->generator);
    cli_session_close(&r->session);
    lt_free(o.stops.items);
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
        .name = "lora-generate",
        .summary = "answers a prompt, or holds a conversation, with a model and an adapter",
        .usage = "--model DIR [--adapter DIR] (--prompt TEXT | --instruction TEXT | --chat) [options]",
        .options = table,
        .option_count = count + OWN_OPTION_COUNT,
        .config_path = &o.config,
    };
    cli_settle_threads(argv);
    cli_init("lora-generate");
    cli_parse(&program, argc, argv);
    enum lt_status status = generate(&r, &err);
    int code = status == LT_OK ? 0 : cli_report("lora-generate", &err);
    if (r.generator)
        print_statistics(&r);
    close_run(&r);
    return code;
}
