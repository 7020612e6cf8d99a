#include "tools/train_report.h"

#include <stdio.h>
#include <string.h>

#include "config.h"
#include "core/base/alloc.h"
#include "core/base/system.h"
#include "core/graph/program.h"
#include "tools/cli_term.h"

double train_flops_per_token(const struct lt_model *m, enum lt_recompute recompute, double length)
{
    double frozen = 0, trained = 0;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->kind != LT_TENSOR_LINEAR)
            continue;
        bool trains = t->shared >= 0 ? m->tensors[t->shared].trainable : t->trainable;
        *(trains ? &trained : &frozen) += (double)t->rows * (double)t->cols;
        trained += (double)t->lora.rank * (double)(t->rows + t->cols);
    }
    double per_weight = recompute == LT_RECOMPUTE_FULL ? 6 : 4;
    double attention = (double)m->layers * (double)m->heads * (double)m->head_dim *
                       length; /* causal: half the keys */
    return per_weight * (frozen + trained) + 2 * trained + (2 + 5) * attention;
}

static void build_probe(struct lt_graph *g, int64_t n, int64_t rows, enum lt_dtype compute)
{
    int x = lt_graph_extern(g, LT_EXT_HIDDEN, LT_HIDDEN_IN, LT_F32, LT_ROWS_FIXED, rows, n);
    int w = lt_graph_extern(g, LT_EXT_TENSOR, 0, LT_F32, LT_ROWS_FIXED, n, n);
    int y = lt_graph_value(g, x, n);
    struct lt_node *node = lt_graph_node(g, LT_OP_LINEAR);
    node->in[0] = x;
    node->in[1] = w;
    node->out[0] = y;
    node->attr.compute = compute;
}

/* A device may only have begun when run() returns: reading a number waits for it. */
static enum lt_status run_probe(struct lt_backend *be, const struct lt_compiled *code,
                                const struct lt_run *run, double flops, double *rate, struct lt_error *err)
{
    double best = 0, spent = 0;
    for (int i = 0; i < 2 || (i < 64 && spent < 0.25); i++) { /* the first one touches the memory */
        float sink;
        double start = lt_clock_seconds();
        LT_TRY(be->ops->run(be, code, run, err));
        LT_TRY(be->ops->buffer_read(be, run->arena, 0, &sink, sizeof sink, err));
        double took = lt_clock_seconds() - start;
        spent += took;
        if (flops / took > best)
            best = flops / took;
    }
    *rate = best;
    return LT_OK;
}

enum lt_status train_measure_rate(struct lt_backend *be, enum lt_dtype compute, double *flops,
                                  struct lt_error *err)
{
    enum { N = 2048, ROWS = 512 };
    const struct lt_capacity cap = {ROWS, 1, 1};
    struct lt_graph g;
    struct lt_program p = {0};
    struct lt_compiled *code = NULL;
    struct lt_buffer *weight = NULL, *x = NULL, *arena = NULL;
    struct lt_device_weight *dw = NULL;
    lt_graph_init(&g);
    build_probe(&g, N, ROWS, compute);
    enum lt_status status = lt_program_plan(&p, &g, &cap, err);
    if (status == LT_OK)
        status = be->ops->compile(be, &p, &code, err);
    if (status == LT_OK)
        status = be->ops->buffer_create(be, (size_t)N * N * sizeof(float), &weight, err);
    if (status == LT_OK)
        status = be->ops->buffer_create(be, (size_t)ROWS * N * sizeof(float), &x, err);
    if (status == LT_OK)
        status = be->ops->buffer_create(be, p.arena_bytes, &arena, err);
    /* Pages never written to are all the same one, which caches are slow with. */
    if (status == LT_OK)
        status = be->ops->buffer_zero(be, weight, 0, (size_t)N * N * sizeof(float), err);
    if (status == LT_OK)
        status = be->ops->buffer_zero(be, x, 0, (size_t)ROWS * N * sizeof(float), err);
    struct lt_weight shape = {.format = LT_WEIGHT_F32, .rows = N, .cols = N};
    if (status == LT_OK)
        status = be->ops->weight_view(be, &shape, weight, 0, &dw, err);
    if (status == LT_OK) {
        struct lt_binding bindings[3] = {{.buffer = x}, {.weight = dw}, {0}};
        struct lt_run run = {.bindings = bindings, .arena = arena};
        status = run_probe(be, code, &run, 2.0 * ROWS * N * N, flops, err);
    }
    be->ops->weight_destroy(be, dw);
    be->ops->buffer_destroy(be, arena);
    be->ops->buffer_destroy(be, x);
    be->ops->buffer_destroy(be, weight);
    be->ops->compiled_destroy(be, code);
    lt_program_deinit(&p);
    lt_graph_deinit(&g);
    return status;
}

