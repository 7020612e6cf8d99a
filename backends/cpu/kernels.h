/* The CPU kernel table: one function pointer per row-wise kernel.
 *
 * lt_cpu_kernels_init() fills the table with the portable C twins (ref/) and then lets each ISA the
 * processor has (or LT_CPU allows) overwrite entries.  Kernels are single-threaded, allocate nothing and
 * work on whole rows; the op layer (cpu_ops_*.c) splits rows or columns over threads.
 *
 * Law: a row's result depends on that row, the shapes and the ISA only, never on the number of rows or
 * where the row stands.  Matrices are dense row-major f32 unless said.  Pointers need f32 alignment only.
 * Outputs may alias an input exactly where a comment says so. */
#ifndef LT_BACKENDS_CPU_KERNELS_H
#define LT_BACKENDS_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/backend/op_attr.h"
#include "core/base/rng.h"
#include "core/tensor/weight.h"

enum lt_cpu_isa {
    LT_CPU_REF,
    LT_CPU_AVX2,
    LT_CPU_AVX512,
    LT_CPU_AVX512BF16,
    LT_CPU_AMX,
    LT_CPU_NEON,
    LT_CPU_NEONBF16,
    LT_CPU_ISA_COUNT
};

/* Attention over one (query head, contiguous rows of one sequence).  Row t of the q block attends to key
 * rows j in [max(kv_begin, kv_end[t] - window), kv_end[t]); window <= 0: no window.  Tiles of keys are
 * aligned to kv_begin, so a row's bits do not depend on its neighbours. */
struct lt_attention_block {
    const float *q;     /* first row, this head: row stride ldq */
    const float *k, *v; /* row 0 of the key/value arrays, this kv head: row stride ldkv */
    float *o;           /* row stride ldo */
    float *lse;         /* log-sum-exp of row t at lse[t * ldlse]; natural log */
    int64_t ldq, ldkv, ldo, ldlse;
    int64_t rows, head_dim;
    int64_t kv_begin;      /* first key row of the sequence */
    const int32_t *kv_end; /* [rows]: one past the last visible key, non-decreasing */
    float scale, softcap;  /* softcap 0: none; scores = cap * tanh(q.k * scale / cap) */
    int64_t window;
    uint32_t drop_threshold; /* 0: no dropout; else keep (row, column) when bits >= threshold, on the */
    float drop_scale;        /* normalised probabilities, kept ones times drop_scale = 1/(1-p) */
    struct lt_rng_site site; /* already specific to this head */
    const uint32_t *row_key; /* [rows]; column = key row - kv_begin */
};

enum {
    LT_ATTENTION_TILE = 64,     /* keys in a tile, and query rows worked on at a time */
    LT_ATTENTION_BF16_DIM = 256 /* head_dim with bf16 factors, at most */
};

/* Backward for the keys [key_begin, key_end) of one (sequence, kv head): all query heads of the group, all rows of the
 * sequence that see some of them.  Row t sees the keys [max(0, t + 1 - window), t + 1) of the sequence.  dk and dv rows of
 * the keys are written, not accumulated.  dq rows get their parts in ascending order of the keys: the call with the first
 * that a row sees writes, the later ones add.  So the bits do not depend on how the keys are cut.
 *
 * Calls for one (sequence, kv head) may run at once if they began in ascending order of their keys: with `turns` each waits
 * at every tile of rows until the calls before it have added their part there (attention_turns.h). */
struct lt_attention_grad {
    const float *q, *k, *v, *o, *d_o, *lse; /* first row of the sequence, first head of the group; row t of
                                             * head g has its log-sum-exp at lse[t * ldlse + g] */
    float *dq, *dk, *dv;
    int64_t ldq, ldkv, ldo, ldlse; /* ldq for q and dq, ldkv for k v dk dv, ldo for o and d_o */
    int64_t rows, head_dim, group; /* group = query heads per kv head; heads are head_dim columns apart */
    int64_t key_begin, key_end;    /* multiples of LT_ATTENTION_TILE, the last end is rows */
    float scale, softcap;
    int64_t window;
    uint32_t drop_threshold;
    float drop_scale;
    struct lt_rng_site site; /* of the group's first head; head g uses site.site + g */
    const uint32_t *row_key;
    float *delta; /* [group, rows]: kept from call to call */
    _Atomic int32_t
        *turns;     /* [group, tiles of rows], 0 before the first call; NULL: calls run one after another */
    float *scratch; /* lt_attention_grad_scratch() floats, this thread's own */
};

/* y[row] = x · w[row] + bias[row] for the rows [begin, end) of a weight that is not transposed and, unless apart is 0, for
 * the rows [begin + apart, end + apart) as well.  A row and the one apart from it are multiplied side by side. */
