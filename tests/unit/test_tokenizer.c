/* Tokenizers: components one by one on a hand-made vocabulary, side files.  Refused and damaged
 * files, failing allocations and threads are in test_tokenizer_hostile.c, whole vocabularies in
 * tests/golden/test_tokenizer_golden.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "models/tokenizer.h"
#include "tests/support/fixtures.h"

#define MARK "\xE2\x96\x81" /* U+2581 */

/* ---- making files ---- */

static const char *write_file(const char *name, const void *data, size_t size)
{
    static char path[4096];
    struct lt_error err = {0};
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    if (lt_file_write_atomic(path, data, size, &err) != LT_OK)
        fail_msg("%s", err.message);
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_file(name, text, strlen(text));
}

/* a b c d, their pairs and "abc"; no pipeline. */
#define VOCAB                                                                                            \
    "\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"ab\":5,\"bc\":6,\"abc\":7,\" \":8,\"" MARK \
    "\":9,"                                                                                              \
    "\"" MARK "a\":10,\"1\":11,\"!\":12,\"A\":13}"
#define MERGES "\"merges\":[[\"b\",\"c\"],[\"a\",\"b\"],[\"a\",\"bc\"],[\"" MARK "\",\"a\"]]"
#define MODEL "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\"," VOCAB "," MERGES "}"

static enum lt_status load_text(struct lt_tokenizer **tok, const char *json, struct lt_error *err)
{
    return lt_tokenizer_load_json(tok, write_text("t.json", json), err);
}

static struct lt_tokenizer *make(const char *rest)
{
    struct lt_strbuf json = {0};
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    lt_strbuf_printf(&json, "{%s%s%s}", MODEL, *rest ? "," : "", rest);
    assert_true(lt_strbuf_ok(&json));
    if (load_text(&tok, json.data, &err) != LT_OK)
        fail_msg("%s", err.message);
    lt_strbuf_deinit(&json);
    return tok;
}

/* The tokens of text, joined with '|'. */
static void expect_tokens(const struct lt_tokenizer *tok, const char *text, bool special, const char *want)
{
    struct lt_ids ids = {0};
    struct lt_strbuf got = {0};
    struct lt_error err = {0};
    if (lt_tokenizer_encode(tok, text, strlen(text), special, &ids, &err) != LT_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < ids.count; i++) {
        lt_strbuf_puts(&got, i ? "|" : "");
        lt_strbuf_puts(&got, lt_tokenizer_id_to_token(tok, ids.data[i]));
    }
    assert_string_equal(lt_strbuf_str(&got), want);
    lt_strbuf_deinit(&got);
    lt_ids_deinit(&ids);
}

static void expect_split(const char *rest, const char *text, const char *want)
{
    struct lt_tokenizer *tok = make(rest);
    expect_tokens(tok, text, false, want);
    lt_tokenizer_destroy(tok);
}

static void expect_decoded(const struct lt_tokenizer *tok, const int32_t *ids, size_t n, const char *want)
{
    struct lt_strbuf text = {0};
    struct lt_error err = {0};
    assert_int_equal(lt_tokenizer_decode(tok, ids, n, false, &text, &err), LT_OK);
    assert_string_equal(lt_strbuf_str(&text), want);
    lt_strbuf_deinit(&text);
}

/* ---- BPE ---- */

static void test_merges_by_rank(void **state)
{
    (void)state;
    expect_split("", "abc", "abc"); /* b c first, then a bc */
    expect_split("", "abd", "ab|d");
    expect_split("", "abcabc", "abc|abc");
    expect_split("", "", "");
    expect_split("", "xa", "<unk>|a");
    expect_split("", "xxa", "<unk>|<unk>|a");
}

