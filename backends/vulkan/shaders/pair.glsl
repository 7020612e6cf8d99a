// Sums in pairs of floats (Knuth's exact addition): of all additions only the last is rounded.

void add(inout vec2 sum, float x)
{
    precise float t = sum.x + x, z = t - sum.x, lost = (sum.x - (t - z)) + (x - z);
    sum = vec2(t, sum.y + lost);
}

void add(inout vec2 sum, vec2 other)
{
    add(sum, other.x);
    sum.y += other.y;
}

// What was lost of an infinite sum is no number.
float value(vec2 sum)
{
    return isinf(sum.x) ? sum.x : sum.x + sum.y;
}
