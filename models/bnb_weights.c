#include "models/bnb_weights.h"

#include <string.h>

#include "core/base/checked.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "quant/int8.h"
#include "quant/nf4.h"

enum { MAX_NAME = 512 };

static bool find_part(struct lt_checkpoint_tensor *out, const struct lt_checkpoint *ck, const char *name,
                      const char *suffix)
{
    char full[MAX_NAME];
    *out = (struct lt_checkpoint_tensor){0};
    int n = lt_snprintf(full, sizeof full, "%s%s", name, suffix);
    return n > 0 && (size_t)n < sizeof full && lt_checkpoint_find(ck, full, out);
}

/* Finds a part and checks its dtype (any when LT_DTYPE_COUNT) and size. */
static enum lt_status need_part(struct lt_checkpoint_tensor *out, const struct lt_checkpoint *ck,
                                const char *name, const char *suffix, enum lt_dtype dtype, uint64_t bytes,
                                struct lt_error *err)
{
    if (!find_part(out, ck, name, suffix))
        return lt_fail(err, LT_ERR_FORMAT, "tensor %s%s is missing: the quantized checkpoint is incomplete",
                       name, suffix);
    const char *file = lt_path_basename(out->file->map.path);
    if (dtype != LT_DTYPE_COUNT && out->tensor->dtype != dtype)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s%s is stored as %s, but the quant_state needs %s",
                       file, name, suffix, lt_dtype_name(out->tensor->dtype), lt_dtype_name(dtype));
    if (out->tensor->bytes != bytes)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s%s has %llu bytes, but the quant_state needs %llu",
                       file, name, suffix, (unsigned long long)out->tensor->bytes, (unsigned long long)bytes);
    return LT_OK;
}

static enum lt_status find_parts(struct lt_bnb_weight *b, const struct lt_checkpoint *ck, const char *name,
                                 struct lt_error *err)
{
    int64_t n = b->state.shape[0] * b->state.shape[1];
    uint64_t blocks = (uint64_t)lt_quant_blocks(n, b->state.blocksize);
    /* bnb_4bit_quant_storage may call the bytes by another dtype. */
    LT_TRY(need_part(&b->codes, ck, name, "", LT_DTYPE_COUNT, (uint64_t)(n / 2 + n % 2), err));
    LT_TRY(need_part(&b->map, ck, name, ".quant_map", LT_F32, 16 * sizeof(float), err));
    if (!b->state.nested)
        return need_part(&b->absmax, ck, name, ".absmax", LT_F32, blocks * sizeof(float), err);
    LT_TRY(need_part(&b->absmax, ck, name, ".absmax", LT_U8, blocks, err));
    uint64_t groups = (uint64_t)lt_quant_blocks((int64_t)blocks, LT_NESTED_BLOCKSIZE);
    LT_TRY(need_part(&b->nested_absmax, ck, name, ".nested_absmax", LT_F32, groups * sizeof(float), err));
    return need_part(&b->nested_map, ck, name, ".nested_quant_map", LT_F32, 256 * sizeof(float), err);
}

/* "P.weight" with the last word replaced; false when the name has another form. */
static bool sibling_name(char full[MAX_NAME], const char *name, const char *last)
{
    const char *dot = strrchr(name, '.');
    if (!dot || strcmp(dot, ".weight") != 0)
        return false;
    int n = lt_snprintf(full, MAX_NAME, "%.*s%s", (int)(dot - name), name, last);
    return n > 0 && n < MAX_NAME;
}

/* LLM.int8(): I8 codes with a scale a row beside them. */
static enum lt_status find_int8(struct lt_bnb_weight *out, const struct lt_checkpoint *ck, const char *name,
                                int64_t rows, int64_t cols, bool *found, struct lt_error *err)
{
    char scales[MAX_NAME], format[MAX_NAME];
    struct lt_checkpoint_tensor layout;
    *found = lt_checkpoint_find(ck, name, &out->codes) && out->codes.tensor->dtype == LT_I8 &&
             sibling_name(scales, name, ".SCB") && sibling_name(format, name, ".weight_format") &&
             lt_checkpoint_find(ck, scales, &out->absmax);
    if (!*found)
        return LT_OK;
    const char *file = lt_path_basename(out->codes.file->map.path);
    const struct lt_st_tensor *t = out->codes.tensor;
    if (t->ndim != 2 || t->shape[0] != rows || t->shape[1] != cols)
        return lt_fail(err, LT_ERR_FORMAT, "%s: tensor %s is not the [%lld, %lld] that config.json makes it",
                       file, name, (long long)rows, (long long)cols);
    if (cols > LT_INT8_MAX_COLS)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: tensor %s has more than %d columns", file, name,
                       LT_INT8_MAX_COLS);
    LT_TRY(need_part(&out->absmax, ck, scales, "", LT_F32, (uint64_t)rows * sizeof(float), err));
    if (lt_checkpoint_find(ck, format, &layout) &&
        (layout.tensor->bytes != 1 ||
         *(const unsigned char *)lt_safetensors_data(layout.file, layout.tensor) != 0))
        return lt_fail(
            err, LT_ERR_UNSUPPORTED,
            "%s: tensor %s: the codes of %s are not stored row by row; save the model again with a "
            "recent bitsandbytes",
            file, format, name);
    out->state = (struct lt_bnb_state){.quant_type = LT_WEIGHT_INT8, .dtype = LT_F16, .shape = {rows, cols}};
    return LT_OK;
}

