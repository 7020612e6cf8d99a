/* The parameter layout: which tensors are trained and where they lie. */
#include "core/train/adapter.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/train/lora_internal.h"

enum { ALIGNMENT = 16 };

/* ---- weight decay, by name ---- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Case-insensitive: s starts with the lower-case word. */
static bool starts(const char *s, const char *word)
{
    while (*word)
        if (lower(*s++) != *word++)
            return false;
    return true;
}

/* bias | layernorm | rmsnorm | (?:^|\.)norm(?:$|\.) | _norm(?:$|\.), of transformers' Trainer. */
static bool name_is_undecayed(const char *name)
{
    for (const char *s = name; *s; s++) {
        if (starts(s, "bias") || starts(s, "layernorm") || starts(s, "rmsnorm"))
            return true;
        if (starts(s, "norm") && (s[4] == '\0' || s[4] == '.') && (s == name || s[-1] == '.' || s[-1] == '_'))
            return true;
    }
    return false;
}

/* ---- layout ---- */

struct layout {
    struct lt_params *params;
    struct lt_model *model;
    size_t capacity;
    struct lt_error *err;
};

static enum lt_status no_memory(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory for the list of trained parameters");
}

/* Appends one parameter without a place; takes name. */
static enum lt_status add(struct layout *l, char *name, int tensor, int part, int ndim, int64_t rows,
                          int64_t cols)
{
    struct lt_params *p = l->params;
    int64_t elements;

    if (!name || !lt_reserve((void **)&p->items, &l->capacity, p->count, sizeof *p->items)) {
        lt_free(name);
        return no_memory(l->err);
    }
    if (rows < 1 || cols < 1 || !lt_mul_i64(rows, cols, &elements)) {
        enum lt_status status = lt_fail(l->err, LT_ERR_INVALID,
                                        "%s cannot be trained: its shape is %lld x %lld", name,
                                        (long long)rows, (long long)cols);
        lt_free(name);
        return status;
    }
    p->items[p->count++] = (struct lt_param){
        .name = name,
        .shape = {ndim == 1 ? cols : rows, ndim == 1 ? 0 : cols},
        .ndim = ndim,
        .elements = (size_t)elements,
        .decay = !name_is_undecayed(name) && !(part == 0 && l->model->tensors[tensor].is_norm),
        .tensor = tensor,
        .part = part,
    };
    return LT_OK;
}

static enum lt_status place(struct layout *l, struct lt_param *item)
{
    struct lt_params *p = l->params;
    size_t end;
    item->offset = p->elements;
    if (!lt_add_size(p->elements, item->elements, &end) || !lt_add_size(end, ALIGNMENT, &p->elements) ||
        p->elements > PTRDIFF_MAX / sizeof(float))
        return lt_fail(l->err, LT_ERR_INVALID,
                       "the trained parameters need more memory than can be addressed");
    p->elements = lt_align_up(end, ALIGNMENT);
    p->trainable += item->elements;
    return LT_OK;
}

/* Decayed parameters before the others, keeping the order among each, and all get their places. */
static enum lt_status arrange(struct layout *l)
{
    struct lt_params *p = l->params;
    struct lt_param *sorted = lt_alloc_array(p->count, sizeof *sorted);
    size_t n = 0;

    if (!sorted)
        return no_memory(l->err);
    for (int undecayed = 0; undecayed < 2; undecayed++)
        for (size_t i = 0; i < p->count; i++)
            if (p->items[i].decay == !undecayed)
                sorted[n++] = p->items[i];
    lt_free(p->items);
    p->items = sorted;
    for (size_t i = 0; i < n; i++) {
        LT_TRY(place(l, &p->items[i]));
        if (p->items[i].decay)
            p->decay_elements = p->elements;
    }
    return LT_OK;
}

static void clear_marks(struct lt_model *model)
{
    for (int i = 0; i < model->tensor_count; i++) {
        model->tensors[i].trainable = false;
        model->tensors[i].param_offset = 0;
        model->tensors[i].lora = (struct lt_lora){0};
    }
}

/* Tells the model where its tensors' parameters lie. */
static void mark_places(const struct lt_params *p, struct lt_model *model)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        struct lt_model_tensor *t = &model->tensors[item->tensor];
        if (item->part == 0) {
            t->trainable = true;
            t->param_offset = item->offset;
        } else if (item->part == 1) {
            t->lora.a_offset = item->offset;
        } else {
            t->lora.b_offset = item->offset;
        }
    }
}

