#include "models/rope.h"

#include <math.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/io/json.h"

static const double PI = 3.141592653589793;

/* What a scaling is computed from. */
struct scaling {
    struct lt_config params; /* the object that holds the scaling fields */
    const char *type;
    double theta;
    int32_t max_positions;
    double factor; /* >= 1 */
};

/* inv_freq[k] = 1 / theta^(2k/R), rounded after each operation as torch does it in f32. */
static void plain_frequencies(float *inv_freq, int32_t rotary, double theta)
{
    for (int32_t k = 0; k < rotary / 2; k++) {
        float exponent = (float)(2 * k) / (float)rotary;
        inv_freq[k] = 1.0f / (float)pow((double)(float)theta, (double)exponent);
    }
}

/* A number that this type of scaling cannot do without. */
static enum lt_status need_number(const struct scaling *s, const char *key, double lo, double hi, double *out,
                                  struct lt_error *err)
{
    if (!json_is_number(json_object_get(s->params.json, key)))
        return lt_fail(err, LT_ERR_FORMAT, "%s: rope scaling \"%s\" needs a number \"%s\"", s->params.where,
                       s->type, key);
    return lt_config_number(&s->params, key, lo, lo, hi, out, err);
}

static enum lt_status get_factor(struct scaling *s, struct lt_error *err)
{
    return need_number(s, "factor", 1, 1e6, &s->factor, err);
}

static enum lt_status scale_linear(struct lt_rope *rope, struct scaling *s, struct lt_error *err)
{
    LT_TRY(get_factor(s, err));
    for (int32_t k = 0; k < rope->rotary / 2; k++)
        rope->inv_freq[k] /= (float)s->factor;
    return LT_OK;
}

/* Up to the original length nothing is scaled, and longer sequences would change the frequencies of the whole
 * sequence: the model is offered for the original length. */
static enum lt_status scale_dynamic(struct lt_rope *rope, struct scaling *s, struct lt_error *err)
{
    LT_TRY(get_factor(s, err));
    return lt_config_count(&s->params, "original_max_position_embeddings", NULL, s->max_positions,
                           s->max_positions, &rope->max_positions, err);
}

static enum lt_status scale_llama3(struct lt_rope *rope, struct scaling *s, struct lt_error *err)
{
    double lo, hi;
    int32_t original;
    LT_TRY(get_factor(s, err));
    LT_TRY(need_number(s, "low_freq_factor", 1e-3, 1e6, &lo, err));
    LT_TRY(need_number(s, "high_freq_factor", 1e-3, 1e6, &hi, err));
    LT_TRY(lt_config_count(&s->params, "original_max_position_embeddings", NULL, 0, LT_CONFIG_MAX_POSITIONS,
                           &original, err));
    if (!(hi > lo))
        return lt_fail(err, LT_ERR_FORMAT, "%s: high_freq_factor %g must be above low_freq_factor %g",
                       s->params.where, hi, lo);
    float factor = (float)s->factor;
    for (int32_t k = 0; k < rope->rotary / 2; k++) {
        float f = rope->inv_freq[k];
        float wavelength = (float)(2 * PI) / f;
        if (wavelength < (float)(original / hi))
            continue;
        if (wavelength > (float)(original / lo)) {
            rope->inv_freq[k] = f / factor;
            continue;
        }
        float t = ((float)original / wavelength - (float)lo) / (float)(hi - lo);
        rope->inv_freq[k] = (1.0f - t) * f / factor + t * f;
    }
    return LT_OK;
}

static double yarn_mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

static enum lt_status yarn_attention_factor(struct lt_rope *rope, const struct scaling *s,
                                            struct lt_error *err)
{
    double given = 0, mscale = 0, mscale_all = 0;
    LT_TRY(lt_config_number(&s->params, "mscale", 0, 0, 1e3, &mscale, err));
    LT_TRY(lt_config_number(&s->params, "mscale_all_dim", 0, 0, 1e3, &mscale_all, err));
    double factor = mscale > 0 && mscale_all > 0
                        ? yarn_mscale(s->factor, mscale) / yarn_mscale(s->factor, mscale_all)
                        : yarn_mscale(s->factor, 1);
    LT_TRY(lt_config_number(&s->params, "attention_factor", factor, 1e-3, 1e3, &given, err));
    rope->attention_factor = (float)given;
    return LT_OK;
}

