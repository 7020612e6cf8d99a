#include "backends/vulkan/vk_gemm.h"

#include "core/base/checked.h"

enum { SPLIT_K = 512, MAX_SPLITS = 16, SKINNY = 64, THREADS = 256 };

/* Flags of gemm.comp. */
enum {
    A_T = 1,
    B_KN = 2,
    ALIGNED = 4,
    SPLIT = 8,
    START = 16,
    BIAS = 32,
    BF16 = 64,
    BF16_RESULT = 128,
    HALVES = 256
};

/* Pushed constants of gemm.comp. */
struct gemm_push {
    uint32_t m, n, k, lda, a_col0, ldb, ldc, c_col0, k_chunk, slab;
    float scale;
    struct lt_vk_weight_push weight;
};

/* m x n elements of C, tm x tn of them (gemm_coopmat: fragments of 16 x 16) for an invocation (a subgroup), steps of k. */
struct tile {
    uint32_t m, n, k, tm, tn;
    enum lt_vk_shader shader;
    uint32_t threads;
};

/* One dispatch's share of a product: stored rows of W from `row` on. */
struct part {
    const struct lt_vk_gemm *g;
    struct lt_vk_ref start;
    int64_t row, rows;
    bool kn;   /* the stored rows of W run along k */
    bool last; /* no part is added to this one */
};

struct lt_device_weight lt_vk_plain_weight(struct lt_vk_ref data, int64_t rows, int64_t cols)
{
    return (struct lt_device_weight){
        .format = LT_WEIGHT_F32, .view = true, .rows = rows, .cols = cols, .data = data};
}

/* ---- weights under the limit of a binding ---- */

static int64_t stored_rows(const struct lt_device_weight *w)
{
    return w->transposed ? w->cols : w->rows;
}

static int64_t stored_cols(const struct lt_device_weight *w)
{
    return w->transposed ? w->rows : w->cols;
}

static uint32_t log2_of(int32_t n)
{
    uint32_t shift = 0;
    while (n > 1 << shift)
        shift++;
    return shift;
}

struct lt_vk_weight_push lt_vk_weight_push(const struct lt_device_weight *w, int64_t row)
{
    return (struct lt_vk_weight_push){.flat0 = (uint32_t)(row * stored_cols(w)),
                                      .block_shift = log2_of(w->blocksize),
                                      .nested_at = w->nested_absmax_at,
                                      .absmax_at = w->absmax_at,
                                      .stored_cols = (uint32_t)stored_cols(w)};
}

struct lt_vk_ref lt_vk_weight_rows(const struct lt_device_weight *w, int64_t row, int64_t rows)
{
    return lt_vk_slice(w->data, lt_weight_data_bytes(w->format, row, stored_cols(w)),
                       lt_weight_data_bytes(w->format, rows, stored_cols(w)));
}

/* Bytes that a binding shows wherever it begins. */
static size_t room_of(const struct lt_vk_recorder *r)
{
    return r->device->info.limits.storage_range - r->device->info.limits.offset_align;
}

int64_t lt_vk_weight_rows_at_once(struct lt_vk_recorder *r, const struct lt_device_weight *w)
{
    size_t room = room_of(r);
    if (w->data.size <= room)
        return stored_rows(w);
    int64_t step = 1; /* parts begin at whole words */
    while (step < 8 && lt_weight_data_bytes(w->format, 2 * step, stored_cols(w)) % 8 != 0)
        step *= 2;
    int64_t rows = (int64_t)(room / lt_weight_data_bytes(w->format, step, stored_cols(w))) * step;
    if (rows == 0)
        lt_vk_refuse(
            r, "a few rows of a weight are larger than the %llu bytes of a buffer that a shader can see",
            (unsigned long long)room);
    return rows;
}

/* ---- products ---- */

