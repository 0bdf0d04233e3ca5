#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void base_wrong(const char *file, int line, const char *what)
{
    fprintf(stderr, "chowk: %s:%d: this must hold and does not: %s\n", file, line, what);
    fflush(stderr);
    abort();
}

void *xalloc(size_t size)
{
    void *ptr = calloc(1, size ? size : 1);
    if (!ptr)
        WRONG("out of memory");
    return ptr;
}

void *xrealloc(void *ptr, size_t size)
{
    void *grown = realloc(ptr, size ? size : 1);
    if (!grown)
        WRONG("out of memory");
    return grown;
}

char *xstrndup(const char *text, size_t len)
{
    CHECK(len < SIZE_MAX);
    char *copy = xrealloc(NULL, len + 1);
    if (len > 0)
        memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

void *try_alloc(size_t size)
{
    return malloc(size ? size : 1);
}
