/* Command-line options of all programs: a table of typed targets, aliases, a configuration file.
 *
 * Names may be written with dashes or underscores; a value follows as `--name value` or `--name=value`.
 * Flags take an optional true/false and can be negated as --no-name.  A configuration file (--config, JSON or
 * YAML) sets the same names; the command line overrides it.  Mistakes print one sentence and exit with 2. */
#ifndef LT_TOOLS_CLI_OPTIONS_H
#define LT_TOOLS_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

enum cli_type {
    CLI_FLAG,   /* bool */
    CLI_INT,    /* int64_t, within [min, max] */
    CLI_DOUBLE, /* double, within [min, max] */
    CLI_STRING, /* const char * */
    CLI_CHOICE, /* const char *, one of `choices` (comma-separated) */
    CLI_LIST    /* struct cli_list: repeatable */
};

struct cli_list {
    const char **items;
    size_t count, cap;
};

struct cli_option {
    const char *name;    /* with dashes: "lora-r" */
    const char *aliases; /* comma-separated, or NULL */
    enum cli_type type;
    void *target; /* holds the default */
    const char *help;
    double min, max; /* numbers; both 0: any */
    const char *choices;
    const char *group; /* heading in --help; NULL: as the option before */
    bool seen;         /* set when given on the command line or in the file */
};

struct cli_program {
    const char *name, *summary, *usage; /* usage: "--model DIR --data FILE --output-dir DIR [options]" */
    struct cli_option *options;
    size_t option_count;
    const char **config_path; /* target of --config, or NULL when the program has none */
};

/* Parses; handles --help and --version (exit 0).  On a mistake prints "name: sentence" to stderr, exits 2. */
void cli_parse(const struct cli_program *p, int argc, char **argv);
/* The same without exiting, for tests. */
enum lt_status cli_parse_checked(const struct cli_program *p, int argc, char **argv, bool *help,
                                 struct lt_error *err) LT_MUST_USE;
/* Sets options that the command line did not; the strings live until the program ends. */
enum lt_status cli_config_load(const struct cli_program *p, const char *path, struct lt_error *err)
    LT_MUST_USE;
/* Sets one option from text; `where` starts the error sentence ("--lora-r", "run.yaml:3: lora_r"). */
enum lt_status cli_option_set(struct cli_option *o, const char *value, const char *where,
                              struct lt_error *err) LT_MUST_USE;
struct cli_option *cli_option_find(const struct cli_program *p, const char *name, size_t len);
/* LT_ERR_INVALID: "unknown option --x; did you mean --y?"; `where`: place in a file, NULL: the command line. */
enum lt_status cli_unknown(const struct cli_program *p, const char *where, const char *name,
                           struct lt_error *err);
/* Writes "name=value" of every option, as in force, in `width` columns to stream-free text (lt_free). */
char *cli_options_text(const struct cli_program *p, int width);
bool cli_seen(const struct cli_program *p, const char *name);

#endif
