#include "core/graph/engine_internal.h"

#include "core/base/checked.h"

/* The hidden states between segments, of all micro-batches of a group of n.
 *
 * A pool of n + 1 slots holds what is needed once.  A micro-batch's output goes where the input of the one before it
 * was, so that every place is free when it is written; the first one takes the slot left over.  In the backward pass
 * the gradients go on moving through the same slots.
 *
 * Behind the pool are the inputs of the segments that run backward: n slots a segment.  When they are kept in a file,
 * the forward pass uses the pool alone, and two slots take what is read back. */

size_t lt_engine_boundary_bytes(const struct lt_engine *e)
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

enum lt_status lt_engine_plan_boundaries(struct lt_engine *e, struct lt_error *err)
{
    bool training = e->opt.train && e->lowest >= 0;
    int layers = e->model->layers;
    size_t bytes = lt_engine_boundary_bytes(e), pool = (size_t)e->group + 1;
    e->first_kept = !training ? layers + 1 : e->lowest > 0 ? e->lowest - 1 : 0;
    if (!training || e->first_kept >= layers)
        e->opt.boundary_dir = NULL; /* nothing is read back */
    if (!e->opt.boundary_dir) {
        e->memory.boundaries = (pool + (size_t)(layers + 1 - e->first_kept) * (size_t)e->group) * bytes;
        return LT_OK;
    }
    for (int s = 0; s <= layers; s++)
        if (backward_reads_output(&e->of_segment[LT_PASS_TRAIN][s]->bwd))
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "the layers of this model need their outputs in the backward pass: boundaries "
                           "cannot be kept in a file");
    e->memory.boundaries = (pool + 2) * bytes;
    e->memory.boundary_file = (size_t)(layers - e->first_kept) * (size_t)e->group * bytes;
    return LT_OK;
}

size_t lt_engine_hidden_offset(const struct lt_engine *e, enum lt_pass pass, int segment, int32_t micro_batch)
{
    size_t slot = pool_slot(e, segment, micro_batch);
    if (pass == LT_PASS_TRAIN && segment >= e->first_kept && !e->opt.boundary_dir)
        slot = (size_t)e->group + 1 + (size_t)(segment - e->first_kept) * (size_t)e->group +
               (size_t)micro_batch;
    return slot * lt_engine_boundary_bytes(e);
}

size_t lt_engine_dhidden_offset(const struct lt_engine *e, int segment, int32_t micro_batch)
{
    return pool_slot(e, 2 * e->model->layers + 1 - segment, micro_batch) * lt_engine_boundary_bytes(e);
}
