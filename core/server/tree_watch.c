/* See tree_watch.h. One inotify watch per directory, found by walking the tree. Each change walks it again once things
 * are quiet: that finds new directories and forgets removed ones without following single events. BLOCKING for the time
 * of a walk, which development can afford; MAX_DIRS bounds it. */
#include "server/tree_watch.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "net/dir_watch.h"
#include "net/timer.h"
#include "script/bundle.h"

enum {
    MAX_DIRS = 2000,
    MAX_DEPTH = 16,
    QUIET_MS = 60, /* an editor's save is several events */
    LATEST_MS = 500,
};
#define CONF "conf"

struct dir {
    struct tree_watch *tree;
    char *path; /* owned */
    struct dir_watch *watch;
};

struct tree_watch {
    struct tree_watch_opts opts;
    struct dir **dirs; /* owned */
    size_t n_dirs;
    struct dir_watch *conf;
    struct timer timer;
    uint64_t latest_ms; /* of the change that waits to be told; 0: none */
    bool has_warned;
};

static void on_quiet(struct timer *timer);

static void tell_later(struct tree_watch *tree)
{
    uint64_t now_ms = loop_now(tree->opts.loop), due_ms = now_ms + QUIET_MS;
    if (!tree->latest_ms)
        tree->latest_ms = now_ms + LATEST_MS;
    timer_arm(tree->opts.loop, &tree->timer, due_ms < tree->latest_ms ? due_ms : tree->latest_ms, on_quiet);
}

/* A Lua file, or what may be a directory; not an editor's scratch file. */
static bool is_of_interest(const char *name)
{
    if (!name)
        return true;
    size_t len = strlen(name);
    if (name[0] == '.')
        return false;
    return !strchr(name, '.') || (len > 4 && strcmp(name + len - 4, ".lua") == 0);
}

static void on_event(void *data, const char *name)
{
    const struct dir *dir = data;
    if (is_of_interest(name))
        tell_later(dir->tree);
}

static void free_dir(struct dir *dir)
{
    dir_watch_free(dir->watch);
    free(dir->path);
    free(dir);
}

/* ---- the walk ------------------------------------------------------------------------------------------------- */

static void warn(struct tree_watch *tree, const char *why)
{
    if (!tree->has_warned)
        log_warn("not every directory is watched: reload by hand (chowk reload)", LOG_S("why", why));
    tree->has_warned = true;
}

static void see_dir(struct tree_watch *tree, const char *path)
{
    struct err err = {0};
    if (tree->n_dirs == MAX_DIRS) {
        warn(tree, "more than 2000 directories");
        return;
    }
    struct dir *dir = xalloc(sizeof(*dir));
    *dir = (struct dir){.tree = tree, .path = xstrndup(path, strlen(path))};
    dir->watch = dir_watch_new(tree->opts.loop, path, on_event, dir, &err);
    if (!dir->watch) {
        warn(tree, err.message);
        free_dir(dir);
        return;
    }
    tree->dirs = xrealloc(tree->dirs, (tree->n_dirs + 1) * sizeof(tree->dirs[0]));
    tree->dirs[tree->n_dirs++] = dir;
}

static void walk(struct tree_watch *tree, const char *path, int depth)
{
    char below[PATH_MAX];
    struct stat st;
    DIR *handle = opendir(path);
    if (!handle)
        return;
    see_dir(tree, path);
    struct dirent *entry;
    while ((entry = readdir(handle))) {
        if (entry->d_name[0] == '.' || bundle_skips_dir(entry->d_name, depth) || depth == MAX_DEPTH)
            continue;
        if (snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) >= (int)sizeof(below))
            continue;
        if (stat(below, &st) == 0 && S_ISDIR(st.st_mode))
            walk(tree, below, depth + 1);
    }
    closedir(handle);
}

static void forget_dirs(struct tree_watch *tree)
{
    for (size_t i = 0; i < tree->n_dirs; i++)
        free_dir(tree->dirs[i]);
    tree->n_dirs = 0;
}

/* Watches made anew each time: one whose directory was removed and made again would see nothing. What changes while
 * there is none is read by the reload that follows. */
static void look(struct tree_watch *tree)
{
    forget_dirs(tree);
    walk(tree, tree->opts.root, 0);
}

static void on_quiet(struct timer *timer)
{
    struct tree_watch *tree = container_of(timer, struct tree_watch, timer);
    tree->latest_ms = 0;
    look(tree);
    tree->opts.on_save(tree->opts.data);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void on_conf_event(void *data, const char *name)
{
    const struct tree_watch *tree = data;
    if (name && strcmp(name, "chowk.lua") == 0)
        tree->opts.on_conf(tree->opts.data);
}

struct tree_watch *tree_watch_new(const struct tree_watch_opts *opts)
{
    struct tree_watch *tree = xalloc(sizeof(*tree));
    struct err err = {0};
    struct stat st;
    tree->opts = *opts;
    look(tree);
    if (stat(CONF, &st) == 0)
        tree->conf = dir_watch_new(opts->loop, CONF, on_conf_event, tree, &err);
    return tree;
}

void tree_watch_free(struct tree_watch *tree)
{
    if (!tree)
        return;
    timer_stop(tree->opts.loop, &tree->timer);
    forget_dirs(tree);
    free(tree->dirs);
    dir_watch_free(tree->conf);
    free(tree);
}
