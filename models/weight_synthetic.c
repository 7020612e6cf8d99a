#include "models/weight_synthetic.h"

#include <assert.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/rng.h"
#include "core/base/system.h"
#include "core/tensor/dtype.h"
#include "models/arch.h"
#include "quant/dynamic_map.h"
#include "quant/nf4.h"

/* CHUNK: random words drawn at a time by one thread. */
enum { ALIGNMENT = 64, CHUNK = 4096 };

/* Uniform numbers in [-SPREAD, SPREAD) have the deviation 0.02; so many deviations is the expected largest
 * magnitude of 64 normally distributed numbers. */
#define DEVIATION 0.02f
#define SPREAD (DEVIATION * 1.7320508f)
#define LARGEST_OF_BLOCK (DEVIATION * 2.5f)

static size_t aligned(int64_t n, size_t size)
{
    return lt_align_up((size_t)n * size, ALIGNMENT);
}

static bool is_block_format(enum lt_weight_format format)
{
    return format == LT_WEIGHT_NF4 || format == LT_WEIGHT_FP4;
}

static bool is_quantized(enum lt_weight_format format)
{
    return format >= LT_WEIGHT_NF4;
}

/* ---- parts of one weight ---- */

/* The parts of a tensor draw from streams of their own. */
enum part { PART_ELEMENTS, PART_SCALES };

struct source {
    struct lt_rng_site site;
    int threads;
};

static struct source part_source(const struct lt_synthetic_options *opt, uint32_t stream, enum part part)
{
    return (struct source){.site = {.seed = opt->seed, .step = (uint32_t)part, .site = stream},
                           .threads = opt->threads < 1 ? 1 : opt->threads};
}

/* Random words from dst on: words are the unit, so the block's padding takes the rest of the last one. */
static void fill_words(void *dst, int64_t bytes, const struct source *s)
{
    uint32_t *words = dst;
    int64_t n = lt_div_up(bytes, sizeof *words), chunks = lt_div_up(n, CHUNK);
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int64_t c = 0; c < chunks; c++)
        lt_rng_bits_row(words + c * CHUNK, (size_t)lt_min_i64(CHUNK, n - c * CHUNK), &s->site, (uint64_t)c,
                        0);
}

/* dst[i] uniform in [middle - spread, middle + spread). */
static void fill_numbers(void *dst, enum lt_dtype dtype, int64_t n, float middle, float spread,
                         const struct source *s)
{
    int64_t chunks = lt_div_up(n, CHUNK), size = lt_dtype_bits(dtype) / 8;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int64_t c = 0; c < chunks; c++) {
        uint32_t bits[CHUNK];
        float values[CHUNK];
        size_t count = (size_t)lt_min_i64(CHUNK, n - c * CHUNK);
        lt_rng_bits_row(bits, count, &s->site, (uint64_t)c, 0);
        for (size_t i = 0; i < count; i++)
            values[i] = middle + spread * (2 * lt_bits_to_unit(bits[i]) - 1);
        lt_convert_from_f32((unsigned char *)dst + c * CHUNK * size, values, dtype, count);
    }
}

/* ---- one weight ---- */

size_t lt_synthetic_weight_bytes(enum lt_weight_format format, int64_t rows, int64_t cols, bool double_quant)
{
    int64_t n = rows * cols, blocks = lt_quant_blocks(n, LT_NF4_BLOCKSIZE);
    size_t data = lt_align_up(lt_weight_data_bytes(format, rows, cols), ALIGNMENT);
    if (format == LT_WEIGHT_INT8)
        return data + aligned(rows, sizeof(float));
    if (!is_block_format(format))
        return data;
    if (!double_quant)
        return data + aligned(blocks, sizeof(float));
    return data + aligned(blocks, 1) + aligned(lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE), sizeof(float));
}