static void test_old_merges_and_flags(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    /* "abc" is in the vocabulary, but no merge makes it */
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,%s" VOCAB
        ",\"merges\":[\"a b\"]}}";
    char text[2048];
    lt_snprintf(text, sizeof text, json, "");
    assert_int_equal(load_text(&tok, text, &err), LT_OK);
    expect_tokens(tok, "abc", false, "ab|c");
    expect_tokens(tok, "xxaxx", false, "<unk>|a|<unk>");
    assert_int_equal(lt_tokenizer_unk(tok), 0);
    lt_tokenizer_destroy(tok);
    lt_snprintf(text, sizeof text, json, "\"ignore_merges\":true,");
    assert_int_equal(load_text(&tok, text, &err), LT_OK);
    expect_tokens(tok, "abc", false, "abc");
    expect_tokens(tok, "abca", false, "ab|c|a");
    lt_tokenizer_destroy(tok);
}

static void test_byte_fallback(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    assert_int_equal(load_text(&tok,
                               "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,"
                               "\"vocab\":{\"<unk>\":0,\"<0xC3>\":1,\"<0xBC>\":2,\"a\":3},\"merges\":[]},"
                               "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
                               "{\"type\":\"Fuse\"}]}}",
                               &err),
                     LT_OK);
    expect_tokens(tok, "a\xC3\xBC", false, "a|<0xC3>|<0xBC>");
    expect_tokens(tok, "\xC3\xA4", false, "<unk>"); /* <0xA4> is missing: all or nothing */
    const int32_t whole[] = {3, 1, 2, 3}, broken[] = {1, 1, 3}, mixed[] = {2, 1, 2};
    expect_decoded(tok, whole, 4,
                   "a\xC3\xBC"
                   "a");
    expect_decoded(tok, broken, 3,
                   "\xEF\xBF\xBD\xEF\xBF\xBD"
                   "a");
    expect_decoded(tok, mixed, 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    lt_tokenizer_destroy(tok);
}

static void test_affixes(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    assert_int_equal(load_text(&tok,
                               "{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\",\"vocab\":"
                               "{\"a\":0,\"##b\":1,\"ab\":2,\"##c\":3},\"merges\":[[\"a\",\"##b\"]]}}",
                               &err),
                     LT_OK);
    expect_tokens(tok, "abcb", false, "ab|##c|##b");
    lt_tokenizer_destroy(tok);
    assert_int_equal(load_text(&tok,
                               "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":"
                               "{\"a\":0,\"b</w>\":1,\"ab</w>\":2,\"b\":3},\"merges\":[[\"a\",\"b</w>\"]]},"
                               "\"decoder\":{\"type\":\"BPEDecoder\"}}",
                               &err),
                     LT_OK);
    expect_tokens(tok, "bab", false, "b|ab</w>");
    const int32_t ids[] = {2, 3, 2};
    expect_decoded(tok, ids, 3, "ab bab");
    lt_tokenizer_destroy(tok);
}

/* A heap of many entries against the definition: merge the best pair, leftmost, again and again. */
static void test_long_words(void **state)
{
    (void)state;
    struct lt_tokenizer *tok = make("");
    enum { N = 100000 };
    char *text = lt_alloc(N);
    assert_non_null(text);
    for (size_t i = 0; i < N; i++)
        text[i] = "abc"[i % 3];
    struct lt_ids ids = {0};
    struct lt_error err = {0};
    assert_int_equal(lt_tokenizer_encode(tok, text, N, false, &ids, &err), LT_OK);
    assert_int_equal(ids.count, N / 3 + 1); /* abc abc … a */
    for (size_t i = 0; i + 1 < ids.count; i++)
        assert_int_equal(ids.data[i], 7);
    assert_int_equal(ids.data[ids.count - 1], 1);
    lt_ids_deinit(&ids);
    lt_free(text);
    lt_tokenizer_destroy(tok);
}

/* ---- pre-tokenizers and normalizers ---- */

#define PRE(x) "\"pre_tokenizer\":" x
#define NORM(x) "\"normalizer\":" x
#define SPLIT(p, b, i) PRE("{\"type\":\"Split\",\"pattern\":" p ",\"behavior\":\"" b "\",\"invert\":" i "}")

static void test_split_behaviours(void **state)
{
    (void)state;
    expect_split(SPLIT("{\"String\":\"b\"}", "Isolated", "false"), "abcbbc", "a|b|c|b|b|c");
    expect_split(SPLIT("{\"String\":\"b\"}", "Removed", "false"), "abcbba", "a|c|a");
    expect_split(SPLIT("{\"String\":\"b\"}", "Removed", "true"), "abcbba", "b|b|b");
    expect_split(SPLIT("{\"String\":\"b\"}", "MergedWithPrevious", "false"), "abcbbc", "ab|c|b|b|c");
    expect_split(SPLIT("{\"String\":\"b\"}", "MergedWithNext", "false"), "abcbbc", "a|bc|b|bc");
    expect_split(SPLIT("{\"Regex\":\"[ab]\"}", "Contiguous", "false"), "abcabc", "ab|c|ab|c");
    expect_split(SPLIT("{\"Regex\":\"(?i:A)b\"}", "Isolated", "false"), "abcAb", "ab|c|A|b");
    expect_split(SPLIT("{\"Regex\":\"\\\\s\"}", "Removed", "false"),
                 "a\xE2\x80\x83"
                 "bc\xE1\xA0\x8E",
                 "a|bc|<unk>");
}

static void test_other_pre_tokenizers(void **state)
{
    (void)state;
    expect_split(PRE("{\"type\":\"Whitespace\"}"), "ab !a b\n1", "ab|!|a|b|1");
    expect_split(PRE("{\"type\":\"WhitespaceSplit\"}"), "ab!a  bc", "ab|!|a|bc");
    expect_split(PRE("{\"type\":\"Punctuation\"}"), "ab!!c", "ab|!|!|c");
    expect_split(PRE("{\"type\":\"Digits\",\"individual_digits\":true}"), "a11", "a|1|1");
    expect_split(PRE("{\"type\":\"BertPreTokenizer\"}"), "ab !c", "ab|!|c");
    expect_split(PRE("{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"c\"}"), "abcab", "ab|ab");
    expect_split(PRE("{\"type\":\"FixedLength\",\"length\":2}"), "abcab", "ab|c|a|b");
    expect_split(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Sequence\",\"pretokenizers\":[]},"
                     "{\"type\":\"WhitespaceSplit\"},{\"type\":\"Digits\"}]}"),
                 "a1 ab", "a|1|ab");
}

