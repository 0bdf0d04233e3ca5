/* The application's files in development: tells, debounced, that a Lua file was saved anywhere below app.root, new
 * directories included, and that conf/chowk.lua was. */
#pragma once

#include "net/loop.h"

struct tree_watch;

struct tree_watch_opts {
    struct loop *loop;
    const char *root;            /* directory of the Lua files; borrowed, as all here */
    void (*on_save)(void *data); /* something a bundle may contain has changed */
    void (*on_conf)(void *data); /* conf/chowk.lua has */
    void *data;
};

/* What cannot be watched is logged, and the rest is. */
struct tree_watch *tree_watch_new(const struct tree_watch_opts *opts);
void tree_watch_free(struct tree_watch *watch); /* NULL is fine */
