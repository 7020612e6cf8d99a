/* Products of int8 codes with AVX512-VNNI, which the processors with AVX512-BF16 have. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>

enum { STEP = 64, MAX_ROWS = 4, COLS = 4 };

static inline __m512i load_tail(const int8_t *p, __mmask64 mask)
{
    return _mm512_maskz_loadu_epi8(mask, p);
}

/* rows x cols products.  The instruction takes one operand unsigned: x + 128, whose surplus is 128 times the sum of
 * the row of w. */
static inline void dot_tile(int32_t *acc, int64_t ldacc, const int8_t *x, int rows, const int8_t *w, int cols,
                            int64_t k)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512i sum[MAX_ROWS][COLS], surplus[COLS];
    for (int j = 0; j < cols; j++) {
        surplus[j] = _mm512_setzero_si512();
        for (int i = 0; i < rows; i++)
            sum[i][j] = _mm512_setzero_si512();
    }
    for (int64_t p = 0; p < k; p += STEP) {
        __mmask64 mask = k - p >= STEP ? ~(__mmask64)0 : ((__mmask64)1 << (k - p)) - 1;
        __m512i b[COLS];
        for (int j = 0; j < cols; j++) {
            b[j] = load_tail(w + j * k + p, mask);
            surplus[j] = _mm512_dpbusd_epi32(surplus[j], flip, b[j]);
        }
        for (int i = 0; i < rows; i++) {
            __m512i a = _mm512_xor_si512(load_tail(x + i * k + p, mask), flip);
            for (int j = 0; j < cols; j++)
                sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], a, b[j]);
        }
    }
    for (int j = 0; j < cols; j++)
        for (int i = 0; i < rows; i++)
            acc[i * ldacc + j] = _mm512_reduce_add_epi32(_mm512_sub_epi32(sum[i][j], surplus[j]));
}

static void int8_dot_avx512bf16(int32_t *acc, int64_t ldacc, const int8_t *x, int64_t m, const int8_t *w,
                                int64_t n, int64_t k)
{
    for (int64_t i = 0; i < m;) {
        int64_t j = 0, rows = i + MAX_ROWS <= m ? MAX_ROWS : 1;
        int32_t *row = acc + i * ldacc;
        for (; rows == MAX_ROWS && j + COLS <= n; j += COLS)
            dot_tile(row + j, ldacc, x + i * k, MAX_ROWS, w + j * k, COLS, k);
        for (; rows == 1 && j + COLS <= n; j += COLS)
            dot_tile(row + j, ldacc, x + i * k, 1, w + j * k, COLS, k);
        for (; j < n; j++)
            for (int64_t r = 0; r < rows; r++)
                dot_tile(row + r * ldacc + j, ldacc, x + (i + r) * k, 1, w + j * k, 1, k);
        i += rows;
    }
}

void lt_int8_kernels_avx512bf16(struct lt_cpu_kernels *k)
{
    k->int8_dot = int8_dot_avx512bf16;
}
