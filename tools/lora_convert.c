/* lora-convert: a checkpoint in another form. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "models/quantized_checkpoint.h"
#include "tools/cli_options.h"
#include "tools/cli_quantized.h"
#include "tools/cli_term.h"

static struct options {
    const char *model, *quantize, *output_dir, *max_shard_size, *config;
    bool double_quant;
    double int8_threshold;
    int64_t threads;
} o = {.max_shard_size = "5GB", .int8_threshold = 6};

static struct cli_option table[] = {
    {.name = "model",
     .aliases = "model-name-or-path,base-model",
     .type = CLI_STRING,
     .target = &o.model,
     .help = "checkpoint folder, or org/name in the Hugging Face cache",
     .group = "Model"},
    {.name = "quantize",
     .aliases = "bnb-4bit-quant-type",
     .type = CLI_CHOICE,
     .target = &o.quantize,
     .choices = "nf4,fp4,int8",
     .help = "form of the linear layers except the head"},
    {.name = "bnb-4bit-use-double-quant",
     .aliases = "double-quant,use-bnb-nested-quant,use-nested-quant,bnb-4bit-use-nested-quant",
     .type = CLI_FLAG,
     .target = &o.double_quant,
     .help = "quantize the block scales as well"},
    {.name = "llm-int8-threshold",
     .type = CLI_DOUBLE,
     .target = &o.int8_threshold,
     .min = 0,
     .max = 1e6,
     .help = "int8: for config.json; activations of this magnitude are multiplied in f32"},
    {.name = "output-dir",
     .aliases = "out,output",
     .type = CLI_STRING,
     .target = &o.output_dir,
     .help = "folder to write; absent or empty",
     .group = "Output"},
    {.name = "max-shard-size",
     .type = CLI_STRING,
     .target = &o.max_shard_size,
     .help = "largest weight file: bytes, or a number with KB, MB, GB (1000) or KiB, MiB, GiB (1024)"},
    {.name = "threads",
     .aliases = "num-threads",
     .type = CLI_INT,
     .target = &o.threads,
     .min = 0,
     .max = 4096,
     .help = "threads; 0: one for every processor",
     .group = "Other"},
    {.name = "config",
     .type = CLI_STRING,
     .target = &o.config,
     .help = "read options from this JSON or YAML file"},
};

/* "5GB" as transformers writes it. */
static enum lt_status parse_size(uint64_t *bytes, const char *text, struct lt_error *err)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {{"", 1},         {"KB", 1e3},        {"MB", 1e6},          {"GB", 1e9},
                 {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
    size_t digits = strspn(text, "0123456789.");
    char number[32];
    double v = 0;
    if (digits > 0 && digits < sizeof number) {
        memcpy(number, text, digits);
        number[digits] = '\0';
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (strcmp(text + digits, units[i].name) == 0 && lt_parse_double(number, &v) &&
                v * units[i].factor >= 1 && v * units[i].factor < 1e18) {
                *bytes = (uint64_t)(v * units[i].factor);
                return LT_OK;
            }
    }
    return lt_fail(err, LT_ERR_INVALID, "--max-shard-size: '%s' is no size such as 5GB or 500MB", text);
}

static enum lt_status convert(struct lt_error *err)
{
    char *dir;
    struct lt_quantize_options opt = {.progress = cli_print_progress,
                                      .user = (void *)(uintptr_t) "quantizing"};
    if (!o.model || !*o.model)
        return lt_fail(err, LT_ERR_INVALID, "--model is missing: name a checkpoint folder");
    if (!o.output_dir || !*o.output_dir)
        return lt_fail(err, LT_ERR_INVALID, "--output-dir is missing: name the folder for the result");
    if (!o.quantize)
        return lt_fail(err, LT_ERR_INVALID, "--quantize is missing: say nf4, fp4 or int8");
    LT_TRY(parse_size(&opt.max_shard_bytes, o.max_shard_size, err));
    opt.load.quant = strcmp(o.quantize, "int8") == 0  ? LT_LOAD_INT8
                     : strcmp(o.quantize, "fp4") == 0 ? LT_LOAD_FP4
                                                      : LT_LOAD_NF4;
    opt.load.int8_threshold = (float)o.int8_threshold;
    opt.load.double_quant = o.double_quant;
    opt.load.threads = o.threads > 0 ? (int)o.threads : lt_cpu_count();
    LT_TRY(lt_checkpoint_resolve(&dir, o.model, err));
    enum lt_status status = lt_quantize_checkpoint(dir, o.output_dir, &opt, err);
    lt_free(dir);
    return status;
}

int main(int argc, char **argv)
{
    struct lt_error err = {0};
    struct cli_program program = {
        .name = "lora-convert",
        .summary = "writes a checkpoint with quantized weights",
        .usage = "--model DIR --quantize nf4 --output-dir DIR [options]",
        .options = table,
        .option_count = sizeof table / sizeof *table,
        .config_path = &o.config,
    };
    cli_settle_threads(argv);
    cli_init("lora-convert");
    cli_parse(&program, argc, argv);
    double start = lt_clock_seconds();
    if (convert(&err) != LT_OK)
        return cli_report("lora-convert", &err);
    char size[32], took[32];
    printf("%s: %s in %s\n", o.output_dir, cli_bytes(size, sizeof size, cli_weight_bytes(o.output_dir)),
           cli_duration(took, sizeof took, lt_clock_seconds() - start));
    return 0;
}
