/* Initial values, drawn as PEFT and torch draw them. */
#include "core/train/adapter.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/rng.h"

enum lora_init { INIT_TRUE, INIT_FALSE, INIT_GAUSSIAN };

/* The torch CPU generator with the value that its scalar normal distribution keeps back. */
struct generator {
    struct lt_mt19937 mt;
    bool has_spare;
    double spare;
};

static void skip_draws(struct generator *g, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)lt_mt19937_next(&g->mt);
}

/* torch.nn.init.kaiming_uniform_(a=sqrt(5)), Linear's own initialisation: U(-b, b) with b = 1/sqrt(fan_in) up to the
 * rounding of this sequence of operations. */
static void kaiming_uniform(struct generator *g, float *out, size_t n, int64_t fan_in)
{
    double slope = sqrt(5.0);
    double gain = sqrt(2.0 / (1 + slope * slope));
    double bound = sqrt(3.0) * (gain / sqrt((double)fan_in));
    lt_mt19937_uniform(&g->mt, out, n, (float)-bound, (float)bound);
}

static double unit_double(struct generator *g)
{
    uint64_t high = lt_mt19937_next(&g->mt);
    uint64_t bits = high << 32 | lt_mt19937_next(&g->mt);
    return (double)(bits & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* at::normal_distribution<double>: Box-Muller, two values from two draws. */
static double scalar_normal(struct generator *g)
{
    if (g->has_spare) {
        g->has_spare = false;
        return g->spare;
    }
    double angle = 6.28318530717958647692 * unit_double(g);
    double radius = sqrt(-2.0 * log1p(-unit_double(g)));
    g->spare = radius * sin(angle);
    g->has_spare = true;
    return radius * cos(angle);
}

/* torch.Tensor.normal_(0, std): fewer than 16 elements go another way. */
static void normal(struct generator *g, float *out, size_t n, double std)
{
    if (n >= 16) {
        lt_mt19937_normal(&g->mt, out, n, 0.0f, (float)std);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(scalar_normal(g) * std);
}

/* PEFT makes both Linear modules, each initialising itself, and then fills A once more and zeroes B. */
static void draw_adapter(struct generator *g, const struct lt_model_tensor *t, enum lora_init init,
                         float *values)
{
    const struct lt_lora *l = &t->lora;
    size_t na = (size_t)l->rank * (size_t)t->cols, nb = (size_t)t->rows * (size_t)l->rank;
    float *a = values + l->a_offset, *b = values + l->b_offset;

    if (init == INIT_FALSE) {
        kaiming_uniform(g, a, na, t->cols);
        kaiming_uniform(g, b, nb, l->rank);
        return;
    }
    skip_draws(g, na);
    skip_draws(g, nb);
    if (init == INIT_TRUE)
        kaiming_uniform(g, a, na, t->cols);
    else
        normal(g, a, na, 1.0 / l->rank);
}

static enum lt_status parse_init(enum lora_init *init, const struct lt_lora_config *c, struct lt_error *err)
{
    const char *text = c && c->init_lora_weights ? c->init_lora_weights : "true";
    if (strcmp(text, "true") == 0)
        *init = INIT_TRUE;
    else if (strcmp(text, "false") == 0)
        *init = INIT_FALSE;
    else if (strcmp(text, "gaussian") == 0)
        *init = INIT_GAUSSIAN;
    else
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "LoRA cannot be initialised as \"%.60s\"; there are true, false and gaussian", text);
    return LT_OK;
}

/* A trained tensor starts from what the checkpoint holds. */
static enum lt_status copy_tensor(float *out, const struct lt_model_tensor *t, size_t n, struct lt_error *err)
{
    enum lt_dtype dtype;
    if (t->kind == LT_TENSOR_VECTOR) {
        assert(t->vector);
        memcpy(out, t->vector, n * sizeof *out);
        return LT_OK;
    }
    switch (t->weight.format) {
    case LT_WEIGHT_F32:
        dtype = LT_F32;
        break;
    case LT_WEIGHT_F16:
        dtype = LT_F16;
        break;
    case LT_WEIGHT_BF16:
        dtype = LT_BF16;
        break;
    default:
        return lt_fail(err, LT_ERR_INVALID, "cannot train a quantized tensor: %s is stored as %s", t->name,
                       lt_weight_format_name(t->weight.format));
    }
    assert(t->weight.data);
    lt_convert_to_f32(out, t->weight.data, dtype, n);
    return LT_OK;
}

enum lt_status lt_params_init(const struct lt_params *p, const struct lt_model *model,
                              const struct lt_lora_config *config, uint64_t seed, float *values,
                              struct lt_error *err)
{
    struct generator g = {.has_spare = false};
    enum lora_init init = INIT_TRUE;

    LT_TRY(parse_init(&init, config, err));
    memset(values, 0, p->elements * sizeof *values);
    lt_mt19937_seed(&g.mt, seed);
    for (int i = 0; i < model->tensor_count; i++)
        if (model->tensors[i].lora.rank > 0)
            draw_adapter(&g, &model->tensors[i], init, values);
    for (size_t i = 0; i < p->count; i++) {
        const struct lt_param *item = &p->items[i];
        if (item->part == 0)
            LT_TRY(copy_tensor(values + item->offset, &model->tensors[item->tensor], item->elements, err));
    }
    return LT_OK;
}
