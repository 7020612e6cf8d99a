/* lora-train: fine-tunes a causal language model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "tools/cli_term.h"
#include "tools/train_memory.h"
#include "tools/train_options.h"
#include "tools/train_report.h"

/* Everything a run owns, torn down in one place. */
struct run {
    struct train_command command;
    struct cli_session session;
    struct lt_lora_config lora;
    struct lt_params params;
    struct lt_dataset train_data, eval_data;
    struct lt_batches *train, *eval;
    struct lt_trainer_config config;
    struct lt_trainer *trainer;
    int64_t batch_rows; /* of the first micro-batch; a file of micro-batches decides itself */
    struct lt_plan plan;
    char method[160], memory[256], where[96];
    char *command_line;
    char *resume_path;
};

static void close_run(struct run *r)
{
    lt_trainer_destroy(r->trainer);
    lt_batches_destroy(r->train);
    lt_batches_destroy(r->eval);
    lt_dataset_deinit(&r->train_data);
    lt_dataset_deinit(&r->eval_data);
    lt_params_deinit(&r->params);
    lt_lora_config_deinit(&r->lora);
    cli_session_close(&r->session);
    lt_free(r->command_line);
    lt_free(r->resume_path);
}

static void report_data(const char *path, const struct lt_dataset *ds, int64_t max_length)
{
    if (ds->truncated > 0)
        lt_log(
            LT_LOG_WARNING,
            "%s: %lld of %lld rows are longer than --max-length %lld and were cut (the longest has %d tokens)",
            path, (long long)ds->truncated, (long long)ds->rows, (long long)max_length, ds->longest_before);
    if (ds->dropped > 0)
        lt_log(LT_LOG_WARNING, "%s: %lld of %lld rows were left out: nothing in them is a target%s", path,
               (long long)ds->dropped, (long long)ds->rows,
               ds->longest_before > max_length ? " within --max-length" : "");
}

static enum lt_status load_datasets(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    if (!r->session.tokenizer) /* pre-tokenized input needs none */
        return LT_OK;
    struct lt_data_tokenizer tok = cli_data_tokenizer(&r->session);
    struct lt_dataset_options opt = {.max_length = (int32_t)o->max_length,
                                     .train_on_prompt = o->train_on_inputs,
                                     .alpaca = strcmp(o->alpaca_template, "long") == 0 ? LT_ALPACA_LONG
                                                                                       : LT_ALPACA_SHORT};
    if (o->data) {
        LT_TRY(lt_dataset_load(&r->train_data, o->data, &tok, &opt, err));
        report_data(o->data, &r->train_data, o->max_length);
    }
    if (o->eval_data) {
        LT_TRY(lt_dataset_load(&r->eval_data, o->eval_data, &tok, &opt, err));
        report_data(o->eval_data, &r->eval_data, o->max_length);
    }
    if (o->val_split > 0)
        LT_TRY(lt_dataset_split(&r->train_data, &r->eval_data, o->val_split, (uint64_t)o->seed, err));
    return LT_OK;
}

static enum lt_status count_batch_rows(struct run *r, struct lt_error *err)
{
    struct lt_batch first = {0};
    int32_t tokens, labels;
    LT_TRY(lt_batches_capacity(r->train, 1, &tokens, &labels, err));
    LT_TRY(lt_batch_init(&first, tokens, labels, err));
    enum lt_status status = lt_batches_get(r->train, 0, 0, &first, err);
    r->batch_rows = first.n_examples;
    lt_batch_deinit(&first);
    return status;
}

static enum lt_status make_batches(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    struct lt_batches_options opt = {.batch_size = (int32_t)o->batch_size,
                                     .accumulation = (int32_t)o->accumulation,
                                     .seed = (uint64_t)o->seed,
                                     .shuffle = true,
                                     .packing = o->packing,
                                     .max_length = (int32_t)o->max_length,
                                     .drop_last = o->drop_last};
    if (o->pretokenized)
        LT_TRY(lt_batches_from_pretokenized(&r->train, o->pretokenized, r->session.model->vocab, &opt, err));
    else
        LT_TRY(lt_batches_from_dataset(&r->train, &r->train_data, &opt, err));
    LT_TRY(count_batch_rows(r, err));
    struct lt_batches_options eval = {
        .batch_size = (int32_t)o->eval_batch_size, .accumulation = 1, .max_length = opt.max_length};
    if (o->eval_pretokenized)
        return lt_batches_from_pretokenized(&r->eval, o->eval_pretokenized, r->session.model->vocab, &eval,
                                            err);
    if (r->eval_data.count > 0)
        return lt_batches_from_dataset(&r->eval, &r->eval_data, &eval, err);
    return LT_OK;
}

