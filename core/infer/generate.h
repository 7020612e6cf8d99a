/* Text generation with a key/value cache: the prompt in chunks, then one token at a time. */
#ifndef LT_INFER_GENERATE_H
#define LT_INFER_GENERATE_H

#include "core/graph/engine.h"
#include "core/infer/sampling.h"

struct lt_generator;

struct lt_generator_options {
    int32_t context;           /* most tokens of prompt and answer together */
    int32_t chunk;             /* prompt tokens a pass; 0: chosen */
    size_t param_elements;     /* of the adapters assigned to the model, 0 for the base model */
    struct lt_backend *device; /* as in struct lt_engine_options */
    int32_t device_layers;
};

/* Compiles and plans; allocates nothing big.  Model (shapes and adapters assigned) and backend are borrowed.
 * A context above the learned positions of the model, or above its table_positions when it has rope tables,
 * is LT_ERR_INVALID. */
enum lt_status lt_generator_create(struct lt_generator **g, struct lt_model *model, struct lt_backend *be,
                                   const struct lt_generator_options *opt, struct lt_error *err) LT_MUST_USE;
void lt_generator_destroy(struct lt_generator *g); /* NULL is accepted */
const struct lt_engine *lt_generator_engine(const struct lt_generator *g);
/* After the model's weights were loaded.  params[param_elements] is copied. */
enum lt_status lt_generator_allocate(struct lt_generator *g, const float *params, struct lt_error *err)
    LT_MUST_USE;

enum lt_finish {
    LT_FINISH_STOP,    /* a stop id came up */
    LT_FINISH_LENGTH,  /* max_new_tokens */
    LT_FINISH_CONTEXT, /* the context is full */
    LT_FINISH_CALLER   /* on_token returned false */
};

/* Called with every new token; returning false ends the generation.  logprob: as lt_log_probability, 0 unless
 * asked for. */
typedef bool (*lt_token_fn)(void *user, int32_t id, double logprob);

struct lt_generate_request {
    const int32_t *prompt; /* at least one id */
    int32_t prompt_length;
    int32_t max_new_tokens;
    const int32_t *stop_ids; /* generation ends at one of these, which is not reported */
    int32_t stop_count;
    bool logprobs;
    struct lt_sampling sampling; /* the draw of a token is its position in the sequence */
    lt_token_fn on_token;
    void *user;
};

struct lt_generate_result {
    enum lt_finish finish;
    int32_t generated;                     /* tokens reported */
    int32_t prompt_tokens;                 /* evaluated; the others were in the cache already */
    double prompt_seconds, decode_seconds; /* until the first token is known; after that */
};

/* Keys and values stay in the cache: a next prompt that begins with the same ids as this prompt starts behind them.  An
 * answer's are computed again, in the arithmetic of prompts, so that an answer depends on its prompt alone, never on
 * what was asked before.
 * A prompt that leaves no room in the context is LT_ERR_INVALID; LT_ERR_CANCELLED after lt_cancel_request()
 * (*res is filled then, too). */
enum lt_status lt_generator_run(struct lt_generator *g, const struct lt_generate_request *req,
                                struct lt_generate_result *res, struct lt_error *err) LT_MUST_USE;

#endif
