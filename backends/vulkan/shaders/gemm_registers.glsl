// Products by tiles in registers: an invocation has TM x TN elements.  Every element is one chain of additions in f32 over
// ascending k, so that neither tile nor FACTOR changes a bit.
void main()
{
    uint m_end = A_T ? pc.m : live_rows(), k_live = A_T ? live_rows() : pc.k;
    uint m0 = gl_WorkGroupID.x * BM, n0 = gl_WorkGroupID.y * BN;
    if (m0 >= m_end)
        return;
    uint k_begin = SPLIT ? min(gl_WorkGroupID.z * pc.k_chunk, k_live) : 0;
    uint k_end = SPLIT ? min(k_begin + pc.k_chunk, k_live) : k_live;
    uint columns = BN / TN, tx = gl_LocalInvocationID.x % columns, ty = gl_LocalInvocationID.x / columns;
    float sum[TM * TN];
    [[unroll]] for (uint i = 0; i < TM * TN; i++)
        sum[i] = 0.0;
    for (uint k0 = k_begin; k0 < k_end; k0 += BK) {
        load_a(m0, m_end, k0, k_end);
        load_b(B_KN ? k0 : n0, B_KN ? k_end : pc.n, B_KN ? n0 : k0, B_KN ? pc.n : k_end);
        barrier();
        for (uint k = 0; k < BK; k++) {
            float x[TM], y[TN];
            [[unroll]] for (uint i = 0; i < TM; i++)
                x[i] = float(a_tile[A_AT(ty * TM + i, k)]);
            [[unroll]] for (uint j = 0; j < TN; j++)
                y[j] = float(b_tile[B_AT(k, tx + j * columns)]);
            [[unroll]] for (uint i = 0; i < TM; i++)
                [[unroll]] for (uint j = 0; j < TN; j++)
                    sum[i * TN + j] = fma(x[i], y[j], sum[i * TN + j]);
        }
        barrier();
    }
    [[unroll]] for (uint i = 0; i < TM; i++)
        [[unroll]] for (uint j = 0; j < TN; j++) {
            uint m = m0 + ty * TM + i, n = n0 + tx + j * columns;
            if (m < m_end && n < pc.n)
                finish(m, n, sum[i * TN + j]);
        }
}
