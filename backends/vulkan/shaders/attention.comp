#version 450
// Attention forward: o = softmax(scores) v and the log-sum-exp of each row.  A workgroup has OWN query rows of a head;
// tiles of keys begin where the row's sequence does, so that a row's bits do not depend on its neighbours.  Rows of
// several sequences in one workgroup take turns.
#extension GL_GOOGLE_include_directive : require
#define PRODUCTS 1
#define SETS 1
#include "attention.glsl"

layout(std430, set = 0, binding = 1) readonly buffer Q { float q[]; };
layout(std430, set = 0, binding = 2) readonly buffer K { float k[]; };
layout(std430, set = 0, binding = 3) readonly buffer V { float v[]; };
layout(std430, set = 0, binding = 4) readonly buffer KvBegin { int kv_begin[]; };
layout(std430, set = 0, binding = 5) readonly buffer KvEnd { int kv_end[]; };
layout(std430, set = 0, binding = 6) readonly buffer RowKey { uint row_key[]; };
layout(std430, set = 0, binding = 7) writeonly buffer O { float o[]; };
layout(std430, set = 0, binding = 8) writeonly buffer Lse { float lse[]; };

const uint PARTS = 4; // invocations of a row in softmax

shared int row_begin[OWN];
shared int row_first[OWN];
shared int row_end[OWN];
shared float part_of_row[OWN * PARTS];
shared float row_scale[OWN];

uint head, kv_head;

float own(uint which, uint item, uint col)
{
    return q[AT(1) + (item * pc.heads + head) * pc.head_dim + col];
}

float other(uint which, uint item, uint col)
{
    uint at = (item * pc.kv_heads + kv_head) * pc.head_dim + col;
    return which == 0 ? k[AT(2) + at] : v[AT(3) + at];
}

// Rows [first, last) of the workgroup, all of one sequence, and the keys they see.
struct Run {
    uint first, last;
    int begin, low, low_of_all, end, end_of_all;
};

Run next_run(uint first, uint rows)
{
    Run run = Run(first, first, row_begin[first], 0x7fffffff, 0, 0, 0x7fffffff);
    for (; run.last < rows && row_begin[run.last] == run.begin; run.last++) {
        int low = row_first[run.last], end = row_end[run.last];
        if (low < end) {
            run.low = min(run.low, low);
            run.end = max(run.end, end);
        }
        run.low_of_all = max(run.low_of_all, low);
        run.end_of_all = min(run.end_of_all, end);
    }
    return run;
}

void write_scores(const Run run, int tile)
{
    for (uint i = 0; i < SUB; i++) {
        uint row = own_of(i);
        bool in_run = row >= run.first && row < run.last;
        for (uint j = 0; j < 4; j++) {
            int key = tile + int(other_of(j));
            bool visible = in_run && key >= row_first[row] && key < row_end[row];
            weights[row * STRIDE + other_of(j)] = visible ? score(products[i * 4 + j]).x : MINUS_INFINITY;
        }
    }
}

float largest_of_part(uint row, uint part)
{
    float largest = MINUS_INFINITY;
    for (uint e = 0; e < TILE / PARTS; e++) {
        float s = weights[row * STRIDE + e / 4 * 16 + part * 4 + e % 4];
        largest = s > largest ? s : largest;
    }
    return largest;
}

// Scores become weights; the sum of their part.
float exp_of_part(uint row, uint part, float reference, uint column, uint key)
{
    float sum = 0.0;
    for (uint e = 0; e < TILE / PARTS; e++) {
        uint item = e / 4 * 16 + part * 4 + e % 4, at = row * STRIDE + item;
        float p = exp_(weights[at] - reference);
        sum += p;
        weights[at] = p == 0.0 ? 0.0 : p * keep_factor(key, head, column + item);
    }
    return sum;
}

void attend(uint row0, uint rows)
{
    const uint row = gl_LocalInvocationID.x / PARTS, part = gl_LocalInvocationID.x % PARTS;
    const bool has_row = row < rows;
    const uint key = has_row && pc.threshold != 0 ? row_key[AT(6) + row0 + row] : 0;
    float largest = MINUS_INFINITY, sum = 0.0;
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < rows; i += gl_WorkGroupSize.x) {
        row_begin[i] = kv_begin[AT(4) + row0 + i];
        row_end[i] = kv_end[AT(5) + row0 + i];
        row_first[i] = first_key(row_begin[i], row_end[i]);
    }
    clear_sums();
    barrier();
    for (Run run = next_run(0, rows);; run = next_run(run.last, rows)) {
        int tile = run.low < run.end ? run.begin + (run.low - run.begin) / int(TILE) * int(TILE) : run.end;
        for (; tile < run.end; tile += int(TILE)) {
            uint count = min(TILE, uint(run.end - tile));
            multiply(0, row0, rows, uint(tile), count);
            write_scores(run, tile);
            barrier();
            if (has_row)
                part_of_row[gl_LocalInvocationID.x] = largest_of_part(row, part);
            barrier();
            float before = largest, reference = 0.0, exponentials = 0.0;
            if (has_row) {
                for (uint e = 0; e < PARTS; e++) {
                    float s = part_of_row[row * PARTS + e];
                    largest = s > largest ? s : largest;
                }
                reference = largest == MINUS_INFINITY ? 0.0 : largest;
                exponentials = exp_of_part(row, part, reference, uint(tile - run.begin), key);
            }
            barrier();
            if (has_row)
                part_of_row[gl_LocalInvocationID.x] = exponentials;
            barrier();
            if (has_row) {
                float scale = exp_(before - reference), total = part_of_row[row * PARTS];
                for (uint e = 1; e < PARTS; e++)
                    total += part_of_row[row * PARTS + e];
                sum = fma(sum, scale, total);
                row_scale[row] = scale;
            }
            barrier();
            for (uint i = 0; i < PER_LANE; i++)
                for (uint c = 0; c < COLUMNS; c++)
                    sums[i * COLUMNS + c] *= row_scale[sum_item(i)];
            bool all_count = rows == OWN && run.last - run.first == OWN && run.low_of_all <= tile &&
                             run.end_of_all >= tile + int(TILE);
            add_weighted(0, 1, uint(tile), count, all_count);
        }
        if (run.last == rows)
            break;
    }
    barrier();
    if (has_row)
        row_scale[row] = sum;
    if (has_row && part == 0) {
        vec2 log_sum = log_parts(sum);
        bool blind = row_first[row] >= row_end[row];
        lse[AT(8) + (row0 + row) * pc.heads + head] = blind ? MINUS_INFINITY : (largest + log_sum.x) + log_sum.y;
    }
    barrier();
    for (uint i = 0; i < PER_LANE; i++)
        for (uint c = 0; c < COLUMNS; c++) {
            uint item = sum_item(i);
            if (item < rows && sum_col(c) < pc.head_dim) {
                bool blind = row_first[item] >= row_end[item];
                o[AT(7) + ((row0 + item) * pc.heads + head) * pc.head_dim + sum_col(c)] =
                    blind ? 0.0 : sums[i * COLUMNS + c] / row_scale[item];
            }
        }
}

// The longest rows first.
void main()
{
    head = gl_WorkGroupID.y;
    kv_head = head / (pc.heads / pc.kv_heads);
    uint live = live_rows(), blocks = (live + OWN - 1) / OWN;
    for (uint block = gl_WorkGroupID.x; block < blocks; block += gl_NumWorkGroups.x) {
        uint row0 = (blocks - 1 - block) * OWN;
        attend(row0, min(OWN, live - row0));
    }
}