static void test_metaspace(void **state)
{
    (void)state;
#define META(x) PRE("{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"" x "}")
    expect_split(META(""), "a a", MARK "a|" MARK "a");
    expect_split(META(""), " a", MARK "a");
    expect_split(META(",\"prepend_scheme\":\"never\""), "a a", "a|" MARK "a");
    expect_split(META(",\"add_prefix_space\":false"), "a a", "a|" MARK "a");
    expect_split(META(",\"str_rep\":\"" MARK "\",\"add_prefix_space\":true"), "a", MARK "a");
#define ADDED_X "\"added_tokens\":[{\"id\":20,\"content\":\"<x>\",\"special\":true,\"normalized\":false}]"
    expect_split(META(",\"prepend_scheme\":\"always\"") "," ADDED_X, "a<x>a", MARK "a|<x>|" MARK "a");
    expect_split(META(",\"prepend_scheme\":\"first\"") "," ADDED_X, "a<x>a", MARK "a|<x>|a");
}

static void test_normalizers(void **state)
{
    (void)state;
    expect_split(NORM("{\"type\":\"Lowercase\"}"), "ABC", "abc");
    expect_split(NORM("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}"), " \na ", "a| ");
    expect_split(NORM("{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}"), "a", MARK "a");
    expect_split(NORM("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"b\"}"), "axxc",
                 "abc");
    expect_split(NORM("{\"type\":\"NFKC\"}"), "\xEF\xBC\xA1\xEF\xBD\x81", "A|a"); /* fullwidth */
    expect_split(
        NORM("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"StripAccents\"}]}"),
        "\xC3\xA1", "a");
    expect_split(NORM("{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}"), "a", "a");
}

