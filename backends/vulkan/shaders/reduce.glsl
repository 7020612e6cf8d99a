// Sums over the workgroup, whose size is a power of two, in a fixed tree.
shared float partial_sums[gl_WorkGroupSize.x];

float group_sum(float x)
{
    barrier(); // the last result has been read
    partial_sums[gl_LocalInvocationID.x] = x;
    for (uint width = gl_WorkGroupSize.x / 2; width > 0; width /= 2) {
        barrier();
        if (gl_LocalInvocationID.x < width)
            partial_sums[gl_LocalInvocationID.x] += partial_sums[gl_LocalInvocationID.x + width];
    }
    barrier();
    return partial_sums[0];
}
