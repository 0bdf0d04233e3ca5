#include "server/watchdog.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/process_stats.h"

enum {
    WALL_FACTOR = 10, /* however long it waited for a core */
    SHARE_FACTOR = 4  /* a quarter of a core is a good part */
};

struct watch {
    uint32_t pid;
    uint64_t beat_ms;   /* seen last */
    uint32_t still_ms;  /* for how long it has not changed, in our own time */
    uint64_t waited_us; /* when it became late */
    bool is_given_up;
};

struct watchdog {
    struct watchdog_opts opts;
    uint64_t looked_ms;
    struct watch *watches;
};

static uint64_t kernel_waited_us(uint32_t pid)
{
    return process_stats_waited_us((pid_t)pid);
}

/* What an earlier stall left does not answer for this one. */
static bool has_answered(const struct scoreboard_slot *slot, const struct scoreboard_view *view)
{
    return atomic_load(&slot->report.stage) == WHERE_WHOLE && slot->asked_beat_ms == view->beat_ms;
}

static void describe(const struct scoreboard_slot *slot, const struct scoreboard_view *view, char *out, size_t size)
{
    bool has_report = has_answered(slot, view);
    struct buf frames = {0};
    if (has_report && !slot->report.lua[0])
        frames_text(&slot->report.frames, &frames);
    snprintf(out, size, "%s: %s%s%s, %s%.*s",
             view->state == SCOREBOARD_STARTING ? "it was not ready in time (worker.start_timeout)"
                                                : "it did not return to its loop",
             view->running.since_ms ? view->running.route : "outside Lua", view->running.id[0] ? ", request " : "",
             view->running.since_ms ? view->running.id : "",
             !has_report           ? "where is not known"
             : slot->report.lua[0] ? slot->report.lua
                                   : "in C: ",
             SLICE_FMT(buf_as_slice(&frames)));
    buf_free(&frames);
}

/* Of the time it stands still, what it waited for a core does not count, unless it had a good part of one all the same:
 * who shares a busy machine's cores and does not come back is stuck. */
static uint64_t counted_ms(const struct watchdog *watchdog, const struct watch *watch)
{
    uint64_t waited_us = watchdog->opts.waited_us(watch->pid), least_ms = watch->still_ms / WALL_FACTOR;
    uint64_t waited_ms = waited_us > watch->waited_us ? (waited_us - watch->waited_us) / 1000 : 0;
    uint64_t ran_ms = watch->still_ms > waited_ms ? watch->still_ms - waited_ms : 0;
    if (ran_ms >= watch->still_ms / SHARE_FACTOR)
        return watch->still_ms;
    return ran_ms > least_ms ? ran_ms : least_ms;
}

/* Asks each tick; the answer is written by the process's own signal handler. */
static void ask_or_give_up(struct watchdog *watchdog, unsigned i, const struct scoreboard_view *view, uint32_t limit_ms)
{
    struct watch *watch = &watchdog->watches[i];
    struct scoreboard_slot *slot = &watchdog->opts.board->slots[i];
    char why[WHERE_LUA + 256];
    uint64_t passed_ms = counted_ms(watchdog, watch);
    if (passed_ms < limit_ms)
        return;
    if (!has_answered(slot, view) && passed_ms < limit_ms + WATCHDOG_ASK_MS) {
        kill((pid_t)view->pid, WATCHDOG_SIGNAL);
        return;
    }
    watch->is_given_up = true;
    describe(slot, view, why, sizeof(why));
    watchdog->opts.on_stalled(watchdog->opts.data, i, why);
}

static void look_at(struct watchdog *watchdog, unsigned i, uint32_t passed_ms)
{
    struct watch *watch = &watchdog->watches[i];
    struct scoreboard_view view;
    if (!scoreboard_read(watchdog->opts.board, i, &view) || !view.pid) {
        *watch = (struct watch){0};
        return;
    }
    if (view.pid != watch->pid || view.beat_ms != watch->beat_ms) {
        *watch = (struct watch){.pid = view.pid, .beat_ms = view.beat_ms};
        return;
    }
    bool was_late = watch->still_ms >= WATCHDOG_LATE_MS;
    watch->still_ms += passed_ms;
    if (!was_late && watch->still_ms >= WATCHDOG_LATE_MS)
        watch->waited_us = watchdog->opts.waited_us(watch->pid);
    uint32_t limit_ms = view.state == SCOREBOARD_STARTING ? watchdog->opts.start_ms : watchdog->opts.stall_ms;
    if (watch->still_ms >= limit_ms && !watch->is_given_up)
        ask_or_give_up(watchdog, i, &view, limit_ms);
}

void watchdog_look(struct watchdog *watchdog, uint64_t now_ms)
{
    uint64_t passed_ms = now_ms - watchdog->looked_ms;
    watchdog->looked_ms = now_ms;
    if (passed_ms > WATCHDOG_TICK_MS) /* we were late ourselves */
        passed_ms = WATCHDOG_TICK_MS;
    for (unsigned i = 0; i < watchdog->opts.board->n_slots; i++)
        look_at(watchdog, i, (uint32_t)passed_ms);
}

bool watchdog_is_late(const struct watchdog *watchdog, unsigned slot)
{
    return watchdog->watches[slot].still_ms >= WATCHDOG_LATE_MS;
}

struct watchdog *watchdog_new(const struct watchdog_opts *opts, uint64_t now_ms)
{
    struct watchdog *watchdog = xalloc(sizeof(*watchdog));
    watchdog->opts = *opts;
    if (!opts->waited_us)
        watchdog->opts.waited_us = kernel_waited_us;
    watchdog->looked_ms = now_ms;
    watchdog->watches = xalloc(opts->board->n_slots * sizeof(struct watch));
    return watchdog;
}

void watchdog_free(struct watchdog *watchdog)
{
    if (!watchdog)
        return;
    free(watchdog->watches);
    free(watchdog);
}
