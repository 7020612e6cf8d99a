/* train_log.jsonl, TensorBoard scalars and the log history. */
#include "core/train/trainer_internal.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

static const char ROWS_NAME[] = "train_log.jsonl";
static const size_t MAX_LOG_BYTES = (size_t)1 << 30;

enum lt_status lt_train_log_init(struct lt_train_log *log, struct lt_error *err)
{
    memset(log, 0, sizeof *log);
    lt_strbuf_init(&log->line);
    log->history = json_array();
    return log->history ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory for the training log");
}

void lt_train_log_deinit(struct lt_train_log *log)
{
    lt_file_appender_close(&log->rows);
    lt_tfevents_close(&log->events);
    lt_strbuf_deinit(&log->line);
    json_decref(log->history);
    memset(log, 0, sizeof *log);
}

/* ---- opening ---- */

/* Whether a line belongs to what was done up to the checkpoint.  One cut short by a crash does not. */
static bool is_kept(const char *line, size_t n, int64_t step, bool eval_due)
{
    json_t *o;
    int64_t found = -1;

    if (lt_json_parse(&o, line, n, ROWS_NAME, NULL) != LT_OK)
        return false;
    if (!json_is_object(o) || lt_json_get_i64(o, "step", &found, ROWS_NAME, NULL) != LT_OK)
        found = -1;
    bool repeated = eval_due && found == step && json_object_get(o, "eval_loss");
    json_decref(o);
    return found >= 0 && found <= step && !repeated;
}

static size_t kept_bytes(const char *text, size_t size, int64_t step, bool eval_due)
{
    size_t kept = 0;

    while (kept < size) {
        const char *end = memchr(text + kept, '\n', size - kept);
        if (!end)
            break;
        if (!is_kept(text + kept, (size_t)(end - text) - kept, step, eval_due))
            break;
        kept = (size_t)(end - text) + 1;
    }
    return kept;
}

static enum lt_status cut_rows(const char *path, int64_t step, bool eval_due, struct lt_error *err)
{
    char *text;
    size_t size;

    LT_TRY(lt_file_read(path, MAX_LOG_BYTES, &text, &size, err));
    size_t kept = kept_bytes(text, size, step, eval_due);
    lt_free(text);
    return kept < size ? lt_file_truncate(path, kept, err) : LT_OK;
}

static enum lt_status open_rows(struct lt_train_log *log, const char *output_dir, int64_t step, bool eval_due,
                                struct lt_error *err)
{
    enum lt_status status = LT_OK;
    char *path = lt_path_join(output_dir, ROWS_NAME);

    if (!path)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the training log", output_dir);
    if (step >= 0 && lt_file_kind(path) != LT_FILE_NONE)
        status = cut_rows(path, step, eval_due, err);
    if (status == LT_OK)
        status = lt_file_appender_open(&log->rows, path, step < 0, err);
    lt_free(path);
    return status;
}

/* runs/<month><day>_<HH-MM-SS>, as transformers without the host's name. */
static enum lt_status open_events(struct lt_train_log *log, const char *output_dir, struct lt_error *err)
{
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    double wall = lt_wall_seconds();
    time_t seconds = (time_t)wall;
    const struct tm *t = localtime(&seconds);
    char name[64] = "runs/run";

    if (t && t->tm_mon >= 0 && t->tm_mon < 12)
        lt_snprintf(name, sizeof name, "runs/%s%02d_%02d-%02d-%02d", months[t->tm_mon], t->tm_mday,
                    t->tm_hour, t->tm_min, t->tm_sec);
    char *dir = lt_path_join(output_dir, name);
    if (!dir)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for the event file", output_dir);
    enum lt_status status = lt_tfevents_open(&log->events, dir, wall, err);
    lt_free(dir);
    return status;
}

enum lt_status lt_train_log_open(struct lt_train_log *log, const char *output_dir, int64_t step,
                                 bool eval_due, struct lt_error *err)
{
    LT_TRY(lt_dir_create(output_dir, err));
    LT_TRY(open_rows(log, output_dir, step, eval_due, err));
    return open_events(log, output_dir, err);
}

/* ---- writing ---- */

struct field {
    const char *key;
    double value;
};

static void put_integer(struct lt_strbuf *sb, const char *key, int64_t v)
{
    lt_strbuf_printf(sb, "%s\"%s\": %lld", sb->len > 1 ? ", " : "", key, (long long)v);
}

