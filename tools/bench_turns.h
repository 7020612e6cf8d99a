/* OpenBLAS's sgemm in turns with training steps: other work on the machine then slows both alike, so that their ratio means
 * something where neither rate does. */
#ifndef LT_TOOLS_BENCH_TURNS_H
#define LT_TOOLS_BENCH_TURNS_H

#include <stdbool.h>

#include "core/backend/backend.h"
#include "core/base/status.h"

struct bench_turns;

/* Takes 48 MiB of memory.  One at a time. */
enum lt_status bench_turns_create(struct bench_turns **turns, int threads, struct lt_error *err) LT_MUST_USE;
/* Not between bench_turns_begin and bench_turns_end; NULL is fine. */
void bench_turns_destroy(struct bench_turns *turns);

/* Until bench_turns_end sgemm gets a turn for every second in which the backend runs programs, between two of them.  Not
 * for a device, nor where another thread goes on working meanwhile. */
void bench_turns_begin(struct bench_turns *turns, struct lt_backend *be);
/* Returns the seconds that sgemm took since then. */
double bench_turns_end(struct bench_turns *turns);
/* A turn of its own, as long as those of a step of so many seconds would be. */
void bench_turns_take(struct bench_turns *turns, double step_seconds);

/* Floating-point operations a second in all turns together; 0 in a program built without OpenBLAS. */
double bench_turns_rate(const struct bench_turns *turns);

#endif
