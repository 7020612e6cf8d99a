/* Data against transformers and TRL: training order, token ids and labels, pre-tokenized batches; and
 * public files that this project did not write. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/data/batch.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "models/tokenizer.h"
#include "tests/support/fixtures.h"

/* ---- fixtures ---- */

static const char *fixture(const char *relative)
{
    static char path[4096];
    if (!lt_fixture_path(path, sizeof path, relative))
        lt_test_skip_missing(relative);
    return path;
}

static json_t *load_json(const char *relative)
{
    struct lt_error err = {0};
    json_t *v;
    if (lt_json_load(&v, fixture(relative), &err) != LT_OK)
        fail_msg("%s", err.message);
    return v;
}

static int64_t integer(const json_t *v)
{
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

static const char *string(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));
    assert_non_null(s);
    return s;
}

static const char *temp_path(const char *name)
{
    static char path[4096];
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    return path;
}

/* ---- training order of transformers.Trainer ---- */

static void check_order(int64_t seed, size_t n, const json_t *epochs)
{
    const struct lt_batches_options opt = {
        .batch_size = 7, .accumulation = 1, .seed = (uint64_t)seed, .shuffle = true};
    struct lt_dataset ds = {.examples = lt_alloc_zero(n, sizeof *ds.examples), .count = n};
    struct lt_batches *bs;
    struct lt_batch b;

    for (size_t i = 0; i < n; i++) {
        struct lt_example *ex = &ds.examples[i];
        ex->ids = lt_alloc_zero(4, sizeof *ex->ids);
        ex->labels = ex->ids + 2;
        ex->length = 2;
        ex->targets = 1;
    }
    assert_int_equal(lt_batches_from_dataset(&bs, &ds, &opt, NULL), LT_OK);
    assert_int_equal(lt_batch_init(&b, 14, 7, NULL), LT_OK);
    for (size_t epoch = 0; epoch < json_array_size(epochs); epoch++) {
        const json_t *order = json_array_get(epochs, epoch);
        size_t place = 0;
        assert_int_equal(json_array_size(order), n);
        for (int64_t index = 0; index < lt_batches_per_epoch(bs); index++) {
            assert_int_equal(lt_batches_get(bs, (int64_t)epoch, index, &b, NULL), LT_OK);
            for (int32_t i = 0; i < b.n_tokens; i += 2)
                assert_int_equal(b.source[i], integer(json_array_get(order, place++)));
        }
        assert_int_equal(place, n);
    }
    lt_batch_deinit(&b);
    lt_batches_destroy(bs);
    lt_dataset_deinit(&ds);
}

static void training_order(void **state)
{
    (void)state;
    json_t *cases = load_json("goldens/dataset-order/order.json");
    size_t i;
    const json_t *one;

    assert_true(json_array_size(cases) >= 6);
    json_array_foreach(cases, i, one)
    {
        const json_t *epochs = json_object_get(one, "epochs");
        assert_true(json_array_size(epochs) >= 2);
        check_order(integer(json_object_get(one, "seed")), (size_t)integer(json_object_get(one, "n")),
                    epochs);
    }
    json_decref(cases);
}

/* ---- TRL's SFTTrainer ---- */

struct sft {
    json_t *root;
    const json_t *examples;
    struct lt_tokenizer *tok;
    size_t next_chat; /* example that is rendered next */
};

static bool is_kind(const json_t *example, const char *kind)
{
    return strcmp(string(example, "kind"), kind) == 0;
}

static enum lt_status encode(void *user, const char *text, size_t len, bool add_special, int32_t **ids,
                             size_t *count, struct lt_error *err)
{
    struct sft *sft = user;
    struct lt_ids list = {0};
    enum lt_status status = lt_tokenizer_encode(sft->tok, text, len, add_special, &list, err);
    if (status != LT_OK) {
        lt_ids_deinit(&list);
        return status;
    }
    *ids = list.data;
    *count = list.count;
    return LT_OK;
}

