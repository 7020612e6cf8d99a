// Philox4x32-10 as core/base/rng.h keys it: the four words for columns 4 * block … 4 * block + 3 of a row.
uvec4 random_block(uint row_key, uint block, uint site)
{
    uvec4 x = uvec4(block, row_key, 0, step_.number);
    uvec2 key = uvec2(step_.seed_lo ^ site, step_.seed_hi);
    for (int round = 0; round < 10; round++) {
        uint high0, low0, high1, low1;
        umulExtended(0xD2511F53u, x.x, high0, low0);
        umulExtended(0xCD9E8D57u, x.z, high1, low1);
        x = uvec4(high1 ^ x.y ^ key.x, low1, high0 ^ x.w ^ key.y, low0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return x;
}
