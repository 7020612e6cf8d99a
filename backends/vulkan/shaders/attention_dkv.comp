#version 450
// Attention backward, second pass: dk and dv.  A workgroup has OWN keys of a key head and goes through the query heads of
// its group and through the rows that see its keys.  Rows are tokens as the keys are, kv_begin and kv_end never fall, and
// no row sees a key behind its own.
#extension GL_GOOGLE_include_directive : require
#define PRODUCTS 2
#define SETS 2
#include "attention.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Do { float d_o[]; };
layout(std430, set = 0, binding = 2) readonly buffer Q { float q[]; };
layout(std430, set = 0, binding = 3) readonly buffer K { float k[]; };
layout(std430, set = 0, binding = 4) readonly buffer V { float v[]; };
layout(std430, set = 0, binding = 5) readonly buffer Delta { float delta[]; };
layout(std430, set = 0, binding = 6) readonly buffer Lse { float lse[]; };
layout(std430, set = 0, binding = 7) readonly buffer KvBegin { int kv_begin[]; };
layout(std430, set = 0, binding = 8) readonly buffer KvEnd { int kv_end[]; };
layout(std430, set = 0, binding = 9) readonly buffer RowKey { uint row_key[]; };
layout(std430, set = 0, binding = 10) writeonly buffer Dk { float dk[]; };
layout(std430, set = 0, binding = 11) writeonly buffer Dv { float dv[]; };

shared int row_begin[TILE];
shared int row_end[TILE];
shared uint row_keys[TILE];
shared float row_lse[TILE];
shared float row_delta[TILE];

uint kv_head, head;

float own(uint which, uint item, uint col)
{
    uint at = (item * pc.kv_heads + kv_head) * pc.head_dim + col;
    return which == 0 ? k[AT(3) + at] : v[AT(4) + at];
}

float other(uint which, uint item, uint col)
{
    uint at = (item * pc.heads + head) * pc.head_dim + col;
    return which == 0 ? q[AT(2) + at] : d_o[AT(1) + at];
}

void load_rows(uint row0, uint rows)
{
    for (uint i = gl_LocalInvocationID.x; i < rows; i += gl_WorkGroupSize.x) {
        uint row = row0 + i;
        row_begin[i] = kv_begin[AT(7) + row];
        row_end[i] = kv_end[AT(8) + row];
        row_keys[i] = pc.threshold != 0 ? row_key[AT(9) + row] : 0;
        row_lse[i] = lse[AT(6) + row * pc.heads + head];
        row_delta[i] = delta[AT(5) + row * pc.heads + head];
    }
}

// The probabilities after dropout into the weights, the slopes of the scores into the products.
void write_probabilities(uint key0, uint keys, uint rows)
{
    for (uint i = 0; i < SUB; i++) {
        int key = int(pc.row0 + key0 + own_of(i));
        for (uint j = 0; j < 4; j++) {
            uint row = other_of(j), e = i * 4 + j;
            float p = 0.0, slope = 0.0;
            if (own_of(i) < keys && row < rows && key >= first_key(row_begin[row], row_end[row]) &&
                key < row_end[row]) {
                vec2 s = score(products[e]);
                float keep = keep_factor(row_keys[row], head, uint(key - row_begin[row]));
                p = exp_(s.x - row_lse[row]);
                slope = p * (products[SUB * 4 + e] * keep - row_delta[row]) * s.y;
                p *= keep;
            }
            products[e] = slope;
            weights[own_of(i) * STRIDE + row] = p;
        }
    }
}

void write_slopes()
{
    for (uint i = 0; i < SUB; i++)
        for (uint j = 0; j < 4; j++)
            weights[own_of(i) * STRIDE + other_of(j)] = products[i * 4 + j];
}

// What rows [row0, row0 + rows) of the head add.
void add_rows(uint key0, uint keys, uint row0, uint rows)
{
    int first = int(pc.row0 + key0), end = first + int(OWN);
    barrier();
    load_rows(row0, rows);
    multiply(0, key0, keys, row0, rows);
    multiply(1, key0, keys, row0, rows);
    bool all_count = keys == OWN && row_end[0] >= end && first_key(row_begin[rows - 1], row_end[rows - 1]) <= first;
    write_probabilities(key0, keys, rows);
    barrier();
    add_weighted(0, 1, row0, rows, all_count);
    barrier();
    write_slopes();
    barrier();
    add_weighted(1, 0, row0, rows, all_count);
}

void differentiate(uint key0, uint keys)
{
    uint group = pc.heads / pc.kv_heads, live = step_.n_tokens;
    int end = int(pc.row0 + key0 + keys);
    clear_sums();
    for (head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (uint row0 = pc.row0 + key0; row0 < live; row0 += TILE) {
            if (first_key(kv_begin[AT(7) + row0], kv_end[AT(8) + row0]) >= end)
                break;
            add_rows(key0, keys, row0, min(TILE, live - row0));
        }
    }
    for (uint i = 0; i < PER_LANE; i++)
        for (uint c = 0; c < COLUMNS; c++)
            if (sum_item(i) < keys && sum_col(c) < pc.head_dim) {
                uint at = ((key0 + sum_item(i)) * pc.kv_heads + kv_head) * pc.head_dim + sum_col(c);
                dv[AT(11) + at] = sums[i * COLUMNS + c];
                dk[AT(10) + at] = sums[(PER_LANE + i) * COLUMNS + c];
            }
}

void main()
{
    kv_head = gl_WorkGroupID.y;
    uint live = live_rows();
    for (uint block = gl_WorkGroupID.x; block * OWN < live; block += gl_NumWorkGroups.x)
        differentiate(block * OWN, min(OWN, live - block * OWN));
}
