/* The modes of lora-bench.  Each parses its own options (argv[0] is the mode), prints, and releases
 * everything. */
#ifndef LT_TOOLS_BENCH_MODES_H
#define LT_TOOLS_BENCH_MODES_H

#include "core/base/status.h"

/* Training steps, or with --no-lora forward passes. */
enum lt_status bench_train(int argc, char **argv, struct lt_error *err) LT_MUST_USE;
/* Reading a prompt and generating tokens. */
enum lt_status bench_generate(int argc, char **argv, struct lt_error *err) LT_MUST_USE;
/* The CPU backend's kernels one by one, beside OpenBLAS. */
enum lt_status bench_kernels(int argc, char **argv, struct lt_error *err) LT_MUST_USE;
/* A table of what a device runs: ops by forms of weights. */
enum lt_status bench_support(int argc, char **argv, struct lt_error *err) LT_MUST_USE;

#endif
