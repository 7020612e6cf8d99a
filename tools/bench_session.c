#include "tools/bench_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/strbuf.h"
#include "tools/bench_shapes.h"
#include "tools/cli_term.h"

const struct bench_options bench_defaults = {.shape = "smollm2-135m", .device = "auto", .seed = 1};

size_t bench_option_rows(struct cli_option *table, struct bench_options *o)
{
    const struct cli_option rows[BENCH_OPTION_COUNT] = {
        {.name = "shape",
         .type = CLI_CHOICE,
         .target = &o->shape,
         .choices = bench_shape_names,
         .help = "the model whose sizes are taken",
         .group = "Model"},
        {.name = "layers",
         .type = CLI_INT,
         .target = &o->layers,
         .max = 4096,
         .help = "so many layers instead of the model's; 0: the model's"},
        {.name = "quant",
         .type = CLI_CHOICE,
         .target = &o->quant,
         .choices = "nf4,fp4,int8,bf16,f16,f32",
         .help = "format of the weights"},
        {.name = "double-quant",
         .aliases = "bnb-4bit-use-double-quant",
         .type = CLI_FLAG,
         .target = &o->double_quant,
         .help = "nf4 and fp4: quantize the block scales as well"},
        {.name = "device",
         .type = CLI_STRING,
         .target = &o->device,
         .help = "where to compute: auto, cpu, vulkan or vulkan:N",
         .group = "Machine"},
        {.name = "gpu-layers",
         .aliases = "n-gpu-layers,ngl",
         .type = CLI_STRING,
         .target = &o->gpu_layers,
         .help = "so many layers, the last ones, and the head on the Vulkan device, or auto; else all"},
        {.name = "threads",
         .type = CLI_INT,
         .target = &o->threads,
         .max = 4096,
         .help = "compute threads; 0: one for every processor"},
        {.name = "seed", .type = CLI_INT, .target = &o->seed, .max = 9e15, .help = "random numbers"},
        {.name = "json", .type = CLI_STRING, .target = &o->json, .help = "write the results to this file"},
    };
    memcpy(table, rows, sizeof rows);
    return BENCH_OPTION_COUNT;
}

/* ---- opening ---- */

static enum lt_weight_format format_of(const char *quant)
{
    for (int f = 0; f < LT_WEIGHT_FORMAT_COUNT; f++)
        if (strcmp(quant, lt_weight_format_name((enum lt_weight_format)f)) == 0)
            return (enum lt_weight_format)f;
    return LT_WEIGHT_F32;
}

static enum lt_status no_memory(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory for the measurement itself");
}

static enum lt_status open_model(struct bench_session *s, struct lt_error *err)
{
    json_t *config = bench_shape_config(s->options->shape, s->options->layers);
    if (!config)
        return no_memory(err);
    enum lt_status status = lt_model_from_config(&s->model, config, s->options->shape, err);
    json_decref(config);
    return status;
}

enum lt_status bench_session_open(struct bench_session *s, const struct bench_options *o, const char *mode,
                                  const char *default_quant, struct lt_error *err)
{
    const char *quant = o->quant ? o->quant : default_quant;
    bool blocks = quant && (strcmp(quant, "nf4") == 0 || strcmp(quant, "fp4") == 0);
    *s = (struct bench_session){.options = o, .threads = o->threads > 0 ? (int)o->threads : lt_cpu_count()};
    s->synthetic = (struct lt_synthetic_options){.format = quant ? format_of(quant) : LT_WEIGHT_F32,
                                                 .double_quant = o->double_quant,
                                                 .seed = (uint64_t)o->seed,
                                                 .threads = s->threads};
    if (o->double_quant && quant && !blocks)
        return lt_fail(err, LT_ERR_INVALID, "--double-quant is for nf4 and fp4, not for %s", quant);
    LT_TRY(cli_placement_open(&s->place, o->device, o->gpu_layers, o->threads, err));
    LT_TRY(open_model(s, err));
    LT_TRY(cli_placement_set_model(&s->place, s->model, err));
    const struct lt_backend *be = cli_placement_main(&s->place);
    s->result = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i, s:I, s:s?, s:b}", "program",
                          "lora-bench " LT_VERSION, "mode", mode, "device", be->name, "description",
                          be->description, "threads", s->threads, "shape", o->shape, "layers",
                          s->model->layers, "parameters", (json_int_t)s->model->parameters, "quant", quant,
                          "double_quant", o->double_quant);
    return s->result ? LT_OK : no_memory(err);
}

void bench_session_close(struct bench_session *s)
{
    lt_memory_sampler_destroy(s->sampler);
    lt_model_destroy(s->model);
    cli_placement_close(&s->place);
    json_decref(s->result);
    memset(s, 0, sizeof *s);
}

