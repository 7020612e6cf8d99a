#include "tools/cli_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/system.h"
#include "tools/cli_quantized.h"
#include "tools/cli_term.h"

const struct cli_model_options cli_model_defaults = {.device = "auto",
                                                     .quant_type = "nf4",
                                                     .quantized_cache = "auto",
                                                     .weights = "auto",
                                                     .int8_threshold = 6,
                                                     .compute_dtype = "float32"};

size_t cli_model_option_rows(struct cli_option *table, struct cli_model_options *o)
{
    const struct cli_option rows[CLI_MODEL_OPTION_COUNT] = {
        {.name = "model",
         .aliases = "model-name-or-path,base-model",
         .type = CLI_STRING,
         .target = &o->model,
         .help = "checkpoint folder, or org/name in the Hugging Face cache",
         .group = "Model"},
        {.name = "load-in-4bit",
         .aliases = "use-4bit",
         .type = CLI_FLAG,
         .target = &o->load_in_4bit,
         .help = "keep the frozen linear layers in 4 bits (QLoRA)"},
        {.name = "bnb-4bit-quant-type",
         .type = CLI_CHOICE,
         .target = &o->quant_type,
         .choices = "nf4,fp4",
         .help = "4-bit code table"},
        {.name = "bnb-4bit-use-double-quant",
         .aliases = "use-bnb-nested-quant,use-nested-quant,bnb-4bit-use-nested-quant",
         .type = CLI_FLAG,
         .target = &o->double_quant,
         .help = "quantize the block scales as well"},
        {.name = "load-in-8bit",
         .aliases = "use-8bit",
         .type = CLI_FLAG,
         .target = &o->load_in_8bit,
         .help = "keep the frozen linear layers in 8 bits, as LLM.int8"},
        {.name = "llm-int8-threshold",
         .type = CLI_DOUBLE,
         .target = &o->int8_threshold,
         .min = 0,
         .max = 1e6,
         .help = "8 bits: activations of this magnitude are multiplied in f32; 0: none"},
        {.name = "quantized-cache",
         .type = CLI_CHOICE,
         .target = &o->quantized_cache,
         .choices = "auto,off,on",
         .help = "use the weights that were quantized before; on: quantize into the cache what is not there"},
        {.name = "cache-dir",
         .type = CLI_STRING,
         .target = &o->cache_dir,
         .help = "folder of the quantized weights"},
        {.name = "weights",
         .type = CLI_CHOICE,
         .target = &o->weights,
         .choices = "auto,resident,mmap,stream",
         .help = "frozen weights: in memory, mapped from the file, or read from it layer by layer"},
        {.name = "compute-dtype",
         .aliases = "bnb-4bit-compute-dtype",
         .type = CLI_CHOICE,
         .target = &o->compute_dtype,
         .choices = "float32,bfloat16,float16",
         .help = "arithmetic of the products with frozen weights"},
        {.name = "bf16",
         .type = CLI_FLAG,
         .target = &o->bf16,
         .help = "the same as --compute-dtype bfloat16"},
        {.name = "fp16", .type = CLI_FLAG, .target = &o->fp16, .help = "the same as --compute-dtype float16"},
        {.name = "chat-template",
         .type = CLI_CHOICE,
         .target = &o->chat_template,
         .choices = "llama-2,chatml",
         .help = "chat template, when the tokenizer's own is absent or not recognised"},
        {.name = "device",
         .type = CLI_STRING,
         .target = &o->device,
         .help = "where to compute: auto, cpu, vulkan or vulkan:N"},
        {.name = "gpu-layers",
         .aliases = "n-gpu-layers,ngl",
         .type = CLI_STRING,
         .target = &o->gpu_layers,
         .help = "so many layers, the last ones, and the head on the Vulkan device, or auto; else all"},
        {.name = "threads",
         .type = CLI_INT,
         .target = &o->threads,
         .min = 0,
         .max = 4096,
         .help = "compute threads; 0: one for every processor"},
        {.name = "adapter",
         .aliases = "adapter-name-or-path,peft-model",
         .type = CLI_STRING,
         .target = &o->adapter,
         .help = "PEFT adapter folder"},
    };
    memcpy(table, rows, sizeof rows);
    return CLI_MODEL_OPTION_COUNT;
}

enum lt_dtype cli_compute_dtype(const struct cli_model_options *o)
{
    if (o->fp16 || strcmp(o->compute_dtype, "float16") == 0)
        return LT_F16;
    return o->bf16 || strcmp(o->compute_dtype, "bfloat16") == 0 ? LT_BF16 : LT_F32;
}

