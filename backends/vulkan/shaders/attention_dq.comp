#version 450
// Attention backward, first pass: dq, and delta = sum of do * o of each row, which attention_dkv.comp reads.  A workgroup
// has OWN query rows of a head.
#extension GL_GOOGLE_include_directive : require
#define PRODUCTS 2
#define SETS 1
#include "attention.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Do { float d_o[]; };
layout(std430, set = 0, binding = 2) readonly buffer Q { float q[]; };
layout(std430, set = 0, binding = 3) readonly buffer K { float k[]; };
layout(std430, set = 0, binding = 4) readonly buffer V { float v[]; };
layout(std430, set = 0, binding = 5) readonly buffer O { float o[]; };
layout(std430, set = 0, binding = 6) readonly buffer Lse { float lse[]; };
layout(std430, set = 0, binding = 7) readonly buffer KvBegin { int kv_begin[]; };
layout(std430, set = 0, binding = 8) readonly buffer KvEnd { int kv_end[]; };
layout(std430, set = 0, binding = 9) readonly buffer RowKey { uint row_key[]; };
layout(std430, set = 0, binding = 10) writeonly buffer Dq { float dq[]; };
layout(std430, set = 0, binding = 11) writeonly buffer Delta { float delta[]; };

const uint PARTS = 4; // invocations of a row's delta

shared int row_begin[OWN];
shared int row_first[OWN];
shared int row_end[OWN];
shared uint row_keys[OWN];
shared float row_lse[OWN];
shared float row_delta[OWN];
shared float part_of_row[OWN * PARTS];

uint head, kv_head;

float own(uint which, uint item, uint col)
{
    uint at = (item * pc.heads + head) * pc.head_dim + col;
    return which == 0 ? q[AT(2) + at] : d_o[AT(1) + at];
}

float other(uint which, uint item, uint col)
{
    uint at = (item * pc.kv_heads + kv_head) * pc.head_dim + col;
    return which == 0 ? k[AT(3) + at] : v[AT(4) + at];
}

float delta_of_part(uint row, uint part)
{
    uint at = (row * pc.heads + head) * pc.head_dim;
    float sum = 0.0;
    for (uint col = part; col < pc.head_dim; col += PARTS)
        sum = fma(d_o[AT(1) + at + col], o[AT(5) + at + col], sum);
    return sum;
}

void load_rows(uint row0, uint rows)
{
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < rows; i += gl_WorkGroupSize.x) {
        uint row = row0 + i;
        row_begin[i] = kv_begin[AT(7) + row];
        row_end[i] = kv_end[AT(8) + row];
        row_first[i] = first_key(row_begin[i], row_end[i]);
        row_keys[i] = pc.threshold != 0 ? row_key[AT(9) + row] : 0;
        row_lse[i] = lse[AT(6) + row * pc.heads + head];
    }
    if (gl_LocalInvocationID.x < rows * PARTS)
        part_of_row[gl_LocalInvocationID.x] =
            delta_of_part(row0 + gl_LocalInvocationID.x / PARTS, gl_LocalInvocationID.x % PARTS);
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < rows; i += gl_WorkGroupSize.x) {
        float sum = part_of_row[i * PARTS];
        for (uint part = 1; part < PARTS; part++)
            sum += part_of_row[i * PARTS + part];
        row_delta[i] = sum;
        delta[AT(11) + (row0 + i) * pc.heads + head] = sum;
    }
    barrier();
}

// The slopes of the scores, from both products.
void write_slopes(uint rows, int tile)
{
    for (uint i = 0; i < SUB; i++) {
        uint row = own_of(i);
        for (uint j = 0; j < 4; j++) {
            int key = tile + int(other_of(j));
            float slope = 0.0;
            if (row < rows && key >= row_first[row] && key < row_end[row]) {
                vec2 s = score(products[i * 4 + j]);
                float keep = keep_factor(row_keys[row], head, uint(key - row_begin[row]));
                slope = exp_(s.x - row_lse[row]) * (products[SUB * 4 + i * 4 + j] * keep - row_delta[row]) * s.y;
            }
            weights[row * STRIDE + other_of(j)] = slope;
        }
    }
}

void differentiate(uint row0, uint rows)
{
    int low = 0x7fffffff, low_of_all = 0, end = 0, end_of_all = 0x7fffffff;
    load_rows(row0, rows);
    clear_sums();
    for (uint row = 0; row < rows; row++) {
        low = min(low, row_first[row]);
        low_of_all = max(low_of_all, row_first[row]);
        end = max(end, row_end[row]);
        end_of_all = min(end_of_all, row_end[row]);
    }
    for (int tile = low; tile < end; tile += int(TILE)) {
        uint count = min(TILE, uint(end - tile));
        multiply(0, row0, rows, uint(tile), count);
        multiply(1, row0, rows, uint(tile), count);
        write_slopes(rows, tile);
        barrier();
        bool all_count = rows == OWN && low_of_all <= tile && end_of_all >= tile + int(TILE);
        add_weighted(0, 0, uint(tile), count, all_count);
    }
    for (uint i = 0; i < PER_LANE; i++)
        for (uint c = 0; c < COLUMNS; c++)
            if (sum_item(i) < rows && sum_col(c) < pc.head_dim)
                dq[AT(10) + ((row0 + sum_item(i)) * pc.heads + head) * pc.head_dim + sum_col(c)] =
                    sums[i * COLUMNS + c];
}

void main()
{
    head = gl_WorkGroupID.y;
    kv_head = head / (pc.heads / pc.kv_heads);
    uint live = live_rows(), blocks = (live + OWN - 1) / OWN;
    for (uint block = gl_WorkGroupID.x; block < blocks; block += gl_NumWorkGroups.x) {
        uint row0 = (blocks - 1 - block) * OWN;
        differentiate(row0, min(OWN, live - row0));
    }
}
