/* AMX micro-kernel for bf16.  A step of a tile register sums the products of even and of odd k apart, adds the two sums,
 * then adds that to the accumulator, subnormal numbers taken as 0 (Intel SDM volume 2, TDPBF16PS). */
#include <immintrin.h>

#include "backends/cpu/x86/gemm_cursor.h"
#include "backends/cpu/x86/gemm_pack_avx512.h"
#include "backends/cpu/x86/gemm_pairs_avx512bf16.h"
#include "backends/cpu/x86/gemm_tile_amx.h"

/* The instructions have the numbers of registers in their code: a call with constants is inlined to one of them. */
LT_INLINE void tile_zero(const int t)
{
    switch (t) {
    case 0:
        _tile_zero(0);
        break;
    case 1:
        _tile_zero(1);
        break;
    case 2:
        _tile_zero(2);
        break;
    default:
        _tile_zero(3);
        break;
    }
}

/* What was written before is in memory: the intrinsic does not tell the compiler that it reads there. */
LT_INLINE void settle(const void *memory)
{
    __asm__ volatile("" : : "r"(memory) : "memory");
}

LT_INLINE void tile_load(const int t, const float *from, int64_t stride)
{
    settle(from);
    switch (t) {
    case 0:
        _tile_loadd(0, from, stride);
        break;
    case 1:
        _tile_loadd(1, from, stride);
        break;
    case 2:
        _tile_loadd(2, from, stride);
        break;
    case 3:
        _tile_loadd(3, from, stride);
        break;
    case 4:
        _tile_loadd(4, from, stride);
        break;
    case 5:
        _tile_loadd(5, from, stride);
        break;
    case 6:
        _tile_loadd(6, from, stride);
        break;
    default:
        _tile_loadd(7, from, stride);
        break;
    }
}

LT_INLINE void tile_store(const int t, float *to, int64_t stride)
{
    switch (t) {
    case 0:
        _tile_stored(0, to, stride);
        break;
    case 1:
        _tile_stored(1, to, stride);
        break;
    case 2:
        _tile_stored(2, to, stride);
        break;
    default:
        _tile_stored(3, to, stride);
        break;
    }
    settle(to);
}

LT_INLINE void tile_dot(const int c, const int a, const int w)
{
    (void)a; /* c says it all */
    (void)w;
    switch (c) {
    case 0:
        _tile_dpbf16ps(0, 4, 6);
        break;
    case 1:
        _tile_dpbf16ps(1, 4, 7);
        break;
    case 2:
        _tile_dpbf16ps(2, 5, 6);
        break;
    default:
        _tile_dpbf16ps(3, 5, 7);
        break;
    }
}

static const struct amx_registers registers = {tile_zero, tile_load, tile_store, tile_dot};

static void tile_amx(const struct lt_gemm_tile *t)
{
    gemm_tile_amx(&registers, t);
}

/* Palette 1: eight registers, each configured to 16 rows of 64 bytes (Intel SDM volume 2, LDTILECFG).  The registers are
 * a thread's own; released, they cost nothing when threads are switched. */
static void amx_enter(void)
{
    enum { PALETTE = 0, BYTES_A_ROW = 16, ROWS = 48, SIZE = 64, REGISTERS = 8 };
    unsigned char config[SIZE] = {[PALETTE] = 1};
    for (int t = 0; t < REGISTERS; t++) {
        config[BYTES_A_ROW + 2 * t] = TILE * 4; /* 16 bits, low byte first */
        config[ROWS + t] = TILE;
    }
    settle(config);
    _tile_loadconfig(config);
}

static void amx_leave(void)
{
    _tile_release();
}

static void panels_copy_32(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds, int64_t rows,
                           int64_t cols)
{
    gemm_panels_copy_512(dst, kc, k0, src, lds, rows, cols, AMX_COLS / TILE);
}

const struct lt_gemm_kernel lt_gemm_kernel_amx = {
    .mr = AMX_ROWS,
    .nr = AMX_COLS,
    .lanes = TILE,
    .pairs = true,
    .k_step = TILE,
    .kc = 256,
    .panels = 16,
    .tile = tile_amx,
    .transpose = gemm_transpose_512,
    .panels_copy = panels_copy_32,
    .pair_row = gemm_pair_row_512,
    .pair_rows = gemm_pair_rows_512,
    .enter = amx_enter,
    .leave = amx_leave,
};