struct lt_gemv {
    const struct lt_weight *w;
    const float *x, *bias; /* x: f16, bf16; bias: or NULL */
    float *y;
    int64_t begin, end, apart;
    /* NF4 and FP4, in blocks of LT_GEMV_BLOCK, cols a multiple: x by gemv_quantize(), and RNE(LT_GEMV_UNIT * w->code). */
    const int16_t *codes;
    const float *scales;
    int16_t table[16];
};

enum { LT_GEMV_BLOCK = 64 };
/* Codes are within, so that 32 bits hold the sum of eight products. */
#define LT_GEMV_UNIT 16383.0f
#define LT_GEMV_TINY 0x1p-100f /* a block with no larger magnitude counts as zeros */

struct lt_cpu_kernels {
    enum lt_cpu_isa isa;

    /* y = x * rstd * w' with rstd = 1/sqrt(mean(x^2) + eps); w' = w, or 1 + w when plus_one (Gemma). */
    void (*rmsnorm_fwd)(float *y, float *rstd, const float *x, const float *w, int64_t rows, int64_t cols,
                        float eps, bool plus_one);
    /* g = dy * w'; dx = rstd * (g - x * rstd^2 * mean(g * x)).  dx may be dy. */
    void (*rmsnorm_bwd)(float *dx, const float *dy, const float *x, const float *w, const float *rstd,
                        int64_t rows, int64_t cols, bool plus_one);
    /* dw[c] += sum over rows in order of dy * x * rstd, for columns [begin, end). */
    void (*rmsnorm_dw)(float *dw, const float *dy, const float *x, const float *rstd, int64_t rows,
                       int64_t cols, int64_t begin, int64_t end);
    /* Two-pass mean and biased variance. */
    void (*layernorm_fwd)(float *y, float *mean, float *rstd, const float *x, const float *w, const float *b,
                          int64_t rows, int64_t cols, float eps);
    void (*layernorm_bwd)(float *dx, const float *dy, const float *x, const float *w, const float *mean,
                          const float *rstd, int64_t rows, int64_t cols); /* dx may be dy */
    void (*layernorm_dw)(float *dw, float *db, const float *dy, const float *x, const float *mean,
                         const float *rstd, int64_t rows, int64_t cols, int64_t begin, int64_t end);

    /* Half-split rotation of every head's first `rotary` columns, in place or not (y may be x).
     * table[p] holds rotary/2 cosines then rotary/2 sines of position p.  inverse: by the negative angle. */
    void (*rope)(float *y, const float *x, const int32_t *positions, const float *table, int64_t rows,
                 int64_t heads, int64_t head_dim, int64_t rotary, bool inverse);

    /* n flat elements. */
    void (*act_fwd)(float *y, const float *x, int64_t n, enum lt_activation act); /* y may be x */
    void (*act_bwd)(float *dx, const float *dy, const float *x, int64_t n,
                    enum lt_activation act); /* dx may be dy */
    void (*glu_fwd)(float *y, const float *gate, const float *up, int64_t n, enum lt_activation act);
    /* dgate may be gate, dup may be up or dy. */
    void (*glu_bwd)(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n,
                    enum lt_activation act);
    void (*add)(float *y, const float *a, const float *b, int64_t n); /* y may be a or b */
    void (*round_bf16)(float *y, const float *x, int64_t n); /* to nearest even; NaN stays NaN; y may be x */
    void (*add_bias)(float *y, const float *bias, int64_t rows, int64_t cols, int64_t ldy); /* y += bias */
    void (*column_sums)(float *sums, const float *x, int64_t rows, int64_t cols, int64_t begin,
                        int64_t end); /* += , rows in order */
    /* y = bits(row_key[r], column) >= threshold ? x * keep_scale : 0; y may be x. */
    void (*dropout)(float *y, const float *x, const uint32_t *row_key, int64_t rows, int64_t cols,
                    uint32_t threshold, float keep_scale, const struct lt_rng_site *site);

    /* One row of logits, label in [0, vocab): *loss = lse - logits[label]; *argmax = lowest index of the
     * maximum.  A NaN or +infinity among the logits makes the loss NaN.  With grad the row becomes
     * (softmax - onehot) * grad_scale, without it stays as it is.  softcap != 0: the row holds raw scores
     * and the logits are cap * tanh(raw / cap), the gradient is of the raw scores. */
    void (*cross_entropy_row)(float *logits, int64_t vocab, int64_t label, float softcap, bool grad,
                              float grad_scale, float *loss, int32_t *argmax);

    void (*attention_fwd)(const struct lt_attention_block *block);
    void (*attention_bwd)(const struct lt_attention_grad *grad);
    /* The same with the factors of every product rounded to bf16: queries, keys, values, weights, dO, dS; sums, softmax and
     * delta stay f32.  head_dim <= LT_ATTENTION_BF16_DIM.  Sums over keys go on in f32, where a rounded weight of 0 may be
     * multiplied with the value of a later row of the same tile.  NULL: the instruction set has no unit that gains by it. */
    void (*attention_fwd_bf16)(const struct lt_attention_block *block);
    void (*attention_bwd_bf16)(const struct lt_attention_grad *grad);

