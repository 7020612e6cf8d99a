#include "tools/bench_turns.h"

#include "core/base/alloc.h"
#include "core/base/system.h"
#include "tools/bench_machine.h"

/* Seconds of steps from one turn to the next; of a turn; of the longest one between two steps; until OpenBLAS's threads have
 * given up waiting for more work. */
static const double EACH = 1.0, TURN = 0.25, LONGEST = 5.0, PAUSE = 0.03;

struct bench_turns {
    struct bench_sgemm sgemm;
    float *memory;
    size_t bytes;
    int threads;
    double flops, seconds; /* of all turns */
    /* Of a step: */
    struct lt_backend *be;
    const struct lt_backend_ops *own; /* of the backend */
    struct lt_backend_ops ops;        /* the same, with turns */
    double due, taken;
    double left; /* until the next turn, at the end of the step */
};

static struct bench_turns *current;

enum lt_status bench_turns_create(struct bench_turns **turns, int threads, struct lt_error *err)
{
    enum { N = 2048 };
    struct bench_turns *t = lt_alloc_zero(1, sizeof *t);
    *turns = t;
    if (!t)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for measuring OpenBLAS");
    const size_t n = (size_t)N * N;
    t->threads = threads;
    t->left = EACH;
    t->bytes = 3 * n * sizeof(float);
    t->memory = lt_alloc_pages(t->bytes);
    if (!t->memory)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for measuring OpenBLAS: %zu bytes are needed",
                       t->bytes);
    for (size_t i = 0; i < 2 * n; i++)
        t->memory[i] = (float)(i % 17) - 8;
    t->sgemm = (struct bench_sgemm){.m = N,
                                    .n = N,
                                    .k = N,
                                    .trans_b = true,
                                    .a = t->memory,
                                    .b = t->memory + n,
                                    .c = t->memory + 2 * n,
                                    .lda = N,
                                    .ldb = N,
                                    .ldc = N};
    return LT_OK;
}

void bench_turns_destroy(struct bench_turns *t)
{
    if (!t)
        return;
    if (t->memory)
        lt_free_pages(t->memory, t->bytes);
    lt_free(t);
}

static void turn(struct bench_turns *t, double seconds)
{
    struct bench_sgemm_run run;
    bench_sgemm_again(&t->sgemm, t->threads, seconds, &run);
    t->flops += run.flops;
    t->seconds += run.seconds;
    for (double end = lt_clock_seconds() + PAUSE; run.seconds > 0 && lt_clock_seconds() < end;)
        lt_thread_yield();
}

static enum lt_status run_and_turn(struct lt_backend *be, const struct lt_compiled *c,
                                   const struct lt_run *run, struct lt_error *err)
{
    struct bench_turns *t = current;
    LT_TRY(t->own->run(be, c, run, err));
    const double now = lt_clock_seconds();
    if (now < t->due)
        return LT_OK;
    turn(t, TURN);
    const double then = lt_clock_seconds();
    t->taken += then - now;
    t->due = then + EACH;
    return LT_OK;
}

void bench_turns_begin(struct bench_turns *t, struct lt_backend *be)
{
    current = t;
    t->be = be;
    t->own = be->ops;
    t->ops = *be->ops;
    t->ops.run = run_and_turn;
    be->ops = &t->ops;
    t->taken = 0;
    t->due = lt_clock_seconds() + t->left;
}

double bench_turns_end(struct bench_turns *t)
{
    t->left = t->due - lt_clock_seconds();
    t->be->ops = t->own;
    t->be = NULL;
    current = NULL;
    return t->taken;
}

void bench_turns_take(struct bench_turns *t, double step_seconds)
{
    const double seconds = TURN / EACH * step_seconds;
    turn(t, seconds < LONGEST ? seconds : LONGEST);
}

double bench_turns_rate(const struct bench_turns *t)
{
    return t->seconds > 0 ? t->flops / t->seconds : 0;
}
