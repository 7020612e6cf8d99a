/* Loading: where each tensor's values will lie, and bringing them there. */
#include <assert.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "core/base/file.h"
#include "core/base/system.h"
#include "models/arch.h"
#include "models/bnb_weights.h"
#include "models/model_load.h"
#include "quant/dynamic_map.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/weight_codec.h"

/* CHUNK: elements worked on at a time by one thread; a multiple of every block size. */
enum { ALIGNMENT = 64, CHUNK = 1 << 18 };

enum placement {
    PLACE_TIED,       /* another tensor's storage */
    PLACE_VECTOR,     /* f32 copy */
    PLACE_VIEW,       /* in the map */
    PLACE_READ,       /* copied as it is stored */
    PLACE_STREAM,     /* in the file */
    PLACE_CONVERT,    /* to f32 */
    PLACE_QUANTIZE,   /* to 4 or 8 bits */
    PLACE_BNB,        /* quantized already: views of its parts */
    PLACE_DEQUANTIZE, /* quantized in the file, to f32 */
};

struct tensor_plan {
    enum placement place;
    enum lt_weight_format format;
    bool double_quant, gather; /* gather: stored [in, out], wanted [out, in] */
    int64_t n, chunk;          /* elements in all and in a chunk */
    struct lt_checkpoint_tensor ct;
    struct lt_bnb_weight bnb;
    struct lt_weight weight; /* READ, STREAM: without its pointers */
    struct lt_weight_source source;
    size_t bytes[LT_BLOCK_COUNT]; /* of the model's own memory, multiples of ALIGNMENT */
    size_t mapped, streamed;
    size_t thread_scratch, scratch; /* a thread's and the tensor's temporary memory */
};

static size_t aligned(int64_t n, size_t size)
{
    return lt_align_up((size_t)n * size, ALIGNMENT);
}

static size_t element_bytes(const struct tensor_plan *p)
{
    return lt_dtype_bits(p->ct.tensor->dtype) / 8;
}

/* ---- planning ---- */

/* Chunks are whole rows, which have a scale each. */
static void plan_int8(struct tensor_plan *p, const struct lt_model_tensor *t)
{
    p->place = PLACE_QUANTIZE;
    p->format = LT_WEIGHT_INT8;
    p->gather = t->transposed;
    p->bytes[LT_BLOCK_QUANTIZED] = aligned(p->n, 1) + aligned(t->rows, sizeof(float));
    p->chunk = lt_min_i64(t->cols * lt_max_i64(1, CHUNK / t->cols), p->n);
    p->thread_scratch = aligned(p->chunk, sizeof(float)) +
                        aligned(p->gather ? p->chunk / t->cols : p->chunk, element_bytes(p));
}

static void plan_quantize(struct tensor_plan *p, const struct lt_model_tensor *t,
                          const struct lt_load_options *opt)
{
    int64_t blocks = lt_quant_blocks(p->n, LT_NF4_BLOCKSIZE);
    p->place = PLACE_QUANTIZE;
    p->format = opt->quant == LT_LOAD_FP4 ? LT_WEIGHT_FP4 : LT_WEIGHT_NF4;
    p->double_quant = opt->double_quant;
    p->gather = t->transposed;
    p->bytes[LT_BLOCK_QUANTIZED] = aligned(p->n / 2 + p->n % 2, 1);
    if (p->double_quant) {
        p->bytes[LT_BLOCK_QUANTIZED] += aligned(blocks, 1) +
                                        aligned(lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE), 4);
        p->scratch = aligned(blocks, sizeof(float));
    } else {
        p->bytes[LT_BLOCK_QUANTIZED] += aligned(blocks, sizeof(float));
    }
    p->chunk = CHUNK;
    if (p->gather) /* whole output rows, so many that their elements are whole blocks */
        p->chunk = t->cols *
                   lt_max_i64(LT_NF4_BLOCKSIZE, CHUNK / t->cols / LT_NF4_BLOCKSIZE * LT_NF4_BLOCKSIZE);
    p->chunk = lt_min_i64(p->chunk, p->n);
    p->thread_scratch = aligned(p->chunk, sizeof(float)) +
                        aligned(p->gather ? p->chunk / t->cols : p->chunk, element_bytes(p));
}

