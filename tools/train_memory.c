#include "tools/train_memory.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "tools/cli_session.h"
#include "tools/cli_term.h"

/* Share of the free memory that is used without being asked. */
#define SAFE_SHARE 0.85

enum lt_status train_memory_size(uint64_t *bytes, const char *text, struct lt_error *err)
{
    static const char units[] = "kmgt";
    char number[32];
    double value, factor = 1;
    size_t digits = strspn(text, "0123456789."), rest = digits;
    const char *unit = text[rest] ? strchr(units, tolower((unsigned char)text[rest])) : NULL;
    if (unit) {
        factor = ldexp(1, 10 * (int)(unit - units + 1));
        rest++;
        rest += tolower((unsigned char)text[rest]) == 'i';
    }
    rest += tolower((unsigned char)text[rest]) == 'b';
    lt_snprintf(number, sizeof number, "%.*s", digits < sizeof number ? (int)digits : 0, text);
    if (text[rest] || !lt_parse_double(number, &value) || !(value * factor >= 1) || value * factor > 1e18)
        return lt_fail(err, LT_ERR_INVALID,
                       "--memory-limit %s is no size: give bytes, or a number with K, M or G such as 8G",
                       text);
    *bytes = (uint64_t)(value * factor);
    return LT_OK;
}

/* From the fastest to the smallest.  Without --memory-limit only the steps that keep all else as it is are tried, and
 * recomputation where a device has too little memory for them. */
static const struct train_memory ladder[] = {
    {.weights = LT_WEIGHTS_RESIDENT},
    {.weights = LT_WEIGHTS_MMAP},
    {.weights = LT_WEIGHTS_RESIDENT, .recompute = LT_RECOMPUTE_FULL},
    {.weights = LT_WEIGHTS_MMAP, .recompute = LT_RECOMPUTE_FULL},
    {.weights = LT_WEIGHTS_STREAM, .layer_major = true},
    {.weights = LT_WEIGHTS_STREAM, .layer_major = true, .recompute = LT_RECOMPUTE_FULL},
    {.weights = LT_WEIGHTS_STREAM,
     .layer_major = true,
     .recompute = LT_RECOMPUTE_FULL,
     .boundaries_in_file = true},
    {.weights = LT_WEIGHTS_STREAM},
    {.weights = LT_WEIGHTS_STREAM, .recompute = LT_RECOMPUTE_FULL},
    {.weights = LT_WEIGHTS_STREAM, .recompute = LT_RECOMPUTE_FULL, .boundaries_in_file = true},
    {.weights = LT_WEIGHTS_MMAP, .recompute = LT_RECOMPUTE_FULL, .boundaries_in_file = true},
    {.weights = LT_WEIGHTS_MMAP,
     .recompute = LT_RECOMPUTE_FULL,
     .boundaries_in_file = true,
     .paged_optimizer = true},
    {.weights = LT_WEIGHTS_STREAM,
     .recompute = LT_RECOMPUTE_FULL,
     .boundaries_in_file = true,
     .paged_optimizer = true},
};

struct search {
    const struct train_memory_case *c;
    bool explicit_limit;
    uint64_t limit, available; /* bytes; UINT64_MAX: unknown */
    struct train_memory *choice;
    struct lt_plan *plan;
    bool planned, fits;
    bool on_device, device_short; /* of the last plan; of one of the plans */
};

static bool same(const struct train_memory *a, const struct train_memory *b)
{
    return a->weights == b->weights && a->layer_major == b->layer_major &&
           a->boundaries_in_file == b->boundaries_in_file && a->paged_optimizer == b->paged_optimizer &&
           a->recompute == b->recompute;
}

/* The step with what the user has set in place of what it wants. */
static struct train_memory settle(const struct train_memory_case *c, const struct train_memory *step)
{
    const struct train_memory_options *o = &c->options;
    struct train_memory m = *step;
    if (strcmp(o->weights, "auto") != 0)
        m.weights = cli_residency(o->weights);
    if (m.recompute != LT_RECOMPUTE_FULL || o->keep_recompute)
        m.recompute = o->recompute;
    if (strcmp(o->boundaries, "auto") != 0)
        m.boundaries_in_file = strcmp(o->boundaries, "file") == 0;
    if (o->keep_optim)
        m.paged_optimizer = false;
    /* A layer that is read from a file is visited as rarely as possible. */
    m.layer_major = strcmp(o->order, "auto") == 0 ? step->layer_major && c->layer_major_possible
                                                  : strcmp(o->order, "layer") == 0;
    m.layer_major = m.layer_major && c->accumulation > 1;
    return m;
}

enum lt_status train_memory_plan_first(void *user, struct lt_plan *plan, struct lt_error *err)
{
    const struct train_memory_case *c = user;
    const struct train_memory first = settle(c, &ladder[0]);
    uint64_t mapped;
    return c->plan(c->user, &first, plan, &mapped, err);
}

static bool is_tried(const struct search *s, const struct train_memory *step)
{
    bool streams = step->weights == LT_WEIGHTS_STREAM, maps = step->weights == LT_WEIGHTS_MMAP;
    bool possible = streams ? s->c->streamable : !maps || s->c->mappable;
    bool wanted = strcmp(s->c->options.weights, "auto") == 0
                      ? possible
                      : streams == (strcmp(s->c->options.weights, "stream") == 0);
    if (step->boundaries_in_file && s->on_device) /* it keeps them in its own memory */
        return false;
    return wanted && (s->explicit_limit || (s->device_short && !step->boundaries_in_file) ||
                      !(step->recompute == LT_RECOMPUTE_FULL || step->boundaries_in_file));
}

