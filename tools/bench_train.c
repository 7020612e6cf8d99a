/* lora-bench train: the step of the trainer (engine and optimizer) on random tokens. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"
#include "core/data/batch.h"
#include "core/train/optimizer.h"
#include "tools/bench_machine.h"
#include "tools/bench_modes.h"
#include "tools/bench_train_options.h"
#include "tools/bench_turns.h"
#include "tools/bench_weights.h"
#include "tools/cli_session.h"
#include "tools/cli_term.h"
#include "tools/train_memory.h"
#include "tools/train_report.h"

static struct bench_train_options o;

struct run {
    struct bench_session s;
    struct lt_lora_config lora;
    struct lt_params params;
    struct lt_engine *engine;
    struct lt_optimizer *optimizer;
    struct lt_batch batch;
    float *losses; /* [labels of a micro-batch], of forward passes */
    bool trains;
    int64_t labels;                   /* a sequence */
    double seconds, fastest, slowest; /* of the measured steps */
    double first_loss, loss, grad_norm;
    double backend_rate; /* FLOP/s */
    struct bench_turns *turns;
    struct bench_weights weights;
    struct train_memory memory;
    char memory_text[256];
    struct lt_stream_times streamed; /* of the measured steps */
};

/* ---- setting up ---- */

static enum lt_status choose_params(struct run *r, struct lt_error *err)
{
    if (!r->trains)
        return LT_OK;
    if (o.full)
        return lt_params_full(&r->params, r->s.model, err);
    LT_TRY(lt_lora_config_set_targets(&r->lora, "all-linear", err));
    r->lora.r = (int32_t)o.rank;
    r->lora.alpha = 2 * (double)o.rank;
    return lt_params_lora(&r->params, r->s.model, &r->lora, err);
}

/* As the trainer does it. */
static enum lt_status create_optimizer(struct run *r, struct lt_error *err)
{
    const struct lt_params *p = &r->params;
    struct lt_optimizer_config config = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
    LT_TRY(lt_optimizer_parse(&config, o.optim, err));
    config.paged = config.paged || r->memory.paged_optimizer;
    struct lt_optimizer_param *list = lt_alloc_array(p->count, sizeof *list);
    if (!list)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the optimizer");
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        bool embedding = r->s.model->tensors[item->tensor].kind == LT_TENSOR_EMBEDDING;
        list[i] = (struct lt_optimizer_param){
            .offset = item->offset, .elements = item->elements, .decay = item->decay, .f32_state = embedding};
    }
    enum lt_status status =
        lt_optimizer_create(&r->optimizer, r->s.place.backend, &config, list, p->count, p->elements, err);
    lt_free(list);
    return status;
}

static enum lt_status create(struct run *r, struct lt_error *err)
{
    const struct lt_engine_options options = {
        .capacity = {.tokens = o.batch * o.seq, .labels = o.batch * r->labels},
        .train = r->trains,
        .eval = !r->trains,
        .recompute = r->memory.recompute,
        .micro_batches = r->memory.layer_major ? (int32_t)o.accumulation : 1,
        .boundary_dir = r->memory.boundaries_in_file ? bench_weights_folder(o.weights_dir) : NULL,
        .param_elements = r->params.elements,
        .device = r->s.place.device,
        .device_layers = r->s.place.device_layers};
    r->s.model->table_positions = (int32_t)o.seq;
    r->s.model->compute_dtype = strcmp(o.compute_dtype, "bfloat16") == 0  ? LT_BF16
                                : strcmp(o.compute_dtype, "float16") == 0 ? LT_F16
                                                                          : LT_F32;
    LT_TRY(cli_placement_check(&r->s.place, err));
    LT_TRY(lt_engine_create(&r->engine, r->s.model, r->s.place.backend, &options, err));
    return r->trains ? create_optimizer(r, err) : LT_OK;
}