static struct tile by_registers(const struct lt_vk_device_info *device, int64_t m, int64_t n, bool f16)
{
    static const struct tile large = {.m = 128, .n = 128, .k = 16, .tm = 8, .tn = 8},
                             medium = {.m = 64, .n = 64, .k = 16, .tm = 4, .tn = 4},
                             flat = {.m = 16, .n = 64, .k = 32, .tm = 1, .tn = 4},
                             narrow = {.m = 64, .n = 16, .k = 32, .tm = 4, .tn = 1};
    const uint32_t large_bytes = 4 * 16 * (129 + 129);
    struct tile t = medium;
    if (n <= 16)
        t = narrow;
    else if (m <= 16)
        t = flat;
    else if (m >= 256 && n >= 256 && device->limits.shared_bytes >= large_bytes)
        t = large;
    t.shader = f16 && device->features.float16 ? LT_VK_SHADER_gemm_f16 : LT_VK_SHADER_gemm;
    t.threads = t.m / t.tm * (t.n / t.tn);
    return t;
}

static struct tile by_coopmat(const struct lt_vk_device_info *device, int64_t m, int64_t n)
{
    static const struct tile large = {.m = 128, .n = 128, .k = 32, .tm = 4, .tn = 2},
                             medium = {.m = 64, .n = 64, .k = 32, .tm = 2, .tn = 2},
                             flat = {.m = 16, .n = 64, .k = 32, .tm = 1, .tn = 1};
    const uint32_t large_bytes = 2 * 40 * (128 + 136) + 1024 * LT_VK_COOPMAT_SUBGROUPS;
    struct tile t = medium;
    if (m <= 16)
        t = flat;
    else if (m >= 256 && n >= 256 && device->limits.shared_bytes >= large_bytes)
        t = large;
    t.shader = LT_VK_SHADER_gemm_coopmat;
    t.threads = t.m / (16 * t.tm) * (t.n / (16 * t.tn)) * LT_VK_COOPMAT_SUBGROUP;
    return t;
}

/* The shader is a matter of n, never of m: cooperative matrices have other bits. */
static struct tile choose_tile(const struct lt_vk_recorder *r, int64_t m, int64_t n, bool f16)
{
    const struct lt_vk_device_info *device = &r->device->info;
    return f16 && device->features.coopmat && n > 16 ? by_coopmat(device, m, n)
                                                     : by_registers(device, m, n, f16);
}

/* Skinny products over a long k have too few tiles for a GPU: k is cut into ranges that are added in order.  The
 * number of ranges never depends on live counts, and without a_transposed not on m, so that a row's bits do not. */
static int64_t splits_of(int64_t m, int64_t n, int64_t k, bool a_transposed)
{
    if (n > SKINNY && !(a_transposed && m <= SKINNY))
        return 1;
    return lt_max_i64(1, lt_min_i64(k / SPLIT_K, MAX_SPLITS));
}

size_t lt_vk_gemm_workspace(int64_t m, int64_t n, int64_t k, bool a_transposed)
{
    int64_t splits = splits_of(m, n, k, a_transposed);
    return splits > 1 ? (size_t)(splits * m * n) * sizeof(float) : 0;
}

static void reduce(struct lt_vk_recorder *r, const struct part *p, int64_t splits, int64_t slab, int64_t n,
                   int64_t c_col0)
{
    const struct lt_vk_gemm *g = p->g;
    const struct {
        uint32_t m, n, ldc, c_col0, slabs, slab, fixed_m;
        float scale;
    } push = {(uint32_t)g->m,   (uint32_t)n,    (uint32_t)g->n,  (uint32_t)c_col0,
              (uint32_t)splits, (uint32_t)slab, g->a_transposed, g->scale};
    struct lt_vk_dispatch d = {
        .key = {.shader = LT_VK_SHADER_gemm_reduce,
                .spec_count = 2,
                .spec = {THREADS, p->start.buffer != NULL}},
        .args = {{g->workspace, LT_VK_READ, 0}, {p->start, LT_VK_READ, 0}, {g->c, LT_VK_WRITE, 0}},
        .push = &push,
        .push_bytes = sizeof push,
        .rows = g->a_transposed ? g->k : g->m,
        .kind = g->kind,
        .row0 = g->row0,
        .groups = {(uint32_t)lt_min_i64(lt_div_up(g->m * n, THREADS), LT_VK_MAX_GROUPS)},
        .work = (double)(splits * g->m * n)};
    lt_vk_dispatch(r, &d);
}

/* ---- f16 ---- */

static int64_t words_of(int64_t k)
{
    return lt_div_up(k, 2);
}

size_t lt_vk_halves_bytes(int64_t m, int64_t k)
{
    return (size_t)(m * (words_of(k) + 1)) * 4;
}

