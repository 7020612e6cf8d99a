#include "quant/bnb_checkpoint.h"

#include <assert.h>
#include <jansson.h>
#include <string.h>

#include "core/base/checked.h"
#include "quant/nf4.h"

/* The text has some 170 bytes; whatever is far longer is something else. */
enum { MAX_STATE_BYTES = 65536 };

static const struct {
    const char *name;
    enum lt_dtype dtype;
} dtype_names[] = {{"float32", LT_F32}, {"float16", LT_F16}, {"bfloat16", LT_BF16}};

enum { DTYPE_NAME_COUNT = sizeof dtype_names / sizeof dtype_names[0] };

static const char *dtype_name(enum lt_dtype dtype)
{
    for (int i = 0; i < DTYPE_NAME_COUNT; i++)
        if (dtype_names[i].dtype == dtype)
            return dtype_names[i].name;
    assert(!"a dtype that a 4-bit weight cannot come from");
    return "float32";
}

const char *lt_bnb_state_suffix(enum lt_weight_format quant_type)
{
    assert(quant_type == LT_WEIGHT_NF4 || quant_type == LT_WEIGHT_FP4);
    return quant_type == LT_WEIGHT_NF4 ? ".quant_state.bitsandbytes__nf4" : ".quant_state.bitsandbytes__fp4";
}

static enum lt_status get_dtype(enum lt_dtype *out, const json_t *obj, const char *key, const char *where,
                                struct lt_error *err)
{
    const char *name = json_string_value(json_object_get(obj, key));
    if (!name)
        return lt_fail(err, LT_ERR_FORMAT, "%s: %s must be a string", where, key);
    for (int i = 0; i < DTYPE_NAME_COUNT; i++) {
        if (strcmp(name, dtype_names[i].name) == 0) {
            *out = dtype_names[i].dtype;
            return LT_OK;
        }
    }
    return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: %s is \"%s\"; float32, float16 and bfloat16 are supported",
                   where, key, name);
}

static enum lt_status get_quant_type(struct lt_bnb_state *out, const json_t *obj, const char *where,
                                     struct lt_error *err)
{
    const char *name = json_string_value(json_object_get(obj, "quant_type"));
    if (!name)
        return lt_fail(err, LT_ERR_FORMAT, "%s: quant_type must be a string", where);
    if (strcmp(name, "nf4") == 0)
        out->quant_type = LT_WEIGHT_NF4;
    else if (strcmp(name, "fp4") == 0)
        out->quant_type = LT_WEIGHT_FP4;
    else
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: quant_type is \"%s\"; nf4 and fp4 are supported", where,
                       name);
    return LT_OK;
}

static enum lt_status get_blocksize(struct lt_bnb_state *out, const json_t *obj, const char *where,
                                    struct lt_error *err)
{
    const json_t *v = json_object_get(obj, "blocksize");
    json_int_t size = json_is_integer(v) ? json_integer_value(v) : 0;
    if (size < 32 || size > 4096 || (size & (size - 1)) != 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: blocksize must be a power of two between 32 and 4096", where);
    out->blocksize = (int32_t)size;
    return LT_OK;
}

static enum lt_status get_shape(struct lt_bnb_state *out, const json_t *obj, const char *where,
                                struct lt_error *err)
{
    const json_t *v = json_object_get(obj, "shape");
    if (!json_is_array(v))
        return lt_fail(err, LT_ERR_FORMAT, "%s: shape must be an array", where);
    if (json_array_size(v) != 2)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: shape has %lld dimensions; only matrices are supported",
                       where, (long long)json_array_size(v));
    for (size_t i = 0; i < 2; i++) {
        const json_t *dim = json_array_get(v, i);
        if (!json_is_integer(dim) || json_integer_value(dim) <= 0)
            return lt_fail(err, LT_ERR_FORMAT, "%s: shape must hold two positive integers", where);
        out->shape[i] = json_integer_value(dim);
    }
    int64_t n;
    if (!lt_mul_i64(out->shape[0], out->shape[1], &n))
        return lt_fail(err, LT_ERR_FORMAT, "%s: a shape of [%lld, %lld] is too large", where,
                       (long long)out->shape[0], (long long)out->shape[1]);
    return LT_OK;
}