static void plan_f32(struct tensor_plan *p, enum placement place)
{
    p->place = place;
    p->format = LT_WEIGHT_F32;
    p->chunk = lt_min_i64(CHUNK, p->n);
    p->bytes[LT_BLOCK_CONVERTED] = aligned(p->n, sizeof(float));
    p->thread_scratch = place == PLACE_CONVERT ? aligned(p->chunk, element_bytes(p)) : 0;
}

/* Into memory, or left in the file, when these options want that of a weight that is used as it is stored. */
static bool plan_residency(struct tensor_plan *p, const struct lt_model_tensor *t, int layers,
                           enum lt_model_block_kind block, enum lt_residency residency)
{
    bool layer = t->kind == LT_TENSOR_LINEAR && t->segment >= 1 && t->segment <= layers;
    size_t bytes = lt_weight_source_bytes(&p->source);
    if (t->trainable || residency == LT_WEIGHTS_MMAP || (residency == LT_WEIGHTS_STREAM && !layer))
        return false;
    p->place = residency == LT_WEIGHTS_STREAM ? PLACE_STREAM : PLACE_READ;
    *(residency == LT_WEIGHTS_STREAM ? &p->streamed : &p->bytes[block]) = bytes;
    return true;
}

static void plan_plain(struct tensor_plan *p, const struct lt_model_tensor *t, int layers,
                       const struct lt_load_options *opt)
{
    enum lt_dtype dtype = p->ct.tensor->dtype;
    if (dtype == LT_F64 || (opt->quant == LT_LOAD_F32 && dtype != LT_F32 && !t->trainable)) {
        plan_f32(p, PLACE_CONVERT);
        return;
    }
    bool in_place = p->ct.tensor->offset % element_bytes(p) == 0;
    p->format = dtype == LT_F32 ? LT_WEIGHT_F32 : dtype == LT_F16 ? LT_WEIGHT_F16 : LT_WEIGHT_BF16;
    p->weight = (struct lt_weight){
        .format = p->format, .transposed = t->transposed, .rows = t->rows, .cols = t->cols};
    p->source.parts[LT_PART_DATA].file = &p->ct.file->map;
    p->source.parts[LT_PART_DATA].offset = p->ct.tensor->offset;
    p->source.parts[LT_PART_DATA].bytes = p->ct.tensor->bytes;
    if (plan_residency(p, t, layers, LT_BLOCK_CONVERTED, opt->residency))
        return;
    p->place = in_place ? PLACE_VIEW : PLACE_READ;
    p->mapped = in_place ? p->ct.tensor->bytes : 0;
    p->bytes[LT_BLOCK_CONVERTED] = in_place ? 0 : aligned((int64_t)p->ct.tensor->bytes, 1);
}

static enum lt_status plan_linear(struct tensor_plan *p, const struct lt_model_tensor *t, int layers,
                                  const struct lt_checkpoint *ck, const struct lt_load_options *opt,
                                  struct lt_error *err)
{
    bool found;
    LT_TRY(lt_bnb_weight_find(&p->bnb, ck, t->name, t->rows, t->cols, &found, err));
    const json_t *quantized = json_object_get(ck->config, "quantization_config");
    bool wanted = opt->quant != LT_LOAD_AS_STORED && opt->quant != LT_LOAD_F32;
    if (found && opt->quant == LT_LOAD_F32 && !t->trainable) {
        plan_f32(p, PLACE_DEQUANTIZE);
        /* The parts that are read in place are mapped only while loading. */
        lt_bnb_weight_bytes(&p->bnb, ALIGNMENT, &p->scratch, &p->mapped);
        p->mapped = 0;
    } else if (found) {
        lt_bnb_weight_source(&p->weight, &p->source, &p->bnb);
        if (plan_residency(p, t, layers, LT_BLOCK_QUANTIZED, opt->residency))
            return LT_OK;
        p->place = PLACE_BNB;
        lt_bnb_weight_bytes(&p->bnb, ALIGNMENT, &p->bytes[LT_BLOCK_QUANTIZED], &p->mapped);
    } else if (wanted && !t->is_head && !t->trainable && (!quantized || json_is_null(quantized))) {
        if (opt->quant == LT_LOAD_INT8 && t->cols > LT_INT8_MAX_COLS)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "%s: tensor %s has more than %d columns: load it in 4 bits", ck->dir, t->name,
                           LT_INT8_MAX_COLS);
        if (opt->quant == LT_LOAD_INT8)
            plan_int8(p, t);
        else
            plan_quantize(p, t, opt);
    } else {
        plan_plain(p, t, layers, opt);
    }
    return LT_OK;
}

