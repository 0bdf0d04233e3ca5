/* The run directory: its lock file says which master serves this application, and keeps a second one out. */
#pragma once

#include "base/err.h"

/* Creates `dir` if missing, locks dir/chowk.pid and writes our pid and address into it. Returns the descriptor that
 * holds the lock (CLOEXEC), or -1: err names the master that holds it. */
int run_dir_lock(const char *dir, const char *address, struct err *err) MUST_CHECK;
/* A descriptor inherited from a master that holds the lock: it is this directory's. */
bool run_dir_is_held(const char *dir, int fd);
/* Its file names this process from now on. */
enum status run_dir_write(int fd, const char *address, struct err *err) MUST_CHECK;
/* Empties the file and releases the lock. -1 is fine. */
void run_dir_unlock(int fd);
