#include "tools/train_options.h"

#include <string.h>

#include "core/base/alloc.h"

static const struct train_options defaults = {
    .alpaca_template = "short",
    .max_length = 512,
    .lora_r = 16,
    .lora_alpha = 32,
    .target_modules = "all-linear",
    .bias = "none",
    .init_lora_weights = "true",
    .num_train_epochs = 3,
    .learning_rate = 2e-4,
    .warmup_ratio = 0.03,
    .adam_beta1 = 0.9,
    .adam_beta2 = 0.999,
    .adam_epsilon = 1e-8,
    .max_grad_norm = 1,
    .max_steps = -1,
    .batch_size = 8,
    .eval_batch_size = 8,
    .accumulation = 1,
    .seed = 42,
    .scheduler = "cosine",
    .optim = "adamw_torch",
    .gradient_checkpointing = "selective",
    .accumulation_order = "auto",
    .boundaries = "auto",
    .eval_strategy = "no",
    .save_strategy = "steps",
    .logging_strategy = "steps",
    .logging_steps = 500,
    .save_steps = 500,
};

struct table {
    struct cli_option *rows;
    size_t count;
};

static struct cli_option *row(struct table *t, const char *name, const char *aliases, enum cli_type type,
                              void *target, const char *help)
{
    struct cli_option *o = &t->rows[t->count++];
    *o = (struct cli_option){.name = name, .aliases = aliases, .type = type, .target = target, .help = help};
    return o;
}

static void number(struct table *t, const char *name, const char *aliases, enum cli_type type, void *target,
                   double min, double max, const char *help)
{
    struct cli_option *o = row(t, name, aliases, type, target, help);
    o->min = min;
    o->max = max;
}

static void choice(struct table *t, const char *name, const char *aliases, const char **target,
                   const char *choices, const char *help)
{
    row(t, name, aliases, CLI_CHOICE, target, help)->choices = choices;
}

static void data_rows(struct table *t, struct train_options *o)
{
    row(t, "data", "train-data,train-file,dataset,data-path", CLI_STRING, &o->data,
        "training rows, JSONL or a JSON array")
        ->group = "Data";
    row(t, "eval-data", "validation-file,val-data,eval-file", CLI_STRING, &o->eval_data, "evaluation rows");
    number(t, "val-split", "val-set-size,validation-split", CLI_DOUBLE, &o->val_split, 0, 0.9,
           "share of the training rows held out for evaluation");
    number(t, "max-length", "max-seq-length,cutoff-len,model-max-length,max-seq-len", CLI_INT, &o->max_length,
           2, 1 << 20, "longer rows are cut to this many tokens");
    row(t, "packing", NULL, CLI_FLAG, &o->packing,
        "several rows in one sequence slot, each attending only to itself");
    row(t, "train-on-inputs", "train-on-prompt", CLI_FLAG, &o->train_on_inputs, "prompts are targets too");
    choice(t, "alpaca-template", NULL, &o->alpaca_template, "short,long", "form of the Alpaca prompt");
    row(t, "pretokenized", NULL, CLI_STRING, &o->pretokenized,
        "safetensors with input_ids and labels, used in file order");
    row(t, "eval-pretokenized", NULL, CLI_STRING, &o->eval_pretokenized, "the same for evaluation");
}

static void adapter_rows(struct table *t, struct train_options *o)
{
    number(t, "lora-r", "lora-rank,r", CLI_INT, &o->lora_r, 1, 65536, "rank");
    t->rows[t->count - 1].group = "Adapter";
    number(t, "lora-alpha", NULL, CLI_DOUBLE, &o->lora_alpha, 1e-6, 1e6, "scaling is alpha / r");
    number(t, "lora-dropout", NULL, CLI_DOUBLE, &o->lora_dropout, 0, 0.95, "dropout on the adapter's input");
    row(t, "lora-target-modules", "target-modules,lora-target", CLI_STRING, &o->target_modules,
        "module names separated by commas, a regular expression, or all-linear");
    choice(t, "bias", "lora-bias", &o->bias, "none,all,lora_only", "which biases are trained");
    row(t, "use-rslora", "rslora", CLI_FLAG, &o->use_rslora, "scaling is alpha / sqrt(r)");
    choice(t, "init-lora-weights", NULL, &o->init_lora_weights, "true,false,gaussian", "how A and B start");
    row(t, "init-adapter", "resume-adapter", CLI_STRING, &o->init_adapter,
        "start from this PEFT adapter folder");
    row(t, "full-finetune", "full-finetuning", CLI_FLAG, &o->full_finetune,
        "train every weight instead of an adapter");
}

