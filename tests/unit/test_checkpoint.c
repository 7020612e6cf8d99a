/* Checkpoint folders, single and sharded, their errors, and the Hugging Face cache. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/checkpoint.h"
#include "tests/support/fixtures.h"

enum { PATH_SIZE = 1024 };

/* An empty folder below the scratch folder. */
static const char *fresh_folder(char buf[PATH_SIZE], const char *name)
{
    struct lt_error err = {0};
    lt_snprintf(buf, PATH_SIZE, "%s/%s", lt_test_temp_dir(), name);
    if (lt_dir_remove_tree(buf, &err) != LT_OK || lt_dir_create(buf, &err) != LT_OK)
        fail_msg("%s", err.message);
    return buf;
}

static void write_text(const char *dir, const char *name, const char *text)
{
    struct lt_error err = {0};
    char *path = lt_path_join(dir, name);
    if (lt_file_write_atomic(path, text, strlen(text), &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_free(path);
}

/* A weight file with one U8 tensor of one byte for each letter of `names`; its value is the letter. */
static void write_weights(const char *dir, const char *name, const char *names)
{
    static const int64_t shape[] = {1};
    struct lt_error err = {0};
    struct lt_st_writer *w;
    char *path = lt_path_join(dir, name);
    enum lt_status status = lt_st_writer_create(&w, &err);
    for (size_t i = 0; status == LT_OK && names[i] != '\0'; i++) {
        char tensor[2] = {names[i], '\0'};
        status = lt_st_writer_add(w, tensor, LT_U8, shape, 1, &names[i], &err);
    }
    if (status == LT_OK)
        status = lt_st_writer_save(w, path, &err);
    if (status != LT_OK)
        fail_msg("%s", err.message);
    lt_st_writer_destroy(w);
    lt_free(path);
}

static void assert_open_fails(const char *dir, enum lt_status expected, const char *part)
{
    struct lt_error err = {0};
    struct lt_checkpoint ck;
    assert_int_equal(lt_checkpoint_open(&ck, dir, &err), expected);
    if (strstr(err.message, part) == NULL || strstr(err.message, dir) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
    assert_null(ck.dir);
    assert_null(ck.tensors);
}

static void assert_index_refused(const char *dir, const char *index, enum lt_status expected,
                                 const char *part)
{
    write_text(dir, "model.safetensors.index.json", index);
    assert_open_fails(dir, expected, part);
}

/* ---- real checkpoints ---- */

static void single_file(void **state)
{
    (void)state;
    static const char relative[] = "goldens/llama-tiny";
    struct lt_error err = {0};
    struct lt_checkpoint ck;
    struct lt_checkpoint_tensor t;
    char dir[PATH_SIZE];
    int64_t layers = 0;

    if (!lt_fixture_path(dir, sizeof dir, relative))
        lt_test_skip_missing(relative);
    if (lt_checkpoint_open(&ck, dir, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(lt_json_get_i64(ck.config, "num_hidden_layers", &layers, "config.json", &err), LT_OK);
    assert_int_equal(layers, 3);
    assert_int_equal(ck.file_count, 1);
    assert_int_equal(ck.tensor_count, 30);
    assert_true(lt_checkpoint_find(&ck, "model.layers.2.mlp.down_proj.weight", &t));
    assert_int_equal(t.tensor->shape[0], 64);
    assert_int_equal(t.tensor->shape[1], 176);
    assert_false(lt_checkpoint_find(&ck, "model.layers.3.mlp.down_proj.weight", &t));
    lt_checkpoint_close(&ck);
    lt_checkpoint_close(&ck);
}

static void three_shards(void **state)
{
    (void)state;
    static const char relative[] = "goldens/archs/llama31";
    struct lt_error err = {0};
    struct lt_checkpoint ck;
    struct lt_checkpoint_tensor t;
    char dir[PATH_SIZE];
    size_t bytes = 0;

    if (!lt_fixture_path(dir, sizeof dir, relative))
        lt_test_skip_missing(relative);
    if (lt_checkpoint_open(&ck, dir, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(ck.file_count, 3);
    for (size_t i = 0; i < ck.tensor_count; i++) {
        bytes += ck.tensors[i].tensor->bytes;
        assert_true(lt_checkpoint_find(&ck, ck.tensors[i].tensor->name, &t));
        assert_ptr_equal(t.tensor, ck.tensors[i].tensor);
        assert_ptr_equal(t.tensor, lt_safetensors_find(t.file, t.tensor->name));
        assert_true(i == 0 || strcmp(ck.tensors[i - 1].tensor->name, t.tensor->name) < 0);
    }
    assert_int_equal(bytes, 107136); /* metadata.total_size of the index */
    lt_checkpoint_close(&ck);
}

/* ---- made-up folders ---- */

static void shards_follow_the_index(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_checkpoint ck;
    struct lt_checkpoint_tensor t;
    char dir[PATH_SIZE];

    fresh_folder(dir, "shards");
    write_text(dir, "config.json", "{\"a\": 1}");
    write_weights(dir, "one.safetensors", "cax");
    write_weights(dir, "two.safetensors", "bxd");
    write_text(dir, "model.safetensors.index.json",
               "{\"metadata\": {}, \"weight_map\": {\"d\": \"two.safetensors\", \"a\": \"one.safetensors\","
               " \"b\": \"two.safetensors\", \"c\": \"one.safetensors\", \"x\": \"two.safetensors\"}}");
    if (lt_checkpoint_open(&ck, dir, &err) != LT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(ck.file_count, 2);
    assert_int_equal(ck.tensor_count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(ck.tensors[i].tensor->name[0], "abcdx"[i]);
        assert_int_equal(*(const char *)lt_safetensors_data(ck.tensors[i].file, ck.tensors[i].tensor),
                         "abcdx"[i]);
    }
    assert_true(lt_checkpoint_find(&ck, "x", &t));
    assert_non_null(strstr(t.file->map.path, "two.safetensors")); /* not the x of the other shard */
    lt_checkpoint_close(&ck);

    write_weights(dir, "model.safetensors", "z"); /* goes before the index */
    assert_int_equal(lt_checkpoint_open(&ck, dir, &err), LT_OK);
    assert_int_equal(ck.tensor_count, 1);
    assert_true(lt_checkpoint_find(&ck, "z", &t));
    lt_checkpoint_close(&ck);
}

static void folder_errors(void **state)
{
    (void)state;
    char dir[PATH_SIZE], file[PATH_SIZE + 20];

    fresh_folder(dir, "errors");
    lt_snprintf(file, sizeof file, "%s/absent", dir);
    assert_open_fails(file, LT_ERR_NOT_FOUND, "there is no such folder");
    assert_open_fails(dir, LT_ERR_NOT_FOUND, "no config.json");
    write_text(dir, "adapter_config.json", "{}");
    assert_open_fails(dir, LT_ERR_NOT_FOUND, "this is a PEFT adapter");
    write_text(dir, "config.json", "{\"a\": }");
    assert_open_fails(dir, LT_ERR_FORMAT, "config.json: not valid JSON at line 1");
    write_text(dir, "config.json", "[]");
    assert_open_fails(dir, LT_ERR_FORMAT, "config.json: must be a JSON object, found an array");
    write_text(dir, "config.json", "{}");
    assert_open_fails(dir, LT_ERR_NOT_FOUND, "no weights");
    lt_snprintf(file, sizeof file, "%s/config.json", dir);
    assert_open_fails(file, LT_ERR_INVALID, "is a file");

    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
                                          "consolidated.00.pth", "model.pt"};
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++) {
        struct lt_error err = {0};
        write_text(dir, pickles[i], "x");
        assert_open_fails(dir, LT_ERR_UNSUPPORTED, pickles[i]);
        assert_open_fails(dir, LT_ERR_UNSUPPORTED, "save_pretrained");
        lt_snprintf(file, sizeof file, "%s/%s", dir, pickles[i]);
        assert_int_equal(lt_dir_remove_tree(file, &err), LT_OK);
    }
    write_text(dir, "training_args.bin", "x");
    assert_open_fails(dir, LT_ERR_NOT_FOUND, "no weights");
    write_weights(dir, "model-00001-of-00002.safetensors", "a");
    assert_open_fails(dir, LT_ERR_NOT_FOUND, "has model-00001-of-00002.safetensors, but neither");
    write_text(dir, "model.safetensors", "not one");
    assert_open_fails(dir, LT_ERR_FORMAT, "model.safetensors: 7 bytes are too few");
}

static void index_errors(void **state)
{
    (void)state;
    char dir[PATH_SIZE];

    fresh_folder(dir, "index");
    write_text(dir, "config.json", "{}");
    write_weights(dir, "one.safetensors", "ab");
    write_text(dir, "broken.safetensors", "broken, but long enough");
    assert_index_refused(dir, "{", LT_ERR_FORMAT, "index.json: not valid JSON");
    assert_index_refused(dir, "[]", LT_ERR_FORMAT, "weight_map must be an object");
    assert_index_refused(dir, "{}", LT_ERR_FORMAT, "weight_map must be an object");
    assert_index_refused(dir, "{\"weight_map\": {}}", LT_ERR_FORMAT, "at least one tensor");
    assert_index_refused(dir, "{\"weight_map\": [\"a\"]}", LT_ERR_FORMAT, "weight_map must be an object");
    static const char *const names[] = {"1",
                                        "null",
                                        "\"\"",
                                        "\"/etc/passwd\"",
                                        "\"../one.safetensors\"",
                                        "\"sub/one.safetensors\"",
                                        "\"sub\\\\one.safetensors\"",
                                        "\"..\"",
                                        "\".safetensors\"",
                                        "\"one.safetensors\\u0000\"",
                                        "\"config.json\""};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char index[200];
        lt_snprintf(index, sizeof index, "{\"weight_map\": {\"b\": \"one.safetensors\", \"a\": %s}}",
                    names[i]);
        assert_index_refused(dir, index, LT_ERR_FORMAT, "the file of tensor a must be the plain name");
    }
    assert_index_refused(dir, "{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"two.safetensors\"}}",
                         LT_ERR_NOT_FOUND, "lists two.safetensors, which is missing");
    assert_index_refused(dir, "{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"one.safetensors\"}}",
                         LT_ERR_FORMAT, "puts tensor c in one.safetensors, but that file does not have it");
    assert_index_refused(dir, "{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"broken.safetensors\"}}",
                         LT_ERR_FORMAT, "broken.safetensors");
    assert_index_refused(dir, "{\"weight_map\": {\"a\": \"one.safetensors\", \"a\": \"one.safetensors\"}}",
                         LT_ERR_FORMAT, "duplicate object key");
}

/* ---- the cache ---- */

static void set_variable(const char *name, const char *value)
{
    assert_int_equal(value != NULL ? setenv(name, value, 1) : unsetenv(name), 0);
}

static void set_cache(const char *hub_cache, const char *hf_home, const char *xdg, const char *home)
{
    set_variable("HF_HUB_CACHE", hub_cache);
    set_variable("HF_HOME", hf_home);
    set_variable("XDG_CACHE_HOME", xdg);
    set_variable("HOME", home);
}

/* A cache below root/below with the model org/name-1.5 at a commit that refs/main gives. */
static void make_cache(const char *root, const char *below)
{
    struct lt_error err = {0};
    char dir[PATH_SIZE + 200];
    lt_snprintf(dir, sizeof dir, "%s%s/models--org--name-1.5/refs", root, below);
    assert_int_equal(lt_dir_create(dir, &err), LT_OK);
    write_text(dir, "main", "0123456789abcdef0123456789abcdef01234567\n");
    lt_snprintf(dir, sizeof dir,
                "%s%s/models--org--name-1.5/snapshots/0123456789abcdef0123456789abcdef01234567", root, below);
    assert_int_equal(lt_dir_create(dir, &err), LT_OK);
}

static void assert_resolves(const char *model, const char *root, const char *below)
{
    struct lt_error err = {0};
    char expected[PATH_SIZE + 200];
    char *dir;
    if (lt_checkpoint_resolve(&dir, model, &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_snprintf(expected, sizeof expected, "%s%s", root, below);
    assert_string_equal(dir, expected);
    lt_free(dir);
}

static void assert_unresolved(const char *model, enum lt_status expected, const char *part)
{
    struct lt_error err = {0};
    char *dir;
    assert_int_equal(lt_checkpoint_resolve(&dir, model, &err), expected);
    assert_null(dir);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
}

#define SNAPSHOT "/models--org--name-1.5/snapshots/0123456789abcdef0123456789abcdef01234567"

static void cache_places(void **state)
{
    (void)state;
    char root[PATH_SIZE], empty[PATH_SIZE];

    fresh_folder(empty, "cache-empty");
    fresh_folder(root, "cache-hub");
    make_cache(root, "");
    set_cache(root, empty, empty, empty);
    assert_resolves("org/name-1.5", root, SNAPSHOT);
    fresh_folder(root, "cache-home");
    make_cache(root, "/hub");
    set_cache(NULL, root, empty, empty);
    assert_resolves("org/name-1.5", root, "/hub" SNAPSHOT);
    set_cache("", root, empty, empty);
    assert_resolves("org/name-1.5", root, "/hub" SNAPSHOT);
    fresh_folder(root, "cache-xdg");
    make_cache(root, "/huggingface/hub");
    set_cache(NULL, NULL, root, empty);
    assert_resolves("org/name-1.5", root, "/huggingface/hub" SNAPSHOT);
    fresh_folder(root, "cache-user");
    make_cache(root, "/.cache/huggingface/hub");
    set_cache(NULL, NULL, NULL, root);
    assert_resolves("org/name-1.5", root, "/.cache/huggingface/hub" SNAPSHOT);
    set_cache(empty, root, root, root); /* the first that is set decides */
    assert_unresolved("org/name-1.5", LT_ERR_NOT_FOUND, "hf download org/name-1.5");
    set_cache(NULL, NULL, NULL, NULL);
    assert_unresolved("org/name-1.5", LT_ERR_NOT_FOUND, "HOME, HF_HOME and HF_HUB_CACHE are unset");
    assert_resolves(root, root, ""); /* an existing folder is itself */
}

static void names_that_do_not_resolve(void **state)
{
    (void)state;
    char root[PATH_SIZE], dir[PATH_SIZE + 100];
    struct lt_error err = {0};

    fresh_folder(root, "cache-broken");
    make_cache(root, "");
    set_cache(root, NULL, NULL, NULL);
    assert_unresolved("org/other", LT_ERR_NOT_FOUND, "hf download org/other");
    assert_unresolved("org/other", LT_ERR_NOT_FOUND, "huggingface-cli download org/other");
    assert_unresolved("gpt2", LT_ERR_NOT_FOUND, "hf download gpt2");

    static const char *const no_names[] = {
        "",       "/absent/folder", "./absent", "../absent", "a/b/c",   "org/",    "/name",     "org//name",
        "org/..", "org/.name",      "org/-x",   "org/a--b",  "org/a b", "org/a\n", "org\\name", "a/b..c"};
    for (size_t i = 0; i < sizeof no_names / sizeof no_names[0]; i++)
        assert_unresolved(no_names[i], LT_ERR_NOT_FOUND, "there is no such folder");

    lt_snprintf(dir, sizeof dir, "%s/models--org--name-1.5/refs", root);
    static const char *const no_commits[] = {"", "\n", "../../../outside", ".", "a/b", "a\\b"};
    for (size_t i = 0; i < sizeof no_commits / sizeof no_commits[0]; i++) {
        write_text(dir, "main", no_commits[i]);
        assert_unresolved("org/name-1.5", LT_ERR_FORMAT, "does not hold a commit id");
    }
    write_text(dir, "main", "ffff");
    assert_unresolved("org/name-1.5", LT_ERR_NOT_FOUND, "hf download org/name-1.5");
    assert_int_equal(lt_dir_remove_tree(dir, &err), LT_OK);
    assert_unresolved("org/name-1.5", LT_ERR_NOT_FOUND, "hf download org/name-1.5");
    write_text(root, "file", "x");
    lt_snprintf(dir, sizeof dir, "%s/file", root);
    assert_unresolved(dir, LT_ERR_INVALID, "is a file");
}

static void one_part_name(void **state)
{
    (void)state;
    char root[PATH_SIZE], dir[PATH_SIZE + 100];
    struct lt_error err = {0};

    fresh_folder(root, "cache-gpt2");
    lt_snprintf(dir, sizeof dir, "%s/models--gpt2/refs", root);
    assert_int_equal(lt_dir_create(dir, &err), LT_OK);
    write_text(dir, "main", "c0ffee");
    lt_snprintf(dir, sizeof dir, "%s/models--gpt2/snapshots/c0ffee", root);
    assert_int_equal(lt_dir_create(dir, &err), LT_OK);
    set_cache(root, NULL, NULL, NULL);
    assert_resolves("gpt2", dir, "");
}

/* ---- failing memory ---- */

static enum lt_status resolve_and_open(struct lt_error *err)
{
    struct lt_checkpoint ck;
    char *dir;
    LT_TRY(lt_checkpoint_resolve(&dir, "org/name-1.5", err));
    enum lt_status status = lt_checkpoint_open(&ck, dir, err);
    lt_free(dir);
    if (status == LT_OK)
        lt_checkpoint_close(&ck);
    return status;
}

/* Every allocation fails once; returns how many there are. */
static long sweep(enum lt_status expected)
{
    struct lt_error err = {0};
    long n = 0, used;
    do {
        lt_alloc_fail_at(++n);
        enum lt_status status = resolve_and_open(&err);
        used = lt_alloc_count();
        lt_alloc_fail_at(0);
        assert_int_equal(status, used >= n ? LT_ERR_NOMEM : expected);
    } while (used >= n);
    return n - 1;
}

static void failing_memory(void **state)
{
    (void)state;
    char root[PATH_SIZE], dir[PATH_SIZE + 200];

    fresh_folder(root, "cache-memory");
    make_cache(root, "");
    set_cache(root, NULL, NULL, NULL);
    lt_snprintf(dir, sizeof dir, "%s%s", root, SNAPSHOT);
    assert_true(sweep(LT_ERR_NOT_FOUND) >= 8); /* no config.json */
    write_text(dir, "config.json", "{}");
    assert_true(sweep(LT_ERR_NOT_FOUND) >= 8); /* no weights */
    write_weights(dir, "one.safetensors", "ab");
    write_weights(dir, "two.safetensors", "c");
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": "
               "\"one.safetensors\", \"c\": \"two.safetensors\"}}");
    assert_true(sweep(LT_OK) >= 16);
    write_weights(dir, "model.safetensors", "abc");
    assert_true(sweep(LT_OK) >= 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_file),
        cmocka_unit_test(three_shards),
        cmocka_unit_test(shards_follow_the_index),
        cmocka_unit_test(folder_errors),
        cmocka_unit_test(index_errors),
        cmocka_unit_test(cache_places),
        cmocka_unit_test(names_that_do_not_resolve),
        cmocka_unit_test(one_part_name),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