static enum lt_status choose_params(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    struct lt_model *model = r->session.model;
    if (o->full_finetune) {
        r->session.load.quant = LT_LOAD_AS_STORED;
        lt_snprintf(r->method, sizeof r->method, "full fine-tuning");
        return lt_params_full(&r->params, model, err);
    }
    LT_TRY(train_lora_config(&r->lora, o, err));
    LT_TRY(lt_params_lora(&r->params, model, &r->lora, err));
    LT_TRY(lt_lora_config_expand(&r->lora, model, err));
    char alpha[32];
    lt_snprintf(alpha, sizeof alpha, "%g", r->lora.alpha);
    const char *base = o->model.load_in_8bit                  ? ", 8-bit base"
                       : !o->model.load_in_4bit               ? ""
                       : r->session.load.quant == LT_LOAD_FP4 ? ", 4-bit FP4 base"
                                                              : ", 4-bit NF4 base";
    lt_snprintf(r->method, sizeof r->method, "LoRA r=%d alpha=%s%s%s%s", r->lora.r, alpha,
                r->lora.use_rslora ? " (rsLoRA)" : "", base,
                model->compute_dtype == LT_BF16  ? ", bf16 products"
                : model->compute_dtype == LT_F16 ? ", f16 products"
                                                 : "");
    return LT_OK;
}

/* Positions that a source needs: the longest row of a dataset, the columns of a pre-tokenized file. */
static int64_t longest_sequence(const struct lt_dataset *ds, const struct lt_batches *batches)
{
    int64_t rows = 0, columns = 0;
    if (batches)
        lt_batches_shape(batches, &rows, &columns);
    return columns > 0 ? columns : ds->longest;
}

/* The longest sequence decides the size of the rope tables and must fit learned positions. */
static enum lt_status set_positions(struct run *r, struct lt_error *err)
{
    int64_t longest = longest_sequence(&r->train_data, r->train),
            of_eval = longest_sequence(&r->eval_data, r->eval);
    struct lt_model *m = r->session.model;
    if (of_eval > longest)
        longest = of_eval;
    if (m->rope_tables == 0 && longest > m->max_positions)
        return lt_fail(
            err, LT_ERR_INVALID, "sequences of %lld tokens exceed the %d positions of this model: %s %d",
            (long long)longest, m->max_positions,
            r->command.o.pretokenized ? "cut the rows of the pre-tokenized file to" : "use --max-length",
            m->max_positions);
    if (longest > m->max_positions)
        lt_log(LT_LOG_WARNING,
               "sequences of %lld tokens are longer than the %d positions this model was trained with",
               (long long)longest, m->max_positions);
    m->table_positions = (int32_t)longest;
    return LT_OK;
}

static enum lt_status create_trainer(struct run *r, const struct train_memory *m, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    LT_TRY(train_trainer_config(&r->config, o, err));
    r->config.lora = o->full_finetune ? NULL : &r->lora;
    r->config.full_source = o->full_finetune ? r->session.dir : NULL;
    r->config.tokenizer_source = r->session.dir;
    r->config.command_line = r->command_line;
    r->config.batch_size = (int32_t)(o->pretokenized ? r->batch_rows : o->batch_size);
    r->config.recompute = m->recompute;
    r->config.layer_major = m->layer_major;
    r->config.boundaries_in_file = m->boundaries_in_file;
    r->config.optimizer.paged = r->config.optimizer.paged || m->paged_optimizer;
    r->config.device = r->session.place.device;
    r->config.device_layers = r->session.place.device_layers;
    struct lt_trainer_events events = train_report_events();
    return lt_trainer_create(&r->trainer, &r->config, r->session.model, &r->params, r->session.place.backend,
                             r->train, r->eval, &events, err);
}

/* One way of fitting into memory, as train_memory.h wants it. */
static enum lt_status plan_memory(void *user, const struct train_memory *m, struct lt_plan *plan,
                                  uint64_t *mapped, struct lt_error *err)
{
    struct run *r = user;
    struct cli_session *s = &r->session;
    lt_trainer_destroy(r->trainer);
    r->trainer = NULL;
    s->load.residency = m->weights;
    LT_TRY(lt_model_stream(s->model, &s->checkpoint, &s->load, err));
    LT_TRY(create_trainer(r, m, err));
    LT_TRY(cli_session_plan(s, plan, err));
    *mapped = 0;
    for (int i = 0; i < plan->count; i++)
        *mapped += plan->lines[i].counted ? 0 : plan->lines[i].bytes;
    return lt_trainer_plan(r->trainer, plan, err);
}

