#include "core/graph/program.h"

#include <assert.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/checked.h"

int64_t lt_value_capacity_rows(const struct lt_value *v, const struct lt_capacity *cap)
{
    switch (v->rows) {
    case LT_ROWS_TOKENS:
        return cap->tokens;
    case LT_ROWS_LABELS:
        return cap->labels;
    case LT_ROWS_CACHE:
        return cap->cache_rows;
    case LT_ROWS_FIXED:
        break;
    }
    return v->fixed_rows;
}

size_t lt_value_bytes(const struct lt_value *v, const struct lt_capacity *cap)
{
    size_t bytes = (size_t)lt_value_capacity_rows(v, cap) * (size_t)v->cols * (lt_dtype_bits(v->dtype) / 8);
    return lt_align_up(bytes, LT_VALUE_ALIGN);
}

enum lt_status lt_tape_layout(struct lt_graph *fwd, struct lt_graph *bwd, const struct lt_capacity *cap,
                              size_t *bytes, struct lt_error *err)
{
    LT_TRY(lt_graph_status(fwd, err));
    size_t offset = 0;
    for (size_t i = 0; i < fwd->value_count; i++)
        if (fwd->values[i].storage == LT_STORE_TAPE) {
            fwd->values[i].offset = offset;
            offset += lt_value_bytes(&fwd->values[i], cap);
        }
    for (size_t i = 0; bwd && i < bwd->value_count; i++)
        if (bwd->values[i].storage == LT_STORE_TAPE)
            bwd->values[i].offset = fwd->values[bwd->values[i].ext_index].offset;
    *bytes = offset;
    return LT_OK;
}

/* Values that share memory, joined by in-place ops.  Indexed by value number; `parent` is a union-find. */
struct lifetime {
    int parent;
    int first, last; /* node numbers; last = INT_MAX-like `forever` for what outlives the program */
    size_t bytes;
    size_t offset;
    bool placed;
};

static int find(struct lifetime *lt, int v)
{
    while (lt[v].parent != v)
        v = lt[v].parent = lt[lt[v].parent].parent;
    return v;
}

static void collect_lifetimes(struct lifetime *lt, const struct lt_graph *g, const struct lt_capacity *cap,
                              int forever)
{
    for (size_t i = 0; i < g->value_count; i++)
        lt[i] = (struct lifetime){
            .parent = (int)i, .first = -1, .last = -1, .bytes = lt_value_bytes(&g->values[i], cap)};
    for (size_t i = 0; i < g->node_count; i++) {
        const struct lt_node *n = &g->nodes[i];
        for (int k = 0; k < LT_MAX_IN; k++)
            if (n->in[k] >= 0 && lt[n->in[k]].last < (int)i)
                lt[n->in[k]].last = (int)i;
        for (int k = 0; k < LT_MAX_OUT; k++) {
            if (n->out[k] < 0)
                continue;
            struct lifetime *l = &lt[n->out[k]];
            if (l->first < 0)
                l->first = (int)i;
            /* What this program puts on the tape is read by another one. */
            if (l->last < (int)i)
                l->last = (int)i;
            if (g->values[n->out[k]].storage == LT_STORE_TAPE)
                l->last = forever;
        }
    }
    for (size_t i = 0; i < g->value_count; i++)
        if (g->values[i].storage == LT_STORE_EXTERN)
            lt[i].last = forever;
}

/* May the output of node n take over the memory of its input? */
static bool can_merge(const struct lifetime *lt, const struct lt_graph *g, int in, int out, int node)
{
    const struct lt_value *a = &g->values[in], *b = &g->values[out];
    if (a->dtype != b->dtype || a->rows != b->rows || a->fixed_rows != b->fixed_rows || a->cols != b->cols)
        return false;
    return lt[in].last == node && (a->storage == LT_STORE_ARENA || b->storage == LT_STORE_ARENA);
}

static void merge_pair(struct lifetime *lt, struct lt_graph *g, int in, int out, int node)
{
    int a = find(lt, in), b = find(lt, out);
    if (a == b || lt[a].last != node || !can_merge(lt, g, in, out, node))
        return;
    /* The class is stored where its extern or tape member lies. */
    if (g->values[a].storage != LT_STORE_ARENA && g->values[b].storage != LT_STORE_ARENA)
        return;
    int root = g->values[b].storage != LT_STORE_ARENA ? b : a;
    int other = root == a ? b : a;
    lt[other].parent = root;
    if (lt[other].last > lt[root].last)
        lt[root].last = lt[other].last;
    if (lt[root].first < 0 || (lt[other].first >= 0 && lt[other].first < lt[root].first))
        lt[root].first = lt[other].first;
}

