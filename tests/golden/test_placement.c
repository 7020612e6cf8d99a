/* A model on two backends: whatever is where, the numbers are those of one.  The device is a second CPU backend that
 * hides its memory, as real ones do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/registry.h"
#include "core/graph/graph.h"
#include "core/infer/generate.h"
#include "tests/support/fixtures.h"
#include "tests/support/tiny_step.h"

static void must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

/* ---- backends ---- */

static struct lt_backend *host, *device;
static struct lt_backend_ops device_ops;
static bool refused[LT_OP_COUNT]; /* by the device */
static bool (*cpu_supports)(struct lt_backend *be, const struct lt_program *p, const struct lt_node *n);

static void *no_address(struct lt_backend *be, struct lt_buffer *b)
{
    (void)be;
    (void)b;
    return NULL;
}

static void no_counters(struct lt_backend *be, struct lt_device_counters *out)
{
    (void)be;
    *out = (struct lt_device_counters){0};
}

static bool supports(struct lt_backend *be, const struct lt_program *p, const struct lt_node *n)
{
    return !refused[n->op] && cpu_supports(be, p, n);
}

static int make_backends(void **state)
{
    const struct lt_backend_request of_host = {.device = "cpu", .threads = 2, .isa = getenv("LT_CPU")},
                                    of_device = {.device = "cpu", .threads = 1, .isa = getenv("LT_CPU")};
    (void)state;
    if (lt_backend_create(&host, &of_host, NULL) != LT_OK ||
        lt_backend_create(&device, &of_device, NULL) != LT_OK)
        return -1;
    device_ops = *device->ops;
    cpu_supports = device_ops.supports;
    device_ops.buffer_host = no_address;
    device_ops.counters = no_counters;
    device_ops.supports = supports;
    device->ops = &device_ops;
    return 0;
}

static int destroy_backends(void **state)
{
    (void)state;
    lt_backend_destroy(host);
    lt_backend_destroy(device);
    return 0;
}

static int accept_all(void **state)
{
    (void)state;
    memset(refused, 0, sizeof refused);
    return 0;
}

/* ---- training ---- */

static const struct {
    const char *model, *adapter;
    int32_t layers;
} stored[] = {
    {"goldens/llama-tiny", "goldens/lora/adapter", 3},
    {"goldens/gpt2-tiny", "goldens/gpt2-tiny/lora/adapter", 2}, /* its head is tied to its embedding */
    {"goldens/qlora/checkpoint-bnb-4bit", "goldens/lora/adapter", 3},
};
enum { STORED = sizeof stored / sizeof *stored };

static struct tiny_options options_of(size_t model)
{
    return (struct tiny_options){
        .model = stored[model].model, .adapter = stored[model].adapter, .backend = host};
}

/* The same with so many layers on the device. */
static struct tiny_options split(const struct tiny_options *o, int32_t layers)
{
    struct tiny_options s = *o;
    s.device = device;
    s.device_layers = layers;
    return s;
}

static void test_every_split(void **state)
{
    (void)state;
    for (size_t m = 0; m < STORED; m++)
        for (int32_t layers = 0; layers <= stored[m].layers; layers++)
            for (int32_t group = 1; group <= 5; group += 2) {
                struct tiny_options whole = options_of(m), part = split(&whole, layers);
                part.micro_batches = group;
                part.recompute = (enum lt_recompute)(((int)group + (int)layers) % 3);
                tiny_step_check_same(&whole, &part);
            }
}

static void test_dropout_and_recomputation(void **state)
{
    (void)state;
    for (int recompute = LT_RECOMPUTE_NONE; recompute <= LT_RECOMPUTE_FULL; recompute++) {
        struct tiny_options whole = options_of(0);
        whole.dropout = 0.1f;
        struct tiny_options part = split(&whole, 1);
        part.recompute = (enum lt_recompute)recompute;
        tiny_step_check_same(&whole, &part);
    }
}

static void test_streamed(void **state)
{
    (void)state;
    for (size_t m = 0; m < STORED; m++)
        for (int32_t layers = 0; layers <= stored[m].layers; layers++) {
            struct tiny_options whole = options_of(m), part = split(&whole, layers);
            part.residency = LT_WEIGHTS_STREAM;
            part.micro_batches = 1 + 2 * (layers % 2);
            tiny_step_check_same(&whole, &part);
        }
}

/* All tensors: matrices and norms of a layer are far apart in the flat buffers. */
static void test_all_trained(void **state)
{
    (void)state;
    for (int32_t layers = 0; layers <= 3; layers++) {
        struct tiny_options whole = {.model = "goldens/llama-tiny", .full = true, .backend = host};
        struct tiny_options part = split(&whole, layers);
        part.micro_batches = layers;
        tiny_step_check_same(&whole, &part);
    }
}

