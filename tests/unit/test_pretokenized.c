/* Pre-tokenized files: masks, segments, shapes, and everything that is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/data/batch.h"
#include "core/io/safetensors.h"
#include "tests/support/fixtures.h"

enum { VOCAB = 100, T = 6, __ = LT_LABEL_IGNORE };

/* ---- writing files ---- */

struct tensor {
    const char *name;
    const int64_t *values; /* NULL: left out */
    enum lt_dtype dtype;
    int ndim;
    int64_t shape[3];
};

static const char *write_tensors(const struct tensor *tensors, size_t count)
{
    static char path[1024];
    struct lt_st_writer *writer;
    int32_t narrow[4][64];

    assert_int_equal(lt_st_writer_create(&writer, NULL), LT_OK);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = &tensors[i];
        const void *data = t->values;
        if (data == NULL)
            continue;
        if (t->dtype == LT_I32) {
            int64_t n = 1;
            for (int d = 0; d < t->ndim; d++)
                n *= t->shape[d];
            assert_true(n <= 64 && i < 4);
            for (int64_t k = 0; k < n; k++)
                narrow[i][k] = (int32_t)t->values[k];
            data = narrow[i];
        }
        assert_int_equal(lt_st_writer_add(writer, t->name, t->dtype, t->shape, t->ndim, data, NULL), LT_OK);
    }
    lt_snprintf(path, sizeof path, "%s/batch.safetensors", lt_test_temp_dir());
    assert_int_equal(lt_st_writer_save(writer, path, NULL), LT_OK);
    lt_st_writer_destroy(writer);
    return path;
}

static const char *write_rows(enum lt_dtype dtype, int64_t rows, const int64_t *ids, const int64_t *labels,
                              const char *third, const int64_t *values)
{
    const struct tensor tensors[] = {{"input_ids", ids, dtype, 2, {rows, T}},
                                     {"labels", labels, dtype, 2, {rows, T}},
                                     {third, values, dtype, 2, {rows, T}}};
    return write_tensors(tensors, third != NULL ? 3 : 2);
}

/* ---- reading ---- */

static struct lt_batches *open_file(const char *path, int32_t batch_size)
{
    const struct lt_batches_options opt = {
        .batch_size = batch_size, .accumulation = 1, .shuffle = true, .seed = 3};
    struct lt_batches *bs;
    struct lt_error err = {0};
    if (lt_batches_from_pretokenized(&bs, path, VOCAB, &opt, &err) != LT_OK)
        fail_msg("%s", err.message);
    return bs;
}

