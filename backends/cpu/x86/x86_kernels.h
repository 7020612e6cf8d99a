/* What each translation unit of the x86 rungs puts into the kernel table.  Declarations only: files of
 * different instruction sets share no code. */
#ifndef LT_CPU_X86_KERNELS_H
#define LT_CPU_X86_KERNELS_H

#include "backends/cpu/attention_flash.h"
#include "backends/cpu/kernels.h"

void lt_norm_kernels_avx2(struct lt_cpu_kernels *k);
void lt_rope_kernels_avx2(struct lt_cpu_kernels *k);
void lt_act_kernels_avx2(struct lt_cpu_kernels *k);
void lt_elementwise_kernels_avx2(struct lt_cpu_kernels *k);
void lt_dropout_kernels_avx2(struct lt_cpu_kernels *k);
void lt_cross_entropy_kernels_avx2(struct lt_cpu_kernels *k);
void lt_attention_kernels_avx2(struct lt_cpu_kernels *k);
void lt_optimizer_kernels_avx2(struct lt_cpu_kernels *k);
void lt_decode_kernels_avx2(struct lt_cpu_kernels *k);
void lt_int8_kernels_avx2(struct lt_cpu_kernels *k);
void lt_gemv_kernels_avx2(struct lt_cpu_kernels *k);

void lt_act_kernels_avx512(struct lt_cpu_kernels *k);
void lt_cross_entropy_kernels_avx512(struct lt_cpu_kernels *k);
void lt_attention_kernels_avx512(struct lt_cpu_kernels *k);
void lt_decode_kernels_avx512(struct lt_cpu_kernels *k);
void lt_gemv_kernels_avx512(struct lt_cpu_kernels *k);

void lt_attention_kernels_avx512bf16(struct lt_cpu_kernels *k);
void lt_int8_kernels_avx512bf16(struct lt_cpu_kernels *k);
void lt_gemv_kernels_avx512bf16(struct lt_cpu_kernels *k);

/* What attention with and without bf16 shares: members of struct lt_attention_ops. */
float lt_softmax_row_avx512(float *s, const struct lt_score_row *row, float *max, float *sum);
void lt_grad_row_avx512(float *s, float *dp, const struct lt_score_row *row, float lse, float delta);
void lt_scale_row_avx512(float *y, float factor, int64_t n);
float lt_dot_avx512(const float *a, const float *b, int64_t n);

/* y[i] = bits(row_key, column + i) >= threshold ? x[i] * scale : 0; column a multiple of 4; y may be x. */
void lt_dropout_span_avx2(float *y, const float *x, int64_t n, const struct lt_rng_site *site,
                          uint32_t row_key, uint32_t column, uint32_t threshold, float scale);
/* The factors themselves: the span above for x = 1. */
void lt_keep_row_avx2(float *keep, int64_t n, const struct lt_rng_site *site, uint32_t row_key,
                      uint32_t column, uint32_t threshold, float scale);

#endif
