/* The cache of quantized weights as the programs use it. */
#ifndef LT_TOOLS_CLI_QUANTIZED_H
#define LT_TOOLS_CLI_QUANTIZED_H

#include "tools/cli_session.h"

/* *folder: the folder to load instead of `dir` (lt_free), announced in one line; NULL: dir itself.  With
 * --quantized-cache auto a cache that cannot be used is passed over. */
enum lt_status cli_quantized_folder(char **folder, const char *dir, const struct cli_model_options *o,
                                    const struct lt_load_options *load, struct lt_error *err) LT_MUST_USE;
/* Of the folder's safetensors files; 0 when it cannot be read. */
uint64_t cli_weight_bytes(const char *folder);
/* A progress line on a terminal: "quantizing 12/201".  user: a const char * with the verb. */
void cli_print_progress(void *user, int done, int total);

#endif