static void get(struct lt_batches *bs, int64_t index, struct lt_batch *b)
{
    int32_t tokens, labels;
    struct lt_error err = {0};
    assert_int_equal(lt_batches_capacity(bs, 5, &tokens, &labels, NULL), LT_OK);
    assert_int_equal(lt_batch_init(b, tokens, labels, NULL), LT_OK);
    if (lt_batches_get(bs, 4, index, b, &err) != LT_OK)
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

/* source and row_key agree with (row, position in the row). */
static void assert_source(const struct lt_batch *b, const int64_t *source)
{
    for (int32_t i = 0; i < b->n_tokens; i++) {
        assert_int_equal(b->source[i], source[i]);
        assert_int_equal(b->row_key[i], lt_row_key(source[i] / T, (int32_t)(source[i] % T)));
    }
}

static const int64_t ids[2 * T] = {11, 12, 13, 14, 15, 16, 21, 22, 23, 24, 25, 26};

static void without_mask(void **state)
{
    (void)state;
    const int64_t labels[2 * T] = {11, 12, __, 14, 15, 16, __, __, __, __, __, 7};
    for (int wide = 0; wide < 2; wide++) {
        struct lt_batches *bs = open_file(write_rows(wide ? LT_I64 : LT_I32, 2, ids, labels, NULL, NULL), 1);
        struct lt_batch b;
        int64_t rows, columns, tokens, targets;
        lt_batches_shape(bs, &rows, &columns);
        assert_int_equal(rows, 2);
        assert_int_equal(columns, T);
        lt_batches_totals(bs, &tokens, &targets);
        assert_int_equal(tokens, 12);
        assert_int_equal(targets, 5); /* the first label of a row is none */
        assert_int_equal(lt_batches_per_epoch(bs), 2);
        get(bs, 0, &b);
        assert_i32(b.ids, T, 11, 12, 13, 14, 15, 16);
        assert_i32(b.positions, T, 0, 1, 2, 3, 4, 5);
        assert_int_equal(b.n_labels, 4);
        assert_i32(b.label_rows, 4, 0, 2, 3, 4);
        assert_i32(b.labels, 4, 12, 14, 15, 16);
        assert_source(&b, (int64_t[]){0, 1, 2, 3, 4, 5});
        lt_batch_deinit(&b);
        get(bs, 1, &b);
        assert_i32(b.labels, 1, 7); /* a label need not be the id of its token */
        assert_source(&b, (int64_t[]){6, 7, 8, 9, 10, 11});
        lt_batch_deinit(&b);
        lt_batches_destroy(bs);
    }
}

static void masks(void **state)
{
    (void)state;
    const int64_t mask[2 * T] = {0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0};
    struct lt_batches *bs = open_file(write_rows(LT_I64, 2, ids, ids, "attention_mask", mask), 0);
    struct lt_batch b;

    assert_int_equal(lt_batches_per_epoch(bs), 1);
    get(bs, 0, &b);
    assert_int_equal(b.n_examples, 2);
    assert_int_equal(b.n_tokens, 8);
    assert_i32(b.ids, 8, 13, 14, 15, 16, 21, 22, 24, 25);
    assert_i32(b.positions, 8, 2, 3, 4, 5, 0, 1, 3, 4); /* left padding keeps the column */
    assert_i32(b.kv_begin, 8, 0, 0, 0, 0, 4, 4, 4, 4);
    assert_i32(b.kv_end, 8, 1, 2, 3, 4, 5, 6, 7, 8);
    assert_int_equal(b.n_labels, 5); /* 24 follows a masked token */
    assert_i32(b.label_rows, 5, 0, 1, 2, 4, 6);
    assert_i32(b.labels, 5, 14, 15, 16, 22, 25);
    assert_source(&b, (int64_t[]){2, 3, 4, 5, 6, 7, 9, 10});
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
}

static void segments(void **state)
{
    (void)state;
    const int64_t segment[2 * T] = {1, 1, 2, 2, 2, 0, 0, 4, 0, 5, 5, 9};
    struct lt_batches *bs = open_file(write_rows(LT_I64, 2, ids, ids, "segment_ids", segment), 2);
    struct lt_batch b;

    get(bs, 0, &b);
    assert_int_equal(b.n_examples, 2);
    assert_int_equal(b.n_tokens, 9);
    assert_i32(b.ids, 9, 11, 12, 13, 14, 15, 22, 24, 25, 26);
    assert_i32(b.positions, 9, 0, 1, 0, 1, 2, 0, 0, 1, 0);
    assert_i32(b.kv_begin, 9, 0, 0, 2, 2, 2, 5, 6, 6, 8);
    assert_int_equal(b.n_labels, 4);
    assert_i32(b.label_rows, 4, 0, 2, 3, 6);
    assert_i32(b.labels, 4, 12, 14, 15, 25);
    assert_source(&b, (int64_t[]){0, 1, 2, 3, 4, 7, 9, 10, 11});
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
}

static void empty_rows(void **state)
{
    (void)state;
    const int64_t mask[2 * T] = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1}, none[2 * T] = {0};
    struct lt_batches *bs = open_file(write_rows(LT_I64, 2, ids, ids, "attention_mask", mask), 1);
    struct lt_batch b;
    int32_t targets;

    get(bs, 0, &b);
    assert_int_equal(b.n_tokens, 0);
    assert_int_equal(b.n_labels, 0);
    assert_int_equal(b.n_examples, 1);
    assert_int_equal(lt_batches_targets(bs, 0, 0, &targets, NULL), LT_OK);
    assert_int_equal(targets, 0);
    lt_batch_deinit(&b);
    get(bs, 1, &b);
    assert_int_equal(b.n_tokens, T);
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);

    bs = open_file(write_rows(LT_I64, 2, ids, ids, "attention_mask", none), 2);
    get(bs, 0, &b);
    assert_int_equal(b.n_tokens, 0);
    assert_int_equal(b.cap_tokens, 0);
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
}