enum lt_status lt_bnb_weight_find(struct lt_bnb_weight *out, const struct lt_checkpoint *ck, const char *name,
                                  int64_t rows, int64_t cols, bool *found, struct lt_error *err)
{
    struct lt_checkpoint_tensor state;
    char where[MAX_NAME];
    memset(out, 0, sizeof *out);
    enum lt_weight_format type = LT_WEIGHT_NF4;
    *found = find_part(&state, ck, name, lt_bnb_state_suffix(type));
    if (!*found)
        *found = find_part(&state, ck, name, lt_bnb_state_suffix(type = LT_WEIGHT_FP4));
    if (!*found)
        return find_int8(out, ck, name, rows, cols, found, err);
    lt_snprintf(where, sizeof where, "%s: tensor %s", lt_path_basename(state.file->map.path),
                state.tensor->name);
    LT_TRY(lt_bnb_state_parse(&out->state, lt_safetensors_data(state.file, state.tensor), state.tensor->bytes,
                              where, err));
    if (out->state.quant_type != type)
        return lt_fail(err, LT_ERR_FORMAT, "%s: its quant_type is another one than its name says", where);
    if (out->state.shape[0] != rows || out->state.shape[1] != cols)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: the shape there is [%lld, %lld], but config.json makes it [%lld, %lld]", where,
                       (long long)out->state.shape[0], (long long)out->state.shape[1], (long long)rows,
                       (long long)cols);
    return find_parts(out, ck, name, err);
}

/* In this order parts are placed: that of enum lt_weight_part. */
enum { PART_COUNT = LT_PART_COUNT };

static void parts_of(const struct lt_bnb_weight *b, const struct lt_checkpoint_tensor *parts[PART_COUNT])
{
    parts[0] = &b->codes;
    parts[1] = &b->absmax;
    parts[2] = &b->map;
    parts[3] = &b->nested_absmax;
    parts[4] = &b->nested_map;
}

static bool is_aligned(const struct lt_checkpoint_tensor *part)
{
    return part->tensor->dtype != LT_F32 || part->tensor->offset % sizeof(float) == 0;
}

void lt_bnb_weight_bytes(const struct lt_bnb_weight *b, size_t alignment, size_t *copied, size_t *mapped)
{
    const struct lt_checkpoint_tensor *parts[PART_COUNT];
    parts_of(b, parts);
    *copied = *mapped = 0;
    for (int i = 0; i < PART_COUNT; i++) {
        if (!parts[i]->tensor)
            continue;
        if (is_aligned(parts[i]))
            *mapped += parts[i]->tensor->bytes;
        else
            *copied += lt_align_up(parts[i]->tensor->bytes, alignment);
    }
}

static struct lt_weight describe(const struct lt_bnb_weight *b)
{
    return (struct lt_weight){.format = b->state.quant_type,
                              .rows = b->state.shape[0],
                              .cols = b->state.shape[1],
                              .blocksize = b->state.blocksize,
                              .nested_offset = b->state.nested_offset};
}

void lt_bnb_weight_source(struct lt_weight *w, struct lt_weight_source *source, const struct lt_bnb_weight *b)
{
    const struct lt_checkpoint_tensor *parts[PART_COUNT];
    parts_of(b, parts);
    *w = describe(b);
    memset(source, 0, sizeof *source);
    for (int i = 0; i < PART_COUNT; i++) {
        if (!parts[i]->tensor)
            continue;
        source->parts[i].file = &parts[i]->file->map;
        source->parts[i].offset = parts[i]->tensor->offset;
        source->parts[i].bytes = parts[i]->tensor->bytes;
    }
}

enum lt_status lt_bnb_weight_bind(struct lt_weight *w, const struct lt_bnb_weight *b, size_t alignment,
                                  unsigned char *memory, struct lt_error *err)
{
    const struct lt_checkpoint_tensor *parts[PART_COUNT];
    const void *data[PART_COUNT] = {NULL};
    parts_of(b, parts);
    for (int i = 0; i < PART_COUNT; i++) {
        if (!parts[i]->tensor)
            continue;
        data[i] = lt_safetensors_data(parts[i]->file, parts[i]->tensor);
        if (is_aligned(parts[i]))
            continue;
        LT_TRY(lt_file_map_pread(&parts[i]->file->map, memory, parts[i]->tensor->bytes,
                                 parts[i]->tensor->offset, err));
        data[i] = memory;
        memory += lt_align_up(parts[i]->tensor->bytes, alignment);
    }
    *w = describe(b);
    w->data = data[0];
    w->absmax = b->state.nested ? NULL : data[1];
    w->absmax_codes = b->state.nested ? data[1] : NULL;
    w->code = data[2];
    w->nested_absmax = data[3];
    w->nested_code = data[4];
    return LT_OK;
}
