/* Random weights in every storage format, with the matrix they stand for. */
#ifndef LT_TESTS_SUPPORT_RANDOM_WEIGHT_H
#define LT_TESTS_SUPPORT_RANDOM_WEIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/tensor/weight.h"

/* Deterministic numbers in [-1, 1).  Memory is zeroed, freed with free(); running out of it ends the
 * program. */
float lt_random_uniform(void);
float *lt_random_uniforms(int64_t n);
void *lt_must_alloc(size_t n, size_t size);

enum lt_random_layout {
    LT_LAYOUT_PLAIN,
    LT_LAYOUT_TRANSPOSED, /* GPT-2's Conv1D storage */
    LT_LAYOUT_NESTED,     /* double-quantized scales */
    LT_LAYOUT_COUNT
};

bool lt_random_weight_exists(enum lt_weight_format format, enum lt_random_layout layout);

struct lt_random_weight {
    struct lt_weight w;
    float *logical; /* [rows, cols], decoded by quant/ */
    void *data;
    float *absmax, *nested_absmax;
    uint8_t *absmax_codes;
};

struct lt_random_weight lt_random_weight_make(enum lt_weight_format format, enum lt_random_layout layout,
                                              int64_t rows, int64_t cols);
void lt_random_weight_free(struct lt_random_weight *m);

#endif
