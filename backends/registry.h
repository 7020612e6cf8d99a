/* The only list of backends. */
#ifndef LT_BACKENDS_REGISTRY_H
#define LT_BACKENDS_REGISTRY_H

#include "core/backend/backend.h"
#include "core/base/strbuf.h"

struct lt_backend_request {
    const char *device; /* "cpu", "vulkan", "vulkan:N", or "auto": the CPU */
    int threads;        /* 0: all processors this process may use */
    const char *isa;    /* LT_CPU: ref, avx2, avx512, amx, neon; NULL: the best there is */
    const char *gemm;   /* LT_GEMM: openblas, native, ref; NULL: the measured table's choice */
};

/* An unknown device, ISA or provider is LT_ERR_INVALID listing the known ones. */
enum lt_status lt_backend_create(struct lt_backend **be, const struct lt_backend_request *req,
                                 struct lt_error *err) LT_MUST_USE;
/* One line a device, for people. */
void lt_backend_list(struct lt_strbuf *out);
void lt_backend_destroy(struct lt_backend *be); /* NULL is accepted */

#endif
