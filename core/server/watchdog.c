#include "server/watchdog.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "net/timer.h"

enum { TICK_MS = 50, LEND_MS = 200, ASK_MS = 400 /* what asking may take; beyond, it is given up without an answer */ };

struct watch {
    uint32_t pid;
    uint64_t beat_ms;  /* seen last */
    uint32_t still_ms; /* for how long it has not changed, in our own time */
    bool is_late, is_given_up;
};

struct watchdog {
    struct watchdog_opts opts;
    struct timer timer;
    uint64_t ticked_ms;
    struct watch *watches;
};

static void describe(const struct scoreboard_slot *slot, const struct scoreboard_view *view, char *out, size_t size)
{
    bool has_report = atomic_load(&slot->report.stage) == WHERE_WHOLE;
    struct buf frames = {0};
    if (has_report && !slot->report.lua[0])
        frames_text(&slot->report.frames, &frames);
    snprintf(out, size, "it did not return to its loop: %s%s%s, %s%.*s",
             view->running.since_ms ? view->running.route : "outside Lua", view->running.id[0] ? ", request " : "",
             view->running.since_ms ? view->running.id : "",
             !has_report           ? "where is not known"
             : slot->report.lua[0] ? slot->report.lua
                                   : "in C: ",
             SLICE_FMT(buf_as_slice(&frames)));
    buf_free(&frames);
}

/* Asks each tick; the answer is written by the process's own signal handler. */
static void ask_or_give_up(struct watchdog *watchdog, unsigned i, const struct scoreboard_view *view)
{
    struct watch *watch = &watchdog->watches[i];
    struct scoreboard_slot *slot = &watchdog->opts.board->slots[i];
    char why[WHERE_LUA + 256];
    bool is_answered = atomic_load(&slot->report.stage) == WHERE_WHOLE;
    if (!is_answered && watch->still_ms < watchdog->opts.stall_ms + ASK_MS) {
        kill((pid_t)view->pid, WATCHDOG_SIGNAL);
        return;
    }
    watch->is_given_up = true;
    describe(slot, view, why, sizeof(why));
    watchdog->opts.on_stalled(watchdog->opts.data, i, why);
}

static void look(struct watchdog *watchdog, unsigned i, uint32_t passed_ms)
{
    struct watch *watch = &watchdog->watches[i];
    struct scoreboard_view view;
    if (!scoreboard_read(watchdog->opts.board, i, &view) || view.state == SCOREBOARD_STARTING)
        return;
    if (view.pid != watch->pid || view.beat_ms != watch->beat_ms) {
        *watch = (struct watch){.pid = view.pid, .beat_ms = view.beat_ms};
        return;
    }
    watch->still_ms += passed_ms;
    if (watch->still_ms >= LEND_MS && !watch->is_late) {
        watch->is_late = true;
        watchdog->opts.on_late(watchdog->opts.data, i);
    }
    if (watch->still_ms >= watchdog->opts.stall_ms && !watch->is_given_up)
        ask_or_give_up(watchdog, i, &view);
}

static void on_tick(struct timer *timer)
{
    struct watchdog *watchdog = container_of(timer, struct watchdog, timer);
    uint64_t now_ms = clock_ms(), passed_ms = now_ms - watchdog->ticked_ms;
    watchdog->ticked_ms = now_ms;
    if (passed_ms > TICK_MS) /* we were late ourselves */
        passed_ms = TICK_MS;
    for (unsigned i = 0; i < watchdog->opts.n_slots; i++)
        look(watchdog, i, (uint32_t)passed_ms);
    timer_arm(watchdog->opts.loop, timer, loop_now(watchdog->opts.loop) + TICK_MS, on_tick);
}

struct watchdog *watchdog_new(const struct watchdog_opts *opts)
{
    struct watchdog *watchdog = xalloc(sizeof(*watchdog));
    CHECK(opts->n_slots <= opts->board->n_slots);
    watchdog->opts = *opts;
    watchdog->ticked_ms = clock_ms();
    watchdog->watches = xalloc(opts->n_slots * sizeof(struct watch));
    on_tick(&watchdog->timer);
    return watchdog;
}

void watchdog_free(struct watchdog *watchdog)
{
    if (!watchdog)
        return;
    timer_stop(watchdog->opts.loop, &watchdog->timer);
    free(watchdog->watches);
    free(watchdog);
}