/* Where A's rows lie as f16, and behind them the units of the rows. */
static struct lt_vk_ref halves_of(const struct lt_vk_gemm *g)
{
    return lt_vk_slice(g->workspace, 0, (size_t)(g->m * words_of(g->k)) * 4);
}

static struct lt_vk_ref units_of(const struct lt_vk_gemm *g)
{
    return lt_vk_slice(g->workspace, halves_of(g).size, (size_t)g->m * 4);
}

static void to_halves(struct lt_vk_recorder *r, const struct lt_vk_gemm *g)
{
    const struct {
        uint32_t cols, words;
    } push = {(uint32_t)g->k, (uint32_t)words_of(g->k)};
    struct lt_vk_dispatch d = {.key = {.shader = LT_VK_SHADER_halves, .spec_count = 1, .spec = {THREADS}},
                               .args = {{g->a, LT_VK_READ, (size_t)g->k * sizeof(float)},
                                        {halves_of(g), LT_VK_WRITE, (size_t)push.words * 4},
                                        {units_of(g), LT_VK_WRITE, 4}},
                               .push = &push,
                               .push_bytes = sizeof push,
                               .rows = g->m,
                               .kind = g->kind,
                               .row0 = g->row0,
                               .rows_per_group = 1,
                               .work = 20.0 * (double)g->m * (double)g->k};
    lt_vk_dispatch(r, &d);
}

/* ---- one dispatch ---- */

static uint32_t lda_of(const struct lt_vk_gemm *g)
{
    if (g->compute == LT_F16)
        return (uint32_t)(2 * words_of(g->k));
    return (uint32_t)(g->lda > 0 ? g->lda : g->a_transposed ? g->m : g->k);
}

static bool is_aligned(const struct part *p, const struct gemm_push *push)
{
    return push->ldb % 8 == 0 && push->weight.flat0 % 8 == 0 && (p->kn ? push->n : push->k) % 8 == 0;
}

static void product(struct lt_vk_recorder *r, const struct part *p)
{
    const struct lt_vk_gemm *g = p->g;
    const struct lt_device_weight *w = g->w;
    int64_t n = p->kn ? g->n : p->rows, k = p->kn ? p->rows : g->k;
    int64_t splits = g->compute == LT_F32 ? splits_of(g->m, n, k, g->a_transposed) : 1, slab = g->m * n;
    int64_t k_chunk = lt_div_up(lt_div_up(k, splits), 32) * 32; /* whole tiles of every size */
    struct gemm_push push = {.m = (uint32_t)g->m,
                             .n = (uint32_t)n,
                             .k = (uint32_t)k,
                             .lda = lda_of(g),
                             .a_col0 = (uint32_t)(g->a_transposed ? g->a_col0
                                                  : p->kn         ? p->row
                                                                  : 0),
                             .ldb = (uint32_t)stored_cols(w),
                             .ldc = (uint32_t)g->n,
                             .c_col0 = p->kn ? 0 : (uint32_t)p->row,
                             .k_chunk = (uint32_t)k_chunk,
                             .slab = (uint32_t)slab,
                             .scale = g->scale,
                             .weight = lt_vk_weight_push(w, p->row)};
    bool split = splits > 1, start = p->start.buffer && !split;
    bool bf16 = g->compute == LT_BF16, f16 = g->compute == LT_F16;
    struct tile t = choose_tile(r, g->m, n, f16);
    uint32_t flags = (g->a_transposed ? A_T : 0u) | (p->kn ? B_KN : 0u) |
                     (is_aligned(p, &push) ? ALIGNED : 0u) | (split ? SPLIT : 0u) | (start ? START : 0u) |
                     (g->bias.buffer ? BIAS : 0u) | (bf16 ? BF16 : 0u) |
                     (bf16 && p->last ? BF16_RESULT : 0u) | (f16 ? HALVES : 0u);
    size_t a_row = (size_t)push.lda * (f16 ? sizeof(uint16_t) : sizeof(float)),
           c_row = (size_t)g->n * sizeof(float);
    bool by_rows = !g->a_transposed && !split; /* rows may be cut where a buffer is larger than a binding */
    struct lt_vk_dispatch d = {
        .key = {.shader = t.shader,
                .spec_count = 9,
                .spec = {t.threads, t.m, t.n, t.k, t.tm, t.tn, (uint32_t)w->format, w->nested, flags}},
        .args = {{f16 ? halves_of(g) : g->a, LT_VK_READ, by_rows ? a_row : 0},
                 {lt_vk_weight_rows(w, p->row, p->rows), LT_VK_READ, 0},
                 {w->meta, LT_VK_READ, 0},
                 {g->bias, LT_VK_READ, 0},
                 {start ? p->start : (struct lt_vk_ref){0}, LT_VK_READ, by_rows ? c_row : 0},
                 {split ? g->workspace : g->c, LT_VK_WRITE, by_rows ? c_row : 0},
                 {f16 ? units_of(g) : (struct lt_vk_ref){0}, LT_VK_READ, 4}},
        .push = &push,
        .push_bytes = sizeof push,
        .rows = g->a_transposed ? k : g->m,
        .kind = g->kind,
        .row0 = g->row0,
        .rows_per_group = g->a_transposed ? 0 : t.m,
        .groups = {(uint32_t)lt_div_up(g->m, t.m), (uint32_t)lt_div_up(n, t.n), (uint32_t)splits},
        .work = 2.0 * (double)g->m * (double)n * (double)k};
    if (lt_div_up(g->m, t.m) > LT_VK_MAX_GROUPS) {
        lt_vk_refuse(r, "a product of %lld rows is too large", (long long)g->m);
        return;
    }
    lt_vk_dispatch(r, &d);
    if (split)
        reduce(r, p, splits, slab, n, push.c_col0);
}

