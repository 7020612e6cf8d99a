/* The one place where stb_sprintf's implementation is compiled; strbuf.c wraps it. */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Weverything"
#elif defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wfloat-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wcast-align"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/* Misaligned word accesses are undefined behaviour; the aligned ones are fast enough for messages. */
#define STB_SPRINTF_NOUNALIGNED
#include <stb/stb_sprintf.h>

/* Its functions carry STBSP__ASAN because they read strings by words.  They also negate the least
 * integer on the way to its absolute value: right on every machine that wraps, but a sanitizer would
 * stop there. */
#undef STBSP__ASAN
#define STBSP__ASAN __attribute__((no_sanitize("address", "signed-integer-overflow")))

#define STB_SPRINTF_IMPLEMENTATION
#include <stb/stb_sprintf.h>

#if defined(__clang__)
#pragma clang diagnostic pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
