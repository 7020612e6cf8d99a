/* Weights on the device: what struct lt_weight points to, copied into two buffers. */
#include "backends/vulkan/vk_internal.h"

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum { CODES = 16, NESTED_CODES = 256, NESTED_BLOCK = 256 }; /* words, words, scales */

/* Where nothing submitted can still read the buffer, it is filled beside the computation. */
static enum lt_status write(struct lt_vk *vk, const struct lt_device_weight *w, struct lt_buffer *b,
                            size_t offset, const void *src, size_t bytes, struct lt_error *err)
{
    return w->in_use ? lt_vk_queue_write(&vk->queue, b, offset, src, bytes, err)
                     : lt_vk_upload_write(&vk->queue.upload, b, offset, src, bytes, err);
}

static enum lt_status put(struct lt_vk *vk, const struct lt_device_weight *w, uint32_t word, const void *src,
                          size_t bytes, struct lt_error *err)
{
    return write(vk, w, w->meta.buffer, (size_t)word * 4, src, bytes, err);
}

static size_t scale_count(const struct lt_device_weight *d)
{
    return (size_t)(d->format == LT_WEIGHT_INT8 ? d->rows : lt_div_up(d->rows * d->cols, d->blocksize));
}

/* Where the parts lie, from format and shape alone. */
static void lay_out(struct lt_device_weight *d)
{
    d->data.size = lt_weight_data_bytes(d->format, d->rows, d->cols);
    if (d->format < LT_WEIGHT_NF4)
        return;
    bool int8 = d->format == LT_WEIGHT_INT8;
    size_t scales = scale_count(d), nested = (size_t)lt_div_up((int64_t)scales, NESTED_BLOCK);
    d->nested_absmax_at = CODES + NESTED_CODES + 1;
    d->absmax_at = int8 ? 0 : d->nested ? d->nested_absmax_at + (uint32_t)nested : CODES;
    d->meta.size = (size_t)d->absmax_at * 4 + (d->nested ? lt_align_up(scales, 4) : scales * 4);
}

static enum lt_status upload_scales(struct lt_vk *vk, const struct lt_device_weight *d,
                                    const struct lt_weight *w, struct lt_error *err)
{
    size_t scales = scale_count(d), nested = (size_t)lt_div_up((int64_t)scales, NESTED_BLOCK);
    if (w->format != LT_WEIGHT_INT8)
        LT_TRY(put(vk, d, 0, w->code, CODES * sizeof *w->code, err));
    if (d->nested) {
        LT_TRY(put(vk, d, CODES, w->nested_code, NESTED_CODES * sizeof *w->nested_code, err));
        LT_TRY(put(vk, d, CODES + NESTED_CODES, &w->nested_offset, sizeof w->nested_offset, err));
        LT_TRY(put(vk, d, d->nested_absmax_at, w->nested_absmax, nested * sizeof *w->nested_absmax, err));
        return put(vk, d, d->absmax_at, w->absmax_codes, scales, err);
    }
    return put(vk, d, d->absmax_at, w->absmax, scales * sizeof *w->absmax, err);
}

static enum lt_status upload(struct lt_vk *vk, const struct lt_device_weight *d, const struct lt_weight *w,
                             struct lt_error *err)
{
    LT_TRY(write(vk, d, d->data.buffer, 0, w->data, d->data.size, err));
    return d->meta.size > 0 ? upload_scales(vk, d, w, err) : LT_OK;
}

static enum lt_status allocate(struct lt_vk *vk, const struct lt_device_weight *d, struct lt_buffer **data,
                               struct lt_buffer **meta, struct lt_error *err)
{
    LT_TRY(lt_vk_buffer_create(&vk->memory, d->data.size, data, err));
    return d->meta.size > 0 ? lt_vk_buffer_create(&vk->memory, d->meta.size, meta, err) : LT_OK;
}

static struct lt_device_weight *new_weight(const struct lt_weight *w)
{
    struct lt_device_weight *d = lt_alloc_zero(1, sizeof *d);
    if (d)
        *d = (struct lt_device_weight){.format = w->format,
                                       .transposed = w->transposed,
                                       .nested = w->absmax_codes != NULL,
                                       .rows = w->rows,
                                       .cols = w->cols,
                                       .blocksize = w->blocksize};
    return d;
}

void lt_vk_weight_sizes(struct lt_backend *be, const struct lt_weight *shape, bool nested, size_t sizes[2])
{
    struct lt_device_weight d = {.format = shape->format,
                                 .nested = nested,
                                 .rows = shape->rows,
                                 .cols = shape->cols,
                                 .blocksize = shape->blocksize};
    (void)be;
    lay_out(&d);
    sizes[0] = d.data.size;
    sizes[1] = d.meta.size;
}

enum lt_status lt_vk_weight_create(struct lt_backend *be, const struct lt_weight *w,
                                   struct lt_device_weight **out, struct lt_error *err)
{
    *out = NULL;
    struct lt_device_weight *d = new_weight(w);
    if (!d)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding a weight");
    struct lt_vk *vk = lt_vk_of(be);
    d->streamed = w->data == NULL;
    if (!d->streamed)
        lay_out(d);
    enum lt_status status = d->streamed ? LT_OK : allocate(vk, d, &d->data.buffer, &d->meta.buffer, err);
    if (status == LT_OK && !d->streamed)
        status = upload(vk, d, w, err);
    if (status != LT_OK) {
        lt_vk_weight_destroy(be, d);
        return status;
    }
    d->in_use = !d->streamed;
    *out = d;
    return LT_OK;
}

