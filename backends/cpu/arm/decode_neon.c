/* Stored weights to f32 for NEON: the bits of quant/. */
#include "backends/cpu/arm/arm_kernels.h"

#include <arm_neon.h>

#include "core/tensor/dtype.h"
#include "quant/nf4.h"

static void decode_bf16_neon(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const uint16_t *src = (const uint16_t *)w->data + begin;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t h = vld1q_u16(src + i);
        vst1q_f32(dst + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)));
        vst1q_f32(dst + i + 4, vreinterpretq_f32_u32(vshll_high_n_u16(h, 16)));
    }
    lt_convert_to_f32(dst + i, src + i, LT_BF16, (size_t)(n - i));
}

static void decode_f16_neon(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const uint16_t *src = (const uint16_t *)w->data + begin;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(src + i));
        vst1q_f32(dst + i, vcvt_f32_f16(vget_low_f16(h)));
        vst1q_f32(dst + i + 4, vcvt_high_f32_f16(h));
    }
    lt_convert_to_f32(dst + i, src + i, LT_F16, (size_t)(n - i));
}

static inline void store_scaled(float *dst, int16x8_t codes, float scale)
{
    const float unit = 1.0f / 127.0f;
    float32x4_t low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes)));
    float32x4_t high = vcvtq_f32_s32(vmovl_high_s16(codes));
    vst1q_f32(dst, vmulq_n_f32(vmulq_n_f32(low, scale), unit));
    vst1q_f32(dst + 4, vmulq_n_f32(vmulq_n_f32(high, scale), unit));
}

static void decode_int8_neon(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    const int8_t *codes = w->data;
    for (int64_t at = begin, end = begin + n; at < end;) {
        int64_t row = at / w->cols;
        int64_t row_end = (row + 1) * w->cols < end ? (row + 1) * w->cols : end;
        float scale = w->absmax[row];
        for (; at + 8 <= row_end; at += 8)
            store_scaled(dst + (at - begin), vmovl_s8(vld1_s8(codes + at)), scale);
        for (; at < row_end; at++)
            dst[at - begin] = (float)codes[at] * scale * (1.0f / 127.0f);
    }
}

/* The sixteen values of a 4-bit code, byte i of each in bytes[i]: a look-up gives one byte for sixteen codes. */
struct code_table {
    uint8x16_t bytes[4];
};

static struct code_table make_table(const float code[16])
{
    uint8x16x4_t t = vld4q_u8((const uint8_t *)code);
    return (struct code_table){{t.val[0], t.val[1], t.val[2], t.val[3]}};
}

/* n elements, a multiple of 16, from whole bytes, of which the upper half comes first. */
static inline void decode_nibbles(float *dst, const uint8_t *packed, int64_t n, const struct code_table *t,
                                  float scale)
{
    for (int64_t i = 0; i < n; i += 16) {
        uint8x8_t pairs = vld1_u8(packed + i / 2);
        uint8x8x2_t in_order = vzip_u8(vshr_n_u8(pairs, 4), vand_u8(pairs, vdup_n_u8(15)));
        uint8x16_t codes = vcombine_u8(in_order.val[0], in_order.val[1]);
        uint8x16_t b0 = vqtbl1q_u8(t->bytes[0], codes), b1 = vqtbl1q_u8(t->bytes[1], codes);
        uint8x16_t b2 = vqtbl1q_u8(t->bytes[2], codes), b3 = vqtbl1q_u8(t->bytes[3], codes);
        uint16x8_t low[2] = {vreinterpretq_u16_u8(vzip1q_u8(b0, b1)),
                             vreinterpretq_u16_u8(vzip2q_u8(b0, b1))};
        uint16x8_t high[2] = {vreinterpretq_u16_u8(vzip1q_u8(b2, b3)),
                              vreinterpretq_u16_u8(vzip2q_u8(b2, b3))};
        for (int j = 0; j < 2; j++) {
            float32x4_t first = vreinterpretq_f32_u16(vzip1q_u16(low[j], high[j]));
            float32x4_t second = vreinterpretq_f32_u16(vzip2q_u16(low[j], high[j]));
            vst1q_f32(dst + i + 8 * j, vmulq_n_f32(first, scale));
            vst1q_f32(dst + i + 8 * j + 4, vmulq_n_f32(second, scale));
        }
    }
}

static void decode_4bit_neon(float *dst, const struct lt_weight *w, int64_t begin, int64_t n)
{
    enum { SCALES = 32 };
    const struct code_table table = make_table(w->code);
    const uint8_t *packed = w->data;
    float scales[SCALES];
    for (int64_t at = begin, end = begin + n; at < end;) {
        int64_t first = at / w->blocksize, last = (end - 1) / w->blocksize;
        int64_t count = last - first + 1 < SCALES ? last - first + 1 : SCALES;
        lt_nf4_scales(scales, w, first, count);
        for (int64_t b = 0; b < count; b++) {
            int64_t stop = (first + b + 1) * w->blocksize < end ? (first + b + 1) * w->blocksize : end;
            int64_t whole = (at & 1) != 0 ? 0 : (stop - at) / 16 * 16;
            decode_nibbles(dst + (at - begin), packed + at / 2, whole, &table, scales[b]);
            at += whole;
            if (at < stop)
                lt_nf4_dequantize(dst + (at - begin), w, at, stop - at);
            at = stop;
        }
    }
}

void lt_decode_kernels_neon(struct lt_cpu_kernels *k)
{
    k->decode[LT_WEIGHT_BF16] = decode_bf16_neon;
    k->decode[LT_WEIGHT_F16] = decode_f16_neon;
    k->decode[LT_WEIGHT_NF4] = decode_4bit_neon;
    k->decode[LT_WEIGHT_FP4] = decode_4bit_neon;
    k->decode[LT_WEIGHT_INT8] = decode_int8_neon;
}
