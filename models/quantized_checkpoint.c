#include "models/quantized_checkpoint.h"

#include <assert.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/base/system.h"
#include "core/io/model_files.h"
#include "quant/bnb_checkpoint.h"
#include "quant/nf4.h"

enum {
    MAX_PARTS = 6,         /* tensors of the file that stand for one quantized weight */
    MAX_STATE_BYTES = 512, /* of the JSON text: some 200 */
    COPY_PIECE = 1 << 20,
    MAX_NAME = 512,
};

/* A tensor of the file that is being written. */
struct part {
    struct conversion *owner;
    struct lt_checkpoint_tensor source; /* copied, when there is one, else in the spool: */
    size_t offset, bytes;
};

struct conversion {
    const struct lt_quantize_options *opt;
    const char *dir;
    struct lt_checkpoint ck;
    struct lt_model *model;
    int *shard; /* [tensor_count] the file of each tensor, ascending */
    int shards;
    /* The quantized parts of one file, until all are there: its header comes first and has their sizes. */
    struct lt_file_writer spool;
    struct lt_file_map spooled;
    struct part *parts; /* of one file */
    size_t part_count;
    unsigned char *buffer; /* [COPY_PIECE] */
    json_t *weight_map;
    uint64_t total_bytes;
};

static enum lt_status no_memory(const struct conversion *c, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_NOMEM, "%s: out of memory while writing the quantized model", c->dir);
}

static bool is_quantized(const struct lt_model_tensor *t)
{
    return t->kind == LT_TENSOR_LINEAR && !t->is_head;
}

/* ---- which tensor goes into which file ---- */

/* At most. */
static uint64_t output_bytes(const struct conversion *c, const struct lt_model_tensor *t)
{
    struct lt_checkpoint_tensor ct;
    if (t->shared >= 0 || !lt_checkpoint_find(&c->ck, t->name, &ct))
        return 0;
    if (!is_quantized(t))
        return ct.tensor->bytes;
    uint64_t n = (uint64_t)(t->rows * t->cols);
    if (c->opt->load.quant == LT_LOAD_INT8)
        return n + (uint64_t)t->rows * sizeof(float) + 1;
    uint64_t blocks = (n + LT_NF4_BLOCKSIZE - 1) / LT_NF4_BLOCKSIZE;
    return (n + 1) / 2 + blocks * sizeof(float) + (16 + 256) * sizeof(float) + MAX_STATE_BYTES;
}

static enum lt_status plan_shards(struct conversion *c, struct lt_error *err)
{
    uint64_t used = 0;
    int count = c->model->tensor_count;
    c->shard = lt_alloc_array((size_t)count, sizeof *c->shard);
    c->parts = lt_alloc_array((size_t)count * MAX_PARTS, sizeof *c->parts);
    c->buffer = lt_alloc(COPY_PIECE);
    c->weight_map = json_object();
    if (!c->shard || !c->parts || !c->buffer || !c->weight_map)
        return no_memory(c, err);
    for (int i = 0; i < count; i++) {
        uint64_t bytes = output_bytes(c, &c->model->tensors[i]);
        if (used > 0 && used + bytes > c->opt->max_shard_bytes) {
            c->shards++;
            used = 0;
        }
        c->shard[i] = c->shards;
        used += bytes;
    }
    c->shards++;
    return LT_OK;
}

/* ---- one tensor ---- */

static enum lt_status produce(void *user, struct lt_file_writer *w, struct lt_error *err)
{
    struct part *p = user;
    struct conversion *c = p->owner;
    for (size_t done = 0; done < p->bytes;) {
        size_t n = p->bytes - done < COPY_PIECE ? p->bytes - done : COPY_PIECE;
        if (lt_cancel_requested())
            return lt_fail(err, LT_ERR_CANCELLED, "writing the quantized model was cancelled");
        if (p->source.tensor)
            LT_TRY(
                lt_file_map_pread(&p->source.file->map, c->buffer, n, p->source.tensor->offset + done, err));
        else
            LT_TRY(lt_file_map_pread(&c->spooled, c->buffer, n, p->offset + done, err));
        LT_TRY(lt_file_writer_put(w, c->buffer, n, err));
        done += n;
    }
    return LT_OK;
}