/* Sequences of random tokens with random labels: what they say does not matter to the time. */
static void make_batch(struct run *r)
{
    struct lt_batch *b = &r->batch;
    int32_t vocab = r->s.model->vocab;
    b->n_tokens = (int32_t)(o.batch * o.seq);
    bench_random_ids(b->ids, b->n_tokens, vocab, (uint64_t)o.common.seed, 0);
    for (int32_t i = 0; i < b->n_tokens; i++) {
        int32_t row = i / (int32_t)o.seq, column = i % (int32_t)o.seq;
        b->positions[i] = column;
        b->kv_begin[i] = i - column;
        b->kv_end[i] = i + 1;
        b->row_key[i] = lt_row_key(row, column);
        if (column >= o.seq - r->labels)
            b->label_rows[b->n_labels++] = i;
    }
    bench_random_ids(b->labels, b->n_labels, vocab, (uint64_t)o.common.seed, 1);
}

/* As lora-train does it: the initial values are in the engine before a step touches the rest of its
 * memory. */
static enum lt_status start_parameters(struct run *r, struct lt_error *err)
{
    float *values = lt_alloc_zero(r->params.elements, sizeof *values);
    if (!values)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for %zu parameters", r->params.elements);
    enum lt_status status = lt_params_init(&r->params, r->s.model, o.full ? NULL : &r->lora,
                                           (uint64_t)o.common.seed, values, err);
    if (status == LT_OK)
        status = lt_engine_write_params(r->engine, 0, values, r->params.elements, err);
    lt_free(values);
    LT_TRY(status);
    LT_TRY(lt_optimizer_allocate(r->optimizer, NULL, err));
    return lt_engine_zero_grads(r->engine, err);
}

static enum lt_status plan_memory(void *user, const struct train_memory *m, struct lt_plan *plan,
                                  uint64_t *mapped, struct lt_error *err)
{
    struct run *r = user;
    lt_optimizer_destroy(r->optimizer);
    lt_engine_destroy(r->engine);
    r->optimizer = NULL;
    r->engine = NULL;
    r->memory = *m;
    lt_synthetic_stream(r->s.model, &r->s.synthetic,
                        m->weights == LT_WEIGHTS_STREAM ? &r->weights.map : NULL);
    LT_TRY(create(r, err));
    LT_TRY(bench_session_plan_weights(&r->s, err));
    LT_TRY(lt_plan_add_engine(&r->s.plan, r->engine, "parameters", r->optimizer, err));
    *plan = r->s.plan;
    *mapped = 0;
    return LT_OK;
}

static enum lt_status fit_into_memory(struct run *r, struct lt_error *err)
{
    struct lt_plan ignored;
    struct train_memory_case c = {
        .options = {.limit = o.memory_limit,
                    .weights = o.weights,
                    .order = o.order,
                    .boundaries = o.boundaries,
                    .recompute = strcmp(o.checkpointing, "true") == 0    ? LT_RECOMPUTE_FULL
                                 : strcmp(o.checkpointing, "false") == 0 ? LT_RECOMPUTE_NONE
                                                                         : LT_RECOMPUTE_SELECTIVE,
                    .keep_recompute = strcmp(o.checkpointing, "selective") != 0,
                    .keep_optim = strcmp(o.optim, "adamw_torch") != 0},
        .layer_major_possible = lt_engine_layer_major_possible(r->s.model),
        .streamable = !o.full,
        .advice = o.full ? "all weights are trained" : "a shorter --seq or a smaller --batch need less",
        .accumulation = o.accumulation,
        .plan = plan_memory,
        .user = r};
    LT_TRY(cli_placement_search(&r->s.place, train_memory_plan_first, &c, err));
    return train_memory_choose(&c, &r->memory, &ignored, r->memory_text, sizeof r->memory_text, err);
}

static enum lt_status prepare(struct run *r, struct lt_error *err)
{
    if (o.batch * o.seq > INT32_MAX || o.labels > o.seq)
        return lt_fail(err, LT_ERR_INVALID,
                       o.labels > o.seq ? "--labels is more than --seq"
                                        : "--batch times --seq is more than 2147483647 tokens");
    if (o.full && !o.lora)
        return lt_fail(err, LT_ERR_INVALID, "--full trains everything, --no-lora nothing: choose one");
    r->trains = o.lora || o.full;
    r->labels = o.labels > 0 ? o.labels : o.seq;
    LT_TRY(bench_session_open(&r->s, &o.common, "train", o.full ? "bf16" : "nf4", err));
    if (o.full && r->s.synthetic.format >= LT_WEIGHT_NF4)
        return lt_fail(err, LT_ERR_INVALID,
                       "all weights can be trained only when they are not quantized: use --quant bf16");
    LT_TRY(choose_params(r, err));
    return fit_into_memory(r, err);
}

