/* A thread beside the loop. Signals are the loop's, so it blocks them; but for those that its own fault raises: the
 * kernel ends a process at once that blocks one of these, and no handler would tell where (server/last_words.h). It has
 * a signal stack of its own, for its stack may be what ran out. */
#pragma once

#include <pthread.h>

#include "base/base.h"

/* 0, or an errno. `name` has at most 15 bytes. Join it or detach it, as any thread. */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *data), void *data) MUST_CHECK;