/* Declares name + suffix for the file `file`. */
static enum lt_status add_part(struct conversion *c, struct lt_st_writer *w, const char *file,
                               const char *name, const char *suffix, enum lt_dtype dtype,
                               const int64_t *shape, int ndim, struct part part, struct lt_error *err)
{
    char full[MAX_NAME];
    int n = lt_snprintf(full, sizeof full, "%s%s", name, suffix);
    if (n < 0 || (size_t)n >= sizeof full)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: a tensor's name is longer than %d bytes", c->ck.dir,
                       MAX_NAME);
    struct part *p = &c->parts[c->part_count++];
    *p = part;
    p->owner = c;
    c->total_bytes += p->bytes;
    if (json_object_set_new(c->weight_map, full, json_string(file)) != 0)
        return no_memory(c, err);
    return lt_st_writer_add_produced(w, full, dtype, shape, ndim, produce, p, err);
}

/* A quantized weight's place in the file being made. */
struct target {
    struct conversion *c;
    struct lt_st_writer *w;
    const char *file, *name;
};

static enum lt_status put(const struct target *t, const char *suffix, enum lt_dtype dtype,
                          const int64_t *shape, int ndim, const void *data, struct lt_error *err)
{
    struct conversion *c = t->c;
    struct part part = {.offset = c->spool.written, .bytes = lt_dtype_bits(dtype) / 8};
    for (int i = 0; i < ndim; i++)
        part.bytes *= (size_t)shape[i];
    LT_TRY(lt_file_writer_put(&c->spool, data, part.bytes, err));
    return add_part(c, t->w, t->file, t->name, suffix, dtype, shape, ndim, part, err);
}

static enum lt_status put_4bit(const struct target *t, const struct lt_weight *w, enum lt_dtype dtype,
                               struct lt_error *err)
{
    const int64_t n = w->rows * w->cols, blocks = lt_quant_blocks(n, w->blocksize);
    const int64_t codes[2] = {n / 2 + n % 2, 1}, map = 16, nested_map = 256;
    LT_TRY(put(t, "", LT_U8, codes, 2, w->data, err));
    LT_TRY(put(t, ".quant_map", LT_F32, &map, 1, w->code, err));
    if (w->absmax) {
        LT_TRY(put(t, ".absmax", LT_F32, &blocks, 1, w->absmax, err));
    } else {
        const int64_t groups = lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE);
        LT_TRY(put(t, ".absmax", LT_U8, &blocks, 1, w->absmax_codes, err));
        LT_TRY(put(t, ".nested_absmax", LT_F32, &groups, 1, w->nested_absmax, err));
        LT_TRY(put(t, ".nested_quant_map", LT_F32, &nested_map, 1, w->nested_code, err));
    }
    struct lt_bnb_state state = {.quant_type = w->format,
                                 .blocksize = w->blocksize,
                                 .dtype = dtype == LT_F16 || dtype == LT_BF16 ? dtype : LT_F32,
                                 .shape = {w->rows, w->cols},
                                 .nested = !w->absmax,
                                 .nested_blocksize = LT_NESTED_BLOCKSIZE,
                                 .nested_dtype = LT_F32,
                                 .nested_offset = w->nested_offset};
    struct lt_strbuf text;
    lt_strbuf_init(&text);
    lt_bnb_state_format(&text, &state);
    const int64_t length = (int64_t)text.len;
    enum lt_status status = lt_strbuf_ok(&text)
                                ? put(t, lt_bnb_state_suffix(w->format), LT_U8, &length, 1, text.data, err)
                                : no_memory(t->c, err);
    lt_strbuf_deinit(&text);
    return status;
}

static enum lt_status put_int8(const struct target *t, const struct lt_weight *w, struct lt_error *err)
{
    static const unsigned char row_by_row = 0;
    char module[MAX_NAME];
    const int64_t shape[2] = {w->rows, w->cols};
    const char *dot = strrchr(t->name, '.');
    int n = lt_snprintf(module, sizeof module, "%.*s", (int)(dot - t->name), t->name);
    if (n < 0 || (size_t)n >= sizeof module)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: a tensor's name is longer than %d bytes", t->c->ck.dir,
                       MAX_NAME);
    struct target beside = *t;
    beside.name = module;
    LT_TRY(put(t, "", LT_I8, shape, 2, w->data, err));
    LT_TRY(put(&beside, ".SCB", LT_F32, &shape[0], 1, w->absmax, err));
    return put(&beside, ".weight_format", LT_U8, NULL, 0, &row_by_row, err);
}

