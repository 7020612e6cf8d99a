#include "tests/support/device_op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/registry.h"
#include "core/base/checked.h"
#include "core/graph/program.h"
#include "tests/support/random_weight.h"

enum { GUARD = 256, SKEW = 4, SPARE_ROWS = 3 };

struct place {
    const struct device_array *array;
    struct lt_buffer *buffer;
    struct lt_device_weight *weight;
    size_t bytes, room; /* live; with the spare rows */
    bool owned;
};

static struct lt_backend *device;

static void close_device(void)
{
    lt_backend_destroy(device);
}

static void must(enum lt_status status, const struct lt_error *err)
{
    if (status != LT_OK)
        fail_msg("%s", err->message);
}

struct lt_backend *device_open(void)
{
    const char *name = getenv("LT_TEST_DEVICE");
    struct lt_error err;
    if (device || !name)
        return device;
    const struct lt_backend_request request = {.device = name};
    enum lt_status status = lt_backend_create(&device, &request, &err);
    if (status == LT_ERR_NOT_FOUND) {
        print_message("SKIP: %s\n", err.message);
        skip();
    }
    must(status, &err);
    atexit(close_device);
    return device;
}

static size_t element_bytes(const struct device_array *a)
{
    return lt_dtype_bits(a->dtype) / 8;
}

static void upload(struct lt_backend *be, struct place *p)
{
    struct lt_error err;
    const struct device_array *a = p->array;
    size_t spare = a->fixed ? 0 : SPARE_ROWS * (size_t)a->cols * element_bytes(a);
    p->bytes = (size_t)(a->rows * a->cols) * element_bytes(a);
    p->room = p->bytes + spare;
    size_t total = GUARD + SKEW + p->room + GUARD;
    unsigned char *image = lt_must_alloc(total, 1);
    memset(image, 0xa5, total);
    memcpy(image + GUARD + SKEW, a->data, p->bytes);
    must(be->ops->buffer_create(be, total, &p->buffer, &err), &err);
    must(be->ops->buffer_write(be, p->buffer, 0, image, total, &err), &err);
    p->owned = true;
    free(image);
}

static void download(struct lt_backend *be, const struct place *p, const char *op, int number, bool written)
{
    struct lt_error err;
    size_t total = GUARD + SKEW + p->room + GUARD;
    unsigned char *image = lt_must_alloc(total, 1);
    must(be->ops->buffer_read(be, p->buffer, 0, image, total, &err), &err);
    for (size_t i = 0; i < total; i++)
        if ((i < GUARD + SKEW || i >= GUARD + SKEW + p->bytes) && image[i] != 0xa5)
            fail_msg("%s wrote outside its array number %d of %zu bytes: byte %lld", op, number, p->bytes,
                     (long long)i - GUARD - SKEW);
    if (!written && memcmp(image + GUARD + SKEW, p->array->data, p->bytes) != 0)
        fail_msg("%s changed its input number %d", op, number);
    memcpy(p->array->data, image + GUARD + SKEW, p->bytes);
    free(image);
}

static int value(struct lt_graph *g, const struct device_array *a)
{
    int id = a->fixed ? lt_graph_value_rows(g, LT_ROWS_FIXED, a->rows, a->cols, a->dtype)
                      : lt_graph_value_rows(g, LT_ROWS_TOKENS, 0, a->cols, a->dtype);
    assert_true(id >= 0);
    g->values[id].storage = LT_STORE_EXTERN;
    g->values[id].ext_kind = LT_EXT_OPTIM;
    g->values[id].ext_index = id;
    return id;
}

/* The operand before number n that is the same array. */
static int same_place(const struct place *places, int n)
{
    for (int i = 0; i < n; i++)
        if (places[i].array && places[i].array->data && places[i].array->data == places[n].array->data)
            return i;
    return -1;
}

void device_run(const struct device_op *op)
{
    struct lt_backend *be = device_open();
    struct place places[LT_MAX_IN + LT_MAX_OUT] = {{0}};
    struct lt_binding bindings[LT_MAX_IN + LT_MAX_OUT] = {{0}};
    struct lt_graph g;
    struct lt_program p;
    struct lt_compiled *code;
    struct lt_buffer *workspace = NULL;
    struct lt_error err;
    if (op->in[0].cols == 0)
        return;
    const struct lt_capacity cap = {op->params.n_tokens + SPARE_ROWS, 1, 1};
    lt_graph_init(&g);
    struct lt_node *node = lt_graph_node(&g, op->op);
    struct lt_node n = *node;
    n.attr = op->attr;
    for (int i = 0; i < LT_MAX_IN + LT_MAX_OUT; i++) {
        const struct device_array *a = i < LT_MAX_IN ? &op->in[i] : &op->out[i - LT_MAX_IN];
        if (!a->data && !a->weight)
            continue;
        places[i].array = a;
        int id = value(&g, a), same = a->weight ? -1 : same_place(places, i);
        *(i < LT_MAX_IN ? &n.in[i] : &n.out[i - LT_MAX_IN]) = id;
        if (a->weight) {
            must(be->ops->weight_create(be, a->weight, &places[i].weight, &err), &err);
            bindings[id].weight = places[i].weight;
            continue;
        }
        if (same >= 0) {
            places[i].buffer = places[same].buffer;
            places[i].bytes = places[same].bytes;
            places[i].room = places[same].room;
        } else {
            upload(be, &places[i]);
        }
        bindings[id] = (struct lt_binding){.buffer = places[i].buffer, .offset = GUARD + SKEW};
    }
    g.nodes[0] = n;
    must(lt_program_plan(&p, &g, &cap, &err), &err);
    assert_true(be->ops->supports(be, &p, &p.graph.nodes[0]));
    must(be->ops->compile(be, &p, &code, &err), &err);
    if (be->ops->workspace_bytes(be, code) > 0)
        must(be->ops->buffer_create(be, be->ops->workspace_bytes(be, code), &workspace, &err), &err);
    const struct lt_run run = {.bindings = bindings, .workspace = workspace, .params = op->params};
    must(be->ops->run(be, code, &run, &err), &err);
    for (int i = LT_MAX_IN + LT_MAX_OUT - 1; i >= 0; i--)
        if (places[i].buffer)
            download(be, &places[i], lt_op_info[op->op].name, i, i >= LT_MAX_IN);
    be->ops->compiled_destroy(be, code);
    be->ops->buffer_destroy(be, workspace);
    for (int i = 0; i < LT_MAX_IN + LT_MAX_OUT; i++) {
        be->ops->weight_destroy(be, places[i].weight);
        if (places[i].owned)
            be->ops->buffer_destroy(be, places[i].buffer);
    }
    lt_program_deinit(&p);
    lt_graph_deinit(&g);
}