static void make_block_scales(struct lt_weight *w, unsigned char *memory,
                              const struct lt_synthetic_options *opt, uint32_t stream)
{
    int64_t blocks = lt_quant_blocks(w->rows * w->cols, LT_NF4_BLOCKSIZE);
    struct source scales = part_source(opt, stream, PART_SCALES);
    w->blocksize = LT_NF4_BLOCKSIZE;
    w->code = w->format == LT_WEIGHT_FP4 ? lt_fp4_code : lt_nf4_code;
    if (!opt->double_quant) {
        float *absmax = (float *)(void *)memory;
        fill_numbers(absmax, LT_F32, blocks, LARGEST_OF_BLOCK, 0.1f * LARGEST_OF_BLOCK, &scales);
        w->absmax = absmax;
        return;
    }
    float *nested = (float *)(void *)(memory + aligned(blocks, 1));
    fill_words(memory, blocks, &scales);
    for (int64_t i = 0; i < lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE); i++)
        nested[i] = 0.2f * LARGEST_OF_BLOCK;
    w->absmax_codes = memory;
    w->nested_absmax = nested;
    w->nested_code = lt_dynamic_map_signed;
    w->nested_offset = LARGEST_OF_BLOCK;
}

void lt_synthetic_weight(struct lt_weight *w, void *memory, int64_t rows, int64_t cols,
                         const struct lt_synthetic_options *opt, uint32_t stream)
{
    enum lt_weight_format format = opt->format;
    size_t bytes = lt_weight_data_bytes(format, rows, cols);
    unsigned char *scales = (unsigned char *)memory + lt_align_up(bytes, ALIGNMENT);
    struct source elements = part_source(opt, stream, PART_ELEMENTS);
    *w = (struct lt_weight){.format = format, .rows = rows, .cols = cols, .data = memory};
    if (is_quantized(format)) {
        fill_words(memory, (int64_t)bytes, &elements);
    } else {
        enum lt_dtype dtype = format == LT_WEIGHT_F32 ? LT_F32 : format == LT_WEIGHT_F16 ? LT_F16 : LT_BF16;
        fill_numbers(memory, dtype, rows * cols, 0, SPREAD, &elements);
    }
    if (is_block_format(format))
        make_block_scales(w, scales, opt, stream);
    if (format == LT_WEIGHT_INT8) {
        float *absmax = (float *)(void *)scales;
        for (int64_t i = 0; i < rows; i++)
            absmax[i] = SPREAD;
        w->absmax = absmax;
    }
}

/* ---- a model ---- */

/* Where a tensor lies and in which format; false: it has no storage of its own. */
struct place {
    enum lt_model_block_kind block;
    enum lt_weight_format format;
    size_t bytes;
};

static bool find_place(struct place *p, const struct lt_model_tensor *t,
                       const struct lt_synthetic_options *opt)
{
    if (t->shared >= 0 || t->streamed)
        return false;
    if (t->kind == LT_TENSOR_VECTOR) {
        *p = (struct place){.block = LT_BLOCK_VECTORS, .bytes = aligned(t->cols, sizeof(float))};
        return true;
    }
    bool quantizable = t->kind == LT_TENSOR_LINEAR && !t->is_head && !t->trainable;
    p->format = is_quantized(opt->format) && !quantizable ? LT_WEIGHT_BF16 : opt->format;
    p->block = is_quantized(p->format) ? LT_BLOCK_QUANTIZED : LT_BLOCK_CONVERTED;
    p->bytes = lt_synthetic_weight_bytes(p->format, t->rows, t->cols, opt->double_quant);
    return true;
}

void lt_synthetic_memory(const struct lt_model *model, const struct lt_synthetic_options *opt,
                         struct lt_model_memory *mem)
{
    size_t bytes[LT_BLOCK_COUNT] = {0}, streamed = 0;
    struct place p;
    for (int i = 0; i < model->tensor_count; i++) {
        const struct lt_model_tensor *t = &model->tensors[i];
        if (find_place(&p, t, opt))
            bytes[p.block] += p.bytes;
        streamed += t->streamed ? lt_weight_source_bytes(&t->source) : 0;
    }
    *mem = (struct lt_model_memory){.quantized = bytes[LT_BLOCK_QUANTIZED],
                                    .converted = bytes[LT_BLOCK_CONVERTED],
                                    .vectors = bytes[LT_BLOCK_VECTORS],
                                    .streamed = streamed};
}

