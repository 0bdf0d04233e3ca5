/* What changes in one directory: entries made, written, renamed, removed (inotify). Not below it. */
#pragma once

#include "base/err.h"
#include "net/loop.h"

struct dir_watch;

/* fn gets the entry's name, borrowed, or NULL when the system does not say. Several events may tell of one change.
 * NULL and err: it cannot be watched (gone, or out of inotify watches). Does not keep the loop alive. */
struct dir_watch *dir_watch_new(struct loop *loop, const char *path, void (*fn)(void *data, const char *name),
                                void *data, struct err *err);
void dir_watch_free(struct dir_watch *watch); /* may be called from fn */
