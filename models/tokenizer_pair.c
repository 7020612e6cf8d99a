/* vocab.json and merges.txt, the pair GPT-2 and Qwen publish: vocabulary and merges only, so the pipeline
 * follows from tokenizer_class in tokenizer_config.json. */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/file.h"

struct pair {
    struct lt_tokenizer *tok;
    char *vocab, *merges, *config; /* paths */
    struct lt_error *err;
};

static enum lt_status read_vocab(struct pair *p)
{
    json_t *root = NULL;
    LT_TRY(lt_json_load(&root, p->vocab, p->err));
    enum lt_status status = LT_OK;
    if (!json_is_object(root))
        status = lt_fail(p->err, LT_ERR_FORMAT, "%s: must be an object of tokens, found %s", p->vocab,
                         lt_json_type_name(root));
    const char *token;
    json_t *id;
    json_object_foreach(root, token, id)
    {
        if (status != LT_OK)
            break;
        int64_t value = json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
        status = lt_vocab_add(&p->tok->vocab, token, strlen(token), value, LT_TOKEN_MODEL, p->vocab, p->err);
    }
    json_decref(root);
    return status;
}

/* The next line [*line, +*len) without its end; false at the end of the text. */
static bool next_line(const char *text, size_t size, size_t *at, const char **line, size_t *len)
{
    if (*at >= size)
        return false;
    *line = text + *at;
    const char *end = memchr(*line, '\n', size - *at);
    *len = end ? (size_t)(end - *line) : size - *at;
    *at += *len + 1;
    if (*len && (*line)[*len - 1] == '\r')
        (*len)--;
    return true;
}

static bool is_merge_line(const char *line, size_t len)
{
    return len && !(len >= 8 && memcmp(line, "#version", 8) == 0);
}

static enum lt_status parse_merges(struct pair *p, const char *text, size_t size, struct lt_strbuf *scratch)
{
    const char *line;
    size_t len, at = 0, count = 0, bad;
    if (!lt_utf8_valid(text, size, &bad))
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: not UTF-8 at byte %llu", p->merges,
                       (unsigned long long)bad);
    while (next_line(text, size, &at, &line, &len))
        count += is_merge_line(line, len);
    if (count > UINT32_MAX || lt_bpe_reserve_pairs(&p->tok->bpe, count) != LT_OK)
        return lt_tokenizer_nomem(p->merges, p->err);
    uint32_t rank = 0;
    unsigned long long number = 0;
    for (at = 0; next_line(text, size, &at, &line, &len);) {
        number++;
        if (!is_merge_line(line, len))
            continue;
        const char *space = memchr(line, ' ', len);
        size_t left = space ? (size_t)(space - line) : 0;
        if (!space || memchr(space + 1, ' ', len - left - 1))
            return lt_fail(p->err, LT_ERR_FORMAT,
                           "%s:%llu: a merge must be two tokens with one space between", p->merges, number);
        LT_TRY(lt_tokenizer_put_merge(p->tok, line, left, space + 1, len - left - 1, rank++, scratch,
                                      p->merges, p->err));
    }
    return LT_OK;
}

static enum lt_status read_merges(struct pair *p)
{
    char *text = NULL;
    size_t size = 0;
    struct lt_strbuf scratch = {0};
    LT_TRY(lt_file_read(p->merges, (size_t)256 << 20, &text, &size, p->err));
    enum lt_status status = parse_merges(p, text, size, &scratch);
    lt_strbuf_deinit(&scratch);
    lt_free(text);
    return status;
}

static enum lt_status nomem(const struct pair *p)
{
    return lt_tokenizer_nomem(p->vocab, p->err);
}

static enum lt_status add_split(struct pair *p, const char *regex)
{
    struct lt_step *step = lt_steps_add(&p->tok->pre_tokenizer, LT_PRE_SPLIT);
    if (!step)
        return nomem(p);
    step->behavior = LT_SPLIT_ISOLATED;
    return lt_pattern_regex(&step->pattern, regex, strlen(regex), p->vocab, p->err);
}