enum lt_residency cli_residency(const char *weights)
{
    if (strcmp(weights, "resident") == 0)
        return LT_WEIGHTS_RESIDENT;
    return strcmp(weights, "stream") == 0 ? LT_WEIGHTS_STREAM : LT_WEIGHTS_MMAP;
}

static enum lt_status open_tokenizer(struct cli_session *s, const struct cli_model_options *o, bool need,
                                     struct lt_error *err)
{
    struct lt_error why;
    enum lt_status status = lt_tokenizer_load(&s->tokenizer, s->dir, &why);
    if (status == LT_ERR_NOT_FOUND && !need)
        return LT_OK;
    if (status != LT_OK) {
        *err = why;
        return status;
    }
    s->has_chat = lt_chat_template_init(&s->chat, s->tokenizer, o->chat_template, &s->chat_error) == LT_OK;
    if (!s->has_chat && o->chat_template) {
        *err = s->chat_error;
        return err->status;
    }
    return LT_OK;
}

static enum lt_status open_checkpoint(struct cli_session *s, const struct cli_model_options *o,
                                      struct lt_error *err)
{
    char *quantized = NULL;
    if (s->load.quant != LT_LOAD_AS_STORED)
        LT_TRY(cli_quantized_folder(&quantized, s->dir, o, &s->load, err));
    enum lt_status status = lt_checkpoint_open(&s->checkpoint, quantized ? quantized : s->dir, err);
    lt_free(quantized);
    return status;
}

enum lt_status cli_session_open(struct cli_session *s, const struct cli_model_options *o, bool need_tokenizer,
                                struct lt_error *err)
{
    memset(s, 0, sizeof *s);
    if (!o->model)
        return lt_fail(err, LT_ERR_INVALID, "--model is missing: name a checkpoint folder");
    if (o->load_in_4bit && o->load_in_8bit)
        return lt_fail(err, LT_ERR_INVALID, "--load-in-4bit and --load-in-8bit exclude each other");
    bool streams = strcmp(o->weights, "stream") == 0, uncached = strcmp(o->quantized_cache, "off") == 0;
    if (streams && uncached && (o->load_in_4bit || o->load_in_8bit))
        return lt_fail(
            err, LT_ERR_INVALID,
            "--weights stream: weights that are quantized while loading cannot stay in a file; with "
            "--quantized-cache on they are quantized once and can");
    if (o->bf16 && o->fp16)
        return lt_fail(err, LT_ERR_INVALID, "--bf16 and --fp16 exclude each other");
    LT_TRY(cli_placement_open(&s->place, o->device, o->gpu_layers, o->threads, err));
    LT_TRY(lt_checkpoint_resolve(&s->dir, o->model, err));
    s->load.threads = o->threads > 0 ? (int)o->threads : lt_cpu_count();
    s->load.double_quant = o->double_quant && !o->load_in_8bit;
    s->load.residency = cli_residency(o->weights);
    if (o->load_in_4bit)
        s->load.quant = strcmp(o->quant_type, "fp4") == 0 ? LT_LOAD_FP4 : LT_LOAD_NF4;
    if (o->load_in_8bit) {
        s->load.quant = LT_LOAD_INT8;
        s->load.int8_threshold = (float)o->int8_threshold;
    }
    LT_TRY(open_checkpoint(s, o, err));
    LT_TRY(lt_model_open(&s->model, &s->checkpoint, o->model, err));
    s->model->compute_dtype = cli_compute_dtype(o);
    LT_TRY(cli_placement_set_model(&s->place, s->model, err));
    if (s->load.quant == LT_LOAD_INT8 && !s->model->int8) {
        s->model->int8 = true;
        s->model->int8_threshold = s->load.int8_threshold;
    }
    return open_tokenizer(s, o, need_tokenizer, err);
}

enum lt_status cli_session_adapter(struct cli_session *s, const char *dir, struct lt_error *err)
{
    LT_TRY(lt_lora_config_load(&s->lora, dir, err));
    LT_TRY(lt_params_lora(&s->params, s->model, &s->lora, err));
    s->param_values = lt_alloc_zero(s->params.elements, sizeof *s->param_values);
    if (!s->param_values)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the adapter %s", dir);
    return lt_adapter_load(&s->params, dir, s->param_values, err);
}

