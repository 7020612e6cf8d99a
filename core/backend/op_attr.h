/* Attributes of ops, shared by the graph and by every backend. */
#ifndef LT_BACKEND_OP_ATTR_H
#define LT_BACKEND_OP_ATTR_H

#include <stdbool.h>
#include <stdint.h>

/* gelu_tanh(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (GPT-2 "gelu_new", Gemma "gelu_pytorch_tanh");
 * gelu is the exact erf form; silu(x) = x / (1 + exp(-x)). */
enum lt_activation { LT_ACT_SILU, LT_ACT_GELU_TANH, LT_ACT_GELU, LT_ACT_RELU };

enum { LT_OPTIM_BLOCK = 256 }; /* elements with one absmax in the state of an 8-bit optimizer */

/* One call of an optimizer, which reads what its formula has; doubles, because 1 - beta2 must be rounded once.
 * bias_correction1 = 1 - beta1^t, sqrt_bias_correction2 = sqrt(1 - beta2^t), t >= 1. */
struct lt_optimizer_args {
    double lr, beta1, beta2, eps, weight_decay;
    double bias_correction1, sqrt_bias_correction2;
    float clip; /* gradient multiplier, 1 when nothing is clipped */
};

#endif