static enum lt_status add_tensor(struct conversion *c, struct lt_st_writer *w, const char *file, int number,
                                 struct lt_error *err)
{
    struct lt_model_tensor *t = &c->model->tensors[number];
    struct lt_checkpoint_tensor ct;
    if (t->shared >= 0)
        return LT_OK;
    if (!lt_checkpoint_find(&c->ck, t->name, &ct))
        return lt_fail(err, LT_ERR_NOT_FOUND, "%s: tensor %s is not in the checkpoint any more", c->ck.dir,
                       t->name);
    if (!is_quantized(t)) {
        struct part part = {.source = ct, .bytes = ct.tensor->bytes};
        return add_part(c, w, file, t->name, "", ct.tensor->dtype, ct.tensor->shape, ct.tensor->ndim, part,
                        err);
    }
    LT_TRY(lt_model_load_one(c->model, &c->ck, &c->opt->load, number, err));
    const struct target target = {.c = c, .w = w, .file = file, .name = t->name};
    return t->weight.format == LT_WEIGHT_INT8 ? put_int8(&target, &t->weight, err)
                                              : put_4bit(&target, &t->weight, ct.tensor->dtype, err);
}

/* ---- one file ---- */

/* `first` is the number of the first tensor of the file; its parts are declared and quantized. */
static enum lt_status add_tensors(struct conversion *c, struct lt_st_writer *w, const char *file, int first,
                                  struct lt_error *err)
{
    LT_TRY(lt_st_writer_metadata(w, "format", "pt", err));
    for (int i = first; i < c->model->tensor_count && c->shard[i] == c->shard[first]; i++) {
        LT_TRY(add_tensor(c, w, file, i, err));
        if (c->opt->progress)
            c->opt->progress(c->opt->user, i + 1, c->model->tensor_count);
    }
    return LT_OK;
}

static enum lt_status declare_and_save(struct conversion *c, struct lt_st_writer *w, const char *name,
                                       const char *spool, int first, struct lt_error *err)
{
    char *path = lt_path_join(c->dir, name);
    enum lt_status status = path ? lt_file_writer_open(&c->spool, spool, err) : no_memory(c, err);
    if (status == LT_OK)
        status = add_tensors(c, w, name, first, err);
    if (status == LT_OK)
        status = lt_file_writer_commit(&c->spool, err);
    if (status == LT_OK)
        status = lt_file_map_open(&c->spooled, spool, err);
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, err);
    lt_file_writer_abort(&c->spool);
    lt_file_map_close(&c->spooled);
    lt_free(path);
    return status;
}

static enum lt_status write_file(struct conversion *c, const char *spool_dir, int first, struct lt_error *err)
{
    char name[64] = "model.safetensors";
    struct lt_st_writer *w = NULL;
    if (c->shards > 1)
        lt_snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", c->shard[first] + 1, c->shards);
    c->part_count = 0;
    char *spool = lt_path_join(spool_dir, "quantized");
    enum lt_status status = spool ? lt_dir_create(spool_dir, err) : no_memory(c, err);
    if (status == LT_OK)
        status = lt_st_writer_create(&w, err);
    if (status == LT_OK)
        status = declare_and_save(c, w, name, spool, first, err);
    if (status == LT_OK)
        status = lt_dir_remove_tree(spool_dir, err);
    lt_st_writer_destroy(w);
    lt_free(spool);
    return status;
}

static enum lt_status write_files(struct conversion *c, struct lt_error *err)
{
    char *spool_dir = lt_path_join(c->dir, "unfinished");
    enum lt_status status = spool_dir ? LT_OK : no_memory(c, err);
    for (int i = 0; i < c->model->tensor_count && status == LT_OK; i++)
        if (i == 0 || c->shard[i] != c->shard[i - 1])
            status = write_file(c, spool_dir, i, err);
    lt_free(spool_dir);
    return status;
}

static enum lt_status save_json(const struct conversion *c, const json_t *v, const char *name,
                                struct lt_error *err)
{
    char *path = lt_path_join(c->dir, name);
    enum lt_status status = path && v ? lt_json_save(v, path, 2, err) : no_memory(c, err);
    lt_free(path);
    return status;
}

static enum lt_status write_weights(struct conversion *c, struct lt_error *err)
{
    LT_TRY(write_files(c, err));
    if (c->shards == 1)
        return LT_OK;
    json_t *index = json_pack("{s:{s:I, s:I}, s:O}", "metadata", "total_parameters",
                              (json_int_t)c->model->parameters, "total_size", (json_int_t)c->total_bytes,
                              "weight_map", c->weight_map);
    enum lt_status status = save_json(c, index, "model.safetensors.index.json", err);
    json_decref(index);
    return status;
}

/* ---- config.json ---- */