static enum lt_status plan_tensor(struct tensor_plan *p, const struct lt_model_tensor *t, int layers,
                                  const struct lt_checkpoint *ck, const struct lt_load_options *opt,
                                  struct lt_error *err)
{
    memset(p, 0, sizeof *p);
    p->n = t->rows * t->cols;
    if (t->shared >= 0)
        return LT_OK;
    if (!lt_checkpoint_find(ck, t->name, &p->ct))
        return lt_fail(err, LT_ERR_NOT_FOUND, "%s: tensor %s is not in the checkpoint any more", ck->dir,
                       t->name);
    if (t->kind == LT_TENSOR_LINEAR)
        return plan_linear(p, t, layers, ck, opt, err);
    if (t->kind == LT_TENSOR_EMBEDDING) {
        plan_plain(p, t, layers, opt);
        return LT_OK;
    }
    p->place = PLACE_VECTOR;
    p->bytes[LT_BLOCK_VECTORS] = aligned(p->n, sizeof(float));
    return LT_OK;
}

static int thread_count(const struct lt_load_options *opt)
{
    return opt->threads < 1 ? 1 : opt->threads;
}

enum lt_status lt_model_memory(const struct lt_model *model, const struct lt_checkpoint *ck,
                               const struct lt_load_options *opt, struct lt_model_memory *mem,
                               struct lt_error *err)
{
    memset(mem, 0, sizeof *mem);
    for (int i = 0; i < model->tensor_count; i++) {
        struct tensor_plan p;
        LT_TRY(plan_tensor(&p, &model->tensors[i], model->layers, ck, opt, err));
        mem->quantized += p.bytes[LT_BLOCK_QUANTIZED];
        mem->converted += p.bytes[LT_BLOCK_CONVERTED];
        mem->vectors += p.bytes[LT_BLOCK_VECTORS];
        mem->mapped += p.mapped;
        mem->streamed += p.streamed;
        size_t loading = p.scratch + (size_t)thread_count(opt) * p.thread_scratch;
        mem->loading = loading > mem->loading ? loading : mem->loading;
    }
    return LT_OK;
}

enum lt_status lt_model_stream(struct lt_model *model, const struct lt_checkpoint *ck,
                               const struct lt_load_options *opt, struct lt_error *err)
{
    for (int i = 0; i < model->tensor_count; i++) {
        struct lt_model_tensor *t = &model->tensors[i];
        struct tensor_plan p;
        LT_TRY(plan_tensor(&p, t, model->layers, ck, opt, err));
        t->streamed = p.place == PLACE_STREAM;
        t->nested = p.double_quant || p.source.parts[LT_PART_NESTED_ABSMAX].bytes > 0;
        if (t->shared >= 0 || t->kind == LT_TENSOR_VECTOR)
            continue;
        t->weight = p.weight;
        if (p.place != PLACE_STREAM && p.place != PLACE_BNB)
            t->weight = (struct lt_weight){
                .format = p.format, .rows = t->rows, .cols = t->cols, .blocksize = LT_NF4_BLOCKSIZE};
        if (t->streamed)
            t->source = p.source;
    }
    return LT_OK;
}

/* ---- chunks ---- */

/* One tensor being filled. */
struct chunk_job {
    const struct tensor_plan *plan;
    const struct lt_model_tensor *tensor;
    const struct lt_weight *source; /* DEQUANTIZE */
    float *f32;                     /* CONVERT, DEQUANTIZE: the destination */
    uint8_t *codes;                 /* QUANTIZE */
    float *absmax;
};

/* Elements [begin, begin + n) in the file's order as f32. */
static enum lt_status read_f32(float *dst, const struct tensor_plan *p, int64_t begin, int64_t n,
                               unsigned char *raw, struct lt_error *err)
{
    size_t size = element_bytes(p);
    LT_TRY(lt_file_map_pread(&p->ct.file->map, raw, (size_t)n * size,
                             p->ct.tensor->offset + (size_t)begin * size, err));
    lt_convert_to_f32(dst, raw, p->ct.tensor->dtype, (size_t)n);
    return LT_OK;
}