/* Does the device tell that it has less than the plan wants? */
static bool is_device_short(const struct lt_plan *plan)
{
    return plan->device_available > 0 && plan->device > plan->device_available;
}

static enum lt_status try_step(struct search *s, const struct train_memory *step, struct lt_error *err)
{
    const struct train_memory m = settle(s->c, step);
    uint64_t mapped;
    if (s->planned && same(&m, s->choice))
        return LT_OK;
    *s->plan = (struct lt_plan){0};
    *s->choice = m;
    s->planned = true;
    LT_TRY(s->c->plan(s->c->user, &m, s->plan, &mapped, err));
    s->on_device = s->plan->device > 0;
    s->device_short = s->device_short || is_device_short(s->plan);
    s->fits = s->plan->peak <= s->limit && !is_device_short(s->plan);
    /* Mapped weights that do not stay in the page cache are read page by page in every step: streaming is better. */
    if (m.weights == LT_WEIGHTS_MMAP && s->c->streamable && strcmp(s->c->options.weights, "auto") == 0)
        s->fits = s->fits && s->plan->peak + mapped <= s->available;
    return LT_OK;
}

static const char *largest_line(const struct lt_plan *plan, uint64_t *bytes)
{
    const struct lt_plan_line *largest = &plan->lines[0];
    for (int i = 1; i < plan->count; i++)
        if (plan->lines[i].counted && plan->lines[i].bytes > largest->bytes)
            largest = &plan->lines[i];
    *bytes = largest->bytes;
    return largest->name;
}

static enum lt_status does_not_fit(const struct search *s, struct lt_error *err)
{
    char peak[24], limit[24], line[24];
    uint64_t bytes;
    const char *name = largest_line(s->plan, &bytes);
    if (is_device_short(s->plan)) {
        lt_log(LT_LOG_WARNING, "the plan needs %s on the device, which can give %s; %s",
               cli_bytes(peak, sizeof peak, s->plan->device),
               cli_bytes(limit, sizeof limit, s->plan->device_available), s->c->advice);
        if (s->plan->peak <= s->limit)
            return LT_OK;
    }
    cli_bytes(peak, sizeof peak, s->plan->peak);
    cli_bytes(limit, sizeof limit, s->limit);
    cli_bytes(line, sizeof line, bytes);
    if (s->explicit_limit)
        return lt_fail(err, LT_ERR_INVALID,
                       "--memory-limit %s is too little: the smallest plan needs %s, of which '%s' takes %s; "
                       "%s",
                       limit, peak, name, line, s->c->advice);
    lt_log(LT_LOG_WARNING,
           "the plan needs %s and this machine has about %s to give ('%s' takes %s); --memory-limit allows "
           "slower settings that need less",
           peak, limit, name, line);
    return LT_OK;
}

static void describe(const struct search *s, char *text, size_t size)
{
    static const char *const weights[] = {
        [LT_WEIGHTS_MMAP] = "weights mapped from the file",
        [LT_WEIGHTS_RESIDENT] = "weights in memory",
        [LT_WEIGHTS_STREAM] = "weights read from the file layer by layer",
    };
    const struct train_memory *m = s->choice;
    char limit[24] = "an unknown amount", peak[24];
    if (s->limit != UINT64_MAX)
        cli_bytes(limit, sizeof limit, s->limit);
    lt_snprintf(text, size, "%s of %s (%s): %s%s%s%s%s", cli_bytes(peak, sizeof peak, s->plan->peak), limit,
                s->explicit_limit ? "--memory-limit" : "a safe share of what is free", weights[m->weights],
                m->layer_major ? ", all micro-batches layer by layer" : "",
                m->recompute == LT_RECOMPUTE_FULL ? ", layers computed twice" : "",
                m->boundaries_in_file ? ", layer boundaries in a file" : "",
                m->paged_optimizer ? ", optimizer state in a file" : "");
}

enum lt_status train_memory_choose(const struct train_memory_case *c, struct train_memory *choice,
                                   struct lt_plan *plan, char *text, size_t text_size, struct lt_error *err)
{
    struct search s = {.c = c,
                       .explicit_limit = c->options.limit != NULL,
                       .choice = choice,
                       .plan = plan,
                       .available = lt_memory_available()};
    s.available = s.available == 0 ? UINT64_MAX : (uint64_t)(SAFE_SHARE * (double)s.available);
    s.limit = s.available;
    if (s.explicit_limit)
        LT_TRY(train_memory_size(&s.limit, c->options.limit, err));
    if (strcmp(c->options.weights, "stream") == 0 && !c->streamable)
        return lt_fail(err, LT_ERR_INVALID, "--weights stream: %s", c->advice);
    for (size_t i = 0; i < sizeof ladder / sizeof *ladder && !s.fits; i++)
        if (is_tried(&s, &ladder[i]))
            LT_TRY(try_step(&s, &ladder[i], err));
    describe(&s, text, text_size);
    return s.fits ? LT_OK : does_not_fit(&s, err);
}
