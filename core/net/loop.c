/* The event loop: owns the uv_loop_t, the clock of the turn, the timer heap, and the lists of deferred
 * calls, turn hooks and memory to reclaim. turn() is the one place that says in which order things happen.
 *
 * Each turn is one uv_run, which is one epoll_wait: it blocks only when nothing is deferred and no timer is
 * due. Our timers stand behind a single uv_timer_t, whose only job is to bound that wait; setting it costs no
 * syscall. What libuv calls goes through loop_enter first, so that loop_now is never the time before the wait.
 *
 * Never here: logic of a protocol, memory of a user (except through loop_reclaim), a second epoll_wait. */
#include "net/loop.h"

#include <stdlib.h>
#include <uv.h>

#include "base/clock.h"
#include "net/loop_priv.h"

#define LOOP_MAGIC 0x100b1e55u
#define WAKEUP_MAGIC 0x3a7e0b01u

/* Deferred calls may defer more. They run in the same turn, which saves an epoll_wait per step, but only so
 * many times: a task that always defers itself must not keep io waiting. */
#define DEFER_ROUNDS 16

#define SPARE_MAX 64
#define SPARE_CAP ((size_t)4096)

struct loop {
    unsigned magic;
    int n_handles; /* made by users and not freed yet */
    bool in_turn, is_stopped, has_clock /* now_ms was read since the poll returned */;
    bool is_uv_timer_set;
    uint64_t uv_timer_due_ms;
    uint64_t now_ms;
    struct list deferred, hooks;
    struct timer_heap timers;
    void **reclaim;
    size_t n_reclaim, cap_reclaim;
    char *read_buffer;
    struct buf spare[SPARE_MAX];
    size_t n_spare;
    uv_timer_t uv_timer;
    uv_loop_t uv;
};

struct loop_wakeup {
    unsigned magic;
    struct loop *loop;
    void (*fn)(void *data);
    void *data;
    uv_async_t uv;
};

struct loop *loop_new(void)
{
    struct loop *loop = xalloc(sizeof(*loop));
    loop->magic = LOOP_MAGIC;
    list_init(&loop->deferred);
    list_init(&loop->hooks);
    CHECK(uv_loop_init(&loop->uv) == 0);
    CHECK(uv_timer_init(&loop->uv, &loop->uv_timer) == 0);
    loop->uv_timer.data = loop;
    loop->read_buffer = xalloc(LOOP_READ_BUFFER);
    return loop;
}

static void run_reclaim(struct loop *loop)
{
    for (size_t i = 0; i < loop->n_reclaim; i++)
        free(loop->reclaim[i]);
    loop->n_reclaim = 0;
}

void loop_free(struct loop *loop)
{
    CHECK_OBJ(loop, LOOP_MAGIC);
    CHECK(!loop->in_turn && loop->n_handles == 0);
    CHECK(list_is_empty(&loop->deferred) && list_is_empty(&loop->hooks));
    timer_heap_destroy(&loop->timers);
    uv_close((uv_handle_t *)&loop->uv_timer, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT); /* close callbacks only: nothing else is left */
    CHECK(uv_loop_close(&loop->uv) == 0);
    run_reclaim(loop);
    free(loop->reclaim);
    free(loop->read_buffer);
    while (loop->n_spare > 0)
        buf_free(&loop->spare[--loop->n_spare]);
    loop->magic = 0;
    free(loop);
}

/* ---- the turn ------------------------------------------------------------------------------------------ */

void loop_enter(struct loop *loop)
{
    if (loop->has_clock)
        return;
    loop->now_ms = clock_ms();
    loop->has_clock = true;
}

/* libuv also runs timers before it polls; uv_stop keeps the poll that follows from blocking. */
static void on_uv_timer(uv_timer_t *uv)
{
    struct loop *loop = uv->data;
    loop->is_uv_timer_set = false;
    uv_stop(&loop->uv);
}

