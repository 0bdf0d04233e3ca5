/* Runs one Lua file that is not part of the bundle, as an activity of its own: `chowk run`. It sees what the
 * application sees; what it returns, and what it prints, goes to standard output. */
#pragma once

#include "script/vm.h"

/* Called once: message is NULL after success, else the error, with trace (may be NULL); both borrowed for the call. */
typedef void (*run_fn)(void *data, const char *message, const char *trace);

/* BLOCKING while it reads the file. Starts the file's code with args as its `...`; it may end before this returns. */
void run_file(struct vm *vm, const char *path, int argc, char **argv, run_fn done, void *data);
