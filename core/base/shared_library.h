/* Libraries opened at run time, so that a program does not need them to start. */
#ifndef LT_BASE_SHARED_LIBRARY_H
#define LT_BASE_SHARED_LIBRARY_H

#include "core/base/status.h"

/* NULL with the system's reason in *err (LT_ERR_NOT_FOUND). */
void *lt_library_open(const char *name, struct lt_error *err) LT_MUST_USE;
void lt_library_close(void *library); /* NULL is accepted */

typedef void (*lt_library_fn)(void);
/* NULL when the library has no such function. */
lt_library_fn lt_library_symbol(void *library, const char *name);

#endif
