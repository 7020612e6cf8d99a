/* lora-bench kernels: the CPU backend's kernels one by one. */
#include "tools/bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "tools/bench_machine.h"
#include "tools/bench_modes.h"
#include "tools/bench_turns.h"

static struct {
    struct bench_options common;
    const char *rows;
    int64_t seq;
    double budget;
} o = {.rows = "1,16,512,2048", .seq = 512, .budget = 0.2};

static const struct cli_option own_options[] = {
    {.name = "rows",
     .aliases = "tokens",
     .type = CLI_STRING,
     .target = &o.rows,
     .help = "token counts of the matrix products, separated by commas",
     .group = "Kernels"},
    {.name = "seq",
     .type = CLI_INT,
     .target = &o.seq,
     .min = 1,
     .max = 1 << 17,
     .help = "length of the sequence in attention"},
    {.name = "seconds",
     .type = CLI_DOUBLE,
     .target = &o.budget,
     .min = 1e-3,
     .max = 1000,
     .help = "time for one measurement; its fastest call counts"},
};

enum { OWN_OPTION_COUNT = sizeof own_options / sizeof *own_options, MAX_ROW_COUNTS = 16, MAX_ROWS = 1 << 20 };

static enum lt_status read_row_counts(int64_t counts[MAX_ROW_COUNTS], int *count, struct lt_error *err)
{
    *count = 0;
    for (const char *at = o.rows; *at;) {
        char word[24];
        long long n;
        size_t len = strcspn(at, ",");
        lt_snprintf(word, sizeof word, "%.*s", (int)(len < 20 ? len : 20), at);
        if (!lt_parse_i64(word, &n) || n < 1 || n > MAX_ROWS || *count == MAX_ROW_COUNTS)
            return lt_fail(err, LT_ERR_INVALID, "--rows: '%s' is no list of at most %d numbers from 1 to %d",
                           o.rows, MAX_ROW_COUNTS, MAX_ROWS);
        counts[(*count)++] = n;
        at += len + (at[len] == ',');
    }
    if (*count == 0)
        return lt_fail(err, LT_ERR_INVALID, "--rows is empty: name at least one number of rows");
    return LT_OK;
}

static enum lt_status create_providers(struct bench_kernels *b, struct lt_error *err)
{
    enum lt_cpu_isa isa;
    if (!lt_cpu_isa_detect(&isa, getenv("LT_CPU"))) /* the backend has accepted it already */
        return lt_fail(err, LT_ERR_INVALID, "LT_CPU names no instruction set of this processor");
    lt_cpu_kernels_init(&b->k, isa);
    LT_TRY(lt_gemm_native_create(&b->native, &b->k, b->s.threads, err));
    enum lt_status status = lt_gemm_openblas_create(&b->openblas, &b->k, b->s.threads, err);
    return status == LT_ERR_UNSUPPORTED ? LT_OK : status;
}

static enum lt_status measure_machine(struct bench_kernels *b, struct lt_error *err)
{
    double read_rate, sgemm;
    struct bench_turns *turns;
    LT_TRY(bench_read_rate(b->s.threads, &read_rate, err));
    enum lt_status status = bench_turns_create(&turns, b->s.threads, err);
    if (status == LT_OK)
        bench_turns_take(turns, 2.0);
    sgemm = status == LT_OK ? bench_turns_rate(turns) : 0;
    bench_turns_destroy(turns);
    LT_TRY(status);
    printf("\nMachine\n  %-34s %10.2f\n", "memory read, GB/s", 1e-9 * read_rate);
    if (sgemm > 0)
        printf("  %-34s %10.1f\n", "OpenBLAS sgemm 2048, GFLOP/s", 1e-9 * sgemm);
    bench_session_add(&b->s, json_pack("{s:f, s:o}", "memory_read_rate", read_rate, "openblas_gemm_peak",
                                       bench_json_rate(sgemm)));
    return LT_OK;
}

static enum lt_status measure(struct bench_kernels *b, struct lt_error *err)
{
    int64_t counts[MAX_ROW_COUNTS];
    LT_TRY(read_row_counts(counts, &b->row_count_count, err));
    LT_TRY(bench_session_open(&b->s, &o.common, "kernels", NULL, err));
    b->row_counts = counts;
    b->budget = o.budget;
    b->seq = o.seq;
    LT_TRY(create_providers(b, err));
    bench_print_model(&b->s);
    LT_TRY(measure_machine(b, err));
    LT_TRY(bench_products(b, err));
    LT_TRY(bench_decoding(b, err));
    LT_TRY(bench_attention(b, err));
    return bench_session_save(&b->s, err);
}

enum lt_status bench_kernels(int argc, char **argv, struct lt_error *err)
{
    static struct cli_option table[BENCH_OPTION_COUNT + OWN_OPTION_COUNT];
    static struct bench_kernels b;
    o.common = bench_defaults;
    size_t count = bench_option_rows(table, &o.common);
    memcpy(table + count, own_options, sizeof own_options);
    const struct cli_program program = {.name = "lora-bench kernels",
                                        .summary = "measures the kernels of the CPU backend one by one",
                                        .usage = "[--shape NAME] [options]",
                                        .options = table,
                                        .option_count = count + OWN_OPTION_COUNT};
    cli_parse(&program, argc, argv);
    enum lt_status status = measure(&b, err);
    if (b.native)
        b.native->destroy(b.native);
    if (b.openblas)
        b.openblas->destroy(b.openblas);
    bench_session_close(&b.s);
    return status;
}
