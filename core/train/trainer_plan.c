/* The memory plan: what engine, optimizer and trainer will hold, line by line, in this process and on a device. */
#include <assert.h>

#include "core/train/trainer_internal.h"

void lt_plan_add(struct lt_plan *plan, const char *name, uint64_t bytes, bool counted)
{
    assert(plan->count < LT_PLAN_MAX);
    plan->lines[plan->count++] = (struct lt_plan_line){.name = name, .bytes = bytes, .counted = counted};
    if (counted)
        plan->peak += bytes;
}

/* What a backend's buffer holds: a line of the device when it has memory of its own, else a counted one. */
static void add_buffer(struct lt_plan *plan, const struct lt_backend *be, const char *name, uint64_t bytes)
{
    lt_plan_add(plan, name, bytes, be->ops->counters == NULL);
    if (be->ops->counters) {
        plan->lines[plan->count - 1].device = true;
        plan->device += bytes;
    }
}

/* Those of the engine's buffers on one backend, and of an optimizer that runs there. */
static void add_lines(struct lt_plan *plan, const struct lt_backend *be, const struct lt_engine_memory *m,
                      const char *params_name, const struct lt_optimizer *o)
{
    const struct lt_plan_line lines[] = {
        /* name, bytes, counted, in a buffer of the backend */
        {params_name, m->params, true, true},
        {"gradients", m->grads, true, true},
        {"optimizer state", o ? lt_optimizer_state_bytes(o) : 0, true, true},
        {"optimizer state in its file", o ? lt_optimizer_paged_bytes(o) : 0, false, false},
        {"optimizer workspace", o ? lt_optimizer_workspace_bytes(o) : 0, true, true},
        {"norm weights and biases", m->vectors, true, true},
        {"rope tables", m->tables, true, true},
        {"streamed weights, two layers", m->stream, true, false},
        {"layer boundaries", m->boundaries, true, true},
        {"layer boundaries in their file", m->boundary_file, false, false},
        {"layer boundaries on the way to it", m->boundary_host, true, false},
        {"kept activations", m->tape, true, true},
        {"step arena", m->arena, true, true},
        {"kernel workspace", m->workspace, true, true},
        {"tokens and losses", m->inputs, true, true},
        {"keys and values", m->cache, true, true},
        {"logits", m->logits, true, true},
        {"backend buffers", be->fixed_bytes, true, true}};

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (lines[i].bytes > 0 && lines[i].device)
            add_buffer(plan, be, lines[i].name, lines[i].bytes);
        else if (lines[i].bytes > 0)
            lt_plan_add(plan, lines[i].name, lines[i].bytes, lines[i].counted);
}

/* A device's lines of the weights on it and of what its memory is more than the sum of the buffers. */
static enum lt_status add_device(struct lt_plan *plan, struct lt_backend *be, const struct lt_engine *engine,
                                 const struct lt_optimizer *optimizer, struct lt_error *err)
{
    struct lt_device_plan p = {0};
    struct lt_device_counters now;
    uint64_t bytes = 0;

    if (!be->ops->memory_for)
        return LT_OK;
    be->ops->counters(be, &now);
    plan->device_available = now.available > 0 ? now.available + now.allocated : 0;
    lt_engine_device_buffers(engine, &p);
    if (optimizer)
        lt_optimizer_device_buffers(optimizer, &p);
    lt_engine_device_streamed(engine, &p);
    add_buffer(plan, be, "weights, on the device", p.weights);
    add_buffer(plan, be, "streamed weights, two layers", p.streamed);
    enum lt_status status = p.failed ? lt_fail(err, LT_ERR_NOMEM, "out of memory while planning the memory")
                                     : be->ops->memory_for(be, p.sizes, p.count, &bytes, err);
    if (status == LT_OK && bytes > plan->device)
        add_buffer(plan, be, "roundings and ends of blocks", bytes - plan->device);
    lt_device_plan_deinit(&p);
    return status;
}

enum lt_status lt_plan_add_engine(struct lt_plan *plan, const struct lt_engine *engine,
                                  const char *params_name, const struct lt_optimizer *optimizer,
                                  struct lt_error *err)
{
    struct lt_backend *host = lt_engine_backend(engine), *device = lt_engine_device(engine);

    plan->placement = lt_engine_placement(engine);
    add_lines(plan, host, lt_engine_memory(engine), params_name, optimizer);
    if (!device)
        return add_device(plan, host, engine, optimizer, err);
    add_lines(plan, device, lt_engine_device_memory(engine), params_name, NULL);
    return add_device(plan, device, engine, NULL, err);
}

/* Memory of struct lt_batch, of a step's losses and of the evaluation's results. */
static uint64_t batch_bytes(const struct lt_trainer *t)
{
    const struct lt_capacity *cap = &t->engine_options.capacity;
    uint64_t token = 5 * sizeof(int32_t) + sizeof(int64_t), label = 2 * sizeof(int32_t);

    if (t->eval)
        label += sizeof(float) + sizeof(int32_t);
    label += (uint64_t)t->config.accumulation * sizeof(float);
    return (uint64_t)cap->tokens * token + (uint64_t)cap->labels * label;
}

enum lt_status lt_trainer_plan(const struct lt_trainer *t, struct lt_plan *plan, struct lt_error *err)
{
    LT_TRY(lt_plan_add_engine(plan, t->engine, t->config.lora ? "adapter parameters" : "parameters",
                              t->optimizer, err));
    lt_plan_add(plan, "micro-batch", batch_bytes(t), true);
    return LT_OK;
}
