#define _DEFAULT_SOURCE /* P_tmpdir */
#include "tests/support/fixtures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/strbuf.h"

#ifndef LT_SRCDIR
#define LT_SRCDIR "."
#endif

const char *lt_fixture_root(void)
{
    const char *root = getenv("LT_SHARED");
    if (!root || !*root)
        root = LT_SRCDIR "/../shared";
    return lt_file_kind(root) == LT_FILE_DIRECTORY ? root : NULL;
}

/* True when "<folder>/<relative>" fits into buf and exists. */
static bool find_in(char *buf, size_t size, const char *folder, const char *relative)
{
    int n = lt_snprintf(buf, size, "%s/%s", folder, relative);
    return n > 0 && (size_t)n < size && lt_file_kind(buf) != LT_FILE_NONE;
}

bool lt_fixture_path(char *buf, size_t size, const char *relative)
{
    static const char prefix[] = "goldens/";
    const char *golden = strncmp(relative, prefix, sizeof prefix - 1) == 0 ? relative + sizeof prefix - 1
                                                                           : relative;
    if (find_in(buf, size, LT_SRCDIR "/tests/golden/data", golden))
        return true;
    const char *root = lt_fixture_root();
    return root && find_in(buf, size, root, relative);
}

void lt_test_skip_missing(const char *relative)
{
    printf("SKIP: %s not found\n", relative);
    fflush(stdout);
    skip();
}

const char *lt_test_device(void)
{
    const char *device = getenv("LT_TEST_DEVICE");
    return device && *device ? device : "cpu";
}

static char temp_dir[512];
static pid_t temp_dir_owner;

static void remove_temp_dir(void)
{
    struct lt_error err;
    if (getpid() == temp_dir_owner && lt_dir_remove_tree(temp_dir, &err) != LT_OK)
        fprintf(stderr, "%s\n", err.message);
}

bool lt_test_emulated(void)
{
    const char *runner = getenv("LT_TEST_RUNNER");
    return runner != NULL && *runner != '\0';
}

const char *lt_test_temp_dir(void)
{
    if (temp_dir_owner != 0)
        return temp_dir;
    const char *parent = getenv("TMPDIR");
    lt_snprintf(temp_dir, sizeof temp_dir, "%s/lt-test-XXXXXX", parent && *parent ? parent : P_tmpdir);
    if (!mkdtemp(temp_dir)) {
        perror(temp_dir);
        exit(1);
    }
    temp_dir_owner = getpid();
    atexit(remove_temp_dir);
    return temp_dir;
}
