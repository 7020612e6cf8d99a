/* Post-processors.  For one sequence every one of them only puts fixed ids before and after the text, so
 * that is what they become. */
#include "models/tokenizer_internal.h"

#include <string.h>

#include "core/base/alloc.h"

struct post {
    struct lt_tokenizer *tok;
    const char *where;
    struct lt_error *err;
};

static enum lt_status check_id(const struct post *p, int64_t id)
{
    if (id >= 0 && id < LT_TOKEN_ID_MAX)
        return LT_OK;
    return lt_fail(p->err, LT_ERR_FORMAT, "%s: post_processor: %lld is not a token id", p->where,
                   (long long)id);
}

/* The library runs a second template on the pieces the first one left, as if they were a pair of texts. */
static enum lt_status put_around(const struct post *p, const struct lt_ids *before,
                                 const struct lt_ids *after)
{
    if (before->count + after->count == 0)
        return LT_OK;
    if (p->tok->before.count + p->tok->after.count)
        return lt_fail(p->err, LT_ERR_UNSUPPORTED,
                       "%s: post_processor: two components that add tokens are not supported", p->where);
    bool ok = true;
    for (size_t i = 0; i < before->count && ok; i++)
        ok = lt_ids_push(&p->tok->before, before->data[i]);
    for (size_t i = 0; i < after->count && ok; i++)
        ok = lt_ids_push(&p->tok->after, after->data[i]);
    return ok ? LT_OK : lt_tokenizer_nomem(p->where, p->err);
}

/* The ids of one {"SpecialToken": {"id": name}}. */
static enum lt_status push_special(const struct post *p, const json_t *special_tokens, const json_t *token,
                                   struct lt_ids *ids)
{
    const char *name = NULL;
    LT_TRY(lt_json_get_string(token, "id", &name, p->where, p->err));
    const json_t *list = name ? json_object_get(json_object_get(special_tokens, name), "ids") : NULL;
    if (!json_is_array(list)) {
        struct lt_json_excerpt shown;
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: post_processor: special token \"%s\" has no ids", p->where,
                       lt_json_excerpt(&shown, name ? name : ""));
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        int64_t id = json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
        LT_TRY(check_id(p, id));
        if (!lt_ids_push(ids, (int32_t)id))
            return lt_tokenizer_nomem(p->where, p->err);
    }
    return LT_OK;
}

static enum lt_status read_template(const struct post *p, const json_t *obj, struct lt_ids *before,
                                    struct lt_ids *after)
{
    const json_t *single = json_object_get(obj, "single"),
                 *special_tokens = json_object_get(obj, "special_tokens");
    if (!json_is_array(single))
        return lt_fail(p->err, LT_ERR_FORMAT,
                       "%s: post_processor: TemplateProcessing needs the list \"single\"", p->where);
    size_t sequences = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *sequence = json_object_get(piece, "Sequence"),
                     *token = json_object_get(piece, "SpecialToken");
        if (json_is_object(sequence)) {
            const char *name = "";
            LT_TRY(lt_json_get_string(sequence, "id", &name, p->where, p->err));
            if (strcmp(name, "A") != 0)
                return lt_fail(p->err, LT_ERR_FORMAT,
                               "%s: post_processor: \"single\" may hold sequence A only", p->where);
            sequences++;
        } else if (json_is_object(token)) {
            LT_TRY(push_special(p, special_tokens, token, sequences ? after : before));
        } else {
            return lt_fail(
                p->err, LT_ERR_FORMAT,
                "%s: post_processor: member %llu of \"single\" is neither a Sequence nor a SpecialToken",
                p->where, (unsigned long long)i);
        }
    }
    if (sequences != 1)
        return lt_fail(p->err, LT_ERR_UNSUPPORTED,
                       "%s: post_processor: \"single\" must hold sequence A exactly once", p->where);
    return LT_OK;
}

static enum lt_status parse_template(const struct post *p, const json_t *obj)
{
    struct lt_ids before = {0}, after = {0};
    enum lt_status status = read_template(p, obj, &before, &after);
    if (status == LT_OK)
        status = put_around(p, &before, &after);
    lt_ids_deinit(&before);
    lt_ids_deinit(&after);
    return status;
}

/* ["</s>", 2] */
static enum lt_status get_named_id(const struct post *p, const json_t *obj, const char *key, int32_t *id)
{
    const json_t *v = json_array_get(json_object_get(obj, key), 1);
    if (!json_is_integer(v))
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: post_processor: \"%s\" must be [token, id]", p->where,
                       key);
    LT_TRY(check_id(p, (int64_t)json_integer_value(v)));
    *id = (int32_t)json_integer_value(v);
    return LT_OK;
}

static enum lt_status parse_cls_sep(const struct post *p, const json_t *obj)
{
    int32_t cls, sep;
    LT_TRY(get_named_id(p, obj, "cls", &cls));
    LT_TRY(get_named_id(p, obj, "sep", &sep));
    struct lt_ids before = {&cls, 1, 1}, after = {&sep, 1, 1};
    return put_around(p, &before, &after);
}

static enum lt_status parse(const struct post *p, const json_t *obj)
{
    const char *type = NULL;
    if (!json_is_object(obj))
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: post_processor must be an object, found %s", p->where,
                       lt_json_type_name(obj));
    LT_TRY(lt_json_get_string(obj, "type", &type, p->where, p->err));
    if (!type)
        return lt_fail(p->err, LT_ERR_FORMAT, "%s: post_processor: \"type\" is missing", p->where);
    if (strcmp(type, "ByteLevel") == 0)
        return LT_OK; /* moves offsets, not ids */
    if (strcmp(type, "TemplateProcessing") == 0)
        return parse_template(p, obj);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return parse_cls_sep(p, obj);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *members = json_object_get(obj, "processors");
        if (!json_is_array(members))
            return lt_fail(p->err, LT_ERR_FORMAT,
                           "%s: post_processor: a Sequence needs the list \"processors\"", p->where);
        for (size_t i = 0; i < json_array_size(members); i++)
            LT_TRY(parse(p, json_array_get(members, i)));
        return LT_OK;
    }
    struct lt_json_excerpt shown;
    return lt_fail(p->err, LT_ERR_UNSUPPORTED,
                   "%s: post_processor: a component of type \"%s\" is not supported", p->where,
                   lt_json_excerpt(&shown, type));
}

enum lt_status lt_parse_post_processor(struct lt_tokenizer *tok, const json_t *obj, const char *where,
                                       struct lt_error *err)
{
    struct post p = {tok, where, err};
    return !obj || json_is_null(obj) ? LT_OK : parse(&p, obj);
}
