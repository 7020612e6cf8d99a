/* Status codes and located errors.
 *
 * Every function that can fail for a reason outside the program (file, memory,
 * configuration, data) returns enum lt_status and takes an optional,
 * caller-owned struct lt_error.  Programmer mistakes are assert()ed.
 * The library never prints, exits or aborts. */
#ifndef LT_BASE_STATUS_H
#define LT_BASE_STATUS_H

#include <stdarg.h>

enum lt_status {
    LT_OK = 0,
    LT_ERR_NOMEM,       /* an allocation failed */
    LT_ERR_IO,          /* the operating system refused a file operation */
    LT_ERR_FORMAT,      /* a file or row is not what its format demands */
    LT_ERR_INVALID,     /* an option, config value or combination is wrong */
    LT_ERR_UNSUPPORTED, /* valid, but not something this program does */
    LT_ERR_NOT_FOUND,   /* a file, tensor or key is absent */
    LT_ERR_NUMERIC,     /* NaN or Inf where a number is needed */
    LT_ERR_CANCELLED,   /* the caller asked to stop (signal) */
    LT_ERR_DEVICE       /* a compute device failed */
};

enum { LT_ERROR_MESSAGE_MAX = 1024 };

/* One sentence for a person: what, where (file, line, tensor, offset), what to do. */
struct lt_error {
    enum lt_status status;
    char message[LT_ERROR_MESSAGE_MAX];
};

#define LT_MUST_USE __attribute__((warn_unused_result))
#define LT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Fills *err (ignored when NULL; message truncated at a UTF-8 boundary) and returns status. */
enum lt_status lt_fail(struct lt_error *err, enum lt_status status, const char *fmt, ...) LT_PRINTF(3, 4);

/* As lt_fail with ": <strerror(errno_value)>" appended. */
enum lt_status lt_fail_errno(struct lt_error *err, int errno_value, const char *fmt, ...) LT_PRINTF(3, 4);

/* Puts "<formatted prefix>: " in front of the message already in *err; returns its status.
 * For a caller who knows the place (file, row) that the callee did not. */
enum lt_status lt_fail_prefix(struct lt_error *err, enum lt_status status, const char *fmt, ...)
    LT_PRINTF(3, 4);

/* "out of memory", "input/output error", … a fixed lower-case phrase, never NULL. */
const char *lt_status_name(enum lt_status status);

/* Returns the status of expr from the enclosing function unless it is LT_OK. */
#define LT_TRY(expr)                            \
    do {                                        \
        enum lt_status lt_try_status_ = (expr); \
        if (lt_try_status_ != LT_OK)            \
            return lt_try_status_;              \
    } while (0)

#endif