static enum lt_status fit_into_memory(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    struct lt_model_memory weights;
    struct lt_load_options load = r->session.load;
    struct train_memory choice;
    load.residency = LT_WEIGHTS_STREAM;
    LT_TRY(lt_model_memory(r->session.model, &r->session.checkpoint, &load, &weights, err));
    const char *advice =
        "a shorter --max-length, a smaller --per-device-train-batch-size or a lower --lora-r need "
        "less";
    if (o->full_finetune)
        advice = "only frozen weights can stay in a file, and --full-finetune trains all";
    else if (weights.streamed == 0)
        advice =
            "weights that are quantized while loading cannot stay in a file; with --quantized-cache on they "
            "are quantized once and can";
    struct train_memory_case c = {
        .options = {.limit = o->memory_limit,
                    .weights = o->model.weights,
                    .order = o->accumulation_order,
                    .boundaries = o->boundaries,
                    .recompute = train_recompute(o),
                    .keep_recompute = cli_seen(&r->command.program, "gradient-checkpointing"),
                    .keep_optim = cli_seen(&r->command.program, "optim")},
        .mappable = true,
        .layer_major_possible = lt_engine_layer_major_possible(r->session.model),
        .streamable = weights.streamed > 0,
        .advice = advice,
        .accumulation = o->accumulation,
        .plan = plan_memory,
        .user = r};
    LT_TRY(cli_placement_search(&r->session.place, train_memory_plan_first, &c, err));
    return train_memory_choose(&c, &choice, &r->plan, r->memory, sizeof r->memory, err);
}

/* Of two backends that take turns: each for its share of the layers. */
static enum lt_status measure_rate(struct run *r, const struct lt_plan *plan, double *rate,
                                   struct lt_error *err)
{
    const struct cli_placement *p = &r->session.place;
    const struct lt_model *m = r->session.model;
    double share = (double)plan->placement.layers / (double)m->layers, of_device;
    LT_TRY(train_measure_rate(p->backend, m->compute_dtype, rate, err));
    if (!p->device)
        return LT_OK;
    LT_TRY(train_measure_rate(p->device, m->compute_dtype, &of_device, err));
    *rate = 1 / (share / of_device + (1 - share) / *rate);
    return LT_OK;
}

static enum lt_status print_summary(struct run *r, struct lt_plan *plan, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    struct train_summary s = {
        .model = r->session.model,
        .backend = cli_placement_main(&r->session.place),
        .where = cli_placement_text(&r->session.place, &plan->placement, r->where, sizeof r->where),
        .params = &r->params,
        .method = r->method,
        .memory = r->memory,
        .rows = lt_batches_rows(r->train),
        .max_steps = lt_trainer_max_steps(r->trainer),
        .steps_per_epoch = lt_batches_steps_per_epoch(r->train),
        .batch_rows = r->batch_rows,
        .packed_rows = o->packing ? (int64_t)r->train_data.count : 0,
        .accumulation = o->accumulation,
        .frozen = !o->full_finetune};
    double rate;
    LT_TRY(measure_rate(r, plan, &rate, err));
    lt_batches_totals(r->train, &s.tokens_per_epoch, &s.targets_per_epoch);
    double length = (double)s.tokens_per_epoch / (double)(s.rows > 0 ? s.rows : 1);
    double tokens = (double)s.tokens_per_epoch / (double)s.steps_per_epoch * (double)s.max_steps;
    s.seconds = tokens * train_flops_per_token(r->session.model, r->config.recompute, length) / rate;
    train_print_summary(&s);
    cli_print_plan(plan);
    char *options = cli_options_text(&r->command.program, 100);
    if (!options)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while printing the options");
    printf("Options in force\n%s\n", options);
    lt_free(options);
    fflush(stdout);
    return LT_OK;
}

static enum lt_status start_parameters(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    float *values = lt_alloc_zero(r->params.elements, sizeof *values);
    if (!values)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for %zu parameters", r->params.elements);
    enum lt_status status = lt_params_init(&r->params, r->session.model, o->full_finetune ? NULL : &r->lora,
                                           (uint64_t)o->seed, values, err);
    if (status == LT_OK && o->init_adapter)
        status = lt_adapter_load(&r->params, o->init_adapter, values, err);
    if (status == LT_OK)
        status = lt_trainer_start(r->trainer, values, err);
    lt_free(values);
    return status;
}

