/* What two runs must have in common for the one to continue the other bit for bit. */
#include "core/train/trainer_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

/* FNV-1a over what is fed, byte for byte the same on every machine. */
struct fingerprint {
    uint64_t hash;
};

static void feed_byte(struct fingerprint *f, unsigned byte)
{
    f->hash = (f->hash ^ byte) * UINT64_C(0x100000001b3);
}

static void feed_u64(struct fingerprint *f, uint64_t v)
{
    for (int i = 0; i < 64; i += 8)
        feed_byte(f, (unsigned)(v >> i & 0xff));
}

static void feed_float(struct fingerprint *f, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    feed_u64(f, bits);
}

static void feed_i32s(struct fingerprint *f, const int32_t *v, int32_t n)
{
    feed_u64(f, (uint64_t)n);
    for (int32_t i = 0; i < n; i++)
        for (int k = 0; k < 32; k += 8)
            feed_byte(f, (uint32_t)v[i] >> k & 0xff);
}

static void feed_text(struct fingerprint *f, const char *s)
{
    for (; *s; s++)
        feed_byte(f, (unsigned char)*s);
    feed_byte(f, 0);
}

static struct fingerprint fingerprint(void)
{
    return (struct fingerprint){.hash = UINT64_C(0xcbf29ce484222325)};
}

static json_t *fingerprint_json(const struct fingerprint *f)
{
    char text[24];
    lt_snprintf(text, sizeof text, "%016llx", (unsigned long long)f->hash);
    return json_string(text);
}

static json_t *parameters_hash(const struct lt_params *p)
{
    struct fingerprint f = fingerprint();

    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        feed_text(&f, item->name);
        for (int d = 0; d < item->ndim; d++)
            feed_u64(&f, (uint64_t)item->shape[d]);
        feed_u64(&f, item->offset);
        feed_u64(&f, item->decay);
    }
    return fingerprint_json(&f);
}

static json_t *adapter_hash(const struct lt_model *m)
{
    struct fingerprint f = fingerprint();

    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_lora *lora = &m->tensors[i].lora;
        feed_u64(&f, (uint64_t)lora->rank);
        if (lora->rank > 0) {
            feed_float(&f, lora->scale);
            feed_float(&f, lora->dropout);
        }
    }
    return fingerprint_json(&f);
}

static json_t *weights_hash(const struct lt_model *m)
{
    struct fingerprint f = fingerprint();

    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *tensor = &m->tensors[i];
        feed_text(&f, tensor->name);
        feed_u64(&f, tensor->trainable ? UINT64_MAX : (uint64_t)tensor->weight.format);
    }
    return fingerprint_json(&f);
}

/* The first micro-batches as they are trained on: order, masking and packing included. */
static enum lt_status data_hash(struct lt_trainer *t, json_t **hash, struct lt_error *err)
{
    enum { SAMPLE = 16 };
    struct fingerprint f = fingerprint();
    int64_t n = lt_min_i64(SAMPLE, t->plan.batches_per_epoch);

    for (int64_t i = 0; i < n; i++) {
        LT_TRY(lt_batches_get(t->train, 0, i, &t->batch, err));
        const struct lt_batch *b = &t->batch;
        feed_i32s(&f, b->ids, b->n_tokens);
        feed_i32s(&f, b->positions, b->n_tokens);
        feed_i32s(&f, b->kv_begin, b->n_tokens);
        feed_i32s(&f, b->label_rows, b->n_labels);
        feed_i32s(&f, b->labels, b->n_labels);
    }
    *hash = fingerprint_json(&f);
    return LT_OK;
}

static void put_schedule(json_t *o, const struct lt_schedule *s, bool *ok)
{
    bool warms_up = s->kind != LT_SCHEDULE_CONSTANT;
    bool ends = warms_up && s->kind != LT_SCHEDULE_CONSTANT_WITH_WARMUP &&
                s->kind != LT_SCHEDULE_INVERSE_SQRT;

    lt_train_put(o, "lr_scheduler_type", json_string(lt_schedule_kind_name(s->kind)), ok);
    lt_train_put(o, "learning_rate", json_real(s->base_lr), ok);
    if (warms_up)
        lt_train_put(o, "warmup_steps", json_integer(s->warmup_steps), ok);
    if (ends)
        lt_train_put(o, "max_steps", json_integer(s->total_steps), ok);
    lt_train_put(o, "lr_num_cycles", json_real(s->num_cycles), ok);
    lt_train_put(o, "lr_power", json_real(s->power), ok);
    lt_train_put(o, "lr_end", json_real(s->lr_end), ok);
    lt_train_put(o, "min_lr_rate", json_real(s->min_lr_rate), ok);
}

