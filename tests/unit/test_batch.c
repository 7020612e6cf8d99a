/* Micro-batches: layout, order, packing, pre-tokenized files. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/data/batch.h"
#include "core/io/safetensors.h"
#include "tests/support/fixtures.h"

/* ---- helpers ---- */

static struct lt_mt19937 random_state;

static int32_t random_below(int32_t n)
{
    return (int32_t)(lt_mt19937_next(&random_state) % (uint32_t)n);
}

/* Examples with the given lengths (2 or more); ids tell example and position apart, labels are random. */
static void make_dataset(struct lt_dataset *ds, const int32_t *lengths, size_t n)
{
    *ds = (struct lt_dataset){
        .examples = lt_alloc_zero(n, sizeof *ds->examples), .count = n, .rows = (int64_t)n};
    assert_non_null(ds->examples);
    for (size_t i = 0; i < n; i++) {
        struct lt_example *ex = &ds->examples[i];
        ex->length = lengths[i];
        ex->ids = lt_alloc_array((size_t)lengths[i], 2 * sizeof *ex->ids);
        assert_non_null(ex->ids);
        ex->labels = ex->ids + lengths[i];
        for (int32_t k = 0; k < lengths[i]; k++) {
            ex->ids[k] = (int32_t)i * 1000 + k;
            ex->labels[k] = k == 1 || random_below(2) == 0 ? ex->ids[k] : LT_LABEL_IGNORE;
            ex->targets += k > 0 && ex->labels[k] != LT_LABEL_IGNORE;
        }
        ds->tokens += ex->length;
        ds->targets += ex->targets;
    }
}

static void make_random_dataset(struct lt_dataset *ds, size_t n, int32_t longest)
{
    int32_t *lengths = lt_alloc_array(n, sizeof *lengths);
    assert_non_null(lengths);
    for (size_t i = 0; i < n; i++)
        lengths[i] = 2 + random_below(longest - 1);
    make_dataset(ds, lengths, n);
    lt_free(lengths);
}

static struct lt_batches *open_dataset(const struct lt_dataset *ds, const struct lt_batches_options *opt)
{
    struct lt_batches *bs;
    struct lt_error err = {0};
    if (lt_batches_from_dataset(&bs, ds, opt, &err) != LT_OK)
        fail_msg("%s", err.message);
    return bs;
}

/* A batch of exactly the capacity of the first epochs. */
static void init_for(struct lt_batch *b, struct lt_batches *bs, int64_t epochs)
{
    int32_t tokens, labels;
    assert_int_equal(lt_batches_capacity(bs, epochs, &tokens, &labels, NULL), LT_OK);
    assert_int_equal(lt_batch_init(b, tokens, labels, NULL), LT_OK);
}

static void get(struct lt_batches *bs, int64_t epoch, int64_t index, struct lt_batch *b)
{
    struct lt_error err = {0};
    if (lt_batches_get(bs, epoch, index, b, &err) != LT_OK)
        fail_msg("%s", err.message);
}

static void assert_i32(const int32_t *actual, size_t n, ...)
{
    va_list args;
    va_start(args, n);
    for (size_t i = 0; i < n; i++) {
        int32_t expected = va_arg(args, int32_t);
        if (actual[i] != expected)
            fail_msg("element %zu is %d, not %d", i, (int)actual[i], (int)expected);
    }
    va_end(args);
}

static bool equal_batches(const struct lt_batch *a, const struct lt_batch *b)
{
    size_t n = (size_t)a->n_tokens, m = (size_t)a->n_labels;
    return a->n_tokens == b->n_tokens && a->n_labels == b->n_labels && a->n_examples == b->n_examples &&
           memcmp(a->ids, b->ids, n * sizeof *a->ids) == 0 &&
           memcmp(a->positions, b->positions, n * sizeof *a->positions) == 0 &&
           memcmp(a->kv_begin, b->kv_begin, n * sizeof *a->kv_begin) == 0 &&
           memcmp(a->kv_end, b->kv_end, n * sizeof *a->kv_end) == 0 &&
           memcmp(a->row_key, b->row_key, n * sizeof *a->row_key) == 0 &&
           memcmp(a->source, b->source, n * sizeof *a->source) == 0 &&
           memcmp(a->label_rows, b->label_rows, m * sizeof *a->label_rows) == 0 &&
           memcmp(a->labels, b->labels, m * sizeof *a->labels) == 0;
}

