/* Test data outside the sources, and a scratch folder. */
#ifndef LT_TESTS_SUPPORT_FIXTURES_H
#define LT_TESTS_SUPPORT_FIXTURES_H

#include <stdbool.h>
#include <stddef.h>

/* The folder of shared fixtures: environment LT_SHARED, else "<source folder>/../shared".
 * NULL when there is none. */
const char *lt_fixture_root(void);

/* Writes the path of a fixture ("goldens/optim/adamw.json", "data/…") into buf; true when it exists.
 * Looked for first in tests/golden/data (without a leading "goldens/"), then in the root. */
bool lt_fixture_path(char *buf, size_t size, const char *relative);

/* Says "SKIP: <relative> not found" and skips the running cmocka test: does not return. */
void lt_test_skip_missing(const char *relative);

/* The tests run in an emulator (LT_TEST_RUNNER): slowly, and with its memory in theirs. */
bool lt_test_emulated(void);
/* The device that tests of whole models run on: environment LT_TEST_DEVICE, else "cpu". */
const char *lt_test_device(void);

/* A fresh folder of this process, removed at exit. */
const char *lt_test_temp_dir(void);

#endif
