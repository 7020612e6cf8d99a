#include "core/graph/engine_internal.h"

#include <string.h>

#include "core/base/alloc.h"

static void stage_destroy(struct lt_engine *e, struct lt_stage *s)
{
    if (!s)
        return;
    struct lt_backend *be = e->places[s->place].be;
    be->ops->compiled_destroy(be, s->fwd_code);
    be->ops->compiled_destroy(be, s->bwd_code);
    lt_program_deinit(&s->fwd);
    lt_program_deinit(&s->bwd);
    lt_free(s);
}

static void build_segment(struct lt_build *b)
{
    const struct lt_arch *arch = b->model->arch;
    if (b->segment == 0)
        arch->build_embedding(b);
    else if (b->segment <= b->model->layers)
        arch->build_layer(b);
    else
        arch->build_head(b);
}

static enum lt_build_mode mode_of(enum lt_pass pass)
{
    if (pass == LT_PASS_TRAIN)
        return LT_BUILD_TRAIN;
    return pass == LT_PASS_DECODE || pass == LT_PASS_STEP ? LT_BUILD_DECODE : LT_BUILD_EVAL;
}

/* Adds the backward program and the tape when this segment trains. */
static enum lt_status differentiate(struct lt_engine *e, int segment, struct lt_graph *fwd,
                                    struct lt_graph *bwd, struct lt_stage *s, struct lt_error *err)
{
    if (e->lowest < 0 || segment < e->lowest)
        return LT_OK;
    int n = lt_model_segment_tensors(e->model, segment);
    bool *trainable = lt_alloc_zero((size_t)n + 1, sizeof *trainable);
    if (!trainable)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling segment %d", segment);
    for (int i = 0; i < n; i++) {
        const struct lt_model_tensor *t = lt_model_tensor(e->model, segment, i);
        trainable[i] = t->shared >= 0 ? e->model->tensors[t->shared].trainable : t->trainable;
    }
    struct lt_backward_request req = {.recompute = e->opt.recompute,
                                      .need_din = segment > e->lowest,
                                      .trainable = trainable,
                                      .tensor_count = n};
    enum lt_status status = lt_graph_backward(fwd, bwd, &req, err);
    lt_free(trainable);
    if (status != LT_OK)
        return status;
    s->has_bwd = bwd->node_count > 0;
    return lt_tape_layout(fwd, bwd, &e->opt.capacity, &s->tape_bytes, err);
}

static enum lt_status check_supported(struct lt_backend *be, const struct lt_program *p, struct lt_error *err)
{
    for (size_t i = 0; i < p->graph.node_count; i++)
        if (!be->ops->supports(be, p, &p->graph.nodes[i]))
            return lt_fail(err, LT_ERR_UNSUPPORTED, "the %s backend cannot run op %s of this model", be->name,
                           lt_op_info[p->graph.nodes[i].op].name);
    return LT_OK;
}

static enum lt_status plan_stage(struct lt_engine *e, enum lt_pass pass, int segment, struct lt_stage **out,
                                 struct lt_error *err)
{
    struct lt_stage *s = *out = lt_alloc_zero(1, sizeof *s);
    if (!s)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling segment %d", segment);
    struct lt_graph fwd, bwd;
    lt_graph_init(&fwd);
    lt_graph_init(&bwd);
    struct lt_build b = {.graph = &fwd,
                         .model = e->model,
                         .segment = segment,
                         .mode = mode_of(pass),
                         .logits = pass != LT_PASS_TRAIN && pass != LT_PASS_EVAL,
                         .step = pass == LT_PASS_STEP,
                         .loss_chunk = e->opt.loss_chunk};
    build_segment(&b);
    enum lt_status status = lt_graph_status(&fwd, err);
    if (status == LT_OK && pass == LT_PASS_TRAIN)
        status = differentiate(e, segment, &fwd, &bwd, s, err);
    if (status == LT_OK)
        status = lt_program_plan(&s->fwd, &fwd, &e->opt.capacity, err);
    if (status == LT_OK && s->has_bwd)
        status = lt_program_plan(&s->bwd, &bwd, &e->opt.capacity, err);
    lt_graph_deinit(&fwd);
    lt_graph_deinit(&bwd);
    return status;
}

static struct lt_stage *find_equal(const struct lt_engine *e, const struct lt_stage *s)
{
    for (size_t i = 0; i < e->stage_count; i++) {
        struct lt_stage *o = e->stages[i];
        if (o->place == s->place && o->has_bwd == s->has_bwd && o->tape_bytes == s->tape_bytes &&
            lt_graph_equal(&o->fwd.graph, &s->fwd.graph) &&
            (!s->has_bwd || lt_graph_equal(&o->bwd.graph, &s->bwd.graph)))
            return o;
    }
    return NULL;
}

/* Makes a planned stage that of a segment, or drops it for an equal one compiled before. */
static enum lt_status adopt(struct lt_engine *e, enum lt_pass pass, int segment, struct lt_stage *s,
                            struct lt_error *err)
{
    struct lt_stage *same = find_equal(e, s);
    if (same) {
        stage_destroy(e, s);
        e->of_segment[pass][segment] = same;
        return LT_OK;
    }
    if (!lt_reserve((void **)&e->stages, &e->stage_cap, e->stage_count, sizeof *e->stages)) {
        stage_destroy(e, s);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling segment %d", segment);
    }
    struct lt_backend *be = e->places[s->place].be;
    e->stages[e->stage_count++] = s;
    e->of_segment[pass][segment] = s;
    LT_TRY(be->ops->compile(be, &s->fwd, &s->fwd_code, err));
    return s->has_bwd ? be->ops->compile(be, &s->bwd, &s->bwd_code, err) : LT_OK;
}

