/* The Lua library (lua/chowk) as bytecode inside this binary; generated into build/embed.c by the Makefile. */
#pragma once

#include <stddef.h>

struct embed {
    const char *module; /* "chowk.app" */
    const unsigned char *bytes;
    size_t len;
};
extern const struct embed embed_modules[]; /* ends with a NULL module */
