/* One row of x times a stored weight, for AVX2: the bits of ref_gemv.c at the speed of the memory.
 *
 * Two rows at a time, the second g->apart from the first and g->apart large: that is two places of the weight read one
 * line after another.  A processor fetches so many lines ahead in each such place; more places than two, or rows that are
 * neighbours, confuse it.  Instructions that fetch help it. */
#include "backends/cpu/x86/x86_kernels.h"

#include <immintrin.h>

#include "core/tensor/dtype.h"
#include "quant/nf4.h"

enum {
    LANES = 8,
    PLAIN_LANES = 16,
    HALF = LT_GEMV_BLOCK / 2,
    CHUNK = 64,   /* blocks whose scales are prepared at a time */
    AHEAD = 1024, /* bytes that are fetched before they are needed */
    SIZE = 2,     /* bytes of an f16 or bf16 */
    LINE = 32,    /* of them in a line of the cache */
    PLAIN_AHEAD = 512
};

static inline float sum_lanes(__m256 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); /* 04 15 26 37 */
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));                                        /* 0426 1537 */
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline void put(const struct lt_gemv *g, int64_t row, float v)
{
    g->y[row] = g->bias ? v + g->bias[row] : v;
}

/* ---- activations for 4-bit weights ---- */

/* Elements 0, 2, 4 … of 16. */
static inline __m256i evens(__m256i a, __m256i b)
{
    __m256 e = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(e), 0xd8);
}

static inline __m256i odds(__m256i a, __m256i b)
{
    __m256 o = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(o), 0xd8);
}

static inline void put16(int16_t *codes, __m256i a, __m256i b)
{
    __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)codes, v);
}

/* Magnitudes order like their bits, NaN above all. */
static float block_max(const float *x)
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i max = _mm256_setzero_si256();
    for (int i = 0; i < LT_GEMV_BLOCK; i += LANES)
        max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), mask));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(m));
}

static void gemv_quantize_avx2(int16_t *codes, float *scale, const float *x, int64_t n)
{
    for (int64_t b = 0; b < n / LT_GEMV_BLOCK; b++, x += LT_GEMV_BLOCK, codes += LT_GEMV_BLOCK) {
        const float max = block_max(x);
        const __m256 factor = _mm256_set1_ps(max < LT_GEMV_TINY ? 0.0f : LT_GEMV_UNIT / max);
        __m256i v[8];
        scale[b] = max < LT_GEMV_TINY ? 0.0f : max * (1.0f / (LT_GEMV_UNIT * LT_GEMV_UNIT));
        for (int i = 0; i < 8; i++)
            v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i * LANES), factor));
        put16(codes, evens(v[0], v[1]), evens(v[4], v[5]));
        put16(codes + 16, evens(v[2], v[3]), evens(v[6], v[7]));
        put16(codes + 32, odds(v[0], v[1]), odds(v[4], v[5]));
        put16(codes + 48, odds(v[2], v[3]), odds(v[6], v[7]));
    }
}

/* ---- 4 bits ---- */

/* Scales of n blocks of the flat weight from `first` on, each times that of its activations.  The table of 8-bit scales is
 * read one by one: instructions that gather take longer on many processors. */
static inline void block_factors(float *dst, const struct lt_weight *w, const float *scales, int64_t first,
                                 int64_t n)
{
    for (int64_t i = 0; w->absmax && i < n; i += LANES) {
        const __m256i live = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(n - i)),
                                                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        _mm256_storeu_ps(dst + i, _mm256_mul_ps(_mm256_maskload_ps(scales + i, live),
                                                _mm256_maskload_ps(w->absmax + first + i, live)));
    }
    for (int64_t i = 0; !w->absmax && i < n;) {
        const int64_t block = (first + i) / LT_NESTED_BLOCKSIZE,
                      end = (block + 1) * LT_NESTED_BLOCKSIZE - first;
        const float outer = w->nested_absmax[block];
        for (; i < n && i < end; i++) {
            const float v = w->nested_code[w->absmax_codes[first + i]] * outer;
            dst[i] = scales[i] * (v + w->nested_offset);
        }
    }
}

struct tables {
    __m256i low, high; /* bytes of the 16-bit code table */
};

static struct tables split_table(const int16_t table[16])
{
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; i++) {
        low[i] = (uint8_t)table[i];
        high[i] = (uint8_t)((uint16_t)table[i] >> 8);
    }
    return (struct tables){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)low)),
                           _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)high))};
}

static inline __m256i products(const struct tables *t, __m256i index, __m256i x0, __m256i x1)
{
    __m256i low = _mm256_shuffle_epi8(t->low, index), high = _mm256_shuffle_epi8(t->high, index);
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi8(low, high), x0),
                            _mm256_madd_epi16(_mm256_unpackhi_epi8(low, high), x1));
}

static inline __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline __m256 add_block(__m256 acc, const struct tables *t, const uint8_t *p, const int16_t *x,
                               const float *factor)
{
    const __m256i nibble = _mm256_set1_epi8(15), v = load(p);
    __m256i high = products(t, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble), load(x), load(x + 16));
    __m256i low = products(t, _mm256_and_si256(v, nibble), load(x + 32), load(x + 48));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(high, low)), _mm256_broadcast_ss(factor), acc);
}

