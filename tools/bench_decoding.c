/* Decoding stored weights to f32: what a matrix product pays once for every tile. */
#include <stdio.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"
#include "tools/bench_kernels.h"
#include "tools/bench_machine.h"

enum { DECODE_CHUNK = 4096 };

struct decode {
    const struct lt_weight *w;
    void (*decode)(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);
    int threads;
};

static void run_decode(void *user)
{
    const struct decode *d = user;
    int64_t n = d->w->rows * d->w->cols, chunks = lt_div_up(n, DECODE_CHUNK);
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t c = 0; c < chunks; c++) {
        float values[DECODE_CHUNK];
        d->decode(values, d->w, c * DECODE_CHUNK, lt_min_i64(DECODE_CHUNK, n - c * DECODE_CHUNK));
    }
}

/* The model's largest linear matrix below the head. */
static void largest_matrix(const struct lt_model *m, int64_t *rows, int64_t *cols)
{
    *rows = *cols = 0;
    for (int i = 0; i < m->tensor_count; i++) {
        const struct lt_model_tensor *t = &m->tensors[i];
        if (t->kind == LT_TENSOR_LINEAR && !t->is_head && t->rows * t->cols > *rows * *cols) {
            *rows = t->rows;
            *cols = t->cols;
        }
    }
}

enum lt_status bench_decoding(struct bench_kernels *b, struct lt_error *err)
{
    static const struct {
        const char *name;
        enum lt_weight_format format;
        bool double_quant;
    } cases[] = {{"nf4", LT_WEIGHT_NF4, false},   {"nf4, double quantization", LT_WEIGHT_NF4, true},
                 {"fp4", LT_WEIGHT_FP4, false},   {"int8", LT_WEIGHT_INT8, false},
                 {"bf16", LT_WEIGHT_BF16, false}, {"f16", LT_WEIGHT_F16, false}};
    int64_t rows, cols;
    largest_matrix(b->s.model, &rows, &cols);
    size_t bytes =
        lt_synthetic_weight_bytes(LT_WEIGHT_F32, rows, cols, false); /* more than any of the cases */
    unsigned char *memory = lt_alloc_pages(bytes);
    if (!memory)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for a matrix of %lld x %lld", (long long)rows,
                       (long long)cols);
    json_t *list = json_array();
    printf("\nDecoding %lld x %lld to f32 in the cache\n  %-24s %14s %14s\n", (long long)rows,
           (long long)cols, "format", "Gelements/s", "GB/s read");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct lt_synthetic_options synthetic = {.format = cases[i].format,
                                                       .double_quant = cases[i].double_quant,
                                                       .seed = b->s.synthetic.seed,
                                                       .threads = b->s.threads};
        struct lt_weight w;
        lt_synthetic_weight(&w, memory, rows, cols, &synthetic, 3);
        struct decode d = {.w = &w, .decode = b->k.decode[w.format], .threads = b->s.threads};
        double seconds = bench_best_seconds(run_decode, &d, b->budget);
        double elements = (double)rows * (double)cols / seconds;
        double read = (double)lt_synthetic_weight_bytes(w.format, rows, cols, cases[i].double_quant) /
                      seconds;
        printf("  %-24s %14.2f %14.2f\n", cases[i].name, 1e-9 * elements, 1e-9 * read);
        json_array_append_new(list,
                              json_pack("{s:s, s:b, s:f, s:f}", "format", lt_weight_format_name(w.format),
                                        "double_quant", cases[i].double_quant, "elements_per_second",
                                        elements, "bytes_per_second", read));
    }
    lt_free_pages(memory, bytes);
    bench_session_add(&b->s, json_pack("{s:o}", "decoding", list));
    return LT_OK;
}
