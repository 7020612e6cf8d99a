/* What all programs print and how they stop: errors, sizes, durations, signals, the log. */
#ifndef LT_TOOLS_CLI_TERM_H
#define LT_TOOLS_CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

/* "program: sentence" on stderr.  Exit status for a status: 2 for LT_ERR_INVALID (usage), 130 cancelled, else 1. */
int cli_report(const char *program, const struct lt_error *err);

/* First call of main.  OpenMP's waiting threads spin by default, which on a machine with other work costs a multiple of
 * the run.  The runtime reads its settings before main, so the program starts itself once more with
 * GOMP_SPINCOUNT set (and OpenBLAS's own threads off), unless the caller chose. */
void cli_settle_threads(char **argv);

/* SIGINT, SIGTERM and a lost terminal request cancellation; a second signal ends the process at once.  Library log
 * lines go to stderr. */
void cli_init(const char *program);

bool cli_stdout_is_terminal(void);
bool cli_stderr_is_terminal(void);
int cli_terminal_width(void); /* columns of stderr, 80 when unknown */

/* Into buf: "1.53 GiB", "2h 05m", "12,345". */
const char *cli_bytes(char *buf, size_t size, uint64_t bytes);
const char *cli_duration(char *buf, size_t size, double seconds);
const char *cli_count(char *buf, size_t size, uint64_t n);

#endif
