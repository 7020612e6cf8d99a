#version 450
// Cross entropy of rows of logits, a workgroup a row: the loss, the first index of the largest logit and, with GRAD,
// (softmax - onehot) * loss_scale in place of the logits.
#extension GL_GOOGLE_include_directive : require
layout(constant_id = 1) const bool GRAD = false;
#define PUSH                                                                                                           \
    uint vocab;                                                                                                        \
    float softcap;
#include "op.glsl"
#include "math.glsl"
#include "pair.glsl"

layout(std430, set = 0, binding = 1) buffer Logits { float logits[]; };
layout(std430, set = 0, binding = 2) readonly buffer Labels { uint labels[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Loss { float loss[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Argmax { uint argmax[]; };

const uint THREADS = 256; // of the workgroup

shared float best[THREADS];
shared uint best_at[THREADS];
shared vec2 shares[THREADS];

float logit(uint at)
{
    float raw = logits[AT(1) + at];
    return pc.softcap != 0.0 ? pc.softcap * tanh_(raw / pc.softcap) : raw;
}

// Of equal ones the first; no NaN.
void find_largest(uint row)
{
    uint i = gl_LocalInvocationID.x;
    barrier();
    best[i] = uintBitsToFloat(0xff800000u);
    best_at[i] = 0;
    for (uint at = i; at < pc.vocab; at += THREADS) {
        float z = logit(row * pc.vocab + at);
        if (z > best[i]) {
            best[i] = z;
            best_at[i] = at;
        }
    }
    for (uint half_ = THREADS / 2; half_ > 0; half_ /= 2) {
        barrier();
        if (i < half_ && (best[i + half_] > best[i] || (best[i + half_] == best[i] && best_at[i + half_] < best_at[i]))) {
            best[i] = best[i + half_];
            best_at[i] = best_at[i + half_];
        }
    }
    barrier();
}

// The sum of the exponentials of all logits but the label's.
float sum_others(uint row, uint label, float reference)
{
    uint i = gl_LocalInvocationID.x;
    vec2 sum = vec2(0);
    for (uint at = i; at < pc.vocab; at += THREADS)
        if (at != label)
            add(sum, exp_(logit(row * pc.vocab + at) - reference));
    shares[i] = sum;
    for (uint half_ = THREADS / 2; half_ > 0; half_ /= 2) {
        barrier();
        if (i < half_)
            add(shares[i], shares[i + half_]);
    }
    barrier();
    return value(shares[0]);
}

// The label's p - 1 is the others' share, which does not cancel.
void differentiate(uint row, uint label, float reference, float others, float sum)
{
    for (uint at = gl_LocalInvocationID.x; at < pc.vocab; at += THREADS) {
        float z = logit(row * pc.vocab + at), slope = 1.0;
        if (pc.softcap != 0.0) {
            float t = z / pc.softcap;
            slope = 1.0 - t * t;
        }
        float d = at == label ? -others / sum : exp_(z - reference) / sum;
        logits[AT(1) + row * pc.vocab + at] = d * step_.loss_scale * slope;
    }
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < live_rows(); row += gl_NumWorkGroups.x) {
        uint label = labels[AT(2) + row];
        find_largest(row);
        float largest = best[0], reference = largest == uintBitsToFloat(0xff800000u) ? 0.0 : largest;
        float others = sum_others(row, label, reference), target = logit(row * pc.vocab + label);
        float sum = others + exp_(target - reference);
        if (gl_LocalInvocationID.x == 0) {
            vec2 log_sum = log_parts(sum), total = vec2(largest, 0.0);
            add(total, -target);
            add(total, log_sum.x);
            add(total, log_sum.y);
            loss[AT(3) + row] = value(total);
            argmax[AT(4) + row] = best_at[0];
        }
        barrier();
        if (GRAD)
            differentiate(row, label, reference, others, sum);
    }
}
