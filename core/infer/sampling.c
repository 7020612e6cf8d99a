#include "core/infer/sampling.h"

#include <math.h>
#include <stdbool.h>

#include "core/base/alloc.h"
#include "core/base/rng.h"

enum { SAMPLING_SITE = 0x53414d50 }; /* keeps these random numbers apart from those of training */

struct lt_sampling lt_sampling_greedy(void)
{
    return (struct lt_sampling){.top_p = 1, .repetition_penalty = 1};
}

enum lt_status lt_sampling_check(const struct lt_sampling *s, struct lt_error *err)
{
    if (!(s->temperature >= 0 && s->temperature <= 1e6))
        return lt_fail(err, LT_ERR_INVALID, "temperature must be between 0 (greedy) and 1000000, not %g",
                       s->temperature);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return lt_fail(err, LT_ERR_INVALID, "top-p must be above 0 and at most 1 (off), not %g", s->top_p);
    if (s->top_k < 0)
        return lt_fail(err, LT_ERR_INVALID, "top-k must be 0 (off) or positive, not %d", (int)s->top_k);
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 1e6))
        return lt_fail(err, LT_ERR_INVALID, "repetition penalty must be above 0 and at most 1000000, not %g",
                       s->repetition_penalty);
    return LT_OK;
}

enum lt_status lt_sampler_init(struct lt_sampler *s, const struct lt_sampling *options, int32_t vocab,
                               struct lt_error *err)
{
    *s = (struct lt_sampler){.options = *options, .vocab = vocab};
    LT_TRY(lt_sampling_check(options, err));
    if (vocab < 1)
        return lt_fail(err, LT_ERR_INVALID, "a model without a vocabulary cannot generate");
    size_t n = (size_t)vocab;
    bool penalty = options->repetition_penalty != 1;
    bool draws = options->temperature > 0;
    bool filters = draws && (options->top_p < 1 || (options->top_k > 0 && options->top_k < vocab));
    s->seen = penalty ? lt_alloc_zero(n, 1) : NULL;
    s->scores = penalty ? lt_alloc_array(n, sizeof *s->scores) : NULL;
    s->heap = filters ? lt_alloc_array(n, sizeof *s->heap) : NULL;
    s->weights = draws ? lt_alloc_array(n, sizeof *s->weights) : NULL;
    if ((penalty && (!s->seen || !s->scores)) || (filters && !s->heap) || (draws && !s->weights)) {
        lt_sampler_deinit(s);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for sampling from %d tokens", (int)vocab);
    }
    return LT_OK;
}

void lt_sampler_deinit(struct lt_sampler *s)
{
    lt_free(s->seen);
    lt_free(s->scores);
    lt_free(s->heap);
    lt_free(s->weights);
    *s = (struct lt_sampler){0};
}

void lt_sampler_see(struct lt_sampler *s, int32_t id)
{
    if (s->seen && id >= 0 && id < s->vocab)
        s->seen[id] = 1;
}

/* ---- a heap of ids, best on top; chosen ones collect behind it ---- */

static bool better(const float *scores, int32_t a, int32_t b)
{
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
}

static void sift_down(int32_t *heap, int32_t n, int32_t i, const float *scores)
{
    int32_t id = heap[i];
    for (int32_t child; i < n / 2; i = child) {
        child = 2 * i + 1;
        if (child + 1 < n && better(scores, heap[child + 1], heap[child]))
            child++;
        if (!better(scores, heap[child], id))
            break;
        heap[i] = heap[child];
    }
    heap[i] = id;
}

static void heap_fill(int32_t *heap, int32_t n, const float *scores)
{
    for (int32_t i = 0; i < n; i++)
        heap[i] = i;
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift_down(heap, n, i, scores);
}

/* Moves the best of the n ids to heap[n - 1]. */
static int32_t heap_pop(int32_t *heap, int32_t n, const float *scores)
{
    int32_t top = heap[0];
    heap[0] = heap[n - 1];
    if (n > 1)
        sift_down(heap, n - 1, 0, scores);
    heap[n - 1] = top;
    return top;
}

/* ---- the draw ---- */