static void merge_in_place(struct lifetime *lt, struct lt_graph *g)
{
    for (size_t i = 0; i < g->node_count; i++) {
        const struct lt_node *n = &g->nodes[i];
        const struct lt_op_info *info = &lt_op_info[n->op];
        if (info->inplace_in >= 0 && n->in[info->inplace_in] >= 0 && n->out[info->inplace_out] >= 0)
            merge_pair(lt, g, n->in[info->inplace_in], n->out[info->inplace_out], (int)i);
        if (n->op == LT_OP_GLU_BWD)
            merge_pair(lt, g, n->in[2], n->out[1], (int)i);
    }
}

/* Lowest offset at which `bytes` fit beside every placed class alive at the same time. */
static size_t lowest_gap(const struct lifetime *lt, const int *order, size_t placed,
                         const struct lifetime *want)
{
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = 0; i < placed; i++) {
            const struct lifetime *o = &lt[order[i]];
            bool together = o->first <= want->last && want->first <= o->last;
            if (together && offset < o->offset + o->bytes && o->offset < offset + want->bytes) {
                offset = o->offset + o->bytes;
                moved = true;
            }
        }
    }
    return offset;
}

static size_t place(struct lifetime *lt, struct lt_graph *g, int *order)
{
    size_t count = 0, arena = 0;
    for (size_t i = 0; i < g->value_count; i++)
        if (lt[i].parent == (int)i && g->values[i].storage == LT_STORE_ARENA && lt[i].first >= 0)
            order[count++] = (int)i;
    for (size_t i = 1; i < count; i++) { /* insertion sort: largest first, ties by number */
        int v = order[i];
        size_t j = i;
        for (; j > 0 && lt[order[j - 1]].bytes < lt[v].bytes; j--)
            order[j] = order[j - 1];
        order[j] = v;
    }
    for (size_t i = 0; i < count; i++) {
        struct lifetime *l = &lt[order[i]];
        l->offset = lowest_gap(lt, order, i, l);
        if (l->offset + l->bytes > arena)
            arena = l->offset + l->bytes;
    }
    return arena;
}

/* Every member of a class takes over the place of its root. */
static void resolve(struct lifetime *lt, struct lt_graph *g)
{
    for (size_t i = 0; i < g->value_count; i++) {
        int root = find(lt, (int)i);
        struct lt_value *v = &g->values[i];
        const struct lt_value *r = &g->values[root];
        if (v->storage != LT_STORE_ARENA)
            continue;
        if (r->storage == LT_STORE_ARENA) {
            v->offset = lt[root].offset;
            continue;
        }
        v->storage = r->storage;
        v->offset = r->offset;
        v->ext_kind = r->ext_kind;
        v->ext_index = r->ext_index;
        v->ext_offset = r->ext_offset;
    }
}

enum lt_status lt_program_plan(struct lt_program *p, struct lt_graph *g, const struct lt_capacity *cap,
                               struct lt_error *err)
{
    memset(p, 0, sizeof *p);
    LT_TRY(lt_graph_status(g, err));
    struct lifetime *lt = lt_alloc_array(g->value_count, sizeof *lt);
    int *order = lt_alloc_array(g->value_count, sizeof *order);
    enum lt_status status = LT_OK;
    if (lt && order) {
        collect_lifetimes(lt, g, cap, (int)g->node_count + 1);
        merge_in_place(lt, g);
        p->arena_bytes = place(lt, g, order);
        resolve(lt, g);
        p->capacity = *cap;
        p->graph = *g;
        lt_graph_init(g);
    } else {
        status =
            lt_fail(err, LT_ERR_NOMEM, "out of memory while planning a program of %zu ops", g->node_count);
    }
    lt_free(lt);
    lt_free(order);
    return status;
}

void lt_program_deinit(struct lt_program *p)
{
    lt_graph_deinit(&p->graph);
    memset(p, 0, sizeof *p);
}
