/* Where a model is computed: the backends of --device and --gpu-layers, and which layers are whose. */
#ifndef LT_TOOLS_CLI_PLACEMENT_H
#define LT_TOOLS_CLI_PLACEMENT_H

#include "core/train/trainer.h"
#include "models/model_load.h"

struct cli_placement {
    struct lt_backend *cpu, *gpu; /* owned; NULL: not opened */
    char name[24];                /* of the device: "vulkan:0" */
    const struct lt_model *model; /* borrowed */
    int64_t wanted;               /* --gpu-layers; WHOLE, SEARCH */
    /* What is in force: the backends of lt_engine_create and struct lt_engine_options, borrowed from above. */
    struct lt_backend *backend, *device;
    int32_t device_layers;
};

/* Opens what is needed.  gpu_layers: NULL (all layers are where `device` says), "auto" or a number.  LT_ERR_INVALID
 * where it is something else, or `device` is not a Vulkan device. */
enum lt_status cli_placement_open(struct cli_placement *p, const char *device, const char *gpu_layers,
                                  int64_t threads, struct lt_error *err) LT_MUST_USE;
void cli_placement_close(struct cli_placement *p);
/* Once the model's layers are known, and checks its compute_dtype; what --gpu-layers leaves idle is closed.  With auto all layers
 * are on the device until cli_placement_search. */
enum lt_status cli_placement_set_model(struct cli_placement *p, const struct lt_model *model,
                                       struct lt_error *err) LT_MUST_USE;
/* LT_ERR_UNSUPPORTED when a backend in force has no products in the model's compute_dtype. */
enum lt_status cli_placement_check(const struct cli_placement *p, struct lt_error *err) LT_MUST_USE;
/* --gpu-layers auto: puts the most layers on the device that it has memory for, by the plans that `plan` makes of what is
 * in force; all, when the device does not tell.  Does nothing otherwise. */
typedef enum lt_status (*cli_plan_fn)(void *user, struct lt_plan *plan, struct lt_error *err);
enum lt_status cli_placement_search(struct cli_placement *p, cli_plan_fn plan, void *user,
                                    struct lt_error *err) LT_MUST_USE;

/* The backend that computes the most: that of the device where a part of the model is on one. */
struct lt_backend *cli_placement_main(const struct cli_placement *p);
/* "20 of 32 layers and the head on vulkan:0, the rest on the processor"; NULL when nothing is shared. */
const char *cli_placement_text(const struct cli_placement *p, const struct lt_engine_placement *e, char *text,
                               size_t size);
/* The same on standard error. */
void cli_report_placement(const struct cli_placement *p, const struct lt_engine_placement *e);
/* "4 a micro-batch, 8.4 MiB", "none". */
const char *cli_copies_text(const struct lt_engine_placement *e, char *text, size_t size);

#endif