/* The dimension whose wavelength makes `rotations` turns within the original length. */
static double yarn_dimension(const struct lt_rope *rope, double theta, double rotations)
{
    return rope->rotary * log(rope->original_positions / (rotations * 2 * PI)) / (2 * log(theta));
}

static enum lt_status scale_yarn(struct lt_rope *rope, struct scaling *s, struct lt_error *err)
{
    double fast, slow;
    bool truncate;
    LT_TRY(lt_config_count(&s->params, "original_max_position_embeddings", NULL, s->max_positions,
                           LT_CONFIG_MAX_POSITIONS, &rope->original_positions, err));
    if (json_is_null(json_object_get(s->params.json, "factor")))
        s->factor = fmax(1, (double)s->max_positions / rope->original_positions);
    else
        LT_TRY(get_factor(s, err));
    LT_TRY(yarn_attention_factor(rope, s, err));
    LT_TRY(lt_config_number(&s->params, "beta_fast", 32, 1e-3, 1e6, &fast, err));
    LT_TRY(lt_config_number(&s->params, "beta_slow", 1, 1e-3, 1e6, &slow, err));
    LT_TRY(lt_config_bool(&s->params, "truncate", true, &truncate, err));
    double low = yarn_dimension(rope, s->theta, fast), high = yarn_dimension(rope, s->theta, slow);
    if (truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rope->rotary - 1);
    if (low == high)
        high += 0.001;
    for (int32_t k = 0; k < rope->rotary / 2; k++) {
        float f = rope->inv_freq[k];
        float ramp = ((float)k - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        rope->inv_freq[k] = f / (float)s->factor * ramp + f * (1.0f - ramp);
    }
    return LT_OK;
}

static enum lt_status divide_by_list(float *inv_freq, int32_t n, const struct scaling *s, const char *key,
                                     struct lt_error *err)
{
    const json_t *list = json_object_get(s->params.json, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return lt_fail(err, LT_ERR_FORMAT, "%s: rope scaling \"%s\" needs a list %s of %d numbers",
                       s->params.where, s->type, key, (int)n);
    for (int32_t k = 0; k < n; k++) {
        double v = json_number_value(json_array_get(list, (size_t)k));
        if (!(v > 1e-6 && v < 1e9))
            return lt_fail(err, LT_ERR_FORMAT, "%s: %s[%d] must be a positive number", s->params.where, key,
                           (int)k);
        inv_freq[k] /= (float)v;
    }
    return LT_OK;
}

static enum lt_status scale_longrope(struct lt_rope *rope, struct scaling *s, const struct lt_config *cfg,
                                     struct lt_error *err)
{
    int32_t n = rope->rotary / 2;
    const struct lt_config *holder =
        json_object_get(cfg->json, "original_max_position_embeddings") ? cfg : &s->params;
    LT_TRY(lt_config_count(holder, "original_max_position_embeddings", NULL, s->max_positions,
                           LT_CONFIG_MAX_POSITIONS, &rope->original_positions, err));
    rope->inv_freq_long = lt_alloc_array((size_t)n, sizeof *rope->inv_freq_long);
    if (!rope->inv_freq_long)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for rope frequencies", s->params.where);
    memcpy(rope->inv_freq_long, rope->inv_freq, (size_t)n * sizeof *rope->inv_freq);
    LT_TRY(divide_by_list(rope->inv_freq, n, s, "short_factor", err));
    LT_TRY(divide_by_list(rope->inv_freq_long, n, s, "long_factor", err));
    double ratio = (double)s->max_positions / rope->original_positions, given;
    double factor = ratio <= 1 ? 1 : sqrt(1 + log(ratio) / log(rope->original_positions));
    LT_TRY(lt_config_number(&s->params, "attention_factor", factor, 1e-3, 1e3, &given, err));
    rope->attention_factor = (float)given;
    return LT_OK;
}

static enum lt_status scale(struct lt_rope *rope, struct scaling *s, const struct lt_config *cfg,
                            struct lt_error *err)
{
    bool lists = json_object_get(s->params.json, "short_factor") != NULL;
    if (strcmp(s->type, "default") == 0)
        return LT_OK;
    if (strcmp(s->type, "linear") == 0)
        return scale_linear(rope, s, err);
    if (strcmp(s->type, "dynamic") == 0)
        return scale_dynamic(rope, s, err);
    if (strcmp(s->type, "llama3") == 0)
        return scale_llama3(rope, s, err);
    if (strcmp(s->type, "longrope") == 0 || strcmp(s->type, "su") == 0 ||
        (strcmp(s->type, "yarn") == 0 && lists))
        return scale_longrope(rope, s, cfg, err);
    if (strcmp(s->type, "yarn") == 0)
        return scale_yarn(rope, s, err);
    struct lt_json_excerpt shown;
    return lt_fail(
        err, LT_ERR_UNSUPPORTED,
        "%s: rope scaling \"%s\" is not supported; default, linear, dynamic, llama3, yarn and longrope are",
        s->params.where, lt_json_excerpt(&shown, s->type));
}

/* 5.x keeps everything in rope_parameters; 4.x has rope_theta and partial_rotary_factor beside rope_scaling. */
static enum lt_status read_scaling(struct scaling *s, const struct lt_config *cfg, double theta_fallback,
                                   double *partial, struct lt_error *err)
{
    const char *key = "rope_parameters";
    const json_t *params = json_object_get(cfg->json, key);
    if (!params || json_is_null(params))
        params = json_object_get(cfg->json, key = "rope_scaling");
    if (params && !json_is_null(params) && !json_is_object(params))
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be an object, found %s", cfg->where, key,
                       lt_json_type_name(params));
    s->params = (struct lt_config){.json = params, .where = cfg->where};
    s->type = "default";
    LT_TRY(lt_json_get_string(params, "type", &s->type, cfg->where, err));
    LT_TRY(lt_json_get_string(params, "rope_type", &s->type, cfg->where, err));
    LT_TRY(lt_config_number(cfg, "rope_theta", theta_fallback, 1.001, 1e15, &s->theta, err));
    LT_TRY(lt_config_number(&s->params, "rope_theta", s->theta, 1.001, 1e15, &s->theta, err));
    LT_TRY(lt_config_number(cfg, "partial_rotary_factor", 1, 1e-3, 1, partial, err));
    return lt_config_number(&s->params, "partial_rotary_factor", *partial, 1e-3, 1, partial, err);
}

enum lt_status lt_rope_init(struct lt_rope *rope, const struct lt_config *cfg, double theta_fallback,
                            int32_t head_dim, int32_t max_positions, struct lt_error *err)
{
    struct scaling s = {.max_positions = max_positions, .factor = 1};
    double partial;
    memset(rope, 0, sizeof *rope);
    LT_TRY(read_scaling(&s, cfg, theta_fallback, &partial, err));
    rope->rotary = (int32_t)(head_dim * partial);
    rope->max_positions = max_positions;
    rope->attention_factor = 1;
    if (rope->rotary < 2 || rope->rotary % 2 != 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: %d of the %d elements of a head would be rotated; an even number is needed",
                       cfg->where, (int)rope->rotary, (int)head_dim);
    rope->inv_freq = lt_alloc_array((size_t)rope->rotary / 2, sizeof *rope->inv_freq);
    if (!rope->inv_freq)
        return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory for rope frequencies", cfg->where);
    plain_frequencies(rope->inv_freq, rope->rotary, s.theta);
    enum lt_status status = scale(rope, &s, cfg, err);
    if (status != LT_OK)
        lt_rope_deinit(rope);
    return status;
}

void lt_rope_deinit(struct lt_rope *rope)
{
    lt_free(rope->inv_freq);
    lt_free(rope->inv_freq_long);
    memset(rope, 0, sizeof *rope);
}

void lt_rope_row(const struct lt_rope *rope, int32_t run_positions, int64_t position, float *row)
{
    bool is_long = rope->inv_freq_long && run_positions > rope->original_positions;
    const float *inv_freq = is_long ? rope->inv_freq_long : rope->inv_freq;
    int32_t half = rope->rotary / 2;
    for (int32_t k = 0; k < half; k++) {
        float angle = (float)position * inv_freq[k];
        row[k] = (float)cos((double)angle) * rope->attention_factor;
        row[half + k] = (float)sin((double)angle) * rope->attention_factor;
    }
}
