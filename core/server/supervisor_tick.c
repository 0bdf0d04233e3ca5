/* What must hold at any time, whatever happened before: a stalled process is killed, every listener has somebody who
 * accepts, who is worn out or drains by itself gets a successor, who has settled has no past. See supervisor.c. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/supervisor_priv.h"

enum { RETRY_MS = 1000 /* of a successor that could not start */ };

/* ---- stalls ------------------------------------------------------------------------------------------------------ */

static void on_stalled(void *data, unsigned board_slot, const char *why)
{
    const struct supervisor *supervisor = data;
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        const struct slot *slot = &supervisor->slots[i];
        struct child *const all[] = {slot->child, slot->successor, slot->leaver};
        for (size_t c = 0; c < ARRAY_LEN(all); c++)
            if (all[c] && all[c]->board_slot == board_slot) {
                supervisor->opts.board->n_stalls++;
                child_kill(all[c], why);
            }
    }
}

/* ---- listeners ------------------------------------------------------------------------------------------------- */

static int listener_fd(const struct supervisor_opts *opts, unsigned listener)
{
    return listener < opts->n_workers ? opts->listeners[listener] : opts->extra[listener - opts->n_workers];
}

static bool is_late(const struct slot *slot)
{
    const struct watchdog *watchdog = slot->supervisor->watchdog;
    return watchdog && watchdog_is_late(watchdog, slot->child->board_slot);
}

/* Who drains accepts no more; but in a stop all drain together, and accept while they are lame ducks. */
static bool serves(void *data, unsigned worker)
{
    const struct supervisor *supervisor = data;
    const struct slot *slot = &supervisor->slots[worker];
    return slot->state == SLOT_READY && child_hears(slot->child) && !is_late(slot) &&
           (supervisor->is_stopping || !child_is_draining(slot->child));
}

static enum status adopt(void *data, unsigned worker, unsigned listener)
{
    const struct supervisor *supervisor = data;
    return child_send(supervisor->slots[worker].child, CONTROL_ADOPT, listener,
                      listener_fd(&supervisor->opts, listener));
}

static void release(void *data, unsigned worker, unsigned listener)
{
    const struct supervisor *supervisor = data;
    if (supervisor->slots[worker].child)
        (void)child_send(supervisor->slots[worker].child, CONTROL_RELEASE, listener, -1);
}

/* ---- successors -----------------------------------------------------------------------------------------------------
 */

static bool is_replacing(const struct supervisor *supervisor)
{
    for (unsigned i = 0; i < supervisor->n_slots; i++)
        if (supervisor->slots[i].successor || supervisor->slots[i].leaver)
            return true;
    return false;
}

/* One at a time: each has connections to lose and a heap to warm. */
static bool is_worn(struct slot *slot, uint64_t now_ms)
{
    static const char *const whys[] = {[RECYCLE_OOMS] = "three activities in a minute ran out of memory",
                                       [RECYCLE_BYTES] = "it takes more memory than worker.max_memory"};
    const struct scoreboard_slot *seat = slot->child->seat;
    struct supervisor *supervisor = slot->supervisor;
    if (!seat)
        return false;
    struct recycle_view view = {
        .n_out_of_memory = seat->running.n_out_of_memory, .bytes = seat->rss, .max_bytes = supervisor->opts.max_memory};
    enum recycle_why why = recycle_look(&slot->recycle, &view, now_ms);
    if (why == RECYCLE_NOT || is_replacing(supervisor))
        return false;
    recycle_done(&slot->recycle, now_ms);
    supervisor->opts.board->n_recycled++;
    log_warn("worker is worn out: a successor starts", LOG_I(slot->role, slot->id), LOG_S("why", whys[why]),
             LOG_I("bytes", (int64_t)view.bytes));
    return true;
}

static void start_successor(struct slot *slot)
{
    struct err err = {0};
    slot->successor = slot_spawn(slot, &err);
    slot->successor_after_ms = clock_ms() + RETRY_MS;
    if (!slot->successor)
        log_error("worker cannot be replaced", LOG_I(slot->role, slot->id), LOG_S("error", err.message));
}

/* Ready for so long, a worker starts anew; and if it was the last one, what it died of has passed. */
static void settle(struct slot *slot)
{
    slot->respawn = (struct respawn){0};
    supervisor_count_loops(slot->supervisor);
    if (slot_is_last(slot))
        supervisor_revive(slot->supervisor, "the last worker has settled");
}

static void look_at(struct slot *slot, uint64_t now_ms)
{
    const struct supervisor *supervisor = slot->supervisor;
    if (!supervisor->is_up || supervisor->is_stopping || slot->state != SLOT_READY)
        return;
    if (slot->respawn.n_in_row > 0 && now_ms >= slot->child->ready_ms + RESPAWN_SETTLED_MS)
        settle(slot);
    if (slot->successor || slot->leaver || now_ms < slot->successor_after_ms)
        return;
    if (child_is_draining(slot->child) || is_worn(slot, now_ms))
        start_successor(slot);
}

/* ---- the tick -------------------------------------------------------------------------------------------------- */

static void on_tick(struct timer *timer)
{
    struct supervisor *supervisor = container_of(timer, struct supervisor, tick);
    uint64_t now_ms = clock_ms();
    timer_arm(supervisor->opts.loop, timer, loop_now(supervisor->opts.loop) + WATCHDOG_TICK_MS, on_tick);
    if (supervisor->watchdog)
        watchdog_look(supervisor->watchdog, now_ms);
    adoption_look(supervisor->adoption);
    for (unsigned i = 0; i < supervisor->n_slots; i++)
        look_at(&supervisor->slots[i], now_ms);
}

void supervisor_tick_start(struct supervisor *supervisor)
{
    const struct supervisor_opts *opts = &supervisor->opts;
    supervisor->adoption =
        adoption_new(&(struct adoption_opts){.n_workers = opts->n_workers,
                                             .n_listeners = opts->is_shared ? 0 : opts->n_workers + opts->n_extra,
                                             .serves = serves,
                                             .adopt = adopt,
                                             .release = release,
                                             .data = supervisor});
    if (opts->board)
        supervisor->watchdog = watchdog_new(&(struct watchdog_opts){.board = opts->board,
                                                                    .stall_ms = opts->stall_ms,
                                                                    .start_ms = opts->start_ms,
                                                                    .on_stalled = on_stalled,
                                                                    .data = supervisor},
                                            clock_ms());
    on_tick(&supervisor->tick);
}

void supervisor_tick_stop(struct supervisor *supervisor)
{
    timer_stop(supervisor->opts.loop, &supervisor->tick);
    watchdog_free(supervisor->watchdog);
    adoption_free(supervisor->adoption);
}
