/* The targets of a LoRA configuration as they are saved. */
#include "core/train/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/train/lora_internal.h"

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_distinct(struct lt_string_list *l)
{
    size_t n = 0;
    if (l->count == 0)
        return;
    qsort(l->items, l->count, sizeof *l->items, compare_strings);
    for (size_t i = 0; i < l->count; i++) {
        if (n > 0 && strcmp(l->items[n - 1], l->items[i]) == 0)
            lt_free(l->items[i]);
        else
            l->items[n++] = l->items[i];
    }
    l->count = n;
}

/* As a target the name would also reach a module that cannot be adapted. */
static bool reaches_others(const struct lt_model *model, const char *name)
{
    for (int i = 0; i < model->tensor_count; i++) {
        const struct lt_model_tensor *t = &model->tensors[i];
        if (!t->is_bias && !lt_lora_is_adaptable(t) && lt_lora_item_matches(name, t->module))
            return true;
    }
    return false;
}

static bool list_has(const struct lt_string_list *l, const char *s)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->items[i], s) == 0)
            return true;
    return false;
}

static enum lt_status list_linears(struct lt_string_list *names, const struct lt_lora_config *config,
                                   const struct lt_model *model, struct lt_error *err)
{
    for (int i = 0; i < model->tensor_count; i++) {
        const struct lt_model_tensor *t = &model->tensors[i];
        const char *name = lt_lora_last_component(t->module);
        bool wanted = true;
        if (!lt_lora_is_adaptable(t) || list_has(names, name))
            continue;
        if (reaches_others(model, name)) {
            /* A full name is adapted whatever layers_to_transform says, so that must be settled here. */
            name = t->module;
            LT_TRY(lt_lora_config_matches(config, name, &wanted, err));
        }
        if (wanted)
            LT_TRY(lt_string_list_add(names, name, err));
    }
    return LT_OK;
}

static enum lt_status find_orientation(bool *transposed, const struct lt_lora_config *config,
                                       const struct lt_model *model, struct lt_error *err)
{
    *transposed = false;
    for (int i = 0; i < model->tensor_count; i++) {
        const struct lt_model_tensor *t = &model->tensors[i];
        bool matches;
        if (!lt_lora_is_adaptable(t) || !t->transposed)
            continue;
        LT_TRY(lt_lora_config_matches(config, t->module, &matches, err));
        *transposed = *transposed || matches;
    }
    return LT_OK;
}

enum lt_status lt_lora_config_expand(struct lt_lora_config *config, const struct lt_model *model,
                                     struct lt_error *err)
{
    LT_TRY(find_orientation(&config->fan_in_fan_out, config, model, err));
    if (lt_lora_config_all_linear(config)) {
        struct lt_lora_config names = {0};
        enum lt_status status = list_linears(&names.target_modules, config, model, err);
        if (status != LT_OK) {
            lt_lora_config_deinit(&names);
            return status;
        }
        lt_free(config->target_regex);
        config->target_regex = NULL;
        config->target_modules = names.target_modules;
    }
    sort_distinct(&config->target_modules);
    return LT_OK;
}
