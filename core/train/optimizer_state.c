/* Kinds of optimizers and where their state lies. */
#include "core/train/optimizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum {
    MIN_8BIT_SIZE = 4096,
    TENSOR_ALIGN = 16 /* elements: the flat buffers' own alignment, so that f32 state has the same gaps */
};

/* ---- kinds ---- */

static const struct {
    const char *name;
    int moments;
} kinds[LT_OPTIMIZER_COUNT] = {
    [LT_OPTIMIZER_ADAMW] = {"adamw_torch", 2},
    [LT_OPTIMIZER_ADAMW_8BIT] = {"adamw_8bit", 2},
    [LT_OPTIMIZER_SGD] = {"sgd", 0},
    [LT_OPTIMIZER_LION] = {"lion_32bit", 1},
};

const char *lt_optimizer_kind_name(enum lt_optimizer_kind kind)
{
    return kinds[kind].name;
}

int lt_optimizer_moments(enum lt_optimizer_kind kind)
{
    return kinds[kind].moments;
}

enum lt_status lt_optimizer_parse(struct lt_optimizer_config *config, const char *name, struct lt_error *err)
{
    static const struct {
        const char *name;
        enum lt_optimizer_kind kind;
        bool paged;
    } names[] = {
        {"adamw_torch", LT_OPTIMIZER_ADAMW, false},
        {"adamw_torch_fused", LT_OPTIMIZER_ADAMW, false},
        {"adamw_hf", LT_OPTIMIZER_ADAMW, false},
        {"adamw", LT_OPTIMIZER_ADAMW, false},
        {"adamw_8bit", LT_OPTIMIZER_ADAMW_8BIT, false},
        {"adamw_bnb_8bit", LT_OPTIMIZER_ADAMW_8BIT, false},
        {"paged_adamw_8bit", LT_OPTIMIZER_ADAMW_8BIT, true},
        {"paged_adamw_32bit", LT_OPTIMIZER_ADAMW, true},
        {"paged_adamw", LT_OPTIMIZER_ADAMW, true},
        {"sgd", LT_OPTIMIZER_SGD, false},
        {"lion_32bit", LT_OPTIMIZER_LION, false},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i].name, name) != 0)
            continue;
        config->kind = names[i].kind;
        config->paged = names[i].paged;
        return LT_OK;
    }
    return lt_fail(
        err, LT_ERR_INVALID,
        "\"%s\" is no optimizer; use adamw_torch, adamw_8bit, paged_adamw_8bit, paged_adamw_32bit, sgd or "
        "lion_32bit",
        name);
}

/* ---- layout ---- */

static void next_region(struct lt_optimizer_layout *l, enum lt_optim_value which, size_t bytes)
{
    l->region[which] = l->bytes;
    l->bytes = lt_align_up(l->bytes + bytes, LT_VALUE_ALIGN);
}

enum lt_status lt_optimizer_lay_out(struct lt_optimizer *o, const struct lt_optimizer_param *params,
                                    size_t count, struct lt_error *err)
{
    struct lt_optimizer_layout *l = &o->layout;
    const struct lt_optimizer_config *c = &o->config;
    const size_t least = c->min_8bit_size > 0 ? (size_t)c->min_8bit_size : MIN_8BIT_SIZE;
    const int moments = kinds[c->kind].moments;
    size_t floats = 0, codes = 0; /* elements of one moment */

    l->slots = lt_alloc_array(count, sizeof *l->slots);
    if (!l->slots)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while creating the optimizer");
    l->count = count;
    for (size_t i = 0; i < count; i++) {
        struct lt_optimizer_slot *s = &l->slots[i];
        *s = (struct lt_optimizer_slot){.param = params[i]};
        s->codes = c->kind == LT_OPTIMIZER_ADAMW_8BIT && !params[i].f32_state && params[i].elements >= least;
        s->state = s->codes ? codes : floats;
        if (s->codes)
            codes += lt_align_up(params[i].elements, LT_OPTIM_BLOCK);
        else
            floats += lt_align_up(params[i].elements, TENSOR_ALIGN);
    }
    next_region(l, LT_OPTIM_M, moments > 0 ? floats * sizeof(float) : 0);
    next_region(l, LT_OPTIM_V, moments > 1 ? floats * sizeof(float) : 0);
    next_region(l, LT_OPTIM_M_CODES, codes);
    next_region(l, LT_OPTIM_V_CODES, codes);
    next_region(l, LT_OPTIM_M_ABSMAX, codes / LT_OPTIM_BLOCK * sizeof(float));
    next_region(l, LT_OPTIM_V_ABSMAX, codes / LT_OPTIM_BLOCK * sizeof(float));
    return LT_OK;
}