static void optimization_rows(struct table *t, struct train_options *o)
{
    number(t, "num-train-epochs", "epochs,num-epochs", CLI_DOUBLE, &o->num_train_epochs, 1e-6, 1e6,
           "passes over the data");
    t->rows[t->count - 1].group = "Optimization";
    number(t, "max-steps", NULL, CLI_INT, &o->max_steps, -1, 1e12,
           "optimizer steps; overrides the epochs when above 0");
    number(t, "per-device-train-batch-size", "batch-size,micro-batch-size,train-batch-size", CLI_INT,
           &o->batch_size, 1, 65536, "rows in a micro-batch");
    number(t, "per-device-eval-batch-size", "eval-batch-size", CLI_INT, &o->eval_batch_size, 1, 65536,
           "rows in an evaluation batch");
    number(t, "gradient-accumulation-steps", "grad-accum,grad-accumulation-steps", CLI_INT, &o->accumulation,
           1, 1 << 20, "micro-batches in a step");
    number(t, "learning-rate", "lr", CLI_DOUBLE, &o->learning_rate, 0, 1e3,
           "peak rate; 2e-5 by default with --full-finetune");
    choice(t, "lr-scheduler-type", "lr-scheduler,scheduler", &o->scheduler,
           "linear,cosine,constant,constant_with_warmup,cosine_with_restarts,polynomial,inverse_sqrt",
           "schedule");
    number(t, "warmup-steps", NULL, CLI_DOUBLE, &o->warmup_steps, 0, 1e12,
           "steps, or a share of all when below 1");
    number(t, "warmup-ratio", NULL, CLI_DOUBLE, &o->warmup_ratio, 0, 1,
           "share of all steps, when there are no --warmup-steps");
    number(t, "weight-decay", NULL, CLI_DOUBLE, &o->weight_decay, 0, 100,
           "decoupled decay; not of biases and norms");
    number(t, "adam-beta1", NULL, CLI_DOUBLE, &o->adam_beta1, 0, 0.999999, "decay of the first moment");
    number(t, "adam-beta2", NULL, CLI_DOUBLE, &o->adam_beta2, 0, 0.99999999, "decay of the second moment");
    number(t, "adam-epsilon", NULL, CLI_DOUBLE, &o->adam_epsilon, 1e-30, 1, "added to the denominator");
    number(t, "max-grad-norm", "grad-clip", CLI_DOUBLE, &o->max_grad_norm, 0, 1e9,
           "clipping; 0 turns it off");
    choice(
        t, "optim", "optimizer", &o->optim,
        "adamw_torch,adamw_8bit,paged_adamw_8bit,paged_adamw_32bit,sgd,lion_32bit,adamw,adamw_hf,adamw_torch_fused,"
        "adamw_bnb_8bit,paged_adamw",
        "optimizer; paged: its state in a file, not in memory");
    choice(t, "gradient-checkpointing", NULL, &o->gradient_checkpointing, "true,false,selective",
           "what is computed again in the backward pass: whole layers, nothing, or the cheap parts");
    number(t, "seed", NULL, CLI_INT, &o->seed, 0, 9e15, "order of the data, initial adapter, dropout");
    row(t, "dataloader-drop-last", "drop-last", CLI_FLAG, &o->drop_last,
        "leave an incomplete last micro-batch out");
}

static void memory_rows(struct table *t, struct train_options *o)
{
    row(t, "memory-limit", NULL, CLI_STRING, &o->memory_limit,
        "peak memory, such as 8G: slower settings are chosen until the plan fits")
        ->group = "Memory";
    choice(t, "accumulation-order", NULL, &o->accumulation_order, "auto,micro-batch,layer",
           "layer: all micro-batches of a step go through a layer before the next one");
    choice(t, "boundaries", NULL, &o->boundaries, "auto,memory,file",
           "where the inputs of the layers wait for the backward pass");
}