    /* Sum of squares of n elements, in double, in blocks of 4096 elements summed in order. */
    double (*sum_squares)(const float *x, int64_t n);
    /* torch AdamW on n elements; clip multiplies the gradient first:
     * p *= 1 - lr*wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr/bc1 * m / (sqrt(v)/sqrt(bc2) + eps). */
    void (*adamw)(float *p, float *m, float *v, const float *g, int64_t n,
                  const struct lt_optimizer_args *args);
    /* bitsandbytes' 8-bit AdamW (its CUDA rules) on n elements in blocks of LT_OPTIM_BLOCK, the last one short:
     * m = signed map[m_codes] * m_absmax[block], v = unsigned map[v_codes] * v_absmax[block];
     * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr*sqrt(bc2)/bc1 * m / (sqrt(v) + sqrt(bc2)*eps);
     * p *= 1 - lr*wd; absmax = max|.| of the block, codes = lt_dynamic_nearest(. / absmax); where the code
     * of an m that is not 0 has the other sign it moves by one to m's side.  Where g^2 is NaN or infinite m and v
     * become 0 and p stays. */
    void (*adamw8)(float *p, uint8_t *m_codes, float *m_absmax, uint8_t *v_codes, float *v_absmax,
                   const float *g, int64_t n, const struct lt_optimizer_args *args);
    /* torch SGD without momentum: p -= lr (g + wd p). */
    void (*sgd)(float *p, const float *g, int64_t n, const struct lt_optimizer_args *args);
    /* Lion (Chen et al. 2023): p *= 1 - lr*wd; p -= lr sign(b1 m + (1-b1) g); m = b2 m + (1-b2) g. */
    void (*lion)(float *p, float *m, const float *g, int64_t n, const struct lt_optimizer_args *args);

    /* LLM.int8(), contract of lt_int8_quantize_row() in quant/int8.h. */
    int64_t (*int8_quantize)(int8_t *codes, float *scale, const float *x, int64_t n, float threshold,
                             const uint8_t *skip);
    /* acc[i * ldacc + j] = x[i] · w[j], rows of k <= LT_INT8_MAX_COLS codes; those of x within 127. */
    void (*int8_dot)(int32_t *acc, int64_t ldacc, const int8_t *x, int64_t m, const int8_t *w, int64_t n,
                     int64_t k);

    /* Products of one row of x, read at the memory's speed; NULL: there is none for the format.  f16, bf16: f32 chains of
     * fused multiply-adds over every 16th column, added in a tree.  NF4, FP4: chains over the blocks of fma(exact sum of
     * products of 16-bit codes, scale of x * scale of w, .), added in a tree; how many chains is the instruction set's. */
    void (*gemv[LT_WEIGHT_FORMAT_COUNT])(const struct lt_gemv *g);
    /* n elements in blocks of LT_GEMV_BLOCK: codes RNE(x * (LT_GEMV_UNIT / max|x|)), scale max|x| / LT_GEMV_UNIT^2, which
     * takes the unit of the table away too.  The order of the codes is that of the same table's gemv; room for one block
     * more than n needs. */
    void (*gemv_quantize)(int16_t *codes, float *scale, const float *x, int64_t n);

    /* Stored flat elements [begin, begin+n) of a weight to f32: the bits of quant/. */
    void (*decode[LT_WEIGHT_FORMAT_COUNT])(float *dst, const struct lt_weight *w, int64_t begin, int64_t n);
};

/* Floats of scratch attention_bwd, or attention_bwd_bf16, needs for a call with so many keys. */
size_t lt_attention_grad_scratch(int64_t keys, int64_t head_dim, bool bf16);

/* The best ISA of this processor, limited by LT_CPU=ref|avx2|avx512|avx512bf16|amx|neon|neonbf16 in the
 * environment (an ISA the processor lacks, or a word not in the list, is false). */
bool lt_cpu_isa_detect(enum lt_cpu_isa *isa, const char *request);
const char *lt_cpu_isa_name(enum lt_cpu_isa isa);
bool lt_cpu_isa_available(enum lt_cpu_isa isa);
/* Fills the table for one ISA: ref first, then every rung up to isa. */
void lt_cpu_kernels_init(struct lt_cpu_kernels *k, enum lt_cpu_isa isa);

/* Rungs of the ladder; each lives in its own folder and translation units. */
void lt_cpu_kernels_ref(struct lt_cpu_kernels *k);
void lt_cpu_kernels_avx2(struct lt_cpu_kernels *k);
void lt_cpu_kernels_avx512(struct lt_cpu_kernels *k);
void lt_cpu_kernels_neon(struct lt_cpu_kernels *k);

#endif
