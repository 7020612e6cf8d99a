#include "tests/support/tiny_step.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The inputs of a model; batches are made of its first two sequences padded left and right where there are such. */
static const char *inputs_of(const char *model, const char **left, const char **right)
{
    bool llama = strcmp(model, "goldens/gpt2-tiny") != 0;
    *left = llama ? "left." : "";
    *right = llama ? "right." : "";
    return llama ? "goldens/llama-tiny/inputs.safetensors" : "goldens/gpt2-tiny/inputs.safetensors";
}

void tiny_step_open(struct tiny_step *s, struct tiny_options *o)
{
    const char *of_left, *of_right, *inputs = inputs_of(o->model, &of_left, &of_right);
    tiny_batch_load(&s->left, inputs, of_left);
    tiny_batch_load(&s->right, inputs, of_right);
    for (int i = 0; i < TINY_STEP_BATCHES; i++)
        s->batches[i] = i % 2 ? s->left.tokens : s->right.tokens;
    s->batches[2].n_labels = 0;
    s->batches[4].n_labels -= 3;
    o->tokens = o->labels = s->left.rows * s->left.columns;
}

void tiny_step_close(struct tiny_step *s)
{
    tiny_batch_free(&s->left);
    tiny_batch_free(&s->right);
}

float *tiny_step_grads(struct tiny_model *t)
{
    struct lt_error err;
    float *g = malloc(t->params.elements * sizeof *g);
    assert_non_null(g);
    if (lt_engine_read_grads(t->engine, 0, g, t->params.elements, &err) != LT_OK)
        fail_msg("%s", err.message);
    return g;
}

static float *run(const struct tiny_options *o, double *loss, size_t *elements)
{
    struct tiny_model t;
    struct tiny_step s;
    struct tiny_options all = *o;
    tiny_step_open(&s, &all);
    tiny_open(&t, &all);
    *loss = tiny_train(&t, s.batches, TINY_STEP_BATCHES);
    *elements = t.params.elements;
    float *grads = tiny_step_grads(&t);
    tiny_close(&t);
    tiny_step_close(&s);
    return grads;
}

void tiny_step_check_same(const struct tiny_options *a, const struct tiny_options *b)
{
    double loss_a, loss_b;
    size_t n, m;
    float *x = run(a, &loss_a, &n), *y = run(b, &loss_b, &m);
    assert_memory_equal(&loss_a, &loss_b, sizeof loss_a);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}
