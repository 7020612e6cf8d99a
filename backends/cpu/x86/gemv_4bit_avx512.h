/* The walk of one row of x over a stored 4-bit weight, two rows of it at a time as in gemv_avx2.c: with AVX-512, and
 * with AVX512-VNNI, which adds the products it makes.  Sums of integers: the same bits either way. */
#ifndef LT_BACKENDS_CPU_X86_GEMV_4BIT_AVX512_H
#define LT_BACKENDS_CPU_X86_GEMV_4BIT_AVX512_H

#include <immintrin.h>

#include "backends/cpu/x86/vecmath_avx512.h"
#include "backends/cpu/x86/x86_kernels.h"
#include "quant/nf4.h"

#define LT_INLINE static inline __attribute__((always_inline))

enum {
    PAIR = 2 * LT_GEMV_BLOCK, /* elements of a register of codes: two blocks, in the lanes 0…7 and 8…15 */
    HALF = 16,                /* floats of a register */
    CHUNK = 2 * HALF,         /* blocks whose scales are prepared at a time, at most */
    PLANES = 4,               /* codes of a word */
    AHEAD = 512,              /* bytes that are fetched before they are needed */
    WORDS = PAIR / PLANES
};

/* sum + the products of neighbouring 16-bit integers, added in pairs. */
typedef __m512i gemv_dot(__m512i sum, __m512i codes, __m512i x);

LT_INLINE __m512i gemv_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* Loaded once: compilers make a load of every use. */
LT_INLINE __m512i gemv_load_once(const void *p)
{
    __m512i v = gemv_load(p);
    __asm__("" : "+v"(v));
    return v;
}

/* ---- chunks ---- */

/* n blocks of a row from number `begin` on, and of the row apart from it. */
struct gemv_chunk {
    int64_t row, begin, n;
};

/* Blocks of a chunk: about as many in each of a row, fours but for the last. */
LT_INLINE int64_t gemv_chunk_size(const struct lt_gemv *g)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK, chunks = (blocks + CHUNK - 1) / CHUNK;
    return chunks > 1 ? ((blocks + chunks - 1) / chunks + 3) / 4 * 4 : CHUNK;
}

LT_INLINE struct gemv_chunk gemv_chunk_at(const struct lt_gemv *g, int64_t row, int64_t begin, int64_t size)
{
    const int64_t left = g->w->cols / LT_GEMV_BLOCK - begin;
    return (struct gemv_chunk){.row = row, .begin = begin, .n = left < size ? left : size};
}

/* ---- scales ---- */

/* Scales that the blocks of two rows will need, as their table holds them. */
struct gemv_inner {
    float a[CHUNK], b[CHUNK];
} __attribute__((aligned(64)));

/* What is still to be looked up.  One by one, between the products, leaves the vector units to these; a chunk ahead, as
 * what is written in pieces cannot soon be read as a whole. */
struct gemv_ahead {
    const float *code;
    const uint8_t *a, *b;
    float *to; /* in a gemv_inner */
    int64_t left;
};

/* volatile: compilers gather four in a register, which takes the units of the products. */
LT_INLINE void gemv_look_up(volatile float *dst, const float *code, uint8_t i)
{
    *dst = code[i];
}

/* One of each row. */
LT_INLINE void gemv_look_up_both(const struct gemv_ahead *s, int i)
{
    gemv_look_up(s->to + i, s->code, s->a[i]);
    gemv_look_up(s->to + CHUNK + i, s->code, s->b[i]);
}

LT_INLINE void gemv_ahead_step(struct gemv_ahead *s, int n)
{
    s->a += n;
    s->b += n;
    s->to += n;
    s->left -= n;
}

LT_INLINE void gemv_ahead_four(struct gemv_ahead *s)
{
    if (s->left < 4)
        return;
    gemv_look_up_both(s, 0);
    gemv_look_up_both(s, 1);
    gemv_look_up_both(s, 2);
    gemv_look_up_both(s, 3);
    gemv_ahead_step(s, 4);
}

LT_INLINE void gemv_ahead_rest(struct gemv_ahead *s)
{
    for (; s->left > 0; gemv_ahead_step(s, 1))
        gemv_look_up_both(s, 0);
}

LT_INLINE struct gemv_ahead gemv_ahead(struct gemv_inner *to, const struct lt_gemv *g, struct gemv_chunk c)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK;
    const uint8_t *codes = g->w->absmax_codes + c.row * blocks + c.begin;
    return (struct gemv_ahead){
        .code = g->w->nested_code, .a = codes, .b = codes + g->apart * blocks, .to = to->a, .left = c.n};
}

/* The first `left` of the live scales have the outer scale nested[0], the others nested[1]. */
LT_INLINE __m512 gemv_outer(__m512 v, const float *nested, int64_t left, __mmask16 live, float offset)
{
    __m512 outer = _mm512_set1_ps(nested[0]);
    if (left < 16) {
        const __mmask16 next = live & (__mmask16)~lt_lanes_avx512(left);
        outer = _mm512_mask_broadcastss_ps(outer, next, _mm_load_ss(nested + (next != 0)));
    }
    return _mm512_add_ps(_mm512_mul_ps(v, outer), _mm512_set1_ps(offset));
}

