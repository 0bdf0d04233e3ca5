/* See dir_watch.h. One uv_fs_event_t each; the struct goes in its close callback. */
#include "net/dir_watch.h"

#include <stdlib.h>
#include <uv.h>

#include "net/loop_priv.h"

#define DIR_WATCH_MAGIC 0xd14a7c01u

struct dir_watch {
    unsigned magic;
    struct loop *loop;
    void (*fn)(void *data, const char *name);
    void *data;
    uv_fs_event_t uv;
};

static void on_event(uv_fs_event_t *uv, const char *name, int events UNUSED, int status)
{
    struct dir_watch *watch = uv->data;
    if (watch->magic != DIR_WATCH_MAGIC || status < 0)
        return;
    loop_enter(watch->loop);
    watch->fn(watch->data, name);
}

static void on_closed(uv_handle_t *uv)
{
    free(uv->data);
}

void dir_watch_free(struct dir_watch *watch)
{
    if (!watch)
        return;
    CHECK_OBJ(watch, DIR_WATCH_MAGIC);
    watch->magic = 0;
    loop_count_handle(watch->loop, -1);
    uv_close((uv_handle_t *)&watch->uv, on_closed);
}

struct dir_watch *dir_watch_new(struct loop *loop, const char *path, void (*fn)(void *data, const char *name),
                                void *data, struct err *err)
{
    struct dir_watch *watch = xalloc(sizeof(*watch));
    *watch = (struct dir_watch){.magic = DIR_WATCH_MAGIC, .loop = loop, .fn = fn, .data = data};
    CHECK(uv_fs_event_init(loop_uv(loop), &watch->uv) == 0);
    watch->uv.data = watch;
    loop_count_handle(loop, 1);
    int rc = uv_fs_event_start(&watch->uv, on_event, path, 0);
    uv_unref((uv_handle_t *)&watch->uv);
    if (rc == 0)
        return watch;
    err_set(err, ERR_SYSTEM, "cannot watch %s: %s", path, uv_strerror(rc));
    dir_watch_free(watch);
    return NULL;
}
