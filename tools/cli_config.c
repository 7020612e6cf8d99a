/* --config FILE: the options of a program as JSON or YAML (read by libyaml; JSON is a subset of what it reads). */
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "core/base/alloc.h"
#include "core/base/file.h"
#include "core/base/strbuf.h"
#include "core/io/json.h"
#include "tools/cli_options.h"

struct config_reader {
    const struct cli_program *program;
    const char *path;
    yaml_parser_t parser;
    bool *from_command_line; /* [option_count] */
    size_t *set_at;          /* [option_count]: the line that names the option, 0: none yet */
};

static enum lt_status next_event(struct config_reader *r, yaml_event_t *event, struct lt_error *err)
{
    if (yaml_parser_parse(&r->parser, event))
        return LT_OK;
    return lt_fail(err, LT_ERR_INVALID, "%s:%zu: %s: correct the file or leave --config out", r->path,
                   r->parser.problem_mark.line + 1, r->parser.problem ? r->parser.problem : "not valid YAML");
}

static enum lt_status set_scalar(struct config_reader *r, struct cli_option *o, const yaml_event_t *e,
                                 struct lt_error *err)
{
    char where[512];
    const char *value = (const char *)e->data.scalar.value;
    if (strlen(value) != e->data.scalar.length)
        return lt_fail(err, LT_ERR_INVALID, "%s:%zu: the value of %s holds a zero byte", r->path,
                       e->start_mark.line + 1, o->name);
    bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (plain && (strcmp(value, "null") == 0 || strcmp(value, "~") == 0 || *value == '\0'))
        return LT_OK; /* as if the key were absent */
    if (r->from_command_line[o - r->program->options])
        return LT_OK;
    lt_snprintf(where, sizeof where, "%s:%zu: %s", r->path, e->start_mark.line + 1, o->name);
    char *kept = lt_strdup(value); /* options point at it until the program ends */
    if (!kept)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while reading %s", r->path);
    enum lt_status status = cli_option_set(o, kept, where, err);
    if (status != LT_OK || (o->type != CLI_STRING && o->type != CLI_CHOICE && o->type != CLI_LIST))
        lt_free(kept);
    return status;
}

/* A sequence sets a list option item by item; a text option gets the items joined by commas. */
static enum lt_status set_sequence(struct config_reader *r, struct cli_option *o, size_t line,
                                   struct lt_error *err)
{
    struct lt_strbuf joined;
    enum lt_status status = LT_OK;
    lt_strbuf_init(&joined);
    for (bool more = true; more && status == LT_OK;) {
        yaml_event_t e;
        status = next_event(r, &e, err);
        if (status != LT_OK)
            break;
        if (e.type == YAML_SEQUENCE_END_EVENT) {
            more = false;
        } else if (e.type != YAML_SCALAR_EVENT) {
            status = lt_fail(err, LT_ERR_INVALID, "%s:%zu: %s takes a flat list", r->path,
                             e.start_mark.line + 1, o->name);
        } else if (o->type == CLI_LIST) {
            status = set_scalar(r, o, &e, err);
        } else {
            lt_strbuf_puts(&joined, joined.len ? "," : "");
            lt_strbuf_puts(&joined, (const char *)e.data.scalar.value);
        }
        yaml_event_delete(&e);
    }
    if (status == LT_OK && o->type == CLI_STRING && !r->from_command_line[o - r->program->options]) {
        char *kept = lt_strbuf_take(&joined);
        *(const char **)o->target = kept;
        o->seen = true;
        if (!kept)
            status = lt_fail(err, LT_ERR_NOMEM, "out of memory while reading %s", r->path);
    } else if (status == LT_OK && o->type != CLI_LIST && o->type != CLI_STRING) {
        status =
            lt_fail(err, LT_ERR_INVALID, "%s:%zu: %s takes one value, not a list", r->path, line, o->name);
    }
    lt_strbuf_deinit(&joined);
    return status;
}

