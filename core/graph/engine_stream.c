/* Weight streaming: the frozen matrices of two decoder layers are in memory, the one that computes and the next of the
 * schedule, which a helper thread reads meanwhile. */
#include "core/base/alloc.h"
#include "core/base/system.h"
#include "core/base/worker.h"
#include "core/graph/engine_internal.h"

struct slot {
    const struct lt_model *model;
    int segment; /* whose weights are here, or on their way; 0: none */
    bool taken;  /* the read was waited for */
    unsigned char *memory;
    struct lt_job job;
    double seconds; /* of the last read */
};

enum { SLOTS = 2 };

struct lt_weight_stream {
    struct lt_worker *worker;
    struct slot slots[SLOTS];
    size_t slot_bytes;
    struct lt_stream_times times;
};

static bool is_layer(const struct lt_model *m, int segment)
{
    return segment >= 1 && segment <= m->layers;
}

static size_t segment_bytes(const struct lt_model *m, int segment)
{
    size_t bytes = 0;
    for (int i = 0; i < lt_model_segment_tensors(m, segment); i++) {
        const struct lt_model_tensor *t = lt_model_tensor(m, segment, i);
        bytes += t->streamed ? lt_weight_source_bytes(&t->source) : 0;
    }
    return bytes;
}

static size_t largest_layer(const struct lt_model *m)
{
    size_t largest = 0;
    for (int s = 1; s <= m->layers; s++) {
        size_t bytes = segment_bytes(m, s);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

size_t lt_engine_stream_bytes(const struct lt_model *model)
{
    return SLOTS * largest_layer(model);
}

enum lt_status lt_engine_stream_create(struct lt_engine *e, struct lt_error *err)
{
    struct lt_weight_stream *w = e->stream = lt_alloc_zero(1, sizeof *w);
    if (!w)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for streaming weights");
    w->slot_bytes = largest_layer(e->model);
    for (int i = 0; i < SLOTS; i++) {
        w->slots[i].model = e->model;
        w->slots[i].memory = lt_alloc_pages(w->slot_bytes);
        if (!w->slots[i].memory)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory: streaming needs %zu bytes for a layer",
                           w->slot_bytes);
    }
    return lt_worker_create(&w->worker, err);
}

void lt_engine_stream_destroy(struct lt_engine *e)
{
    struct lt_weight_stream *w = e->stream;
    if (!w)
        return;
    lt_worker_destroy(w->worker);
    for (int i = 0; i < SLOTS; i++)
        lt_free_pages(w->slots[i].memory, w->slot_bytes);
    lt_free(w);
    e->stream = NULL;
}

void lt_engine_stream_times(const struct lt_engine *e, struct lt_stream_times *times)
{
    *times = e->stream ? e->stream->times : (struct lt_stream_times){0};
}

/* On the helper thread. */
static enum lt_status read_slot(void *user, struct lt_error *err)
{
    struct slot *s = user;
    double start = lt_clock_seconds();
    unsigned char *at = s->memory;
    for (int i = 0; i < lt_model_segment_tensors(s->model, s->segment); i++) {
        const struct lt_model_tensor *t = lt_model_tensor(s->model, s->segment, i);
        if (!t->streamed)
            continue;
        enum lt_status status = lt_weight_source_read(&t->source, at, err);
        if (status != LT_OK)
            return lt_fail_prefix(err, status, "while streaming the weights of %s", t->name);
        at += lt_weight_source_bytes(&t->source);
    }
    s->seconds = lt_clock_seconds() - start;
    return LT_OK;
}

static struct slot *find_slot(struct lt_weight_stream *w, int segment)
{
    for (int i = 0; i < SLOTS; i++)
        if (w->slots[i].segment == segment)
            return &w->slots[i];
    return NULL;
}

/* Waits for the slot's read, whoever asked for it. */
static enum lt_status wait_for(struct lt_weight_stream *w, struct slot *s, struct lt_error *err)
{
    double start = lt_clock_seconds();
    enum lt_status status = lt_worker_wait(w->worker, &s->job, err);
    if (s->taken)
        return status;
    s->taken = true;
    w->times.waiting += lt_clock_seconds() - start;
    if (status == LT_OK) {
        w->times.reading += s->seconds;
        w->times.bytes += segment_bytes(s->model, s->segment);
    } else {
        s->segment = 0; /* the next try reads again */
    }
    return status;
}

/* Begins to read a segment into a slot that is not `busy`; what a read that nobody waited for ran into is forgotten. */
static struct slot *begin_read(struct lt_weight_stream *w, int segment, const struct slot *busy)
{
    struct slot *s = &w->slots[busy == &w->slots[0]];
    enum lt_status ignored = wait_for(w, s, NULL);
    (void)ignored;
    s->segment = segment;
    s->taken = false;
    s->job.run = read_slot;
    s->job.user = s;
    lt_worker_submit(w->worker, &s->job);
    return s;
}

static enum lt_status bind(struct lt_engine *e, const struct slot *s, struct lt_error *err)
{
    const struct lt_model *m = e->model;
    struct lt_backend *be = lt_engine_place(e, s->segment)->be;
    const unsigned char *at = s->memory;
    for (int i = 0; i < lt_model_segment_tensors(m, s->segment); i++) {
        const struct lt_model_tensor *t = lt_model_tensor(m, s->segment, i);
        if (!t->streamed)
            continue;
        struct lt_weight weight = t->weight;
        lt_weight_source_bind(&weight, &t->source, at);
        LT_TRY(be->ops->weight_rebind(be, e->weights[m->segment_first[s->segment] + i], &weight, err));
        at += lt_weight_source_bytes(&t->source);
    }
    return LT_OK;
}

enum lt_status lt_engine_take_weights(struct lt_engine *e, int segment, int next, struct lt_error *err)
{
    struct lt_weight_stream *w = e->stream;
    if (!w || !is_layer(e->model, segment))
        return LT_OK;
    struct slot *s = find_slot(w, segment);
    if (!s)
        s = begin_read(w, segment, NULL);
    LT_TRY(wait_for(w, s, err));
    LT_TRY(bind(e, s, err));
    if (is_layer(e->model, next) && !find_slot(w, next))
        begin_read(w, next, s);
    return LT_OK;
}
