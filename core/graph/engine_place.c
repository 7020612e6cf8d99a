/* An engine with a device beside its host: what goes from one to the other.  Hidden states and gradients cross where two
 * neighbouring segments run in different places; the device has copies of the parameters that its segments read, and
 * its gradients are brought to those of record. */
#include "core/graph/engine_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum { PARAM_ALIGN = 16 }; /* elements; tensors in the flat buffers are so far apart at most */

int lt_engine_weight_of(const struct lt_engine *e, int tensor)
{
    const struct lt_model_tensor *t = &e->model->tensors[tensor];
    bool own = t->shared < 0 || e->place_of[t->segment] != e->place_of[e->model->tensors[t->shared].segment];
    return own ? tensor : t->shared;
}

struct lt_backend *lt_engine_backend(const struct lt_engine *e)
{
    return e->places[LT_PLACE_HOST].be;
}

struct lt_backend *lt_engine_device(const struct lt_engine *e)
{
    return e->places[LT_PLACE_DEVICE].be;
}

struct lt_engine_placement lt_engine_placement(const struct lt_engine *e)
{
    struct lt_engine_placement p = {0};
    int layers = e->model->layers;
    const struct lt_engine_memory *m = lt_engine_device_memory(e);
    if (!m)
        return p;
    for (int s = 1; s <= layers; s++)
        p.layers += e->place_of[s] == LT_PLACE_DEVICE;
    p.head = e->place_of[layers + 1] == LT_PLACE_DEVICE;
    for (int s = 0; s <= layers; s++)
        if (e->place_of[s] != e->place_of[s + 1])
            p.copies += 1 + (e->opt.train && e->lowest >= 0 && s >= e->lowest);
    p.copy_bytes = (size_t)p.copies * (size_t)e->opt.capacity.tokens * (size_t)e->model->hidden *
                   sizeof(float);
    p.step_bytes = e->opt.train ? m->params + m->grads : 0;
    return p;
}

/* ---- parameters and gradients ---- */

static enum lt_status add_range(struct lt_place *p, size_t first, size_t count, struct lt_error *err)
{
    if (count == 0)
        return LT_OK;
    if (!lt_reserve((void **)&p->ranges, &p->range_cap, p->range_count, sizeof *p->ranges))
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while placing the parameters");
    p->ranges[p->range_count++] = (struct lt_param_range){.first = first, .count = count};
    return LT_OK;
}

static enum lt_status add_tensor(struct lt_place *p, const struct lt_model_tensor *t, struct lt_error *err)
{
    size_t rank = (size_t)t->lora.rank;
    if (t->trainable)
        LT_TRY(add_range(p, t->param_offset, (size_t)t->rows * (size_t)t->cols, err));
    LT_TRY(add_range(p, t->lora.a_offset, rank * (size_t)t->cols, err));
    return add_range(p, t->lora.b_offset, rank * (size_t)t->rows, err);
}

static int by_first(const void *a, const void *b)
{
    const struct lt_param_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Sorted; neighbours, with the zeros between them, become one. */
static void lay_out_ranges(struct lt_place *p)
{
    size_t n = 0, end = 0;
    if (p->range_count > 0)
        qsort(p->ranges, p->range_count, sizeof *p->ranges, by_first);
    for (size_t i = 0; i < p->range_count; i++) {
        struct lt_param_range *last = n > 0 ? &p->ranges[n - 1] : NULL, next = p->ranges[i];
        if (last && next.first - (last->first + last->count) < PARAM_ALIGN) {
            last->count = next.first + next.count - last->first;
        } else {
            next.at = lt_align_up(end, PARAM_ALIGN);
            last = &p->ranges[n++];
            *last = next;
        }
        end = last->at + last->count;
    }
    p->range_count = n;
    p->memory.params = end * sizeof(float);
}

enum lt_status lt_engine_place_params(struct lt_engine *e, struct lt_error *err)
{
    const struct lt_model *m = e->model;
    struct lt_place *device = &e->places[LT_PLACE_DEVICE];
    if (!device->be)
        return LT_OK;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->shared >= 0 && m->tensors[t->shared].trainable && lt_engine_weight_of(e, i) == i)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s is trained and %s shares its values: both must be in one place, not on the %s "
                           "and the %s backend",
                           m->tensors[t->shared].name, t->name, e->places[LT_PLACE_HOST].be->name,
                           device->be->name);
        if (e->place_of[t->segment] == LT_PLACE_DEVICE)
            LT_TRY(add_tensor(device, t, err));
    }
    lay_out_ranges(device);
    return LT_OK;
}

size_t lt_engine_param_at(const struct lt_place *p, size_t element)
{
    for (size_t i = p->range_count; i-- > 0;)
        if (element >= p->ranges[i].first)
            return p->ranges[i].at + (element - p->ranges[i].first);
    return element;
}

static float *host_memory(struct lt_engine *e, struct lt_buffer *b)
{
    struct lt_backend *be = e->places[LT_PLACE_HOST].be;
    return be->ops->buffer_host(be, b);
}

void lt_engine_params_changed(struct lt_engine *e)
{
    e->params_changed = true;
}

enum lt_status lt_engine_send_params(struct lt_engine *e, struct lt_error *err)
{
    struct lt_place *device = &e->places[LT_PLACE_DEVICE];
    if (!e->params_changed)
        return LT_OK;
    for (size_t i = 0; i < device->range_count; i++) {
        const struct lt_param_range *r = &device->ranges[i];
        LT_TRY(device->be->ops->buffer_write(device->be, device->params, r->at * sizeof(float),
                                             host_memory(e, e->places[LT_PLACE_HOST].params) + r->first,
                                             r->count * sizeof(float), err));
    }
    e->params_changed = false;
    return LT_OK;
}

/* The device adds up its own gradients until they are set to zero: what it has replaces what came before. */
enum lt_status lt_engine_collect_grads(struct lt_engine *e, struct lt_error *err)
{
    struct lt_place *device = &e->places[LT_PLACE_DEVICE];
    if (!device->grads)
        return LT_OK;
    for (size_t i = 0; i < device->range_count; i++) {
        const struct lt_param_range *r = &device->ranges[i];
        LT_TRY(device->be->ops->buffer_read_later(device->be, device->grads, r->at * sizeof(float),
                                                  host_memory(e, e->places[LT_PLACE_HOST].grads) + r->first,
                                                  r->count * sizeof(float), err));
    }
    return device->be->ops->finish(device->be, err);
}

/* ---- hidden states ---- */

enum lt_status lt_engine_cross(struct lt_engine *e, int from, size_t from_offset, int to, size_t to_offset,
                               int32_t micro_batch, struct lt_error *err)
{
    struct lt_place *device = &e->places[LT_PLACE_DEVICE];
    size_t bytes = lt_engine_live_bytes(e, micro_batch);
    if (e->place_of[from] == e->place_of[to] || bytes == 0)
        return LT_OK;
    unsigned char *host = (unsigned char *)host_memory(e, e->places[LT_PLACE_HOST].boundaries);
    if (e->place_of[to] == LT_PLACE_DEVICE)
        return device->be->ops->buffer_write(device->be, device->boundaries, to_offset, host + from_offset,
                                             bytes, err);
    return device->be->ops->buffer_read(device->be, device->boundaries, from_offset, host + to_offset, bytes,
                                        err);
}