/* What the fixture's template gave; TRL trained all behind the rendered prompt. */
static enum lt_status render(void *user, const struct lt_data_message *messages, size_t n,
                             struct lt_strbuf *text, size_t **spans, size_t *span_count, struct lt_error *err)
{
    struct sft *sft = user;
    (void)err;
    while (!is_kind(json_array_get(sft->examples, sft->next_chat), "chat"))
        sft->next_chat++;
    const json_t *example = json_array_get(sft->examples, sft->next_chat++);
    const json_t *expected = json_object_get(example, "messages");
    assert_int_equal(json_array_size(expected), n);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(messages[i].role, string(json_array_get(expected, i), "role"));
        assert_string_equal(messages[i].content, string(json_array_get(expected, i), "content"));
    }
    lt_strbuf_puts(text, string(example, "rendered"));
    *spans = lt_alloc_array(2, sizeof **spans);
    assert_non_null(*spans);
    (*spans)[0] = strlen(string(example, "rendered_prompt"));
    (*spans)[1] = text->len;
    *span_count = 1;
    return LT_OK;
}

static void write_sft_rows(const struct sft *sft, const char *kind, const char *path)
{
    static const char *const fields[] = {"prompt", "completion", "messages"};
    struct lt_strbuf rows;
    size_t i;
    json_t *example;

    lt_strbuf_init(&rows);
    json_array_foreach(sft->examples, i, example)
    {
        if (!is_kind(example, kind))
            continue;
        json_t *row = json_object();
        for (size_t k = 0; k < 3; k++)
            if (json_object_get(example, fields[k]) != NULL)
                json_object_set(row, fields[k], json_object_get(example, fields[k]));
        char *text = lt_json_dump(row, 0, true);
        lt_strbuf_puts(&rows, text);
        lt_strbuf_putc(&rows, '\n');
        lt_free(text);
        json_decref(row);
    }
    assert_int_equal(lt_file_write_atomic(path, lt_strbuf_str(&rows), rows.len, NULL), LT_OK);
    lt_strbuf_deinit(&rows);
}

static void assert_ids(const int32_t *actual, const json_t *expected, size_t example, const char *what)
{
    for (size_t k = 0; k < json_array_size(expected); k++)
        if (actual[k] != integer(json_array_get(expected, k)))
            fail_msg("example %zu: %s[%zu] is %d, not %lld", example, what, k, (int)actual[k],
                     (long long)integer(json_array_get(expected, k)));
}

static void check_sft(struct sft *sft, const char *kind, const char *variant, int32_t max_length)
{
    const struct lt_dataset_options opt = {.max_length = max_length, .keep_text = true};
    const struct lt_data_tokenizer tok = {.user = sft,
                                          .eos_token = "</s>",
                                          .vocab_size = lt_tokenizer_vocab_size(sft->tok),
                                          .encode = encode,
                                          .render_chat = render};
    struct lt_dataset ds;
    struct lt_error err = {0};
    size_t i, next = 0, dropped = 0;
    const json_t *example;
    const char *path = temp_path("sft.jsonl");

    write_sft_rows(sft, kind, path);
    sft->next_chat = 0;
    if (lt_dataset_load(&ds, path, &tok, &opt, &err) != LT_OK)
        fail_msg("%s", err.message);
    json_array_foreach(sft->examples, i, example)
    {
        if (!is_kind(example, kind))
            continue;
        const json_t *expected = json_object_get(json_object_get(example, "file"), variant);
        assert_non_null(expected);
        if (json_is_null(expected)) {
            dropped++;
            continue;
        }
        assert_true(next < ds.count);
        const struct lt_example *ex = &ds.examples[next++];
        assert_int_equal(ex->length, json_array_size(json_object_get(expected, "input_ids")));
        assert_int_equal(ex->length, json_array_size(json_object_get(expected, "labels")));
        assert_ids(ex->ids, json_object_get(expected, "input_ids"), i, "input_ids");
        assert_ids(ex->labels, json_object_get(expected, "labels"), i, "labels");
        if (strcmp(kind, "alpaca") == 0)
            assert_string_equal(ex->prompt, string(example, "prompt"));
        else
            assert_null(ex->prompt);
    }
    assert_int_equal(next, ds.count);
    assert_int_equal(ds.dropped, dropped);
    lt_dataset_deinit(&ds);
}

