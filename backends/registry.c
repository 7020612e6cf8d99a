#include "backends/registry.h"

#include <string.h>

#include "backends/cpu/cpu_backend.h"
#include "config.h"
#if LT_HAVE_VULKAN
#include "backends/vulkan/vk_backend.h"
#endif

static enum lt_status create_cpu(struct lt_backend **be, const struct lt_backend_request *req,
                                 struct lt_error *err)
{
    return lt_cpu_backend_create(be, req->threads, req->isa, req->gemm, err);
}

#if LT_HAVE_VULKAN
static enum lt_status create_vulkan(struct lt_backend **be, int index, struct lt_error *err)
{
    return lt_vulkan_backend_create(be, index, err);
}

void lt_backend_list(struct lt_strbuf *out)
{
    lt_strbuf_puts(out, "cpu       this machine's processors\n");
    lt_vulkan_list_devices(out);
}
#else
static enum lt_status create_vulkan(struct lt_backend **be, int index, struct lt_error *err)
{
    (void)index;
    *be = NULL;
    return lt_fail(
        err, LT_ERR_NOT_FOUND,
        "this program was built without Vulkan: install the Vulkan headers and run ./configure again, "
        "or use --device cpu");
}

void lt_backend_list(struct lt_strbuf *out)
{
    lt_strbuf_puts(out, "cpu       this machine's processors\nvulkan    none: built without Vulkan\n");
}
#endif

/* "vulkan" or "vulkan:N". */
static bool parse_vulkan(const char *device, int *index)
{
    long long n = 0;
    if (strncmp(device, "vulkan", 6) != 0 || (device[6] != 0 && device[6] != ':'))
        return false;
    if (device[6] == ':' && (!lt_parse_i64(device + 7, &n) || n < 0 || n > 255))
        return false;
    *index = (int)n;
    return true;
}

enum lt_status lt_backend_create(struct lt_backend **be, const struct lt_backend_request *req,
                                 struct lt_error *err)
{
    *be = NULL;
    const char *device = req->device ? req->device : "auto";
    int index;
    /* No GPU has run the test suite yet: it must be asked for. */
    if (strcmp(device, "cpu") == 0 || strcmp(device, "auto") == 0)
        return create_cpu(be, req, err);
    if (parse_vulkan(device, &index))
        return create_vulkan(be, index, err);
    return lt_fail(err, LT_ERR_INVALID, "unknown device '%s': use auto, cpu, vulkan or vulkan:N", device);
}

void lt_backend_destroy(struct lt_backend *be)
{
    if (be)
        be->ops->destroy(be);
}