/* The same of the transposed matrix; begin and n are whole rows of it, which are columns in the file. */
static enum lt_status read_gathered(float *dst, const struct chunk_job *job, int64_t begin, int64_t n,
                                    unsigned char *raw, struct lt_error *err)
{
    const struct tensor_plan *p = job->plan;
    int64_t out = job->tensor->rows, in = job->tensor->cols;
    int64_t row = begin / in, rows = n / in;
    size_t size = element_bytes(p);
    float part[256];
    for (int64_t k = 0; k < in; k++) {
        size_t offset = p->ct.tensor->offset + (size_t)(k * out + row) * size;
        LT_TRY(lt_file_map_pread(&p->ct.file->map, raw, (size_t)rows * size, offset, err));
        for (int64_t r = 0; r < rows; r += 256) {
            int64_t m = lt_min_i64(256, rows - r);
            lt_convert_to_f32(part, raw + (size_t)r * size, p->ct.tensor->dtype, (size_t)m);
            for (int64_t j = 0; j < m; j++)
                dst[(r + j) * in + k] = part[j];
        }
    }
    return LT_OK;
}

static enum lt_status run_chunk(const struct chunk_job *job, int64_t begin, int64_t n, unsigned char *scratch,
                                struct lt_error *err)
{
    const struct tensor_plan *p = job->plan;
    if (lt_cancel_requested())
        return lt_fail(err, LT_ERR_CANCELLED, "loading was cancelled");
    if (p->place == PLACE_DEQUANTIZE) {
        lt_weight_codecs[job->source->format].decode(job->f32 + begin, job->source, begin, n);
        return LT_OK;
    }
    if (p->place == PLACE_CONVERT)
        return read_f32(job->f32 + begin, p, begin, n, scratch, err);
    float *values = (float *)(void *)scratch;
    unsigned char *raw = scratch + aligned(p->chunk, sizeof(float));
    if (p->gather)
        LT_TRY(read_gathered(values, job, begin, n, raw, err));
    else
        LT_TRY(read_f32(values, p, begin, n, raw, err));
    if (p->format == LT_WEIGHT_INT8) {
        int64_t cols = job->tensor->cols;
        lt_int8_quantize((int8_t *)job->codes + begin, job->absmax + begin / cols, values, n / cols, cols);
        return LT_OK;
    }
    uint8_t *codes = job->codes + begin / 2;
    float *absmax = job->absmax + begin / LT_NF4_BLOCKSIZE;
    if (p->format == LT_WEIGHT_FP4)
        lt_fp4_quantize(codes, absmax, values, n, LT_NF4_BLOCKSIZE);
    else
        lt_nf4_quantize(codes, absmax, values, n, LT_NF4_BLOCKSIZE);
    return LT_OK;
}

/* Chunks are independent, so that threads do not show in the bytes.  The error is that of the first bad chunk. */
static enum lt_status run_chunks(const struct chunk_job *job, int threads, unsigned char *scratch,
                                 struct lt_error *err)
{
    const struct tensor_plan *p = job->plan;
    int64_t chunks = lt_div_up(p->n, p->chunk), first_bad = INT64_MAX;
    enum lt_status status = LT_OK;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++)
        for (int64_t c = t; c < chunks; c += threads) {
            struct lt_error problem;
            int64_t begin = c * p->chunk;
            enum lt_status s = run_chunk(job, begin, lt_min_i64(p->chunk, p->n - begin),
                                         scratch + (size_t)t * p->thread_scratch, &problem);
            if (s == LT_OK)
                continue;
#pragma omp critical(lt_weight_load)
            if (c < first_bad) {
                first_bad = c;
                status = s;
                if (err)
                    *err = problem;
            }
            break;
        }
    return status;
}

/* ---- loading one tensor ---- */

struct loader {
    struct lt_model_store *store;
    const struct lt_load_options *opt;
    unsigned char *scratch;
    size_t scratch_size;
    size_t used[LT_BLOCK_COUNT];
};