/* ---- datasets ---- */

static void flat_layout(void **state)
{
    (void)state;
    int32_t lengths[] = {3, 2, 4};
    const struct lt_batches_options opt = {.batch_size = 2, .accumulation = 1};
    struct lt_dataset ds;
    struct lt_batch b;

    make_dataset(&ds, lengths, 3);
    memcpy(ds.examples[0].labels, (int32_t[]){0, -100, 2}, 12);
    memcpy(ds.examples[1].labels, (int32_t[]){1000, 1001}, 8);
    ds.examples[0].targets = 1;
    struct lt_batches *bs = open_dataset(&ds, &opt);
    init_for(&b, bs, 1);
    get(bs, 0, 0, &b);
    assert_int_equal(b.n_tokens, 5);
    assert_i32(b.ids, 5, 0, 1, 2, 1000, 1001);
    assert_i32(b.positions, 5, 0, 1, 2, 0, 1);
    assert_i32(b.kv_begin, 5, 0, 0, 0, 3, 3);
    assert_i32(b.kv_end, 5, 1, 2, 3, 4, 5);
    assert_int_equal(b.n_labels, 2); /* never the first token of a sequence */
    assert_i32(b.label_rows, 2, 1, 3);
    assert_i32(b.labels, 2, 2, 1001);
    assert_int_equal(b.n_examples, 2);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(b.source[i], i >= 3);
        assert_int_equal(b.row_key[i], i < 3 ? (uint32_t)i : 0x9E3779B1u + (uint32_t)i - 3);
    }
    get(bs, 0, 1, &b);
    assert_int_equal(b.n_examples, 1);
    assert_i32(b.ids, 4, 2000, 2001, 2002, 2003);
    assert_int_equal(b.row_key[3], (uint32_t)(2 * 0x9E3779B1ull + 3));
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
    lt_dataset_deinit(&ds);
}

static void counts(void **state)
{
    (void)state;
    static const struct {
        int32_t rows, batch, accumulation;
        bool drop_last;
        int64_t batches, steps;
    } cases[] = {{10, 3, 1, false, 4, 4}, {10, 3, 3, false, 4, 2}, {10, 3, 8, false, 4, 1},
                 {10, 3, 2, true, 3, 2},  {9, 3, 1, true, 3, 3},   {1, 100, 1, false, 1, 1},
                 {9, 9, 1, true, 1, 1}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct lt_batches_options opt = {.batch_size = cases[i].batch,
                                               .accumulation = cases[i].accumulation,
                                               .drop_last = cases[i].drop_last};
        struct lt_dataset ds;
        int64_t tokens, targets, rows, columns;
        make_random_dataset(&ds, (size_t)cases[i].rows, 9);
        struct lt_batches *bs = open_dataset(&ds, &opt);
        assert_int_equal(lt_batches_per_epoch(bs), cases[i].batches);
        assert_int_equal(lt_batches_steps_per_epoch(bs), cases[i].steps);
        assert_int_equal(lt_batches_rows(bs), cases[i].rows);
        lt_batches_totals(bs, &tokens, &targets);
        assert_int_equal(tokens, ds.tokens);
        assert_int_equal(targets, ds.targets);
        lt_batches_shape(bs, &rows, &columns);
        assert_int_equal(rows, 0);
        assert_int_equal(columns, 0);
        lt_batches_destroy(bs);
        lt_dataset_deinit(&ds);
    }
}

static void shuffled_order(void **state)
{
    (void)state;
    enum { N = 23 };
    const struct lt_batches_options opt = {.batch_size = 4, .accumulation = 2, .seed = 41, .shuffle = true};
    struct lt_dataset ds;
    struct lt_batch b;

    make_random_dataset(&ds, N, 6);
    struct lt_batches *bs = open_dataset(&ds, &opt);
    init_for(&b, bs, 3);
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        struct lt_mt19937 mt;
        int64_t perm[N], place = 0;
        lt_mt19937_seed(&mt, 41 + (uint64_t)epoch);
        lt_mt19937_randperm(&mt, perm, N);
        for (int64_t index = 0; index < 6; index++) {
            get(bs, epoch, index, &b);
            for (int32_t i = 0; i < b.n_tokens; i++)
                if (b.positions[i] == 0)
                    assert_int_equal(b.source[i], perm[place++]);
        }
        assert_int_equal(place, N);
    }
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
    lt_dataset_deinit(&ds);
}

