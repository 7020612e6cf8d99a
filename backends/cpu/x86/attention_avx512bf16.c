/* Attention with pairs of bf16: AVX512-BF16 multiplies twice as many of them in a step as of floats.  A step adds the products
 * of the odd, then of the even elements of a pair; roundings are to nearest even, subnormal numbers count as 0. */
#include "backends/cpu/x86/attention_tile_avx512.h"
#include "backends/cpu/x86/x86_kernels.h"

enum { TILE = LT_ATTENTION_TILE, LANES = 16 };

static inline __m512 step_avx512bf16(__m512 acc, __m512 x, __m512 w)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w);
}

static void product(const struct lt_tile_product *p)
{
    attention_product_512(p, step_avx512bf16);
}

/* The pairs of 2 * LANES neighbours, of which n are there. */
static inline __m512 pairs_of_row(const float *src, int64_t n)
{
    const __m512 low = _mm512_maskz_loadu_ps(lt_lanes_avx512(n), src);
    const __m512 high = _mm512_maskz_loadu_ps(lt_lanes_avx512(n - LANES), src + LANES);
    return (__m512)_mm512_cvtne2ps_pbh(high, low);
}

static void pair_rows(float *dst, int64_t ldd, const float *src, int64_t ld, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c += 2L * LANES)
            _mm512_mask_storeu_ps(dst + r * ldd + c / 2, lt_lanes_avx512((cols - c + 1) / 2),
                                  pairs_of_row(src + r * ld + c, cols - c));
}

static void pair_columns(float *dst, int64_t ldd, const float *src, int64_t ld, int64_t rows, int64_t cols)
{
    const __m512i both = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                          22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t r = 0; r < rows; r += 2) {
        const float *even = src + r * ld, *odd = r + 1 < rows ? even + ld : even;
        for (int64_t c = 0; c < cols; c += LANES) {
            const __mmask16 mask = lt_lanes_avx512(cols - c);
            const __m512 low = _mm512_maskz_loadu_ps(mask, even + c);
            const __m512 high = _mm512_maskz_loadu_ps(r + 1 < rows ? mask : 0, odd + c);
            const __m512i side_by_side = (__m512i)_mm512_cvtne2ps_pbh(high, low);
            _mm512_mask_storeu_epi32(dst + r / 2 * ldd + c, mask,
                                     _mm512_permutexvar_epi16(both, side_by_side));
        }
    }
}

static void pair_weights(float *s, int64_t lo, int64_t hi)
{
    for (int64_t c = 0; c < TILE; c += 2L * LANES) {
        const __mmask16 low = lt_lanes_avx512(hi - c) & (__mmask16)~lt_lanes_avx512(lo - c);
        const __mmask16 high = lt_lanes_avx512(hi - c - LANES) & (__mmask16)~lt_lanes_avx512(lo - c - LANES);
        _mm512_storeu_ps(s + c / 2, (__m512)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, s + c + LANES),
                                                                _mm512_maskz_loadu_ps(low, s + c)));
    }
}

static void transpose(float *dst, const float *src, int64_t ld, int64_t keys, int64_t depth)
{
    for (int64_t key = 0; key < keys; key += LANES) {
        for (int64_t d = 0; d < depth; d += 2L * LANES) {
            __m512 r[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                r[i] = key + i < keys ? pairs_of_row(src + (key + i) * ld + d, depth - d)
                                      : _mm512_setzero_ps();
            attention_transpose_16x16(r);
            float *out = dst + d / 2 * TILE + key;
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (d + 2L * i < depth)
                    _mm512_storeu_ps(out + (int64_t)i * TILE, r[i]);
        }
    }
}

static const struct lt_pair_ops pairs = {.rows = pair_rows, .columns = pair_columns, .weights = pair_weights};

static const struct lt_attention_ops ops = {.product = product,
                                            .transpose = transpose,
                                            .softmax_row = lt_softmax_row_avx512,
                                            .grad_row = lt_grad_row_avx512,
                                            .scale_row = lt_scale_row_avx512,
                                            .dot = lt_dot_avx512,
                                            .keep_row = lt_keep_row_avx2,
                                            .pairs = &pairs};

static void attention_fwd_avx512bf16(const struct lt_attention_block *block)
{
    lt_attention_flash_fwd(&ops, block);
}

static void attention_bwd_avx512bf16(const struct lt_attention_grad *grad)
{
    lt_attention_flash_bwd(&ops, grad);
}

void lt_attention_kernels_avx512bf16(struct lt_cpu_kernels *k)
{
    k->attention_fwd_bf16 = attention_fwd_avx512bf16;
    k->attention_bwd_bf16 = attention_bwd_avx512bf16;
}