static void alpaca_prompts(const struct sft *sft)
{
    size_t i;
    const json_t *example;

    json_array_foreach(sft->examples, i, example)
    {
        struct lt_strbuf prompt;
        if (!is_kind(example, "alpaca"))
            continue;
        lt_strbuf_init(&prompt);
        assert_int_equal(lt_alpaca_prompt(&prompt, LT_ALPACA_LONG, string(example, "instruction"),
                                          string(example, "input"), NULL),
                         LT_OK);
        lt_strbuf_puts(&prompt, string(example, "response_suffix"));
        assert_string_equal(lt_strbuf_str(&prompt), string(example, "prompt"));
        lt_strbuf_deinit(&prompt);
    }
}

static void trl_examples(void **state)
{
    (void)state;
    struct sft sft = {.root = load_json("goldens/sft/examples.json")};
    struct lt_error err = {0};

    sft.examples = json_object_get(sft.root, "examples");
    assert_int_equal(json_array_size(sft.examples), 12);
    if (lt_tokenizer_load_json(&sft.tok, fixture(string(sft.root, "tokenizer")), &err) != LT_OK)
        fail_msg("%s", err.message);
    alpaca_prompts(&sft);
    check_sft(&sft, "alpaca", "whole", 100000);
    check_sft(&sft, "alpaca", "max64", 64);
    check_sft(&sft, "chat", "whole", 100000);
    check_sft(&sft, "chat", "max64", 64);
    lt_tokenizer_destroy(sft.tok);
    json_decref(sft.root);
}

/* ---- pre-tokenized batches ---- */

struct padded {
    struct lt_safetensors st;
    const int64_t *ids, *labels, *mask;
    int64_t columns;
};

static const int64_t *tensor(struct padded *p, const char *prefix, const char *suffix)
{
    char name[64];
    lt_snprintf(name, sizeof name, "%s%s", prefix, suffix);
    const struct lt_st_tensor *t = lt_safetensors_find(&p->st, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, LT_I64);
    p->columns = t->shape[t->ndim - 1];
    const int64_t *data = lt_safetensors_data(&p->st, t);
    assert_int_equal((uintptr_t)data % sizeof *data, 0);
    return data;
}

static void open_padded(struct padded *p, const char *relative, const char *prefix)
{
    struct lt_error err = {0};
    if (lt_safetensors_open(&p->st, fixture(relative), &err) != LT_OK)
        fail_msg("%s", err.message);
    p->ids = tensor(p, prefix, "input_ids");
    p->labels = tensor(p, prefix, "labels");
    p->mask = tensor(p, prefix, "attention_mask");
}

/* The batch holds exactly the unmasked tokens of rows [first, first + rows), with the shifted labels. */
static void assert_holds_rows(const struct lt_batch *b, const struct padded *p, int64_t first, int64_t rows)
{
    int64_t begin = first * p->columns, end = begin + rows * p->columns;
    int32_t token = 0, label = 0;

    for (int64_t i = begin; i < end; i++) {
        if (p->mask[i] == 0)
            continue;
        assert_true(token < b->n_tokens);
        assert_int_equal(b->source[token], i);
        assert_int_equal(b->ids[token], p->ids[i]);
        assert_int_equal(b->positions[token], i % p->columns);
        assert_int_equal(b->kv_end[token], token + 1);
        assert_int_equal(b->source[b->kv_begin[token]] / p->columns, i / p->columns);
        assert_true(b->kv_begin[token] == 0 ||
                    b->source[b->kv_begin[token] - 1] / p->columns != i / p->columns);
        if ((i + 1) % p->columns != 0 && p->mask[i + 1] == 1 && p->labels[i + 1] != LT_LABEL_IGNORE) {
            assert_true(label < b->n_labels);
            assert_int_equal(b->label_rows[label], token);
            assert_int_equal(b->labels[label++], p->labels[i + 1]);
        }
        token++;
    }
    assert_int_equal(token, b->n_tokens);
    assert_int_equal(label, b->n_labels);
    assert_int_equal(b->n_examples, rows);
}

