#include "tools/bench_weights.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "tools/cli_term.h"

const char *bench_weights_folder(const char *dir)
{
    const char *temporary = getenv("TMPDIR");
    if (dir)
        return dir;
    return temporary && *temporary ? temporary : "/tmp";
}

/* Named by all that its bytes follow from. */
static char *file_path(const struct bench_session *s, const char *dir)
{
    char name[160];
    lt_snprintf(name, sizeof name, "lora-bench-%s-%d-%s%s-%lld.weights", s->options->shape, s->model->layers,
                lt_weight_format_name(s->synthetic.format), s->synthetic.double_quant ? "-double" : "",
                (long long)s->options->seed);
    return lt_path_join(dir, name);
}

static void print_writing(void *user, int done, int total)
{
    (void)user;
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[Kwriting weights %d/%d", done, total);
}

static enum lt_status write_file(struct bench_weights *w, struct bench_session *s, uint64_t bytes,
                                 struct lt_error *err)
{
    char size[24];
    double start = lt_clock_seconds();
    printf("Weights    writing %s to %s%s\n", cli_bytes(size, sizeof size, bytes), w->path,
           w->remove ? ", removed at the end" : "");
    fflush(stdout);
    enum lt_status status = lt_synthetic_store(s->model, &s->synthetic, w->path, print_writing, NULL, err);
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K");
    LT_TRY(status);
    printf("           written in %.1f s\n", lt_clock_seconds() - start);
    fflush(stdout);
    return LT_OK;
}

enum lt_status bench_weights_open(struct bench_weights *w, struct bench_session *s, const char *dir,
                                  bool keep, struct lt_error *err)
{
    uint64_t size = 0, bytes = lt_synthetic_stream(s->model, &s->synthetic, &w->map);
    w->path = file_path(s, bench_weights_folder(dir));
    if (!w->path)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the name of the weights' file");
    if (lt_file_kind(w->path) == LT_FILE_REGULAR)
        LT_TRY(lt_file_size(w->path, &size, err));
    if (size == bytes) {
        printf("Weights    %s\n", w->path);
    } else {
        w->remove = !keep;
        LT_TRY(write_file(w, s, bytes, err));
    }
    LT_TRY(lt_file_map_open(&w->map, w->path, err));
    lt_file_map_release(&w->map, 0, w->map.size);
    return LT_OK;
}

/* Reading goes on while the computation does: what it costs is the waiting. */
void bench_print_streaming(struct bench_session *s, const struct lt_stream_times *t, double seconds,
                           int64_t steps)
{
    char bytes[24];
    printf("\nStreaming, %lld step%s\n", (long long)steps, steps == 1 ? "" : "s");
    printf("  %-34s %12s\n", "read", cli_bytes(bytes, sizeof bytes, t->bytes));
    printf("  %-34s %12.3f  (%.0f MB/s)\n", "seconds reading, behind", t->reading,
           t->reading > 0 ? 1e-6 * (double)t->bytes / t->reading : 0);
    printf("  %-34s %12.3f\n", "seconds waiting for weights", t->waiting);
    printf("  %-34s %12.3f\n", "seconds computing", seconds - t->waiting);
    bench_session_add(s, json_pack("{s:{s:I, s:f, s:f, s:f}}", "streaming", "bytes", (json_int_t)t->bytes,
                                   "seconds_reading", t->reading, "seconds_waiting", t->waiting,
                                   "seconds_computing", seconds - t->waiting));
}

void bench_weights_close(struct bench_weights *w)
{
    lt_file_map_close(&w->map);
    if (w->remove)
        remove(w->path);
    lt_free(w->path);
    *w = (struct bench_weights){.path = NULL};
}