void train_print_summary(const struct train_summary *s)
{
    char a[48], b[48], c[48];
    printf("lora-train %s on %s\n", LT_VERSION, s->backend->description);
    printf("Model      %s: %s, %s parameters, %d layers\n", s->model->name_or_path, s->model->arch->name,
           cli_count(a, sizeof a, s->model->parameters), s->model->layers);
    printf("Method     %s: %s trainable parameters (%.2f %%)\n", s->method,
           cli_count(a, sizeof a, s->params->trainable),
           100.0 * (double)s->params->trainable / (double)s->model->parameters);
    printf("Data       %s ",
           cli_count(a, sizeof a, (uint64_t)(s->packed_rows > 0 ? s->packed_rows : s->rows)));
    if (s->packed_rows > 0)
        printf("rows packed into %s sequences", cli_count(a, sizeof a, (uint64_t)s->rows));
    else
        printf("rows");
    printf(", %s tokens, %s targets an epoch\n", cli_count(b, sizeof b, (uint64_t)s->tokens_per_epoch),
           cli_count(c, sizeof c, (uint64_t)s->targets_per_epoch));
    printf("Schedule   %lld steps of %lld x %lld rows, %lld steps an epoch\n", (long long)s->max_steps,
           (long long)s->accumulation, (long long)s->batch_rows, (long long)s->steps_per_epoch);
    if (s->where)
        printf("Placement  %s\n", s->where);
    printf("Memory     %s\n", s->memory);
    printf("Estimate   %s\n", s->seconds < 1 ? "under a second" : cli_duration(a, sizeof a, s->seconds));
    if (s->backend->bf16_unit && s->model->compute_dtype == LT_F32 && s->frozen)
        printf("           This processor has a unit for bf16: --compute-dtype bfloat16 would be faster.\n");
    if (s->seconds > 86400)
        printf(
            "           That is more than a day: fewer --max-steps, a shorter --max-length or a smaller model would "
            "shorten it.\n");
}

static void plain_line(const struct lt_train_metrics *m)
{
    char eta[24], mem[24];
    printf("step %lld/%lld  epoch %.2f  loss %.4f  grad_norm %.3f  lr %.3g  %.0f tok/s  ETA %s  mem %s\n",
           (long long)m->step, (long long)m->max_steps, m->epoch, m->loss, m->grad_norm, m->learning_rate,
           m->tokens_per_second, cli_duration(eta, sizeof eta, m->eta_seconds),
           cli_bytes(mem, sizeof mem, m->memory_bytes));
    fflush(stdout);
}

static void clear_progress(void)
{
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K");
}

static void on_log(void *user, const struct lt_train_metrics *m)
{
    (void)user;
    clear_progress();
    plain_line(m);
}

static void on_step(void *user, const struct lt_train_metrics *m)
{
    char line[160], eta[24], mem[24];
    (void)user;
    if (!cli_stderr_is_terminal())
        return;
    int n = snprintf(line, sizeof line, "step %lld/%lld  loss %.4f  %.0f tok/s  ETA %s  mem %s",
                     (long long)m->step, (long long)m->max_steps, m->loss, m->tokens_per_second,
                     cli_duration(eta, sizeof eta, m->eta_seconds),
                     cli_bytes(mem, sizeof mem, m->memory_bytes));
    int width = cli_terminal_width() - 1;
    fprintf(stderr, "\r\033[K%.*s", n < width ? n : width, line);
}

static void on_eval(void *user, const struct lt_eval_metrics *m)
{
    char took[24];
    (void)user;
    clear_progress();
    printf("eval at step %lld: loss %.4f  perplexity %.3f  accuracy %.2f %%  (%lld targets, %s)\n",
           (long long)m->step, m->eval_loss, m->perplexity, 100 * m->token_accuracy, (long long)m->targets,
           cli_duration(took, sizeof took, m->runtime));
    fflush(stdout);
}

static void on_saved(void *user, const char *path)
{
    (void)user;
    clear_progress();
    printf("saved %s\n", path);
    fflush(stdout);
}

struct lt_trainer_events train_report_events(void)
{
    return (struct lt_trainer_events){.log = on_log, .step = on_step, .eval = on_eval, .saved = on_saved};
}