enum lt_status lt_vk_weight_view(struct lt_backend *be, const struct lt_weight *shape, struct lt_buffer *buf,
                                 size_t offset, struct lt_device_weight **out, struct lt_error *err)
{
    (void)be;
    *out = NULL;
    size_t bytes = (size_t)(shape->rows * shape->cols) * sizeof(float);
    if (offset > buf->size || bytes > buf->size - offset)
        return lt_fail(err, LT_ERR_INVALID, "bytes %zu to %zu are outside a buffer of %zu", offset,
                       offset + bytes, buf->size);
    struct lt_device_weight *d = new_weight(shape);
    if (!d)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding a weight");
    d->view = true;
    d->data = (struct lt_vk_ref){buf, offset, bytes};
    *out = d;
    return LT_OK;
}

/* ---- streamed weights ---- */

static struct lt_vk_weight_slot *slot_of(struct lt_vk *vk, const struct lt_device_weight *d)
{
    for (size_t i = 0; i < vk->slot_count; i++)
        if (vk->slots[i].holder == d)
            return &vk->slots[i];
    return NULL;
}

/* A program that ran since the last binding begins another turn; what was asked for up to now is submitted. */
static enum lt_status begin_turn(struct lt_vk *vk, struct lt_error *err)
{
    uint64_t number;
    if (vk->turn > 0 && vk->runs == vk->turn_runs)
        return LT_OK;
    LT_TRY(lt_vk_queue_submit(&vk->queue, &number, err));
    vk->turn++;
    vk->turn_runs = vk->runs;
    vk->before[1] = vk->before[0];
    vk->before[0] = number;
    return LT_OK;
}

/* The slot of that size that was bound first, of those that neither this turn nor the last one uses. */
static struct lt_vk_weight_slot *idle_slot(struct lt_vk *vk, const struct lt_device_weight *d)
{
    struct lt_vk_weight_slot *found = NULL;
    for (size_t i = 0; i < vk->slot_count; i++) {
        struct lt_vk_weight_slot *s = &vk->slots[i];
        bool fits = s->data->size == d->data.size && (s->meta ? s->meta->size : 0) == d->meta.size;
        if (fits && s->turn + 1 < vk->turn && (!found || s->order < found->order))
            found = s;
    }
    return found;
}

static void leave(struct lt_vk_weight_slot *s)
{
    if (s->holder)
        s->holder->data.buffer = s->holder->meta.buffer = NULL;
    s->holder = NULL;
}

static enum lt_status take_slot(struct lt_vk *vk, struct lt_device_weight *d, struct lt_error *err)
{
    struct lt_vk_weight_slot *s = idle_slot(vk, d);
    if (s) {
        LT_TRY(lt_vk_queue_wait_for(&vk->queue, vk->before[1], err)); /* nothing reads it any more */
    } else {
        if (!lt_reserve((void **)&vk->slots, &vk->slot_cap, vk->slot_count, sizeof *vk->slots))
            return lt_fail(err, LT_ERR_NOMEM, "out of memory while streaming a weight");
        s = &vk->slots[vk->slot_count];
        *s = (struct lt_vk_weight_slot){0};
        enum lt_status status = allocate(vk, d, &s->data, &s->meta, err);
        if (status != LT_OK) {
            lt_vk_buffer_destroy(&vk->memory, s->data);
            return status;
        }
        vk->slot_count++;
    }
    leave(s);
    s->holder = d;
    s->turn = vk->turn;
    s->order = ++vk->binds;
    d->data.buffer = s->data;
    d->meta.buffer = s->meta;
    return LT_OK;
}

enum lt_status lt_vk_weight_rebind(struct lt_backend *be, struct lt_device_weight *d,
                                   const struct lt_weight *w, struct lt_error *err)
{
    struct lt_vk *vk = lt_vk_of(be);
    if (!d->streamed)
        return upload(vk, d, w, err);
    LT_TRY(begin_turn(vk, err));
    struct lt_vk_weight_slot *held = slot_of(vk, d);
    if (held) {
        held->turn = vk->turn;
        held->order = ++vk->binds;
        return LT_OK;
    }
    d->nested = w->absmax_codes != NULL; /* what was made without pointers did not know all */
    d->blocksize = w->blocksize;
    lay_out(d);
    LT_TRY(take_slot(vk, d, err));
    enum lt_status status = upload(vk, d, w, err);
    if (status != LT_OK)
        leave(slot_of(vk, d));
    return status;
}

void lt_vk_weight_slots_destroy(struct lt_vk *vk)
{
    for (size_t i = 0; i < vk->slot_count; i++) {
        leave(&vk->slots[i]);
        lt_vk_buffer_destroy(&vk->memory, vk->slots[i].data);
        lt_vk_buffer_destroy(&vk->memory, vk->slots[i].meta);
    }
    lt_free(vk->slots);
    vk->slots = NULL;
    vk->slot_count = vk->slot_cap = 0;
}

void lt_vk_weight_destroy(struct lt_backend *be, struct lt_device_weight *d)
{
    struct lt_vk *vk = lt_vk_of(be);
    if (!d)
        return;
    (void)!lt_vk_queue_wait(&vk->queue, NULL); /* nothing that reads it runs any more */
    if (d->streamed) {
        struct lt_vk_weight_slot *s = slot_of(vk, d);
        if (s)
            leave(s);
    } else if (!d->view) {
        lt_vk_buffer_destroy(&vk->memory, d->data.buffer);
        lt_vk_buffer_destroy(&vk->memory, d->meta.buffer);
    }
    lt_free(d);
}
