/* The backend interface: memory and program execution on one device.  Implementations live in backends/;
 * core never names one. */
#ifndef LT_BACKEND_BACKEND_H
#define LT_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/tensor/weight.h"

struct lt_program; /* core/graph/program.h */
struct lt_node;
struct lt_backend;
struct lt_buffer;        /* device memory, defined by the backend */
struct lt_device_weight; /* a weight as the device reads it */
struct lt_compiled;      /* a program made ready for the device */

/* Per-step numbers; everything else about a program is fixed when it is compiled. */
struct lt_step_params {
    int32_t n_tokens, n_labels; /* live rows */
    float loss_scale;           /* 1 / targets of the whole step */
    uint64_t seed;
    uint32_t step;      /* optimizer step, for random streams */
    uint32_t site_base; /* added to every op's site: segment * 1024 */
    bool training;      /* false: dropout is off */
    /* optimizer */
    double lr, beta1, beta2, eps, weight_decay, bias_correction1, sqrt_bias_correction2;
    float max_grad_norm;
};

/* Where one extern value lies.  Tensors in weight form use `weight`, all others buffer + offset (bytes). */
struct lt_binding {
    struct lt_buffer *buffer;
    size_t offset;
    struct lt_device_weight *weight;
};

struct lt_run {
    const struct lt_binding *bindings; /* one per value number of the program; only extern ones are read */
    struct lt_buffer *arena, *tape, *workspace;
    size_t tape_offset; /* bytes */
    struct lt_step_params params;
};

/* What a device with memory of its own has done since the backend was made, and what it holds.  `waits`: the host had
 * to wait for results; that it may only be so many submissions ahead of the device is not counted. */
struct lt_device_counters {
    uint64_t submissions, dispatches, waits, bytes_up, bytes_down;
    uint64_t allocated, peak; /* bytes of device memory: now, and at most */
    uint64_t available;       /* bytes the device can still give; 0: it does not tell */
};

struct lt_backend_ops {
    void (*destroy)(struct lt_backend *be);
    /* Zero-filled. */
    enum lt_status (*buffer_create)(struct lt_backend *be, size_t size, struct lt_buffer **buf,
                                    struct lt_error *err);
    /* The same in a file of its own in dir, which goes with the buffer: what a program's op or buffer_write has written
     * is brought back to the file at once, so that memory holds what one op writes, never the whole.  NULL: the device
     * has no such memory. */
    enum lt_status (*buffer_create_paged)(struct lt_backend *be, size_t size, const char *dir,
                                          struct lt_buffer **buf, struct lt_error *err);
    void (*buffer_destroy)(struct lt_backend *be, struct lt_buffer *buf);
    enum lt_status (*buffer_write)(struct lt_backend *be, struct lt_buffer *buf, size_t offset,
                                   const void *src, size_t n, struct lt_error *err);
    enum lt_status (*buffer_read)(struct lt_backend *be, struct lt_buffer *buf, size_t offset, void *dst,
                                  size_t n, struct lt_error *err);
    /* The same without waiting: what the buffer holds now, after all that was asked before, is in dst when `finish`
     * has returned.  dst must stay until then, also after a failure. */
    enum lt_status (*buffer_read_later)(struct lt_backend *be, struct lt_buffer *buf, size_t offset,
                                        void *dst, size_t n, struct lt_error *err);
    /* Waits until all that was asked for is done. */
    enum lt_status (*finish)(struct lt_backend *be, struct lt_error *err);
    enum lt_status (*buffer_zero)(struct lt_backend *be, struct lt_buffer *buf, size_t offset, size_t n,
                                  struct lt_error *err);
    /* The buffer's memory when the host can address it, else NULL. */
    void *(*buffer_host)(struct lt_backend *be, struct lt_buffer *buf);
    /* Makes a host weight readable by programs.  A device that shares memory with the host borrows w's
     * pointers (they must stay valid); others copy. */
    enum lt_status (*weight_create)(struct lt_backend *be, const struct lt_weight *w,
                                    struct lt_device_weight **dw, struct lt_error *err);
    /* An f32 weight that lives in a buffer (trainable tensors). */
    enum lt_status (*weight_view)(struct lt_backend *be, const struct lt_weight *shape, struct lt_buffer *buf,
                                  size_t offset, struct lt_device_weight **dw, struct lt_error *err);
    /* From now on dw has the values of w, which has the same format and shape; as in weight_create w's pointers are
     * borrowed or copied.  For weights that move through memory: weight_create may then get one whose pointers are NULL;
     * no program reads it before it is bound, and its values are the same whenever it is. */
    enum lt_status (*weight_rebind)(struct lt_backend *be, struct lt_device_weight *dw,
                                    const struct lt_weight *w, struct lt_error *err);
    void (*weight_destroy)(struct lt_backend *be, struct lt_device_weight *dw);
    bool (*supports)(struct lt_backend *be, const struct lt_program *p, const struct lt_node *node);
    /* The program is borrowed and must outlive the result. */
    enum lt_status (*compile)(struct lt_backend *be, const struct lt_program *p, struct lt_compiled **c,
                              struct lt_error *err);
    void (*compiled_destroy)(struct lt_backend *be, struct lt_compiled *c);
    size_t (*workspace_bytes)(struct lt_backend *be,
                              const struct lt_compiled *c); /* run->workspace must hold this much */
    enum lt_status (*run)(struct lt_backend *be, const struct lt_compiled *c, const struct lt_run *run,
                          struct lt_error *err);
    /* These are NULL when programs run in the memory of this process. */
    void (*counters)(struct lt_backend *be, struct lt_device_counters *out);
    /* The bytes of the buffers that weight_create would make; 0: none.  Of the weight only what is no pointer is read;
     * nested: its block scales are quantized as well. */
    void (*weight_sizes)(struct lt_backend *be, const struct lt_weight *shape, bool nested, size_t sizes[2]);
    /* Bytes of device memory that a new backend holds after it has made n buffers of these sizes in this order: with
     * its own, with roundings, with what blocks of memory leave unused. */
    enum lt_status (*memory_for)(struct lt_backend *be, const size_t *sizes, size_t n, uint64_t *bytes,
                                 struct lt_error *err);
};

/* Time spent in one kind of op. */
struct lt_op_time {
    double seconds;
    uint64_t calls;
};

struct lt_backend {
    const struct lt_backend_ops *ops;
    const char *name;      /* "cpu" */
    char description[256]; /* one line for people: processor, ISA, GEMM provider, threads */
    bool bf16_unit;        /* bf16 products are faster than f32 ones */
    bool f16;              /* it has products with f16 factors (attribute `compute`) */
    size_t fixed_bytes;    /* memory the backend holds for itself (provider buffers): a line of the plan */
    /* The caller's array by enum lt_op, to which run() adds; NULL, as created: nothing is timed.  A device that cannot
     * tell ops apart leaves it alone. */
    struct lt_op_time *op_times;
};

#endif
