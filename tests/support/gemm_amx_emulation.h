/* The AMX micro-kernel on registers of plain memory: its own lines (backends/cpu/x86/gemm_tile_amx.h), with what the
 * instructions do written out, and portable packing.  So its walk through A, W and C is tested on any machine. */
#ifndef LT_TESTS_SUPPORT_GEMM_AMX_EMULATION_H
#define LT_TESTS_SUPPORT_GEMM_AMX_EMULATION_H

#include "backends/cpu/gemm_internal.h"

extern const struct lt_gemm_kernel lt_gemm_kernel_amx_emulated;

#endif
