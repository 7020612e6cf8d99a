/* The machine as the program sees it: clock, memory, processor count, cancellation, log. */
#ifndef LT_BASE_SYSTEM_H
#define LT_BASE_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

double lt_clock_seconds(void); /* monotonic */
double lt_wall_seconds(void);  /* since 1970 */

/* Memory of this process, bytes.  peak definition of the project: anonymous + shared + dirty file pages. */
struct lt_memory_stat {
    uint64_t rss_anon, rss_shmem, rss_file; /* /proc/self/status */
    uint64_t file_dirty; /* our own writable file mappings: their pages in memory, at least the dirty ones */
};
/* All zero where the system does not tell. */
void lt_memory_stat(struct lt_memory_stat *stat);
uint64_t lt_memory_counted(const struct lt_memory_stat *stat); /* rss_anon + rss_shmem + file_dirty */
/* Makes lt_memory_stat() count the pages of a writable shared file mapping of ours.  Clean ones too: only the owner
 * dirties pages and gives them back behind its work, and telling them apart costs tens of milliseconds for each GB of
 * memory.  Not for files on tmpfs: rss_shmem has those already.
 * False when the table (64 mappings) is full: the pages are then not counted. */
bool lt_memory_track_file_mapping(const void *addr, size_t size);
void lt_memory_untrack_file_mapping(const void *addr); /* before munmap; an unknown address is fine */
/* Memory the machine can still give (MemAvailable, bounded by the cgroup limit); 0 = unknown. */
uint64_t lt_memory_available(void);

/* Samples lt_memory_counted() from a thread of its own; the highest value so far.  Where a sample takes long (large
 * tracked mappings) the interval grows, so that sampling takes a tenth of a processor at most. */
struct lt_memory_sampler;
enum lt_status lt_memory_sampler_create(struct lt_memory_sampler **sampler, double interval_seconds,
                                        struct lt_error *err) LT_MUST_USE;
uint64_t lt_memory_sampler_peak(struct lt_memory_sampler *sampler); /* takes a sample now as well */
void lt_memory_sampler_destroy(struct lt_memory_sampler *sampler);

/* Does the processor have the bf16 instructions of Arm?  False too where the system does not tell. */
bool lt_arm_has_bf16(void);

/* Asks the system for the tile registers of AMX, which a process may use only after that.  False where there is no such
 * call or it is refused.  Threads made before and after may use them alike. */
bool lt_tiles_enable(void);

int lt_cpu_count(void); /* processors this process may run on, at least 1 */

/* Lets others have the processor: for loops that wait a few microseconds for another thread. */
void lt_thread_yield(void);

/* Cancellation: a tool's signal handler calls lt_cancel_request(); long loops poll. */
void lt_cancel_request(void); /* async-signal-safe */
void lt_cancel_reset(void);
bool lt_cancel_requested(void);

/* Log: messages for people that are no errors.  Default: dropped. */
enum lt_log_level { LT_LOG_DEBUG, LT_LOG_INFO, LT_LOG_WARNING };
typedef void (*lt_log_fn)(void *user, enum lt_log_level level, const char *message);
void lt_log_set(lt_log_fn fn, void *user);
void lt_log(enum lt_log_level level, const char *fmt, ...) LT_PRINTF(2, 3);

#endif
