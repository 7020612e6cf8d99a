/* One op on a device: arrays go up between guard bytes, the op runs, arrays come back. */
#ifndef LT_TESTS_SUPPORT_DEVICE_OP_H
#define LT_TESTS_SUPPORT_DEVICE_OP_H

#include "core/backend/backend.h"
#include "core/graph/graph.h"

/* An operand: host array [rows, cols], or a weight.  The same array as input and output is one place on the device.
 * Outputs go up as well, so that ops that add find what they add to. */
struct device_array {
    void *data;
    const struct lt_weight *weight;
    enum lt_dtype dtype;
    int64_t rows, cols;
    bool fixed; /* its rows are not the tokens of the step */
};

static inline struct device_array device_f32(const float *data, int64_t rows, int64_t cols)
{
    return (struct device_array){
        .data = (void *)(uintptr_t)data, .dtype = LT_F32, .rows = rows, .cols = cols};
}
static inline struct device_array device_fixed(const float *data, int64_t rows, int64_t cols)
{
    struct device_array a = device_f32(data, rows, cols);
    a.fixed = true;
    return a;
}
static inline struct device_array device_i32(const void *data, int64_t rows)
{
    return (struct device_array){.data = (void *)(uintptr_t)data, .dtype = LT_I32, .rows = rows, .cols = 1};
}
static inline struct device_array device_weight(const struct lt_weight *w)
{
    return (struct device_array){
        .weight = w, .dtype = LT_F32, .rows = w->rows, .cols = w->cols, .fixed = true};
}

struct device_op {
    enum lt_op op;
    struct lt_op_attr attr;
    struct device_array in[LT_MAX_IN], out[LT_MAX_OUT]; /* data and weight NULL: absent */
    struct lt_step_params params;                       /* n_tokens: the rows of those that are not fixed */
};

/* The device that LT_TEST_DEVICE names ("vulkan"), opened once; NULL when the variable is not set.  Skips the running
 * test visibly when there is no such device, fails it on any other error. */
struct lt_backend *device_open(void);
/* Runs it; fails the running test on an error, a changed guard or a validation message.  Capacity is above the live
 * rows, so that rows past them must stay as they are. */
void device_run(const struct device_op *op);

#endif
