/* Opening what every program works on: backend, checkpoint, model, tokenizer, adapter. */
#ifndef LT_TOOLS_CLI_SESSION_H
#define LT_TOOLS_CLI_SESSION_H

#include "core/data/dataset.h"
#include "core/train/adapter.h"
#include "core/train/trainer.h"
#include "models/chat_template.h"
#include "models/model_load.h"
#include "models/tokenizer.h"
#include "tools/cli_options.h"
#include "tools/cli_placement.h"

/* Options shared by the programs; targets of CLI_MODEL_OPTIONS. */
struct cli_model_options {
    const char *model, *adapter, *device;
    const char *gpu_layers; /* NULL, "auto" or a number */
    bool load_in_4bit, load_in_8bit, double_quant;
    double int8_threshold;
    const char *quant_type;      /* nf4 | fp4 */
    const char *quantized_cache; /* auto | off | on */
    const char *cache_dir;
    const char *weights; /* auto | resident | mmap | stream */
    const char *compute_dtype;
    bool bf16, fp16; /* compute_dtype bfloat16, float16 by the names that transformers has for them */
    int64_t threads;
    const char *chat_template;
};
extern const struct cli_model_options cli_model_defaults;

/* Appends the shared option rows to `table` (room for CLI_MODEL_OPTION_COUNT); returns how many. */
enum { CLI_MODEL_OPTION_COUNT = 17 };
size_t cli_model_option_rows(struct cli_option *table, struct cli_model_options *o);

struct cli_session {
    struct cli_placement place;
    struct lt_checkpoint checkpoint;
    struct lt_model *model;
    struct lt_tokenizer *tokenizer; /* NULL when the folder has none and it was not required */
    struct lt_chat_template chat;   /* valid when has_chat */
    bool has_chat;
    struct lt_error chat_error; /* why has_chat is false */
    struct lt_load_options load;
    struct lt_lora_config lora; /* of --adapter */
    struct lt_params params;
    float *param_values; /* [params.elements] of --adapter, or NULL */
    char *dir;
};

/* Backends, checkpoint, model description and tokenizer; no weights yet.  load.residency is what o->weights says. */
enum lt_status cli_session_open(struct cli_session *s, const struct cli_model_options *o, bool need_tokenizer,
                                struct lt_error *err) LT_MUST_USE;
/* Reads --adapter into params and param_values and attaches it to the model. */
enum lt_status cli_session_adapter(struct cli_session *s, const char *dir, struct lt_error *err) LT_MUST_USE;
/* Loads the weights with a progress line on a terminal; with LT_WEIGHTS_STREAM marks what is streamed first. */
enum lt_status cli_session_load_weights(struct cli_session *s, struct lt_error *err) LT_MUST_USE;
/* Process memory so far and the model's weights, as plan lines. */
enum lt_status cli_session_plan(struct cli_session *s, struct lt_plan *plan, struct lt_error *err)
    LT_MUST_USE;
void cli_session_close(struct cli_session *s);
enum lt_dtype cli_compute_dtype(const struct cli_model_options *o);
/* Where `resident`, `mmap` or `stream` leaves the weights; of `auto`, which is none of them, as mmap. */
enum lt_residency cli_residency(const char *weights);
/* The dataset's view of the tokenizer (valid while the session is). */
struct lt_data_tokenizer cli_data_tokenizer(struct cli_session *s);
void cli_print_plan(const struct lt_plan *plan);

#endif
