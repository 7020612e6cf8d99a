/* What architectures build segments with.  Each call appends ops to the graph and returns the result's value
 * number; adapters, dropout and modes are put in here, so that no architecture knows of them. */
#ifndef LT_GRAPH_BUILD_H
#define LT_GRAPH_BUILD_H

#include "core/graph/model.h"

enum lt_build_mode {
    LT_BUILD_TRAIN, /* loss with gradients; dropout on */
    LT_BUILD_EVAL,  /* loss and argmax */
    LT_BUILD_DECODE /* keys and values in the cache; the head gives logits of the rows in LT_IN_LABEL_ROWS */
};

struct lt_build {
    struct lt_graph *graph;
    const struct lt_model *model;
    int segment;
    enum lt_build_mode mode;
    bool logits;        /* head: logits instead of the loss (any mode) */
    bool step;          /* linear layers get attr.step */
    int32_t loss_chunk; /* rows of logits held at a time */
    uint32_t next_site;
};

enum { LT_NO_TENSOR = -1 };

int lt_build_input(struct lt_build *b, enum lt_input which);
int lt_build_hidden_in(struct lt_build *b);
/* The segment's result; call once, last (the head does not call it). */
void lt_build_hidden_out(struct lt_build *b, int h);

/* Tensor numbers are indices within the segment. */
int lt_build_embed(struct lt_build *b, enum lt_input ids, int tensor, float scale);
int lt_build_linear(struct lt_build *b, int x, int weight, int bias);
int lt_build_rmsnorm(struct lt_build *b, int x, int weight, float eps, bool plus_one);
int lt_build_layernorm(struct lt_build *b, int x, int weight, int bias, float eps);
int lt_build_rope(struct lt_build *b, int x, int32_t heads, int32_t head_dim, int32_t rotary, int table);
int lt_build_add(struct lt_build *b, int x, int y);
int lt_build_dropout(struct lt_build *b, int x, float p); /* no op when p is 0 or not training */
int lt_build_act(struct lt_build *b, int x, enum lt_activation act);
int lt_build_glu(struct lt_build *b, int gate, int up, enum lt_activation act);
/* parts: 2 or 3 column counts that sum up to x's. */
void lt_build_split(struct lt_build *b, int x, const int64_t *parts, int count, int *out);

struct lt_attention_spec {
    int32_t heads, kv_heads, head_dim, window;
    float scale, softcap, dropout;
};
int lt_build_attention(struct lt_build *b, int q, int k, int v, const struct lt_attention_spec *spec);

/* Rows with a label, ready for the final norm (all rows a caller asked for in logits mode). */
int lt_build_label_rows(struct lt_build *b, int h);
/* Loss or logits of h [labels, hidden] with the head weight. */
void lt_build_loss(struct lt_build *b, int h, int weight, float softcap);

#endif