static void fill_tensor(struct lt_model *m, int number, const struct place *p, unsigned char *memory,
                        const struct lt_synthetic_options *opt)
{
    struct lt_model_tensor *t = &m->tensors[number];
    if (t->kind == LT_TENSOR_VECTOR) {
        float *values = (float *)(void *)memory;
        for (int64_t i = 0; i < t->cols; i++)
            values[i] = t->is_bias ? 0.0f : 1.0f;
        t->vector = values;
        return;
    }
    struct lt_synthetic_options own = *opt;
    own.format = p->format;
    t->transposed = t->transposed && !is_quantized(p->format);
    lt_synthetic_weight(&t->weight, memory, t->rows, t->cols, &own, (uint32_t)number);
    t->weight.transposed = t->transposed;
}

static enum lt_status allocate(struct lt_model_store *store, const struct lt_synthetic_options *opt,
                               struct lt_error *err)
{
    struct lt_model_memory mem;
    lt_synthetic_memory(&store->model, opt, &mem);
    const size_t sizes[LT_BLOCK_COUNT] = {mem.quantized, mem.converted, mem.vectors};
    for (int b = 0; b < LT_BLOCK_COUNT; b++) {
        struct lt_model_block *block = &store->blocks[b];
        assert(!block->data);
        if (sizes[b] == 0)
            continue;
        block->data = lt_alloc_pages(sizes[b]);
        if (!block->data)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory: the model needs %zu bytes for its weights",
                           sizes[b]);
        block->size = sizes[b];
    }
    return LT_OK;
}

enum lt_status lt_synthetic_fill(struct lt_model *model, const struct lt_synthetic_options *opt,
                                 void (*progress)(void *user, int done, int total), void *user,
                                 struct lt_error *err)
{
    struct lt_model_store *store = lt_model_store_of(model);
    size_t used[LT_BLOCK_COUNT] = {0};
    LT_TRY(allocate(store, opt, err));
    for (int i = 0; i < model->tensor_count; i++) {
        struct lt_model_tensor *t = &model->tensors[i];
        struct place p;
        if (lt_cancel_requested())
            return lt_fail(err, LT_ERR_CANCELLED, "stopped while weights were being made");
        if (find_place(&p, t, opt)) {
            fill_tensor(model, i, &p, store->blocks[p.block].data + used[p.block], opt);
            used[p.block] += p.bytes;
        } else if (!t->streamed) {
            t->weight = model->tensors[t->shared].weight; /* the embedding comes before the head */
        }
        if (progress)
            progress(user, i + 1, model->tensor_count);
    }
    return LT_OK;
}

/* ---- in a file ---- */

/* Where the parts of a weight begin in the memory that lt_synthetic_weight fills. */
static void find_parts(struct lt_weight_source *s, const struct lt_model_tensor *t,
                       const struct lt_synthetic_options *opt)
{
    int64_t blocks = lt_quant_blocks(t->rows * t->cols, LT_NF4_BLOCKSIZE);
    bool nested = is_block_format(opt->format) && opt->double_quant;
    s->parts[LT_PART_DATA].bytes = lt_weight_data_bytes(opt->format, t->rows, t->cols);
    if (nested) {
        s->parts[LT_PART_ABSMAX].bytes = (size_t)blocks;
        s->parts[LT_PART_NESTED_ABSMAX].bytes = (size_t)lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE) *
                                                sizeof(float);
    } else if (is_quantized(opt->format)) {
        s->parts[LT_PART_ABSMAX].bytes = (size_t)(is_block_format(opt->format) ? blocks : t->rows) *
                                         sizeof(float);
    }
}