static void output_rows(struct table *t, struct train_options *o)
{
    row(t, "output-dir", "out,output", CLI_STRING, &o->output_dir,
        "where the adapter, checkpoints and logs go")
        ->group = "Output";
    number(t, "logging-steps", NULL, CLI_DOUBLE, &o->logging_steps, 0, 1e12,
           "a log line every so many steps (or share of all)");
    choice(t, "logging-strategy", NULL, &o->logging_strategy, "no,steps,epoch", "when to log");
    row(t, "logging-first-step", NULL, CLI_FLAG, &o->logging_first_step, "log step 1 as well");
    choice(t, "eval-strategy", "evaluation-strategy", &o->eval_strategy, "no,steps,epoch",
           "when to evaluate");
    number(t, "eval-steps", NULL, CLI_DOUBLE, &o->eval_steps, 0, 1e12,
           "evaluate every so many steps; 0: as --logging-steps");
    choice(t, "save-strategy", NULL, &o->save_strategy, "no,steps,epoch", "when to write checkpoint-N");
    number(t, "save-steps", NULL, CLI_DOUBLE, &o->save_steps, 0, 1e12,
           "write checkpoint-N every so many steps");
    number(t, "save-total-limit", NULL, CLI_INT, &o->save_total_limit, 0, 1e6, "checkpoints kept; 0: all");
    row(t, "resume-from-checkpoint", "resume", CLI_STRING, &o->resume,
        "continue from checkpoint-N, or `last`");
    row(t, "plan", NULL, CLI_FLAG, &o->plan, "print the memory plan and stop");
    row(t, "dump-step", NULL, CLI_STRING, &o->dump_step,
        "write logits, loss and gradients of the first step here and stop");
    row(t, "config", NULL, CLI_STRING, &o->config, "read options from this JSON or YAML file");
}

void train_command_init(struct train_command *c)
{
    memset(c, 0, sizeof *c);
    c->o = defaults;
    c->o.model = cli_model_defaults;
    struct table t = {.rows = c->table};
    t.count = cli_model_option_rows(c->table, &c->o.model) - 1; /* without --adapter, the last */
    data_rows(&t, &c->o);
    adapter_rows(&t, &c->o);
    optimization_rows(&t, &c->o);
    memory_rows(&t, &c->o);
    output_rows(&t, &c->o);
    c->program = (struct cli_program){.name = "lora-train",
                                      .summary = "fine-tune a language model with LoRA, QLoRA or in full",
                                      .usage = "--model DIR --data FILE --output-dir DIR [options]",
                                      .options = c->table,
                                      .option_count = t.count,
                                      .config_path = &c->o.config};
}

static bool missing(const char *value) /* an unset variable of a shell script is an empty word */
{
    return !value || !*value;
}

static enum lt_status check_data(const struct train_options *o, struct lt_error *err)
{
    if (missing(o->data) && missing(o->pretokenized))
        return lt_fail(err, LT_ERR_INVALID, "--data is missing: name a JSONL file (or --pretokenized FILE)");
    if (o->data && o->pretokenized)
        return lt_fail(err, LT_ERR_INVALID, "--data and --pretokenized exclude each other");
    if ((o->eval_data != NULL) + (o->eval_pretokenized != NULL) + (o->val_split > 0) > 1)
        return lt_fail(err, LT_ERR_INVALID,
                       "--eval-data, --eval-pretokenized and --val-split exclude each other");
    if (o->pretokenized && (o->val_split > 0 || o->packing))
        return lt_fail(err, LT_ERR_INVALID, "--val-split and --packing need --data, not --pretokenized");
    return LT_OK;
}