static double uniform(uint64_t seed, uint64_t draw)
{
    struct lt_rng_site site = {.seed = seed, .site = SAMPLING_SITE};
    uint64_t high = lt_rng_bits(&site, draw, 0) >> 5, low = lt_rng_bits(&site, draw, 1) >> 6;
    return (double)((high << 26) | low) * 0x1p-53;
}

static int32_t draw_any(struct lt_sampler *s, const float *scores, float max, double u)
{
    double sum = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        s->weights[i] = exp(((double)scores[i] - (double)max) / s->options.temperature);
        sum += s->weights[i];
    }
    double target = u * sum, before = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        if (s->weights[i] == 0)
            continue;
        last = i;
        before += s->weights[i];
        if (target < before)
            break;
    }
    return last;
}

static double weight(const struct lt_sampler *s, const float *scores, float max, int32_t id)
{
    return exp(((double)scores[id] - (double)max) / s->options.temperature);
}

/* Pops what top-k keeps; returns how many.  The i-th chosen is heap[vocab - 1 - i], its weight weights[i]. */
static int32_t keep_top_k(struct lt_sampler *s, const float *scores, float max)
{
    int32_t n = 0;
    float kth = 0;
    while (n < s->vocab && (n < s->options.top_k || scores[s->heap[0]] == kth)) {
        int32_t id = heap_pop(s->heap, s->vocab - n, scores);
        kth = scores[id];
        s->weights[n++] = weight(s, scores, max, id);
    }
    return n;
}

static int32_t draw_filtered(struct lt_sampler *s, const float *scores, float max, double u)
{
    heap_fill(s->heap, s->vocab, scores);
    int32_t popped = 0;
    double sum = 0;
    bool top_k = s->options.top_k > 0 && s->options.top_k < s->vocab;
    if (top_k) {
        popped = keep_top_k(s, scores, max);
        for (int32_t i = 0; i < popped; i++)
            sum += s->weights[i];
    } else {
        for (int32_t i = 0; i < s->vocab; i++)
            sum += weight(s, scores, max, i);
    }
    /* What top-p keeps: a prefix of the order; without top-k it is popped only as far as needed. */
    int32_t limit = top_k ? popped : s->vocab, kept = 0;
    double mass = 0, enough = s->options.top_p < 1 ? s->options.top_p * sum : INFINITY;
    while (kept < limit && (kept == 0 || mass < enough)) {
        if (kept == popped)
            s->weights[popped++] = weight(s, scores, max, heap_pop(s->heap, s->vocab - kept, scores));
        mass += s->weights[kept++];
    }
    double target = u * mass, before = 0;
    int32_t i = 0;
    for (; i < kept - 1; i++) {
        before += s->weights[i];
        if (target < before)
            break;
    }
    return s->heap[s->vocab - 1 - i];
}

static const float *penalize(struct lt_sampler *s, const float *logits)
{
    if (!s->scores)
        return logits;
    float penalty = (float)s->options.repetition_penalty;
    for (int32_t i = 0; i < s->vocab; i++) {
        float x = logits[i];
        s->scores[i] = !s->seen[i] ? x : x < 0 ? x * penalty : x / penalty;
    }
    return s->scores;
}

enum lt_status lt_sampler_pick(struct lt_sampler *s, const float *logits, uint64_t draw, int32_t *id,
                               struct lt_error *err)
{
    const float *scores = penalize(s, logits);
    int32_t best = 0;
    bool good = true;
    for (int32_t i = 0; i < s->vocab; i++) {
        good = good && scores[i] < INFINITY;
        if (scores[i] > scores[best])
            best = i;
    }
    if (!good || !(scores[best] > -INFINITY))
        return lt_fail(err, LT_ERR_NUMERIC,
                       "the model's logits are not finite: the weights or the adapter are damaged, "
                       "or training diverged");
    if (s->options.temperature == 0)
        *id = best;
    else if (s->heap)
        *id = draw_filtered(s, scores, scores[best], uniform(s->options.seed, draw));
    else
        *id = draw_any(s, scores, scores[best], uniform(s->options.seed, draw));
    return LT_OK;
}

double lt_log_probability(const float *logits, int32_t vocab, int32_t id)
{
    float max = logits[0];
    for (int32_t i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - (double)max);
    return (double)logits[id] - (double)max - log(sum);
}
