#include "core/infer/bleu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"

struct token {
    const char *text;
    size_t len;
    uint32_t index;
};

struct gram {
    uint64_t key; /* equal exactly for equal n-grams */
    uint32_t index;
};

/* Tokens of both sentences, the hypothesis first, and n-grams named by the index of their first token. */
struct pair {
    size_t count, hypothesis; /* tokens of both; of the hypothesis */
    struct token *tokens;
    struct gram *grams;
    uint32_t *word, *number; /* of the word at an index; of the last counted n-gram that begins there */
};

static size_t count_tokens(const char *text)
{
    size_t n = 0;
    for (; (text = strchr(text, '\n')); text++)
        n++;
    return n;
}

static size_t split_tokens(struct pair *p, size_t index, const char *text)
{
    for (const char *end; (end = strchr(text, '\n')); text = end + 1, index++)
        p->tokens[index] = (struct token){text, (size_t)(end - text), (uint32_t)index};
    return index;
}

static int compare_tokens(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    int c = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    return c != 0 ? c : (x->len > y->len) - (x->len < y->len);
}

static int compare_grams(const void *a, const void *b)
{
    uint64_t x = ((const struct gram *)a)->key, y = ((const struct gram *)b)->key;
    return (x > y) - (x < y);
}

static void pair_deinit(struct pair *p)
{
    lt_free(p->tokens);
    lt_free(p->grams);
    lt_free(p->word);
    lt_free(p->number);
}

static enum lt_status pair_init(struct pair *p, const char *hypothesis, const char *reference,
                                struct lt_error *err)
{
    *p = (struct pair){.hypothesis = count_tokens(hypothesis)};
    p->count = p->hypothesis + count_tokens(reference);
    if (p->count > UINT32_MAX)
        return lt_fail(err, LT_ERR_INVALID, "an answer is too long for BLEU");
    p->tokens = lt_alloc_array(p->count, sizeof *p->tokens);
    p->grams = lt_alloc_array(p->count, sizeof *p->grams);
    p->word = lt_alloc_array(p->count, sizeof *p->word);
    p->number = lt_alloc_zero(p->count, sizeof *p->number);
    if (!p->tokens || !p->grams || !p->word || !p->number) {
        pair_deinit(p);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for BLEU");
    }
    split_tokens(p, split_tokens(p, 0, hypothesis), reference);
    qsort(p->tokens, p->count, sizeof *p->tokens, compare_tokens);
    uint32_t number = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (i > 0 && compare_tokens(&p->tokens[i - 1], &p->tokens[i]) != 0)
            number++;
        p->word[p->tokens[i].index] = number;
    }
    return LT_OK;
}

/* Numbers the n-grams from those of n - 1 (all 0 for n = 1), both sentences alike; returns how many of the
 * hypothesis the reference has, each at most as often as it is there. */
static int64_t match_grams(struct pair *p, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i + n <= p->count; i++) {
        bool across = i < p->hypothesis && i + n > p->hypothesis;
        if (!across)
            p->grams[count++] = (struct gram){(uint64_t)p->number[i] << 32 | p->word[i + n - 1], (uint32_t)i};
    }
    qsort(p->grams, count, sizeof *p->grams, compare_grams);
    int64_t correct = 0;
    uint32_t number = 0;
    for (size_t i = 0; i < count; number++) {
        int64_t ours = 0, theirs = 0;
        for (uint64_t key = p->grams[i].key; i < count && p->grams[i].key == key; i++) {
            p->number[p->grams[i].index] = number;
            if (p->grams[i].index < p->hypothesis)
                ours++;
            else
                theirs++;
        }
        correct += ours < theirs ? ours : theirs;
    }
    return correct;
}

enum lt_status lt_bleu_add(struct lt_bleu *b, const char *hypothesis, const char *reference,
                           struct lt_error *err)
{
    struct lt_strbuf ours, theirs;
    struct pair p;
    lt_strbuf_init(&ours);
    lt_strbuf_init(&theirs);
    enum lt_status status = lt_bleu_tokenize(&ours, hypothesis, err);
    if (status == LT_OK)
        status = lt_bleu_tokenize(&theirs, reference, err);
    if (status == LT_OK)
        status = pair_init(&p, lt_strbuf_str(&ours), lt_strbuf_str(&theirs), err);
    if (status == LT_OK) {
        for (size_t n = 1; n <= LT_BLEU_ORDER; n++) {
            b->correct[n - 1] += match_grams(&p, n);
            b->total[n - 1] += p.hypothesis >= n ? (int64_t)(p.hypothesis - n + 1) : 0;
        }
        b->system_length += (int64_t)p.hypothesis;
        b->reference_length += (int64_t)(p.count - p.hypothesis);
        pair_deinit(&p);
    }
    lt_strbuf_deinit(&ours);
    lt_strbuf_deinit(&theirs);
    return status;
}

double lt_bleu_brevity_penalty(const struct lt_bleu *b)
{
    if (b->system_length >= b->reference_length)
        return 1;
    return b->system_length > 0 ? exp(1 - (double)b->reference_length / (double)b->system_length) : 0;
}

double lt_bleu_score(const struct lt_bleu *b)
{
    double smooth = 1, logs = 0;
    if (b->correct[0] == 0) /* then no longer n-gram matches either */
        return 0;
    for (int n = 0; n < LT_BLEU_ORDER; n++) {
        if (b->total[n] == 0)
            return 0;
        if (b->correct[n] == 0)
            smooth *= 2;
        double matches = b->correct[n] > 0 ? (double)b->correct[n] : 1 / smooth;
        logs += log(100 * matches / (double)b->total[n]);
    }
    return lt_bleu_brevity_penalty(b) * exp(logs / LT_BLEU_ORDER);
}
