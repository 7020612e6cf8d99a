#include "tests/support/gemm_amx_emulation.h"

#include <stdlib.h>
#include <string.h>

#include "backends/cpu/x86/gemm_tile_amx.h"
#include "core/tensor/dtype.h"

/* Intel SDM volume 2, TILELOADD, TILESTORED, TILEZERO and TDPBF16PS with registers of 16 rows of 64 bytes.  Subnormal
 * numbers, which the instruction takes as 0, are kept. */
union row {
    unsigned char bytes[64];
    uint16_t halves[32];
    float floats[16];
};
static _Thread_local union row tiles[8][16];
static _Thread_local bool configured;

static void need_configuration(void)
{
    if (!configured)
        abort(); /* as the processor would */
}

static void tile_zero(int t)
{
    need_configuration();
    memset(tiles[t], 0, sizeof tiles[t]);
}

static void tile_load(int t, const float *from, int64_t stride)
{
    need_configuration();
    for (int64_t r = 0; r < 16; r++)
        memcpy(tiles[t][r].bytes, (const unsigned char *)from + r * stride, 64);
}

static void tile_store(int t, float *to, int64_t stride)
{
    need_configuration();
    for (int64_t r = 0; r < 16; r++)
        memcpy((unsigned char *)to + r * stride, tiles[t][r].bytes, 64);
}

static void tile_dot(int c, int a, int b)
{
    need_configuration();
    if (a != 4 + c / 2 || b != 6 + c % 2)
        abort(); /* the instructions of the kernel name these */
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sums[2] = {0.0F, 0.0F};
            for (int k = 0; k < 16; k++)
                for (int i = 0; i < 2; i++)
                    sums[i] += lt_bf16_to_f32(tiles[a][m].halves[2 * k + i]) *
                               lt_bf16_to_f32(tiles[b][k].halves[2 * n + i]);
            tiles[c][m].floats[n] += sums[0] + sums[1];
        }
}

static const struct amx_registers registers = {tile_zero, tile_load, tile_store, tile_dot};

static void tile(const struct lt_gemm_tile *t)
{
    gemm_tile_amx(&registers, t);
}

static void enter(void)
{
    configured = true;
}

static void leave(void)
{
    configured = false;
}

static void put_pair(float *dst, float even, float odd)
{
    const uint16_t pair[2] = {lt_f32_to_bf16(even), lt_f32_to_bf16(odd)};
    memcpy(dst, pair, sizeof pair);
}

static void pair_row(float *dst, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i += 2)
        put_pair(dst + i / 2, src[i], i + 1 < n ? src[i + 1] : 0.0F);
}

static void pair_rows(float *dst, const float *even, const float *odd, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_pair(dst + i, even[i], odd != NULL ? odd[i] : 0.0F);
}

static void transpose(float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int64_t cols)
{
    for (int64_t c = 0; c < cols; c++) {
        memset(dst + c * ldd, 0, TILE * sizeof *dst);
        for (int r = 0; r < rows; r++)
            memcpy(dst + c * ldd + r, src + r * lds + c, sizeof *dst);
    }
}

static void panels_copy(float *dst, int64_t kc, int64_t k0, const float *src, int64_t lds, int64_t rows,
                        int64_t cols)
{
    for (int64_t n = 0; n < cols; n += AMX_COLS) {
        const int64_t left = cols - n, width = left > TILE ? AMX_COLS : TILE;
        float *panel = dst + n / AMX_COLS * lt_gemm_panel_stride(kc, AMX_COLS);
        for (int64_t r = 0; r < rows; r++) {
            float *to = panel + (k0 + r) * width;
            memset(to, 0, (size_t)width * sizeof *to);
            memcpy(to, src + r * lds + n, (size_t)(left < width ? left : width) * sizeof *to);
        }
    }
}

const struct lt_gemm_kernel lt_gemm_kernel_amx_emulated = {
    .mr = AMX_ROWS,
    .nr = AMX_COLS,
    .lanes = TILE,
    .pairs = true,
    .k_step = TILE,
    .kc = 64, /* several blocks in small products */
    .panels = 3,
    .tile = tile,
    .transpose = transpose,
    .panels_copy = panels_copy,
    .pair_row = pair_row,
    .pair_rows = pair_rows,
    .enter = enter,
    .leave = leave,
};
