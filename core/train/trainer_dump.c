/* The first step as numbers in a file, for comparison with other programs. */
#include "core/train/trainer_internal.h"

#include "core/base/alloc.h"
#include "core/base/checked.h"

/* The logits of the first micro-batch, a few rows at a time. */
struct logits_dump {
    struct lt_trainer *trainer;
    struct lt_engine *engine;
    int64_t rows, columns, vocab;
    int32_t piece;       /* rows of logits computed at once */
    int32_t *label_rows; /* [piece] */
    float *logits;       /* [piece, vocab] */
    float *zeros;        /* [vocab] */
    int64_t written;     /* rows of the result so far */
};

/* Place of a token in [rows, columns]: ascending, as a micro-batch has its tokens in that order.  The first one
 * begins with row 0 of a pre-tokenized source. */
static int64_t place_of(const struct logits_dump *d, int32_t token, int64_t *sequence)
{
    const struct lt_batch *b = &d->trainer->batch;
    int64_t rows, columns;

    lt_batches_shape(d->trainer->train, &rows, &columns);
    if (columns > 0)
        return b->source[token];
    *sequence += b->kv_begin[token] == token;
    return *sequence * d->columns + b->positions[token];
}

static enum lt_status put_zero_rows(struct logits_dump *d, int64_t until, struct lt_file_writer *w,
                                    struct lt_error *err)
{
    for (; d->written < until; d->written++)
        LT_TRY(lt_file_writer_put(w, d->zeros, (size_t)d->vocab * sizeof *d->zeros, err));
    return LT_OK;
}

static enum lt_status put_piece(struct logits_dump *d, int32_t first, int32_t n, int64_t *sequence,
                                struct lt_file_writer *w, struct lt_error *err)
{
    struct lt_tokens tokens = lt_trainer_tokens(&d->trainer->batch);

    for (int32_t i = 0; i < n; i++)
        d->label_rows[i] = first + i;
    tokens.label_rows = d->label_rows;
    tokens.n_labels = n;
    tokens.labels = NULL;
    LT_TRY(lt_engine_logits(d->engine, &tokens, d->logits, err));
    for (int32_t i = 0; i < n; i++) {
        LT_TRY(put_zero_rows(d, place_of(d, first + i, sequence), w, err));
        LT_TRY(lt_file_writer_put(w, d->logits + (size_t)i * (size_t)d->vocab,
                                  (size_t)d->vocab * sizeof(float), err));
        d->written++;
    }
    return LT_OK;
}

static enum lt_status produce_logits(void *user, struct lt_file_writer *w, struct lt_error *err)
{
    struct logits_dump *d = user;
    int64_t sequence = -1;
    int32_t n = d->trainer->batch.n_tokens;

    d->written = 0;
    for (int32_t first = 0; first < n; first += d->piece)
        LT_TRY(put_piece(d, first, n - first < d->piece ? n - first : d->piece, &sequence, w, err));
    return put_zero_rows(d, d->rows * d->columns, w, err);
}

/* [rows, T] of the micro-batch in the trainer's batch. */
static void find_shape(struct logits_dump *d)
{
    const struct lt_batch *b = &d->trainer->batch;
    int64_t all_rows;

    lt_batches_shape(d->trainer->train, &all_rows, &d->columns);
    if (d->columns > 0) {
        d->rows = b->n_examples;
        return;
    }
    d->rows = 0;
    for (int32_t i = 0; i < b->n_tokens; i++) {
        d->rows += b->kv_begin[i] == i;
        d->columns = lt_max_i64(d->columns, (int64_t)b->positions[i] + 1);
    }
}

/* A second engine with the same weights: the trainer's own has no place for logits. */
static enum lt_status make_engine(struct logits_dump *d, struct lt_error *err)
{
    struct lt_trainer *t = d->trainer;
    struct lt_flat_view params;
    struct lt_engine_options opt = {
        .capacity = {.tokens = lt_max_i64(1, t->batch.n_tokens), .labels = d->piece},
        .eval = true,
        .logits = true,
        .param_elements = t->params->elements,
        .device = t->config.device,
        .device_layers = t->config.device_layers};

