#include "core/base/shared_library.h"

#include <dlfcn.h>
#include <string.h>

void *lt_library_open(const char *name, struct lt_error *err)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        (void)lt_fail(err, LT_ERR_NOT_FOUND, "cannot open the library %s: %s", name,
                      why ? why : "unknown reason");
    }
    return library;
}

void lt_library_close(void *library)
{
    if (library)
        dlclose(library);
}

lt_library_fn lt_library_symbol(void *library, const char *name)
{
    /* ISO C has no conversion from an object pointer to a function pointer; POSIX gives both one size. */
    void *found = dlsym(library, name);
    lt_library_fn fn;
    memcpy(&fn, &found, sizeof fn);
    return fn;
}
