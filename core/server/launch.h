/* How this process was started, so that an upgrade can start the same command again: the path by which it was called,
 * not the file that runs now, in the directory where it was called. A link that points to another release by then, or
 * another file under the same name, is the new binary. */
#pragma once

#include "base/err.h"

void launch_remember(int argc, char **argv); /* first thing in main */
/* The binary's path, absolute; ERR: it cannot be run, err says why. Looked up anew in PATH if it was called by name. */
enum status launch_path(char *out, size_t size, struct err *err) MUST_CHECK;
const char *const *launch_argv(void); /* as it was given; borrowed for ever */
const char *launch_dir(void);         /* where; borrowed for ever */