/* ---- added tokens, post-processors, decoders ---- */

static void test_added_tokens(void **state)
{
    (void)state;
    struct lt_tokenizer *tok =
        make("\"added_tokens\":["
             "{\"id\":20,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
             "{\"id\":21,\"content\":\"<s>x\",\"special\":false,\"normalized\":false},"
             "{\"id\":22,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
             "{\"id\":23,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
             "{\"id\":24,\"content\":\"<w>\",\"single_word\":true,\"normalized\":false},"
             "{\"id\":5,\"content\":\"ab\",\"normalized\":true}]");
    expect_tokens(tok, "a<s>xb<s>", false, "a|<s>x|b|<s>"); /* the longest */
    expect_tokens(tok, "a  <l> a", false, "a|<l>| |a");
    expect_tokens(tok, "a <r>  a", false, "a| |<r>|a");
    expect_tokens(tok, "a <w> a<w> !<w>!", false, "a| |<w>| |a|<unk>|<unk>|<unk>| |!|<w>|!");
    expect_tokens(tok, "abc", false, "ab|c"); /* taken out before BPE */
    assert_int_equal(lt_tokenizer_vocab_size(tok), 25);
    assert_int_equal(lt_tokenizer_token_to_id(tok, "<s>x", 4), 21);
    assert_int_equal(lt_tokenizer_token_to_id(tok, "<s>xy", 5), -1);
    assert_true(lt_tokenizer_is_special(tok, 20));
    assert_false(lt_tokenizer_is_special(tok, 21));
    assert_false(lt_tokenizer_is_special(tok, -5));
    assert_null(lt_tokenizer_id_to_token(tok, 17));
    assert_null(lt_tokenizer_id_to_token(tok, 25));
    assert_null(lt_tokenizer_id_to_token(tok, -1));
    lt_tokenizer_destroy(tok);
}

static void test_post_processors(void **state)
{
    (void)state;
    static const char *const forms[] = {
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"A\"}},"
        "{\"Sequence\":{\"id\":\"A\"}},"
        "{\"SpecialToken\":{\"id\":\"!\"}}],\"special_tokens\":{\"A\":{\"id\":\"A\","
        "\"ids\":[13],\"tokens\":[\"A\"]},\"!\":{\"id\":\"!\",\"ids\":[12]}}}",
        "{\"type\":\"RobertaProcessing\",\"sep\":[\"!\",12],\"cls\":[\"A\",13],\"trim_offsets\":true}",
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"BertProcessing\",\"sep\":[\"!\",12],"
        "\"cls\":[\"A\",13]}]}",
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char rest[1024];
        lt_snprintf(rest, sizeof rest, "\"post_processor\":%s", forms[i]);
        struct lt_tokenizer *tok = make(rest);
        expect_tokens(tok, "a", true, "A|a|!");
        expect_tokens(tok, "", true, "A|!");
        expect_tokens(tok, "a", false, "a");
        lt_tokenizer_destroy(tok);
    }
}

static void test_decoders(void **state)
{
    (void)state;
    static const struct {
        const char *decoder, *want; /* of " a" "bc" " " "!" with the mark for the first */
    } cases[] = {
        {"null", MARK "a bc   !"},
        {"{\"type\":\"Fuse\"}", MARK "abc !"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}", "abc !"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"never\"}", " abc !"},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK "\"},\"content\":\"_\"}", "_abc !"},
        {"{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
         "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK
         "\"},\"content\":\" \"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}",
         "abc !"},
        {"{\"type\":\"Strip\",\"content\":\"!\",\"start\":0,\"stop\":1}", MARK "abc "},
        {"{\"type\":\"WordPiece\",\"prefix\":\"b\",\"cleanup\":true}", MARK "ac  !"},
    };
    const int32_t ids[] = {10, 6, 8, 12, 999, -1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char rest[512];
        lt_snprintf(rest, sizeof rest, "\"decoder\":%s", cases[i].decoder);
        struct lt_tokenizer *tok = make(rest);
        expect_decoded(tok, ids, 6, cases[i].want);
        lt_tokenizer_destroy(tok);
    }
}

