/* The Vulkan backend: a GPU (or Mesa's software device) through Vulkan 1.1. */
#ifndef LT_VULKAN_VK_BACKEND_H
#define LT_VULKAN_VK_BACKEND_H

#include "core/backend/backend.h"
#include "core/base/strbuf.h"

/* Device number `index` as the driver counts them.  LT_ERR_NOT_FOUND: no loader, or no
 * such device. */
enum lt_status lt_vulkan_backend_create(struct lt_backend **be, int index, struct lt_error *err) LT_MUST_USE;

/* One line a device, or one sentence when there is none; then what the backend runs. */
void lt_vulkan_list_devices(struct lt_strbuf *out);

#endif