/* Can a backend run the programs of all passes? */
static enum lt_status check_stages(struct lt_backend *be, struct lt_stage *const stages[LT_PASS_COUNT],
                                   struct lt_error *err)
{
    for (int pass = 0; pass < LT_PASS_COUNT; pass++) {
        if (!stages[pass])
            continue;
        LT_TRY(check_supported(be, &stages[pass]->fwd, err));
        LT_TRY(check_supported(be, &stages[pass]->bwd, err));
    }
    return LT_OK;
}

/* The device is for the upper segments; what it cannot run is the host's. */
static enum lt_status choose_place(struct lt_engine *e, int segment,
                                   struct lt_stage *const stages[LT_PASS_COUNT], struct lt_error *err)
{
    struct lt_backend *device = e->opt.device;
    bool upper = segment > 0 && segment > e->model->layers - e->opt.device_layers;
    e->place_of[segment] = LT_PLACE_HOST;
    if (!device || !upper || check_stages(device, stages, NULL) != LT_OK)
        return check_stages(e->places[LT_PLACE_HOST].be, stages, err);
    e->place_of[segment] = LT_PLACE_DEVICE;
    e->places[LT_PLACE_DEVICE].be = device;
    return LT_OK;
}

/* All passes of a segment run in the same place. */
static enum lt_status make_segment(struct lt_engine *e, int segment, struct lt_error *err)
{
    struct lt_stage *stages[LT_PASS_COUNT] = {0};
    enum lt_status status = LT_OK;
    for (int pass = 0; pass < LT_PASS_COUNT && status == LT_OK; pass++)
        if (e->of_segment[pass])
            status = plan_stage(e, (enum lt_pass)pass, segment, &stages[pass], err);
    if (status == LT_OK)
        status = choose_place(e, segment, stages, err);
    for (int pass = 0; pass < LT_PASS_COUNT; pass++) {
        if (!stages[pass])
            continue;
        stages[pass]->place = e->place_of[segment];
        if (status == LT_OK)
            status = adopt(e, (enum lt_pass)pass, segment, stages[pass], err);
        else
            stage_destroy(e, stages[pass]);
    }
    return status;
}

enum lt_status lt_engine_compile(struct lt_engine *e, struct lt_error *err)
{
    const bool wanted[LT_PASS_COUNT] = {e->opt.train, e->opt.eval, e->opt.eval && e->opt.logits,
                                        e->opt.decode, e->opt.decode};
    int segments = lt_model_segments(e->model);
    for (int pass = 0; pass < LT_PASS_COUNT; pass++) {
        if (!wanted[pass])
            continue;
        e->of_segment[pass] = lt_alloc_zero((size_t)segments, sizeof *e->of_segment[pass]);
        if (!e->of_segment[pass])
            return lt_fail(err, LT_ERR_NOMEM, "out of memory while compiling the model");
    }
    for (int s = 0; s < segments; s++)
        LT_TRY(make_segment(e, s, err));
    for (size_t i = 0; i < e->stage_count; i++) {
        const struct lt_stage *s = e->stages[i];
        size_t n = s->fwd.graph.value_count > s->bwd.graph.value_count ? s->fwd.graph.value_count
                                                                       : s->bwd.graph.value_count;
        if (n > e->max_externs)
            e->max_externs = n;
    }
    return LT_OK;
}

static void place_destroy(struct lt_place *p)
{
    struct lt_buffer *buffers[] = {p->params, p->grads,     p->vectors, p->tables, p->boundaries, p->tape,
                                   p->arena,  p->workspace, p->inputs,  p->cache,  p->logits};
    for (size_t i = 0; p->be && i < sizeof buffers / sizeof *buffers; i++)
        p->be->ops->buffer_destroy(p->be, buffers[i]);
    lt_free(p->kept);
    lt_free(p->ranges);
}

void lt_engine_destroy(struct lt_engine *e)
{
    if (!e)
        return;
    lt_engine_stream_destroy(e);
    lt_engine_boundary_file_destroy(e); /* before the buffer that it writes from */
    for (int i = 0; i < LT_PLACES; i++)
        place_destroy(&e->places[i]);
    for (int i = 0; e->weights && i < e->model->tensor_count; i++) {
        struct lt_backend *be = lt_engine_place(e, e->model->tensors[i].segment)->be;
        be->ops->weight_destroy(be, e->weights[i]);
    }
    for (size_t i = 0; i < e->stage_count; i++)
        stage_destroy(e, e->stages[i]);
    for (int i = 0; i < LT_PASS_COUNT; i++)
        lt_free(e->of_segment[i]);
    lt_free(e->stages);
    lt_free(e->place_of);
    lt_free(e->tape_offset);
    lt_free(e->cache_index);
    lt_free(e->live);
    lt_free(e->losses.values); /* the buffers are gone: nothing is on its way */
    lt_free(e->losses.labels);
    lt_free(e->weights);
    lt_free(e->vector_offset);
    lt_free(e->bindings);
    lt_free(e);
}