/* ---- folders ---- */

static void make_folder(const char *name)
{
    char path[4096];
    struct lt_error err = {0};
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    assert_int_equal(lt_dir_remove_tree(path, &err), LT_OK);
    assert_int_equal(lt_dir_create(path, &err), LT_OK);
}

static struct lt_tokenizer *load_folder(const char *name)
{
    char path[4096];
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    lt_snprintf(path, sizeof path, "%s/%s", lt_test_temp_dir(), name);
    if (lt_tokenizer_load(&tok, path, &err) != LT_OK)
        fail_msg("%s", err.message);
    return tok;
}

static void test_side_files(void **state)
{
    (void)state;
    make_folder("side");
    write_text("side/tokenizer.json", "{" MODEL "}");
    struct lt_tokenizer *tok = load_folder("side");
    assert_int_equal(lt_tokenizer_eos(tok), -1);
    assert_int_equal(lt_tokenizer_pad(tok), -1);
    assert_null(lt_tokenizer_eos_token(tok));
    assert_null(lt_tokenizer_chat_template(tok));
    lt_tokenizer_destroy(tok);

    write_text("side/config.json", "{\"bos_token_id\":1,\"eos_token_id\":2}");
    write_text("side/generation_config.json", "{\"eos_token_id\":[3,2]}");
    tok = load_folder("side");
    assert_int_equal(lt_tokenizer_bos(tok), 1);
    assert_int_equal(lt_tokenizer_eos(tok), 3);
    assert_int_equal(lt_tokenizer_pad(tok), 3);
    lt_tokenizer_destroy(tok);

    write_text("side/special_tokens_map.json", "{\"eos_token\":\"d\",\"bos_token\":\"ab\"}");
    write_text(
        "side/tokenizer_config.json",
        "{\"bos_token\":null,\"pad_token\":{\"content\":\"c\"},\"unk_token\":\"nothing\","
        "\"clean_up_tokenization_spaces\":true,\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},"
        "{\"name\":\"default\",\"template\":\"y\"}],\"model_max_length\":1000000000000000019884624838656}");
    tok = load_folder("side");
    assert_int_equal(lt_tokenizer_bos(tok), -1); /* null there is final */
    assert_string_equal(lt_tokenizer_eos_token(tok), "d");
    assert_int_equal(lt_tokenizer_pad(tok), 3);
    assert_int_equal(lt_tokenizer_unk(tok), 0); /* of the model */
    assert_string_equal(lt_tokenizer_chat_template(tok), "y");
    const int32_t ids[] = {1, 12};
    expect_decoded(tok, ids, 2, "a!"); /* cleaned up */
    lt_tokenizer_destroy(tok);

    write_text("side/chat_template.jinja", "z");
    tok = load_folder("side");
    assert_string_equal(lt_tokenizer_chat_template(tok), "z");
    lt_tokenizer_destroy(tok);
}