bool lt_optimizer_adjacent(const struct lt_optimizer_slot *a, const struct lt_optimizer_slot *b)
{
    if (a->codes != b->codes || a->param.decay != b->param.decay)
        return false;
    /* A short last block must stay the last; f32 tensors may have zeros between them. */
    size_t length = a->codes ? a->param.elements : lt_align_up(a->param.elements, TENSOR_ALIGN);
    return b->param.offset == a->param.offset + length && b->state == a->state + length;
}

/* ---- checkpoints ---- */

static struct lt_optimizer_tensor float_tensor(const struct lt_optimizer *o,
                                               const struct lt_optimizer_slot *s, enum lt_optim_value which,
                                               const char *prefix)
{
    return (struct lt_optimizer_tensor){.prefix = prefix,
                                        .dtype = LT_F32,
                                        .elements = s->param.elements,
                                        .offset = o->layout.region[which] + s->state * sizeof(float)};
}

static struct lt_optimizer_tensor code_tensor(const struct lt_optimizer *o, const struct lt_optimizer_slot *s,
                                              enum lt_optim_value which, const char *prefix)
{
    return (struct lt_optimizer_tensor){.prefix = prefix,
                                        .dtype = LT_U8,
                                        .elements = s->param.elements,
                                        .offset = o->layout.region[which] + s->state};
}

static struct lt_optimizer_tensor absmax_tensor(const struct lt_optimizer *o,
                                                const struct lt_optimizer_slot *s, enum lt_optim_value which,
                                                const char *prefix)
{
    return (struct lt_optimizer_tensor){.prefix = prefix,
                                        .dtype = LT_F32,
                                        .absmax = true,
                                        .elements = (s->param.elements + LT_OPTIM_BLOCK - 1) / LT_OPTIM_BLOCK,
                                        .offset = o->layout.region[which] +
                                                  s->state / LT_OPTIM_BLOCK * sizeof(float)};
}

int lt_optimizer_tensors(const struct lt_optimizer *o, size_t param,
                         struct lt_optimizer_tensor tensors[LT_OPTIMIZER_TENSORS])
{
    const struct lt_optimizer_slot *s = &o->layout.slots[param];
    bool torch = o->config.kind == LT_OPTIMIZER_ADAMW;

    if (s->codes) {
        tensors[0] = code_tensor(o, s, LT_OPTIM_M_CODES, "state1.");
        tensors[1] = code_tensor(o, s, LT_OPTIM_V_CODES, "state2.");
        tensors[2] = absmax_tensor(o, s, LT_OPTIM_M_ABSMAX, "absmax1.");
        tensors[3] = absmax_tensor(o, s, LT_OPTIM_V_ABSMAX, "absmax2.");
        return 4;
    }
    tensors[0] = float_tensor(o, s, LT_OPTIM_M, torch ? "exp_avg." : "state1.");
    tensors[1] = float_tensor(o, s, LT_OPTIM_V, torch ? "exp_avg_sq." : "state2.");
    return kinds[o->config.kind].moments;
}

enum lt_status lt_optimizer_read(struct lt_optimizer *o, size_t offset, void *dst, size_t n,
                                 struct lt_error *err)
{
    return o->be->ops->buffer_read(o->be, o->state, offset, dst, n, err);
}

enum lt_status lt_optimizer_write(struct lt_optimizer *o, size_t offset, const void *src, size_t n,
                                  struct lt_error *err)
{
    return o->be->ops->buffer_write(o->be, o->state, offset, src, n, err);
}