static enum lt_status finish(struct layout *l, enum lt_status status)
{
    if (status == LT_OK)
        status = arrange(l);
    if (status == LT_OK) {
        mark_places(l->params, l->model);
    } else {
        clear_marks(l->model);
        lt_params_deinit(l->params);
    }
    return status;
}

void lt_params_deinit(struct lt_params *p)
{
    for (size_t i = 0; i < p->count; i++)
        lt_free(p->items[i].name);
    lt_free(p->items);
    *p = (struct lt_params){0};
}

const struct lt_param *lt_params_find(const struct lt_params *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->items[i].name, name) == 0)
            return &p->items[i];
    return NULL;
}

/* ---- the whole model ---- */

static enum lt_status add_tensor(struct layout *l, int tensor, char *name)
{
    const struct lt_model_tensor *t = &l->model->tensors[tensor];
    bool vector = t->kind == LT_TENSOR_VECTOR, swap = t->transposed && !vector;
    if (!vector && lt_weight_is_quantized(&t->weight)) {
        lt_free(name);
        return lt_fail(
            l->err, LT_ERR_INVALID,
            "cannot train a quantized tensor: %s is stored as %s; train adapters, or load the model "
            "unquantized",
            t->name, lt_weight_format_name(t->weight.format));
    }
    return add(l, name, tensor, 0, vector ? 1 : 2, swap ? t->cols : t->rows, swap ? t->rows : t->cols);
}

enum lt_status lt_params_full(struct lt_params *p, struct lt_model *model, struct lt_error *err)
{
    struct layout l = {.params = p, .model = model, .err = err};
    enum lt_status status = LT_OK;

    *p = (struct lt_params){0};
    clear_marks(model);
    for (int i = 0; i < model->tensor_count && status == LT_OK; i++)
        if (model->tensors[i].shared < 0)
            status = add_tensor(&l, i, lt_strdup(model->tensors[i].name));
    return finish(&l, status);
}

/* ---- LoRA ---- */

static char *peft_name(const char *module, const char *suffix)
{
    struct lt_strbuf sb;
    lt_strbuf_init(&sb);
    lt_strbuf_puts(&sb, "base_model.model.");
    lt_strbuf_puts(&sb, module);
    lt_strbuf_puts(&sb, suffix);
    char *name = lt_strbuf_take(&sb);
    lt_strbuf_deinit(&sb);
    return name;
}

/* Ranks and scales of everything the configuration targets. */
static enum lt_status choose_modules(struct lt_model *model, const struct lt_lora_config *c, size_t *chosen,
                                     struct lt_error *err)
{
    bool all_linear = lt_lora_config_all_linear(c);
    for (int i = 0; i < model->tensor_count; i++) {
        struct lt_model_tensor *t = &model->tensors[i];
        bool adaptable = lt_lora_is_adaptable(t), matches;
        double scaling;
        if (t->is_bias || (all_linear && !adaptable))
            continue;
        LT_TRY(lt_lora_config_matches(c, t->module, &matches, err));
        if (!matches)
            continue;
        if (!adaptable)
            return lt_fail(
                err, LT_ERR_UNSUPPORTED,
                "%s is a target of LoRA, but only the linear layers inside the model can be adapted; "
                "change target_modules or name it in exclude_modules",
                t->module);
        LT_TRY(lt_lora_config_rank(c, t->module, &t->lora.rank, &scaling, err));
        t->lora.scale = (float)scaling;
        t->lora.dropout = (float)c->dropout;
        ++*chosen;
    }
    return LT_OK;
}

/* Appends the distinct last components of the modules that can be adapted. */
static void put_module_names(struct lt_strbuf *sb, const struct lt_model *model)
{
    for (int i = 0; i < model->tensor_count; i++) {
        const char *name = lt_lora_last_component(model->tensors[i].module);
        bool skip = !lt_lora_is_adaptable(&model->tensors[i]);
        for (int j = 0; j < i && !skip; j++)
            skip = lt_lora_is_adaptable(&model->tensors[j]) &&
                   strcmp(lt_lora_last_component(model->tensors[j].module), name) == 0;
        if (!skip)
            lt_strbuf_printf(sb, "%s%s", sb->len > 0 ? ", " : "", name);
    }
}

static enum lt_status nothing_matches(const struct lt_model *model, const struct lt_lora_config *c,
                                      struct lt_error *err)
{
    struct lt_strbuf names, wanted;
    enum lt_status status;

