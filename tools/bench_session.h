/* What the modes of lora-bench share: their common options, a model with synthetic weights on a backend,
 * the memory plan against the measured peak, the time by op, and the JSON file. */
#ifndef LT_TOOLS_BENCH_SESSION_H
#define LT_TOOLS_BENCH_SESSION_H

#include "core/base/system.h"
#include "core/graph/engine.h"
#include "core/io/json.h"
#include "core/train/trainer.h"
#include "models/weight_synthetic.h"
#include "tools/cli_options.h"
#include "tools/cli_placement.h"

struct bench_options {
    const char *shape, *device, *json;
    const char *gpu_layers; /* NULL, "auto" or a number */
    const char *quant;      /* NULL: the mode's default */
    bool double_quant;
    int64_t layers, threads, seed;
};
extern const struct bench_options bench_defaults;

/* Appends the shared option rows to `table` (room for BENCH_OPTION_COUNT); returns how many. */
enum { BENCH_OPTION_COUNT = 9 };
size_t bench_option_rows(struct cli_option *table, struct bench_options *o);

struct bench_session {
    const struct bench_options *options;
    struct lt_synthetic_options synthetic;
    struct cli_placement place;
    struct lt_model *model;
    int threads;
    struct lt_op_time op_times[LT_OP_COUNT];
    struct lt_device_counters counted, measured; /* when counting began, and when it ended */
    struct lt_plan plan;
    struct lt_memory_sampler *sampler; /* since bench_session_plan_weights */
    uint64_t peak;
    json_t *result;  /* what --json writes */
    bool incomplete; /* memory was short for a part of it */
};

/* Backends and model, without weights; zeroes *s first.  default_quant where --quant is not given; NULL:
 * the mode has no format of its own. */
enum lt_status bench_session_open(struct bench_session *s, const struct bench_options *o, const char *mode,
                                  const char *default_quant, struct lt_error *err) LT_MUST_USE;
void bench_session_close(struct bench_session *s);
/* Starts the plan with the process as it is and the weights, and begins to watch the memory.  May be called again. */
enum lt_status bench_session_plan_weights(struct bench_session *s, struct lt_error *err) LT_MUST_USE;
/* Makes the weights, with a progress line on a terminal. */
enum lt_status bench_session_fill(struct bench_session *s, struct lt_error *err) LT_MUST_USE;

/* From here on time is counted by op. */
void bench_session_count_ops(struct bench_session *s);
/* Ends the watch over memory: what comes may take memory of its own. */
void bench_session_memory_done(struct bench_session *s);
/* Ends that and the counting of ops. */
void bench_session_measured(struct bench_session *s);

/* Tables on stdout; the same goes into the JSON result. */
void bench_print_model(struct bench_session *s);
void bench_print_memory(struct bench_session *s);
/* What was counted since bench_session_count_ops: `seconds` of wall time for `count` of what `unit` names
 * ("step"); the list goes under `key`. */
void bench_print_ops(struct bench_session *s, const char *key, double seconds, int64_t count,
                     const char *unit);

/* What a device with memory of its own did for each of `count` steps since bench_session_count_ops, and its memory. */
void bench_print_device(struct bench_session *s, int64_t count, const char *unit);

json_t *bench_json_rate(double rate); /* null where nothing was measured: a rate of 0 */
/* Adds the members of `part` (taken) to the JSON result. */
void bench_session_add(struct bench_session *s, json_t *part);
/* --json, when given. */
enum lt_status bench_session_save(const struct bench_session *s, struct lt_error *err) LT_MUST_USE;

/* n ids that mean nothing, the same for the same seed and stream. */
void bench_random_ids(int32_t *ids, int64_t n, int32_t vocab, uint64_t seed, uint32_t stream);

#endif
