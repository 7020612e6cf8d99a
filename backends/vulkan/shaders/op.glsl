// What every shader shares: the step's numbers, the pushed constants, live rows.
//
// A shader defines PUSH, the members of its own pushed constants, before it includes this file.  Binding 0 is the
// step; binding b = 1 … 11 is args[b - 1] of the dispatch (vk_record.h).  A binding begins up to 255 bytes before the
// value: AT(b) is the first element of an f32 or i32 value, BYTE0(b) the first byte of any.

layout(local_size_x_id = 0) in;

layout(std430, set = 0, binding = 0) readonly buffer Step
{
    uint n_tokens, n_labels;
    float loss_scale, max_grad_norm;
    uint seed_lo, seed_hi, number;
    float lr, weight_decay, keep;
    float beta1, rest1, beta2, rest2;
    float adamw_step, correction, eps;
    float adamw8_step, adamw8_eps;
}
step_;

layout(push_constant) uniform Push
{
    uint off0, off1, off2; // a byte a binding
    uint rows, row0, kind; // of this dispatch, at capacity; kind as enum lt_vk_rows
    PUSH
}
pc;

#define BYTE0(b) (((b) < 4 ? pc.off0 >> (8 * (b)) : (b) < 8 ? pc.off1 >> (8 * (b)-32) : pc.off2 >> (8 * (b)-64)) & 255)
#define AT(b) (BYTE0(b) >> 2)

// Rows of this dispatch that are live in this step.
uint live_rows()
{
    uint count = pc.kind == 1 ? step_.n_tokens : step_.n_labels;
    if (pc.kind == 0 || count >= pc.row0 + pc.rows)
        return pc.rows;
    return count > pc.row0 ? count - pc.row0 : 0;
}

bool is_nan(float x)
{
    return (floatBitsToUint(x) & 0x7fffffff) > 0x7f800000;
}
