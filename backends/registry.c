#include "backends/registry.h"

#include <string.h>

#include "backends/cpu/cpu_backend.h"

enum lt_status lt_backend_create(struct lt_backend **be, const struct lt_backend_request *req,
                                 struct lt_error *err)
{
    *be = NULL;
    const char *device = req->device ? req->device : "auto";
    if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0)
        return lt_cpu_backend_create(be, req->threads, req->isa, req->gemm, err);
    return lt_fail(err, LT_ERR_INVALID, "unknown device '%s': use auto or cpu", device);
}

void lt_backend_destroy(struct lt_backend *be)
{
    if (be)
        be->ops->destroy(be);
}
