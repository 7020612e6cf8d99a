/* Synthetic weights in a file, for engines that stream them: written once, removed afterwards unless kept. */
#ifndef LT_TOOLS_BENCH_WEIGHTS_H
#define LT_TOOLS_BENCH_WEIGHTS_H

#include "tools/bench_session.h"

struct bench_weights {
    struct lt_file_map map; /* what lt_synthetic_stream is given; open after bench_weights_open */
    char *path;
    bool remove; /* at the end */
};

/* dir, or TMPDIR, else /tmp, when it is NULL. */
const char *bench_weights_folder(const char *dir);
/* The file for the model of s, whose tensors are marked to be streamed, in bench_weights_folder(dir).  One of
 * the same name and size is taken as it is and stays; else it is written, which is announced. */
enum lt_status bench_weights_open(struct bench_weights *w, struct bench_session *s, const char *dir,
                                  bool keep, struct lt_error *err) LT_MUST_USE;
/* What reading took during `steps` steps of `seconds` in all, as a table and in the JSON result. */
void bench_print_streaming(struct bench_session *s, const struct lt_stream_times *t, double seconds,
                           int64_t steps);
void bench_weights_close(struct bench_weights *w); /* zeroed ones are accepted */

#endif
