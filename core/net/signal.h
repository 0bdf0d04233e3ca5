/* Unix signals delivered on the loop. */
#pragma once

#include "net/loop.h"

struct signal_watch;
struct signal_watch *signal_watch_new(struct loop *loop, int signum, void (*fn)(void *data, int signum), void *data);
void signal_watch_free(struct signal_watch *watch);
