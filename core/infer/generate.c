#include "core/infer/generate.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/system.h"

enum { DEFAULT_CHUNK = 256, CACHE_ALIGN = 64 };

struct lt_generator {
    const struct lt_model *model;
    struct lt_engine *engine;
    int32_t context, chunk;
    size_t param_elements;
    int32_t *cached; /* [context] ids whose keys and values are in rows 0 … cached_count - 1 of the cache */
    int32_t cached_count;
    int32_t prompt_rows; /* of them: the first that were computed as a prompt */
    /* [chunk] arrays of one pass */
    int32_t *positions, *kv_begin, *kv_end;
    uint32_t *row_key;
    float *logits; /* [vocab] of the last token evaluated */
};

static enum lt_status allocate_arrays(struct lt_generator *g, struct lt_error *err)
{
    size_t chunk = (size_t)g->chunk;
    g->cached = lt_alloc_array((size_t)g->context, sizeof *g->cached);
    g->positions = lt_alloc_array(chunk, sizeof *g->positions);
    g->kv_begin = lt_alloc_zero(chunk, sizeof *g->kv_begin);
    g->kv_end = lt_alloc_array(chunk, sizeof *g->kv_end);
    g->row_key = lt_alloc_zero(chunk, sizeof *g->row_key);
    g->logits = lt_alloc_array((size_t)g->model->vocab, sizeof *g->logits);
    if (!g->cached || !g->positions || !g->kv_begin || !g->kv_end || !g->row_key || !g->logits)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for generating in a context of %d tokens",
                       (int)g->context);
    return LT_OK;
}

static enum lt_status check_context(const struct lt_model *m, int32_t context, struct lt_error *err)
{
    if (context < 1)
        return lt_fail(err, LT_ERR_INVALID, "the context must hold at least one token");
    if (m->rope_tables == 0 && context > m->max_positions)
        return lt_fail(err, LT_ERR_INVALID, "a context of %d tokens is more than the model's %d positions",
                       (int)context, (int)m->max_positions);
    if (m->rope_tables > 0 && context > m->table_positions)
        return lt_fail(err, LT_ERR_INVALID,
                       "a context of %d tokens is more than the %d positions prepared for this run",
                       (int)context, (int)m->table_positions);
    return LT_OK;
}

enum lt_status lt_generator_create(struct lt_generator **out, struct lt_model *model, struct lt_backend *be,
                                   const struct lt_generator_options *opt, struct lt_error *err)
{
    *out = NULL;
    LT_TRY(check_context(model, opt->context, err));
    struct lt_generator *g = lt_alloc_zero(1, sizeof *g);
    if (!g)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the generator");
    g->model = model;
    g->context = opt->context;
    g->chunk = (int32_t)lt_min_i64(opt->context, opt->chunk > 0 ? opt->chunk : DEFAULT_CHUNK);
    g->param_elements = opt->param_elements;
    int64_t cache_rows = lt_div_up(opt->context, CACHE_ALIGN) * CACHE_ALIGN;
    struct lt_engine_options eo = {
        .capacity = {.tokens = g->chunk,
                     .labels = 1,
                     .cache_rows = (int32_t)lt_min_i64(cache_rows, INT32_MAX)},
        .decode = true,
        .param_elements = opt->param_elements,
        .device = opt->device,
        .device_layers = opt->device_layers,
    };
    enum lt_status status = lt_engine_create(&g->engine, model, be, &eo, err);
    if (status != LT_OK) {
        lt_generator_destroy(g);
        return status;
    }
    *out = g;
    return LT_OK;
}

void lt_generator_destroy(struct lt_generator *g)
{
    if (!g)
        return;
    lt_engine_destroy(g->engine);
    lt_free(g->cached);
    lt_free(g->positions);
    lt_free(g->kv_begin);
    lt_free(g->kv_end);
    lt_free(g->row_key);
    lt_free(g->logits);
    lt_free(g);
}

const struct lt_engine *lt_generator_engine(const struct lt_generator *g)
{
    return g->engine;
}

enum lt_status lt_generator_allocate(struct lt_generator *g, const float *params, struct lt_error *err)
{
    LT_TRY(allocate_arrays(g, err));
    LT_TRY(lt_engine_allocate(g->engine, err));
    if (g->param_elements == 0)
        return LT_OK;
    return lt_engine_write_params(g->engine, 0, params, g->param_elements, err);
}

/* Appends n <= chunk ids of the prompt, or one of the answer, to the cache; leaves the logits of the last one when
 * asked. */
