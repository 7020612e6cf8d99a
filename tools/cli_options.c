#include "tools/cli_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/registry.h"
#include "config.h"
#include "core/base/alloc.h"
#include "core/base/strbuf.h"
#include "tools/cli_term.h"

/* Equal when dashes and underscores count the same; `name` need not be terminated. */
static bool same_name(const char *a, const char *name, size_t len)
{
    size_t i = 0;
    for (; a[i] && a[i] != ',' && i < len; i++) {
        char x = a[i] == '_' ? '-' : a[i], y = name[i] == '_' ? '-' : name[i];
        if (x != y)
            return false;
    }
    return i == len && (a[i] == '\0' || a[i] == ',');
}

struct cli_option *cli_option_find(const struct cli_program *p, const char *name, size_t len)
{
    for (size_t i = 0; i < p->option_count; i++) {
        struct cli_option *o = &p->options[i];
        if (same_name(o->name, name, len))
            return o;
        for (const char *a = o->aliases; a && *a; a = strchr(a, ',') ? strchr(a, ',') + 1 : NULL)
            if (same_name(a, name, len))
                return o;
    }
    return NULL;
}

bool cli_seen(const struct cli_program *p, const char *name)
{
    const struct cli_option *o = cli_option_find(p, name, strlen(name));
    return o && o->seen;
}

/* Of `name` to a[0..n), where dashes and underscores count the same; a long name is far from everything. */
static size_t edit_distance(const char *a, size_t n, const char *name)
{
    enum { MAX = 64 };
    size_t m = strlen(name), row[MAX + 1];
    if (n > MAX || m > MAX)
        return MAX;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != (name[j - 1] == '_' ? '-' : name[j - 1]));
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

/* The option, under its own name or an alias, that `name` may have been meant as; NULL when none is near. */
static const char *nearest_option(const struct cli_program *p, const char *name)
{
    const char *nearest = NULL;
    size_t len = strlen(name), best = len < 3 ? 1 : len < 6 ? len / 3 + 2 : 4; /* a further one is no help */
    for (size_t i = 0; i < p->option_count; i++) {
        const struct cli_option *o = &p->options[i];
        size_t d = edit_distance(o->name, strlen(o->name), name);
        for (const char *a = o->aliases; a && *a; a = strchr(a, ',') ? strchr(a, ',') + 1 : NULL) {
            size_t alias = edit_distance(a, strcspn(a, ","), name);
            d = alias < d ? alias : d;
        }
        if (d < best) {
            best = d;
            nearest = o->name;
        }
    }
    return nearest;
}

enum lt_status cli_unknown(const struct cli_program *p, const char *where, const char *name,
                           struct lt_error *err)
{
    const char *nearest = nearest_option(p, name), *dashes = where ? "" : "--";
    char place[512] = "";
    if (where)
        lt_snprintf(place, sizeof place, "%s: ", where);
    if (nearest)
        return lt_fail(err, LT_ERR_INVALID, "%sunknown option %s%s; did you mean %s%s? (--help lists all)",
                       place, dashes, name, dashes, nearest);
    return lt_fail(err, LT_ERR_INVALID, "%sunknown option %s%s; --help lists all", place, dashes, name);
}

