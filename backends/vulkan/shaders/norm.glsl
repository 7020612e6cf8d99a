// Sums of squares.  Numbers whose squares would overflow or vanish are summed apart, scaled by a power of two (Blue 1978).

#include "pair.glsl"

const uint THREADS = 256; // of the workgroup

struct Sums {
    vec2 small_, middle, large; // |x| < 2^-40: of (2^80 x)^2; of x^2; |x| > 2^40: of (2^-80 x)^2
};

const float LOWEST = 9.094947017729282e-13, HIGHEST = 1099511627776.0;                           // 2^-40, 2^40
const float UP = 1208925819614629174706176.0, DOWN = 8.271806125530277e-25; // 2^80, 2^-80

shared Sums shares[THREADS];

Sums no_sums()
{
    return Sums(vec2(0), vec2(0), vec2(0));
}

void add(inout Sums sums, Sums other)
{
    add(sums.small_, other.small_);
    add(sums.middle, other.middle);
    add(sums.large, other.large);
}

void add_square(inout Sums sums, float x)
{
    float size = abs(x);
    precise float up = UP * x, down = DOWN * x;
    if (size < LOWEST)
        add(sums.small_, up * up);
    else if (size > HIGHEST)
        add(sums.large, down * down);
    else
        add(sums.middle, x * x);
}

// The sum of all invocations' sums, in the first one.
Sums add_all(Sums mine)
{
    uint i = gl_LocalInvocationID.x;
    barrier();
    shares[i] = mine;
    for (uint half_ = THREADS / 2; half_ > 0; half_ /= 2) {
        barrier();
        if (i < half_)
            add(shares[i], shares[i + half_]);
    }
    return shares[i];
}

// The scales one after the other: their product is no float.
float norm_of(Sums sums)
{
    float large = value(sums.large), middle = value(sums.middle), small_ = value(sums.small_);
    precise float of_middle = middle * DOWN, of_small = small_ * DOWN;
    precise float with_large = large + of_middle * DOWN, with_middle = middle + of_small * DOWN;
    if (large != 0.0)
        return UP * sqrt(with_large);
    return middle != 0.0 ? sqrt(with_middle) : DOWN * sqrt(small_);
}
