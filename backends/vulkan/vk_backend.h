/* The Vulkan backend: a GPU (or Mesa's software device) through Vulkan 1.1. */
#ifndef LT_VULKAN_VK_BACKEND_H
#define LT_VULKAN_VK_BACKEND_H

#include "core/backend/backend.h"
#include "core/base/strbuf.h"

/* Device number `index` as the driver counts them; -1: the first discrete GPU.  LT_ERR_NOT_FOUND: no loader, or no
 * such device. */
enum lt_status lt_vulkan_backend_create(struct lt_backend **be, int index, struct lt_error *err) LT_MUST_USE;

/* One line a device, or one sentence when there is none; then what the backend runs. */
void lt_vulkan_list_devices(struct lt_strbuf *out);

/* Since the backend was made. */
struct lt_vulkan_counters {
    uint64_t submissions, dispatches, bytes_up, bytes_down, waits;
    uint64_t allocated, peak, used; /* bytes of device memory: held now, at most, and by buffers */
    uint64_t available;             /* what the device still has; 0: unknown */
    unsigned messages;              /* of the validation layers */
};
/* False when be is another backend. */
bool lt_vulkan_counters(struct lt_backend *be, struct lt_vulkan_counters *out);

#endif