/* [micro-batches, rows, T]: the shape decides, not the batch size. */
static void micro_batches(void **state)
{
    (void)state;
    const struct tensor tensors[] = {{"input_ids", ids, LT_I32, 3, {3, 2, 2}},
                                     {"labels", ids, LT_I64, 3, {3, 2, 2}}};
    struct lt_batches *bs = open_file(write_tensors(tensors, 2), 5);
    struct lt_batch b;
    int64_t rows, columns;

    assert_int_equal(lt_batches_per_epoch(bs), 3);
    assert_int_equal(lt_batches_rows(bs), 6);
    lt_batches_shape(bs, &rows, &columns);
    assert_int_equal(rows, 6);
    assert_int_equal(columns, 2);
    get(bs, 1, &b);
    assert_i32(b.ids, 4, 15, 16, 21, 22);
    assert_i32(b.labels, 2, 16, 22);
    assert_int_equal(b.source[0], 4);
    assert_int_equal(b.row_key[3], lt_row_key(3, 1));
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
}

/* ---- refused ---- */

static void assert_refused(const char *path, enum lt_status status, const char *part)
{
    const struct lt_batches_options opt = {.batch_size = 1, .accumulation = 1};
    struct lt_batches *bs;
    struct lt_error err = {0};

    if (lt_batches_from_pretokenized(&bs, path, VOCAB, &opt, &err) != status)
        fail_msg("wrong status; \"%s\", wanted \"%s\"", err.message, part);
    assert_null(bs);
    assert_non_null(strstr(err.message, path));
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
}

/* One wrong value at row 1, column 2 of the tensor called name. */
static void assert_value_refused(const char *name, int64_t value, const char *part)
{
    int64_t values[3][2 * T];
    bool third = strcmp(name, "input_ids") != 0 && strcmp(name, "labels") != 0;
    size_t which = third ? 2 : strcmp(name, "labels") == 0;

    for (int dtype = 0; dtype < 2; dtype++) {
        if (dtype == 1 && value != (int32_t)value)
            continue;
        for (size_t i = 0; i < 2 * T; i++) {
            values[0][i] = values[1][i] = ids[i];
            values[2][i] = 1;
        }
        values[which][T + 2] = value;
        assert_refused(
            write_rows(dtype ? LT_I32 : LT_I64, 2, values[0], values[1], third ? name : NULL, values[2]),
            LT_ERR_FORMAT, part);
    }
}

static void refused_values(void **state)
{
    (void)state;
    assert_value_refused("input_ids", VOCAB, "input_ids at row 1, column 2 is 100; a token below 100 needed");
    assert_value_refused("input_ids", -1, "input_ids at row 1, column 2 is -1");
    assert_value_refused("input_ids", INT64_C(1) << 32, "column 2 is 4294967296");
    assert_value_refused("input_ids", INT64_MIN, "column 2 is -9223372036854775808");
    assert_value_refused("labels", VOCAB,
                         "labels at row 1, column 2 is 100; a token below 100 or -100 needed");
    assert_value_refused("labels", -1, "labels at row 1, column 2 is -1");
    assert_value_refused("labels", -100 + (INT64_C(1) << 32), "labels at row 1, column 2");
    assert_value_refused("attention_mask", 2, "attention_mask at row 1, column 2 is 2; 0 or 1 needed");
    assert_value_refused("attention_mask", INT64_C(1) << 32, "attention_mask at row 1");
    assert_value_refused("attention_mask", -1, "attention_mask at row 1, column 2 is -1");
    assert_value_refused("segment_ids", -1, "segment_ids at row 1, column 2 is -1");
    assert_value_refused("segment_ids", 0,
                         "segment_ids at row 1, column 3 is 1; a segment must be contiguous");
    assert_value_refused("segment_ids", 3,
                         "segment_ids at row 1, column 3 is 1; a segment must be contiguous");
}