static void clear_uv_timer(struct loop *loop)
{
    if (loop->is_uv_timer_set)
        uv_timer_stop(&loop->uv_timer);
    loop->is_uv_timer_set = false;
}

/* Bounds the wait of this turn by our earliest timer. False if that is due already. */
static bool set_uv_timer(struct loop *loop)
{
    uint64_t due_ms;
    if (!timer_heap_first(&loop->timers, &due_ms)) {
        clear_uv_timer(loop);
        return true;
    }
    uint64_t now_ms = clock_ms();
    if (due_ms <= now_ms)
        return false;
    if (loop->is_uv_timer_set && loop->uv_timer_due_ms == due_ms)
        return true;
    uv_update_time(&loop->uv); /* libuv counts from its cached time, which may be a turn old */
    CHECK(uv_timer_start(&loop->uv_timer, on_uv_timer, due_ms - now_ms, 0) == 0);
    loop->is_uv_timer_set = true;
    loop->uv_timer_due_ms = due_ms;
    return true;
}

static void poll_and_io(struct loop *loop, bool wait)
{
    wait = set_uv_timer(loop) && wait && list_is_empty(&loop->deferred);
    loop->has_clock = false;
    uv_run(&loop->uv, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    loop_enter(loop);
}

/* Moves what is queued to a ring of its own first, so that tasks can queue and cancel any task meanwhile. */
static void run_deferred(struct loop *loop)
{
    for (int round = 0; round < DEFER_ROUNDS && !list_is_empty(&loop->deferred); round++) {
        struct list ring, *node;
        list_insert_before(loop->deferred.next, &ring);
        list_remove(&loop->deferred);
        while ((node = list_pop(&ring))) {
            struct loop_task *task = container_of(node, struct loop_task, node);
            task->fn(task);
        }
    }
}

/* The cursor is a node of the ring itself, so a hook may add and remove any hook, itself included. */
static void run_hooks(struct loop *loop)
{
    struct list cursor = {0};
    list_push_front(&loop->hooks, &cursor);
    while (cursor.next != &loop->hooks) {
        struct list *node = cursor.next;
        list_remove(&cursor);
        list_push_front(node, &cursor);
        struct loop_hook *hook = container_of(node, struct loop_hook, node);
        hook->fn(hook);
    }
    list_remove(&cursor);
}

static void turn(struct loop *loop, bool wait)
{
    CHECK_OBJ(loop, LOOP_MAGIC);
    CHECK(!loop->in_turn); /* a turn inside a callback would break every promise of loop.h */
    loop->in_turn = true;
    poll_and_io(loop, wait);
    timer_heap_fire(&loop->timers, loop);
    run_deferred(loop);
    run_hooks(loop);
    run_reclaim(loop);
    loop->in_turn = false;
}

static bool is_alive(struct loop *loop)
{
    if (loop->timers.len || !list_is_empty(&loop->deferred))
        return true;
    clear_uv_timer(loop); /* libuv would count it */
    return uv_loop_alive(&loop->uv);
}

bool loop_turn(struct loop *loop, bool wait)
{
    turn(loop, wait);
    return is_alive(loop);
}

void loop_run(struct loop *loop)
{
    while (!loop->is_stopped && is_alive(loop))
        turn(loop, true);
    loop->is_stopped = false;
}

void loop_stop(struct loop *loop)
{
    loop->is_stopped = true;
}

uint64_t loop_now(const struct loop *loop)
{
    return loop->in_turn ? loop->now_ms : clock_ms();
}

/* ---- tasks, hooks, memory ------------------------------------------------------------------------------ */

void loop_defer(struct loop *loop, struct loop_task *task, void (*fn)(struct loop_task *task))
{
    CHECK_OBJ(loop, LOOP_MAGIC);
    if (list_is_linked(&task->node)) {
        CHECK(task->fn == fn);
        return;
    }
    task->fn = fn;
    list_push(&loop->deferred, &task->node);
}

void loop_defer_cancel(struct loop_task *task)
{
    list_remove(&task->node);
}

void loop_hook_add(struct loop *loop, struct loop_hook *hook, void (*fn)(struct loop_hook *hook))
{
    CHECK(!list_is_linked(&hook->node));
    hook->fn = fn;
    list_push(&loop->hooks, &hook->node);
}

void loop_hook_remove(struct loop_hook *hook)
{
    list_remove(&hook->node);
}

void loop_reclaim(struct loop *loop, void *memory)
{
    if (loop->n_reclaim == loop->cap_reclaim) {
        loop->cap_reclaim = loop->cap_reclaim ? loop->cap_reclaim * 2 : 64;
        loop->reclaim = xrealloc(loop->reclaim, loop->cap_reclaim * sizeof(loop->reclaim[0]));
    }
    loop->reclaim[loop->n_reclaim++] = memory;
}

/* ---- wake-ups ------------------------------------------------------------------------------------------ */

static void on_wakeup(uv_async_t *uv)
{
    struct loop_wakeup *wakeup;
    CAST_OBJ(wakeup, uv->data, WAKEUP_MAGIC);
    loop_enter(wakeup->loop);
    wakeup->fn(wakeup->data);
}

static void on_wakeup_closed(uv_handle_t *uv)
{
    free(uv->data);
}

struct loop_wakeup *loop_wakeup_new(struct loop *loop, void (*fn)(void *data), void *data)
{
    struct loop_wakeup *wakeup = xalloc(sizeof(*wakeup));
    *wakeup = (struct loop_wakeup){.magic = WAKEUP_MAGIC, .loop = loop, .fn = fn, .data = data};
    CHECK(uv_async_init(&loop->uv, &wakeup->uv, on_wakeup) == 0);
    wakeup->uv.data = wakeup;
    loop_count_handle(loop, 1);
    return wakeup;
}

void loop_wakeup_send(struct loop_wakeup *wakeup)
{
    CHECK_OBJ(wakeup, WAKEUP_MAGIC);
    CHECK(uv_async_send(&wakeup->uv) == 0);
}

void loop_wakeup_free(struct loop_wakeup *wakeup)
{
    CHECK_OBJ(wakeup, WAKEUP_MAGIC);
    wakeup->magic = 0;
    loop_count_handle(wakeup->loop, -1);
    uv_close((uv_handle_t *)&wakeup->uv, on_wakeup_closed);
}

void loop_wakeup_keep(struct loop_wakeup *wakeup, bool keep)
{
    if (keep)
        uv_ref((uv_handle_t *)&wakeup->uv);
    else
        uv_unref((uv_handle_t *)&wakeup->uv);
}

/* ---- for the other files of net/ ----------------------------------------------------------------------- */

struct uv_loop_s *loop_uv(struct loop *loop)
{
    CHECK_OBJ(loop, LOOP_MAGIC);
    return &loop->uv;
}

void loop_count_handle(struct loop *loop, int change)
{
    loop->n_handles += change;
    CHECK(loop->n_handles >= 0);
}

char *loop_read_buffer(struct loop *loop)
{
    return loop->read_buffer;
}

struct buf loop_spare_take(struct loop *loop)
{
    return loop->n_spare > 0 ? loop->spare[--loop->n_spare] : (struct buf){0};
}

void loop_spare_give(struct loop *loop, struct buf *buf)
{
    if (buf->cap == 0 || buf->cap > SPARE_CAP || loop->n_spare == SPARE_MAX) {
        buf_free(buf);
        return;
    }
    buf_clear(buf);
    loop->spare[loop->n_spare++] = *buf;
    *buf = (struct buf){0};
}

struct timer_heap *loop_timers(struct loop *loop)
{
    CHECK_OBJ(loop, LOOP_MAGIC);
    return &loop->timers;
}