    lt_strbuf_init(&names);
    lt_strbuf_init(&wanted);
    put_module_names(&names, model);
    lt_strbuf_puts(&wanted, c->target_regex ? c->target_regex : "");
    for (size_t i = 0; i < c->target_modules.count; i++)
        lt_strbuf_printf(&wanted, "%s%s", i > 0 ? "," : "", c->target_modules.items[i]);
    if (!lt_strbuf_ok(&names) || !lt_strbuf_ok(&wanted))
        status = no_memory(err);
    else
        status = lt_fail(
            err, LT_ERR_INVALID,
            "no module of the model is a target of LoRA (target_modules \"%.300s\"%s); its linear layers "
            "are called %s",
            lt_strbuf_str(&wanted),
            c->layers_to_transform_count > 0 ? ", limited by layers_to_transform" : "",
            lt_strbuf_str(&names));
    lt_strbuf_deinit(&names);
    lt_strbuf_deinit(&wanted);
    return status;
}

static void warn_idle_targets(const struct lt_model *model, const struct lt_lora_config *c)
{
    for (size_t k = 0; k < c->target_modules.count; k++) {
        bool used = false;
        for (int i = 0; i < model->tensor_count && !used; i++)
            used = model->tensors[i].lora.rank > 0 &&
                   lt_lora_item_matches(c->target_modules.items[k], model->tensors[i].module);
        if (!used)
            lt_log(LT_LOG_WARNING, "target_modules has %.200s, which is no module of this model",
                   c->target_modules.items[k]);
    }
}

static enum lt_status warn_idle_patterns(const struct lt_model *model, const struct lt_pattern_map *map,
                                         const char *field, struct lt_error *err)
{
    for (size_t k = 0; k < map->count; k++) {
        bool used = false;
        for (int i = 0; i < model->tensor_count && !used; i++)
            if (model->tensors[i].lora.rank > 0)
                LT_TRY(
                    lt_lora_pattern_matches(map->patterns[k], model->tensors[i].module, field, &used, err));
        if (!used)
            lt_log(LT_LOG_WARNING, "%s has %.200s, which matches no adapted module", field, map->patterns[k]);
    }
    return LT_OK;
}

/* The module's linear layer is adapted. */
static bool is_adapted(const struct lt_model *model, const struct lt_model_tensor *bias)
{
    for (int i = 0; i < lt_model_segment_tensors(model, bias->segment); i++) {
        const struct lt_model_tensor *t = lt_model_tensor(model, bias->segment, i);
        if (t->lora.rank > 0 && strcmp(t->module, bias->module) == 0)
            return true;
    }
    return false;
}

static enum lt_status add_lora_tensors(struct layout *l, enum lt_lora_bias bias)
{
    for (int i = 0; i < l->model->tensor_count; i++) {
        const struct lt_model_tensor *t = &l->model->tensors[i];
        if (t->lora.rank > 0) {
            LT_TRY(add(l, peft_name(t->module, ".lora_A.weight"), i, 1, 2, t->lora.rank, t->cols));
            LT_TRY(add(l, peft_name(t->module, ".lora_B.weight"), i, 2, 2, t->rows, t->lora.rank));
        }
        if (!t->is_bias || bias == LT_LORA_BIAS_NONE)
            continue;
        bool adapted = is_adapted(l->model, t);
        if (adapted || bias == LT_LORA_BIAS_ALL)
            LT_TRY(add_tensor(l, i, peft_name(t->module, adapted ? ".base_layer.bias" : ".bias")));
    }
    return LT_OK;
}

static enum lt_status lay_out_lora(struct layout *l, const struct lt_lora_config *c)
{
    size_t chosen = 0;
    LT_TRY(lt_lora_config_check(c, l->err));
    LT_TRY(choose_modules(l->model, c, &chosen, l->err));
    if (chosen == 0)
        return nothing_matches(l->model, c, l->err);
    warn_idle_targets(l->model, c);
    LT_TRY(warn_idle_patterns(l->model, &c->rank_pattern, "rank_pattern", l->err));
    LT_TRY(warn_idle_patterns(l->model, &c->alpha_pattern, "alpha_pattern", l->err));
    return add_lora_tensors(l, c->bias);
}

enum lt_status lt_params_lora(struct lt_params *p, struct lt_model *model,
                              const struct lt_lora_config *config, struct lt_error *err)
{
    struct layout l = {.params = p, .model = model, .err = err};

    *p = (struct lt_params){0};
    clear_marks(model);
    return finish(&l, lay_out_lora(&l, config));
}
