/* A model as the engine sees it: named tensors in segments, and an architecture that builds the graph of
 * each segment.  models/ fills it; core/ knows no architecture.
 *
 * Segment 0 is the embedding, 1 … layers the decoder layers, layers+1 the head (final norm and logits). */
#ifndef LT_GRAPH_MODEL_H
#define LT_GRAPH_MODEL_H

#include "core/graph/graph.h"
#include "core/tensor/weight.h"
#include "core/tensor/weight_source.h"

struct lt_build;
struct lt_model;

enum lt_tensor_kind {
    LT_TENSOR_LINEAR,    /* weight of a linear layer: quantizable, adaptable */
    LT_TENSOR_EMBEDDING, /* rows looked up by id */
    LT_TENSOR_VECTOR     /* f32 row: norm weights and biases */
};

/* LoRA on one linear tensor; rank 0: none.  Offsets are elements in the flat parameter buffer:
 * A [rank, in] at a_offset, B [out, rank] at b_offset. */
struct lt_lora {
    int32_t rank;
    float scale, dropout;
    size_t a_offset, b_offset;
};

struct lt_model_tensor {
    char *name;   /* in the checkpoint: "model.layers.3.self_attn.q_proj.weight" */
    char *module; /* name without the last component: what target_modules match */
    enum lt_tensor_kind kind;
    bool is_norm, is_bias, is_head;
    bool transposed;    /* GPT-2 Conv1D storage [in, out] */
    int64_t rows, cols; /* logical [out, in]; vectors [1, n] */
    int segment, index; /* place; index counts within the segment */
    int shared;         /* number of the tensor whose storage this one uses (tied head), or -1 */

    struct lt_weight
        weight;          /* LINEAR, EMBEDDING: host view once loaded; before, format and shape when planned */
    bool nested;         /* the block scales will be quantized as well */
    const float *vector; /* VECTOR: host values once loaded */
    /* LINEAR of a decoder layer, frozen: read from `source` whenever the layer runs; `weight` is the rest. */
    bool streamed;
    struct lt_weight_source source;

    bool trainable;      /* trained itself; then f32, in the flat parameter buffer */
    size_t param_offset; /* elements */
    struct lt_lora lora;
};

struct lt_arch {
    const char *name; /* "llama" */
    /* Builds one segment with the lt_build_* calls.  Errors stick in the graph. */
    void (*build_embedding)(struct lt_build *b);
    void (*build_layer)(struct lt_build *b);
    void (*build_head)(struct lt_build *b);
};

struct lt_model {
    const struct lt_arch *arch;
    void *config; /* the architecture's own configuration, owned by models/ */
    int32_t layers, hidden, vocab, heads, kv_heads, head_dim, max_positions;
    int rope_tables;         /* 0, 1 or 2 (local) */
    int64_t rotary;          /* columns of a rope table */
    int32_t table_positions; /* rows of a rope table: the longest sequence of this run */
    /* One row of a rope table: rotary/2 cosines, then rotary/2 sines of `position`. */
    void (*rope_fill)(const struct lt_model *model, int which, int64_t position, float *row);

    struct lt_model_tensor *tensors; /* ordered by segment */
    int tensor_count;
    int *segment_first; /* [layers + 3] number of the first tensor of each segment */
    char *name_or_path;
    int32_t bos_id, eos_ids[8], eos_count;
    bool int8;            /* linear layers are LLM.int8(): integer products outside training */
    float int8_threshold; /* activations of this magnitude stay in f32; 0: none */
    uint64_t parameters;  /* of the base model, shared tensors once */
    /* LT_F32, LT_BF16 or LT_F16: of the products with frozen linear weights other than the head; with LT_BF16 of those of
     * attention as well, where a unit gains by it (attribute `compute` of their ops).  Set before an engine is created. */
    enum lt_dtype compute_dtype;
};

static inline int lt_model_segments(const struct lt_model *m)
{
    return m->layers + 2;
}

static inline struct lt_model_tensor *lt_model_tensor(const struct lt_model *m, int segment, int index)
{
    return &m->tensors[m->segment_first[segment] + index];
}

static inline int lt_model_segment_tensors(const struct lt_model *m, int segment)
{
    return m->segment_first[segment + 1] - m->segment_first[segment];
}

/* Lowest segment with anything trainable, or -1. */
int lt_model_lowest_trainable(const struct lt_model *m);

#endif
