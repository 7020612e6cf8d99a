#include "core/graph/engine_internal.h"

#include "core/base/checked.h"

/* The hidden states between segments, of all micro-batches of a group of n.
 *
 * A pool of n + 1 slots holds what is needed once.  A micro-batch's output goes where the input of the one before it
 * was, so that every place is free when it is written; the first one takes the slot left over.  In the backward pass
 * the gradients go on moving through the same slots.
 *
 * Behind the pool are the inputs of the segments that run backward: n slots a segment. */

static size_t boundary_bytes(const struct lt_engine *e)
{
    return lt_align_up((size_t)e->opt.capacity.tokens * (size_t)e->model->hidden * sizeof(float),
                       LT_VALUE_ALIGN);
}

/* depth: how many segments the micro-batch has gone through, backward ones too. */
static size_t pool_slot(const struct lt_engine *e, int depth, int32_t micro_batch)
{
    int64_t slots = e->group + 1, slot = ((int64_t)micro_batch - depth) % slots;
    return (size_t)(slot < 0 ? slot + slots : slot);
}

void lt_engine_plan_boundaries(struct lt_engine *e)
{
    bool training = e->opt.train && e->lowest >= 0;
    int layers = e->model->layers;
    e->first_kept = !training ? layers + 1 : e->lowest > 0 ? e->lowest - 1 : 0;
    size_t kept = (size_t)(layers + 1 - e->first_kept) * (size_t)e->group;
    e->memory.boundaries = ((size_t)e->group + 1 + kept) * boundary_bytes(e);
}

size_t lt_engine_hidden_offset(const struct lt_engine *e, enum lt_pass pass, int segment, int32_t micro_batch)
{
    size_t slot = pool_slot(e, segment, micro_batch);
    if (pass == LT_PASS_TRAIN && segment >= e->first_kept)
        slot = (size_t)e->group + 1 + (size_t)(segment - e->first_kept) * (size_t)e->group +
               (size_t)micro_batch;
    return slot * boundary_bytes(e);
}

size_t lt_engine_dhidden_offset(const struct lt_engine *e, int segment, int32_t micro_batch)
{
    return pool_slot(e, 2 * e->model->layers + 1 - segment, micro_batch) * boundary_bytes(e);
}
