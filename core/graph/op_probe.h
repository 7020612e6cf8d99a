/* What a backend runs, found out from the backend: one op at a time on a few rows, with a weight in every form that ops
 * may read.  The results are not looked at; tests/check does that. */
#ifndef LT_GRAPH_OP_PROBE_H
#define LT_GRAPH_OP_PROBE_H

#include "core/backend/backend.h"
#include "core/graph/graph.h"

enum lt_weight_form {
    LT_FORM_F32,
    LT_FORM_F16,
    LT_FORM_BF16,
    LT_FORM_NF4,
    LT_FORM_NF4_DOUBLE, /* double quantization: the block scales are quantized too */
    LT_FORM_FP4,
    LT_FORM_FP4_DOUBLE,
    LT_FORM_INT8,
    LT_FORM_COUNT
};
const char *lt_weight_form_name(enum lt_weight_form form); /* "f32", "nf4+double", … */

/* How LINEAR and LINEAR_DX multiply: the attributes `compute` and `int8`. */
enum lt_product_kind { LT_PRODUCT_F32, LT_PRODUCT_BF16, LT_PRODUCT_F16, LT_PRODUCT_INT8, LT_PRODUCT_COUNT };
const char *lt_product_kind_name(enum lt_product_kind kind); /* "f32", …, "int8" */

bool lt_op_reads_weight(enum lt_op op);
/* Whether the vocabulary has this: integer products are LINEAR's with an INT8 weight, other ops than LINEAR and LINEAR_DX
 * have f32 only.  form: of no meaning for ops that read no weight. */
bool lt_op_variant_exists(enum lt_op op, enum lt_product_kind kind, enum lt_weight_form form);

/* *supported: the backend says that it supports such a node, and, with try_it, has run one.  LT_ERR_UNSUPPORTED of any
 * call on the way is *supported == false, not a failure. */
enum lt_status lt_op_probe(struct lt_backend *be, enum lt_op op, enum lt_product_kind kind,
                           enum lt_weight_form form, bool try_it, bool *supported, struct lt_error *err)
    LT_MUST_USE;

#endif