/* Any order of calls, another object after a restart: the same bytes. */
static void pure_and_resumable(void **state)
{
    (void)state;
    enum { EPOCHS = 3 };
    for (int packing = 0; packing < 2; packing++) {
        const struct lt_batches_options opt = {.batch_size = 3,
                                               .accumulation = 1,
                                               .seed = 5,
                                               .shuffle = true,
                                               .packing = packing == 1,
                                               .max_length = 12};
        struct lt_dataset ds;
        struct lt_batch a, b;
        int32_t targets;
        make_random_dataset(&ds, 29, 12);
        struct lt_batches *bs = open_dataset(&ds, &opt);
        init_for(&a, bs, EPOCHS);
        init_for(&b, bs, EPOCHS);
        int64_t per_epoch = lt_batches_per_epoch(bs);
        for (int64_t at = EPOCHS * per_epoch - 1; at >= 0; at--) {
            struct lt_batches *resumed = open_dataset(&ds, &opt);
            get(resumed, at / per_epoch, at % per_epoch, &a);
            get(bs, at / per_epoch, at % per_epoch, &b);
            assert_true(equal_batches(&a, &b));
            get(bs, (at / per_epoch + 1) % EPOCHS, 0, &b);
            assert_int_equal(lt_batches_targets(bs, at / per_epoch, at % per_epoch, &targets, NULL), LT_OK);
            assert_int_equal(targets, a.n_labels);
            lt_batches_destroy(resumed);
        }
        lt_batch_deinit(&a);
        lt_batch_deinit(&b);
        lt_batches_destroy(bs);
        lt_dataset_deinit(&ds);
    }
}

/* Capacities are reached, never passed, and a smaller batch is refused. */
static void exact_capacity(void **state)
{
    (void)state;
    enum { EPOCHS = 4 };
    const struct lt_batches_options opt = {.batch_size = 4, .accumulation = 1, .seed = 9, .shuffle = true};
    struct lt_dataset ds;
    struct lt_batch b, small;
    int32_t most_tokens = 0, most_labels = 0;
    struct lt_error err = {0};

    make_random_dataset(&ds, 31, 40);
    struct lt_batches *bs = open_dataset(&ds, &opt);
    init_for(&b, bs, EPOCHS);
    assert_int_equal(lt_batch_init(&small, b.cap_tokens - 1, b.cap_labels, NULL), LT_OK);
    for (int64_t at = 0; at < EPOCHS * lt_batches_per_epoch(bs); at++) {
        get(bs, at / lt_batches_per_epoch(bs), at % lt_batches_per_epoch(bs), &b);
        most_tokens = b.n_tokens > most_tokens ? b.n_tokens : most_tokens;
        most_labels = b.n_labels > most_labels ? b.n_labels : most_labels;
        enum lt_status expected = b.n_tokens == b.cap_tokens ? LT_ERR_INVALID : LT_OK;
        assert_int_equal(
            lt_batches_get(bs, at / lt_batches_per_epoch(bs), at % lt_batches_per_epoch(bs), &small, &err),
            expected);
    }
    assert_int_equal(most_tokens, b.cap_tokens);
    assert_int_equal(most_labels, b.cap_labels);
    assert_non_null(strstr(err.message, "planned"));
    assert_int_equal(lt_batches_get(bs, -1, 0, &b, &err), LT_ERR_INVALID);
    assert_int_equal(lt_batches_get(bs, 0, -1, &b, &err), LT_ERR_INVALID);
    assert_int_equal(lt_batches_get(bs, 0, lt_batches_per_epoch(bs), &b, &err), LT_ERR_INVALID);
    assert_int_equal(b.n_tokens, 0);
    lt_batch_deinit(&b);
    lt_batch_deinit(&small);
    lt_batches_destroy(bs);
    lt_dataset_deinit(&ds);
}