static void put_optimizer(json_t *o, const struct lt_optimizer_config *c, bool *ok)
{
    /* Paged or not is the same; the size below which state is f32 belongs to 8-bit state. */
    lt_train_put(o, "optim", json_string(lt_optimizer_kind_name(c->kind)), ok);
    if (c->kind == LT_OPTIMIZER_ADAMW_8BIT)
        lt_train_put(o, "min_8bit_size", json_integer(c->min_8bit_size), ok);
    lt_train_put(o, "adam_beta1", json_real(c->beta1), ok);
    lt_train_put(o, "adam_beta2", json_real(c->beta2), ok);
    lt_train_put(o, "adam_epsilon", json_real(c->epsilon), ok);
    lt_train_put(o, "weight_decay", json_real(c->weight_decay), ok);
    lt_train_put(o, "max_grad_norm", json_real(c->max_grad_norm), ok);
}

static void put_data(json_t *o, struct lt_trainer *t, bool *ok)
{
    int64_t tokens, targets;

    lt_batches_totals(t->train, &tokens, &targets);
    lt_train_put(o, "train_rows", json_integer(lt_batches_rows(t->train)), ok);
    lt_train_put(o, "train_tokens", json_integer(tokens), ok);
    lt_train_put(o, "train_targets", json_integer(targets), ok);
    lt_train_put(o, "micro_batches_per_epoch", json_integer(t->plan.batches_per_epoch), ok);
    lt_train_put(o, "gradient_accumulation_steps", json_integer(t->config.accumulation), ok);
}

enum lt_status lt_trainer_identity(struct lt_trainer *t, json_t **identity, struct lt_error *err)
{
    bool ok = true;
    char seed[24];
    json_t *sample;

    *identity = NULL;
    LT_TRY(data_hash(t, &sample, err));
    json_t *o = json_object();
    lt_snprintf(seed, sizeof seed, "%llu", (unsigned long long)t->config.seed);
    lt_train_put(o, "seed", json_string(seed), &ok);
    put_data(o, t, &ok);
    lt_train_put(o, "order_and_contents_of_data", sample, &ok);
    put_schedule(o, &t->schedule, &ok);
    put_optimizer(o, &t->config.optimizer, &ok);
    lt_train_put(o, "names_and_shapes_of_parameters", parameters_hash(t->params), &ok);
    lt_train_put(o, "scaling_and_dropout_of_adapters", adapter_hash(t->model), &ok);
    lt_train_put(o, "compute_dtype", json_string(lt_dtype_name(t->model->compute_dtype)), &ok);
    lt_train_put(o, "formats_of_base_weights", weights_hash(t->model), &ok);
    if (!ok) {
        json_decref(o);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while describing the run");
    }
    *identity = o;
    return LT_OK;
}

enum lt_status lt_train_identity_check(const json_t *mine, const json_t *saved, const char *where,
                                       struct lt_error *err)
{
    json_t *walked = (json_t *)(uintptr_t)mine; /* jansson's iterators take no const, but change nothing */

    for (void *it = json_object_iter(walked); it; it = json_object_iter_next(walked, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *a = json_object_iter_value(it), *b = json_object_get(saved, key);
        if (json_equal(a, b))
            continue;
        char *now = lt_json_dump(a, 0, false), *then = b ? lt_json_dump(b, 0, false) : NULL;
        struct lt_json_excerpt shown;
        enum lt_status status = lt_fail(
            err, LT_ERR_INVALID,
            "%s: the run that wrote this checkpoint differs in %s: it had %s, this one has %s; resume with the "
            "same settings and data, or start a new run",
            where, key, then ? lt_json_excerpt(&shown, then) : "none", now ? now : "another");
        lt_free(now);
        lt_free(then);
        return status;
    }
    return LT_OK;
}
