/* The model shapes that lora-bench knows: the config.json of published models, without their weights. */
#ifndef LT_TOOLS_BENCH_SHAPES_H
#define LT_TOOLS_BENCH_SHAPES_H

#include <jansson.h>
#include <stdint.h>

/* Names, comma-separated, for an option's choices. */
extern const char bench_shape_names[];

/* The configuration of a name in the list (owned, json_decref); layers > 0 replaces the number of layers.
 * NULL when memory is short or the name is unknown. */
json_t *bench_shape_config(const char *name, int64_t layers);

#endif
