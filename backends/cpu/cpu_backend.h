/* The CPU backend: host memory, OpenMP threads, the kernel table and a GEMM provider. */
#ifndef LT_BACKENDS_CPU_CPU_BACKEND_H
#define LT_BACKENDS_CPU_CPU_BACKEND_H

#include "core/backend/backend.h"

/* threads 0: all processors.  isa and gemm as in struct lt_backend_request. */
enum lt_status lt_cpu_backend_create(struct lt_backend **be, int threads, const char *isa, const char *gemm,
                                     struct lt_error *err) LT_MUST_USE;

#endif
