/* lora-bench: how fast this machine trains and generates, on models made up in memory. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "tools/bench_modes.h"
#include "tools/cli_term.h"

static const struct {
    const char *name, *help;
    enum lt_status (*run)(int argc, char **argv, struct lt_error *err);
} modes[] = {
    {"train", "training steps: tokens/s, share of the machine's peak, memory against plan, time by op",
     bench_train},
    {"generate", "reading a prompt and generating: tokens/s, share of the memory's speed", bench_generate},
    {"kernels", "matrix products, decoding and attention one by one, beside OpenBLAS", bench_kernels},
    {"support", "what a device runs: ops, kinds of products, forms of weights", bench_support},
};

static void print_help(void)
{
    printf("lora-bench - measures training and generation on models with synthetic weights\n\n"
           "Usage: lora-bench MODE [options]\n\n");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        printf("  %-10s %s\n", modes[i].name, modes[i].help);
    printf("\n  lora-bench MODE --help lists the options of a mode; --help, --version\n");
}

int main(int argc, char **argv)
{
    struct lt_error err = {0};
    cli_settle_threads(argv);
    cli_init("lora-bench");
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("lora-bench %s\n", LT_VERSION);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(argv[1], modes[i].name) == 0)
            return modes[i].run(argc - 1, argv + 1, &err) == LT_OK ? 0 : cli_report("lora-bench", &err);
    if (argc > 1)
        fprintf(stderr, "lora-bench: '%s' is no mode: use train, generate, kernels or support\n", argv[1]);
    else
        fprintf(
            stderr,
            "lora-bench: no mode is given: use train, generate, kernels or support (--help tells more)\n");
    return 2;
}
