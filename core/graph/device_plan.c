#include "core/graph/device_plan.h"

#include "core/base/alloc.h"

void lt_device_plan_deinit(struct lt_device_plan *p)
{
    lt_free(p->sizes);
    *p = (struct lt_device_plan){0};
}

void lt_device_plan_add(struct lt_device_plan *p, size_t bytes)
{
    if (bytes == 0)
        return;
    if (!lt_reserve((void **)&p->sizes, &p->cap, p->count, sizeof *p->sizes))
        p->failed = true;
    else
        p->sizes[p->count++] = bytes;
}

size_t lt_device_plan_add_weight(struct lt_device_plan *p, struct lt_backend *be,
                                 const struct lt_weight *shape, bool nested)
{
    size_t sizes[2] = {0};
    if (be->ops->weight_sizes)
        be->ops->weight_sizes(be, shape, nested, sizes);
    lt_device_plan_add(p, sizes[0]);
    lt_device_plan_add(p, sizes[1]);
    return sizes[0] + sizes[1];
}