    LT_TRY(lt_engine_create(&d->engine, t->model, t->be, &opt, err));
    LT_TRY(lt_engine_allocate(d->engine, err));
    LT_TRY(lt_trainer_view_params(t, true, &params, err));
    enum lt_status status = lt_engine_write_params(d->engine, 0, params.values, t->params->elements, err);
    lt_trainer_view_release(&params);
    return status;
}

static enum lt_status logits_dump_init(struct logits_dump *d, struct lt_trainer *t, struct lt_error *err)
{
    enum { PIECE_BYTES = 64 << 20 };

    *d = (struct logits_dump){.trainer = t, .vocab = t->model->vocab};
    LT_TRY(lt_batches_get(t->train, 0, 0, &t->batch, err));
    find_shape(d);
    int64_t fits = lt_max_i64(1, PIECE_BYTES / (d->vocab * (int64_t)sizeof(float)));
    d->piece = (int32_t)lt_max_i64(1, lt_min_i64(fits, t->batch.n_tokens));
    d->label_rows = lt_alloc_array((size_t)d->piece, sizeof *d->label_rows);
    d->logits = lt_alloc_array((size_t)d->piece, (size_t)d->vocab * sizeof *d->logits);
    d->zeros = lt_alloc_zero((size_t)d->vocab, sizeof *d->zeros);
    if (!d->label_rows || !d->logits || !d->zeros)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for logits");
    return make_engine(d, err);
}

static void logits_dump_deinit(struct logits_dump *d)
{
    lt_engine_destroy(d->engine);
    lt_free(d->label_rows);
    lt_free(d->logits);
    lt_free(d->zeros);
}

static enum lt_status save(struct logits_dump *d, struct lt_flat_tensor *flat, const double *loss,
                           const char *path, struct lt_error *err)
{
    struct lt_trainer *t = d->trainer;
    const int64_t shape[3] = {d->rows, d->columns, d->vocab};
    struct lt_st_writer *w = NULL;

    enum lt_status status = lt_st_writer_create(&w, err);
    if (status == LT_OK)
        status = lt_st_writer_add(w, "loss", LT_F64, shape, 0, loss, err);
    if (status == LT_OK)
        status = lt_st_writer_add_produced(w, "logits", LT_F32, shape, 3, produce_logits, d, err);
    for (size_t i = 0; i < t->params->count && status == LT_OK; i++) {
        flat[i] = (struct lt_flat_tensor){
            .trainer = t, .param = &t->params->items[i], .gradient = true, .dtype = LT_F32};
        status = lt_flat_tensor_add(&flat[i], w, err);
    }
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_st_writer_destroy(w);
    return status;
}

enum lt_status lt_trainer_dump_step(struct lt_trainer *t, const char *path, struct lt_error *err)
{
    struct logits_dump d = {0};
    double loss;
    int64_t targets, tokens;

    enum lt_status status = lt_trainer_window(t, 0, &targets, &tokens, err);
    if (status == LT_OK)
        status = lt_trainer_loss(t, targets, &loss, err);
    if (status == LT_OK)
        status = logits_dump_init(&d, t, err); /* leaves the first micro-batch in t->batch */
    struct lt_flat_tensor *flat = lt_alloc_array(t->params->count, sizeof *flat);
    if (status == LT_OK && !flat)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while writing %s", path);
    if (status == LT_OK)
        status = save(&d, flat, &loss, path, err);
    lt_free(flat);
    logits_dump_deinit(&d);
    enum lt_status zeroed = lt_engine_zero_grads(t->engine, status == LT_OK ? err : NULL);
    return status != LT_OK ? status : zeroed;
}
