#include "tools/eval_run.h"

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/system.h"
#include "core/infer/generate.h"
#include "core/io/safetensors.h"
#include "tools/cli_term.h"

static void progress(const char *what, int64_t done, int64_t total)
{
    if (cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K%s %lld/%lld%s", what, (long long)done, (long long)total,
                done == total ? "\r\033[K" : "");
}

static enum lt_status check_cancel(struct lt_error *err)
{
    return lt_cancel_requested() ? lt_fail(err, LT_ERR_CANCELLED, "stopped while evaluating") : LT_OK;
}

/* ---- losses ---- */

struct loss_pass {
    struct cli_session *session;
    struct lt_batches *batches;
    struct lt_engine_options options;
    struct lt_engine *engine;
    struct lt_batch batch;
    float *losses;
    int32_t *argmax;
    /* for the logits */
    int32_t *all_rows;
    float *logits, *zeros; /* of one micro-batch; of one token */
    float mean_loss;
};

static struct lt_tokens tokens_of(const struct lt_batch *b)
{
    return (struct lt_tokens){.n_tokens = b->n_tokens,
                              .n_labels = b->n_labels,
                              .ids = b->ids,
                              .positions = b->positions,
                              .kv_begin = b->kv_begin,
                              .kv_end = b->kv_end,
                              .row_key = b->row_key,
                              .label_rows = b->label_rows,
                              .labels = b->labels};
}

/* Makes the engine for the placement in force; the one before it is dropped. */
static enum lt_status plan_pass(void *user, struct lt_plan *plan, struct lt_error *err)
{
    struct loss_pass *p = user;
    const struct cli_placement *place = &p->session->place;
    lt_engine_destroy(p->engine);
    p->engine = NULL;
    p->options.device = place->device;
    p->options.device_layers = place->device_layers;
    LT_TRY(lt_engine_create(&p->engine, p->session->model, place->backend, &p->options, err));
    return lt_plan_add_engine(plan, p->engine, "parameters", NULL, err);
}

static enum lt_status open_pass(struct loss_pass *p, bool dump, struct lt_error *err)
{
    struct cli_session *s = p->session;
    int32_t tokens, labels;
    LT_TRY(lt_batches_capacity(p->batches, 1, &tokens, &labels, err));
    LT_TRY(lt_batch_init(&p->batch, tokens, labels, err));
    int32_t rows = dump && tokens > labels ? tokens : labels;
    struct lt_plan plan = {0};
    p->options = (struct lt_engine_options){.capacity = {.tokens = tokens, .labels = rows, .cache_rows = 1},
                                            .eval = true,
                                            .logits = dump,
                                            .param_elements = s->params.elements};
    LT_TRY(cli_placement_search(&s->place, plan_pass, p, err));
    LT_TRY(plan_pass(p, &plan, err));
    cli_report_placement(&s->place, &plan.placement);
    LT_TRY(lt_engine_allocate(p->engine, err));
    if (s->params.elements > 0)
        LT_TRY(lt_engine_write_params(p->engine, 0, s->param_values, s->params.elements, err));
    p->losses = lt_alloc_array((size_t)labels, sizeof *p->losses);
    p->argmax = lt_alloc_array((size_t)labels, sizeof *p->argmax);
    if (!p->losses || !p->argmax)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for the losses of %d tokens", (int)labels);
    if (!dump)
        return LT_OK;
    size_t vocab = (size_t)s->model->vocab, elements;
    if (lt_mul_size((size_t)tokens, vocab, &elements))
        p->logits = lt_alloc_array(elements, sizeof *p->logits);
    p->zeros = lt_alloc_zero(vocab, sizeof *p->zeros);
    p->all_rows = lt_alloc_array((size_t)tokens, sizeof *p->all_rows);
    if (!p->logits || !p->zeros || !p->all_rows)
        return lt_fail(err, LT_ERR_NOMEM,
                       "out of memory for the logits of %d tokens: use a smaller --batch-size", (int)tokens);
    for (int32_t i = 0; i < tokens; i++)
        p->all_rows[i] = i;
    return LT_OK;
}

static void close_pass(struct loss_pass *p)
{
    lt_engine_destroy(p->engine);
    lt_batch_deinit(&p->batch);
    lt_free(p->losses);
    lt_free(p->argmax);
    lt_free(p->all_rows);
    lt_free(p->logits);
    lt_free(p->zeros);
}

