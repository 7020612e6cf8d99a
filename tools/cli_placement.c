#include "tools/cli_placement.h"

#include <stdlib.h>
#include <string.h>

#include "backends/registry.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "tools/cli_term.h"

enum { WHOLE = -1, SEARCH = -2 };

static enum lt_status read_layers(struct cli_placement *p, const char *device, const char *text,
                                  struct lt_error *err)
{
    long long n;
    p->wanted = WHOLE;
    if (!text)
        return LT_OK;
    if (strcmp(text, "auto") == 0)
        p->wanted = SEARCH;
    else if (lt_parse_i64(text, &n) && n >= 0)
        p->wanted = n;
    else
        return lt_fail(err, LT_ERR_INVALID, "--gpu-layers %s: give a number of layers, or auto", text);
    if (strncmp(device, "vulkan", 6) != 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "--gpu-layers %s says how many layers a GPU has: name it by --device vulkan", text);
    return LT_OK;
}

enum lt_status cli_placement_open(struct cli_placement *p, const char *device, const char *gpu_layers,
                                  int64_t threads, struct lt_error *err)
{
    struct lt_backend_request request = {
        .device = device, .threads = (int)threads, .isa = getenv("LT_CPU"), .gemm = getenv("LT_GEMM")};
    LT_TRY(read_layers(p, device, gpu_layers, err));
    bool gpu = strncmp(device, "vulkan", 6) == 0;
    lt_snprintf(p->name, sizeof p->name, "%s%s", device, strchr(device, ':') ? "" : ":0");
    if (gpu && p->wanted != 0)
        LT_TRY(lt_backend_create(&p->gpu, &request, err));
    if (!p->gpu || p->wanted != WHOLE) {
        request.device = gpu ? "cpu" : device;
        LT_TRY(lt_backend_create(&p->cpu, &request, err));
    }
    p->backend = p->gpu ? p->gpu : p->cpu;
    return LT_OK;
}

void cli_placement_close(struct cli_placement *p)
{
    lt_backend_destroy(p->cpu);
    lt_backend_destroy(p->gpu);
    *p = (struct cli_placement){0};
}

/* So many layers on the device, and the head; none: not even that. */
static void place(struct cli_placement *p, int64_t layers)
{
    bool part = p->gpu && layers > 0 && layers < p->model->layers;
    p->backend = p->gpu && layers >= p->model->layers ? p->gpu : p->cpu;
    p->device = part ? p->gpu : NULL;
    p->device_layers = part ? (int32_t)layers : 0;
}

enum lt_status cli_placement_check(const struct cli_placement *p, struct lt_error *err)
{
    if (p->model->compute_dtype != LT_F16 || (p->backend->f16 && !p->device))
        return LT_OK;
    if (p->gpu)
        return lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "--compute-dtype float16 needs all layers on the device: processors compute in float32 "
            "or bfloat16, and --gpu-layers leaves them a part");
    return lt_fail(
        err, LT_ERR_UNSUPPORTED,
        "--compute-dtype float16 is for a Vulkan device (--device vulkan): processors compute in float32 "
        "or bfloat16");
}

enum lt_status cli_placement_set_model(struct cli_placement *p, const struct lt_model *model,
                                       struct lt_error *err)
{
    p->model = model;
    if (p->gpu)
        place(p, p->wanted >= 0 ? p->wanted : model->layers);
    if (p->wanted >= model->layers) {
        lt_backend_destroy(p->cpu);
        p->cpu = NULL;
    }
    return cli_placement_check(p, err);
}

static enum lt_status try_layers(struct cli_placement *p, int32_t layers, cli_plan_fn plan, void *user,
                                 bool *fits, struct lt_error *err)
{
    struct lt_plan planned = {0};
    place(p, layers);
    LT_TRY(cli_placement_check(p, err));
    LT_TRY(plan(user, &planned, err));
    *fits = planned.device_available == 0 || planned.device <= planned.device_available;
    return LT_OK;
}

enum lt_status cli_placement_search(struct cli_placement *p, cli_plan_fn plan, void *user,
                                    struct lt_error *err)
{
    int32_t some = 0, many = p->model->layers; /* fits; does not */
    bool fits;
    if (p->wanted != SEARCH)
        return LT_OK;
    LT_TRY(try_layers(p, many, plan, user, &fits, err));
    if (fits)
        return LT_OK;
    while (many - some > 1) {
        int32_t middle = some + (many - some) / 2;
        LT_TRY(try_layers(p, middle, plan, user, &fits, err));
        *(fits ? &some : &many) = middle;
    }
    place(p, some);
    if (some == 0)
        lt_log(LT_LOG_WARNING, "%s has not the memory for a layer: the processor computes all", p->name);
    return LT_OK;
}

struct lt_backend *cli_placement_main(const struct cli_placement *p)
{
    return p->device ? p->device : p->backend;
}

const char *cli_placement_text(const struct cli_placement *p, const struct lt_engine_placement *e, char *text,
                               size_t size)
{
    int layers = p->model->layers;
    if (!p->device) {
        if (p->wanted == WHOLE)
            return NULL;
        lt_snprintf(text, size, "all %d layers on %s", layers,
                    p->backend == p->gpu ? p->name : "the processor");
    } else {
        lt_snprintf(text, size, "%d of %d layers%s on %s, the rest on the processor", e->layers, layers,
                    e->head ? " and the head" : "", p->name);
    }
    return text;
}

void cli_report_placement(const struct cli_placement *p, const struct lt_engine_placement *e)
{
    char text[96];
    if (cli_placement_text(p, e, text, sizeof text))
        lt_log(LT_LOG_INFO, "%s", text);
}

const char *cli_copies_text(const struct lt_engine_placement *e, char *text, size_t size)
{
    char a[24];
    if (e->copies == 0)
        lt_snprintf(text, size, "none");
    else
        lt_snprintf(text, size, "%d a micro-batch, %s", e->copies, cli_bytes(a, sizeof a, e->copy_bytes));
    return text;
}