/* What no part in the file holds. */
static struct lt_weight describe(const struct lt_model_tensor *t, const struct lt_synthetic_options *opt)
{
    struct lt_weight w = {.format = opt->format, .rows = t->rows, .cols = t->cols};
    if (!is_quantized(opt->format))
        w.transposed = t->transposed;
    if (!is_block_format(opt->format))
        return w;
    w.blocksize = LT_NF4_BLOCKSIZE;
    w.code = opt->format == LT_WEIGHT_FP4 ? lt_fp4_code : lt_nf4_code;
    w.nested_code = opt->double_quant ? lt_dynamic_map_signed : NULL;
    w.nested_offset = opt->double_quant ? LARGEST_OF_BLOCK : 0;
    return w;
}

uint64_t lt_synthetic_stream(struct lt_model *model, const struct lt_synthetic_options *opt,
                             const struct lt_file_map *file)
{
    size_t at = 0;
    struct place p;
    for (int i = 0; i < model->tensor_count; i++) {
        struct lt_model_tensor *t = &model->tensors[i];
        t->streamed = file && t->kind == LT_TENSOR_LINEAR && !t->trainable && t->segment >= 1 &&
                      t->segment <= model->layers;
        if (!t->streamed && find_place(&p, t, opt) && t->kind != LT_TENSOR_VECTOR)
            t->weight = (struct lt_weight){
                .format = p.format, .rows = t->rows, .cols = t->cols, .blocksize = LT_NF4_BLOCKSIZE};
        t->nested = is_block_format(t->weight.format) && opt->double_quant;
        if (!t->streamed)
            continue;
        memset(&t->source, 0, sizeof t->source);
        find_parts(&t->source, t, opt);
        t->weight = describe(t, opt);
        t->nested = t->weight.nested_code != NULL;
        for (int k = 0; k < LT_PART_COUNT; k++) {
            if (t->source.parts[k].bytes == 0)
                continue;
            t->source.parts[k].file = file;
            t->source.parts[k].offset = at;
            at += lt_align_up(t->source.parts[k].bytes, ALIGNMENT);
        }
    }
    return at;
}

static enum lt_status store_tensors(const struct lt_model *model, const struct lt_synthetic_options *opt,
                                    struct lt_file_writer *w,
                                    void (*progress)(void *user, int done, int total), void *user,
                                    struct lt_error *err)
{
    enum lt_status status = LT_OK;
    for (int i = 0; i < model->tensor_count && status == LT_OK; i++) {
        const struct lt_model_tensor *t = &model->tensors[i];
        if (!t->streamed)
            continue;
        if (lt_cancel_requested())
            return lt_fail(err, LT_ERR_CANCELLED, "stopped while weights were being written");
        struct lt_weight weight;
        size_t bytes = lt_synthetic_weight_bytes(opt->format, t->rows, t->cols, opt->double_quant);
        unsigned char *memory = lt_alloc_pages(bytes);
        if (!memory)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory: writing %s needs %zu bytes", t->name, bytes);
        lt_synthetic_weight(&weight, memory, t->rows, t->cols, opt, (uint32_t)i);
        status = lt_file_writer_put(w, memory, bytes, err);
        lt_free_pages(memory, bytes);
        if (progress)
            progress(user, i + 1, model->tensor_count);
    }
    return status;
}

enum lt_status lt_synthetic_store(const struct lt_model *model, const struct lt_synthetic_options *opt,
                                  const char *path, void (*progress)(void *user, int done, int total),
                                  void *user, struct lt_error *err)
{
    struct lt_file_writer w;
    LT_TRY(lt_file_writer_open(&w, path, err));
    enum lt_status status = store_tensors(model, opt, &w, progress, user, err);
    if (status == LT_OK)
        status = lt_file_writer_commit(&w, err);
    lt_file_writer_abort(&w);
    return status;
}