static enum lt_status start(struct run *r, struct lt_error *err)
{
    if (r->memory.weights == LT_WEIGHTS_STREAM)
        LT_TRY(bench_weights_open(&r->weights, &r->s, o.weights_dir, o.keep_weights, err));
    LT_TRY(bench_session_fill(&r->s, err));
    LT_TRY(lt_batch_init(&r->batch, (int32_t)(o.batch * o.seq), (int32_t)(o.batch * r->labels), err));
    make_batch(r);
    LT_TRY(lt_engine_allocate(r->engine, err));
    if (r->trains)
        return start_parameters(r, err);
    r->losses = lt_alloc_array((size_t)r->batch.n_labels, sizeof *r->losses);
    return r->losses ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory for the losses");
}

/* ---- steps ---- */

static struct lt_tokens batch_tokens(const struct lt_batch *b)
{
    return (struct lt_tokens){.n_tokens = b->n_tokens,
                              .n_labels = b->n_labels,
                              .ids = b->ids,
                              .positions = b->positions,
                              .kv_begin = b->kv_begin,
                              .kv_end = b->kv_end,
                              .row_key = b->row_key,
                              .label_rows = b->label_rows,
                              .labels = b->labels};
}

static enum lt_status forward_only(struct run *r, const struct lt_tokens *tokens, double *loss_sum,
                                   struct lt_error *err)
{
    *loss_sum = 0;
    for (int64_t i = 0; i < o.accumulation; i++) {
        if (lt_cancel_requested())
            return lt_fail(err, LT_ERR_CANCELLED, "stopped during a step");
        LT_TRY(lt_engine_eval(r->engine, tokens, r->losses, NULL, err));
        for (int32_t k = 0; k < tokens->n_labels; k++)
            *loss_sum += r->losses[k];
    }
    return LT_OK;
}

/* Every micro-batch is the same one. */
static enum lt_status same_tokens(void *user, int32_t index, struct lt_tokens *tokens, struct lt_error *err)
{
    (void)index;
    (void)err;
    *tokens = batch_tokens(user);
    return LT_OK;
}

static enum lt_status step(struct run *r, int64_t number, struct lt_error *err)
{
    const struct lt_tokens tokens = batch_tokens(&r->batch);
    double targets = (double)tokens.n_labels * (double)o.accumulation;
    const struct lt_step_params params = {
        .loss_scale = (float)(1.0 / targets), .seed = (uint64_t)o.common.seed, .step = (uint32_t)number};
    const struct lt_micro_batches batches = {
        .count = (int32_t)o.accumulation, .get = same_tokens, .user = &r->batch};
    if (!r->trains) {
        LT_TRY(forward_only(r, &tokens, &r->loss, err));
    } else {
        LT_TRY(lt_engine_train(r->engine, &batches, &params, err));
        LT_TRY(lt_optimizer_step(r->optimizer, lt_engine_params(r->engine), lt_engine_grads(r->engine),
                                 number + 1, 1e-4, err));
        lt_engine_params_changed(r->engine);
        LT_TRY(lt_engine_zero_grads(r->engine, err));
        LT_TRY(lt_engine_loss(r->engine, &r->loss, err));
        LT_TRY(lt_optimizer_norm(r->optimizer, &r->grad_norm, err));
    }
    r->loss /= targets;
    if (!isfinite(r->loss))
        return lt_fail(err, LT_ERR_NUMERIC, "the loss of step %lld is not a finite number",
                       (long long)number + 1);
    return LT_OK;
}

/* Nothing goes on while the backend does not run: sgemm may have its turns within steps. */
static bool alone(const struct run *r)
{
    return !cli_placement_main(&r->s.place)->ops->counters && r->memory.weights != LT_WEIGHTS_STREAM &&
           !r->memory.boundaries_in_file;
}

/* A step, sgemm's turns left out; memory is not watched any more. */
static enum lt_status step_with_turns(struct run *r, int64_t number, double *seconds, struct lt_error *err)
{
    const double began = lt_clock_seconds();
    if (alone(r))
        bench_turns_begin(r->turns, r->s.place.backend);
    enum lt_status status = step(r, number, err);
    *seconds = lt_clock_seconds() - began;
    if (alone(r))
        *seconds -= bench_turns_end(r->turns);
    return status;
}