/* Values that are trained in two places would have to be added up between them. */
static void test_tied_and_trained(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_engine *e;
    struct lt_error err;
    tiny_open(&t,
              &(struct tiny_options){
                  .model = "goldens/archs/smollm2", .full = true, .backend = host, .tokens = 8, .labels = 8});
    struct lt_engine_options opt = {.capacity = {.tokens = 8, .labels = 8},
                                    .train = true,
                                    .param_elements = t.params.elements,
                                    .device = device,
                                    .device_layers = 1};
    assert_int_equal(lt_engine_create(&e, t.model, host, &opt, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "both must be in one place"));
    tiny_close(&t);
}

/* ---- what is where ---- */

static struct lt_engine_placement placement_of(const struct tiny_options *o)
{
    struct tiny_model t;
    struct tiny_options all = *o;
    all.tokens = all.labels = 8;
    tiny_open(&t, &all);
    struct lt_engine_placement p = lt_engine_placement(t.engine);
    tiny_close(&t);
    return p;
}

static void test_refused_ops(void **state)
{
    (void)state;
    const size_t row = 8 * 64 * sizeof(float); /* 8 tokens */
    struct tiny_options whole = options_of(0), part = split(&whole, 2);
    struct lt_engine_placement p = placement_of(&part);
    assert_true(p.layers == 2 && p.head && p.copies == 2 && p.copy_bytes == 2 * row && p.step_bytes > 0);

    refused[LT_OP_ATTENTION] = true;
    p = placement_of(&part);
    assert_true(p.layers == 0 && p.head && p.copies == 2 && p.step_bytes == 0);
    tiny_step_check_same(&whole, &part);

    refused[LT_OP_ATTENTION] = false;
    refused[LT_OP_CROSS_ENTROPY] = true;
    p = placement_of(&part);
    assert_true(p.layers == 2 && !p.head && p.copies == 4 && p.copy_bytes == 4 * row);
    part.micro_batches = 3;
    tiny_step_check_same(&whole, &part);

    refused[LT_OP_ATTENTION] = true;
    p = placement_of(&part);
    assert_true(p.layers == 0 && !p.head && p.copies == 0 && p.copy_bytes == 0 && p.step_bytes == 0);
    tiny_step_check_same(&whole, &part);

    part.residency = LT_WEIGHTS_STREAM;
    refused[LT_OP_ATTENTION] = false;
    tiny_step_check_same(&whole, &part);
}

/* Of three layers only the middle one has adapters, and the device cannot run them: places alternate. */
static void test_alternating_places(void **state)
{
    (void)state;
    struct lt_error err;
    struct tiny_model t;
    struct tiny_step s;
    struct lt_engine *whole = NULL;
    struct tiny_options o = options_of(0);
    tiny_step_open(&s, &o);
    tiny_open(&t, &o);
    for (int i = 0; i < t.model->tensor_count; i++)
        if (t.model->tensors[i].segment != 2)
            t.model->tensors[i].lora.rank = 0;
    struct lt_engine_options opt = {.capacity = {.tokens = o.tokens, .labels = o.labels},
                                    .train = true,
                                    .micro_batches = 2,
                                    .param_elements = t.params.elements};
    struct lt_engine *old = t.engine;
    must(lt_engine_create(&whole, t.model, host, &opt, &err), &err);
    refused[LT_OP_LORA] = true;
    opt.device = device;
    opt.device_layers = 3;
    must(lt_engine_create(&t.engine, t.model, host, &opt, &err), &err);
    struct lt_engine_placement p = lt_engine_placement(t.engine);
    /* host, device, host, device, device: three ways up, and down from the head's layer */
    assert_true(p.layers == 2 && p.head && p.copies == 3 + 1 && p.step_bytes == 0);
    struct lt_engine *both[] = {whole, t.engine};
    double loss[2];
    float *grads[2];
    for (int i = 0; i < 2; i++) {
        must(lt_engine_allocate(both[i], &err), &err);
        must(lt_engine_write_params(both[i], 0, t.values, t.params.elements, &err), &err);
        t.engine = both[i];
        loss[i] = tiny_train(&t, s.batches, TINY_STEP_BATCHES);
        grads[i] = tiny_step_grads(&t);
    }
    assert_memory_equal(&loss[0], &loss[1], sizeof loss[0]);
    assert_memory_equal(grads[0], grads[1], t.params.elements * sizeof *grads[0]);
    free(grads[0]);
    free(grads[1]);
    lt_engine_destroy(whole);
    lt_engine_destroy(both[1]);
    t.engine = old;
    tiny_close(&t);
    tiny_step_close(&s);
}

