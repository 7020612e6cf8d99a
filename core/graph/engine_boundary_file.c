/* Kept boundaries in a file: a helper thread writes them behind the forward pass and reads them ahead of the backward
 * pass.  It takes its jobs in order, so that nothing is read before it was written.  From a device whose memory the
 * process cannot address they go through memory of the process that is laid out as the boundary buffer. */
#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/worker.h"
#include "core/graph/engine_internal.h"

/* One way between memory and file. */
struct transfer {
    struct lt_boundary_file *owner;
    struct lt_job job;
    unsigned char *memory;
    size_t offset, bytes; /* in the file */
    bool write;
};

enum { READERS = 2 };

struct lt_boundary_file {
    struct lt_worker *worker;
    struct lt_file_scratch file;
    unsigned char *memory;   /* of the boundary buffer, or as it */
    size_t staging;          /* bytes of memory that is not the buffer's own; 0: it is */
    struct transfer *writes; /* [slots of the pool] */
    struct transfer reads[READERS];
    int32_t live;     /* micro-batches of the pass */
    int64_t next_get; /* visits of the backward pass so far */
};

static enum lt_status run_transfer(void *user, struct lt_error *err)
{
    struct transfer *t = user;
    return t->write ? lt_file_scratch_write(&t->owner->file, t->memory, t->bytes, t->offset, err)
                    : lt_file_scratch_read(&t->owner->file, t->memory, t->bytes, t->offset, err);
}

static size_t pool_slots(const struct lt_engine *e)
{
    return (size_t)e->group + 1;
}

enum lt_status lt_engine_boundary_file_create(struct lt_engine *e, struct lt_error *err)
{
    if (!e->opt.boundary_dir)
        return LT_OK;
    struct lt_boundary_file *b = e->boundary_file = lt_alloc_zero(1, sizeof *b);
    if (b)
        b->writes = lt_alloc_zero(pool_slots(e), sizeof *b->writes);
    if (!b || !b->writes)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for layer boundaries in a file");
    const struct lt_place *p = &e->places[LT_PLACE_HOST];
    b->staging = p->memory.boundary_host;
    b->memory = b->staging > 0 ? lt_alloc_pages(b->staging) : p->be->ops->buffer_host(p->be, p->boundaries);
    if (!b->memory)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for layer boundaries in a file");
    LT_TRY(lt_file_scratch_open_unmapped(&b->file, e->opt.boundary_dir, p->memory.boundary_file, err));
    return lt_worker_create(&b->worker, err);
}

void lt_engine_boundary_file_destroy(struct lt_engine *e)
{
    struct lt_boundary_file *b = e->boundary_file;
    if (!b)
        return;
    lt_worker_destroy(b->worker);
    lt_file_scratch_close(&b->file);
    if (b->staging > 0)
        lt_free_pages(b->memory, b->staging);
    lt_free(b->writes);
    lt_free(b);
    e->boundary_file = NULL;
}

/* The transfer's last job was waited for. */
static void begin(struct lt_engine *e, struct transfer *t, bool write, size_t memory, int segment,
                  int32_t micro_batch)
{
    struct lt_boundary_file *b = e->boundary_file;
    size_t place = (size_t)(segment - e->first_kept) * (size_t)e->group + (size_t)micro_batch;
    t->owner = b;
    t->write = write;
    t->memory = b->memory + memory;
    t->offset = place * lt_engine_boundary_bytes(e);
    t->bytes = lt_engine_live_bytes(e, micro_batch);
    t->job.run = run_transfer;
    t->job.user = t;
    lt_worker_submit(b->worker, &t->job);
}

enum lt_status lt_engine_boundary_settle(struct lt_engine *e, size_t offset, struct lt_error *err)
{
    struct lt_boundary_file *b = e->boundary_file;
    return b ? lt_worker_wait(b->worker, &b->writes[offset / lt_engine_boundary_bytes(e)].job, err) : LT_OK;
}

enum lt_status lt_engine_boundary_put(struct lt_engine *e, int segment, int32_t micro_batch,
                                      struct lt_error *err)
{
    struct lt_boundary_file *b = e->boundary_file;
    const struct lt_place *p = &e->places[LT_PLACE_HOST];
    if (!b || segment < e->first_kept || segment >= e->model->layers)
        return LT_OK;
    size_t memory = lt_engine_hidden_offset(e, LT_PLACE_HOST, LT_PASS_TRAIN, segment, micro_batch);
    if (b->staging > 0)
        LT_TRY(p->be->ops->buffer_read(p->be, p->boundaries, memory, b->memory + memory,
                                       lt_engine_live_bytes(e, micro_batch), err));
    begin(e, &b->writes[memory / lt_engine_boundary_bytes(e)], true, memory, segment, micro_batch);
    return LT_OK;
}

static size_t reader_offset(const struct lt_engine *e, int64_t visit)
{
    return (pool_slots(e) + (size_t)(visit % READERS)) * lt_engine_boundary_bytes(e);
}

/* The backward pass visits the inputs of the layers from the top, all micro-batches of each. */
static void begin_read(struct lt_engine *e, int64_t visit)
{
    struct lt_boundary_file *b = e->boundary_file;
    int segment = e->model->layers - 1 - (int)(visit / b->live);
    if (segment >= e->first_kept)
        begin(e, &b->reads[visit % READERS], false, reader_offset(e, visit), segment,
              (int32_t)(visit % b->live));
}

enum lt_status lt_engine_boundary_turn(struct lt_engine *e, int32_t n, struct lt_error *err)
{
    struct lt_boundary_file *b = e->boundary_file;
    if (!b)
        return LT_OK;
    for (size_t i = 0; i < pool_slots(e); i++)
        LT_TRY(lt_worker_wait(b->worker, &b->writes[i].job, err));
    for (int i = 0; i < READERS; i++) { /* of a pass that was broken off */
        enum lt_status old = lt_worker_wait(b->worker, &b->reads[i].job, NULL);
        (void)old;
    }
    b->live = n;
    b->next_get = 0;
    begin_read(e, 0);
    return LT_OK;
}

enum lt_status lt_engine_boundary_get(struct lt_engine *e, int segment, int32_t micro_batch, size_t *offset,
                                      struct lt_error *err)
{
    struct lt_boundary_file *b = e->boundary_file;
    if (!b) {
        *offset = lt_engine_hidden_offset(e, e->place_of[segment + 1], LT_PASS_TRAIN, segment, micro_batch);
        return LT_OK;
    }
    int64_t visit = b->next_get++;
    *offset = reader_offset(e, visit);
    LT_TRY(lt_worker_wait(b->worker, &b->reads[visit % READERS].job, err));
    begin_read(e, visit + 1);
    const struct lt_place *p = &e->places[LT_PLACE_HOST];
    return b->staging > 0 ? p->be->ops->buffer_write(p->be, p->boundaries, *offset, b->memory + *offset,
                                                     lt_engine_live_bytes(e, micro_batch), err)
                          : LT_OK;
}