static enum lt_status load_quantized(struct loader *l, struct lt_model_tensor *t, const struct tensor_plan *p,
                                     unsigned char *memory, struct lt_error *err)
{
    int64_t blocks = lt_quant_blocks(p->n, LT_NF4_BLOCKSIZE);
    unsigned char *scales = memory + aligned(p->n / 2 + p->n % 2, 1), *nested = scales + aligned(blocks, 1);
    struct chunk_job job = {.plan = p, .tensor = t, .codes = memory};
    job.absmax = (float *)(void *)(p->double_quant ? l->scratch : scales);
    LT_TRY(run_chunks(&job, thread_count(l->opt), l->scratch + p->scratch, err));
    t->transposed = false;
    t->weight = (struct lt_weight){.format = p->format,
                                   .rows = t->rows,
                                   .cols = t->cols,
                                   .data = memory,
                                   .blocksize = LT_NF4_BLOCKSIZE,
                                   .code = p->format == LT_WEIGHT_FP4 ? lt_fp4_code : lt_nf4_code};
    if (!p->double_quant) {
        t->weight.absmax = job.absmax;
        return LT_OK;
    }
    lt_double_quantize(scales, (float *)(void *)nested, &t->weight.nested_offset, job.absmax, blocks);
    t->weight.absmax_codes = scales;
    t->weight.nested_absmax = (const float *)(const void *)nested;
    t->weight.nested_code = lt_dynamic_map_signed;
    return LT_OK;
}

static enum lt_status load_int8(struct loader *l, struct lt_model_tensor *t, const struct tensor_plan *p,
                                unsigned char *memory, struct lt_error *err)
{
    struct chunk_job job = {
        .plan = p, .tensor = t, .codes = memory, .absmax = (float *)(void *)(memory + aligned(p->n, 1))};
    LT_TRY(run_chunks(&job, thread_count(l->opt), l->scratch, err));
    t->transposed = false;
    t->weight = (struct lt_weight){
        .format = LT_WEIGHT_INT8, .rows = t->rows, .cols = t->cols, .data = memory, .absmax = job.absmax};
    return LT_OK;
}

static enum lt_status load_f32(struct loader *l, struct lt_model_tensor *t, const struct tensor_plan *p,
                               unsigned char *memory, struct lt_error *err)
{
    struct lt_weight source;
    struct chunk_job job = {.plan = p, .tensor = t, .source = &source, .f32 = (float *)(void *)memory};
    if (p->place == PLACE_DEQUANTIZE)
        LT_TRY(lt_bnb_weight_bind(&source, &p->bnb, ALIGNMENT, l->scratch, err));
    LT_TRY(run_chunks(&job, thread_count(l->opt), l->scratch + p->scratch, err));
    t->weight = (struct lt_weight){.format = LT_WEIGHT_F32,
                                   .transposed = t->transposed,
                                   .rows = t->rows,
                                   .cols = t->cols,
                                   .data = memory};
    return LT_OK;
}

static enum lt_status load_stored(struct lt_model_tensor *t, const struct tensor_plan *p,
                                  unsigned char *memory, struct lt_error *err)
{
    t->weight = p->weight;
    if (p->place == PLACE_VIEW)
        t->weight.data = lt_safetensors_data(p->ct.file, p->ct.tensor);
    if (p->place != PLACE_READ)
        return LT_OK;
    LT_TRY(lt_weight_source_read(&p->source, memory, err));
    lt_weight_source_bind(&t->weight, &p->source, memory);
    return LT_OK;
}

static enum lt_status load_vector(struct lt_model_tensor *t, const struct tensor_plan *p,
                                  unsigned char *memory, struct lt_error *err)
{
    float *values = (float *)(void *)memory;
    LT_TRY(lt_safetensors_read_f32(p->ct.file, p->ct.tensor, values, err));
    t->vector = values;
    return LT_OK;
}

static enum lt_status load_tensor(struct loader *l, struct lt_model_tensor *t, const struct tensor_plan *p,
                                  struct lt_error *err)
{
    unsigned char *memory[LT_BLOCK_COUNT];
    for (int b = 0; b < LT_BLOCK_COUNT; b++) {
        memory[b] = p->bytes[b] > 0 ? l->store->blocks[b].data + l->used[b] : NULL;
        l->used[b] += p->bytes[b];
        assert(l->used[b] <= l->store->blocks[b].size);
    }
    switch (p->place) {
    case PLACE_TIED:
        t->weight = l->store->model.tensors[t->shared].weight; /* loaded before: the embedding comes first */
        return LT_OK;
    case PLACE_VECTOR:
        return load_vector(t, p, memory[LT_BLOCK_VECTORS], err);
    case PLACE_VIEW:
    case PLACE_READ:
    case PLACE_STREAM:
        return load_stored(
            t, p, memory[p->bytes[LT_BLOCK_QUANTIZED] > 0 ? LT_BLOCK_QUANTIZED : LT_BLOCK_CONVERTED], err);
    case PLACE_CONVERT:
    case PLACE_DEQUANTIZE:
        return load_f32(l, t, p, memory[LT_BLOCK_CONVERTED], err);
    case PLACE_QUANTIZE:
        return p->format == LT_WEIGHT_INT8 ? load_int8(l, t, p, memory[LT_BLOCK_QUANTIZED], err)
                                           : load_quantized(l, t, p, memory[LT_BLOCK_QUANTIZED], err);
    case PLACE_BNB:
        break;
    }
    return lt_bnb_weight_bind(&t->weight, &p->bnb, ALIGNMENT, memory[LT_BLOCK_QUANTIZED], err);
}