/* Each place holds what its own segments need. */
static void test_memory(void **state)
{
    (void)state;
    struct tiny_model whole, part;
    struct tiny_options o = options_of(0);
    o.tokens = o.labels = 8;
    o.micro_batches = 2;
    struct tiny_options s = split(&o, 1);
    tiny_open(&whole, &o);
    tiny_open(&part, &s);
    const size_t slot = 8 * 64 * sizeof(float);
    const struct lt_engine_memory *w = lt_engine_memory(whole.engine), *h = lt_engine_memory(part.engine),
                                  *d = lt_engine_device_memory(part.engine);
    assert_null(lt_engine_device_memory(whole.engine));
    assert_non_null(d);
    assert_true(h->params == w->params && h->grads == w->grads);
    assert_true(3 * d->params == w->params && d->grads == d->params); /* all layers have the same adapters */
    assert_true(h->vectors + d->vectors == w->vectors && d->vectors > 0);
    assert_true(h->tape + d->tape == w->tape && d->tape > 0);
    assert_true(h->tables == w->tables && d->tables == w->tables);
    /* a pool of 3 each; the inputs of layers 1 and 2 below, of layer 3 and the head above, twice */
    assert_int_equal(h->boundaries, (3 + 2 * 2) * slot);
    assert_int_equal(d->boundaries, (3 + 2 * 2) * slot);
    assert_true(h->logits == 0 && d->logits == w->logits);
    tiny_close(&whole);
    tiny_close(&part);
}

static void test_refusals(void **state)
{
    (void)state;
    struct tiny_model t;
    struct lt_engine *e;
    struct lt_error err;
    struct tiny_options o = options_of(0);
    o.tokens = o.labels = 8;
    tiny_open(&t, &o);
    struct lt_engine_options opt = {.capacity = {.tokens = 8, .labels = 8},
                                    .train = true,
                                    .boundary_dir = lt_test_temp_dir(),
                                    .param_elements = t.params.elements,
                                    .device = device,
                                    .device_layers = 1};
    assert_int_equal(lt_engine_create(&e, t.model, host, &opt, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "boundaries cannot be kept in a file"));
    opt.boundary_dir = NULL;
    opt.device = host;
    assert_int_equal(lt_engine_create(&e, t.model, device, &opt, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "one of the two must be the processor"));
    tiny_close(&t);
}

/* A device alone keeps its boundaries in a file through memory of the process. */
static void test_boundaries_of_a_device(void **state)
{
    (void)state;
    for (size_t m = 0; m < STORED; m++)
        for (int32_t group = 1; group <= 5; group += 2) {
            struct tiny_options o = options_of(m), other = o;
            other.backend = device;
            other.micro_batches = group;
            other.boundary_dir = lt_test_temp_dir();
            tiny_step_check_same(&o, &other);
        }
}

/* ---- steps that follow one another ---- */

static void *address(struct lt_engine *e)
{
    return host->ops->buffer_host(host, lt_engine_params(e));
}

/* Gradients add up over calls, begin at zero again, and follow the parameters, whoever writes them. */
static void test_steps(void **state)
{
    (void)state;
    struct lt_error err;
    struct tiny_model t[2];
    struct tiny_step s;
    struct tiny_options o = options_of(0);
    tiny_step_open(&s, &o);
    struct tiny_options p = split(&o, 2);
    tiny_open(&t[0], &o);
    tiny_open(&t[1], &p);
    size_t n = t[0].params.elements;
    for (int round = 0; round < 3; round++) {
        double loss[2];
        float *grads[2];
        for (int i = 0; i < 2; i++) {
            struct lt_engine *e = t[i].engine;
            if (round == 1)
                for (size_t k = 0; k < n; k++)
                    t[i].values[k] *= 1.5f;
            if (round == 1)
                must(lt_engine_write_params(e, 0, t[i].values, n, &err), &err);
            for (size_t k = 0; round == 2 && k < n; k++)
                ((float *)address(e))[k] *= 0.25f;
            if (round == 2)
                lt_engine_params_changed(e);
            must(lt_engine_zero_grads(e, &err), &err);
            loss[i] = tiny_train(&t[i], s.batches, 2);
            loss[i] += tiny_train(&t[i], s.batches + 1, 3);
            grads[i] = tiny_step_grads(&t[i]);
        }
        assert_memory_equal(&loss[0], &loss[1], sizeof loss[0]);
        assert_memory_equal(grads[0], grads[1], n * sizeof *grads[0]);
        free(grads[0]);
        free(grads[1]);
    }
    tiny_close(&t[0]);
    tiny_close(&t[1]);
    tiny_step_close(&s);
}

/* ---- evaluation and generation ---- */