static void print_making(void *user, int done, int total)
{
    (void)user;
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[Kmaking weights %d/%d", done, total);
}

enum lt_status bench_session_fill(struct bench_session *s, struct lt_error *err)
{
    enum lt_status status = lt_synthetic_fill(s->model, &s->synthetic, print_making, NULL, err);
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K");
    return status;
}

/* ---- memory plan ---- */

enum lt_status bench_session_plan_weights(struct bench_session *s, struct lt_error *err)
{
    struct lt_memory_stat now;
    struct lt_model_memory mem;
    lt_synthetic_memory(s->model, &s->synthetic, &mem);
    lt_memory_stat(&now);
    s->plan = (struct lt_plan){0};
    lt_plan_add(&s->plan, "program so far", lt_memory_counted(&now), true);
    lt_plan_add(&s->plan, "weights, quantized", mem.quantized, true);
    lt_plan_add(&s->plan, "weights, not quantized", mem.converted, true);
    lt_plan_add(&s->plan, "norms and biases as read", mem.vectors, true);
    lt_plan_add(&s->plan, "weights, read layer by layer", mem.streamed, false);
    return s->sampler ? LT_OK : lt_memory_sampler_create(&s->sampler, 0.02, err);
}

/* ---- measuring ---- */

void bench_session_count_ops(struct bench_session *s)
{
    memset(s->op_times, 0, sizeof s->op_times);
    struct lt_backend *be = cli_placement_main(&s->place);
    s->place.backend->op_times = s->op_times;
    if (be->ops->counters)
        be->ops->counters(be, &s->counted);
}

void bench_session_memory_done(struct bench_session *s)
{
    struct lt_backend *be = cli_placement_main(&s->place);
    if (be->ops->counters)
        be->ops->counters(be, &s->measured);
    if (!s->sampler)
        return;
    s->peak = lt_memory_sampler_peak(s->sampler);
    lt_memory_sampler_destroy(s->sampler);
    s->sampler = NULL;
}

void bench_session_measured(struct bench_session *s)
{
    s->place.backend->op_times = NULL;
    bench_session_memory_done(s);
}

void bench_random_ids(int32_t *ids, int64_t n, int32_t vocab, uint64_t seed, uint32_t stream)
{
    const struct lt_rng_site site = {.seed = seed, .step = UINT32_MAX, .site = stream};
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(lt_rng_bits(&site, (uint64_t)i, 0) % (uint32_t)vocab);
}

/* ---- report ---- */

void bench_print_model(struct bench_session *s)
{
    char count[32];
    const char *quant = json_string_value(json_object_get(s->result, "quant"));
    printf("lora-bench %s on %s\n", LT_VERSION, cli_placement_main(&s->place)->description);
    printf("Model      %s, synthetic: %s parameters, %d layers%s%s%s\n", s->options->shape,
           cli_count(count, sizeof count, s->model->parameters), s->model->layers, quant ? ", " : "",
           quant ? quant : "", s->synthetic.double_quant ? ", double quantization" : "");
    char where[96];
    if (cli_placement_text(&s->place, &s->plan.placement, where, sizeof where))
        printf("Placement  %s\n", where);
    fflush(stdout);
}

void bench_print_memory(struct bench_session *s)
{
    char a[32], b[32];
    json_t *lines = json_array();
    double off = s->peak > 0 ? 100.0 * ((double)s->peak / (double)s->plan.peak - 1) : 0;
    printf("\nMemory\n");
    for (int i = 0; i < s->plan.count; i++) {
        const struct lt_plan_line *l = &s->plan.lines[i];
        if (l->bytes == 0)
            continue;
        printf("  %-34s %12s%s\n", l->name, cli_bytes(a, sizeof a, l->bytes),
               l->device    ? "  (on the device)"
               : l->counted ? ""
                            : "  (not in the peak)");
        json_array_append_new(lines, json_pack("{s:s, s:I, s:b}", "name", l->name, "bytes",
                                               (json_int_t)l->bytes, "counted", l->counted));
    }
    if (s->plan.device > 0)
        printf("  %-34s %12s\n", "planned device memory", cli_bytes(a, sizeof a, s->plan.device));
    if (s->plan.device_available > 0)
        printf("  %-34s %12s\n", "the device can give", cli_bytes(a, sizeof a, s->plan.device_available));
    printf("  %-34s %12s\n", "planned peak", cli_bytes(a, sizeof a, s->plan.peak));
    if (s->peak > 0)
        printf("  %-34s %12s  (%+.2f %%)\n", "measured peak", cli_bytes(b, sizeof b, s->peak), off);
    bench_session_add(s, json_pack("{s:{s:o, s:I, s:I, s:I, s:f}}", "memory", "lines", lines, "planned_peak",
                                   (json_int_t)s->plan.peak, "planned_device", (json_int_t)s->plan.device,
                                   "measured_peak", (json_int_t)s->peak, "difference_percent", off));
}

void bench_print_device(struct bench_session *s, int64_t count, const char *unit)
{
    char a[32], b[32], copies[64];
    const struct lt_engine_placement *e = &s->plan.placement;
    const struct lt_device_counters now = s->measured, *then = &s->counted;
    if (!cli_placement_main(&s->place)->ops->counters)
        return;
    double n = (double)count, off = 100.0 * ((double)now.peak / (double)s->plan.device - 1);
    double submissions = (double)(now.submissions - then->submissions) / n,
           dispatches = (double)(now.dispatches - then->dispatches) / n,
           waits = (double)(now.waits - then->waits) / n;
    uint64_t up = (now.bytes_up - then->bytes_up) / (uint64_t)count,
             down = (now.bytes_down - then->bytes_down) / (uint64_t)count;
    printf("\nDevice, a %s\n", unit);
    printf("  %-34s %12.1f\n  %-34s %12.1f\n  %-34s %12.1f\n", "submissions", submissions, "dispatches",
           dispatches, "waits of the host", waits);
    printf("  %-34s %12s\n  %-34s %12s\n", "bytes to the device", cli_bytes(a, sizeof a, up),
           "bytes from the device", cli_bytes(b, sizeof b, down));
    printf("  %-34s %12s\n", "copies from place to place", cli_copies_text(e, copies, sizeof copies));
    printf("  %-34s %12s\n  %-34s %12s  (%+.2f %%)\n", "planned device memory",
           cli_bytes(a, sizeof a, s->plan.device), "allocated device memory",
           cli_bytes(b, sizeof b, now.peak), off);
    bench_session_add(s,
                      json_pack("{s:{s:f, s:f, s:f, s:i, s:I, s:I, s:i, s:b, s:I, s:I, s:I, s:I, s:I}}",
                                "device_use", "submissions", submissions, "dispatches", dispatches, "waits",
                                waits, "copies", e->copies, "copy_bytes", (json_int_t)e->copy_bytes,
                                "step_bytes", (json_int_t)e->step_bytes, "layers", e->layers, "head", e->head,
                                "bytes_up", (json_int_t)up, "bytes_down", (json_int_t)down, "planned_memory",
                                (json_int_t)s->plan.device, "allocated_memory", (json_int_t)now.peak,
                                "available_memory", (json_int_t)now.available));
}

static int by_seconds(const void *a, const void *b)
{
    const struct lt_op_time *x = *(const struct lt_op_time *const *)a,
                            *y = *(const struct lt_op_time *const *)b;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static json_t *op_row(const char *name, double calls, double seconds, double share)
{
    return json_pack("{s:s, s:f, s:f, s:f}", "op", name, "calls", calls, "seconds", seconds, "share", share);
}

void bench_print_ops(struct bench_session *s, const char *key, double seconds, int64_t count,
                     const char *unit)
{
    const struct lt_op_time *order[LT_OP_COUNT];
    json_t *list = json_array();
    double rest = seconds, n = (double)count;
    for (int i = 0; i < LT_OP_COUNT; i++)
        order[i] = &s->op_times[i];
    qsort(order, LT_OP_COUNT, sizeof *order, by_seconds);
    printf("\nTime by op, a %s%*s%10s %12s %8s\n", unit, (int)(15 - strlen(unit)), "", "calls", "ms",
           "share");
    for (int i = 0; i < LT_OP_COUNT && order[i]->calls > 0; i++) {
        const char *name = lt_op_info[order[i] - s->op_times].name;
        double took = order[i]->seconds;
        rest -= took;
        printf("  %-26s %10.1f %12.3f %6.1f %%\n", name, (double)order[i]->calls / n, 1e3 * took / n,
               100 * took / seconds);
        json_array_append_new(list, op_row(name, (double)order[i]->calls / n, took / n, took / seconds));
    }
    printf("  %-26s %10s %12.3f %6.1f %%\n", "between ops", "", 1e3 * rest / n, 100 * rest / seconds);
    json_array_append_new(list, op_row("between ops", 0, rest / n, rest / seconds));
    bench_session_add(s, json_pack("{s:o}", key, list));
}

json_t *bench_json_rate(double rate)
{
    return rate > 0 ? json_real(rate) : json_null();
}

void bench_session_add(struct bench_session *s, json_t *part)
{
    if (!part || json_object_update(s->result, part) != 0)
        s->incomplete = true;
    json_decref(part);
}

enum lt_status bench_session_save(const struct bench_session *s, struct lt_error *err)
{
    if (!s->options->json)
        return LT_OK;
    return s->incomplete ? no_memory(err) : lt_json_save(s->result, s->options->json, 2, err);
}