static struct lt_batches *open_batches(const char *path, int32_t vocab, int32_t accumulation,
                                       struct lt_batch *b)
{
    const struct lt_batches_options opt = {.accumulation = accumulation};
    struct lt_batches *bs;
    struct lt_error err = {0};
    int32_t tokens, labels;

    if (lt_batches_from_pretokenized(&bs, path, vocab, &opt, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(lt_batches_capacity(bs, 1, &tokens, &labels, NULL), LT_OK);
    assert_int_equal(lt_batch_init(b, tokens, labels, NULL), LT_OK);
    return bs;
}

/* The training batches of the LoRA curves; a step's targets are those PyTorch counted. */
static void curve_batches(void **state)
{
    (void)state;
    static const char *const curves[] = {"goldens/lora/curve-plain/curve.json",
                                         "goldens/lora/curve-accum2/curve.json"};
    struct padded p;
    struct lt_batch b;

    open_padded(&p, "goldens/lora/batches.safetensors", "");
    for (int32_t accumulation = 1; accumulation <= 2; accumulation++) {
        struct lt_batches *bs = open_batches(p.st.map.path, 320, accumulation, &b);
        json_t *curve = load_json(curves[accumulation - 1]);
        assert_int_equal(lt_batches_per_epoch(bs), 100);
        assert_int_equal(lt_batches_steps_per_epoch(bs), 100 / accumulation);
        assert_int_equal(json_array_size(curve), 50);
        for (int64_t step = 0; step < 50; step++) {
            int32_t targets = 0;
            for (int64_t m = step * accumulation; m < (step + 1) * accumulation; m++) {
                int32_t counted;
                assert_int_equal(lt_batches_get(bs, 0, m, &b, NULL), LT_OK);
                assert_holds_rows(&b, &p, 4 * m, 4);
                assert_int_equal(lt_batches_targets(bs, 0, m, &counted, NULL), LT_OK);
                assert_int_equal(counted, b.n_labels);
                targets += counted;
            }
            const json_t *expected = json_object_get(json_array_get(curve, (size_t)step), "targets");
            assert_int_equal(targets, integer(expected));
        }
        json_decref(curve);
        lt_batch_deinit(&b);
        lt_batches_destroy(bs);
    }
    lt_safetensors_close(&p.st);
}

/* No padding, padding on the right, padding on the left. */
static void padded_inputs(void **state)
{
    (void)state;
    static const char *const variants[] = {"full.", "right.", "left."};
    json_t *expected = load_json("goldens/llama-tiny/expected.json");

    for (size_t v = 0; v < 3; v++) {
        struct padded p;
        struct lt_st_writer *writer;
        struct lt_batch b;
        char name[16];
        const int64_t shape[] = {2, 48};
        const char *path = temp_path("inputs.safetensors");

        open_padded(&p, "goldens/llama-tiny/inputs.safetensors", variants[v]);
        assert_int_equal(p.columns, 48);
        assert_int_equal(lt_st_writer_create(&writer, NULL), LT_OK);
        assert_int_equal(lt_st_writer_add(writer, "input_ids", LT_I64, shape, 2, p.ids, NULL), LT_OK);
        assert_int_equal(lt_st_writer_add(writer, "labels", LT_I64, shape, 2, p.labels, NULL), LT_OK);
        assert_int_equal(lt_st_writer_add(writer, "attention_mask", LT_I64, shape, 2, p.mask, NULL), LT_OK);
        assert_int_equal(lt_st_writer_save(writer, path, NULL), LT_OK);
        lt_st_writer_destroy(writer);

        struct lt_batches *bs = open_batches(path, 320, 1, &b);
        assert_int_equal(lt_batches_per_epoch(bs), 1);
        assert_int_equal(lt_batches_get(bs, 0, 0, &b, NULL), LT_OK);
        assert_holds_rows(&b, &p, 0, 2);
        lt_snprintf(name, sizeof name, "%.*s", (int)strlen(variants[v]) - 1, variants[v]);
        const json_t *targets = json_object_get(json_object_get(expected, name), "targets");
        assert_int_equal(b.n_labels, integer(targets));
        lt_batch_deinit(&b);
        lt_batches_destroy(bs);
        lt_safetensors_close(&p.st);
    }
    json_decref(expected);
}

/* ---- public files ---- */

static enum lt_status encode_bytes(void *user, const char *text, size_t len, bool add_special, int32_t **ids,
                                   size_t *count, struct lt_error *err)
{
    (void)user, (void)add_special, (void)err;
    *ids = lt_alloc_array(len, sizeof **ids);
    assert_non_null(*ids);
    for (size_t i = 0; i < len; i++)
        (*ids)[i] = (unsigned char)text[i];
    *count = len;
    return LT_OK;
}

static const struct lt_data_tokenizer bytes = {.vocab_size = 256, .encode = encode_bytes};
static const struct lt_dataset_options long_rows = {.max_length = 1 << 20};

static void instruction_data(void **state)
{
    (void)state;
    struct lt_dataset ds;
    struct lt_error err = {0};

    const char *path = fixture("data/ml-explore+mlx-examples/lora/data/train.jsonl");
    if (lt_dataset_load(&ds, path, &bytes, &long_rows, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(ds.count, 1000);
    assert_int_equal(ds.rows, 1000);
    assert_int_equal(ds.tokens - ds.targets, 1000); /* all but the first token of a row */
    lt_dataset_deinit(&ds);

    path = fixture("data/openai+grade-school-math/grade_school_math/data/train.jsonl");
    assert_int_equal(lt_dataset_load(&ds, path, &bytes, &long_rows, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "train.jsonl:1: "));
    assert_non_null(strstr(err.message, "question, answer"));
}

/* Files made to break JSON parsers: none has a row, so each is one error that names the file. */
static void hostile_json(void **state)
{
    (void)state;
    static const char *const folders[] = {"data/nst+JSONTestSuite/test_parsing",
                                          "data/nst+JSONTestSuite/test_transform"};
    for (size_t f = 0; f < 2; f++) {
        char **names;
        size_t count;
        char folder[4096];

        lt_snprintf(folder, sizeof folder, "%s", fixture(folders[f]));
        assert_int_equal(lt_dir_list(folder, &names, &count, NULL), LT_OK);
        assert_true(count > 10);
        for (size_t i = 0; i < count; i++) {
            struct lt_dataset ds;
            struct lt_error err = {0};
            char *path = lt_path_join(folder, names[i]);
            assert_non_null(path);
            if (lt_dataset_load(&ds, path, &bytes, &long_rows, &err) == LT_OK)
                fail_msg("%s was accepted", path);
            if (strncmp(err.message, path, strlen(path)) != 0)
                fail_msg("\"%s\" does not begin with %s", err.message, path);
            assert_null(ds.examples);
            lt_free(path);
        }
        lt_dir_list_free(names, count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_order), cmocka_unit_test(trl_examples),     cmocka_unit_test(curve_batches),
        cmocka_unit_test(padded_inputs),  cmocka_unit_test(instruction_data), cmocka_unit_test(hostile_json),
    };
    return cmocka_run_group_tests_name("data golden", tests, NULL, NULL);
}
