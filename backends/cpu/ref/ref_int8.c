/* LLM.int8() products: integers, so that every order of summing gives the same. */
#include "backends/cpu/ref/ref_kernels.h"

#include "quant/int8.h"

static void int8_dot_ref(int32_t *acc, int64_t ldacc, const int8_t *x, int64_t m, const int8_t *w, int64_t n,
                         int64_t k)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const int8_t *a = x + i * k, *b = w + j * k;
            int32_t sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += (int32_t)a[p] * b[p];
            acc[i * ldacc + j] = sum;
        }
}

void lt_int8_kernels_ref(struct lt_cpu_kernels *k)
{
    k->int8_quantize = lt_int8_quantize_row;
    k->int8_dot = int8_dot_ref;
}
