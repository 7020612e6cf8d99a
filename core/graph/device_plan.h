/* What a device with memory of its own will hold: the sizes of its buffers in the order in which they are made, which is
 * what its memory follows from. */
#ifndef LT_GRAPH_DEVICE_PLAN_H
#define LT_GRAPH_DEVICE_PLAN_H

#include "core/backend/backend.h"

/* A zeroed one is empty. */
struct lt_device_plan {
    size_t *sizes;
    size_t count, cap;
    size_t weights;  /* bytes of those that hold weights */
    size_t streamed; /* of those that weights take in turn */
    bool failed;     /* memory was short */
};

void lt_device_plan_deinit(struct lt_device_plan *p);
/* 0 is no buffer. */
void lt_device_plan_add(struct lt_device_plan *p, size_t bytes);
/* The copy of a weight; returns its bytes.  Without effect where the device borrows host memory. */
size_t lt_device_plan_add_weight(struct lt_device_plan *p, struct lt_backend *be,
                                 const struct lt_weight *shape, bool nested);

#endif