static void test_vocab_merges_folder(void **state)
{
    (void)state;
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    char path[4096];
    lt_snprintf(path, sizeof path, "%s/pair", lt_test_temp_dir());
    make_folder("pair");
    write_text("pair/vocab.json",
               "{\"a\":0,\"b\":1,\"ab\":2,\"\xC4\xA0\":3,\"\xC3\x83\":4,\"\xC2\xA9\":5,\"1\":6,"
               "\"<|endoftext|>\":7}");
    write_text("pair/merges.txt", "#version: 0.2\na b\n");
    tok = load_folder("pair");
    expect_tokens(tok, "ab a<|endoftext|>", false, "ab|\xC4\xA0|a|<|endoftext|>");
    expect_tokens(tok, "11", false, "1|1");
    assert_int_equal(lt_tokenizer_bos(tok), 7);
    assert_int_equal(lt_tokenizer_eos(tok), 7);
    lt_tokenizer_destroy(tok);

    write_text("pair/tokenizer_config.json",
               "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"eos_token\":\"<e>\","
               "\"added_tokens_decoder\":{\"8\":{\"content\":\"<e>\",\"special\":true}}}");
    write_text("pair/added_tokens.json", "{\"<e>\":8,\"<f>\":9}");
    tok = load_folder("pair");
    expect_tokens(tok, "e\xCC\x81", false, "\xC3\x83|\xC2\xA9"); /* NFC, then the bytes C3 A9 */
    expect_tokens(tok, "ab<e><f>", false, "ab|<e>|<f>");
    assert_true(lt_tokenizer_is_special(tok, 8));
    assert_false(lt_tokenizer_is_special(tok, 9));
    assert_int_equal(lt_tokenizer_bos(tok), -1);
    assert_int_equal(lt_tokenizer_eos(tok), 8);
    lt_tokenizer_destroy(tok);

    write_text("pair/tokenizer_config.json", "{\"tokenizer_class\":\"RobertaTokenizer\"}");
    assert_int_equal(lt_tokenizer_load(&tok, path, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "RobertaTokenizer"));
    write_text("pair/tokenizer_config.json", "{}");
    write_text("pair/merges.txt", "#version: 0.2\na b\n\na b c\n");
    assert_int_equal(lt_tokenizer_load(&tok, path, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "merges.txt:4:"));
    make_folder("pair");
    assert_int_equal(lt_tokenizer_load(&tok, path, &err), LT_ERR_NOT_FOUND);
    assert_null(tok);
}

/* ---- SentencePiece ---- */

static void put_varint(struct lt_strbuf *sb, unsigned v)
{
    for (; v >= 0x80; v >>= 7)
        lt_strbuf_putc(sb, (char)(0x80u | (v & 0x7Fu)));
    lt_strbuf_putc(sb, (char)v);
}

static void put_piece(struct lt_strbuf *sb, const char *text, float score, unsigned type)
{
    struct lt_strbuf piece = {0};
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    lt_strbuf_putc(&piece, 0x0A);
    put_varint(&piece, (unsigned)strlen(text));
    lt_strbuf_puts(&piece, text);
    lt_strbuf_putc(&piece, 0x15);
    for (int i = 0; i < 4; i++)
        lt_strbuf_putc(&piece, (char)(bits >> (8 * i) & 0xFFu));
    lt_strbuf_putc(&piece, 0x18);
    put_varint(&piece, type);
    lt_strbuf_putc(sb, 0x0A);
    put_varint(sb, (unsigned)piece.len);
    lt_strbuf_put(sb, piece.data, piece.len);
    lt_strbuf_deinit(&piece);
}

/* trainer_spec with the model type; normalizer_spec with dummy prefix and remove_extra_whitespaces. */
static void make_model(struct lt_strbuf *sb, unsigned type, bool prefix, bool collapse)
{
    static const struct {
        const char *text;
        float score;
        unsigned type;
    } pieces[] = {
        {"<unk>", 0, 2},  {"<s>", 0, 3},     {"</s>", 0, 3}, {"<0xC3>", 0, 6}, {"<0xBC>", 0, 6},
        {"<user>", 0, 4}, {MARK "a", -1, 1}, {"bc", -2, 1},  {"ab", -3, 1},    {"abc", -4, 1},
        {"ca", -2, 1},    {MARK, -9, 1},     {"a", -9, 1},   {"b", -9, 1},     {"c", -9, 1},
        {"<", -9, 1},     {"s", -9, 1},      {">", -9, 1},
    };
    lt_strbuf_clear(sb);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(sb, pieces[i].text, pieces[i].score, pieces[i].type);
    const char trainer[] = {0x12, 5, 0x18, (char)type, (char)0x98, 2, 1}; /* 3: type, 35: byte_fallback */
    lt_strbuf_put(sb, trainer, sizeof trainer);
    const char normalizer[] = {0x1A, 4, 0x18, prefix, 0x20, collapse};
    lt_strbuf_put(sb, normalizer, sizeof normalizer);
}

