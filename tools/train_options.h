/* The options of lora-train: names of transformers, PEFT and bitsandbytes, with the usual aliases. */
#ifndef LT_TOOLS_TRAIN_OPTIONS_H
#define LT_TOOLS_TRAIN_OPTIONS_H

#include "tools/cli_session.h"

struct train_options {
    struct cli_model_options model;
    const char *config;
    /* data */
    const char *data, *eval_data, *pretokenized, *eval_pretokenized, *alpaca_template;
    double val_split;
    int64_t max_length;
    bool packing, train_on_inputs;
    /* what is trained */
    int64_t lora_r;
    double lora_alpha, lora_dropout;
    const char *target_modules, *bias, *init_lora_weights, *init_adapter;
    bool use_rslora, full_finetune;
    /* optimization */
    double num_train_epochs, learning_rate, warmup_steps, warmup_ratio, weight_decay, adam_beta1, adam_beta2,
        adam_epsilon, max_grad_norm;
    int64_t max_steps, batch_size, eval_batch_size, accumulation, seed;
    const char *scheduler, *optim, *gradient_checkpointing;
    bool drop_last;
    /* memory */
    const char *memory_limit, *accumulation_order, *boundaries;
    /* output */
    const char *output_dir, *eval_strategy, *save_strategy, *logging_strategy, *resume, *dump_step;
    double logging_steps, eval_steps, save_steps;
    int64_t save_total_limit;
    bool logging_first_step, plan;
};

enum { TRAIN_OPTION_MAX = 80 };
struct train_command {
    struct train_options o;
    struct cli_option table[TRAIN_OPTION_MAX];
    struct cli_program program;
};

/* Defaults and table; then cli_parse(&c->program, …). */
void train_command_init(struct train_command *c);
/* Defaults that depend on others, and combinations that make no sense. */
enum lt_status train_options_check(struct train_command *c, struct lt_error *err) LT_MUST_USE;
enum lt_status train_lora_config(struct lt_lora_config *config, const struct train_options *o,
                                 struct lt_error *err) LT_MUST_USE;
enum lt_recompute train_recompute(const struct train_options *o);
/* Everything but output pointers (lora, full_source, tokenizer_source). */
enum lt_status train_trainer_config(struct lt_trainer_config *config, const struct train_options *o,
                                    struct lt_error *err) LT_MUST_USE;

#endif