static enum lt_status add_losses(struct loss_pass *p, const char *what, struct eval_result *res,
                                 struct lt_error *err)
{
    int64_t count = lt_batches_per_epoch(p->batches), right = 0;
    double sum = 0, weighted = 0;
    for (int64_t i = 0; i < count; i++) {
        LT_TRY(check_cancel(err));
        progress(what, i, count);
        LT_TRY(lt_batches_get(p->batches, 0, i, &p->batch, err));
        struct lt_tokens t = tokens_of(&p->batch);
        LT_TRY(lt_engine_eval(p->engine, &t, p->losses, p->argmax, err));
        double batch = 0;
        for (int32_t k = 0; k < t.n_labels; k++) {
            batch += (double)p->losses[k];
            right += p->argmax[k] == t.labels[k];
        }
        sum += batch;
        if (t.n_labels > 0)
            weighted += batch / t.n_labels * p->batch.n_examples;
        res->targets += t.n_labels;
        res->examples += p->batch.n_examples;
    }
    progress(what, count, count);
    if (res->targets == 0)
        return lt_fail(err, LT_ERR_INVALID, "there is nothing to evaluate: no token is a target");
    res->loss = sum / (double)res->targets;
    res->eval_loss = weighted / (double)res->examples;
    res->accuracy = (double)right / (double)res->targets;
    return LT_OK;
}

/* ---- logits, written as they are computed ---- */

static enum lt_status put_zeros(struct loss_pass *p, struct lt_file_writer *w, int64_t tokens,
                                struct lt_error *err)
{
    size_t bytes = (size_t)p->session->model->vocab * sizeof(float);
    for (int64_t i = 0; i < tokens; i++)
        LT_TRY(lt_file_writer_put(w, p->zeros, bytes, err));
    return LT_OK;
}

/* The sources of all tokens ascend, so the gaps between them are what is masked. */
static enum lt_status produce_logits(void *user, struct lt_file_writer *w, struct lt_error *err)
{
    struct loss_pass *p = user;
    size_t vocab = (size_t)p->session->model->vocab;
    int64_t rows, columns, next = 0;
    lt_batches_shape(p->batches, &rows, &columns);
    for (int64_t i = 0; i < lt_batches_per_epoch(p->batches); i++) {
        LT_TRY(check_cancel(err));
        LT_TRY(lt_batches_get(p->batches, 0, i, &p->batch, err));
        struct lt_tokens t = tokens_of(&p->batch);
        t.label_rows = p->all_rows;
        t.labels = NULL;
        t.n_labels = t.n_tokens;
        LT_TRY(lt_engine_logits(p->engine, &t, p->logits, err));
        for (int32_t k = 0; k < t.n_tokens; k++) {
            LT_TRY(put_zeros(p, w, p->batch.source[k] - next, err));
            LT_TRY(lt_file_writer_put(w, p->logits + (size_t)k * vocab, vocab * sizeof(float), err));
            next = p->batch.source[k] + 1;
        }
    }
    return put_zeros(p, w, rows * columns - next, err);
}

