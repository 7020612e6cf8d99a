#include "core/graph/engine_internal.h"

#include "core/base/checked.h"

/* The hidden states between segments, of all micro-batches of a group of n.
 *
 * A pool of n + 1 slots holds what is needed once.  A micro-batch's output goes where the input of the one before it
 * was, so that every place is free when it is written; the first one takes the slot left over.  In the backward pass
 * the gradients go on moving through the same slots.
 *
 * Behind the pool are the inputs of the segments that run backward: n slots a segment.  When they are kept in a file,
 * the forward pass uses the pool alone, and two slots take what is read back.
 *
 * Two places have a pool each, in which a slot means the same: what one segment leaves is copied to where the next one
 * looks for it. */

size_t lt_engine_boundary_bytes(const struct lt_engine *e)
{
    return lt_align_up((size_t)e->opt.capacity.tokens * (size_t)e->model->hidden * sizeof(float),
                       LT_VALUE_ALIGN);
}

size_t lt_engine_live_bytes(const struct lt_engine *e, int32_t micro_batch)
{
    return (size_t)e->live[micro_batch].tokens * (size_t)e->model->hidden * sizeof(float);
}

/* depth: how many segments the micro-batch has gone through, backward ones too. */
static size_t pool_slot(const struct lt_engine *e, int depth, int32_t micro_batch)
{
    int64_t slots = e->group + 1, slot = ((int64_t)micro_batch - depth) % slots;
    return (size_t)(slot < 0 ? slot + slots : slot);
}

static bool backward_reads_output(const struct lt_program *p)
{
    for (size_t i = 0; i < p->graph.node_count; i++)
        for (int k = 0; k < LT_MAX_IN; k++) {
            int n = p->graph.nodes[i].in[k];
            const struct lt_value *v = n >= 0 ? &p->graph.values[n] : NULL;
            if (v && v->storage == LT_STORE_EXTERN && v->ext_kind == LT_EXT_HIDDEN &&
                v->ext_index == LT_HIDDEN_OUT)
                return true;
        }
    return false;
}

/* Behind the pool of a place are the inputs of its segments, and what else their backward programs read. */
static bool is_kept(const struct lt_engine *e, enum lt_place_id place, int segment)
{
    return segment >= e->first_kept && (e->place_of[segment + 1] == place ||
                                        (e->place_of[segment] == place &&
                                         backward_reads_output(&e->of_segment[LT_PASS_TRAIN][segment]->bwd)));
}

static void plan_place(struct lt_engine *e, enum lt_place_id place)
{
    struct lt_place *p = &e->places[place];
    int count = 0;
    for (int s = 0; s <= e->model->layers; s++)
        p->kept[s] = is_kept(e, place, s) ? count++ : -1;
    p->memory.boundaries = ((size_t)e->group + 1 + (size_t)count * (size_t)e->group) *
                           lt_engine_boundary_bytes(e);
}

enum lt_status lt_engine_plan_boundaries(struct lt_engine *e, struct lt_error *err)
{
    bool training = e->opt.train && e->lowest >= 0;
    int layers = e->model->layers;
    size_t bytes = lt_engine_boundary_bytes(e);
    struct lt_engine_memory *m = &e->places[LT_PLACE_HOST].memory;
    e->first_kept = !training ? layers + 1 : e->lowest > 0 ? e->lowest - 1 : 0;
    if (!training || e->first_kept >= layers)
        e->opt.boundary_dir = NULL; /* nothing is read back */
    if (!e->opt.boundary_dir) {
        for (int i = 0; i < LT_PLACES; i++)
            if (e->places[i].be)
                plan_place(e, (enum lt_place_id)i);
        return LT_OK;
    }
    if (e->places[LT_PLACE_DEVICE].be)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "with a part of the model on the %s backend boundaries cannot be kept in a file",
                       e->places[LT_PLACE_DEVICE].be->name);
    for (int s = 0; s <= layers; s++)
        if (backward_reads_output(&e->of_segment[LT_PASS_TRAIN][s]->bwd))
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "the layers of this model need their outputs in the backward pass: boundaries "
                           "cannot be kept in a file");
    m->boundaries = ((size_t)e->group + 1 + 2) * bytes;
    m->boundary_host = e->places[LT_PLACE_HOST].be->ops->counters ? m->boundaries : 0;
    m->boundary_file = (size_t)(layers - e->first_kept) * (size_t)e->group * bytes;
    return LT_OK;
}

size_t lt_engine_hidden_offset(const struct lt_engine *e, enum lt_place_id place, enum lt_pass pass,
                               int segment, int32_t micro_batch)
{
    size_t slot = pool_slot(e, segment, micro_batch);
    int kept = e->opt.boundary_dir ? -1 : e->places[place].kept[segment];
    if (pass == LT_PASS_TRAIN && kept >= 0)
        slot = (size_t)e->group + 1 + (size_t)kept * (size_t)e->group + (size_t)micro_batch;
    return slot * lt_engine_boundary_bytes(e);
}

size_t lt_engine_dhidden_offset(const struct lt_engine *e, int segment, int32_t micro_batch)
{
    return pool_slot(e, 2 * e->model->layers + 1 - segment, micro_batch) * lt_engine_boundary_bytes(e);
}
