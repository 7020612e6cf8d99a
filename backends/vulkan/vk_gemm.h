/* Matrix products on the device: C[M,N] = scale * A B (+ start) (+ bias), B a weight in any format. */
#ifndef LT_VULKAN_VK_GEMM_H
#define LT_VULKAN_VK_GEMM_H

#include "backends/vulkan/vk_ops.h"

struct lt_vk_gemm {
    int64_t m, n, k; /* at capacity */
    struct lt_vk_ref a;
    bool a_transposed;   /* a is [k, m] and k counts the live rows; else a is [m, k] and m does */
    int64_t lda, a_col0; /* a_transposed: a's columns from a_col0 of lda; 0: all */
    const struct lt_device_weight *w;
    bool by_rows;                 /* B = W ([k, n] as w->rows, w->cols); else B = Wᵀ */
    struct lt_vk_ref bias, start; /* [n]; [m, n], may be c; buffer NULL: absent */
    struct lt_vk_ref c;
    float scale;
    enum lt_dtype
        compute;          /* as the attribute of LINEAR; LT_F16 needs lt_vk_halves_bytes(m, k) of workspace */
    enum lt_vk_rows kind; /* of the live rows */
    int64_t row0;
    struct lt_vk_ref workspace; /* lt_vk_gemm_workspace() bytes */
};

void lt_vk_gemm(struct lt_vk_recorder *r, const struct lt_vk_gemm *g);
size_t lt_vk_gemm_workspace(int64_t m, int64_t n, int64_t k, bool a_transposed);
size_t lt_vk_halves_bytes(int64_t m, int64_t k);

/* What weight.glsl reads of the pushed constants, for a binding that begins at stored row `row`. */
struct lt_vk_weight_push {
    uint32_t flat0, block_shift, nested_at, absmax_at, stored_cols;
};
struct lt_vk_weight_push lt_vk_weight_push(const struct lt_device_weight *w, int64_t row);
struct lt_vk_ref lt_vk_weight_rows(const struct lt_device_weight *w, int64_t row, int64_t rows);
/* Stored rows that one binding can show; 0: none, and the recorder has an error. */
int64_t lt_vk_weight_rows_at_once(struct lt_vk_recorder *r, const struct lt_device_weight *w);

/* An f32 matrix [rows, cols] as a weight. */
struct lt_device_weight lt_vk_plain_weight(struct lt_vk_ref data, int64_t rows, int64_t cols);

#endif