/* The first step after all that takes memory was made: no other takes more. */
static enum lt_status first_step(struct run *r, double *seconds, struct lt_error *err)
{
    const double began = lt_clock_seconds();
    LT_TRY(step(r, 0, err));
    *seconds = lt_clock_seconds() - began;
    bench_session_memory_done(&r->s);
    return bench_turns_create(&r->turns, r->s.threads, err);
}

static enum lt_status run_steps(struct run *r, struct lt_error *err)
{
    struct lt_stream_times before = {0};
    for (int64_t i = 0; i < o.warmup + o.steps; i++) {
        if (i == o.warmup) {
            bench_session_count_ops(&r->s);
            lt_engine_stream_times(r->engine, &before);
        }
        double took;
        if (i == 0)
            LT_TRY(first_step(r, &took, err));
        else
            LT_TRY(step_with_turns(r, i, &took, err));
        if (i == 0)
            r->first_loss = r->loss;
        printf("step %lld%s  loss %.4f  %.3f s\n", (long long)i + 1, i < o.warmup ? " (not counted)" : "",
               r->loss, took);
        fflush(stdout);
        if (i < o.warmup)
            continue;
        r->fastest = i == o.warmup || took < r->fastest ? took : r->fastest;
        r->slowest = took > r->slowest ? took : r->slowest;
        r->seconds += took;
        if (!alone(r))
            bench_turns_take(r->turns, took);
    }
    if (bench_turns_rate(r->turns) == 0) /* no step but the first, or short ones */
        bench_turns_take(r->turns, r->seconds);
    bench_session_measured(&r->s);
    lt_engine_stream_times(r->engine, &r->streamed);
    r->streamed.bytes -= before.bytes;
    r->streamed.reading -= before.reading;
    r->streamed.waiting -= before.waiting;
    return LT_OK;
}

/* ---- report ---- */

/* Of one token, without what recomputation adds and without the head's work for tokens that have no label. */
static double useful_flops(const struct run *r)
{
    const struct lt_model *m = r->s.model;
    double head = 0, unlabelled = 1 - (double)r->labels / (double)o.seq, all;
    for (int i = 0; i < m->tensor_count; i++)
        if (m->tensors[i].is_head)
            head += (double)m->tensors[i].rows * (double)m->tensors[i].cols;
    if (r->trains) {
        all = train_flops_per_token(m, LT_RECOMPUTE_NONE, (double)o.seq);
        return all - (o.full ? 6 : 4) * head * unlabelled;
    }
    double weights = 0;
    for (int i = 0; i < m->tensor_count; i++)
        if (m->tensors[i].kind == LT_TENSOR_LINEAR)
            weights += (double)m->tensors[i].rows * (double)m->tensors[i].cols;
    all = 2 * weights + 2 * (double)m->layers * (double)m->heads * (double)m->head_dim * (double)o.seq;
    return all - 2 * head * unlabelled;
}

static void print_configuration(struct run *r)
{
    char count[32], method[96];
    if (!r->trains)
        lt_snprintf(method, sizeof method, "forward passes only");
    else if (o.full)
        lt_snprintf(method, sizeof method, "all weights: %s parameters",
                    cli_count(count, sizeof count, r->params.trainable));
    else
        lt_snprintf(method, sizeof method, "LoRA r=%lld on all linear layers: %s parameters",
                    (long long)o.rank, cli_count(count, sizeof count, r->params.trainable));
    bench_print_model(&r->s);
    printf("Method     %s\n", method);
    printf("Step       %lld x %lld sequences of %lld tokens, %lld of them with a label; checkpointing %s\n",
           (long long)o.accumulation, (long long)o.batch, (long long)o.seq, (long long)r->labels,
           o.checkpointing);
    printf("Memory     %s\n\n", r->memory_text);
    fflush(stdout);
    bench_session_add(&r->s,
                      json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s?}", "method",
                                !r->trains ? "forward"
                                : o.full   ? "full"
                                           : "lora",
                                "rank", (json_int_t)(r->trains && !o.full ? o.rank : 0), "trainable",
                                (json_int_t)r->params.trainable, "seq", (json_int_t)o.seq, "batch",
                                (json_int_t)o.batch, "accumulation", (json_int_t)o.accumulation, "labels",
                                (json_int_t)r->labels, "gradient_checkpointing", o.checkpointing,
                                "compute_dtype", o.compute_dtype, "optim", r->trains ? o.optim : NULL));
}