/* Scales of the n <= 16 blocks of the flat weight from `first` on, 0 behind them; inner: what was looked up for them. */
LT_INLINE __m512 gemv_block_scales(const struct lt_weight *w, const float *inner, int64_t first,
                                   __mmask16 live)
{
    if (!inner)
        return _mm512_maskz_loadu_ps(live, w->absmax + first);
    const uint64_t block = (uint64_t)first / LT_NESTED_BLOCKSIZE;
    const int64_t left = LT_NESTED_BLOCKSIZE - (int64_t)((uint64_t)first % LT_NESTED_BLOCKSIZE);
    return gemv_outer(_mm512_load_ps(inner), w->nested_absmax + block, left, live, w->nested_offset);
}

/* Scales of its blocks from number i on, HALF of them, each times that of its activations. */
LT_INLINE void gemv_half_factors(struct gemv_inner *f, const struct lt_gemv *g,
                                 const struct gemv_inner *inner, struct gemv_chunk c, int i)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK, a = c.row * blocks + c.begin + i;
    const __mmask16 live = lt_lanes_avx512(c.n - i);
    const __m512 x = _mm512_maskz_loadu_ps(live, g->scales + c.begin + i);
    const __m512 as = gemv_block_scales(g->w, inner ? inner->a + i : NULL, a, live);
    const __m512 bs = gemv_block_scales(g->w, inner ? inner->b + i : NULL, a + g->apart * blocks, live);
    _mm512_store_ps(f->a + i, _mm512_maskz_mul_ps(live, as, x));
    _mm512_store_ps(f->b + i, _mm512_maskz_mul_ps(live, bs, x));
}

LT_INLINE void gemv_factors(struct gemv_inner *f, const struct lt_gemv *g, const struct gemv_inner *inner,
                            struct gemv_chunk c)
{
    gemv_half_factors(f, g, inner, c, 0);
    if (c.n > HALF)
        gemv_half_factors(f, g, inner, c, HALF);
}

/* ---- products ---- */

/* A register of each of two rows. */
struct gemv_both {
    __m512i a, b;
};

/* The codes of a plane in the low bits of each word. */
LT_INLINE __m512i gemv_low_bits(__m512i words, int plane)
{
    switch (plane) {
    case 1:
        return _mm512_srli_epi16(words, 4);
    case 2:
        return _mm512_srli_epi16(words, 8);
    case 3:
        return _mm512_srli_epi16(words, 12);
    default:
        return words;
    }
}

/* Adds the codes of a plane of both rows, times x; plane 0 is the first. */
LT_INLINE struct gemv_both gemv_plane(struct gemv_both sum, struct gemv_both words, __m512i table,
                                      const int16_t *x, int plane, gemv_dot dot)
{
    const __m512i xs = gemv_load_once(x + plane * WORDS);
    const __m512i a = _mm512_permutexvar_epi16(gemv_low_bits(words.a, plane), table);
    const __m512i b = _mm512_permutexvar_epi16(gemv_low_bits(words.b, plane), table);
    sum.a = plane ? dot(sum.a, a, xs) : _mm512_madd_epi16(a, xs);
    sum.b = plane ? dot(sum.b, b, xs) : _mm512_madd_epi16(b, xs);
    return sum;
}

/* Chains of one row: `even` is of the blocks of even number in its lanes 0…7, `odd` of the others in the lanes 8…15; the
 * rest is not needed.  So each has one factor for all lanes, which the addition itself reads and spreads: a permutation
 * takes the unit of those that look up codes. */
struct gemv_chains {
    __m512 even, odd;
};

LT_INLINE struct gemv_chains gemv_add(struct gemv_chains c, __m512i sum, const float *factors)
{
    const __m512 v = _mm512_cvtepi32_ps(sum);
    return (struct gemv_chains){_mm512_fmadd_ps(v, _mm512_set1_ps(factors[0]), c.even),
                                _mm512_fmadd_ps(v, _mm512_set1_ps(factors[1]), c.odd)};
}

LT_INLINE float gemv_total(struct gemv_chains c)
{
    return lt_sum_avx512(_mm512_mask_mov_ps(c.even, 0xff00, c.odd));
}

/* What is walked along two rows. */
struct gemv_walk {
    const uint8_t *p, *q;
    const int16_t *x;
    struct gemv_chains a, b;
};

/* Four blocks of both rows, with the factors fa and fb. */
LT_INLINE void gemv_four(struct gemv_walk *w, __m512i table, const float *fa, const float *fb, gemv_dot dot)
{
    const int16_t *x = w->x, *z = x + PAIR;
    const struct gemv_both v = {gemv_load_once(w->p), gemv_load_once(w->q)};
    const struct gemv_both u = {gemv_load_once(w->p + LT_GEMV_BLOCK), gemv_load_once(w->q + LT_GEMV_BLOCK)};
    struct gemv_both s = v, t = u;
    s = gemv_plane(s, v, table, x, 0, dot);
    t = gemv_plane(t, u, table, z, 0, dot);
    s = gemv_plane(s, v, table, x, 1, dot);
    t = gemv_plane(t, u, table, z, 1, dot);
    s = gemv_plane(s, v, table, x, 2, dot);
    t = gemv_plane(t, u, table, z, 2, dot);
    s = gemv_plane(s, v, table, x, 3, dot);
    t = gemv_plane(t, u, table, z, 3, dot);
    w->a = gemv_add(w->a, s.a, fa);
    w->b = gemv_add(w->b, s.b, fb);
    w->a = gemv_add(w->a, t.a, fa + 2);
    w->b = gemv_add(w->b, t.b, fb + 2);
}