static enum lt_status get_nested(struct lt_bnb_state *out, const json_t *obj, const char *where,
                                 struct lt_error *err)
{
    const json_t *v = json_object_get(obj, "nested_blocksize");
    if (!v || json_is_null(v) || (json_is_integer(v) && json_integer_value(v) == 0))
        return LT_OK;
    if (!json_is_integer(v))
        return lt_fail(err, LT_ERR_FORMAT, "%s: nested_blocksize must be an integer", where);
    if (json_integer_value(v) != LT_NESTED_BLOCKSIZE)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: nested_blocksize is %lld; only %d is supported", where,
                       (long long)json_integer_value(v), LT_NESTED_BLOCKSIZE);
    LT_TRY(get_dtype(&out->nested_dtype, obj, "nested_dtype", where, err));
    if (out->nested_dtype != LT_F32)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: nested_dtype is %s; only float32 is supported", where,
                       dtype_name(out->nested_dtype));

    v = json_object_get(obj, "nested_offset");
    if (!json_is_number(v))
        return lt_fail(err, LT_ERR_FORMAT, "%s: nested_offset must be a number", where);
    double offset = json_number_value(v);
    if (!(offset >= -0x1.fffffep+127 && offset <= 0x1.fffffep+127))
        return lt_fail(err, LT_ERR_FORMAT, "%s: nested_offset is beyond the range of float32", where);
    out->nested_offset = (float)offset;
    out->nested_blocksize = LT_NESTED_BLOCKSIZE;
    out->nested = true;
    return LT_OK;
}

static enum lt_status parse_object(struct lt_bnb_state *out, const json_t *obj, const char *where,
                                   struct lt_error *err)
{
    if (!json_is_object(obj))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the quant_state must be a JSON object", where);
    LT_TRY(get_quant_type(out, obj, where, err));
    LT_TRY(get_blocksize(out, obj, where, err));
    LT_TRY(get_dtype(&out->dtype, obj, "dtype", where, err));
    LT_TRY(get_shape(out, obj, where, err));
    return get_nested(out, obj, where, err);
}

enum lt_status lt_bnb_state_parse(struct lt_bnb_state *out, const void *json, size_t n, const char *where,
                                  struct lt_error *err)
{
    *out = (struct lt_bnb_state){.nested_dtype = LT_F32};
    if (n > MAX_STATE_BYTES)
        return lt_fail(err, LT_ERR_FORMAT, "%s: the quant_state has %llu bytes; at most %d are expected",
                       where, (unsigned long long)n, MAX_STATE_BYTES);
    json_error_t problem;
    json_t *obj = json_loadb(json, n, JSON_REJECT_DUPLICATES, &problem);
    if (!obj) {
        if (json_error_code(&problem) == json_error_out_of_memory)
            return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while reading the quant_state", where);
        return lt_fail(err, LT_ERR_FORMAT, "%s: the quant_state is no valid JSON at byte %d: %s", where,
                       problem.position, problem.text);
    }
    enum lt_status status = parse_object(out, obj, where, err);
    json_decref(obj);
    return status;
}

/* json.dumps writes what JSON cannot express as JavaScript does. */
static void put_float(struct lt_strbuf *sb, float v)
{
    if (v != v)
        lt_strbuf_puts(sb, "NaN");
    else if (v > 0x1.fffffep+127f || v < -0x1.fffffep+127f)
        lt_strbuf_puts(sb, v > 0.0f ? "Infinity" : "-Infinity");
    else
        lt_strbuf_put_double(sb, (double)v);
}

void lt_bnb_state_format(struct lt_strbuf *sb, const struct lt_bnb_state *state)
{
    assert(state->quant_type == LT_WEIGHT_NF4 || state->quant_type == LT_WEIGHT_FP4);
    lt_strbuf_printf(sb, "{\"quant_type\": \"%s\", \"blocksize\": %d, ",
                     state->quant_type == LT_WEIGHT_NF4 ? "nf4" : "fp4", (int)state->blocksize);
    lt_strbuf_printf(sb, "\"dtype\": \"%s\", \"shape\": [%lld, %lld]", dtype_name(state->dtype),
                     (long long)state->shape[0], (long long)state->shape[1]);
    if (state->nested) {
        lt_strbuf_printf(sb, ", \"nested_blocksize\": %d, \"nested_dtype\": \"%s\", \"nested_offset\": ",
                         (int)state->nested_blocksize, dtype_name(state->nested_dtype));
        put_float(sb, state->nested_offset);
    }
    lt_strbuf_putc(sb, '}');
}
