/* What one architecture tells the rest of models/, and the insides of the models that models/ makes.
 *
 * A new architecture is one file that fills a struct lt_model_arch, and one line in model_open.c. */
#ifndef LT_MODELS_ARCH_H
#define LT_MODELS_ARCH_H

#include "core/graph/build.h"
#include "core/graph/model.h"
#include "core/io/checkpoint.h"
#include "models/config_common.h"

/* Memory that a loaded model owns. */
enum lt_model_block_kind { LT_BLOCK_QUANTIZED, LT_BLOCK_CONVERTED, LT_BLOCK_VECTORS, LT_BLOCK_COUNT };

struct lt_model_block {
    unsigned char *data; /* lt_alloc_pages, or NULL */
    size_t size;
};

struct lt_model_store {
    struct lt_model model; /* first: its address is what lt_model_open hands out */
    const struct lt_model_arch *kind;
    size_t tensor_cap;
    struct lt_model_block blocks[LT_BLOCK_COUNT];
};

static inline struct lt_model_store *lt_model_store_of(struct lt_model *model)
{
    return (struct lt_model_store *)model;
}

/* The tensor list while it is being made; each tensor is checked against the checkpoint when it is added, so
 * that a configuration with absurd counts ends at the first tensor that is not there. */
struct lt_tensor_list {
    struct lt_model_store *store;
    const struct lt_checkpoint *ck; /* NULL: there is none, nothing is checked */
    bool *used;                     /* [ck->tensor_count] */
    const char *strip; /* leading part of the canonical names that this checkpoint leaves out; "" */
    int segment;       /* the one being filled; -1 before the first */
};

struct lt_tensor_spec {
    enum lt_tensor_kind kind;
    int64_t rows, cols; /* logical [out, in]; vectors: [1, n] */
    bool transposed;    /* stored as [in, out] */
    bool is_norm, is_head;
    bool tied; /* no storage of its own: that of tensor number `shared` */
    int shared;
};

/* Every segment is begun once, in order: embedding, layers, head. */
void lt_tensor_list_begin_segment(struct lt_tensor_list *list);
/* Appends a tensor by its canonical name ("transformer.h.0.ln_1.weight"); *index (may be NULL) is its number
 * within the segment.  LT_ERR_FORMAT when it is missing, has another shape or a dtype without meaning here. */
enum lt_status lt_tensor_list_add(struct lt_tensor_list *list, const char *name,
                                  const struct lt_tensor_spec *spec, int *index, struct lt_error *err)
    LT_MUST_USE;

struct lt_model_arch {
    struct lt_arch graph;
    const char *architecture; /* architectures[0] of config.json */
    const char *model_type;
    int bos_default, eos_default; /* of the configuration class, for files without the keys */
    /* Reads and checks the configuration: fills the numbers of `model` and model->config. */
    enum lt_status (*configure)(struct lt_model *model, const struct lt_config *cfg, struct lt_error *err);
    void (*free_config)(void *config); /* accepts NULL */
    enum lt_status (*list_tensors)(struct lt_tensor_list *list, struct lt_error *err);
    bool (*ignores)(const char *name); /* tensors of the checkpoint that are known to carry no weights */
};

extern const struct lt_model_arch lt_model_arch_llama, lt_model_arch_gpt2;

#endif
