// Elements of a weight in any storage format (vk_ops.h, struct lt_device_weight).  Needs before it: buffers `data` and
// `meta` of words, DATA0 and META0 (their first words), the constants FORMAT and NESTED, and in the pushed constants
// flat0 (number of the binding's first element in the whole weight), block_shift (log2 of the block size), nested_at,
// absmax_at (words of meta) and stored_cols.

const uint F32 = 0, F16 = 1, BF16 = 2, NF4 = 3, FP4 = 4, INT8 = 5;

// Exact, subnormal numbers too.
float half_value(uint h)
{
    uint e = (h >> 10) & 31, m = h & 1023, sign = (h & 0x8000) << 16;
    if (e == 0)
        return uintBitsToFloat(floatBitsToUint(float(m) * 5.9604644775390625e-08) | sign);
    return uintBitsToFloat(sign | (e == 31 ? 0x7f800000 : (e + 112) << 23) | (m << 13));
}

// The factor of the elements in block `block`, or of row `block` of an INT8 weight.
float block_scale(uint block)
{
    if (!NESTED)
        return uintBitsToFloat(meta[META0 + pc.absmax_at + block]);
    uint code = (meta[META0 + pc.absmax_at + (block >> 2)] >> (8 * (block & 3))) & 255;
    precise float product = uintBitsToFloat(meta[META0 + 16 + code]) *
                            uintBitsToFloat(meta[META0 + pc.nested_at + (block >> 8)]);
    precise float sum = product + uintBitsToFloat(meta[META0 + 272]);
    return sum;
}

// The factor of element `at` of the binding.
float scale_of(uint at)
{
    if (FORMAT < NF4)
        return 1.0;
    return block_scale(FORMAT == INT8 ? (pc.flat0 + at) / pc.stored_cols : (pc.flat0 + at) >> pc.block_shift);
}

float code_value(uint code)
{
    return uintBitsToFloat(meta[META0 + code]);
}

float int8_value(int code, float scale)
{
    precise float scaled = float(code) * scale;
    precise float value = scaled * (1.0 / 127.0);
    return value;
}

float element(uint at)
{
    if (FORMAT == F32)
        return uintBitsToFloat(data[DATA0 + at]);
    if (FORMAT == F16)
        return half_value((data[DATA0 + (at >> 1)] >> (16 * (at & 1))) & 0xffff);
    if (FORMAT == BF16)
        return uintBitsToFloat(((data[DATA0 + (at >> 1)] >> (16 * (at & 1))) & 0xffff) << 16);
    if (FORMAT == INT8) {
        uint word = data[DATA0 + (at >> 2)];
        return int8_value(bitfieldExtract(int(word), int(8 * (at & 3)), 8), scale_of(at));
    }
    uint word = data[DATA0 + (at >> 3)], shift = 8 * ((at >> 1) & 3) + 4 * (1 - (at & 1));
    return code_value((word >> shift) & 15) * scale_of(at);
}
