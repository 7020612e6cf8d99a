// Activations (enum lt_activation) and their slopes, stable for large arguments.

#include "math.glsl"

const uint SILU = 0, GELU_TANH = 1, GELU = 2, RELU = 3;

float sigmoid(float x)
{
    return 1.0 / (1.0 + exp_(-x));
}

float gelu_inner(float x)
{
    return 0.7978845608 * x * (1.0 + 0.044715 * x * x);
}

// |x| < 1: x + x P(x^2); above: 1 - exp(-Q(|x|)), Q a fit of -log(erfc); the coefficients of vecmath_avx2.h.
float erf_(float x)
{
    float a = abs(x), b = min(a, 3.95), t = a * a;
    float q = -0.000186775156;
    q = q * b + 0.00295185926;
    q = q * b - 0.0218562428;
    q = q * b + 0.103147827;
    q = q * b + 0.63809371;
    q = q * b + 1.1271224;
    q = q * b + 0.000332712778;
    float p = 7.85386146e-05;
    p = p * t - 0.000801019371;
    p = p * t + 0.00518832775;
    p = p * t - 0.0268538129;
    p = p * t + 0.112835854;
    p = p * t - 0.37612626;
    p = p * t + 0.128379166;
    float y = a < 1.0 ? a + a * p : 1.0 - exp_(-q);
    return is_nan(x) ? x : x < 0.0 ? -y : y;
}

float act_value(float x, uint act)
{
    if (is_nan(x))
        return x;
    if (act == RELU)
        return x <= 0.0 ? 0.0 : x;
    if (act == GELU)
        return 0.5 * x * (1.0 + erf_(x * 0.7071067812));
    return x * sigmoid(act == SILU ? x : 2.0 * gelu_inner(x));
}

// Both GELUs are saturated at |x| = 16; the clamp keeps 0 * infinity out.
float act_slope(float x, uint act)
{
    if (act == RELU)
        return x <= 0.0 ? 0.0 : 1.0;
    if (is_nan(x))
        return x;
    if (act == SILU) {
        float s = sigmoid(x);
        return s * (1.0 + x * (1.0 - s));
    }
    x = clamp(x, -16.0, 16.0);
    if (act == GELU)
        return 0.5 * (1.0 + erf_(x * 0.7071067812)) + x * 0.3989422804 * exp_(-0.5 * x * x);
    float s = sigmoid(2.0 * gelu_inner(x));
    return s + 2.0 * x * s * sigmoid(-2.0 * gelu_inner(x)) * 0.7978845608 * (1.0 + 0.134145 * x * x);
}