/* One or two. */
LT_INLINE void gemv_two(struct gemv_walk *w, __m512i table, int64_t n, const float *fa, const float *fb,
                        gemv_dot dot)
{
    const __mmask16 live = n > 1 ? 0xffff : 0xff; /* the other block of x is zeros */
    const struct gemv_both v = {_mm512_maskz_loadu_epi32(live, w->p), _mm512_maskz_loadu_epi32(live, w->q)};
    struct gemv_both s = v;
    s = gemv_plane(s, v, table, w->x, 0, dot);
    s = gemv_plane(s, v, table, w->x, 1, dot);
    s = gemv_plane(s, v, table, w->x, 2, dot);
    s = gemv_plane(s, v, table, w->x, 3, dot);
    w->a = gemv_add(w->a, s.a, fa);
    w->b = gemv_add(w->b, s.b, fb);
}

LT_INLINE void gemv_step(struct gemv_walk *w, int64_t blocks)
{
    w->p += blocks * (LT_GEMV_BLOCK / 2);
    w->q += blocks * (LT_GEMV_BLOCK / 2);
    w->x += blocks * LT_GEMV_BLOCK;
}

LT_INLINE void gemv_fetch(const uint8_t *p)
{
    _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
    _mm_prefetch((const char *)p + AHEAD + LT_GEMV_BLOCK, _MM_HINT_T0);
}

/* n <= CHUNK blocks of both rows. */
LT_INLINE void gemv_blocks(struct gemv_walk *w, __m512i table, int64_t n, const struct gemv_inner *f,
                           struct gemv_ahead *next, gemv_dot dot)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        gemv_fetch(w->p);
        gemv_fetch(w->q);
        if (next)
            gemv_ahead_four(next);
        gemv_four(w, table, f->a + i, f->b + i, dot);
        gemv_step(w, 4);
    }
    if (next)
        gemv_ahead_rest(next);
    for (; i < n; i += 2) {
        gemv_two(w, table, n - i, f->a + i, f->b + i, dot);
        gemv_step(w, 2);
    }
}

LT_INLINE void gemv_put(const struct lt_gemv *g, int64_t row, float v)
{
    g->y[row] = g->bias ? v + g->bias[row] : v;
}

/* Scales looked up for a chunk and for the next, and the number of this one modulo 2. */
struct gemv_turns {
    struct gemv_inner of[2];
    int now;
};

/* inner: NULL, or with the scales of the first chunk looked up; leaves it so for the next row. */
LT_INLINE void gemv_two_rows(const struct lt_gemv *g, __m512i table, struct gemv_turns *inner, int64_t row,
                             int64_t size, gemv_dot dot)
{
    const int64_t blocks = g->w->cols / LT_GEMV_BLOCK, second = row + g->apart;
    struct gemv_inner f;
    struct gemv_ahead next = {.left = 0};
    struct gemv_walk w = {.p = (const uint8_t *)g->w->data + row * (g->w->cols / 2),
                          .q = (const uint8_t *)g->w->data + second * (g->w->cols / 2),
                          .x = g->codes};
    for (int64_t i = 0; i < blocks; i += size) {
        const struct gemv_chunk c = gemv_chunk_at(g, row, i, size);
        const bool last = i + c.n == blocks;
        const struct gemv_inner *now = NULL;
        if (inner) {
            now = &inner->of[inner->now];
            inner->now ^= 1;
            if (row + last < g->end)
                next = gemv_ahead(&inner->of[inner->now], g,
                                  gemv_chunk_at(g, row + last, last ? 0 : i + size, size));
        }
        gemv_factors(&f, g, now, c);
        gemv_blocks(&w, table, c.n, &f, inner ? &next : NULL, dot);
    }
    gemv_put(g, row, gemv_total(w.a));
    gemv_put(g, second, gemv_total(w.b));
}

LT_INLINE void gemv_4bit_512(const struct lt_gemv *g, gemv_dot dot)
{
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)g->table));
    const int64_t size = gemv_chunk_size(g);
    if (g->w->absmax) {
        for (int64_t row = g->begin; row < g->end; row++)
            gemv_two_rows(g, table, NULL, row, size, dot);
        return;
    }
    struct gemv_turns inner = {.now = 0};
    if (g->begin < g->end) {
        struct gemv_ahead first = gemv_ahead(&inner.of[0], g, gemv_chunk_at(g, g->begin, 0, size));
        gemv_ahead_rest(&first);
    }
    for (int64_t row = g->begin; row < g->end; row++)
        gemv_two_rows(g, table, &inner, row, size, dot);
}

#endif