static void print_speed(struct run *r)
{
    double tokens = (double)(o.batch * o.seq * o.accumulation * o.steps) / r->seconds;
    double flops = useful_flops(r), rate = tokens * flops;
    double sgemm = bench_turns_rate(r->turns);
    double peak = r->backend_rate > sgemm ? r->backend_rate : sgemm;
    printf("\nSpeed\n");
    printf("  %-34s %12.2f\n", "tokens/s", tokens);
    printf("  %-34s %12.3f  (%.3f to %.3f)\n", "seconds a step", r->seconds / (double)o.steps, r->fastest,
           r->slowest);
    printf("  %-34s %12.3f\n", "useful GFLOP a token", 1e-9 * flops);
    printf("  %-34s %12.1f\n", "useful GFLOP/s", 1e-9 * rate);
    printf("  %-34s %12.1f\n", "GEMM peak, this backend, GFLOP/s", 1e-9 * r->backend_rate);
    if (sgemm > 0) {
        printf("  %-34s %12.1f\n", "OpenBLAS sgemm, GFLOP/s", 1e-9 * sgemm);
        printf("  %-34s %10.1f %%\n", "share of OpenBLAS sgemm", 100 * rate / sgemm);
    }
    printf("  %-34s %10.1f %%\n", "share of the higher peak", 100 * rate / peak);
    bench_session_add(&r->s, json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:f, s:f, s:f}",
                                       "steps", (json_int_t)o.steps, "tokens_per_second", tokens,
                                       "seconds_per_step", r->seconds / (double)o.steps, "fastest_step",
                                       r->fastest, "slowest_step", r->slowest, "flops_per_token", flops,
                                       "flops_per_second", rate, "backend_gemm_peak", r->backend_rate,
                                       "openblas_gemm_peak", bench_json_rate(sgemm), "share_of_peak",
                                       rate / peak, "first_loss", r->first_loss, "loss", r->loss));
}

static enum lt_status measure(struct run *r, struct lt_error *err)
{
    LT_TRY(prepare(r, err));
    print_configuration(r);
    if (o.plan) {
        bench_print_memory(&r->s);
        return bench_session_save(&r->s, err);
    }
    LT_TRY(start(r, err));
    LT_TRY(run_steps(r, err));
    LT_TRY(train_measure_rate(cli_placement_main(&r->s.place), r->s.model->compute_dtype, &r->backend_rate,
                              err));
    print_speed(r);
    if (r->memory.weights == LT_WEIGHTS_STREAM)
        bench_print_streaming(&r->s, &r->streamed, r->seconds, o.steps);
    bench_print_memory(&r->s);
    bench_print_device(&r->s, o.steps, "step");
    bench_print_ops(&r->s, "ops", r->seconds, o.steps, "step");
    return bench_session_save(&r->s, err);
}

enum lt_status bench_train(int argc, char **argv, struct lt_error *err)
{
    static struct cli_option table[BENCH_TRAIN_OPTION_COUNT];
    static struct run r;
    o = bench_train_defaults;
    const struct cli_program program = {.name = "lora-bench train",
                                        .summary = "measures training steps",
                                        .usage = "[--shape NAME] [options]",
                                        .options = table,
                                        .option_count = bench_train_option_rows(table, &o)};
    cli_parse(&program, argc, argv);
    lt_lora_config_init(&r.lora);
    enum lt_status status = measure(&r, err);
    bench_turns_destroy(r.turns);
    lt_free(r.losses);
    lt_batch_deinit(&r.batch);
    lt_optimizer_destroy(r.optimizer);
    lt_engine_destroy(r.engine);
    bench_weights_close(&r.weights);
    lt_params_deinit(&r.params);
    lt_lora_config_deinit(&r.lora);
    bench_session_close(&r.s);
    return status;
}