/* The rows of aᵀ, and of C with them, from m0 on. */
static struct lt_vk_gemm columns_of_a(const struct lt_vk_gemm *g, int64_t m0, int64_t m)
{
    struct lt_vk_gemm one = *g;
    size_t at = (size_t)(m0 * g->n) * sizeof(float), bytes = (size_t)(m * g->n) * sizeof(float);
    one.m = m;
    one.lda = g->m;
    one.a_col0 = m0;
    one.c = lt_vk_slice(g->c, at, bytes);
    if (g->start.buffer)
        one.start = lt_vk_slice(g->start, at, bytes);
    return one;
}

static void by_stored_rows(struct lt_vk_recorder *r, const struct lt_vk_gemm *g)
{
    const struct lt_device_weight *w = g->w;
    struct part p = {.g = g, .start = g->start, .kn = g->by_rows != w->transposed};
    int64_t step = lt_vk_weight_rows_at_once(r, w), rows = stored_rows(w), lda = g->lda > 0 ? g->lda : g->m;
    if (g->a_transposed)
        step = lt_min_i64(step, (int64_t)(room_of(r) / ((size_t)lda * sizeof(float))));
    for (p.row = 0; step > 0 && p.row < rows; p.row += step) {
        struct lt_vk_gemm one = *g;
        p.rows = lt_min_i64(step, rows - p.row);
        p.last = !p.kn || p.row + p.rows == rows;
        if (p.kn && p.row > 0) { /* ranges of k add up */
            p.start = g->c;
            one.bias = (struct lt_vk_ref){0};
        }
        if (g->a_transposed) {
            one.a = lt_vk_slice(g->a, (size_t)(p.row * lda) * sizeof(float),
                                (size_t)(p.rows * lda) * sizeof(float));
            one.row0 = g->row0 + p.row;
            one.k = p.rows;
        }
        p.g = &one;
        product(r, &p);
    }
}

void lt_vk_gemm(struct lt_vk_recorder *r, const struct lt_vk_gemm *g)
{
    size_t row = (size_t)g->n * sizeof(float);
    if (g->compute == LT_F16)
        to_halves(r, g);
    if (!g->a_transposed || (size_t)g->m * row <= room_of(r)) {
        by_stored_rows(r, g);
        return;
    }
    int64_t step = (int64_t)(room_of(r) / row); /* the gradient of a large matrix, cut by its rows */
    if (step == 0)
        lt_vk_refuse(r, "a row of a gradient is larger than the buffer that a shader can see");
    for (int64_t m0 = 0; step > 0 && m0 < g->m; m0 += step) {
        struct lt_vk_gemm one = columns_of_a(g, m0, lt_min_i64(step, g->m - m0));
        by_stored_rows(r, &one);
    }
}
