/* Models of tests/golden/data/peft-init/cases.json: tensor lists as transformers has them, with made-up values. */
#ifndef LT_TESTS_SUPPORT_PEFT_MODELS_H
#define LT_TESTS_SUPPORT_PEFT_MODELS_H

#include <jansson.h>

#include "core/train/adapter.h"

/* The recorded cases (skips the running test when they are absent); json_decref. */
json_t *lt_peft_cases(void);
/* The model called `name` in cases; f32 weights and vectors, each element different.  Fails the test when there is
 * none. */
void lt_peft_model_init(struct lt_model *model, const json_t *cases, const char *name);
void lt_peft_model_deinit(struct lt_model *model);

/* A recorded model with an adapter. */
struct lt_peft_setup {
    struct lt_model model;
    struct lt_lora_config config;
    struct lt_params params;
    float *values; /* [params.elements], NaN at first; NULL before lt_peft_setup_values() */
};

/* The configuration in a fixture folder, laid out, with values. */
void lt_peft_setup_init(struct lt_peft_setup *s, const char *model, const char *adapter);
/* Rank 2 and these target_modules, not yet laid out. */
void lt_peft_setup_targets(struct lt_peft_setup *s, const char *model, const char *targets);
void lt_peft_setup_values(struct lt_peft_setup *s);
void lt_peft_setup_deinit(struct lt_peft_setup *s);

/* Fails the test with the error's message. */
void lt_peft_must(enum lt_status status, const struct lt_error *err);
/* The path of a fixture; skips the test when it is absent. */
void lt_peft_fixture(char *path, size_t size, const char *relative);

#endif