static enum lt_status append(struct lt_generator *g, const int32_t *ids, int32_t n, bool logits, bool answer,
                             struct lt_error *err)
{
    int32_t first = g->cached_count, last = n - 1;
    for (int32_t i = 0; i < n; i++) {
        g->positions[i] = first + i;
        g->kv_end[i] = first + i + 1;
    }
    struct lt_tokens t = {.n_tokens = n,
                          .n_labels = logits ? 1 : 0,
                          .ids = ids,
                          .positions = g->positions,
                          .kv_begin = g->kv_begin,
                          .kv_end = g->kv_end,
                          .row_key = g->row_key,
                          .label_rows = &last,
                          .cache_slots = g->positions};
    LT_TRY(answer ? lt_engine_decode_step(g->engine, &t, g->logits, err)
                  : lt_engine_decode(g->engine, &t, g->logits, err));
    memcpy(g->cached + first, ids, (size_t)n * sizeof *ids);
    g->cached_count = first + n;
    if (!answer)
        g->prompt_rows = g->cached_count;
    return LT_OK;
}

static enum lt_status cancelled(struct lt_error *err)
{
    return lt_fail(err, LT_ERR_CANCELLED, "stopped while generating");
}

static enum lt_status read_prompt(struct lt_generator *g, const struct lt_generate_request *req,
                                  struct lt_generate_result *res, struct lt_error *err)
{
    /* The last prompt token is always evaluated: its logits are what is needed. */
    int32_t same = 0, most = (int32_t)lt_min_i64(g->prompt_rows, req->prompt_length - 1);
    while (same < most && g->cached[same] == req->prompt[same])
        same++;
    g->cached_count = g->prompt_rows = same;
    res->prompt_tokens = req->prompt_length - same;
    for (int32_t at = same; at < req->prompt_length; at += g->chunk) {
        if (lt_cancel_requested())
            return cancelled(err);
        int32_t n = (int32_t)lt_min_i64(g->chunk, req->prompt_length - at);
        LT_TRY(append(g, req->prompt + at, n, at + n == req->prompt_length, false, err));
    }
    return LT_OK;
}

static bool is_stop(const struct lt_generate_request *req, int32_t id)
{
    for (int32_t i = 0; i < req->stop_count; i++)
        if (req->stop_ids[i] == id)
            return true;
    return false;
}

static enum lt_status answer(struct lt_generator *g, struct lt_sampler *sampler,
                             const struct lt_generate_request *req, struct lt_generate_result *res,
                             struct lt_error *err)
{
    int32_t id = 0;
    while (res->generated < req->max_new_tokens) {
        if (lt_cancel_requested())
            return cancelled(err);
        if (res->generated > 0) {
            res->finish = LT_FINISH_CONTEXT;
            if (g->cached_count == g->context)
                return LT_OK;
            lt_sampler_see(sampler, id);
            LT_TRY(append(g, &id, 1, true, true, err));
        }
        LT_TRY(lt_sampler_pick(sampler, g->logits, (uint64_t)g->cached_count, &id, err));
        res->finish = LT_FINISH_STOP;
        if (is_stop(req, id))
            return LT_OK;
        res->generated++;
        res->finish = LT_FINISH_CALLER;
        double logprob = req->logprobs ? lt_log_probability(g->logits, g->model->vocab, id) : 0;
        if (!req->on_token(req->user, id, logprob))
            return LT_OK;
    }
    res->finish = LT_FINISH_LENGTH;
    return LT_OK;
}

static enum lt_status check_request(const struct lt_generator *g, const struct lt_generate_request *req,
                                    struct lt_error *err)
{
    if (req->prompt_length < 1)
        return lt_fail(err, LT_ERR_INVALID,
                       "an empty prompt cannot be continued: it needs at least one token");
    if (req->prompt_length > g->context)
        return lt_fail(err, LT_ERR_INVALID, "the prompt has %d tokens, more than the context of %d",
                       (int)req->prompt_length, (int)g->context);
    for (int32_t i = 0; i < req->prompt_length; i++)
        if (req->prompt[i] < 0 || req->prompt[i] >= g->model->vocab)
            return lt_fail(err, LT_ERR_INVALID,
                           "token id %d of the prompt is outside the model's vocabulary of %d: "
                           "the tokenizer belongs to another model",
                           (int)req->prompt[i], (int)g->model->vocab);
    return LT_OK;
}

enum lt_status lt_generator_run(struct lt_generator *g, const struct lt_generate_request *req,
                                struct lt_generate_result *res, struct lt_error *err)
{
    *res = (struct lt_generate_result){.finish = LT_FINISH_LENGTH};
    LT_TRY(check_request(g, req, err));
    struct lt_sampler sampler;
    LT_TRY(lt_sampler_init(&sampler, &req->sampling, g->model->vocab, err));
    for (int32_t i = 0; i < req->prompt_length; i++)
        lt_sampler_see(&sampler, req->prompt[i]);
    double began = lt_clock_seconds();
    enum lt_status status = read_prompt(g, req, res, err);
    double read = lt_clock_seconds();
    res->prompt_seconds = read - began;
    if (status == LT_OK)
        status = answer(g, &sampler, req, res, err);
    res->decode_seconds = lt_clock_seconds() - read;
    lt_sampler_deinit(&sampler);
    return status;
}