static void print_loading(void *user, int done, int total)
{
    (void)user;
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[Kloading weights %d/%d", done, total);
}

enum lt_status cli_session_load_weights(struct cli_session *s, struct lt_error *err)
{
    LT_TRY(lt_model_stream(s->model, &s->checkpoint, &s->load, err));
    enum lt_status status = lt_model_load(s->model, &s->checkpoint, &s->load, print_loading, NULL, err);
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K");
    return status;
}

enum lt_status cli_session_plan(struct cli_session *s, struct lt_plan *plan, struct lt_error *err)
{
    struct lt_memory_stat now;
    struct lt_model_memory mem;
    LT_TRY(lt_model_memory(s->model, &s->checkpoint, &s->load, &mem, err));
    lt_memory_stat(&now);
    lt_plan_add(plan, "program, tokenizer and data so far", lt_memory_counted(&now), true);
    lt_plan_add(plan, "weights, quantized", mem.quantized, true);
    lt_plan_add(plan, "weights, not quantized", mem.converted, true);
    lt_plan_add(plan, "norms and biases as read", mem.vectors, true);
    lt_plan_add(plan, "weights, mapped from the file (read-only)", mem.mapped, false);
    lt_plan_add(plan, "weights, read layer by layer", mem.streamed, false);
    return LT_OK;
}

void cli_session_close(struct cli_session *s)
{
    lt_free(s->param_values);
    lt_params_deinit(&s->params);
    lt_lora_config_deinit(&s->lora);
    if (s->has_chat)
        lt_chat_template_deinit(&s->chat);
    lt_tokenizer_destroy(s->tokenizer);
    lt_model_destroy(s->model);
    lt_checkpoint_close(&s->checkpoint);
    cli_placement_close(&s->place);
    lt_free(s->dir);
    memset(s, 0, sizeof *s);
}

static enum lt_status encode(void *user, const char *text, size_t len, bool add_special, int32_t **ids,
                             size_t *count, struct lt_error *err)
{
    const struct cli_session *s = user;
    struct lt_ids list = {0};
    enum lt_status status = lt_tokenizer_encode(s->tokenizer, text, len, add_special, &list, err);
    if (status != LT_OK) {
        lt_ids_deinit(&list);
        return status;
    }
    *ids = list.data;
    *count = list.count;
    return LT_OK;
}

static enum lt_status render_chat(void *user, const struct lt_data_message *messages, size_t n,
                                  struct lt_strbuf *text, size_t **spans, size_t *span_count,
                                  struct lt_error *err)
{
    const struct cli_session *s = user;
    struct lt_chat_span *found = NULL;
    size_t count = 0;
    struct lt_chat_message *list = lt_alloc_array(n, sizeof *list);
    if (!list)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while rendering a conversation");
    for (size_t i = 0; i < n; i++)
        list[i] = (struct lt_chat_message){messages[i].role, messages[i].content};
    enum lt_status status = lt_chat_template_render(&s->chat, list, n, false, text, &found, &count, err);
    lt_free(list);
    LT_TRY(status);
    *spans = lt_alloc_array(2 * count, sizeof **spans);
    *span_count = count;
    for (size_t i = 0; *spans && i < count; i++) {
        (*spans)[2 * i] = found[i].begin;
        (*spans)[2 * i + 1] = found[i].end;
    }
    lt_free(found);
    return *spans ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory while rendering a conversation");
}

/* Stands in for a template that was not recognised, so that the reason reaches the user with the row. */
static enum lt_status no_chat(void *user, const struct lt_data_message *messages, size_t n,
                              struct lt_strbuf *text, size_t **spans, size_t *span_count,
                              struct lt_error *err)
{
    const struct cli_session *s = user;
    (void)messages;
    (void)n;
    (void)text;
    (void)spans;
    (void)span_count;
    return lt_fail(err, s->chat_error.status, "%s (option --chat-template)", s->chat_error.message);
}

struct lt_data_tokenizer cli_data_tokenizer(struct cli_session *s)
{
    return (struct lt_data_tokenizer){.user = s,
                                      .eos_token = lt_tokenizer_eos_token(s->tokenizer),
                                      .vocab_size = s->model->vocab,
                                      .encode = encode,
                                      .render_chat = s->has_chat ? render_chat : no_chat};
}

void cli_print_plan(const struct lt_plan *plan)
{
    char a[32], copies[64];
    printf("Memory plan\n");
    for (int i = 0; i < plan->count; i++)
        if (plan->lines[i].bytes > 0)
            printf("  %-44s %10s%s\n", plan->lines[i].name, cli_bytes(a, sizeof a, plan->lines[i].bytes),
                   plan->lines[i].device    ? "  (on the device)"
                   : plan->lines[i].counted ? ""
                                            : "  (not in the peak)");
    printf("  %-44s %10s\n", "peak", cli_bytes(a, sizeof a, plan->peak));
    if (plan->device > 0) {
        printf("  %-44s %10s\n", "device memory", cli_bytes(a, sizeof a, plan->device));
        printf("  %-44s %10s\n", "copies between processor and device",
               cli_copies_text(&plan->placement, copies, sizeof copies));
    }
    if (plan->device_available > 0)
        printf("  %-44s %10s\n", "the device can give", cli_bytes(a, sizeof a, plan->device_available));
}