static void refused_shapes(void **state)
{
    (void)state;
    static const float real[2 * T] = {0};
    const struct tensor good = {"input_ids", ids, LT_I64, 2, {2, T}},
                        labels = {"labels", ids, LT_I64, 2, {2, T}};
    const struct tensor flat = {"labels", ids, LT_I64, 1, {2 * T}},
                        turned = {"labels", ids, LT_I64, 2, {T, 2}};
    const struct tensor mask = {"attention_mask", ids, LT_I64, 2, {1, T}},
                        other = {"other", ids, LT_I64, 2, {1, T}};
    const struct tensor segment = {"segment_ids", ids, LT_I64, 2, {2, T}};
    const struct tensor bytes = {"labels", (const int64_t *)(const void *)real, LT_F32, 2, {2, T}};
    const struct tensor flat_ids = {"input_ids", ids, LT_I64, 1, {2 * T}};
    const struct tensor empty_ids = {"input_ids", ids, LT_I64, 2, {0, T}},
                        empty = {"labels", ids, LT_I64, 2, {0, T}};
    const struct tensor huge_ids = {"input_ids", ids, LT_I64, 3, {INT64_C(1) << 40, INT64_C(1) << 20, 0}};
    const struct tensor huge = {"labels", ids, LT_I64, 3, {INT64_C(1) << 40, INT64_C(1) << 20, 0}};
    const struct tensor bool_mask = {"attention_mask", ids, LT_BOOL, 2, {2, T}};

    assert_refused(write_tensors(&good, 1), LT_ERR_NOT_FOUND, "no tensor labels");
    assert_refused(write_tensors(&labels, 1), LT_ERR_NOT_FOUND, "no tensor input_ids");
    assert_refused(write_tensors((struct tensor[]){good, flat}, 2), LT_ERR_FORMAT,
                   "labels and input_ids must");
    assert_refused(write_tensors((struct tensor[]){good, turned}, 2), LT_ERR_FORMAT,
                   "labels and input_ids must");
    assert_refused(write_tensors((struct tensor[]){good, labels, mask}, 3), LT_ERR_FORMAT,
                   "attention_mask and");
    assert_refused(write_tensors((struct tensor[]){good, labels, other}, 3), LT_ERR_UNSUPPORTED,
                   "tensor other");
    assert_refused(write_tensors((struct tensor[]){good, labels, mask, segment}, 4), LT_ERR_INVALID,
                   "keep one");
    assert_refused(write_tensors((struct tensor[]){good, bytes}, 2), LT_ERR_FORMAT,
                   "labels must be I64 or I32");
    assert_refused(write_tensors((struct tensor[]){good, labels, bool_mask}, 3), LT_ERR_FORMAT, "found BOOL");
    assert_refused(write_tensors((struct tensor[]){flat_ids, flat}, 2), LT_ERR_FORMAT, "1 dimensions");
    assert_refused(write_tensors((struct tensor[]){empty_ids, empty}, 2), LT_ERR_FORMAT, "is empty");
    assert_refused(write_tensors((struct tensor[]){huge_ids, huge}, 2), LT_ERR_FORMAT, "is empty");
    const char *path = write_tensors(&good, 1);
    assert_int_equal(lt_file_write_atomic(path, "not safetensors", 15, NULL), LT_OK);
    assert_refused(path, LT_ERR_FORMAT, "");
}

static void memory_runs_out(void **state)
{
    (void)state;
    const struct lt_batches_options opt = {.batch_size = 1, .accumulation = 1};
    const int64_t segment[2 * T] = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6};
    const char *path = write_rows(LT_I64, 2, ids, ids, "segment_ids", segment);
    long n = 0;
    bool failed;

    do {
        struct lt_batches *bs;
        lt_alloc_fail_at(++n);
        enum lt_status status = lt_batches_from_pretokenized(&bs, path, VOCAB, &opt, NULL);
        failed = lt_alloc_count() >= n;
        lt_alloc_fail_at(0);
        assert_int_equal(status, failed ? LT_ERR_NOMEM : LT_OK);
        lt_batches_destroy(bs);
    } while (failed && n < 1000);
    assert_in_range(n, 10, 999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_mask),   cmocka_unit_test(masks),           cmocka_unit_test(segments),
        cmocka_unit_test(empty_rows),     cmocka_unit_test(micro_batches),   cmocka_unit_test(refused_values),
        cmocka_unit_test(refused_shapes), cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("pretokenized", tests, NULL, NULL);
}