static void put_fields(struct lt_strbuf *sb, const struct field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lt_strbuf_printf(sb, ", \"%s\": ", fields[i].key);
        if (isfinite(fields[i].value))
            lt_strbuf_put_double(sb, fields[i].value);
        else
            lt_strbuf_puts(sb, "null");
    }
}

static enum lt_status end_line(struct lt_train_log *log, struct lt_error *err)
{
    lt_strbuf_puts(&log->line, "}\n");
    if (!lt_strbuf_ok(&log->line))
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for a line", log->rows.path);
    return lt_file_appender_put(&log->rows, log->line.data, log->line.len, err);
}

static enum lt_status add_history(struct lt_train_log *log, int64_t step, const struct field *fields,
                                  size_t n, struct lt_error *err)
{
    bool ok = true;
    json_t *row = json_object();

    for (size_t i = 0; i < n; i++)
        lt_train_put(row, fields[i].key, lt_train_number(fields[i].value), &ok);
    lt_train_put(row, "step", json_integer(step), &ok);
    if (json_array_append(log->history, row) != 0)
        ok = false;
    json_decref(row);
    return ok ? LT_OK : lt_fail(err, LT_ERR_NOMEM, "out of memory for the training log");
}

static enum lt_status add_scalars(struct lt_train_log *log, int64_t step, const struct field *tags, size_t n,
                                  struct lt_error *err)
{
    double wall = lt_wall_seconds();

    for (size_t i = 0; i < n; i++)
        LT_TRY(lt_tfevents_scalar(&log->events, tags[i].key, step, (float)tags[i].value, wall, err));
    return LT_OK;
}

enum lt_status lt_train_log_step(struct lt_train_log *log, const struct lt_train_metrics *m,
                                 struct lt_error *err)
{
    const struct field history[] = {{"epoch", m->epoch},
                                    {"loss", m->loss},
                                    {"grad_norm", m->grad_norm},
                                    {"learning_rate", m->learning_rate}};
    const struct field pace[] = {{"tokens_per_second", m->tokens_per_second}};
    const struct field tags[] = {{"train/loss", m->loss},
                                 {"train/grad_norm", m->grad_norm},
                                 {"train/learning_rate", m->learning_rate},
                                 {"train/epoch", m->epoch},
                                 {"train/tokens_per_second", m->tokens_per_second},
                                 {"train/peak_memory_bytes", (double)m->peak_memory_bytes}};
    size_t n = sizeof history / sizeof *history;

    lt_strbuf_clear(&log->line);
    lt_strbuf_putc(&log->line, '{');
    put_integer(&log->line, "step", m->step);
    put_fields(&log->line, history, n);
    put_integer(&log->line, "tokens", m->tokens);
    put_fields(&log->line, pace, 1);
    put_integer(&log->line, "peak_memory_bytes", (int64_t)m->peak_memory_bytes);
    LT_TRY(end_line(log, err));
    LT_TRY(add_history(log, m->step, history, n, err));
    return add_scalars(log, m->step, tags, sizeof tags / sizeof *tags, err);
}

static double rate(int64_t count, double seconds)
{
    return seconds > 0 ? (double)count / seconds : 0;
}

enum lt_status lt_train_log_eval(struct lt_train_log *log, const struct lt_eval_metrics *m,
                                 struct lt_error *err)
{
    const struct field history[] = {{"epoch", m->epoch},
                                    {"eval_loss", m->eval_loss},
                                    {"eval_perplexity", m->perplexity},
                                    {"eval_token_accuracy", m->token_accuracy},
                                    {"eval_runtime", m->runtime},
                                    {"eval_samples_per_second", rate(m->examples, m->runtime)},
                                    {"eval_steps_per_second", rate(m->batches, m->runtime)}};
    const struct field tags[] = {{"eval/loss", m->eval_loss},
                                 {"eval/perplexity", m->perplexity},
                                 {"eval/token_accuracy", m->token_accuracy},
                                 {"eval/runtime", m->runtime}};

    lt_strbuf_clear(&log->line);
    lt_strbuf_putc(&log->line, '{');
    put_integer(&log->line, "step", m->step);
    put_fields(&log->line, history, 4); /* the timing differs from run to run */
    LT_TRY(end_line(log, err));
    LT_TRY(add_history(log, m->step, history, sizeof history / sizeof *history, err));
    return add_scalars(log, m->step, tags, sizeof tags / sizeof *tags, err);
}
