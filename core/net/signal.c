/* Unix signals: one uv_signal_t per watch, which libuv serves through a pipe, so fn runs as an ordinary
 * callback of the loop and may do anything. */
#include "net/signal.h"

#include <stdlib.h>
#include <uv.h>

#include "net/loop_priv.h"

#define SIGNAL_MAGIC 0x5164a100u

struct signal_watch {
    unsigned magic;
    struct loop *loop;
    void (*fn)(void *data, int signum);
    void *data;
    uv_signal_t uv;
};

static void on_uv_signal(uv_signal_t *uv, int signum)
{
    struct signal_watch *watch;
    CAST_OBJ(watch, uv->data, SIGNAL_MAGIC);
    loop_enter(watch->loop);
    watch->fn(watch->data, signum);
}

struct signal_watch *signal_watch_new(struct loop *loop, int signum, void (*fn)(void *data, int signum), void *data)
{
    struct signal_watch *watch = xalloc(sizeof(*watch));
    *watch = (struct signal_watch){.magic = SIGNAL_MAGIC, .loop = loop, .fn = fn, .data = data};
    CHECK(uv_signal_init(loop_uv(loop), &watch->uv) == 0);
    CHECK(uv_signal_start(&watch->uv, on_uv_signal, signum) == 0);
    watch->uv.data = watch;
    loop_count_handle(loop, 1);
    return watch;
}

static void on_closed(uv_handle_t *uv)
{
    free(uv->data);
}

void signal_watch_free(struct signal_watch *watch)
{
    CHECK_OBJ(watch, SIGNAL_MAGIC);
    watch->magic = 0;
    loop_count_handle(watch->loop, -1);
    uv_close((uv_handle_t *)&watch->uv, on_closed);
}