static enum lt_status dump_logits(struct loss_pass *p, const char *path, struct lt_error *err)
{
    struct lt_st_writer *w;
    int64_t rows, columns;
    lt_batches_shape(p->batches, &rows, &columns);
    const int64_t shape[3] = {rows, columns, p->session->model->vocab};
    LT_TRY(lt_st_writer_create(&w, err));
    enum lt_status status = lt_st_writer_add(w, "loss", LT_F32, NULL, 0, &p->mean_loss, err);
    if (status == LT_OK)
        status = lt_st_writer_add_produced(w, "logits", LT_F32, shape, 3, produce_logits, p, err);
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

enum lt_status eval_losses(struct cli_session *s, struct lt_batches *batches, int32_t sequence,
                           const char *what, const char *dump, struct eval_result *res, struct lt_error *err)
{
    struct loss_pass p = {.session = s, .batches = batches};
    double began = lt_clock_seconds();
    s->model->table_positions = sequence;
    enum lt_status status = open_pass(&p, dump != NULL, err);
    if (status == LT_OK)
        status = add_losses(&p, what, res, err);
    res->seconds = lt_clock_seconds() - began;
    p.mean_loss = (float)res->loss;
    if (status == LT_OK && dump)
        status = dump_logits(&p, dump, err);
    close_pass(&p);
    res->done = status == LT_OK;
    return status;
}

/* ---- answers ---- */

struct answer_pass {
    struct cli_session *session;
    struct lt_generator *generator;
    int32_t context, max_new_tokens;
    int32_t stop_ids[16], stop_count;
    struct lt_ids *prompts; /* [dataset's count]; empty for rows without a prompt */
    size_t count, longest;
    struct lt_ids answer;
    struct lt_strbuf text;
    bool out_of_memory;
};

static bool keep_token(void *user, int32_t id, double logprob)
{
    struct answer_pass *p = user;
    (void)logprob;
    p->out_of_memory = !lt_ids_push(&p->answer, id);
    return !p->out_of_memory;
}

static enum lt_status encode_prompts(struct answer_pass *p, const struct lt_dataset *ds, struct lt_error *err)
{
    struct lt_tokenizer *tok = p->session->tokenizer;
    p->prompts = lt_alloc_zero(ds->count, sizeof *p->prompts);
    if (!p->prompts)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for %zu prompts", ds->count);
    p->count = ds->count;
    for (size_t i = 0; i < ds->count; i++) {
        const char *prompt = ds->examples[i].prompt;
        if (!prompt || !ds->examples[i].completion)
            continue;
        LT_TRY(lt_tokenizer_encode(tok, prompt, strlen(prompt), true, &p->prompts[i], err));
        p->longest = p->prompts[i].count > p->longest ? p->prompts[i].count : p->longest;
    }
    int64_t context = (int64_t)p->longest + p->max_new_tokens;
    p->context = (int32_t)lt_min_i64(context, p->session->model->max_positions);
    return LT_OK;
}

static enum lt_status plan_answers(void *user, struct lt_plan *plan, struct lt_error *err)
{
    struct answer_pass *p = user;
    const struct cli_placement *place = &p->session->place;
    const struct lt_generator_options opt = {.context = p->context,
                                             .param_elements = p->session->params.elements,
                                             .device = place->device,
                                             .device_layers = place->device_layers};
    lt_generator_destroy(p->generator);
    p->generator = NULL;
    LT_TRY(lt_generator_create(&p->generator, p->session->model, place->backend, &opt, err));
    return lt_plan_add_engine(plan, lt_generator_engine(p->generator), "parameters", NULL, err);
}

static enum lt_status open_answers(struct answer_pass *p, struct lt_error *err)
{
    struct cli_session *s = p->session;
    const struct lt_model *m = s->model;
    for (int32_t i = 0; i < m->eos_count; i++)
        p->stop_ids[p->stop_count++] = m->eos_ids[i];
    p->stop_ids[p->stop_count++] = lt_tokenizer_eos(s->tokenizer);
    s->model->table_positions = p->context;
    struct lt_plan plan = {0};
    LT_TRY(cli_placement_search(&s->place, plan_answers, p, err));
    LT_TRY(plan_answers(p, &plan, err));
    return lt_generator_allocate(p->generator, s->param_values, err);
}

static enum lt_status add_answer(struct answer_pass *p, const struct lt_ids *prompt, const char *reference,
                                 struct eval_result *res, struct lt_error *err)
{
    struct lt_generate_request req = {.prompt = prompt->data,
                                      .prompt_length = (int32_t)prompt->count,
                                      .max_new_tokens = p->max_new_tokens,
                                      .stop_ids = p->stop_ids,
                                      .stop_count = p->stop_count,
                                      .sampling = lt_sampling_greedy(),
                                      .on_token = keep_token,
                                      .user = p};
    struct lt_generate_result generated;
    p->answer.count = 0;
    LT_TRY(lt_generator_run(p->generator, &req, &generated, err));
    if (p->out_of_memory)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for an answer");
    lt_strbuf_clear(&p->text);
    LT_TRY(lt_tokenizer_decode(p->session->tokenizer, p->answer.data, p->answer.count, true, &p->text, err));
    const char *text = lt_strbuf_str(&p->text);
    if (!text)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for an answer");
    LT_TRY(lt_bleu_add(&res->bleu, text, reference, err));
    res->answers++;
    res->answer_tokens += generated.generated;
    return LT_OK;
}

static enum lt_status answer_all(struct answer_pass *p, const struct lt_dataset *ds, const char *what,
                                 struct eval_result *res, struct lt_error *err)
{
    LT_TRY(encode_prompts(p, ds, err));
    if (p->longest == 0)
        return LT_OK;
    LT_TRY(open_answers(p, err));
    for (size_t i = 0; i < ds->count; i++) {
        progress(what, (int64_t)i, (int64_t)ds->count);
        if (p->prompts[i].count == 0)
            continue;
        if (p->prompts[i].count >= (size_t)p->context)
            res->left_out++;
        else
            LT_TRY(add_answer(p, &p->prompts[i], ds->examples[i].completion, res, err));
    }
    progress(what, (int64_t)ds->count, (int64_t)ds->count);
    res->has_bleu = res->answers > 0;
    return LT_OK;
}

enum lt_status eval_answers(struct cli_session *s, const struct lt_dataset *ds, int32_t max_new_tokens,
                            const char *what, struct eval_result *res, struct lt_error *err)
{
    struct answer_pass p = {.session = s, .max_new_tokens = max_new_tokens};
    double began = lt_clock_seconds();
    lt_strbuf_init(&p.text);
    enum lt_status status = answer_all(&p, ds, what, res, err);
    res->answer_seconds = lt_clock_seconds() - began;
    lt_generator_destroy(p.generator);
    for (size_t i = 0; i < p.count; i++)
        lt_ids_deinit(&p.prompts[i]);
    lt_free(p.prompts);
    lt_ids_deinit(&p.answer);
    lt_strbuf_deinit(&p.text);
    return status;
}
