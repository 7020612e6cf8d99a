/* The kernel table of the CPU backend with a device behind it: every entry runs the op of the same name on the device
 * that LT_TEST_DEVICE names.  So the cases written for the CPU's kernels check a device's ops as well. */
#ifndef LT_TESTS_SUPPORT_DEVICE_KERNELS_H
#define LT_TESTS_SUPPORT_DEVICE_KERNELS_H

#include "backends/cpu/gemm.h"
#include "backends/cpu/kernels.h"

enum { LT_CHECK_DEVICE = LT_CPU_ISA_COUNT }; /* stands for the device in struct lt_cpu_kernels.isa */

/* Needs device_open() (device_op.h). */
void lt_device_kernels_init(struct lt_cpu_kernels *k);

/* The same for products: a provider named "device". */
struct lt_gemm_provider *lt_device_gemm_create(void);

#endif