static bool parse_bool(const char *s, bool *out)
{
    static const char *const yes[] = {"true", "True", "TRUE", "1", "yes", "on"};
    static const char *const no[] = {"false", "False", "FALSE", "0", "no", "off"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (strcmp(s, yes[i]) == 0 || strcmp(s, no[i]) == 0) {
            *out = strcmp(s, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static bool in_range(const struct cli_option *o, double v)
{
    return (o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max);
}

static enum lt_status range_error(const struct cli_option *o, const char *value, const char *where,
                                  struct lt_error *err)
{
    if (o->max >= 1e15)
        return lt_fail(err, LT_ERR_INVALID, "%s: %s is out of range: use %g or more", where, value, o->min);
    return lt_fail(err, LT_ERR_INVALID, "%s: %s is out of range: use %g to %g", where, value, o->min, o->max);
}

/* A sign and digits, however many. */
static bool is_integer(const char *s)
{
    s += *s == '-' || *s == '+';
    return *s != '\0' && strspn(s, "0123456789") == strlen(s);
}

static enum lt_status set_choice(const struct cli_option *o, const char *value, const char *where,
                                 struct lt_error *err)
{
    for (const char *c = o->choices; c && *c; c = strchr(c, ',') ? strchr(c, ',') + 1 : NULL)
        if (strlen(value) == strcspn(c, ",") && strncmp(c, value, strlen(value)) == 0) {
            *(const char **)o->target = value;
            return LT_OK;
        }
    return lt_fail(err, LT_ERR_INVALID, "%s: '%s' is not one of %s", where, value, o->choices);
}

static enum lt_status add_to_list(struct cli_list *l, const char *value, struct lt_error *err)
{
    if (!lt_reserve((void **)&l->items, &l->cap, l->count, sizeof *l->items))
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while reading the options");
    l->items[l->count++] = value;
    return LT_OK;
}

enum lt_status cli_option_set(struct cli_option *o, const char *value, const char *where,
                              struct lt_error *err)
{
    long long i;
    double d;
    o->seen = true;
    switch (o->type) {
    case CLI_FLAG:
        if (!parse_bool(value, o->target))
            return lt_fail(err, LT_ERR_INVALID, "%s: '%s' is neither true nor false", where, value);
        return LT_OK;
    case CLI_INT:
        if (!lt_parse_i64(value, &i) && is_integer(value))
            return range_error(o, value, where, err);
        if (!lt_parse_i64(value, &i))
            return lt_fail(err, LT_ERR_INVALID, "%s: '%s' is not a whole number", where, value);
        if (!in_range(o, (double)i))
            return range_error(o, value, where, err);
        *(int64_t *)o->target = i;
        return LT_OK;
    case CLI_DOUBLE:
        if (!lt_parse_double(value, &d))
            return lt_fail(err, LT_ERR_INVALID, "%s: '%s' is not a number", where, value);
        if (!in_range(o, d))
            return range_error(o, value, where, err);
        *(double *)o->target = d;
        return LT_OK;
    case CLI_STRING:
        *(const char **)o->target = value;
        return LT_OK;
    case CLI_CHOICE:
        return set_choice(o, value, where, err);
    case CLI_LIST:
        break;
    }
    return add_to_list(o->target, value, err);
}

/* Whether the word is an option of the program: then it is not the value of the one before. */
static bool is_option(const struct cli_program *p, const char *word)
{
    return strncmp(word, "--", 2) == 0 && cli_option_find(p, word + 2, strcspn(word + 2, "=")) != NULL;
}

/* A flag's value is optional, so the next word is only taken when it is a truth value; a choice that begins
 * with true may stand alone as well. */
static enum lt_status take_value(const struct cli_program *p, struct cli_option *o, int argc, char **argv,
                                 int *i, const char *inline_value, const char *where, struct lt_error *err)
{
    bool ignored;
    if (inline_value)
        return cli_option_set(o, inline_value, where, err);
    if (o->type == CLI_FLAG) {
        if (*i + 1 < argc && parse_bool(argv[*i + 1], &ignored))
            return cli_option_set(o, argv[++*i], where, err);
        return cli_option_set(o, "true", where, err);
    }
    bool switch_like = o->type == CLI_CHOICE && strncmp(o->choices, "true,", 5) == 0;
    if (switch_like && (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0))
        return cli_option_set(o, "true", where, err);
    if (*i + 1 >= argc)
        return lt_fail(err, LT_ERR_INVALID, "%s needs a value", where);
    if (is_option(p, argv[*i + 1]))
        return lt_fail(err, LT_ERR_INVALID,
                       "%s needs a value, but %s follows; write %s=%s if that is the value", where,
                       argv[*i + 1], where, argv[*i + 1]);
    return cli_option_set(o, argv[++*i], where, err);
}

static enum lt_status parse_word(const struct cli_program *p, int argc, char **argv, int *i,
                                 struct lt_error *err)
{
    char where[128];
    const char *word = argv[*i];
    if (strncmp(word, "--", 2) != 0 || word[2] == '\0')
        return lt_fail(err, LT_ERR_INVALID,
                       "unexpected argument '%s': options begin with --, --help lists them", word);
    const char *name = word + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    lt_snprintf(where, sizeof where, "--%.*s", (int)(len < 100 ? len : 100), name);
    struct cli_option *o = cli_option_find(p, name, len);
    if (o)
        return take_value(p, o, argc, argv, i, equals ? equals + 1 : NULL, where, err);
    if (len > 3 && (strncmp(name, "no-", 3) == 0 || strncmp(name, "no_", 3) == 0) && !equals) {
        o = cli_option_find(p, name + 3, len - 3);
        if (o && o->type == CLI_FLAG)
            return cli_option_set(o, "false", where, err);
    }
    char text[101];
    lt_snprintf(text, sizeof text, "%.*s", (int)(len < 100 ? len : 100), name);
    return cli_unknown(p, NULL, text, err);
}

enum lt_status cli_parse_checked(const struct cli_program *p, int argc, char **argv, bool *help,
                                 struct lt_error *err)
{
    *help = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *help = true;
            return LT_OK;
        }
        LT_TRY(parse_word(p, argc, argv, &i, err));
    }
    if (p->config_path && *p->config_path)
        return cli_config_load(p, *p->config_path, err);
    return LT_OK;
}

static void put_default(struct lt_strbuf *sb, const struct cli_option *o)
{
    switch (o->type) {
    case CLI_FLAG:
        lt_strbuf_puts(sb, *(const bool *)o->target ? "true" : "false");
        break;
    case CLI_INT:
        lt_strbuf_printf(sb, "%lld", (long long)*(const int64_t *)o->target);
        break;
    case CLI_DOUBLE:
        lt_strbuf_put_double(sb, *(const double *)o->target);
        break;
    case CLI_STRING:
    case CLI_CHOICE:
        lt_strbuf_puts(sb, *(const char *const *)o->target ? *(const char *const *)o->target : "-");
        break;
    case CLI_LIST:
        if (((const struct cli_list *)o->target)->count == 0)
            lt_strbuf_puts(sb, "-");
        for (size_t i = 0; i < ((const struct cli_list *)o->target)->count; i++)
            lt_strbuf_printf(sb, "%s%s", i ? "," : "", ((const struct cli_list *)o->target)->items[i]);
        break;
    }
}

static void print_help(const struct cli_program *p)
{
    static const char *const metavar[] = {"[true|false]", "N", "X", "TEXT", "", "TEXT"};
    printf("%s - %s\n\nUsage: %s %s\n", p->name, p->summary, p->name, p->usage);
    for (size_t i = 0; i < p->option_count; i++) {
        const struct cli_option *o = &p->options[i];
        struct lt_strbuf value;
        lt_strbuf_init(&value);
        put_default(&value, o);
        if (o->group)
            printf("\n%s:\n", o->group);
        printf("  --%s %s\n      %s", o->name, o->type == CLI_CHOICE ? o->choices : metavar[o->type],
               o->help);
        if (lt_strbuf_str(&value) && strcmp(lt_strbuf_str(&value), "-") != 0)
            printf(" (default %s)", lt_strbuf_str(&value));
        if (o->aliases)
            printf("; also --%s", o->aliases);
        printf("\n");
        lt_strbuf_deinit(&value);
    }
    printf("\n  --help, --version%s\n",
           cli_option_find(p, "device", strlen("device")) ? ", --list-devices" : "");
}

static void list_devices(void)
{
    struct lt_strbuf text;
    lt_strbuf_init(&text);
    lt_backend_list(&text);
    fputs(lt_strbuf_ok(&text) ? lt_strbuf_str(&text) : "out of memory\n", stdout);
    lt_strbuf_deinit(&text);
}

void cli_parse(const struct cli_program *p, int argc, char **argv)
{
    struct lt_error err;
    bool help;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("%s %s\n", p->name, LT_VERSION);
        exit(0);
    }
    if (argc == 2 && strcmp(argv[1], "--list-devices") == 0 &&
        cli_option_find(p, "device", strlen("device"))) {
        list_devices();
        exit(0);
    }
    if (cli_parse_checked(p, argc, argv, &help, &err) != LT_OK) {
        cli_report(p->name, &err);
        exit(2);
    }
    if (help) {
        print_help(p);
        exit(0);
    }
}

char *cli_options_text(const struct cli_program *p, int width)
{
    struct lt_strbuf sb, item;
    int column = 0;
    lt_strbuf_init(&sb);
    lt_strbuf_init(&item);
    for (size_t i = 0; i < p->option_count; i++) {
        lt_strbuf_clear(&item);
        lt_strbuf_printf(&item, "%s=", p->options[i].name);
        put_default(&item, &p->options[i]);
        if (column > 0 && column + (int)item.len + 2 > width) {
            lt_strbuf_puts(&sb, "\n");
            column = 0;
        }
        lt_strbuf_puts(&sb, "  ");
        if (lt_strbuf_str(&item))
            lt_strbuf_puts(&sb, lt_strbuf_str(&item));
        column += (int)item.len + 2;
    }
    lt_strbuf_deinit(&item);
    return lt_strbuf_take(&sb);
}