/* ---- the whole model ---- */

static enum lt_status allocate(struct loader *l, const struct lt_model_memory *mem, struct lt_error *err)
{
    const size_t sizes[LT_BLOCK_COUNT] = {mem->quantized, mem->converted, mem->vectors};
    for (int b = 0; b < LT_BLOCK_COUNT; b++) {
        struct lt_model_block *block = &l->store->blocks[b];
        if (sizes[b] == 0)
            continue;
        block->data = lt_alloc_pages(sizes[b]);
        if (!block->data)
            return lt_fail(err, LT_ERR_NOMEM, "out of memory: the model needs %zu bytes for its weights",
                           sizes[b]);
        block->size = sizes[b];
    }
    l->scratch_size = mem->loading;
    l->scratch = mem->loading > 0 ? lt_alloc_pages(mem->loading) : NULL;
    if (mem->loading > 0 && !l->scratch)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory: loading needs %zu bytes for a while", mem->loading);
    return LT_OK;
}

static enum lt_status load_all(struct loader *l, const struct lt_checkpoint *ck,
                               void (*progress)(void *user, int done, int total), void *user,
                               struct lt_error *err)
{
    struct lt_model *m = &l->store->model;
    for (int i = 0; i < m->tensor_count; i++) {
        struct tensor_plan p;
        LT_TRY(plan_tensor(&p, &m->tensors[i], m->layers, ck, l->opt, err));
        LT_TRY(load_tensor(l, &m->tensors[i], &p, err));
        if (progress)
            progress(user, i + 1, m->tensor_count);
    }
    return LT_OK;
}

enum lt_status lt_model_load(struct lt_model *model, const struct lt_checkpoint *ck,
                             const struct lt_load_options *opt,
                             void (*progress)(void *user, int done, int total), void *user,
                             struct lt_error *err)
{
    struct loader l = {.store = lt_model_store_of(model), .opt = opt};
    struct lt_model_memory mem;
    for (int b = 0; b < LT_BLOCK_COUNT; b++)
        assert(!l.store->blocks[b].data);
    LT_TRY(lt_model_memory(model, ck, opt, &mem, err));
    enum lt_status status = allocate(&l, &mem, err);
    if (status == LT_OK)
        status = load_all(&l, ck, progress, user, err);
    lt_free_pages(l.scratch, l.scratch_size);
    return status;
}

/* ---- one tensor ---- */

static enum lt_status grow_block(struct lt_model_block *block, size_t size, struct lt_error *err)
{
    if (size <= block->size)
        return LT_OK;
    lt_free_pages(block->data, block->size);
    *block = (struct lt_model_block){.data = lt_alloc_pages(size), .size = size};
    if (block->data)
        return LT_OK;
    block->size = 0;
    return lt_fail(err, LT_ERR_NOMEM, "out of memory: a tensor needs %zu bytes", size);
}

enum lt_status lt_model_load_one(struct lt_model *model, const struct lt_checkpoint *ck,
                                 const struct lt_load_options *opt, int number, struct lt_error *err)
{
    struct loader l = {.store = lt_model_store_of(model), .opt = opt};
    struct tensor_plan p;
    LT_TRY(plan_tensor(&p, &model->tensors[number], model->layers, ck, opt, err));
    for (int b = 0; b < LT_BLOCK_COUNT; b++)
        LT_TRY(grow_block(&l.store->blocks[b], p.bytes[b], err));
    l.scratch_size = p.scratch + (size_t)thread_count(opt) * p.thread_scratch;
    l.scratch = l.scratch_size > 0 ? lt_alloc_pages(l.scratch_size) : NULL;
    if (l.scratch_size > 0 && !l.scratch)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory: loading needs %zu bytes for a while",
                       l.scratch_size);
    enum lt_status status = load_tensor(&l, &model->tensors[number], &p, err);
    lt_free_pages(l.scratch, l.scratch_size);
    return status;
}