static enum lt_status read_pair(struct config_reader *r, const yaml_event_t *key, struct lt_error *err)
{
    char where[512];
    yaml_event_t value;
    const char *name = (const char *)key->data.scalar.value;
    lt_snprintf(where, sizeof where, "%s:%zu", r->path, key->start_mark.line + 1);
    struct cli_option *o = cli_option_find(r->program, name, strlen(name));
    if (!o)
        return cli_unknown(r->program, where, name, err);
    if (o->target == (void *)r->program->config_path)
        return lt_fail(err, LT_ERR_INVALID, "%s: a configuration file cannot name another one", where);
    size_t *set_at = &r->set_at[o - r->program->options];
    if (*set_at > 0)
        return lt_fail(err, LT_ERR_INVALID,
                       "%s: %s is set a second time (first at line %zu); remove one of them", where, o->name,
                       *set_at);
    *set_at = key->start_mark.line + 1;
    LT_TRY(next_event(r, &value, err));
    enum lt_status status;
    if (value.type == YAML_SCALAR_EVENT)
        status = set_scalar(r, o, &value, err);
    else if (value.type == YAML_SEQUENCE_START_EVENT)
        status = set_sequence(r, o, key->start_mark.line + 1, err);
    else if (value.type == YAML_ALIAS_EVENT)
        status = lt_fail(err, LT_ERR_INVALID,
                         "%s: the value of %s is an alias (*name), which is not read; write it out", where,
                         o->name);
    else
        status = lt_fail(err, LT_ERR_INVALID, "%s: %s takes a value or a list", where, o->name);
    yaml_event_delete(&value);
    return status;
}

static enum lt_status read_document(struct config_reader *r, struct lt_error *err)
{
    bool in_mapping = false;
    for (;;) {
        yaml_event_t e;
        LT_TRY(next_event(r, &e, err));
        enum lt_status status = LT_OK;
        yaml_event_type_t type = e.type;
        if (type == YAML_MAPPING_START_EVENT && !in_mapping)
            in_mapping = true;
        else if (type == YAML_SCALAR_EVENT && in_mapping)
            status = read_pair(r, &e, err);
        else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
                 type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT)
            status = lt_fail(err, LT_ERR_INVALID, "%s:%zu: expected `option: value` pairs", r->path,
                             e.start_mark.line + 1);
        yaml_event_delete(&e);
        if (status != LT_OK || type == YAML_STREAM_END_EVENT)
            return status;
    }
}

/* libyaml reads JSON, but explains mistakes in it as mistakes in YAML. */
static enum lt_status check_json(const char *path, const char *text, size_t size, struct lt_error *err)
{
    size_t n = strlen(path);
    json_t *parsed = NULL;
    if (n < 5 || strcmp(path + n - 5, ".json") != 0)
        return LT_OK;
    enum lt_status status = lt_json_parse(&parsed, text, size, path, err);
    json_decref(parsed);
    return status == LT_OK ? LT_OK : lt_fail_prefix(err, LT_ERR_INVALID, "--config");
}

enum lt_status cli_config_load(const struct cli_program *p, const char *path, struct lt_error *err)
{
    char *text = NULL;
    size_t size = 0;
    struct config_reader r = {.program = p, .path = path};
    enum lt_status status = lt_file_read(path, 16 << 20, &text, &size, err);
    if (status != LT_OK)
        return lt_fail_prefix(err, status, "--config");
    r.from_command_line = lt_alloc_array(p->option_count, sizeof *r.from_command_line);
    r.set_at = lt_alloc_zero(p->option_count, sizeof *r.set_at);
    status = check_json(path, text, size, err);
    if (status == LT_OK && r.from_command_line && r.set_at && yaml_parser_initialize(&r.parser)) {
        for (size_t i = 0; i < p->option_count; i++)
            r.from_command_line[i] = p->options[i].seen;
        yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
        status = read_document(&r, err);
        yaml_parser_delete(&r.parser);
    } else if (status == LT_OK) {
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory while reading %s", path);
    }
    lt_free(r.set_at);
    lt_free(r.from_command_line);
    lt_free(text);
    return status;
}