static void refused_options(void **state)
{
    (void)state;
    const struct lt_batches_options bad[] = {
        {.batch_size = 0, .accumulation = 1},
        {.batch_size = 1, .accumulation = 0},
        {.batch_size = 6, .accumulation = 1, .drop_last = true},
        {.batch_size = 1, .accumulation = 1, .packing = true, .max_length = 5},
        {.batch_size = 1, .accumulation = 1, .packing = true, .max_length = 0},
    };
    struct lt_dataset ds;
    int32_t lengths[] = {2, 3, 6, 2, 2};
    make_dataset(&ds, lengths, 5);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct lt_batches *bs;
        struct lt_error err = {0};
        assert_int_equal(lt_batches_from_dataset(&bs, &ds, &bad[i], &err), LT_ERR_INVALID);
        assert_null(bs);
        assert_true(err.message[0] != '\0');
    }
    lt_dataset_deinit(&ds);
}

/* ---- packing ---- */

static void packing_by_hand(void **state)
{
    (void)state;
    int32_t bin[8];
    size_t bins;

    /* The example of TRL: [4 (truncated)], [3, 1], [2]. */
    assert_int_equal(lt_pack_bfd((int32_t[]){5, 2, 3, 1}, 4, 4, bin, &bins, NULL), LT_OK);
    assert_int_equal(bins, 3);
    assert_i32(bin, 4, 0, 2, 1, 1);
    /* Bins of equal space: first in, first out.  7 7 7 leave 3 3 3; then 3 2 1. */
    assert_int_equal(lt_pack_bfd((int32_t[]){1, 7, 7, 2, 7, 3}, 6, 10, bin, &bins, NULL), LT_OK);
    assert_int_equal(bins, 3);
    assert_i32(bin, 6, 1, 0, 1, 1, 2, 0);
    /* Best fit before first fit: 6 leaves 4, 7 leaves 3; the 3 goes to the 7. */
    assert_int_equal(lt_pack_bfd((int32_t[]){6, 7, 3, 0}, 4, 10, bin, &bins, NULL), LT_OK);
    assert_i32(bin, 4, 1, 0, 0, -1);
    assert_int_equal(bins, 2);
    assert_int_equal(lt_pack_bfd(NULL, 0, 10, bin, &bins, NULL), LT_OK);
    assert_int_equal(bins, 0);
    assert_int_equal(lt_pack_bfd((int32_t[]){1, -1}, 2, 10, bin, &bins, NULL), LT_ERR_INVALID);
    assert_int_equal(lt_pack_bfd((int32_t[]){1}, 1, 0, bin, &bins, NULL), LT_ERR_INVALID);
}

/* TRL's algorithm in its own terms: a queue of bins for each free space. */
static size_t naive_bfd(const int32_t *lengths, size_t n, int32_t max_length, int32_t *bin)
{
    int32_t *space = calloc(n, sizeof *space);
    size_t *touched = calloc(n, sizeof *touched), bins = 0, clock = 0;
    bool *done = calloc(n, sizeof *done);
    assert_true(space != NULL && touched != NULL && done != NULL);

    for (size_t step = 0; step < n; step++) {
        size_t row = n, best = bins;
        for (size_t i = 0; i < n; i++)
            if (!done[i] && (row == n || lengths[i] > lengths[row]))
                row = i;
        done[row] = true;
        for (size_t k = 0; k < bins; k++)
            if (space[k] >= lengths[row] && (best == bins || space[k] < space[best] ||
                                             (space[k] == space[best] && touched[k] < touched[best])))
                best = k;
        if (best == bins)
            space[bins++] = max_length;
        space[best] -= lengths[row];
        touched[best] = ++clock;
        bin[row] = (int32_t)best;
    }
    free(space);
    free(touched);
    free(done);
    return bins;
}

static void packing_like_the_definition(void **state)
{
    (void)state;
    enum { MOST = 300 };
    int32_t lengths[MOST], bin[MOST], expected[MOST];

    for (int round = 0; round < 60; round++) {
        size_t n = 1 + (size_t)random_below(MOST), bins;
        int32_t max_length = 2 + random_below(60);
        for (size_t i = 0; i < n; i++)
            lengths[i] = 1 + random_below(max_length);
        assert_int_equal(lt_pack_bfd(lengths, n, max_length, bin, &bins, NULL), LT_OK);
        assert_int_equal(bins, naive_bfd(lengths, n, max_length, expected));
        assert_memory_equal(bin, expected, n * sizeof *bin);
    }
}

/* Over two groups of 1000 rows: bins stay inside their group, their rows are in order, and all tokens,
 * keys and targets of the unpacked rows are there exactly once. */
