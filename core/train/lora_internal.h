/* Matching of module names, shared by the files that read and apply a LoRA configuration. */
#ifndef LT_TRAIN_LORA_INTERNAL_H
#define LT_TRAIN_LORA_INTERNAL_H

#include <stdbool.h>
#include <string.h>

#include "core/base/status.h"
#include "core/graph/model.h"

/* A list item names the module itself or its last components: "q_proj", "mlp.c_proj". */
bool lt_lora_item_matches(const char *item, const char *module);
/* A key of rank_pattern or alpha_pattern: re.match(r"(.*\.)?(KEY)$", module).  `field` is for the error. */
enum lt_status lt_lora_pattern_matches(const char *pattern, const char *module, const char *field,
                                       bool *matches, struct lt_error *err) LT_MUST_USE;

static inline bool lt_lora_is_adaptable(const struct lt_model_tensor *t)
{
    return t->kind == LT_TENSOR_LINEAR && !t->is_head;
}

static inline const char *lt_lora_last_component(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

#endif