static void test_evaluation(void **state)
{
    (void)state;
    for (size_t m = 0; m < STORED; m++)
        for (int32_t layers = 0; layers <= stored[m].layers; layers++) {
            struct tiny_model t[2];
            struct tiny_step s;
            struct lt_error err;
            struct tiny_options o = options_of(m);
            tiny_step_open(&s, &o);
            struct tiny_options p = split(&o, layers);
            tiny_open(&t[0], &o);
            tiny_open(&t[1], &p);
            struct lt_tokens tokens = s.right.tokens;
            size_t labels = (size_t)tokens.n_labels, logits = labels * (size_t)t[0].model->vocab;
            float *losses[2], *rows[2];
            int32_t *best[2];
            for (int i = 0; i < 2; i++) {
                losses[i] = calloc(labels, sizeof *losses[i]);
                best[i] = calloc(labels, sizeof *best[i]);
                rows[i] = calloc(logits, sizeof *rows[i]);
                assert_true(losses[i] && best[i] && rows[i]);
                must(lt_engine_eval(t[i].engine, &tokens, losses[i], best[i], &err), &err);
                must(lt_engine_logits(t[i].engine, &tokens, rows[i], &err), &err);
            }
            assert_memory_equal(losses[0], losses[1], labels * sizeof *losses[0]);
            assert_memory_equal(best[0], best[1], labels * sizeof *best[0]);
            assert_memory_equal(rows[0], rows[1], logits * sizeof *rows[0]);
            for (int i = 0; i < 2; i++) {
                free(losses[i]);
                free(best[i]);
                free(rows[i]);
                tiny_close(&t[i]);
            }
            tiny_step_close(&s);
        }
}

enum { CONTEXT = 40, PROMPT = 9 };

struct answer {
    int32_t ids[CONTEXT];
    double logprobs[CONTEXT];
    int count;
};

static bool keep_token(void *user, int32_t id, double logprob)
{
    struct answer *a = user;
    a->ids[a->count] = id;
    a->logprobs[a->count++] = logprob;
    return true;
}

static void answer(struct tiny_model *t, int32_t layers, bool on_two, const int32_t *prompt, struct answer *a)
{
    struct lt_error err;
    struct lt_generator *g;
    struct lt_generate_result res;
    const struct lt_generator_options opt = {.context = CONTEXT,
                                             .chunk = 4,
                                             .param_elements = t->params.elements,
                                             .device = on_two ? device : NULL,
                                             .device_layers = layers};
    must(lt_generator_create(&g, t->model, host, &opt, &err), &err);
    must(lt_generator_allocate(g, t->values, &err), &err);
    const struct lt_generate_request req = {.prompt = prompt,
                                            .prompt_length = PROMPT,
                                            .max_new_tokens = 20,
                                            .logprobs = true,
                                            .sampling = lt_sampling_greedy(),
                                            .on_token = keep_token,
                                            .user = a};
    memset(a, 0, sizeof *a);
    must(lt_generator_run(g, &req, &res, &err), &err);
    assert_int_equal(a->count, 20);
    lt_generator_destroy(g);
}

/* Keys and values lie where their layers run. */
static void test_generation(void **state)
{
    (void)state;
    for (size_t m = 0; m < STORED; m++) {
        struct tiny_model t;
        struct tiny_step s;
        struct tiny_options o = options_of(m);
        struct answer want, got;
        tiny_step_open(&s, &o);
        tiny_open(&t, &o);
        assert_true(s.left.tokens.n_tokens >= PROMPT);
        answer(&t, 0, false, s.left.ids, &want);
        for (int32_t layers = 0; layers <= stored[m].layers; layers++) {
            answer(&t, layers, true, s.left.ids, &got);
            assert_memory_equal(&got, &want, sizeof want);
        }
        refused[LT_OP_ATTENTION] = true;
        answer(&t, 2, true, s.left.ids, &got);
        assert_memory_equal(&got, &want, sizeof want);
        refused[LT_OP_ATTENTION] = false;
        tiny_close(&t);
        tiny_step_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_every_split, accept_all),
        cmocka_unit_test_setup(test_dropout_and_recomputation, accept_all),
        cmocka_unit_test_setup(test_streamed, accept_all),
        cmocka_unit_test_setup(test_all_trained, accept_all),
        cmocka_unit_test_setup(test_tied_and_trained, accept_all),
        cmocka_unit_test_setup(test_refused_ops, accept_all),
        cmocka_unit_test_setup(test_alternating_places, accept_all),
        cmocka_unit_test_setup(test_memory, accept_all),
        cmocka_unit_test_setup(test_refusals, accept_all),
        cmocka_unit_test_setup(test_boundaries_of_a_device, accept_all),
        cmocka_unit_test_setup(test_steps, accept_all),
        cmocka_unit_test_setup(test_evaluation, accept_all),
        cmocka_unit_test_setup(test_generation, accept_all),
    };
    return cmocka_run_group_tests(tests, make_backends, destroy_backends);
}