static inline void two_rows_4bit(const struct lt_gemv *g, const struct tables *tables, int64_t first,
                                 int64_t second)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK;
    const uint8_t *p = (const uint8_t *)g->w->data + first * (g->w->cols / 2);
    const uint8_t *q = (const uint8_t *)g->w->data + second * (g->w->cols / 2);
    const int16_t *x = g->codes;
    const struct tables t = *tables;
    __m256 a = _mm256_setzero_ps(), b = a;
    for (int64_t from = 0; from < blocks; from += CHUNK) {
        float fa[CHUNK], fb[CHUNK];
        const int64_t n = blocks - from < CHUNK ? blocks - from : CHUNK;
        block_factors(fa, g->w, g->scales + from, first * blocks + from, n);
        block_factors(fb, g->w, g->scales + from, second * blocks + from, n);
        for (int64_t i = 0; i < n; i++, p += HALF, q += HALF, x += LT_GEMV_BLOCK) {
            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            _mm_prefetch((const char *)q + AHEAD, _MM_HINT_T0);
            a = add_block(a, &t, p, x, fa + i);
            b = add_block(b, &t, q, x, fb + i);
        }
    }
    put(g, first, sum_lanes(a));
    put(g, second, sum_lanes(b));
}

static void gemv_4bit_avx2(const struct lt_gemv *g)
{
    const struct tables t = split_table(g->table);
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows_4bit(g, &t, row, row + g->apart);
}

/* ---- f16, bf16 ---- */

static inline __m256 load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline __m256 load_bf16(const void *p)
{
    __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}

struct chains {
    __m256 low, high; /* of columns 0 … 7 and 8 … 15 of every 16 */
};

static inline struct chains add_products(struct chains c, __m256 w_low, __m256 w_high, __m256 x_low,
                                         __m256 x_high)
{
    return (struct chains){_mm256_fmadd_ps(w_low, x_low, c.low), _mm256_fmadd_ps(w_high, x_high, c.high)};
}

/* With the last columns, at w and x, fewer than LINE. */
static float finish_plain(struct chains c, const char *w, const float *x, enum lt_dtype dtype, int64_t cols)
{
    for (; cols > 0; cols -= PLAIN_LANES, w += PLAIN_LANES * SIZE, x += PLAIN_LANES) {
        const size_t n = cols < PLAIN_LANES ? (size_t)cols : PLAIN_LANES;
        float wf[PLAIN_LANES] = {0}, xf[PLAIN_LANES] = {0};
        lt_convert_to_f32(wf, w, dtype, n);
        lt_convert_to_f32(xf, x, LT_F32, n);
        c = add_products(c, _mm256_loadu_ps(wf), _mm256_loadu_ps(wf + LANES), _mm256_loadu_ps(xf),
                         _mm256_loadu_ps(xf + LANES));
    }
    return sum_lanes(_mm256_add_ps(c.low, c.high));
}

static inline __attribute__((always_inline)) void two_rows_plain(const struct lt_gemv *g, int64_t first,
                                                                 int64_t second, enum lt_dtype dtype,
                                                                 __m256 (*load_eight)(const void *p))
{
    const int64_t cols = g->w->cols, whole = cols / LINE * LINE;
    const char *p = (const char *)g->w->data + first * cols * SIZE;
    const char *q = (const char *)g->w->data + second * cols * SIZE;
    struct chains a = {_mm256_setzero_ps(), _mm256_setzero_ps()}, b = a;
    for (int64_t k = 0; k < whole; k += LINE, p += LINE * SIZE, q += LINE * SIZE) {
        _mm_prefetch(p + PLAIN_AHEAD, _MM_HINT_T0);
        _mm_prefetch(q + PLAIN_AHEAD, _MM_HINT_T0);
        for (int i = 0; i < LINE; i += PLAIN_LANES) {
            const __m256 low = _mm256_loadu_ps(g->x + k + i), high = _mm256_loadu_ps(g->x + k + i + LANES);
            a = add_products(a, load_eight(p + i * SIZE), load_eight(p + (i + LANES) * SIZE), low, high);
            b = add_products(b, load_eight(q + i * SIZE), load_eight(q + (i + LANES) * SIZE), low, high);
        }
    }
    put(g, first, finish_plain(a, p, g->x + whole, dtype, cols - whole));
    put(g, second, finish_plain(b, q, g->x + whole, dtype, cols - whole));
}

static void gemv_f16_avx2(const struct lt_gemv *g)
{
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows_plain(g, row, row + g->apart, LT_F16, load_f16);
}

static void gemv_bf16_avx2(const struct lt_gemv *g)
{
    for (int64_t row = g->begin; row < g->end; row++)
        two_rows_plain(g, row, row + g->apart, LT_BF16, load_bf16);
}

void lt_gemv_kernels_avx2(struct lt_cpu_kernels *k)
{
    k->gemv_quantize = gemv_quantize_avx2;
    k->gemv[LT_WEIGHT_NF4] = gemv_4bit_avx2;
    k->gemv[LT_WEIGHT_FP4] = gemv_4bit_avx2;
    k->gemv[LT_WEIGHT_F16] = gemv_f16_avx2;
    k->gemv[LT_WEIGHT_BF16] = gemv_bf16_avx2;
}
