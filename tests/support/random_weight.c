#include "tests/support/random_weight.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/dtype.h"
#include "quant/dynamic_map.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/weight_codec.h"

static uint64_t random_state = 1;

float lt_random_uniform(void) /* [-1, 1) */
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(random_state >> 32) * 0x1p-31F;
}

void *lt_must_alloc(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    if (p == NULL) {
        fputs("tests: out of memory\n", stderr);
        exit(1);
    }
    return p;
}

float *lt_random_uniforms(int64_t n)
{
    float *x = lt_must_alloc((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = lt_random_uniform();
    return x;
}

bool lt_random_weight_exists(enum lt_weight_format format, enum lt_random_layout layout)
{
    bool four_bit = format == LT_WEIGHT_NF4 || format == LT_WEIGHT_FP4;
    return layout == LT_LAYOUT_PLAIN ||
           (layout == LT_LAYOUT_TRANSPOSED ? format != LT_WEIGHT_INT8 : four_bit);
}

static void make_quantized(struct lt_random_weight *m, const float *x, bool nested)
{
    struct lt_weight *w = &m->w;
    int64_t n = w->rows * w->cols, blocks = lt_quant_blocks(n, LT_NF4_BLOCKSIZE);
    m->absmax = lt_must_alloc((size_t)(blocks + w->rows), sizeof(float));
    w->absmax = m->absmax;
    if (w->format == LT_WEIGHT_INT8) {
        lt_int8_quantize(m->data, m->absmax, x, w->rows, w->cols);
        return;
    }
    w->blocksize = LT_NF4_BLOCKSIZE;
    w->code = w->format == LT_WEIGHT_NF4 ? lt_nf4_code : lt_fp4_code;
    if (w->format == LT_WEIGHT_NF4)
        lt_nf4_quantize(m->data, m->absmax, x, n, LT_NF4_BLOCKSIZE);
    else
        lt_fp4_quantize(m->data, m->absmax, x, n, LT_NF4_BLOCKSIZE);
    if (!nested)
        return;
    static float code[256];
    for (int i = 0; i < 256; i++)
        code[i] = lt_dynamic_map_signed[i];
    m->absmax_codes = lt_must_alloc((size_t)blocks, 1);
    m->nested_absmax = lt_must_alloc((size_t)lt_quant_blocks(blocks, LT_NESTED_BLOCKSIZE), sizeof(float));
    lt_double_quantize(m->absmax_codes, m->nested_absmax, &w->nested_offset, m->absmax, blocks);
    w->absmax = NULL;
    w->absmax_codes = m->absmax_codes;
    w->nested_absmax = m->nested_absmax;
    w->nested_code = code;
}

struct lt_random_weight lt_random_weight_make(enum lt_weight_format format, enum lt_random_layout layout,
                                              int64_t rows, int64_t cols)
{
    struct lt_random_weight m = {
        .w = {.format = format, .transposed = layout == LT_LAYOUT_TRANSPOSED, .rows = rows, .cols = cols}};
    int64_t n = rows * cols;
    float *x = lt_random_uniforms(n);
    m.data = lt_must_alloc(lt_weight_data_bytes(format, rows, cols), 1);
    m.w.data = m.data;
    if (format == LT_WEIGHT_F32)
        memcpy(m.data, x, (size_t)n * sizeof *x);
    else if (format == LT_WEIGHT_F16 || format == LT_WEIGHT_BF16)
        lt_convert_from_f32(m.data, x, format == LT_WEIGHT_F16 ? LT_F16 : LT_BF16, (size_t)n);
    else
        make_quantized(&m, x, layout == LT_LAYOUT_NESTED);
    free(x);

    float *stored = lt_must_alloc((size_t)n, sizeof *stored);
    lt_weight_codecs[format].decode(stored, &m.w, 0, n);
    m.logical = stored;
    if (layout == LT_LAYOUT_TRANSPOSED) {
        m.logical = lt_must_alloc((size_t)n, sizeof *stored);
        for (int64_t i = 0; i < n; i++)
            m.logical[i] = stored[i % cols * rows + i / cols];
        free(stored);
    }
    return m;
}

void lt_random_weight_free(struct lt_random_weight *m)
{
    free(m->logical);
    free(m->data);
    free(m->absmax);
    free(m->nested_absmax);
    free(m->absmax_codes);
}