/* Pipelines of GPT2TokenizerFast and Qwen2TokenizerFast. */
static enum lt_status add_pipeline(struct pair *p, bool qwen, bool add_prefix_space)
{
    struct lt_tokenizer *tok = p->tok;
    if (qwen && !lt_steps_add(&tok->normalizer, LT_NORM_NFC))
        return nomem(p);
    if (qwen)
        LT_TRY(add_split(p, lt_qwen_regex));
    struct lt_step *step = lt_steps_add(&tok->pre_tokenizer, LT_PRE_BYTE_LEVEL);
    if (!step)
        return nomem(p);
    step->add_prefix_space = add_prefix_space && !qwen;
    step->split = !qwen;
    if (!qwen)
        LT_TRY(lt_pattern_regex(&step->pattern, lt_gpt2_regex, strlen(lt_gpt2_regex), p->vocab, p->err));
    if (!lt_steps_add(&tok->decoder, LT_DEC_BYTE_LEVEL))
        return nomem(p);
    tok->has_decoder = true;
    return LT_OK;
}

/* Both families use <|endoftext|> for whatever the config does not name. */
static enum lt_status add_default_special(struct pair *p, bool qwen)
{
    static const char text[] = "<|endoftext|>";
    struct lt_tokenizer *tok = p->tok;
    int32_t id = lt_vocab_find(&tok->vocab, text, sizeof text - 1);
    if (id < 0)
        return LT_OK;
    struct lt_added_token token = {
        .content = (char *)(uintptr_t)text, .len = sizeof text - 1, .special = true};
    tok->eos = tok->unk = id;
    if (!qwen)
        tok->bos = id;
    return lt_added_put(tok, &token, id, p->vocab, p->err);
}

static enum lt_status configure(struct pair *p, const json_t *config)
{
    static const char *const known[] = {
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
        "Qwen2Tokenizer",
        "Qwen2TokenizerFast",
    };
    const char *class_name = "GPT2Tokenizer";
    bool add_prefix_space = false, found = false;
    LT_TRY(lt_json_get_string(config, "tokenizer_class", &class_name, p->config, p->err));
    LT_TRY(lt_json_get_bool(config, "add_prefix_space", &add_prefix_space, p->config, p->err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        found = found || strcmp(class_name, known[i]) == 0;
    if (!found) {
        struct lt_json_excerpt shown;
        return lt_fail(p->err, LT_ERR_UNSUPPORTED,
                       "%s: tokenizer_class \"%s\" cannot be built from vocab.json and merges.txt; add the "
                       "tokenizer.json of the model",
                       p->config, lt_json_excerpt(&shown, class_name));
    }
    bool qwen = strncmp(class_name, "Qwen2", 5) == 0;
    LT_TRY(add_pipeline(p, qwen, add_prefix_space));
    return add_default_special(p, qwen);
}

static enum lt_status read_pair(struct pair *p)
{
    if (!p->vocab || !p->merges || !p->config)
        return lt_fail(p->err, LT_ERR_NOMEM, "out of memory");
    LT_TRY(read_vocab(p));
    LT_TRY(read_merges(p));
    p->tok->bpe.unk_id = -1;
    lt_bpe_index(&p->tok->bpe, &p->tok->vocab);
    json_t *config = NULL;
    if (lt_file_kind(p->config) == LT_FILE_REGULAR)
        LT_TRY(lt_json_load(&config, p->config, p->err));
    enum lt_status status = configure(p, config);
    json_decref(config);
    return status;
}

enum lt_status lt_tokenizer_parse_pair(struct lt_tokenizer *tok, const char *dir, struct lt_error *err)
{
    struct pair p = {
        tok,
        lt_path_join(dir, "vocab.json"),
        lt_path_join(dir, "merges.txt"),
        lt_path_join(dir, "tokenizer_config.json"),
        err,
    };
    enum lt_status status = read_pair(&p);
    lt_free(p.vocab);
    lt_free(p.merges);
    lt_free(p.config);
    return status;
}