static void test_sentencepiece(void **state)
{
    (void)state;
    struct lt_strbuf model = {0};
    struct lt_error err = {0};
    struct lt_tokenizer *tok;
    make_model(&model, 2, true, false);
    assert_int_equal(lt_tokenizer_load_spm(&tok, write_file("m.model", model.data, model.len), &err), LT_OK);
    expect_tokens(tok, "abc", false, MARK "a|bc");
    expect_tokens(tok, "bbca", false, MARK "|b|bc|a"); /* bc and ca share a score: the left one first */
    expect_tokens(tok, "babca", false, MARK "|b|abc|a");
    expect_tokens(tok, "  a", false, MARK "|" MARK "|" MARK "a");
    expect_tokens(tok, "a<user>a", false, MARK "a|<user>|a");
    expect_tokens(tok, "<s>", false, MARK "|<|s|>"); /* control pieces never match text */
    expect_tokens(tok,
                  "\xC3\xBC"
                  "b",
                  false, MARK "|<0xC3>|<0xBC>|b");
    expect_tokens(tok, "xxb", false, MARK "|<unk>|b");
    expect_tokens(tok, "a", true, "<s>|" MARK "a");
    expect_tokens(tok, "", true, "<s>");
    const int32_t ids[] = {6, 7, 11, 3, 4};
    expect_decoded(tok, ids, 5, "abc \xC3\xBC");
    assert_int_equal(lt_tokenizer_unk(tok), 0);
    assert_int_equal(lt_tokenizer_bos(tok), 1);
    assert_int_equal(lt_tokenizer_eos(tok), 2);
    assert_true(lt_tokenizer_is_special(tok, 1));
    lt_tokenizer_destroy(tok);

    make_model(&model, 2, false, true);
    assert_int_equal(lt_tokenizer_load_spm(&tok, write_file("m.model", model.data, model.len), &err), LT_OK);
    expect_tokens(tok, "  a   a ", false, "a|" MARK "a");
    expect_tokens(tok, "   ", false, "");
    lt_tokenizer_destroy(tok);

    make_model(&model, 1, true, true);
    assert_int_equal(lt_tokenizer_load_spm(&tok, write_file("m.model", model.data, model.len), &err),
                     LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "Unigram"));
    lt_strbuf_deinit(&model);
}

/* In a folder, control pieces are cut out as transformers does; "legacy" rules the prefix after them. */
static void test_sentencepiece_folder(void **state)
{
    (void)state;
    struct lt_strbuf model = {0};
    make_model(&model, 2, true, false);
    make_folder("spm");
    write_file("spm/tokenizer.model", model.data, model.len);
    struct lt_tokenizer *tok = load_folder("spm");
    expect_tokens(tok, "a</s>a", true, "<s>|" MARK "a|</s>|" MARK "a");
    lt_tokenizer_destroy(tok);
    write_text("spm/tokenizer_config.json",
               "{\"legacy\":false,\"add_bos_token\":false,\"add_eos_token\":true,"
               "\"added_tokens_decoder\":{\"18\":{\"content\":\"<new>\",\"normalized\":false}}}");
    tok = load_folder("spm");
    expect_tokens(tok, "a</s>a<new>", true, MARK "a|</s>|a|<new>|</s>");
    lt_tokenizer_destroy(tok);
    lt_strbuf_deinit(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_by_rank),       cmocka_unit_test(test_old_merges_and_flags),
        cmocka_unit_test(test_byte_fallback),        cmocka_unit_test(test_affixes),
        cmocka_unit_test(test_long_words),           cmocka_unit_test(test_split_behaviours),
        cmocka_unit_test(test_other_pre_tokenizers), cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_normalizers),          cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_post_processors),      cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_side_files),           cmocka_unit_test(test_vocab_merges_folder),
        cmocka_unit_test(test_sentencepiece),        cmocka_unit_test(test_sentencepiece_folder),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