/* Before the weights are loaded, which may take long: is there such a checkpoint? */
static enum lt_status find_checkpoint(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    if (strcmp(o->resume, "last") == 0 || strcmp(o->resume, "true") == 0 || strcmp(o->resume, "True") == 0)
        return lt_trainer_last_checkpoint(o->output_dir, &r->resume_path, err);
    r->resume_path = lt_strdup(o->resume);
    char *state = lt_path_join(o->resume, "lora_train_state.json");
    enum lt_file_kind kind = state ? lt_file_kind(state) : LT_FILE_NONE;
    lt_free(state);
    if (!r->resume_path || !state)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while looking for %s", o->resume);
    if (kind != LT_FILE_REGULAR)
        return lt_fail(
            err, LT_ERR_NOT_FOUND,
            "%s: no lora_train_state.json in there; name a checkpoint-N folder that lora-train wrote, or `last`",
            o->resume);
    return LT_OK;
}

/* The same for a broken adapter. */
static enum lt_status check_adapter(struct run *r, struct lt_error *err)
{
    float *values = lt_alloc_zero(r->params.elements, sizeof *values);
    if (!values)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for %zu parameters", r->params.elements);
    enum lt_status status = lt_adapter_load(&r->params, r->command.o.init_adapter, values, err);
    lt_free(values);
    return status;
}

static void warn_of_earlier_run(const char *output_dir)
{
    char *last;
    if (lt_trainer_last_checkpoint(output_dir, &last, NULL) != LT_OK)
        return;
    lt_log(LT_LOG_WARNING,
           "%s is of an earlier run and stays; `--resume-from-checkpoint last` takes the highest number",
           last);
    lt_free(last);
}

static enum lt_status prepare(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    LT_TRY(train_options_check(&r->command, err));
    if (o->output_dir && !o->plan && !o->dump_step) {
        LT_TRY(lt_dir_create(o->output_dir, err));
        LT_TRY(lt_dir_check_writable(o->output_dir, err));
        if (!o->resume)
            warn_of_earlier_run(o->output_dir);
    }
    LT_TRY(cli_session_open(&r->session, &o->model, o->data || o->eval_data, err));
    LT_TRY(load_datasets(r, err));
    LT_TRY(make_batches(r, err));
    LT_TRY(choose_params(r, err));
    if (o->resume)
        LT_TRY(find_checkpoint(r, err));
    if (o->init_adapter)
        LT_TRY(check_adapter(r, err));
    LT_TRY(set_positions(r, err));
    return fit_into_memory(r, err);
}

static enum lt_status train(struct run *r, struct lt_error *err)
{
    const struct train_options *o = &r->command.o;
    LT_TRY(prepare(r, err));
    LT_TRY(print_summary(r, &r->plan, err));
    if (o->plan)
        return LT_OK;
    LT_TRY(cli_session_load_weights(&r->session, err));
    LT_TRY(o->resume ? lt_trainer_resume(r->trainer, r->resume_path, err) : start_parameters(r, err));
    if (o->dump_step)
        return lt_trainer_dump_step(r->trainer, o->dump_step, err);
    LT_TRY(lt_trainer_run(r->trainer, err));
    if (!r->session.tokenizer)
        return LT_OK;
    if (o->full_finetune)
        printf("Done.  Try it: lora-generate --model %s\n", o->output_dir);
    else
        printf("Done.  Try it: lora-generate --model %s --adapter %s\n", o->model.model, o->output_dir);
    return LT_OK;
}

static char *join_arguments(int argc, char **argv)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    for (int i = 0; i < argc; i++)
        lt_strbuf_printf(&sb, "%s%s", i ? " " : "", argv[i]);
    return lt_strbuf_take(&sb);
}

int main(int argc, char **argv)
{
    static struct run r;
    struct lt_error err = {0};
    cli_settle_threads(argv);
    cli_init("lora-train");
    train_command_init(&r.command);
    cli_parse(&r.command.program, argc, argv);
    r.command_line = join_arguments(argc, argv);
    enum lt_status status = train(&r, &err);
    int code = status == LT_OK ? 0 : cli_report("lora-train", &err);
    close_run(&r);
    return code;
}