enum lt_status train_options_check(struct train_command *c, struct lt_error *err)
{
    struct train_options *o = &c->o;
    if (missing(o->model.model))
        return lt_fail(err, LT_ERR_INVALID, "--model is missing: name a checkpoint folder");
    LT_TRY(check_data(o, err));
    if (missing(o->output_dir) && !o->plan && !o->dump_step)
        return lt_fail(err, LT_ERR_INVALID, "--output-dir is missing: name the folder for the result");
    if (missing(o->output_dir) && o->resume)
        return lt_fail(err, LT_ERR_INVALID,
                       "--resume-from-checkpoint needs --output-dir, where the run goes on");
    if (o->full_finetune && cli_compute_dtype(&o->model) != LT_F32)
        return lt_fail(err, LT_ERR_INVALID,
                       "--compute-dtype is for frozen weights: leave it out with --full-finetune");
    if (o->full_finetune && (o->model.load_in_4bit || o->model.load_in_8bit))
        return lt_fail(err, LT_ERR_INVALID,
                       "--full-finetune cannot train %d-bit weights: leave --load-in-%dbit out",
                       o->model.load_in_4bit ? 4 : 8, o->model.load_in_4bit ? 4 : 8);
    if (o->full_finetune && !missing(o->output_dir) && strcmp(o->output_dir, o->model.model) == 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "--output-dir is the model's own folder: the result would overwrite the model");
    if (o->full_finetune && o->init_adapter)
        return lt_fail(err, LT_ERR_INVALID, "--full-finetune and --init-adapter exclude each other");
    if (o->full_finetune && !cli_seen(&c->program, "learning-rate"))
        o->learning_rate = 2e-5;
    bool eval_source = o->eval_data || o->val_split > 0 || o->eval_pretokenized;
    if (!eval_source && strcmp(o->eval_strategy, "no") != 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "--eval-strategy %s needs --eval-data, --eval-pretokenized or --val-split",
                       o->eval_strategy);
    if (eval_source && !cli_seen(&c->program, "eval-strategy"))
        o->eval_strategy = cli_seen(&c->program, "eval-steps") ? "steps" : "epoch";
    return LT_OK;
}

enum lt_recompute train_recompute(const struct train_options *o)
{
    if (strcmp(o->gradient_checkpointing, "true") == 0)
        return LT_RECOMPUTE_FULL;
    return strcmp(o->gradient_checkpointing, "false") == 0 ? LT_RECOMPUTE_NONE : LT_RECOMPUTE_SELECTIVE;
}

enum lt_status train_lora_config(struct lt_lora_config *config, const struct train_options *o,
                                 struct lt_error *err)
{
    if (o->init_adapter)
        return lt_lora_config_load(config, o->init_adapter, err);
    lt_lora_config_init(config);
    config->r = (int32_t)o->lora_r;
    config->alpha = o->lora_alpha;
    config->dropout = o->lora_dropout;
    config->use_rslora = o->use_rslora;
    config->bias = strcmp(o->bias, "all") == 0         ? LT_LORA_BIAS_ALL
                   : strcmp(o->bias, "lora_only") == 0 ? LT_LORA_BIAS_LORA_ONLY
                                                       : LT_LORA_BIAS_NONE;
    lt_free(config->init_lora_weights);
    config->init_lora_weights = lt_strdup(o->init_lora_weights);
    lt_free(config->base_model_name_or_path);
    config->base_model_name_or_path = lt_strdup(o->model.model);
    if (!config->init_lora_weights || !config->base_model_name_or_path)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while reading the options");
    return lt_lora_config_set_targets(config, o->target_modules, err);
}

static enum lt_interval interval(const char *name)
{
    if (strcmp(name, "steps") == 0)
        return LT_INTERVAL_STEPS;
    return strcmp(name, "epoch") == 0 ? LT_INTERVAL_EPOCH : LT_INTERVAL_NO;
}

enum lt_status train_trainer_config(struct lt_trainer_config *config, const struct train_options *o,
                                    struct lt_error *err)
{
    *config = (struct lt_trainer_config){
        .num_train_epochs = o->num_train_epochs,
        .max_steps = o->max_steps,
        .batch_size = (int32_t)o->batch_size,
        .accumulation = (int32_t)o->accumulation,
        .seed = (uint64_t)o->seed,
        .optimizer = {.beta1 = o->adam_beta1,
                      .beta2 = o->adam_beta2,
                      .epsilon = o->adam_epsilon,
                      .weight_decay = o->weight_decay,
                      .max_grad_norm = o->max_grad_norm},
        .learning_rate = o->learning_rate,
        .warmup_steps = o->warmup_steps,
        .warmup_ratio = o->warmup_ratio,
        .logging_strategy = interval(o->logging_strategy),
        .eval_strategy = interval(o->eval_strategy),
        .save_strategy = interval(o->save_strategy),
        .logging_steps = o->logging_steps,
        .eval_steps = o->eval_steps,
        .save_steps = o->save_steps,
        .logging_first_step = o->logging_first_step,
        .save_total_limit = (int32_t)o->save_total_limit,
        .recompute = train_recompute(o),
        .output_dir =
            missing(o->output_dir) ? "." : o->output_dir}; /* --plan and --dump-step write nothing there */
    LT_TRY(lt_optimizer_parse(&config->optimizer, o->optim, err));
    return lt_schedule_kind_parse(&config->schedule.kind, o->scheduler, err);
}