/* The element type in which transformers is to multiply: the model's own. */
static const char *compute_dtype(const json_t *config)
{
    static const char *const known[] = {"float32", "float16", "bfloat16"};
    const json_t *v = json_object_get(config, "dtype");
    const char *name = json_string_value(v ? v : json_object_get(config, "torch_dtype"));
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i]) == 0)
            return known[i];
    return known[0];
}

static enum lt_status write_config(const struct conversion *c, struct lt_error *err)
{
    const struct lt_load_options *load = &c->opt->load;
    const int eight = load->quant == LT_LOAD_INT8, four = !eight;
    const char *type = load->quant == LT_LOAD_NF4 ? "nf4" : "fp4"; /* the default where it says nothing */
    json_t *config = json_copy(c->ck.config);
    json_t *q = json_pack(
        "{s:b, s:b, s:b, s:b, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:n}", "_load_in_4bit", four,
        "_load_in_8bit", eight, "load_in_4bit", four, "load_in_8bit", eight, "quant_method", "bitsandbytes",
        "bnb_4bit_compute_dtype", compute_dtype(c->ck.config), "bnb_4bit_quant_storage", "uint8",
        "bnb_4bit_quant_type", type, "bnb_4bit_use_double_quant", (int)load->double_quant,
        "llm_int8_enable_fp32_cpu_offload", 0, "llm_int8_has_fp16_weight", 0, "llm_int8_threshold",
        eight ? (double)load->int8_threshold : 6.0, "llm_int8_skip_modules");
    enum lt_status status = config && json_object_set_new(config, "quantization_config", q) == 0
                                ? save_json(c, config, "config.json", err)
                                : no_memory(c, err);
    json_decref(config);
    return status;
}

/* ---- the folder ---- */

static enum lt_status open_source(struct conversion *c, const char *from, struct lt_error *err)
{
    LT_TRY(lt_checkpoint_open(&c->ck, from, err));
    const json_t *quantized = json_object_get(c->ck.config, "quantization_config");
    if (quantized && !json_is_null(quantized))
        return lt_fail(err, LT_ERR_INVALID, "%s: the checkpoint is quantized already; give the original one",
                       from);
    return lt_model_open(&c->model, &c->ck, from, err);
}

static enum lt_status write_folder(struct conversion *c, const char *from, struct lt_error *err)
{
    LT_TRY(plan_shards(c, err));
    LT_TRY(write_weights(c, err));
    LT_TRY(write_config(c, err));
    LT_TRY(lt_model_file_copy(from, c->dir, "generation_config.json", err));
    return lt_tokenizer_files_copy(from, c->dir, err);
}

static enum lt_status taken_error(const char *to, struct lt_error *err)
{
    return lt_fail(err, LT_ERR_INVALID, "%s: is there already and not an empty folder; name another one", to);
}

static enum lt_status check_free(const char *to, struct lt_error *err)
{
    char **names;
    size_t count;
    if (lt_file_kind(to) == LT_FILE_NONE)
        return LT_OK;
    if (lt_file_kind(to) != LT_FILE_DIRECTORY)
        return taken_error(to, err);
    LT_TRY(lt_dir_list(to, &names, &count, err));
    lt_dir_list_free(names, count);
    return count == 0 ? LT_OK : taken_error(to, err);
}

static enum lt_status write_and_publish(struct conversion *c, const char *from, const char *to,
                                        struct lt_error *err)
{
    char *temp = NULL;
    bool taken = false;
    LT_TRY(lt_dir_temp_create(&temp, to, err));
    c->dir = temp;
    enum lt_status status = write_folder(c, from, err);
    if (status == LT_OK)
        status = lt_dir_publish(temp, to, &taken, err);
    if (status == LT_OK && taken)
        status = taken_error(to, err);
    struct lt_error ignored;
    if (status != LT_OK && lt_dir_remove_tree(temp, &ignored) != LT_OK)
        lt_log(LT_LOG_WARNING, "%s: %s", temp, ignored.message);
    lt_free(temp);
    return status;
}

enum lt_status lt_quantize_checkpoint(const char *from, const char *to, const struct lt_quantize_options *opt,
                                      struct lt_error *err)
{
    struct conversion c = {.opt = opt, .dir = to};
    assert(opt->load.quant != LT_LOAD_AS_STORED && opt->load.quant != LT_LOAD_F32);
    LT_TRY(check_free(to, err));
    enum lt_status status = open_source(&c, from, err);
    if (status == LT_OK)
        status = write_and_publish(&c, from, to, err);
    json_decref(c.weight_map);
    lt_free(c.buffer);
    lt_free(c.parts);
    lt_free(c.shard);
    lt_model_destroy(c.model);
    lt_checkpoint_close(&c.ck);
    return status;
}
