/* lora-bench support: what a device runs, op by op. */
#include <stdio.h>
#include <stdlib.h>

#include "backends/registry.h"
#include "core/base/strbuf.h"
#include "core/graph/op_probe.h"
#include "tools/bench_modes.h"
#include "tools/cli_options.h"

static const char *device = "auto";
static bool try_it;

static struct cli_option options[] = {
    {.name = "device",
     .type = CLI_STRING,
     .target = &device,
     .help = "where to compute: auto, cpu, vulkan or vulkan:N",
     .group = "Machine"},
    {.name = "run", .type = CLI_FLAG, .target = &try_it, .help = "run each of them as well, on a few rows"}};

static void put_header(struct lt_strbuf *out, const struct lt_backend *be)
{
    lt_strbuf_printf(out, "%-14s %-9s no weight", be->name, "products");
    for (int form = 0; form < LT_FORM_COUNT; form++)
        lt_strbuf_printf(out, " %4s", lt_weight_form_name((enum lt_weight_form)form));
    lt_strbuf_putc(out, '\n');
}

static enum lt_status put_cell(struct lt_strbuf *out, struct lt_backend *be, enum lt_op op,
                               enum lt_product_kind kind, enum lt_weight_form form, int width,
                               struct lt_error *err)
{
    bool supported = false, exists = lt_op_variant_exists(op, kind, form);
    if (exists)
        LT_TRY(lt_op_probe(be, op, kind, form, try_it, &supported, err));
    lt_strbuf_printf(out, " %*s", width, !exists ? "." : supported ? "yes" : "no");
    return LT_OK;
}

static enum lt_status put_row(struct lt_strbuf *out, struct lt_backend *be, enum lt_op op,
                              enum lt_product_kind kind, struct lt_error *err)
{
    lt_strbuf_printf(out, "%-14s %-9s", lt_op_info[op].name, lt_product_kind_name(kind));
    if (!lt_op_reads_weight(op))
        return put_cell(out, be, op, kind, LT_FORM_F32, 9, err);
    lt_strbuf_printf(out, " %9s", ".");
    for (int form = 0; form < LT_FORM_COUNT; form++) {
        int width = lt_snprintf(NULL, 0, "%4s", lt_weight_form_name((enum lt_weight_form)form));
        LT_TRY(put_cell(out, be, op, kind, (enum lt_weight_form)form, width, err));
    }
    return LT_OK;
}

static bool row_exists(enum lt_op op, enum lt_product_kind kind)
{
    for (int form = 0; form < LT_FORM_COUNT; form++)
        if (lt_op_variant_exists(op, kind, (enum lt_weight_form)form))
            return true;
    return false;
}

static enum lt_status put_matrix(struct lt_strbuf *out, struct lt_backend *be, struct lt_error *err)
{
    put_header(out, be);
    for (int op = 0; op < LT_OP_COUNT; op++)
        for (int kind = 0; kind < LT_PRODUCT_COUNT; kind++) {
            if (!row_exists((enum lt_op)op, (enum lt_product_kind)kind))
                continue;
            LT_TRY(put_row(out, be, (enum lt_op)op, (enum lt_product_kind)kind, err));
            lt_strbuf_putc(out, '\n');
        }
    return lt_strbuf_ok(out) ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory while listing ops");
}

enum lt_status bench_support(int argc, char **argv, struct lt_error *err)
{
    const struct cli_program program = {.name = "lora-bench support",
                                        .summary = "what a device runs: ops, products, forms of weights",
                                        .usage = "[options]",
                                        .options = options,
                                        .option_count = sizeof options / sizeof *options};
    struct lt_backend *be = NULL;
    struct lt_strbuf out;
    cli_parse(&program, argc, argv);
    const struct lt_backend_request request = {
        .device = device, .isa = getenv("LT_CPU"), .gemm = getenv("LT_GEMM")};
    LT_TRY(lt_backend_create(&be, &request, err));
    lt_strbuf_init(&out);
    enum lt_status status = put_matrix(&out, be, err);
    if (status == LT_OK)
        fputs(lt_strbuf_str(&out), stdout);
    lt_strbuf_deinit(&out);
    lt_backend_destroy(be);
    return status;
}
