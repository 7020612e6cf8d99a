// What the attention shaders share.  A workgroup has OWN items of one head (query rows, or keys) and goes through tiles of
// TILE others (keys, or query rows): products of both by way of shared memory, weights made of them in shared memory,
// and sums of the others' rows by those weights in registers.  No item's result depends on its place in the workgroup:
// every sum is one chain in ascending order, or of fixed parts of a tile.
//
// The including shader defines PRODUCTS and SETS, how many products and sums it keeps, and own() and other().
#extension GL_EXT_control_flow_attributes : require

layout(constant_id = 1) const uint OWN = 32;
layout(constant_id = 2) const uint SUB = 4;     // own items of an invocation in the products; OWN / SUB * 16 invocations
layout(constant_id = 3) const uint COLUMNS = 4; // of a row's columns in the sums: head_dim / 32, rounded up

#define PUSH                                                                                                           \
    uint heads, kv_heads, head_dim;                                                                                    \
    int window;                                                                                                        \
    float scale, softcap;                                                                                              \
    uint threshold;                                                                                                    \
    float keep_scale;                                                                                                  \
    uint site;
#include "op.glsl"
#include "math.glsl"
#include "rng.glsl"

const uint TILE = 64, DEPTH = 16, LANES = 32, PER_LANE = 2 * SUB, STRIDE = TILE + 1;
#define MINUS_INFINITY uintBitsToFloat(0xff800000u)

// Column `col` of row `item` of own or other array `which`, for the workgroup's head.
float own(uint which, uint item, uint col);
float other(uint which, uint item, uint col);

shared float own_part[DEPTH * (OWN + 1)];
shared float other_part[DEPTH * STRIDE];
shared float weights[OWN * STRIDE];

float products[PRODUCTS * SUB * 4];
float sums[SETS * PER_LANE * COLUMNS];

// An invocation has the products of own items own_of(i), i < SUB, and others other_of(j), j < 4.
uint own_of(uint i)
{
    return gl_LocalInvocationID.x / 16 * SUB + i;
}
uint other_of(uint j)
{
    return gl_LocalInvocationID.x % 16 * 4 + j;
}

void load_parts(uint which, uint own0, uint own_count, uint other0, uint other_count, uint col0)
{
    for (uint i = gl_LocalInvocationID.x; i < DEPTH * OWN; i += gl_WorkGroupSize.x) {
        uint item = i / DEPTH, col = i % DEPTH;
        bool inside = item < own_count && col0 + col < pc.head_dim;
        own_part[col * (OWN + 1) + item] = inside ? own(which, own0 + item, col0 + col) : 0.0;
    }
    for (uint i = gl_LocalInvocationID.x; i < DEPTH * TILE; i += gl_WorkGroupSize.x) {
        uint item = i / DEPTH, col = i % DEPTH;
        bool inside = item < other_count && col0 + col < pc.head_dim;
        other_part[col * STRIDE + item % 4 * 16 + item / 4] = inside ? other(which, other0 + item, col0 + col) : 0.0;
    }
}

// products[which] = own(which) other(which)ᵀ
void multiply(uint which, uint own0, uint own_count, uint other0, uint other_count)
{
    [[unroll]] for (uint e = 0; e < SUB * 4; e++)
        products[which * SUB * 4 + e] = 0.0;
    for (uint col0 = 0; col0 < pc.head_dim; col0 += DEPTH) {
        barrier();
        load_parts(which, own0, own_count, other0, other_count, col0);
        barrier();
        for (uint col = 0; col < DEPTH; col++) {
            float b[4];
            [[unroll]] for (uint j = 0; j < 4; j++)
                b[j] = other_part[col * STRIDE + 16 * j + gl_LocalInvocationID.x % 16];
            [[unroll]] for (uint i = 0; i < SUB; i++) {
                float a = own_part[col * (OWN + 1) + own_of(i)];
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    uint e = which * SUB * 4 + i * 4 + j;
                    products[e] = fma(a, b[j], products[e]);
                }
            }
        }
    }
}

// In the sums an invocation has own items sum_item(i), i < PER_LANE, and columns sum_col(c), c < COLUMNS.
uint sum_item(uint i)
{
    return gl_LocalInvocationID.x / LANES * PER_LANE + i;
}
uint sum_col(uint c)
{
    return gl_LocalInvocationID.x % LANES + LANES * c;
}

void clear_sums()
{
    [[unroll]] for (uint e = 0; e < SETS * PER_LANE * COLUMNS; e++)
        sums[e] = 0.0;
}

// sums[set] += weights other(which).  Where not every weight counts a weight of 0 leaves the other unread, as that may be
// no number.
void add_weighted(uint set, uint which, uint other0, uint other_count, bool all_count)
{
    for (uint item = 0; item < other_count; item++) {
        float value[COLUMNS];
        [[unroll]] for (uint c = 0; c < COLUMNS; c++)
            value[c] = sum_col(c) < pc.head_dim ? other(which, other0 + item, sum_col(c)) : 0.0;
        [[unroll]] for (uint i = 0; i < PER_LANE; i++) {
            float weight = weights[sum_item(i) * STRIDE + item];
            [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                uint e = (set * PER_LANE + i) * COLUMNS + c;
                sums[e] = all_count || weight != 0.0 ? fma(weight, value[c], sums[e]) : sums[e];
            }
        }
    }
}

// The first key that a row sees, of those before `end`.
int first_key(int begin, int end)
{
    return pc.window > 0 ? max(begin, end - pc.window) : begin;
}

// A score from a product, and its slope.
vec2 score(float product)
{
    float z = product * pc.scale;
    if (pc.softcap == 0.0)
        return vec2(z, pc.scale);
    float t = tanh_(z / pc.softcap);
    return vec2(pc.softcap * t, pc.scale * (1.0 - t * t));
}

// What dropout multiplies a probability with.  Four columns share a block of random words.
uvec4 random_words;
uvec3 random_for = uvec3(~0u); // the block that they are

float keep_factor(uint row_key, uint head, uint column)
{
    if (pc.threshold == 0)
        return 1.0;
    uvec3 wanted = uvec3(row_key, column / 4, head);
    if (wanted != random_for) {
        random_for = wanted;
        random_words = random_block(row_key, column / 4, pc.site + head);
    }
    return random_words[column % 4] >= pc.threshold ? pc.keep_scale : 0.0;
}