static void packed_equals_unpacked(void **state)
{
    (void)state;
    enum { N = 1500, MAX = 64 };
    const struct lt_batches_options opt = {
        .batch_size = 1, .accumulation = 1, .packing = true, .max_length = MAX};
    struct lt_dataset ds;
    struct lt_batch b;
    int32_t lengths[N], bin[N], row_bin[N];
    size_t first_bins, second_bins;
    int64_t tokens = 0, targets = 0;

    make_random_dataset(&ds, N, MAX);
    for (size_t i = 0; i < N; i++) {
        lengths[i] = ds.examples[i].length;
        row_bin[i] = -1;
    }
    struct lt_batches *bs = open_dataset(&ds, &opt);
    init_for(&b, bs, 1);
    assert_true(b.cap_tokens <= MAX);
    for (int64_t index = 0; index < lt_batches_per_epoch(bs); index++) {
        int64_t before = -1;
        get(bs, 0, index, &b);
        assert_int_equal(b.n_examples, 1);
        for (int32_t at = 0, label = 0; at < b.n_tokens;) {
            int64_t row = b.source[at];
            const struct lt_example *ex = &ds.examples[row];
            assert_int_equal(row_bin[row], -1);
            row_bin[row] = (int32_t)index;
            assert_true(before < 0 || lengths[before] > lengths[row] ||
                        (lengths[before] == lengths[row] && before < row));
            before = row;
            for (int32_t k = 0; k < ex->length; k++) {
                assert_int_equal(b.ids[at + k], ex->ids[k]);
                assert_int_equal(b.positions[at + k], k);
                assert_int_equal(b.kv_begin[at + k], at);
                assert_int_equal(b.kv_end[at + k], at + k + 1);
                assert_int_equal(b.row_key[at + k], lt_row_key(row, k));
                if (k > 0 && ex->labels[k] != LT_LABEL_IGNORE) {
                    assert_int_equal(b.label_rows[label], at + k - 1);
                    assert_int_equal(b.labels[label++], ex->labels[k]);
                }
            }
            at += ex->length;
        }
        tokens += b.n_tokens;
        targets += b.n_labels;
    }
    assert_int_equal(tokens, ds.tokens);
    assert_int_equal(targets, ds.targets);
    assert_int_equal(lt_pack_bfd(lengths, 1000, MAX, bin, &first_bins, NULL), LT_OK);
    assert_int_equal(lt_pack_bfd(lengths + 1000, N - 1000, MAX, bin + 1000, &second_bins, NULL), LT_OK);
    assert_int_equal(lt_batches_rows(bs), first_bins + second_bins);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(row_bin[i], bin[i] + (i < 1000 ? 0 : (int32_t)first_bins));
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
    lt_dataset_deinit(&ds);
}

/* ---- memory ---- */

static void memory_runs_out(void **state)
{
    (void)state;
    const struct lt_batches_options opt = {
        .batch_size = 2, .accumulation = 1, .shuffle = true, .packing = true, .max_length = 8};
    struct lt_dataset ds;
    long n = 0;
    bool failed;

    make_random_dataset(&ds, 9, 8);
    do {
        struct lt_batches *bs;
        struct lt_batch b = {0};
        lt_alloc_fail_at(++n);
        enum lt_status status = lt_batches_from_dataset(&bs, &ds, &opt, NULL);
        if (status == LT_OK)
            status = lt_batch_init(&b, 16, 16, NULL);
        failed = lt_alloc_count() >= n;
        if (bs != NULL && status == LT_OK) { /* nothing is allocated in a step */
            long before = lt_alloc_count();
            get(bs, 1, 0, &b);
            assert_int_equal(lt_alloc_count(), before);
        }
        lt_alloc_fail_at(0);
        assert_int_equal(status, failed ? LT_ERR_NOMEM : LT_OK);
        lt_batch_deinit(&b);
        lt_batches_destroy(bs);
    } while (failed);
    assert_in_range(n, 10, 100);
    lt_dataset_deinit(&ds);
}

static int seed_random(void **state)
{
    (void)state;
    lt_mt19937_seed(&random_state, 12345);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flat_layout),
        cmocka_unit_test(counts),
        cmocka_unit_test(shuffled_order),
        cmocka_unit_test(pure_and_resumable),
        cmocka_unit_test(exact_capacity),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(packing_by_hand),
        cmocka_unit_test(packing_like_the_definition),
        cmocka_unit_test(packed_equals_unpacked),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("batch", tests, seed_random, NULL);
}
